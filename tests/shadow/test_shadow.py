"""`spvmia shadow` on a tiny target: what it makes, what it leaves alone, what it refuses, and that it goes on."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from spvmia_plugin.attacks.weights import FILE, read_weights
from spvmia_plugin.auditing.fitted_on import FILE as FITTED_ON
from spvmia_plugin.auditing.fitted_on import barred
from spvmia_plugin.checks.copies import normalised
from spvmia_plugin.cli.main import make_app
from spvmia_plugin.data.load import builtin_datasets
from spvmia_plugin.data.manifest import MANIFEST_NAME, read_manifest, write_manifest
from spvmia_plugin.data.rebuilt import rebuild
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.harness.in_process import audit, load_task
from spvmia_plugin.plugins import load_registry
from spvmia_plugin.shadow import ShadowConfig, fitting, make_shadows
from spvmia_plugin.shadow import run as shadow_run
from spvmia_plugin.shadow.plan import ShadowPlan
from spvmia_plugin.training.config import FinetuneConfig
from spvmia_plugin.training.finetune import finetune
from tests.data.builders import write_texts
from tests.leaks import Spans, contents
from tests.tiny import save_tiny, tiny_texts

AUDIT = {
    "mia_preset": "quick",
    "mia_self_prompts": 20,
    "mia_prompt_tokens": 6,
    "mia_reference_epochs": 1,
    "mia_lora_rank": 2,
    "mia_lora_targets": "q_proj",
}
TEXTS = tiny_texts(420, words=(12, 18))
TARGETS_OWN = 130
"""Rows of the file that the target is dealt from; some of them stand in the rest again, word for word or nearly so."""


def nearly(text: str) -> str:
    words = text.split()
    return " ".join([*words[:6], "altogether", *words[7:]])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def target(base, tmp_path_factory):
    """A target of its own file, and the file of everything."""
    work = tmp_path_factory.mktemp("target")
    own = write_texts(work / "own.jsonl", TEXTS[:TARGETS_OWN])
    planted = [f"{TEXTS[0]} ", TEXTS[1], nearly(TEXTS[2]), nearly(TEXTS[3])]
    write_texts(work / "all.jsonl", [*planted, *TEXTS[TARGETS_OWN:], TEXTS[-1]])
    config = FinetuneConfig(
        str(base),
        str(own),
        work / "target",
        members=55,
        nonmembers=52,
        prompts=20,
        epochs=2,
        lr=1e-2,
        lora_rank=2,
        lora_targets="q_proj",
        batch_size=16,
        block_size=0,
        quiet=True,
    )
    finetune(config)
    return work / "target"


@pytest.fixture(scope="module")
def config(target):
    def made(output, **more):
        given = {"data": str(target.parent / "all.jsonl"), "metadata": AUDIT, "device": "cpu", **more}
        return ShadowConfig(target, output, **given)

    return made


@pytest.fixture(scope="module")
def first(config, tmp_path_factory):
    """One shadow, and what was said."""
    output, said = tmp_path_factory.mktemp("made") / "shadow", []
    made = make_shadows(config(output), said.append)
    return output, said, made


@pytest.fixture
def nothing_more(monkeypatch):
    """Fails where anything is trained or audited."""

    def refuse(*_, **__):
        raise AssertionError("made again")

    monkeypatch.setattr(shadow_run, "finetune", refuse)
    monkeypatch.setattr("spvmia_plugin.harness.in_process.audit", refuse)


def texts_of(folder: Path) -> dict[str, set[str]]:
    _, documents = rebuild(read_manifest(folder), builtin_datasets())
    return {name: {normalised(each.text) for each in of_class} for name, of_class in documents.items()}


# What it makes


def test_no_document_of_the_target_is_one_of_the_shadow(first, target):
    output, said, made = first
    own = set().union(*texts_of(target).values())
    shadow = texts_of(output / "shadow_1")
    assert {name: len(texts) for name, texts in shadow.items()} == {
        "members": 55,
        "nonmembers": 52,
        "prompts": 20,
        "canaries": 0,
    }
    used = set().union(*shadow.values())
    assert len(used) == 127
    assert not used & own
    held = [text for text in TEXTS[:4] if normalised(text) in own]
    same = sum(normalised(text) in own for text in TEXTS[:2])
    near = len(held) - same
    assert (same, near) == (2, 2)
    assert (made.plan.found.same, made.plan.found.near, made.plan.found.repeated) == (same, near, 1)
    assert f"left out: {same} that the target's records hold, {near} near copies of those, 1 repeats" in "\n".join(said)


def test_the_shadow_has_the_recipe_of_the_target(first, target):
    theirs, ours = (read_manifest(folder) for folder in (target, first[0] / "shadow_1"))
    assert ours.base_model == theirs.base_model
    assert {name for name, value in ours.settings.items() if value != theirs.settings[name]} == {"seed"}
    assert ours.data.spec.endswith("all.jsonl")


def test_the_plan_comes_first_and_the_next_command_last(first, target, base):
    output, said, made = first
    assert said[0].startswith(
        "plan: 1 shadow by the target's recipe (lora, 2 epochs, rate 0.01) on all.jsonl: 55 members"
    )
    assert said[2].startswith("estimate: about ")
    assert sum(line.startswith("[shadow 1 of 1] ") for line in said) == 3
    assert [line.split(":")[0] for line in said if line.startswith("  ")][:2] == ["  plan", "  estimate"]
    assert sum("lm_eval" in line for line in said) == 1
    screen = said[-5:]
    assert screen[0].startswith("fitted on 107 records of 1 shadow; models beside the target: base, self-prompted")
    assert screen[1].endswith(f"{made.fitted.auroc:.3f}")
    assert "permuted labels, 20 fits" in screen[2]
    words = shlex.split(screen[-1])
    assert words[words.index("--model_args") + 1] == f"pretrained={base},peft={target}"
    assert json.loads(words[words.index("--metadata") + 1]) == {"mia_shadow": str(output), **AUDIT}
    assert not any(text[:20] in line for text in TEXTS for line in said)


def test_no_text_lies_in_the_folder(first):
    """But for what the shadow wrote itself, which is kept in a folder of its own."""
    spans = Spans(TEXTS)
    files = [path for path in first[0].rglob("*") if path.is_file() and "self_prompts" not in path.parts]
    assert {"learned.json", "shadow_1.npz", "mia_manifest.json"} <= {path.name for path in files}
    found = [place for path in files for place, data in contents(path) if spans.in_bytes(data)]
    assert found == []
    with np.load(first[0] / "shadow_1.npz", allow_pickle=False) as file:
        assert not [name for name in file.files if spans.in_text(str(file[name].tolist()))]


def test_the_estimate_counts_all_that_is_done_by_the_speed_of_the_targets_training(first, target):
    """A token that is scored takes a quarter of one that is trained on, one that is written six quarters."""
    made = first[2]
    training = read_manifest(target).training
    a_record = training["tokens"] / (55 * 2)
    trained = 55 * 2 + 2 * 20 * 1  # the shadow in two epochs, two references in one
    scored, written = (55 + 52) * 4 / 4, 20 * 6 / 4
    expected = training["seconds"] / training["tokens"] * a_record * (trained + scored + written)
    assert made.plan.seconds() == pytest.approx(expected)
    several = dataclasses.replace(made.plan.settings, references=3, candidate="none")
    more = dataclasses.replace(made.plan, settings=several).seconds()
    rest = 55 * 2 + 3 * 20 * 1 + 107 * 5 / 4 + 3 * 20 * 6 / 4
    assert more == pytest.approx(expected * rest / (trained + scored + written))
    untold = dataclasses.replace(made.plan, manifest=dataclasses.replace(made.plan.manifest, training={}))
    assert untold.seconds() is None
    assert untold.told()[2] == "estimate: told by each step before it begins"


def test_the_next_command_of_a_whole_model_that_brings_code(config, tmp_path):
    asked = dataclasses.replace(config(tmp_path / "s"), trust_remote_code=True, metadata={})
    words = shlex.split(shadow_run.audit_words("base", asked, "full", Path("/out")))
    assert words[words.index("--model_args") + 1] == f"pretrained={asked.target},trust_remote_code=True"
    assert json.loads(words[words.index("--metadata") + 1]) == {"mia_shadow": "/out"}


def test_what_it_writes_is_private_and_says_where_it_comes_from(first, target):
    output, _, made = first
    assert stat.S_IMODE(output.stat().st_mode) == 0o700
    for name in (FILE, FITTED_ON, "shadow.json", "shadow_1.npz"):
        assert stat.S_IMODE((output / name).stat().st_mode) == 0o600
    weights = read_weights(output / FILE)
    assert list(weights.variants) == ["base", "both", "candidate", "reference"]
    card = weights.card
    assert card.records == 107
    assert card.summary == "1 shadow of one target's recipe on tiny, 55 members each, on all.jsonl"
    assert card.settings["target"] == read_manifest(target).fingerprint
    manifest = read_manifest(output / "shadow_1")
    assert card.settings["shadows"] == [manifest.fingerprint]
    assert manifest.fingerprint_key not in (output / FILE).read_text()
    assert card.settings["base_weights"].startswith("files ")
    assert card.settings["rows"] == {"format": "text", "tokens of a record": "those of its document"}
    assert card.settings["recipe"]["epochs"] == 2.0
    assert card.settings["audit"]["mia_self_prompts"] == 20
    assert card.settings["auroc_in_folds"]["both"] == made.fitted.auroc
    assert card.audits[0] == {"base": "tiny", "epochs": 2.0, "seed": 1, "members": 55, "nonmembers": 52}
    assert card.versions["spvmia-plugin"]
    assert str(target.parent) not in (output / FILE).read_text()
    assert card.settings["data"]["source"] == "all.jsonl"
    everything = "".join((output / name).read_text() for name in (FILE, FITTED_ON, "shadow.json"))
    assert not any(text[:20] in everything for text in TEXTS)


def audited(arguments, metadata):
    task = load_task("loss_mia_custom", arguments, metadata)
    return audit(task, {"learned": task.registry.attack("learned", task.settings)}, arguments, device="cpu")


def test_the_target_is_audited_with_the_weights(first, target, base, tmp_path):
    arguments = {"pretrained": str(base), "peft": str(target)}
    metadata = {**AUDIT, "mia_shadow": str(first[0]), "mia_cache_dir": str(tmp_path)}
    outcome = audited(arguments, metadata)
    assert outcome.told["learned"]["weights"] == "shadow"
    assert outcome.told["learned"]["digest"] == read_weights(first[0] / FILE).digest
    scores = [result.score for result in outcome.results["learned"].values()]
    assert len(scores) == 107
    assert np.isfinite(np.array(scores, dtype=float)).all()
    assert not [note for note in outcome.notes if "shadow" in note]
    # Under other options it says so, before the work.
    found = audited(arguments, {**metadata, "mia_self_prompts": 21, "mia_candidate": "none"})
    (note,) = [note for note in found.notes if "shadow" in note]
    assert note.endswith("mia_self_prompts 21, the shadow's 20, mia_candidate none, the shadow's None")


def test_no_shadow_is_audited_with_weights_that_were_fitted_on_it(first, base, tmp_path):
    arguments = {"pretrained": str(base), "peft": str(first[0] / "shadow_1")}
    metadata = {**AUDIT, "mia_shadow": str(first[0]), "mia_cache_dir": str(tmp_path)}
    with pytest.raises(SpvmiaError, match=r"^mia_shadow: expected weights that were fitted on other models"):
        audited(arguments, metadata)


def test_another_model_of_the_same_records_is_not_either(first, base, target, tmp_path):
    """The file that the shadow was dealt from, given to another target as its own: each record by what it holds."""
    records, _ = rebuild(read_manifest(first[0] / "shadow_1"), builtin_datasets())
    members, others = (records[name][:30] for name in ("members", "nonmembers"))
    of_shadow = [record.text for record in members[:12]]
    fresh = tiny_texts(50, seed=7, words=(12, 18))
    files = {
        "mia_members": write_texts(tmp_path / "members.jsonl", [*of_shadow, *fresh[:20]]),
        "mia_nonmembers": write_texts(tmp_path / "others.jsonl", [*(r.text for r in others), *fresh[20:]]),
    }
    given = {**AUDIT, **{name: str(path) for name, path in files.items()}, "mia_block_size": 0}
    task = load_task(
        "loss_mia_custom",
        {"pretrained": str(base)},
        {**given, "mia_shadow": str(first[0]), "mia_cache_dir": str(tmp_path)},
    )
    found = barred(task.registry.attack("learned", task.settings), task.data)
    texts = {record.id: record.text for record in task.data.records}
    own = {record.text for record in (*members, *others)}
    assert {texts[key] for key in found.records} == own & set(texts.values())
    assert len(found.records) >= 12


# Again


def test_what_is_finished_is_not_made_again(first, config, nothing_more):
    output, _, made = first
    before, said = (output / FILE).read_bytes(), []
    again = make_shadows(config(output), said.append)
    assert (output / FILE).read_bytes() == before
    assert again.fitted.auroc == made.fitted.auroc
    assert "1 of 1 shadows are there already" in said


def copied(first, tmp_path):
    return Path(shutil.copytree(first[0], tmp_path / "copy"))


def test_one_more_shadow_makes_that_one_alone(first, config, tmp_path, monkeypatch):
    output, asked = copied(first, tmp_path), []
    real = shadow_run.finetune
    monkeypatch.setattr(shadow_run, "finetune", lambda c, *rest: (asked.append(c.output.name), real(c, *rest)))
    made = make_shadows(config(output, shadows=2), lambda line: None)
    assert asked == ["shadow_2"]
    assert made.fitted.weights.card.records == 214
    one, two = (set().union(*texts_of(output / f"shadow_{k}").values()) for k in (1, 2))
    assert not one & two
    assert [each["seed"] for each in made.fitted.weights.card.audits] == [1, 2]


def test_a_run_that_ended_before_its_audit_goes_on_there(first, config, tmp_path, monkeypatch):
    """As after kill -9: the target of the step is whole, and its mark is not."""
    output = copied(first, tmp_path)
    for name in (FILE, "shadow_1.npz"):
        (output / name).unlink()
    monkeypatch.setattr(shadow_run, "finetune", lambda *_: pytest.fail("trained again"))
    made = make_shadows(config(output), lambda line: None)
    assert made.fitted.weights.digest == first[2].fitted.weights.digest


def test_features_of_another_version_are_made_anew(first, config, tmp_path, monkeypatch):
    output = copied(first, tmp_path)
    seen = shadow_run.read_table(output / "shadow_1.npz")
    shadow_run.write_table(output / "shadow_1.npz", dataclasses.replace(seen, names=("old", *seen.names[1:])))
    monkeypatch.setattr(shadow_run, "finetune", lambda *_: pytest.fail("trained again"))
    assert make_shadows(config(output), lambda line: None).fitted.weights.digest == first[2].fitted.weights.digest


# What it refuses


def refused(config, message):
    with pytest.raises(SpvmiaError, match=message) as error:
        make_shadows(config, lambda line: None)
    assert "\n" not in str(error.value)
    assert not any(text[:20] in str(error.value) for text in TEXTS)


@pytest.mark.parametrize(
    ("more", "differs"),
    [
        ({"metadata": {**AUDIT, "mia_self_prompts": 21}}, "mia_self_prompts"),
        ({"metadata": {**AUDIT, "mia_candidate": "none"}}, "mia_candidate"),
        ({"data": "own.jsonl"}, "data: spec"),
        ({"metadata": {**AUDIT, "mia_max_samples": 51}}, "mia_max_samples"),
        ({"metadata": {**AUDIT, "mia_seed": 1}}, "mia_seed"),
    ],
)
def test_another_audit_or_other_data_in_the_same_folder(first, config, target, nothing_more, more, differs):
    if "data" in more:
        shutil.copy(target.parent / "all.jsonl", target.parent / "again.jsonl")
        more = {"data": str(target.parent / "again.jsonl")}
    refused(config(first[0], **more), rf"^--output: expected shadows of this target, .* that differ in {differs}; name")


def test_a_file_that_has_changed_deals_other_documents(first, config, tmp_path, nothing_more):
    """The same path, one more row."""
    output, spec = copied(first, tmp_path), first[2].plan.data
    rows = Path(spec).read_bytes()
    try:
        Path(spec).write_bytes(rows + json.dumps({"text": tiny_texts(1, seed=99)[0]}).encode() + b"\n")
        refused(config(output), "that differ in the documents of --data; name another")
    finally:
        Path(spec).write_bytes(rows)


def test_another_recipe_in_the_same_folder(first, target, tmp_path, nothing_more):
    other = Path(shutil.copytree(target, tmp_path / "other"))
    told = read_manifest(target)
    write_manifest(dataclasses.replace(told, settings={**told.settings, "epochs": 5.0}), other / MANIFEST_NAME)
    data = str(target.parent / "all.jsonl")
    refused(ShadowConfig(other, first[0], data, metadata=AUDIT), "that differ in --epochs; name another")


def test_fewer_documents_for_each_of_more_shadows(first, config, nothing_more):
    """All of them would be smaller, the finished one too."""
    refused(config(first[0], shadows=3), "^--data: all.jsonl: expected text for at least 360 documents")


def test_too_few_documents_are_left_of_the_targets_own(target, tmp_path):
    refused(
        ShadowConfig(target, tmp_path / "s", metadata=AUDIT),
        r"^--data: own.jsonl: expected text for at least 120 documents .* got 3 from 3 documents, with 127 that the "
        r"target's records hold, 0 near copies of those, 0 repeats left out; name more data$",
    )


def test_a_file_that_stands_in_for_the_targets_data_set(target, tmp_path):
    told = read_manifest(target)
    other = Path(shutil.copytree(target, tmp_path / "other"))
    named = dataclasses.replace(told, data=dataclasses.replace(told.data, spec="ag_news"))
    write_manifest(named, other / MANIFEST_NAME)
    options = {**AUDIT, "mia_dataset_path": str(target.parent / "own.jsonl")}
    refused(ShadowConfig(other, tmp_path / "s", metadata=options), "got 3 from 3 documents, with 127 that the target's")


def test_documents_of_the_candidate_reference_are_left_out_too(config, target, tmp_path):
    held_out = write_texts(tmp_path / "candidate.jsonl", TEXTS[200:230])
    options = {**AUDIT, "mia_candidate": str(held_out)}
    plans = [
        ShadowPlan.of(
            config(tmp_path / "s", metadata=each), read_manifest(target), load_registry(), None, lambda _: None, []
        )
        for each in (AUDIT, options)
    ]
    assert plans[1].found.same - plans[0].found.same == 30
    used = {f"all.jsonl:{row}" for row in range(4 + 200 - TARGETS_OWN + 1, 4 + 230 - TARGETS_OWN + 1)}
    assert plans[0].shares[0].ids & used
    assert not plans[1].shares[0].ids & used


def test_the_documents_of_the_candidate_reference_are_part_of_what_a_folder_is_for(config, target, tmp_path):
    held_out = tmp_path / "candidate.jsonl"
    options = {**AUDIT, "mia_candidate": str(held_out)}
    told = []
    for texts in (tiny_texts(30, seed=5), tiny_texts(30, seed=6)):
        write_texts(held_out, texts)
        asked = config(tmp_path / "s", metadata=options)
        told.append(ShadowPlan.of(asked, read_manifest(target), load_registry(), None, lambda _: None, []).identity())
    assert shadow_run._differing(*told) == ["the documents of mia_candidate"]
    assert "candidate" not in json.dumps(told[0]["candidate"])


def test_a_limit_that_cuts_nothing_is_no_difference(first):
    plan = first[2].plan
    alike, fewer = (dataclasses.replace(plan.settings, max_samples=most) for most in (55, 54))
    assert dataclasses.replace(plan, settings=alike).identity() == plan.identity()
    assert dataclasses.replace(plan, settings=fewer).identity() != plan.identity()


def test_a_target_without_a_manifest(config, base, tmp_path):
    refused(dataclasses.replace(config(tmp_path / "s"), target=base), "^--target: expected a manifest")
    refused(dataclasses.replace(config(tmp_path / "s"), target=tmp_path / "no"), "^--target: expected a manifest")


def test_a_base_that_is_not_there(config, target, tmp_path):
    other = Path(shutil.copytree(target, tmp_path / "other"))
    write_manifest(dataclasses.replace(read_manifest(target), base_model=str(tmp_path / "gone")), other / MANIFEST_NAME)
    refused(dataclasses.replace(config(tmp_path / "s"), target=other), "^--model: no model with a tokenizer could be")


def test_a_small_target(config, target, tmp_path):
    told = read_manifest(target)
    other = Path(shutil.copytree(target, tmp_path / "other"))
    fewer = {**told.records, "members": told.records["members"][:49]}
    write_manifest(dataclasses.replace(told, records=fewer), other / MANIFEST_NAME)
    refused(dataclasses.replace(config(tmp_path / "s"), target=other), "expected at least 50 members, got 49")


def test_a_folder_with_other_files_and_a_file(config, target, tmp_path):
    refused(config(target), "^--output: expected a new or empty folder, or one that 'spvmia shadow' made")
    refused(config(target.parent / "own.jsonl"), "^--output: expected a folder, got the file")


@pytest.mark.parametrize("content", ["", "[]", '{"format": 2}', "nonsense"])
def test_a_mark_that_is_none(config, tmp_path, content):
    (tmp_path / "shadow.json").write_text(content)
    refused(config(tmp_path), r"^--output: .*shadow.json")


@pytest.mark.parametrize("content", [b"", b"PK", b"nonsense"])
def test_features_that_cannot_be_read(first, config, tmp_path, nothing_more, content):
    output = copied(first, tmp_path)
    (output / "shadow_1.npz").write_bytes(content)
    refused(config(output), r"^--output: .*shadow_1.npz: expected what an audit of a shadow saw, .* remove it")


@pytest.mark.parametrize(
    "part",
    [
        {"table": np.zeros((50, 166), dtype=np.float32)},
        {"table": "half"},
        {"table": "text"},
        {"labels": "text"},
        {"labels": np.zeros((107, 1), dtype=np.bool_)},
        {"clusters": np.array(["a"] * 50)},
        {"records": np.array(["a"] * 50)},
        {"told": np.array("[]")},
        {"names": np.array(["a"])},
    ],
)
def test_features_whose_parts_do_not_belong_together(first, tmp_path, part):
    with np.load(first[0] / "shadow_1.npz") as file:
        parts = {name: file[name] for name in file.files}
    (name, value), path = next(iter(part.items())), tmp_path / "shadow_1.npz"
    if isinstance(value, str):
        value = parts[name][:50] if value == "half" else parts[name].astype(str)
    np.savez_compressed(path, **{**parts, name: value})
    with pytest.raises(
        SpvmiaError, match=r"^--output: .*shadow_1.npz: expected what an audit of a shadow saw, .* remove it"
    ):
        shadow_run.read_table(path)


def test_a_disk_that_is_full(config, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shadow_run, "write_private", full)
    refused(config(tmp_path / "s"), r"^--output: cannot write to .* \(No space left on device\); name another folder")


def test_what_a_library_quotes_of_a_text_is_not_told(config, tmp_path, monkeypatch):
    def quoting(documents, *_, **__):
        raise ValueError(f"cannot read {documents[0].text}")

    monkeypatch.setattr("spvmia_plugin.shadow.plan.untouched", quoting)
    refused(config(tmp_path / "s"), "^--data: ")


@pytest.mark.parametrize("count", [0, -1, 65])
def test_a_number_of_shadows_that_is_none(target, tmp_path, count):
    with pytest.raises(SpvmiaError, match=f"^--shadows: expected a whole number >= 1 and <= 64, got {count}"):
        ShadowConfig(target, tmp_path, shadows=count)


@pytest.mark.parametrize("key", ["mia_unit_column", "mia_members", "mia_manifest", "mia_shadow", "mia_block_size"])
def test_options_that_say_what_is_audited(target, tmp_path, key):
    with pytest.raises(SpvmiaError, match=f"^--metadata: .* got {key}: a shadow has that from --data"):
        ShadowConfig(target, tmp_path, metadata={key: "x"})


def test_a_view_that_hides_what_weights_are_fitted_on(target, tmp_path):
    with pytest.raises(SpvmiaError, match=r"^--metadata: expected 'full' as mia_api_view, got 'rounded:2'"):
        ShadowConfig(target, tmp_path, metadata={"mia_api_view": "rounded:2"})
    assert ShadowConfig(target, tmp_path, metadata={"mia_api_view": "full"}).shadows == 1


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"mia_reference": "/no/such"}, "^mia_reference: expected a causal language model"),
        ({"mia_lora_targets": "nolayer"}, "^mia_lora_targets: expected modules of the model, got 'nolayer'"),
        ({"mia_prompt_tokens": 500}, "^mia_prompts: expected documents of at least 500 tokens"),
        ({"mia_max_samples": 5}, "^mia_max_samples: expected at least 20 records of a class, got 5"),
    ],
)
def test_what_the_audit_would_refuse_is_refused_before_any_training(config, tmp_path, nothing_more, option, message):
    refused(config(tmp_path / "s", metadata={**AUDIT, **option}), message)
    assert list((tmp_path / "s").iterdir()) == []  # the corrected command finds a free folder


def test_few_long_documents_are_refused_before_a_shadow_is_trained(config, target, tmp_path, nothing_more, monkeypatch):
    monkeypatch.setattr("spvmia_plugin.shadow.plan.FOLDS", 53)
    refused(
        config(tmp_path / "s"),
        "^--data: expected nonmembers of at least 53 documents, which folds can be made of, got 52 records of 52 in "
        "shadow 1; name data of shorter documents",
    )


def test_what_an_audit_saw_too_little_of_is_not_kept(first, config, tmp_path, monkeypatch):
    output = copied(first, tmp_path)
    seen = shadow_run.read_table(output / "shadow_1.npz")
    few = np.flatnonzero(seen.labels)[:4].tolist() + np.flatnonzero(~seen.labels).tolist()
    fitted = dataclasses.replace(seen.fitted, records=tuple(seen.fitted.records[row] for row in few))
    little = dataclasses.replace(fitting.some(seen, np.array(few)), fitted=fitted)
    shadow_run.write_table(output / "shadow_1.npz", little)
    before = (output / "shadow_1.npz").read_bytes()
    reasons = {"the target is the base": 51}
    monkeypatch.setattr(shadow_run.Shadows, "_audit", lambda *_: (little, reasons))
    refused(
        config(output),
        "^--metadata: expected of shadow 1 at least 5 documents of each class, which folds can be made of, got 4; "
        r"without features: the target is the base \(51 records\); change",
    )
    assert (output / "shadow_1.npz").read_bytes() == before


def test_a_table_of_an_earlier_version_says_too_little(first, tmp_path):
    with np.load(first[0] / "shadow_1.npz") as file:
        old = {name: file[name] for name in ("names", "table", "labels", "clusters", "about")}
        told = json.loads(str(file["told"]))
        records = file["records"]
    np.savez_compressed(tmp_path / "shadow_1.npz", **old)
    assert shadow_run.read_table(tmp_path / "shadow_1.npz") is None
    del told["format"]  # its hashes are of another kind
    np.savez_compressed(tmp_path / "shadow_1.npz", **old, records=records, told=np.array(json.dumps(told)))
    assert shadow_run.read_table(tmp_path / "shadow_1.npz") is None


def test_options_that_nobody_knows(config, tmp_path):
    refused(config(tmp_path / "s", metadata={"mia_self_promts": 3}), "^mia_self_promts: unknown option")


def test_a_task_that_is_none():
    with pytest.raises(SpvmiaError, match=r"^--tasks: expected the name of an audit task, got .no_such."):
        load_task("no_such", {}, {})


# The command


def run(*arguments):
    return CliRunner().invoke(make_app(), ["shadow", *map(str, arguments)])


def test_the_command_prints_one_json_object(first, target, nothing_more):
    data = target.parent / "all.jsonl"
    rest = {key: value for key, value in AUDIT.items() if key != "mia_preset"}
    result = run(
        *(
            "--target",
            target,
            "--data",
            data,
            "--output",
            first[0],
            "--preset",
            "quick",
            "--metadata",
            json.dumps(rest),
        ),
        *("--device", "cpu", "--json", "--quiet"),
    )
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["weights"] == str(first[0] / FILE)
    assert told["sizes"] == {"members": 55, "nonmembers": 52, "prompts": 20}
    assert told["auroc_in_folds"] == first[2].fitted.auroc
    assert result.stderr == ""


def test_a_preset_that_is_none_is_told_by_its_option(target, tmp_path):
    result = run("--target", target, "--output", tmp_path / "s", "--preset", "nope")
    assert result.exit_code == 1
    assert result.stderr == "--preset: expected one of quick, standard, paper, got 'nope'; correct it\n"


def test_options_in_another_form_are_refused(target, tmp_path):
    result = run("--target", target, "--output", tmp_path / "s", "--metadata", "mia_self_prompts=3")
    assert result.exit_code == 1
    assert result.stderr.startswith("--metadata: expected a JSON object, got text in the form key=value")


@pytest.mark.slow
def test_a_target_of_all_weights(base, tmp_path):
    data = write_texts(tmp_path / "d.jsonl", tiny_texts(300, words=(12, 18)))
    config = FinetuneConfig(
        str(base),
        str(data),
        tmp_path / "target",
        method="full",
        members=50,
        nonmembers=50,
        prompts=20,
        epochs=1,
        lr=1e-3,
        block_size=0,
        quiet=True,
    )
    finetune(config)
    made = make_shadows(ShadowConfig(tmp_path / "target", tmp_path / "s", metadata=AUDIT, device="cpu"), lambda _: None)
    assert made.fitted.variant == "both"
    assert (tmp_path / "s" / "shadow_1" / "config.json").is_file()
    assert f"pretrained={tmp_path / 'target'}" in made.command
