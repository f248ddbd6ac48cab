"""Targets that TRL made, with the callback in the script: audited without an option, on the trainer's own tokens."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from spvmia_plugin import MembershipManifest
from spvmia_plugin.errors import SpvmiaError
from tests.harness.test_conversations import scores
from tests.trainers.conftest import (  # noqa: F401
    chat_base,
    chats,
    dpo,
    own_folders,
    pairs,
    preferences,
    sft,
    split,
    texts,
    written,
)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture
def audit(evaluate, options, chat_base, tmp_path):  # noqa: F811
    kept = {key: value for key, value in options.items() if key not in ("mia_members", "mia_nonmembers", "mia_prompts")}
    del kept["mia_block_size"]
    given = {**kept, "mia_cache_dir": str(tmp_path / "store")}

    def run(target, tasks=("loss_mia_custom",), **more):
        place = {"pretrained": str(chat_base), "peft": str(target)}
        return evaluate(list(tasks), given | more, model_args=place)

    return run


def by_trainer(trainer, folder):
    """The mean log-probability that the saved model gives to what carried loss, by the row's tokens.

    A packed row is read as it was trained on, all its records at once and each at positions from 0: TRL hands the
    positions over, and transformers keeps attention within a record by them.
    """
    import torch
    from peft import AutoPeftModelForCausalLM

    model = AutoPeftModelForCausalLM.from_pretrained(folder).eval()
    found = {}
    for row in trainer.train_dataset:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        lengths = row.get("seq_lengths") or [len(row["input_ids"])]
        positions = torch.cat([torch.arange(length) for length in lengths])[None]
        with torch.no_grad():
            logprobs = model(ids, position_ids=positions, use_cache=False).logits[0, :-1].log_softmax(-1)
        start = 0
        for length in lengths:
            own = slice(start, start + length - 1)
            kept = labels[1:][own] != -100
            told = logprobs[own][torch.arange(length - 1), ids[0, 1:][own]][kept]
            found[tuple(row["input_ids"][start : start + length])] = float(told.mean())
            start += length
    return sorted(found.values())


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (chats, {}),
        (chats, {"assistant_only_loss": True, "max_length": 60}),
        (chats, {"packing": True, "packing_strategy": "bfd", "max_length": 400}),
        (pairs, {}),
        (texts, {}),
        (texts, {"max_length": 40}),
    ],
)
def test_members_loss_is_that_of_the_trainers_tokens(sft, split, audit, tmp_path, make, changes):  # noqa: F811
    rows = make(90)
    trainer = sft(rows[:30], [MembershipManifest(*split(rows), strict=True)], **changes)
    assert "packing" not in changes or len(trainer.train_dataset) <= 10
    result = audit(tmp_path / "out")
    found = scores(result, "loss_mia_custom")
    members = [each["score"] for id_, each in found.items() if id_.startswith("members.jsonl")]
    # What is cut before any answer is kept without a score, and dropped by the trainer.
    members = sorted(score for score in members if score is not None)
    assert members == pytest.approx(by_trainer(trainer, tmp_path / "out"), abs=1e-4)
    told = result["configs"]["loss_mia_custom"]["metadata"]["mia_audit"]
    assert told["membership"] == "manifest"
    assert len(found) == 30 + 45
    assert told["data"]["weights"] == "matched"


@pytest.mark.slow
def test_every_attack_runs_on_texts_with_end_tokens(sft, split, audit, tmp_path):  # noqa: F811
    rows = texts(90)
    sft(rows[:30], [MembershipManifest(*split(rows), strict=True)])
    result = audit(tmp_path / "out", ["mia_custom"])
    values = {name: each["auroc,none"] for name, each in result["results"].items() if name != "mia_custom"}
    assert [name for name, value in values.items() if not np.isfinite(value)] == []


def test_a_target_of_dpo_is_audited_with_premia(dpo, split, audit, tmp_path):  # noqa: F811
    rows = preferences(90)
    dpo(rows[:30], [MembershipManifest(*split(rows), strict=True)])
    result = audit(tmp_path / "out", ["premia_mia_custom", "loss_mia_custom"])
    for task in ("premia_mia_custom", "loss_mia_custom"):
        found = scores(result, task)
        assert len(found) == 30 + 45
        assert all(np.isfinite(each["score"]) for each in found.values())
        told = result["configs"][task]["metadata"]["mia_audit"]
        assert (told["membership"], told["scored"]["format"]) == ("manifest", "preference")
    # A DPO moves its members' margin up: in a tiny model, and after an epoch, that much can be told.
    assert result["results"]["premia_mia_custom"]["auroc,none"] > 0.6


@pytest.fixture
def target(sft, split, tmp_path):  # noqa: F811
    rows = chats(90)
    sft(rows[:30], [MembershipManifest(*split(rows), strict=True)])
    return tmp_path / "out"


def test_a_model_that_was_moved_is_audited_the_same(target, audit, tmp_path):
    before = scores(audit(target), "loss_mia_custom")
    shutil.move(target, tmp_path / "moved")
    assert scores(audit(tmp_path / "moved"), "loss_mia_custom") == before


def test_files_that_were_moved_are_found_in_a_folder(target, audit, tmp_path):
    shutil.move(tmp_path / "private", tmp_path / "new")
    with pytest.raises(SpvmiaError, match=r"expected at .*members.jsonl, got no such file"):
        audit(target)
    assert audit(target, mia_dataset_path=str(tmp_path / "new"))


def test_a_manifest_of_another_adapter_is_refused(target, sft, split, audit, tmp_path):  # noqa: F811
    rows = chats(90, seed=5)
    sft(rows[:30], [MembershipManifest(*split(rows), strict=True)], folder="other")
    shutil.copy(tmp_path / "other" / "mia_manifest.json", target / "mia_manifest.json")
    with pytest.raises(SpvmiaError, match=r"expected the weights it was written for, got others in .*out"):
        audit(target)


def test_a_manifest_of_whole_weights_is_refused_for_an_adapter(target, sft, split, audit, tmp_path):  # noqa: F811
    rows = chats(90, seed=5)
    sft(rows[:30], [MembershipManifest(*split(rows), strict=True)], peft=False, folder="other")
    (target / "mia_manifest.json").unlink()
    named = str(tmp_path / "other" / "mia_manifest.json")
    with pytest.raises(SpvmiaError, match=r"expected the whole weights it was written for, got an adapter in .*out"):
        audit(target, mia_manifest=named)
    shutil.copy(named, target / "mia_manifest.json")
    with pytest.raises(SpvmiaError, match=r"expected the whole weights it was written for, got an adapter in .*out"):
        audit(target)


@pytest.fixture
def findings(evaluate, options, tmp_path):
    """Severities of what the preconditions of an audit found, by code; the data are those of a manifest."""
    left_out = ("mia_members", "mia_nonmembers", "mia_prompts", "mia_block_size")
    given = {key: value for key, value in options.items() if key not in left_out}
    given["mia_cache_dir"] = str(tmp_path / "store")

    def found(place, **more):
        result = evaluate(["loss_mia_custom"], given | more, model_args=place)
        told = result["configs"]["loss_mia_custom"]["metadata"]["mia_audit"]
        return {each["code"]: each["severity"] for each in told["preconditions"]}

    return found


def test_an_adapters_manifest_beside_whole_weights_is_a_warning_unless_it_is_named(
    target,
    chat_base,  # noqa: F811
    findings,
    tmp_path,
):
    from peft import AutoPeftModelForCausalLM

    merged = tmp_path / "merged"
    shutil.copytree(chat_base, merged)
    AutoPeftModelForCausalLM.from_pretrained(target).merge_and_unload().save_pretrained(merged)
    shutil.copy(target / "mia_manifest.json", merged)
    place = {"pretrained": str(merged), "peft": None}
    assert findings(place)["manifest_of_other_weights"] == "warning"
    assert "manifest_of_other_weights" not in findings(place, mia_manifest=str(merged / "mia_manifest.json"))


def test_a_manifest_of_the_model_below_the_adapter_is_a_warning_unless_it_is_named(
    target,
    chat_base,  # noqa: F811
    findings,
    tmp_path,
):
    """`pretrained=M,peft=A` with a manifest beside M alone: it says nothing of the training that made A."""
    below = tmp_path / "below"
    shutil.copytree(chat_base, below)
    shutil.move(target / "mia_manifest.json", below)
    place, moved = {"pretrained": str(below), "peft": str(target)}, {"mia_base_model": str(below)}
    assert findings(place, **moved)["manifest_of_other_weights"] == "warning"
    named = {"mia_manifest": str(below / "mia_manifest.json"), **moved}
    assert "manifest_of_other_weights" not in findings(place, **named)


def test_prompts_of_audited_units_alone_are_refused_with_the_manifest_named(sft, tmp_path, audit):  # noqa: F811
    """Without them a conversation's self-prompts would be made in another way, and nobody would know."""
    rows = [{**row, "who": i % 30} for i, row in enumerate(chats(90))]
    files = {name: tmp_path / f"{name}.jsonl" for name in ("members", "nonmembers", "prompts")}
    of_class = {"members": rows[:30], "nonmembers": [{**row, "who": 100} for row in rows[30:60]]}
    for name, part in {**of_class, "prompts": rows[60:]}.items():
        files[name].write_text("".join(json.dumps(row) + "\n" for row in part))
    named = {name: str(path) for name, path in files.items()}
    sft(rows[:30], [MembershipManifest(**named, unit_column="who", strict=True)])
    with pytest.raises(
        SpvmiaError, match=r"^mia_manifest: .*out/mia_manifest.json: expected prompts of units that are"
    ):
        audit(tmp_path / "out")


@pytest.mark.parametrize("in_memory", [True, False])
def test_groups_of_declared_rows_are_told(sft, audit, tmp_path, in_memory):  # noqa: F811
    """Of a data set in memory the copy that is kept has them."""
    from datasets import Dataset

    rows = [{**row, "lang": ("de", "en")[i % 2]} for i, row in enumerate(texts(90))]
    sides = rows[:30], rows[30:]
    names = ("members", "nonmembers")
    files = [written(tmp_path / f"{name}.jsonl", side) for name, side in zip(names, sides, strict=True)]
    given = [Dataset.from_list(side) for side in sides] if in_memory else files
    sft([{"text": row["text"]} for row in rows[:30]], [MembershipManifest(*given, group_column="lang", strict=True)])
    result = audit(tmp_path / "out", mia_group_column="lang")
    told = result["configs"]["loss_mia_custom"]["metadata"]["mia_audit"]["groups"]["groups"]
    assert {group["name"] for group in told} == {"de", "en"}
    by_text = {sample["doc"]["id"]: sample["doc"]["group"] for sample in result["samples"]["loss_mia_custom"]}
    members = {id_: group for id_, group in by_text.items() if id_.startswith("members")}
    assert len(members) == 30
    assert all(group == ("de", "en")[(int(id_.rpartition(":")[2]) - 1) % 2] for id_, group in members.items())


def test_a_row_that_has_changed_is_named(target, audit, tmp_path):
    path = tmp_path / "private" / "members.jsonl"
    rows = path.read_text().splitlines()
    first = json.loads(rows[6])
    first["messages"][-1]["content"] += " more"
    path.write_text("\n".join([*rows[:6], json.dumps(first), *rows[7:]]) + "\n")
    with pytest.raises(SpvmiaError, match=r"row 7 of the members has changed or gone") as caught:
        audit(target)
    assert "more" not in str(caught.value).replace("more of", "")


def test_packed_rows_say_how_they_were_read(sft, split, audit, tmp_path):  # noqa: F811
    rows = chats(90)
    sft(rows[:30], [MembershipManifest(*split(rows))], packing=True, packing_strategy="wrapped")
    told = audit(tmp_path / "out")["configs"]["loss_mia_custom"]["metadata"]["mia_audit"]
    findings = {each["code"]: each for each in told["preconditions"]}
    assert "packed (wrapped)" in findings["training_differs"]["message"]


def test_data_that_were_not_the_declared_ones_are_a_warning(sft, split, audit, tmp_path):  # noqa: F811
    rows = chats(90)
    members, nonmembers = split(rows)
    sft(rows[5:30], [MembershipManifest(members, nonmembers)])
    told = audit(tmp_path / "out")["configs"]["loss_mia_custom"]["metadata"]["mia_audit"]
    findings = {each["code"]: each for each in told["preconditions"]}
    assert findings["trainer_data"]["severity"] == "warning"
    assert "members.jsonl:1" in findings["trainer_data"]["message"]
    assert told["membership"] == "declared"
