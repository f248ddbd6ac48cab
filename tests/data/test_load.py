from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest

from spvmia_plugin import __version__, hookimpl
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.data.load import load_audit_data, load_canaries
from spvmia_plugin.data.manifest import MANIFEST_NAME, write_manifest
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.plugins import load_registry
from spvmia_plugin.protocols import DatasetSource
from spvmia_plugin.records import AuditData
from tests.data.builders import NoTokenizer, corpus, write_texts
from tests.data.test_manifest import make_manifest
from tests.tiny import tiny_texts, tiny_tokenizer


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def config(**options: Any) -> AuditConfig:
    return AuditConfig.from_metadata({f"mia_{k}": str(v) if isinstance(v, Path) else v for k, v in options.items()})


def load(
    settings: AuditConfig, dataset: str = "custom", *, tokenizer: Any = None, target: Path | None = None
) -> AuditData:
    return load_audit_data(
        settings,
        dataset,
        registry=None,
        tokenizer=tokenizer or NoTokenizer(),
        target_dirs=[target] if target else [],
    )


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return {
        "members": corpus(tmp_path / "m.jsonl", 60, seed=1),
        "nonmembers": corpus(tmp_path / "n.jsonl", 60, seed=2),
        "prompts": corpus(tmp_path / "p.jsonl", 10, seed=3),
        "candidate": corpus(tmp_path / "c.jsonl", 30, seed=4),
    }


# --- the user's own files ---


def test_declared_files_become_records(files: dict[str, Path]) -> None:
    data = load(config(**files, block_size=16), tokenizer=tiny_tokenizer)
    assert data.membership == "declared"
    assert {record.id.partition(":")[0] for record in data.members} == {"m.jsonl"}
    assert {record.id.partition(":")[0] for record in data.nonmembers} == {"n.jsonl"}
    assert len(data.prompts) == 10
    assert data.candidate
    assert data.source == "m.jsonl + n.jsonl + p.jsonl"
    assert data.block_size == 16
    tokenizer = tiny_tokenizer()
    assert {len(tokenizer(record.text)["input_ids"]) for record in data.records} == {16}
    labels = [record.is_member for record in data.records]
    assert labels != sorted(labels, reverse=True)  # shuffled: `--limit` and ranks take slices


def test_loading_is_deterministic_and_follows_the_seed(files: dict[str, Path]) -> None:
    def get(seed: int) -> AuditData:
        return load(config(**files, block_size=0, max_samples=30, seed=seed))

    assert get(1) == get(1)
    assert get(1).records != get(2).records
    assert {r.id for r in get(1).records} != {r.id for r in get(2).records}


def test_whole_documents_need_no_tokenizer(files: dict[str, Path]) -> None:
    data = load(config(members=files["members"], nonmembers=files["nonmembers"], block_size=0))
    assert (len(data.members), len(data.nonmembers), len(data.prompts)) == (60, 45, 15)
    assert {r.text for r in data.records}.isdisjoint(p.text for p in data.prompts)
    assert data.provenance["counts"] == {
        "documents": 120,
        "empty_rows": 0,
        "duplicate_documents": 0,
        "blocks_of_other_length_alone": 0,
        "ends_of_documents_dropped": 0,
    }


def test_the_fingerprint_follows_data_and_user(files: dict[str, Path], tmp_path: Path) -> None:
    def get(**options: Any) -> str:
        return load(config(**files, block_size=0, **options)).fingerprint

    first = get()
    assert get(seed=7) == first  # same data in another order; prompts are given
    assert get(max_samples=40) != first
    assert get(cache_dir=tmp_path / "other") != first


def test_files_of_one_name_keep_their_ids_apart(tmp_path: Path) -> None:
    for name, seed in (("in", 1), ("out", 2)):
        (tmp_path / name).mkdir()
        corpus(tmp_path / name / "d.jsonl", 40, seed=seed)
    data = load(config(members=tmp_path / "in/d.jsonl", nonmembers=tmp_path / "out/d.jsonl", block_size=0))
    assert len({record.id for record in data.records}) == len(data.records)
    assert data.members[0].id.startswith("in/d.jsonl:")


@pytest.mark.parametrize(("missing", "words"), [("members", "trained on"), ("nonmembers", "not trained on")])
def test_a_class_without_a_file(files: dict[str, Path], missing: str, words: str) -> None:
    del files[missing]
    with pytest.raises(
        SpvmiaError, match=f"^mia_{missing}: expected a file of records the target was {words}, got none"
    ):
        load(config(**files))


def test_one_text_in_both_classes_names_both_ids(files: dict[str, Path]) -> None:
    write_texts(files["nonmembers"], [*tiny_texts(30, seed=2), tiny_texts(8, seed=1)[7] + "\n"])
    with pytest.raises(SpvmiaError, match=r"^mia_nonmembers: n.jsonl:31 is the same text as m.jsonl:8 of the members"):
        load(config(**files))


def test_prompts_that_are_audited(files: dict[str, Path]) -> None:
    write_texts(files["prompts"], [*tiny_texts(3, seed=9), tiny_texts(5, seed=2)[4]])
    with pytest.raises(SpvmiaError, match=r"^mia_prompts: p.jsonl:4 is the same text as n.jsonl:5 of the non-members"):
        load(config(**files))


@pytest.mark.parametrize(("seed", "what"), [(1, "the members"), (2, "the non-members"), (3, "the prompts")])
def test_candidate_data_used_elsewhere(files: dict[str, Path], seed: int, what: str) -> None:
    write_texts(files["candidate"], [*tiny_texts(30, seed=9), tiny_texts(5, seed=seed)[4]])
    with pytest.raises(SpvmiaError, match=rf"^mia_candidate: c.jsonl:31 is the same text as ..jsonl:5 of {what}"):
        load(config(**files))


def test_without_candidate_data_the_prompts_documents_are_cut_like_the_records(files: dict[str, Path]) -> None:
    """Each document as a whole, where a prompt is its beginning; as many records as self-prompts."""
    del files["candidate"]
    tokenizer = tiny_tokenizer()
    data = load(config(**files, block_size=16, self_prompts=12), tokenizer=tiny_tokenizer)
    assert not data.candidate
    assert data.of_candidate == data.held_out
    assert len(data.held_out) == 12 > len(data.prompts) == 10
    assert {len(tokenizer(each.text)["input_ids"]) for each in data.held_out} == {16}
    assert {each.id.partition(":")[0] for each in data.held_out} == {"p.jsonl"}
    whole = load(config(**files, block_size=0, self_prompts=7))
    assert {each.text for each in whole.held_out} < {each.text for each in whole.prompts}
    assert len(whole.held_out) == 7
    assert [each.id for each in whole.held_out] != [each.id for each in whole.prompts[:7]]  # drawn, not the first ones


def test_held_out_documents_shorter_than_a_record_stay_as_they_are(files: dict[str, Path]) -> None:
    del files["candidate"]
    write_texts(files["prompts"], ["short", "shorter"])
    data = load(config(**files, block_size=16), tokenizer=tiny_tokenizer)
    assert [each.text for each in data.held_out] == ["short", "shorter"]


def test_candidate_data_take_the_place_of_the_held_out_ones_and_none_of_any(files: dict[str, Path]) -> None:
    named = load(config(**files, block_size=0))
    assert not named.held_out
    assert named.of_candidate == named.candidate
    del files["candidate"]
    assert load(config(**files, block_size=0, candidate="none")).of_candidate == ()
    assert (
        load(config(**files, block_size=0)).fingerprint
        == load(config(**files, candidate="none", block_size=0)).fingerprint
    )


def test_a_share_of_the_nonmembers_is_held_out_where_nothing_is_named(files: dict[str, Path]) -> None:
    data = load(config(members=files["members"], nonmembers=files["nonmembers"], block_size=0))
    assert {each.text for each in data.held_out} == {each.text for each in data.prompts}
    assert {each.text for each in data.held_out}.isdisjoint(record.text for record in data.records)


def test_candidate_data_too_short_for_a_record(files: dict[str, Path]) -> None:
    write_texts(files["candidate"], ["short"])
    with pytest.raises(SpvmiaError, match=r"^mia_candidate: .*expected text for at least one record of 16 tokens"):
        load(config(**files, block_size=16), tokenizer=tiny_tokenizer)


@pytest.mark.parametrize("name", ["members", "nonmembers"])
def test_too_few_records_of_a_class(files: dict[str, Path], name: str) -> None:
    write_texts(files[name], tiny_texts(19, seed=8))
    with pytest.raises(SpvmiaError, match=rf"^mia_{name}: .*: expected at least 20 records, got \d+ from 19 documents"):
        load(config(**files, block_size=0))


def test_too_few_records_for_the_block_size(files: dict[str, Path]) -> None:
    with pytest.raises(
        SpvmiaError, match=r"expected at least 20 records of 4000 tokens, got 1 .* lower mia_block_size"
    ):
        load(config(**files, block_size=4000), tokenizer=tiny_tokenizer)


def test_max_samples_below_the_least(files: dict[str, Path]) -> None:
    with pytest.raises(SpvmiaError, match=r"^mia_max_samples: expected at least 20 records of a class, got 5"):
        load(config(**files, max_samples=5))


def test_data_are_checked_before_the_tokenizer_is_asked_for(files: dict[str, Path], tmp_path: Path) -> None:
    for name, option in (("prompts", "mia_prompts"), ("candidate", "mia_candidate"), ("nonmembers", "mia_nonmembers")):
        broken = {**files, name: tmp_path / "gone.jsonl"}
        with pytest.raises(SpvmiaError, match=f"^{option}: .*no such file"):
            load(config(**broken))
        with pytest.raises(SpvmiaError, match="expected a column 'body', got 'text'"):
            load(config(**files, text_column="body"))


def test_a_stand_in_has_no_meaning_beside_declared_files(files: dict[str, Path]) -> None:
    with pytest.raises(SpvmiaError, match=r"^mia_dataset_path: it stands in for a public data set"):
        load(config(**files, dataset_path=files["members"]))


# --- public data ---


def test_a_stand_in_for_public_data_is_split_and_only_assumed(tmp_path: Path) -> None:
    path = corpus(tmp_path / "wiki.jsonl", 200)
    data = load(config(dataset_path=path, block_size=0), "wikitext")
    assert data.membership == "assumed"
    assert (len(data.members), len(data.nonmembers), len(data.prompts)) == (80, 80, 40)
    assert data.source == "wiki.jsonl"


def test_data_say_whose_data_set_they_are(tmp_path: Path, files: dict[str, Path]) -> None:
    registry = load_registry(entry_points=False)
    plugin = SimpleNamespace(spvmia_register_datasets=hookimpl(lambda: [DatasetSource("letters", "acme/letters")]))
    registry.manager.register(plugin, name="of-letters")
    stand_in = {"dataset_path": corpus(tmp_path / "l.jsonl", 200), "block_size": 0}
    for name, options, maker in (
        ("letters", stand_in, "of-letters"),
        ("wikitext", stand_in, f"spvmia-plugin {__version__}"),
        ("custom", {**files, "block_size": 0}, ""),
    ):
        arguments = {"registry": registry, "tokenizer": NoTokenizer(), "target_dirs": []}
        assert load_audit_data(config(**options), name, **arguments).maker == maker


def test_the_papers_split_of_a_stand_in(tmp_path: Path) -> None:
    path = corpus(tmp_path / "wiki.jsonl", 300)
    settings = config(dataset_path=path, block_size=16, split="paper", max_samples=30, self_prompts=20)
    data = load(settings, "wikitext", tokenizer=tiny_tokenizer)
    rows = sorted(int(r.cluster.rpartition(":")[2]) for r in data.members)
    assert rows[0] == 1
    assert min(int(r.cluster.rpartition(":")[2]) for r in data.nonmembers) == 271
    assert len(data.prompts) == 20
    assert "reach into the next cluster" in str(data.provenance["cluster_rule"])


def test_given_prompts_and_candidates_are_left_out_of_a_public_pool(tmp_path: Path, files: dict[str, Path]) -> None:
    texts = tiny_texts(200)
    path = write_texts(tmp_path / "d.jsonl", [*texts, *tiny_texts(10, seed=3), *tiny_texts(30, seed=4)])
    settings = config(dataset_path=path, prompts=files["prompts"], candidate=files["candidate"], block_size=0)
    data = load(settings, "ag_news")
    assert {p.text for p in data.prompts} == set(tiny_texts(10, seed=3))
    held = {p.text for p in (*data.prompts, *data.candidate)}
    assert held.isdisjoint(record.text for record in data.records)
    counts = data.provenance["counts"]
    assert isinstance(counts, dict)
    assert counts["documents_that_are_prompts_or_candidate"] == 40
    held_out = load(config(dataset_path=path, prompts=files["prompts"], block_size=0), "ag_news").held_out
    assert {each.text for each in held_out} == set(tiny_texts(10, seed=3))
    drawn = load(config(dataset_path=path, block_size=0), "ag_news")
    assert drawn.held_out == drawn.prompts


def test_too_few_documents_for_the_split(tmp_path: Path) -> None:
    path = corpus(tmp_path / "d.jsonl", 40)
    with pytest.raises(SpvmiaError, match=r"^mia_dataset_path: d.jsonl: .* got 40 documents, enough for 16, 16 and 8"):
        load(config(dataset_path=path, block_size=0), "xsum")


def test_public_data_come_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(name: str, config: str | None, *, split: str, trust_remote_code: bool) -> Any:
        assert trust_remote_code is False
        assert (name, config, split) == ("fancyzhx/ag_news", None, "train")
        return datasets.Dataset.from_dict({"text": tiny_texts(100)})

    monkeypatch.setattr(datasets, "load_dataset", fake)
    data = load(config(block_size=0), "ag_news")
    assert data.source == "hf:fancyzhx/ag_news:train"
    assert data.records[0].id.startswith("fancyzhx/ag_news:train:")


def test_the_hub_out_of_reach_names_the_option_for_a_local_file() -> None:
    with pytest.raises(SpvmiaError, match=r"^data set wikitext: the hub cannot be reached .*with mia_dataset_path"):
        load(config(), "wikitext")
    with pytest.raises(SpvmiaError, match=r"^mia_members: the hub cannot be reached .*with mia_members"):
        load(config(members="hf:org/data", nonmembers="hf:org/data:test"))


def test_an_unknown_data_set() -> None:
    with pytest.raises(
        SpvmiaError, match=r"expected one of custom, wikitext, .* got 'wikitex' \(did you mean 'wikitext'"
    ):
        load(config(), "wikitex")


# --- one file of both classes, and shards ---


def labelled(path: Path, n: int = 60) -> Path:
    """As WikiMIA has it."""
    rows = ({"input": text, "label": i % 2} for i, text in enumerate(tiny_texts(n)))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_one_file_of_both_classes_is_split_by_its_label(tmp_path: Path) -> None:
    path = labelled(tmp_path / "wikimia.jsonl", 100)
    data = load(config(members=path, nonmembers=path, text_column="input", block_size=0))
    assert {int(record.id.rpartition(":")[2]) % 2 for record in data.members} == {0}  # rows from 1, labels from 0
    assert {int(record.id.rpartition(":")[2]) % 2 for record in data.nonmembers} == {1}
    assert (len(data.members), data.source) == (50, "wikimia.jsonl")
    assert data.provenance["labels"] == "column 'label': 1 is a member, 0 is none"


def test_labels_of_two_files_are_somebody_elses(tmp_path: Path) -> None:
    """A sentiment, say."""
    one, two = labelled(tmp_path / "m.jsonl"), tmp_path / "n.jsonl"
    two.write_text("".join(json.dumps({"input": text, "label": 3}) + "\n" for text in tiny_texts(60, seed=2)))
    data = load(config(members=one, nonmembers=two, text_column="input", block_size=0))
    assert len(data.members) == 60
    assert "labels" not in data.provenance


def test_one_file_in_both_classes_without_a_label(files: dict[str, Path]) -> None:
    with pytest.raises(
        SpvmiaError, match=r"^mia_members: .*m.jsonl, row 1: expected a column 'label', got 'text'; a f"
    ):
        load(config(members=files["members"], nonmembers=files["members"]))


def test_shards_of_both_classes_keep_their_ids_apart(tmp_path: Path) -> None:
    for name, seed in (("in", 1), ("out", 2)):
        (tmp_path / name).mkdir()
        for number in range(2):
            corpus(tmp_path / name / f"{number}.jsonl", 30, seed=10 * seed + number)
    (tmp_path / "in" / "0.jsonl").rename(tmp_path / "in" / "2.jsonl")
    data = load(config(members=tmp_path / "in", nonmembers=f"{tmp_path}/out/*.jsonl", block_size=0))
    assert {r.id.rpartition(":")[0] for r in data.members} == {"in/1.jsonl", "in/2.jsonl"}
    assert {r.id.rpartition(":")[0] for r in data.nonmembers} == {"out/0.jsonl", "out/1.jsonl"}
    assert len({r.id for r in data.records}) == len(data.records)
    assert data.source == "in + *.jsonl"


# --- a target with a manifest ---


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    manifest, _ = make_manifest(corpus(tmp_path / "d.jsonl", 200))
    write_manifest(manifest, folder / MANIFEST_NAME)
    return folder


def test_a_manifest_beside_the_weights_is_found_and_wins(target: Path) -> None:
    data = load(config(), target=target)
    assert data.membership == "manifest"
    assert (len(data.members), len(data.nonmembers), len(data.prompts)) == (25, 24, 10)
    assert (data.block_size, data.base_model, data.source) == (16, "org/base", "d.jsonl")
    assert load(config(manifest=target / MANIFEST_NAME)).fingerprint == data.fingerprint


def test_max_samples_cuts_a_manifest_by_seed(target: Path) -> None:
    one, two = (load(config(max_samples=20, seed=seed), target=target) for seed in (0, 1))
    assert len(one.members) == len(one.nonmembers) == 20
    assert {r.id for r in one.records} != {r.id for r in two.records}


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("members", "x.jsonl", "names the records itself"),
        ("nonmembers", "x.jsonl", "names the records itself"),
        ("prompts", "x.jsonl", "names the records itself"),
        ("split", "paper", "says 'random'"),
        ("block_size", 128, "says 16"),
        ("text_column", "body", "says 'text'"),
    ],
)
def test_options_that_contradict_the_manifest(target: Path, option: str, value: Any, says: str) -> None:
    with pytest.raises(SpvmiaError, match=rf"^mia_{option}: the manifest .* {says}, got "):
        load(config(**{option: value}), target=target)


def test_options_that_agree_with_the_manifest(target: Path) -> None:
    data = load(config(split="random", block_size=16, text_column="text"), target=target)
    assert data.membership == "manifest"


def test_a_target_of_other_data_is_not_audited_on_public_data(target: Path, tmp_path: Path) -> None:
    with pytest.raises(SpvmiaError, match=r"fine-tuned on d.jsonl, expected ag_news; run the task on 'custom'"):
        load(config(), "ag_news", target=target)
    data = load(config(dataset_path=tmp_path / "d.jsonl"), "ag_news", target=target)
    assert data.membership == "manifest"
    with pytest.raises(SpvmiaError, match="expected the data the target was fine-tuned on"):
        load(config(dataset_path=corpus(tmp_path / "e.jsonl", 200, seed=5)), "ag_news", target=target)


@pytest.mark.parametrize("spec", ["ag_news", "hf:fancyzhx/ag_news:train"])
def test_a_target_of_the_public_data_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_dict({"text": tiny_texts(200)})
    )
    manifest, _ = make_manifest(tmp_path / "d.jsonl")
    origin = dataclasses.replace(manifest.data, spec=spec)
    write_manifest(dataclasses.replace(manifest, data=origin), tmp_path / MANIFEST_NAME)
    assert load(config(), "ag_news", target=tmp_path).membership == "manifest"
    with pytest.raises(SpvmiaError, match="expected wikitext"):
        load(config(), "wikitext", target=tmp_path)


def test_a_manifest_with_too_few_records(target: Path, tmp_path: Path) -> None:
    manifest, _ = make_manifest(tmp_path / "d.jsonl")
    few = {**manifest.records, "nonmembers": manifest.records["nonmembers"][:5]}
    write_manifest(dataclasses.replace(manifest, records=few), target / MANIFEST_NAME)
    with pytest.raises(SpvmiaError, match=r"^mia_manifest: .*expected at least 20 nonmembers, got 5; fine-tune again"):
        load(config(), target=target)


def test_candidate_data_beside_a_manifest_are_held_against_its_documents(target: Path, files: dict[str, Path]) -> None:
    data = load(config(candidate=files["candidate"]), target=target, tokenizer=tiny_tokenizer)
    assert data.candidate
    assert not data.held_out
    own = load(config(self_prompts=3), target=target)
    assert own.held_out == own.prompts[:3]
    member_row = int(load(config(), target=target).members[0].cluster.rpartition(":")[2])
    write_texts(files["candidate"], [*tiny_texts(9, seed=4), tiny_texts(200)[member_row - 1]])
    with pytest.raises(
        SpvmiaError, match=rf"^mia_candidate: c.jsonl:10 is the same text as d.jsonl:{member_row} of the"
    ):
        load(config(candidate=files["candidate"]), target=target, tokenizer=tiny_tokenizer)


def test_canaries_are_audited_alone(target: Path) -> None:
    data = load_canaries(config(max_samples=20), target_dirs=[target])
    assert (len(data.members), len(data.nonmembers)) == (4, 4)
    assert data.provenance["canaries"] == {"number": 8, "included": 4, "probability": 0.5, "kind": "natural"}
    ids = {record.id for record in load(config(), target=target).records}
    assert ids.isdisjoint(record.id for record in data.records)


def test_canaries_that_are_not_there(target: Path, tmp_path: Path) -> None:
    with pytest.raises(SpvmiaError, match=r"^mia_manifest: a canary audit expects the manifest .* --canaries M"):
        load_canaries(config())
    manifest, _ = make_manifest(tmp_path / "d.jsonl")
    write_manifest(dataclasses.replace(manifest, records={**manifest.records, "canaries": ()}), target / MANIFEST_NAME)
    with pytest.raises(SpvmiaError, match="expected canaries, got none; fine-tune with 'spvmia finetune --canaries M'"):
        load_canaries(config(), target_dirs=[target])


def test_no_text_shows_in_repr(files: dict[str, Path]) -> None:
    data = load(config(**files, block_size=0))
    assert "ticket" not in repr(data)
    assert "refund" not in repr(data)
