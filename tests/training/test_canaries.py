"""Canaries that are not cut from the data: what they are, where they are written down, what is trained on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import spvmia_plugin.training.finetune
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.data.load import load_canaries
from spvmia_plugin.data.manifest import MANIFEST_NAME, read_manifest, write_manifest
from spvmia_plugin.data.rebuilt import rebuild
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import Record
from spvmia_plugin.training.base_model import BaseModel
from spvmia_plugin.training.canaries import made_canaries
from spvmia_plugin.training.config import FinetuneConfig
from spvmia_plugin.training.finetune import UNFINISHED_NAME, finetune
from tests.data.builders import corpus
from tests.tiny import save_tiny, tiny_texts

MADE = ["sampled", "random"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


@pytest.fixture
def options(base: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "model": str(base),
        "data": str(corpus(tmp_path / "d.jsonl", 200)),
        "output": tmp_path / "target",
        "members": 24,
        "nonmembers": 22,
        "prompts": 21,
        "canaries": 40,
        "block_size": 32,
        "epochs": 1.0,
        "lora_rank": 4,
        "batch_size": 8,
        "quiet": True,
    }


def made(options: dict[str, Any], **changes: Any) -> tuple[Record, ...]:
    config = FinetuneConfig(**options | changes)
    like = [Record(f"d:{i}", text, True, f"d:{i}") for i, text in enumerate(tiny_texts(21))]
    return made_canaries(config, BaseModel.find(config), like)


@pytest.mark.parametrize("kind", MADE)
def test_they_are_different_texts_of_the_records_length_and_of_no_document(options: dict[str, Any], kind: str) -> None:
    from transformers import AutoTokenizer

    found = made(options, canary_kind=kind)
    tokenizer = AutoTokenizer.from_pretrained(options["model"])
    assert len({record.text for record in found}) == len({record.cluster for record in found}) == 40
    assert {len(tokenizer(record.text)["input_ids"]) for record in found} == {32}
    assert not any(record.pieces for record in found)
    assert not any(tokenizer.eos_token in record.text for record in found)


@pytest.mark.parametrize("kind", MADE)
def test_they_follow_the_seed_alone(options: dict[str, Any], kind: str) -> None:
    found = [record.text for record in made(options, canary_kind=kind)]
    assert [record.text for record in made(options, canary_kind=kind)] == found
    assert not {record.text for record in made(options, canary_kind=kind, seed=1)} & set(found)
    fewer = {record.text for record in made(options, canary_kind=kind, canaries=10)}
    assert len(fewer & set(found)) >= 9  # one that is drawn again may come later


def test_whole_documents_have_the_median_length(options: dict[str, Any]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options["model"])
    median = sorted(len(tokenizer(text)["input_ids"]) for text in tiny_texts(21))[10]
    lengths = [len(tokenizer(record.text)["input_ids"]) for record in made(options, canary_kind="random", block_size=0)]
    assert 0.8 * median < min(lengths) <= max(lengths) < 1.2 * median  # cut anew from characters, a text has others


def test_what_the_base_writes_is_likelier_under_it_than_what_nobody_wrote(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """Sampled canaries are the base's own words, though at a high temperature; random ones are nobody's."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trained = finetune(
        FinetuneConfig(
            **options
            | {
                "output": tmp_path / "knows",
                "method": "full",
                "canaries": 0,
                "members": 100,
                "epochs": 20.0,
                "lr": 1e-2,
            }
        )
    )
    tokenizer, model = AutoTokenizer.from_pretrained(trained), AutoModelForCausalLM.from_pretrained(trained)
    losses = {}
    for kind in MADE:
        texts = [record.text for record in made(options, canary_kind=kind, model=str(trained))]
        ids = torch.tensor(tokenizer(texts)["input_ids"])
        with torch.no_grad():
            losses[kind] = model(input_ids=ids, labels=ids).loss.item()
    assert losses["sampled"] < losses["random"] - 0.5


@pytest.mark.parametrize("kind", MADE)
def test_they_are_trained_on_by_their_coins_and_audited_from_the_manifest(
    options: dict[str, Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import spvmia_plugin.training.trainer

    seen: list[list[int]] = []
    train = spvmia_plugin.training.trainer.train

    def spy(model: Any, sequences: Any, *args: Any, **kwargs: Any) -> Any:
        seen.extend(map(list, sequences))
        return train(model, sequences, *args, **kwargs)

    monkeypatch.setattr(spvmia_plugin.training.trainer, "train", spy)
    output = finetune(FinetuneConfig(**options, canary_kind=kind))
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options["model"])
    data = load_canaries(AuditConfig(), target_dirs=[output])
    assert data.provenance["canaries"] == {
        "number": 40, "included": len(data.members), "probability": 0.5, "kind": kind,
    }  # fmt: skip
    assert 8 < len(data.members) < 32
    trained_on = [list(tokenizer(record.text)["input_ids"]) for record in data.records if record.is_member]
    held_out = [list(tokenizer(record.text)["input_ids"]) for record in data.records if not record.is_member]
    assert all(ids in seen for ids in trained_on)
    assert not any(ids in seen for ids in held_out)
    assert len(seen) == 24 + len(trained_on)
    manifest = read_manifest(output)
    assert (manifest.to_json()["format"], manifest.settings["canary_kind"]) == (2, kind)


def test_their_texts_are_the_only_ones_in_the_manifest(options: dict[str, Any]) -> None:
    output = finetune(FinetuneConfig(**options, canary_kind="random"))
    content = json.loads((output / MANIFEST_NAME).read_text())
    assert all(set(row) == {"id", "cluster", "included", "text"} for row in content["canaries"])
    for name in ("members", "nonmembers", "prompts"):
        assert all(set(row) == {"id", "cluster", "pieces"} for row in content[name])
    manifest = read_manifest(output)
    changed = [dict(row) for row in content["canaries"]]
    changed[0]["text"] += "!"
    (output / MANIFEST_NAME).write_text(json.dumps({**content, "canaries": changed}))
    with pytest.raises(SpvmiaError, match="texts or labels differ from its fingerprint"):
        rebuild(read_manifest(output), {})
    assert rebuild(manifest, {})[0]["canaries"] == list(manifest.records["canaries"])


def test_natural_ones_stay_as_they_were(options: dict[str, Any]) -> None:
    output = finetune(FinetuneConfig(**options))
    content = json.loads((output / MANIFEST_NAME).read_text())
    assert (content["format"], content["settings"]["canary_kind"]) == (1, "natural")
    assert all(row["id"].startswith("d.jsonl:") and row["pieces"] for row in content["canaries"])
    del content["settings"]["canary_kind"]  # as earlier versions wrote it
    (output / MANIFEST_NAME).write_text(json.dumps(content))
    found = load_canaries(AuditConfig(), target_dirs=[output]).provenance["canaries"]
    assert isinstance(found, dict)
    assert found["kind"] == "natural"


def test_a_killed_run_goes_on_with_the_canaries_that_it_wrote(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = FinetuneConfig(**options, canary_kind="sampled")
    finished = read_manifest(finetune(config))
    manifest = dataclasses.replace(finished, training={})
    again = {**options, "output": options["output"].with_name("again")}
    again["output"].mkdir()
    write_manifest(manifest, again["output"] / UNFINISHED_NAME)

    def never(*_: Any) -> Any:
        raise AssertionError("they were written before")

    monkeypatch.setattr(spvmia_plugin.training.finetune, "made_canaries", never)
    output = finetune(FinetuneConfig(**again, canary_kind="sampled"))
    assert read_manifest(output).records == manifest.records


# --- bad input ---


def refused(options: dict[str, Any], **changes: Any) -> str:
    with pytest.raises(SpvmiaError) as caught:
        finetune(FinetuneConfig(**options | changes))
    return str(caught.value)


def test_kinds_that_there_are_not(options: dict[str, Any]) -> None:
    expected = "--canary-kind: expected one of natural, sampled, random, got 'planted'"
    assert refused(options, canary_kind="planted").startswith(expected)
    expected = "--canary-kind: expected --canaries M beside it, got sampled and no canaries"
    assert refused(options, canary_kind="sampled", canaries=0).startswith(expected)


def test_too_few_documents_for_natural_ones_and_none_needed_for_others(options: dict[str, Any]) -> None:
    options |= {"block_size": 0, "epochs": 0.1}
    message = refused(options, canaries=190)
    assert message.startswith("--canaries: ")
    assert "expected text for 257 documents in all, got 200 from 200 documents; lower --members" in message
    assert "--canaries or --block-size" in message
    output = finetune(FinetuneConfig(**options | {"canaries": 150, "canary_kind": "random"}))
    assert len(read_manifest(output).records["canaries"]) == 150


def test_a_base_that_cannot_write_so_many(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import spvmia_plugin.training.canaries

    one = [list(range(20, 120))]
    monkeypatch.setattr(spvmia_plugin.training.canaries, "_vocabulary", lambda _: lambda _, seeds: one * len(seeds))
    message = refused(options, canary_kind="random")
    assert message.startswith("--canary-kind: expected 40 different texts of 32 tokens from ")
    assert not options["output"].exists()


def test_a_base_without_a_token_to_begin_with(options: dict[str, Any], base: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "bare"
    shutil.copytree(base, folder)
    told = json.loads((folder / "tokenizer_config.json").read_text())
    bare = {key: value for key, value in told.items() if key not in ("bos_token", "eos_token")}
    (folder / "tokenizer_config.json").write_text(json.dumps(bare))
    message = refused(options, canary_kind="sampled", model=str(folder))
    assert message.startswith("--canary-kind: sampled expects a base with a token that begins or ends a text")
