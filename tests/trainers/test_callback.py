"""The callback in TRL's and transformers' trainers: what it writes, what it sees, what it refuses."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from spvmia_plugin import MembershipManifest
from spvmia_plugin.config import AuditConfig, affordable
from spvmia_plugin.data.manifest import MANIFEST_NAME, read_manifest
from spvmia_plugin.data.weights import check_weights
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.trainers.callback import _insist
from spvmia_plugin.trainers.seen import Sighting

from .conftest import arguments, chats, pairs, preferences, texts, written

# What trainers and peft still call transformers by, and what they say of CPUs and of packing without kernels.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


def test_a_manifest_lies_in_every_checkpoint_and_at_the_end(sft, split, chat_base, tmp_path, capsys):
    rows = chats(90)
    members, nonmembers = split(rows)
    trainer = sft(rows[:30], [MembershipManifest(members, nonmembers)], num_train_epochs=2)
    places = [*sorted((tmp_path / "out").glob("checkpoint-*")), tmp_path / "out"]
    assert len(places) == 3
    for place in places:
        path = place / MANIFEST_NAME
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        text = path.read_text()
        assert not any(turn["content"] in text for row in rows for turn in row["messages"][1:])
        assert text.splitlines()[1].strip().startswith('"PRIVATE"')
    told = json.loads((tmp_path / "out" / MANIFEST_NAME).read_text())
    assert told["format"] == 5
    assert told["base_model"] == str(chat_base)
    assert (told["method"], told["settings"]["lora_rank"], told["settings"]["epochs"]) == ("lora", 4, 2)
    assert told["settings"]["batch_size"] == 8
    assert told["settings"]["lr"] == 5e-3
    assert told["data"] | {"template": None} == {
        "spec": members,
        "column": "text",
        "block_size": 0,
        "split": "declared",
        "seed": 42,
        "format": "messages",
        "loss_on": "all",
        "record_tokens": 96,
        "template": None,
    }
    assert told["trainer"]["data"] == "matched"
    assert told["trainer"]["class"] == "SFTConfig"
    assert told["versions"]["transformers"]
    assert [len(told[name]) for name in ("members", "nonmembers", "prompts", "canaries")] == [30, 45, 15, 0]
    assert told["training"]["steps"] == trainer.state.global_step
    assert told["training"]["losses"]
    first = json.loads((places[0] / MANIFEST_NAME).read_text())
    assert first["training"]["steps"] == trainer.state.global_step // 2
    assert (first["fingerprint"], first["members"]) == (told["fingerprint"], told["members"])
    err = capsys.readouterr().err
    assert "30 members, 45 nonmembers, 15 prompts (messages, loss on all); the trainer's data: matched" in err
    assert f"pretrained={chat_base},peft={tmp_path / 'out'}" in err


@pytest.mark.parametrize(
    ("make", "changes", "expected"),
    [
        (chats, {"assistant_only_loss": True}, ("messages", "completion", False)),
        (chats, {"packing": True, "packing_strategy": "bfd"}, ("messages", "all", False)),
        (chats, {"packing": True, "packing_strategy": "wrapped"}, ("messages", "all", False)),
        (pairs, {}, ("prompt_completion", "completion", False)),
        (pairs, {"completion_only_loss": False}, ("prompt_completion", "all", False)),
        (texts, {}, ("text", "all", True)),
        (texts, {"packing": True, "packing_strategy": "wrapped"}, ("text", "all", True)),
        (texts, {"max_length": 24}, ("text", "all", True)),
        (chats, {"max_length": 24}, ("messages", "all", False)),
    ],
)
def test_what_is_read_from_the_trainer(sft, split, tmp_path, make, changes, expected):
    rows = make(90)
    callback = MembershipManifest(*split(rows), strict=True)
    sft(rows[:30], [callback], **changes)
    manifest = read_manifest(tmp_path / "out")
    assert manifest.trainer["data"] == "matched"
    assert (manifest.data.format, manifest.data.loss_on, manifest.data.end_token) == expected
    assert manifest.data.record_tokens == changes.get("max_length", 96)
    packing = changes.get("packing_strategy")
    assert manifest.trainer["packing"] == packing
    assert [note for note in manifest.trainer["notes"] if "packed" in note] != [] if packing else True
    if not packing:
        assert manifest.trainer["notes"] == []


def test_rows_that_were_not_reached_are_said(sft, split, tmp_path, capsys):
    rows = texts(90)
    sft(rows[:30], [MembershipManifest(*split(rows), strict=True)], max_steps=2, save_steps=1, save_strategy="steps")
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.trainer["data"], manifest.membership) == ("matched", "declared")
    assert (manifest.training["rows"], manifest.training["rows_read"], manifest.epochs) == (30, 16, 0.5)
    assert read_manifest(tmp_path / "out" / "checkpoint-1").partly_read.read == 8
    err = capsys.readouterr().err
    assert "warning: this training is to read about 16 of its 30 rows" in err
    assert "warning: the training read about 16 of its 30 rows: members among the others are none" in err


def test_other_data_than_declared_are_named_by_row(sft, split, tmp_path, capsys):
    rows = chats(90)
    members, nonmembers = split(rows)
    sft([*rows[:10], *chats(22, seed=9)], [MembershipManifest(members, nonmembers)])
    found = read_manifest(tmp_path / "out")
    assert found.trainer["data"] == (
        "differs: members members.jsonl:11, members.jsonl:12, members.jsonl:13, members.jsonl:14, members.jsonl:15 and "
        "15 more of 30 looked for are not among the trainer's rows"
    )
    assert found.membership == "declared"
    assert "warning: the trainer's data are not the declared ones" in capsys.readouterr().err
    with pytest.raises(SpvmiaError, match=r"^members=: members members.jsonl:11"):
        sft([*rows[:10], *chats(22, seed=9)], [MembershipManifest(members, nonmembers, strict=True)], folder="strict")
    assert not (tmp_path / "strict" / MANIFEST_NAME).exists()


def test_fewer_rows_than_members_are_seen_whoever_is_missing(sft, split, tmp_path):
    rows = texts(200)
    members, nonmembers = split(rows, members=150)
    sft([*rows[:77], *rows[78:150]], [MembershipManifest(members, nonmembers)])
    data = read_manifest(tmp_path / "out").trainer["data"]
    assert data == "differs: members members.jsonl:78 of 150 looked for are not among the trainer's rows"


def test_nonmembers_that_are_trained_on_are_seen(sft, split, tmp_path):
    rows = chats(90)
    members, nonmembers = split(rows)
    sft(rows[:60], [MembershipManifest(members, nonmembers)])
    data = read_manifest(tmp_path / "out").trainer["data"]
    assert data.startswith("differs: non-members nonmembers.jsonl:")
    assert data.endswith("are among the trainer's rows")


def test_a_part_of_the_rows_may_be_declared(sft, split, tmp_path):
    rows = chats(90)
    members, nonmembers = split(rows)
    sft([*chats(10, seed=8), *rows[:30]], [MembershipManifest(members, nonmembers, strict=True)])
    assert "10 rows beside the declared members" in " ".join(read_manifest(tmp_path / "out").trainer["notes"])


def test_a_formatting_function_is_another_rendering(sft, split, tmp_path):
    rows = texts(90)
    members, nonmembers = split(rows)
    sft([{"text": f"### {row['text']}"} for row in rows[:30]], [MembershipManifest(members, nonmembers)])
    data = read_manifest(tmp_path / "out").trainer["data"]
    assert data.startswith("differs: none of 30 members looked for is among the trainer's 30 rows")


def test_the_training_is_the_same_with_and_without(sft, split, tmp_path):
    import torch
    from safetensors.torch import load_file

    rows = chats(90)
    sft(rows[:30], [MembershipManifest(*split(rows))], folder="with")
    sft(rows[:30], [], folder="without")
    one, other = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("with", "without"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_stream_as_training_data_is_said(sft, split, tmp_path):
    from datasets import IterableDataset

    rows = chats(90)
    stream = IterableDataset.from_generator(lambda: iter(rows[:30]))
    sft(stream, [MembershipManifest(*split(rows), strict=True)], max_steps=3)
    found = read_manifest(tmp_path / "out")
    assert found.trainer["data"].startswith("not checked: the trainer's data are a stream")
    assert found.membership == "declared"
    assert found.data.loss_on == "all"


def test_strict_stops_where_nothing_could_be_looked_for(chat_base, split, tmp_path, capsys):
    from transformers import AutoTokenizer

    tok, rows = AutoTokenizer.from_pretrained(chat_base), texts(90)
    items = [dict(tok(row["text"])) for row in rows[:30]]
    with pytest.raises(
        SpvmiaError, match=r"^members=: expected data that can be held against .*, got the trainer has no"
    ):
        plain(chat_base, tmp_path / "out", items, MembershipManifest(*split(rows), strict=True), tokenizer=False)
    _insist(Sighting("not checked: a stream", unreadable=True), first=False)
    assert "strict" not in capsys.readouterr().err
    _insist(Sighting("not checked: a stream", unreadable=True), first=True)
    assert "warning: strict: the trainer's data cannot be read before" in capsys.readouterr().err


def test_two_callbacks_are_refused(sft, split):
    rows = chats(90)
    one, other = MembershipManifest(*split(rows)), MembershipManifest(*split(rows))
    with pytest.raises(SpvmiaError, match=r"^callbacks: expected one MembershipManifest, got two"):
        sft(rows[:30], [one, other])
    trainer = sft(rows[:30], [one], train=False)
    trainer.add_callback(other)
    with pytest.raises(SpvmiaError, match="got two"):
        trainer.train()


def test_another_process_than_the_first_writes_nothing(sft, split, tmp_path, capsys):
    rows = chats(90)
    trainer = sft(rows[:30], [MembershipManifest(*split(rows))], train=False)
    trainer.state.is_world_process_zero = False
    from transformers import TrainerCallback

    class Other(TrainerCallback):
        def on_train_begin(self, args, state, control, **_):
            state.is_world_process_zero = False

    trainer.callback_handler.callbacks.insert(0, Other())
    capsys.readouterr()
    trainer.train()
    assert list((tmp_path / "out").rglob(MANIFEST_NAME)) == []
    assert "spvmia" not in capsys.readouterr().err


def test_a_folder_that_is_full_ends_no_training(sft, split, tmp_path, monkeypatch, capsys):
    from spvmia_plugin.trainers import callback

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(callback, "write_manifest", full)
    rows = chats(90)
    sft(rows[:30], [MembershipManifest(*split(rows))])
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
    assert "could not be written (OSError: [Errno 28] No space left on device)" in capsys.readouterr().err


def test_an_adapter_with_a_name_has_its_manifest_beside_it(chat_base, split, tmp_path, capsys):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(chat_base)
    named = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"), adapter_name="mine")
    tok, rows = AutoTokenizer.from_pretrained(chat_base), texts(90)
    callback = MembershipManifest(*split(rows), strict=True)
    trainer = plain(chat_base, tmp_path / "out", [dict(tok(row["text"])) for row in rows[:30]], callback, model=named)
    assert f"peft={tmp_path / 'out' / 'mine'},dtype" in capsys.readouterr().err
    trainer.save_model(str(tmp_path / "elsewhere"))
    assert callback.write(tmp_path / "elsewhere").parent == tmp_path / "elsewhere" / "mine"
    places = sorted(path.parent for path in tmp_path.rglob(MANIFEST_NAME))
    assert [place.relative_to(tmp_path).as_posix() for place in places] == [
        *("elsewhere/mine", "out/checkpoint-4/mine", "out/mine")
    ]
    for place in places:
        assert check_weights(read_manifest(place).weights, place, place) == "matched"


def test_another_folder_is_written_by_hand(sft, split, tmp_path):
    rows = chats(90)
    callback = MembershipManifest(*split(rows))
    with pytest.raises(SpvmiaError, match=r"^write: expected a training before it"):
        callback.write(tmp_path)
    trainer = sft(rows[:30], [callback])
    trainer.save_model(str(tmp_path / "elsewhere"))
    path = callback.write(tmp_path / "elsewhere")
    assert path == tmp_path / "elsewhere" / MANIFEST_NAME
    one, other = read_manifest(path), read_manifest(tmp_path / "out")
    assert one.fingerprint == other.fingerprint
    for manifest in (one, other):
        assert check_weights(manifest.weights, tmp_path / "elsewhere", path) == "matched"
        assert check_weights(manifest.weights, tmp_path / "out", path) == "matched"
    with pytest.raises(SpvmiaError, match=r"^write: expected a folder with saved weights"):
        callback.write(tmp_path / "nowhere")


class Hub:
    """What a trainer would upload."""

    def __init__(self, monkeypatch):
        import huggingface_hub
        from transformers import Trainer

        self.uploaded: list[set[str]] = []
        monkeypatch.setattr(Trainer, "init_hf_repo", lambda trainer, **_: setattr(trainer, "hub_model_id", "me/x"))

        def upload(folder_path, ignore_patterns=None, **_):
            from huggingface_hub.utils import filter_repo_objects

            names = [str(path.relative_to(folder_path)) for path in Path(folder_path).rglob("*") if path.is_file()]
            self.uploaded.append(set(filter_repo_objects(names, ignore_patterns=ignore_patterns)))
            return

        class Api:
            upload_folder = staticmethod(upload)

        import transformers.trainer

        if hasattr(transformers.trainer, "hf_api"):
            monkeypatch.setattr(transformers.trainer, "hf_api", Api)
        else:
            monkeypatch.setattr(transformers.trainer, "upload_folder", upload)
        monkeypatch.setattr(huggingface_hub, "upload_folder", upload)


def test_what_is_uploaded_has_no_manifest(sft, split, tmp_path, monkeypatch, capsys):
    hub = Hub(monkeypatch)
    rows = chats(90)
    callback = MembershipManifest(*split(rows))
    trainer = sft(rows[:30], [callback], train=False, push_to_hub=True, hub_strategy="end")
    monkeypatch.setattr(trainer, "create_model_card", lambda **_: None)
    trainer.train()
    trainer.push_to_hub()
    assert "adapter_model.safetensors" in hub.uploaded[0]
    assert not any(MANIFEST_NAME in name for names in hub.uploaded for name in names)
    assert list((tmp_path / "out").rglob(MANIFEST_NAME)) == []
    kept = list((tmp_path / "data" / "spvmia" / "manifests").iterdir())
    assert len(kept) == 1
    assert stat.S_IMODE(kept[0].stat().st_mode) == 0o600
    assert read_manifest(kept[0]).trainer["data"] == "matched"
    err = capsys.readouterr().err
    assert f"it is kept out, in {kept[0]}" in err
    assert f"--metadata mia_preset=quick,mia_self_prompts=30,mia_manifest={kept[0]}" in err


def test_a_push_that_nobody_announced_finds_no_manifest(sft, split, tmp_path, monkeypatch, capsys):
    hub = Hub(monkeypatch)
    rows = chats(90)
    trainer = sft(rows[:30], [MembershipManifest(*split(rows))])
    assert (tmp_path / "out" / MANIFEST_NAME).exists()
    monkeypatch.setattr(trainer, "create_model_card", lambda **_: None)
    trainer.push_to_hub()
    assert "adapter_model.safetensors" in hub.uploaded[0]
    assert MANIFEST_NAME not in hub.uploaded[0]
    kept = list((tmp_path / "data" / "spvmia" / "manifests").iterdir())
    assert stat.S_IMODE(kept[0].stat().st_mode) == 0o600
    assert f"it is now {kept[0]}" in capsys.readouterr().err


def test_who_allows_it_has_the_manifest_beside_the_weights(sft, split, tmp_path, monkeypatch):
    hub = Hub(monkeypatch)
    rows = chats(90)
    trainer = sft(
        rows[:30], [MembershipManifest(*split(rows), allow_hub=True)], train=False, push_to_hub=True, hub_strategy="end"
    )
    monkeypatch.setattr(trainer, "create_model_card", lambda **_: None)
    trainer.train()
    trainer.push_to_hub()
    assert MANIFEST_NAME in hub.uploaded[0]


def plain(chat_base, folder, items, callback, *, tokenizer=True, collator=None, model=None, **changes):
    """transformers' own trainer on rows that somebody tokenised, all weights."""
    from datasets import Dataset
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainingArguments,
    )

    tok = AutoTokenizer.from_pretrained(chat_base)
    trainer = Trainer(
        model=AutoModelForCausalLM.from_pretrained(chat_base) if model is None else model,
        args=TrainingArguments(**arguments(folder, **changes)),
        train_dataset=Dataset.from_list(items) if isinstance(items, list) else items,
        data_collator=collator or DataCollatorForLanguageModeling(tok, mlm=False),
        processing_class=tok if tokenizer else None,
        callbacks=[callback],
    )
    trainer.train()
    trainer.save_model()
    return trainer


@pytest.mark.parametrize(("dtype", "named"), [("float32", ",dtype=float32"), ("bfloat16", "")])
def test_the_command_audits_in_float32_what_a_cpu_trained_so(sft, split, chat_base, tmp_path, capsys, dtype, named):
    rows = chats(90)
    sft(rows[:30], [MembershipManifest(*split(rows))], model_init_kwargs={"dtype": dtype})
    assert f"pretrained={chat_base},peft={tmp_path / 'out'}{named} --tasks mia_custom " in capsys.readouterr().err


def test_a_plain_trainer_on_texts(chat_base, split, tmp_path):
    from transformers import AutoTokenizer

    tok = AutoTokenizer.from_pretrained(chat_base)
    rows = texts(90)
    items = [dict(tok(row["text"], truncation=True, max_length=20)) for row in rows[:30]]
    plain(chat_base, tmp_path / "out", items, MembershipManifest(*split(rows), strict=True))
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.method, manifest.base_model) == ("full", str(chat_base))
    assert (manifest.data.format, manifest.data.end_token, manifest.data.loss_on) == ("text", False, None)
    long = [
        r for r, row in zip(manifest.records["members"], rows, strict=False) if len(tok(row["text"]).input_ids) > 20
    ]
    assert long
    for record in long:
        (row, start, end) = record.pieces[0]
        text = rows[row - 1]["text"]
        assert start == 0
        assert tok(text[:end]).input_ids == tok(text).input_ids[:20]


def test_a_training_that_left_layers_frozen_is_not_its_base(chat_base, split, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tok = AutoModelForCausalLM.from_pretrained(chat_base), AutoTokenizer.from_pretrained(chat_base)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith("model.layers.1.mlp")
    rows, callback = texts(90), MembershipManifest(*split(texts(90)))
    plain(chat_base, tmp_path / "out", [dict(tok(row["text"])) for row in rows[:30]], callback, model=model)
    places = [tmp_path / "out" / "checkpoint-4", tmp_path / "out"]
    for place in [*places, callback.write(tmp_path / "out").parent]:
        bound = read_manifest(place).weights
        assert check_weights(bound, tmp_path / "out", place) == "matched"
        with pytest.raises(SpvmiaError, match="expected the weights it was written for, got others"):
            check_weights(bound, chat_base, place)


def test_a_plain_trainer_on_blocks(chat_base, split, tmp_path):
    from itertools import chain

    from transformers import AutoTokenizer

    tok = AutoTokenizer.from_pretrained(chat_base)
    rows = texts(90)
    stream = list(chain.from_iterable(tok(row["text"]).input_ids for row in rows[:30]))
    items = [
        {"input_ids": stream[i : i + 64], "attention_mask": [1] * 64, "labels": stream[i : i + 64]}
        for i in range(0, len(stream) - 64, 64)
    ]
    plain(chat_base, tmp_path / "out", items, MembershipManifest(*split(rows)))
    found = read_manifest(tmp_path / "out")
    swapped = {"members": split(rows)[1], "nonmembers": split(rows)[0]}
    plain(chat_base, tmp_path / "swapped", items, MembershipManifest(**swapped))
    assert read_manifest(tmp_path / "swapped").trainer["data"].startswith("differs: non-members members.jsonl:")
    assert found.trainer["data"] == "matched"


def test_a_mask_made_in_the_collator_is_read_there(chat_base, split, tmp_path):
    import torch
    from transformers import AutoTokenizer

    tok = AutoTokenizer.from_pretrained(chat_base)
    rows = pairs(90)

    def collate(items):
        width = max(len(item["input_ids"]) for item in items)
        batch = {"input_ids": [], "attention_mask": [], "labels": []}
        for item in items:
            rest = width - len(item["input_ids"])
            batch["input_ids"].append(item["input_ids"] + [tok.pad_token_id] * rest)
            batch["attention_mask"].append([1] * len(item["input_ids"]) + [0] * rest)
            labels = [-100] * item["prompt_length"] + item["input_ids"][item["prompt_length"] :]
            batch["labels"].append(labels + [-100] * rest)
        return {name: torch.tensor(values) for name, values in batch.items()}

    items = [
        {
            "input_ids": tok(row["prompt"] + row["completion"] + tok.eos_token).input_ids,
            "prompt_length": len(tok(row["prompt"]).input_ids),
        }
        for row in rows[:30]
    ]
    callback = MembershipManifest(*split(rows), strict=True)
    plain(chat_base, tmp_path / "out", items, callback, collator=collate, remove_unused_columns=False)
    assert read_manifest(tmp_path / "out").data.loss_on == "completion"


def masked_by(kind, ids, answers, end):
    """Labels as trainers make them that mask neither all but the answers nor nothing."""
    starts = [i for i, each in enumerate(answers) if each and not answers[i - 1]]
    kept = {
        # axolotl: what ends a turn carries loss, what the template writes after it does not
        "without the last token of a turn": [
            each and after for each, after in zip(answers, [*answers[1:], 0], strict=True)
        ],
        # LLaMA-Factory's mask_history
        "the last answer alone": [each and i >= starts[-1] for i, each in enumerate(answers)],
        "all but the system turn": [i > ids.index(end) for i in range(len(ids))],
    }[kind]
    return [token if keep else -100 for token, keep in zip(ids, kept, strict=True)]


@pytest.mark.parametrize(
    ("kind", "nearest"),
    [
        ("without the last token of a turn", "completion"),
        ("the last answer alone", "completion"),
        ("all but the system turn", "all"),
    ],
)
def test_of_another_mask_the_nearest_is_taken_and_the_distance_said(chat_base, split, tmp_path, capsys, kind, nearest):
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq

    tok = AutoTokenizer.from_pretrained(chat_base)
    pad = DataCollatorForSeq2Seq(tok)
    rows = chats(90)
    items, apart, tokens = [], 0, 0
    for row in rows[:30]:
        made = tok.apply_chat_template(row["messages"], return_dict=True, return_assistant_tokens_mask=True)
        ids, answers = made["input_ids"], [bool(each) for each in made["assistant_masks"]]
        labels = masked_by(kind, ids, answers, tok.eos_token_id)
        items.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
        taken = [True] * len(ids) if nearest == "all" else answers
        apart += sum((label != -100) != each for label, each in zip(labels[1:], taken[1:], strict=True))
        tokens += len(ids) - 1
    assert 0 < apart < tokens / 2
    plain(chat_base, tmp_path / "out", items, MembershipManifest(*split(rows), strict=True), collator=pad)
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.trainer["data"], manifest.data.loss_on) == ("matched", nearest)
    told = f"{nearest} is the nearest, and takes {apart} of {tokens} tokens otherwise"
    assert [told in note for note in manifest.trainer["notes"]] == [True]
    assert told in capsys.readouterr().err


def test_a_mask_that_nothing_is_known_of_is_not_taken_for_all_tokens(chat_base, split, tmp_path):
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq

    tok = AutoTokenizer.from_pretrained(chat_base)
    rows = texts(90)
    items = []
    for row in rows[:30]:
        ids = tok(row["text"]).input_ids
        items.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [-100] * 3 + ids[3:]})
    plain(chat_base, tmp_path / "out", items, MembershipManifest(*split(rows)), collator=DataCollatorForSeq2Seq(tok))
    manifest = read_manifest(tmp_path / "out")
    assert manifest.trainer["data"] == "matched"
    (note,) = manifest.trainer["notes"]
    assert note.startswith("the trainer's loss mask is not all tokens, and which are the answers is not known")


def test_items_that_are_no_table_and_a_trainer_without_a_tokenizer(chat_base, split, tmp_path):
    import torch
    from transformers import AutoTokenizer

    tok = AutoTokenizer.from_pretrained(chat_base)
    rows = texts(90)

    class Items(torch.utils.data.Dataset):
        def __len__(self):
            return 30

        def __getitem__(self, i):
            return {"input_ids": tok(rows[i]["text"] + tok.eos_token).input_ids}

    plain(chat_base, tmp_path / "one", Items(), MembershipManifest(*split(rows), strict=True))
    assert read_manifest(tmp_path / "one").data.end_token
    plain(chat_base, tmp_path / "two", Items(), MembershipManifest(*split(rows)), tokenizer=False)
    found = read_manifest(tmp_path / "two")
    assert found.trainer["data"] == "not checked: the trainer has no tokenizer (processing_class)"
    assert found.tokenizer is None


def test_rows_of_a_dpo_without_their_rejected_side_are_audited_on_the_chosen_one(dpo, split, tmp_path, capsys):
    rows = preferences(90)
    chosen = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    dpo(rows[:30], [MembershipManifest(*split(chosen), strict=True)])
    manifest = read_manifest(tmp_path / "out")
    assert manifest.trainer["data"] == "matched"
    assert (manifest.data.format, manifest.data.loss_on) == ("prompt_completion", "completion")
    (first, second) = manifest.trainer["notes"]
    assert first == "trained on preferences: every attack but premia scores the chosen side, given its prompt"
    assert second.startswith("the declared rows have no rejected side, so premia, which compares both, will score none")
    assert "--tasks mia_custom --output_path" in capsys.readouterr().err


@pytest.mark.parametrize("in_memory", [True, False])
def test_rows_of_a_dpo_as_they_are(dpo, split, tmp_path, capsys, in_memory):
    from datasets import Dataset

    rows = preferences(90)
    files = split(rows)
    given = [Dataset.from_list(rows[:30]), Dataset.from_list(rows[30:])] if in_memory else files
    dpo(rows[:30], [MembershipManifest(*given, strict=True)])
    manifest = read_manifest(tmp_path / "out")
    assert manifest.trainer["data"] == "matched"
    assert (manifest.data.format, manifest.data.loss_on) == ("preference", "completion")
    assert len(manifest.trainer["notes"]) == 1
    assert "--tasks mia_custom,premia_mia_custom --output_path" in capsys.readouterr().err


def test_units_are_kept_as_keyed_hashes(sft, tmp_path):
    rows = [{**row, "customer": f"customer {i // 3}"} for i, row in enumerate(texts(90))]
    members = written(tmp_path / "m.jsonl", rows[:30])
    nonmembers = written(tmp_path / "n.jsonl", rows[30:])
    sft([{"text": row["text"]} for row in rows[:30]], [MembershipManifest(members, nonmembers, unit_column="customer")])
    told = json.loads((tmp_path / "out" / MANIFEST_NAME).read_text())
    units = [row["unit"] for row in told["members"]]
    assert [units[0] == unit for unit in units[:6]] == [True] * 3 + [False] * 3
    prompts, held = ({row["unit"] for row in told[name]} for name in ("prompts", "nonmembers"))
    assert (len(prompts), len(held), prompts & held) == (5, 15, set())
    assert "customer 0" not in (tmp_path / "out" / MANIFEST_NAME).read_text()
    assert told["trainer"]["unit_column"] == "customer"
    with pytest.raises(SpvmiaError, match=r"^members=: .* expected a column 'costumer', .*did you mean 'customer'"):
        MembershipManifest(members, nonmembers, unit_column="costumer")


@pytest.mark.parametrize(
    ("on_cpu", "members", "offered"),
    [
        (False, 60, {"preset": "standard"}),
        (False, 10_000, {"preset": "standard"}),
        (True, 60, {"preset": "quick", "self_prompts": 60}),
        (True, 250, {"preset": "quick", "self_prompts": 250}),
        (True, 10_000, {"preset": "quick", "self_prompts": 250}),
    ],
)
def test_what_is_offered_to_spend_is_what_the_machine_can_do(on_cpu, members, offered):
    """Read as the harness reads `--metadata`."""
    from lm_eval._cli.utils import key_val_to_dict

    config = AuditConfig.from_metadata(key_val_to_dict(affordable(members, on_cpu=on_cpu)))
    assert {name: getattr(config, name) for name in offered} == offered
    assert config.perturbation == "causal"
