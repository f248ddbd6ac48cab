"""`spvmia manifest`: the same file for a model that is already there."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import traceback
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from spvmia_plugin import MembershipManifest
from spvmia_plugin.data.manifest import read_manifest, write_manifest
from spvmia_plugin.data.rebuilt import rebuild
from spvmia_plugin.data.weights import check_weights
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.trainers import existing
from spvmia_plugin.trainers.existing import ManifestConfig, write_for

from .conftest import arguments, chats, texts, written

# What peft still calls transformers by.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture
def adapter(chat_base, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "adapter"
    model = AutoModelForCausalLM.from_pretrained(chat_base)
    get_peft_model(model, LoraConfig(r=4, task_type="CAUSAL_LM")).save_pretrained(folder)
    return folder


def test_conversations(adapter, chat_base, split, tmp_path):
    rows = chats(90)
    members, nonmembers = split(rows)
    said = []
    path = write_for(ManifestConfig(adapter, members, nonmembers, loss_on="all", record_tokens=77), said.append)
    manifest = read_manifest(adapter)
    assert path == adapter / "mia_manifest.json"
    assert (manifest.base_model, manifest.method, manifest.membership) == (str(chat_base), "lora", "declared")
    assert (manifest.data.format, manifest.data.loss_on, manifest.data.record_tokens) == ("messages", "all", 77)
    assert check_weights(manifest.weights, adapter, path) == "matched"
    assert said == [
        f"30 members, 45 nonmembers, 15 prompts (messages, loss on all) written to {path} (private: it names the "
        "training records)"
    ]
    records, _ = rebuild(manifest, {})
    assert [list(each.conversation.messages) for each in records["members"]] == [row["messages"] for row in rows[:30]]
    write_for(ManifestConfig(adapter, members, nonmembers), said.append)  # its own is replaced
    assert read_manifest(adapter).data.loss_on == "completion"


@pytest.mark.parametrize("block_size", [0, 16])
def test_the_prompts_are_of_whole_units(adapter, split, block_size):
    # Of every size, their rows apart.
    rows = [{**row, "who": i * i % 23} for i, row in enumerate(texts(300))]
    members, nonmembers = split([{**row, "who": 100 + i} for i, row in enumerate(rows[:100])] + rows[100:], 100)
    config = ManifestConfig(adapter, members, nonmembers, block_size=block_size, unit_column="who")
    told = json.loads(write_for(config, print).read_text())
    prompts, held = ({row["unit"] for row in told[name]} for name in ("prompts", "nonmembers"))
    assert len(prompts) >= 1
    assert len(held) >= 6
    assert not prompts & held
    assert None not in prompts | held
    # No record holds texts of two: nobody could say whose its loss is.
    manifest = read_manifest(adapter)
    files = {"members": rows_of(members), "nonmembers": rows_of(nonmembers), "prompts": rows_of(nonmembers)}
    several = 0
    for name, of_rows in files.items():
        for record in manifest.records[name]:
            assert len({of_rows[piece.row]["who"] for piece in record.pieces}) == 1
            several += len(record.pieces) > 1
    assert (several > 0) is (block_size > 0)


def rows_of(path):
    return {number: json.loads(line) for number, line in enumerate(Path(path).read_text().splitlines(), 1)}


def test_texts_in_blocks_and_whole(adapter, split):
    rows = texts(300)
    members, nonmembers = split(rows, 150)
    write_for(ManifestConfig(adapter, members, nonmembers, block_size=16), print)
    manifest = read_manifest(adapter)
    assert (manifest.data.block_size, manifest.data.loss_on, manifest.data.end_token) == (16, None, False)
    records, _ = rebuild(manifest, {})
    assert len(records["members"]) > 150
    write_for(ManifestConfig(adapter, members, nonmembers, end_token=True, packing="bfd"), print)
    manifest = read_manifest(adapter)
    assert (manifest.data.block_size, manifest.data.loss_on, manifest.data.end_token) == (0, "all", True)
    records, _ = rebuild(manifest, {})
    assert [each.text for each in records["members"]] == [row["text"] for row in rows[:150]]
    assert all(each.conversation is not None and each.conversation.is_text for each in records["members"])
    assert "packed (bfd)" in manifest.trainer["notes"][0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model": "nowhere"}, "--model: expected the folder of a trained model or adapter, got nowhere"),
        ({"loss_on": "some"}, "--loss-on: expected one of auto, all, completion, got 'some'"),
        ({"format": "chat"}, "--format: expected one of auto, text"),
        ({"record_tokens": 1}, "--record-tokens: expected a whole number >= 2 and <= 1000000000, got 1"),
        ({"record_tokens": 10**30}, "--record-tokens: expected a whole number >= 2 and <= 1000000000, got 1000000"),
        ({"record_tokens": math.inf}, "--record-tokens: expected a whole number >= 2 and <= 1000000000, got inf"),
        ({"block_size": 3}, "--block-size: expected 0 or a whole number >= 8 and <= 1000000000, got 3"),
        ({"block_size": 10**30}, "--block-size: expected 0 or a whole number >= 8 and <= 1000000000, got 1000000"),
        ({"block_size": -1}, "--block-size: expected 0 or a whole number >= 8 and <= 1000000000, got -1"),
        ({"seed": -1}, "--seed: expected a whole number >= 0 and <= 9223372036854775807, got -1"),
        ({"seed": 2**63}, "--seed: expected a whole number >= 0 and <= 9223372036854775807, got 9223372036854775808"),
        ({"block_size": 64}, "--block-size: expected plain texts, got messages"),
        ({"end_token": True}, "--end-token: expected plain texts, got messages"),
        ({"end_token": True, "block_size": 64}, "--end-token: expected whole texts, got --block-size 64"),
        ({"members": "nowhere.jsonl"}, "--members: "),
        ({"chat_template": "nowhere.jinja"}, "--chat-template: expected a file with a Jinja template"),
        ({"base_model": "x" * 300}, "--base-model: expected the path of a file or folder, got a longer name than"),
        ({"base_model": "a\0b"}, "--base-model: expected the path of a file or folder, got a NUL character"),
        ({"base_model": "~nobody-of-that-name/x"}, "--base-model: expected the path of a file or folder, got a home"),
        ({"unit_column": "who"}, "--members: {0}, row 1: expected a column 'who', got 'messages'"),
        ({"unit_column": "none"}, "--members: {0}, row 7: expected a text or a whole number in column 'none', got"),
        ({"unit_column": "both"}, "--unit-column: expected each unit of column 'both' in one class, got 3 that stand"),
    ],
)
def test_bad_input(adapter, split, changes, expected):
    units = {"none": lambda i: None if i == 6 else i, "both": lambda i: i % 3}
    column = changes.get("unit_column")
    rows = chats(90)
    if column in units:
        rows = [{**row, column: units[column](i)} for i, row in enumerate(rows)]
    members, nonmembers = split(rows)
    given = {"model": adapter, "members": members, "nonmembers": nonmembers, **changes}
    with pytest.raises(SpvmiaError) as caught:
        write_for(ManifestConfig(**given), print)
    assert str(caught.value).startswith(expected.format(members))
    assert not (adapter / "mia_manifest.json").exists()


def test_blocks_that_nothing_fills_make_no_manifest(adapter, split):
    """Enough rows, and of their tokens none or a few blocks: nobody could audit that."""
    members, nonmembers = split(texts(300), 150)
    for size in (10**6, 400):
        with pytest.raises(SpvmiaError, match=rf"^--block-size: expected at least 20 blocks of {size} tokens of"):
            write_for(ManifestConfig(adapter, members, nonmembers, block_size=size), print)
    assert not (adapter / "mia_manifest.json").exists()


def test_what_the_training_itself_wrote_is_not_replaced(adapter, split):
    import dataclasses

    members, nonmembers = split(chats(90))
    path = write_for(ManifestConfig(adapter, members, nonmembers), print)
    write_manifest(dataclasses.replace(read_manifest(path), written_by="trainer"), path)
    with pytest.raises(SpvmiaError, match="got one that the training itself wrote"):
        write_for(ManifestConfig(adapter, members, nonmembers), print)


def test_a_folder_without_weights(tmp_path, split):
    members, nonmembers = split(chats(90))
    with pytest.raises(SpvmiaError, match=r"--model: expected a folder with adapter_config.json or config.json"):
        write_for(ManifestConfig(tmp_path, members, nonmembers), print)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(SpvmiaError, match="--model: expected an adapter's configuration"):
        write_for(ManifestConfig(tmp_path, members, nonmembers), print)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[" * 100_000, r"an adapter's configuration in .*nested too deeply"),
        ('{"base_model_name_or_path": "%s"}' % ("x" * 300), "got a longer name than the file system takes"),
        ('{"base_model_name_or_path": ["a"]}', "expected a folder or a hub id, got list"),
        ('{"base_model_name_or_path": "a\\ud800"}', "got half a surrogate pair"),
        ("[]", "a JSON object, got list"),
    ],
)
def test_what_an_adapter_says_may_be_anything(adapter, split, content, expected):
    (adapter / "adapter_config.json").write_text(content)
    with pytest.raises(SpvmiaError, match=f"^--model: .*{expected}"):
        write_for(ManifestConfig(adapter, *split(chats(90))), print)


def test_the_command(adapter, split):
    members, nonmembers = split(chats(90))
    command = ["manifest", "--model", str(adapter), "--members", members, "--nonmembers", nonmembers, "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "spvmia_plugin", *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["manifest"] == str(adapter / "mia_manifest.json")
    assert told["records"] == {"members": 30, "nonmembers": 45, "prompts": 15, "canaries": 0, "candidate": 0}


def test_files_of_one_name_in_two_folders(adapter, tmp_path):
    rows = chats(90)
    members = written(tmp_path / "a" / "rows.jsonl", rows[:30])
    nonmembers = written(tmp_path / "b" / "rows.jsonl", rows[30:])
    write_for(ManifestConfig(adapter, members, nonmembers), print)
    manifest = read_manifest(adapter)
    ids = [each.id for name in ("members", "nonmembers") for each in manifest.records[name]]
    assert len(set(ids)) == len(ids)
    rebuild(manifest, {})
    (tmp_path / "a").rename(tmp_path / "c")
    with pytest.raises(SpvmiaError, match="from several folders"):
        rebuild(manifest, {}, str(tmp_path / "c"))


def test_one_file_that_says_itself_who_is_who(adapter, tmp_path):
    rows = [{**row, "label": i % 2} for i, row in enumerate(texts(100))]
    path = written(tmp_path / "both.jsonl", rows)
    write_for(ManifestConfig(adapter, path, path, end_token=True), print)
    records, _ = rebuild(read_manifest(adapter), {})
    assert {each.text for each in records["members"]} == {row["text"] for row in rows if row["label"]}


# Other people's code on records
class Raising:
    """A tokenizer of somebody else's, which says the text that it fails on."""

    def __init__(self, tokenizer, private, kind):
        self.__dict__ |= {"inner": tokenizer, "private": private, "kind": kind}

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __len__(self):
        return len(self.inner)

    def __call__(self, text, *arguments, **named):
        if isinstance(text, str) and any(each in text for each in self.private):
            warnings.warn(f"odd: {text}", stacklevel=2)
            raise self.kind(f"cannot tokenise {text}")
        return self.inner(text, *arguments, **named)


class Panic(BaseException):
    pass


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", [ValueError, Panic])
@pytest.mark.parametrize("changes", [{"block_size": 16}, {"block_size": 0, "record_tokens": 8}])
def test_a_tokenizer_that_fails_says_no_record(adapter, split, monkeypatch, kind, changes):
    rows = texts(300)
    members, nonmembers = split(rows, 150)
    private = [row["text"] for row in rows[4:9]]
    real = existing._tokenizer
    monkeypatch.setattr(existing, "_tokenizer", lambda *given: Raising(real(*given), private, kind))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(SpvmiaError) as caught:
            write_for(ManifestConfig(adapter, members, nonmembers, **changes), print)
    said = "".join(traceback.format_exception(caught.value)) + " ".join(str(each.message) for each in warned)
    assert str(caught.value).startswith("--members: expected the code of tests to finish, got ")
    named = "" if changes["block_size"] else " with members.jsonl:5"  # blocks are of several
    assert f"got {kind.__name__}{named} at trainers/test_existing.py:" in str(caught.value)
    assert not any(text in said for text in private)
    assert not (adapter / "mia_manifest.json").exists()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", [ValueError, Panic])
def test_in_a_training_neither(chat_base, split, tmp_path, kind):
    """As the trainer calls it: the callback looks for declared rows, which it tokenises."""
    from transformers import AutoTokenizer, TrainerControl, TrainingArguments

    rows = texts(90)
    tokenizer = Raising(AutoTokenizer.from_pretrained(chat_base), [row["text"] for row in rows], kind)
    callback = MembershipManifest(*split(rows))
    seen = [{"input_ids": [3, 4, 5]}, {"input_ids": [6, 7]}]
    with pytest.raises(SpvmiaError) as caught:
        callback.on_train_begin(
            TrainingArguments(**arguments(tmp_path / "out")),
            SimpleNamespace(is_world_process_zero=True),
            TrainerControl(),
            processing_class=tokenizer,
            train_dataloader=SimpleNamespace(dataset=seen),
        )
    assert str(caught.value).startswith("members=: expected ")
    assert f"got {kind.__name__} with members.jsonl:" in str(caught.value)
    said = "".join(traceback.format_exception(caught.value))
    assert not any(row["text"] in said for row in rows)


def test_a_data_set_that_fails_while_it_is_read_says_no_record(split):
    from datasets import Dataset

    class Failing(Dataset):
        def with_format(self, *_, **__):
            raise LookupError(rows[3]["text"])

    rows = texts(90)
    with pytest.raises(SpvmiaError, match=r"^members=: expected .* to finish, got LookupError") as caught:
        MembershipManifest(Failing(Dataset.from_list(rows[:30]).data), split(rows)[1])
    assert rows[3]["text"] not in "".join(traceback.format_exception(caught.value))
