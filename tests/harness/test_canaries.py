"""A lower bound on epsilon from end to end: coins at fine-tuning, guesses at the audit."""

from __future__ import annotations

import json
import math

import pytest

from spvmia_plugin.data.manifest import read_manifest
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.harness.task import AuditTask
from spvmia_plugin.metrics.one_run import canary_audit, default_guesses
from spvmia_plugin.training.config import FinetuneConfig
from spvmia_plugin.training.finetune import finetune
from spvmia_plugin.util.schema import as_json
from tests.tiny import save_tiny, tiny_texts

from .conftest import write_jsonl

M = 120
TASK = "canary_audit_custom"


@pytest.fixture(scope="module")
def target(base, tmp_path_factory):
    """A whole model that has read its records many times over."""
    folder = tmp_path_factory.mktemp("canaries")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "xdg"))
        data = write_jsonl(folder / "data.jsonl", tiny_texts(260, seed=41, words=(8, 12)))
        config = FinetuneConfig(
            model=str(base), data=data, output=folder / "target", method="full", members=20, nonmembers=20, prompts=20,
            canaries=M, block_size=0, epochs=25, lr=2e-2, batch_size=16, quiet=True,
        )  # fmt: skip
        return finetune(config)


@pytest.fixture
def audit(evaluate, base, tmp_path):
    """Runs the canary audit on a model with the target's manifest; returns its row, record and samples."""

    def run(model, manifest, **options):
        options = {
            "mia_manifest": str(manifest), "mia_base_model": str(base), "mia_reference": "base",
            "mia_perturbation": "causal", "mia_perturbations": 1, "mia_cache_dir": str(tmp_path), **options,
        }  # fmt: skip
        result = evaluate([TASK], options, model_args={"pretrained": str(model), "peft": None})
        return result["results"][TASK], result["configs"][TASK]["metadata"]["mia_audit"], result["samples"][TASK]

    return run


def test_a_target_that_memorised_its_records_has_a_positive_bound(audit, target):
    row, record, samples = audit(target, target)
    found = record["epsilon_lb"]
    assert row["epsilon_lb,none"] == found["epsilon_lb"] > 0.5
    assert (found["guesses_in"], found["guesses_out"]) == default_guesses(M) == (21, 21)
    assert (found["n_canaries"], found["delta"], found["confidence"]) == (M, 1e-5, 0.95)
    assert 30 < found["n_correct"] <= 42
    assert found["reason"] is None
    coins = {record.id: record.is_member for record in read_manifest(target).records["canaries"]}
    assert {sample["doc"]["id"]: sample["doc"]["is_member"] for sample in samples} == coins
    assert found["n_included"] == sum(coins.values())
    scores = [json.loads(sample["resps"][0][0])["score"] for sample in samples]
    again = canary_audit(scores, [sample["doc"]["is_member"] for sample in samples])
    assert as_json(again) == found


def test_a_model_that_never_saw_the_canaries_has_none(audit, target, base):
    row, record, _ = audit(base, target, mia_reference=str(target))
    assert row["epsilon_lb,none"] == 0
    assert record["epsilon_lb"]["epsilon_lb"] == 0


def test_the_coins_lie_in_the_manifest_and_know_nothing_of_the_text(target, base, tmp_path, monkeypatch):
    """Fair by their count; the same data under another seed have other coins; only those with heads are trained on."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    manifest = read_manifest(target)
    coins = {record.id: record.is_member for record in manifest.records["canaries"]}
    assert len(coins) == M
    assert 40 < sum(coins.values()) < 80
    other = finetune(
        FinetuneConfig(
            model=str(base), data=manifest.data.spec, output=tmp_path / "other", method="full", members=20,
            nonmembers=20, prompts=20, canaries=M, block_size=0, epochs=0.1, batch_size=16, seed=1, quiet=True,
        )
    )  # fmt: skip
    others = {record.id: record.is_member for record in read_manifest(other).records["canaries"]}
    shared = coins.keys() & others.keys()
    agreeing = sum(coins[key] == others[key] for key in shared)
    assert 0.25 * len(shared) < agreeing < 0.75 * len(shared)
    assert not coins.keys() & {entry.id for name in ("members", "nonmembers") for entry in manifest.records[name]}


def test_without_coins_there_is_no_bound_and_the_record_says_why(evaluate, target, base, tmp_path):
    options = {"mia_base_model": str(base), "mia_cache_dir": str(tmp_path)}
    result = evaluate(["loss_mia_custom"], options, model_args={"pretrained": str(target), "peft": None})
    record = result["configs"]["loss_mia_custom"]["metadata"]["mia_audit"]
    assert record["membership"] == "manifest"
    assert math.isnan(result["results"]["loss_mia_custom"]["epsilon_lb,none"])
    assert record["epsilon_lb"]["epsilon_lb"] is None
    for words in ("membership was not randomised", "not independent", "--canaries M", TASK):
        assert words in record["epsilon_lb"]["reason"]


def test_a_canary_audit_without_canaries_is_refused(evaluate, options, tmp_path):
    with pytest.raises(SpvmiaError, match=r"mia_manifest: .*--canaries M"):
        evaluate([TASK], {"mia_cache_dir": str(tmp_path)})


@pytest.mark.parametrize("name", ["loss", "wbc"])
def test_the_attack_that_guesses_is_chosen_ahead_and_recorded(audit, target, name):
    row, record, samples = audit(target, target, mia_canary_attack=name)
    assert record["attack"]["name"] == record["settings"]["mia_canary_attack"] == name
    scores = [json.loads(sample["resps"][0][0])["score"] for sample in samples]
    coins = [sample["doc"]["is_member"] for sample in samples]
    assert row["epsilon_lb,none"] == canary_audit(scores, coins).epsilon_lb


def test_the_attack_that_guesses_is_the_strongest_tail_of_ours_if_nobody_says(audit, target):
    _, record, _ = audit(target, target)
    assert record["attack"]["name"] == record["settings"]["mia_canary_attack"] == "spv_wbc"


@pytest.mark.parametrize(("option", "expected"), [({}, "loss"), ({"mia_canary_attack": "ratio"}, "ratio")])
def test_a_yaml_of_ones_own_names_an_attack_and_the_option_wins(target, base, option, expected):
    metadata = {"pretrained": str(target), "mia_base_model": str(base), **option}
    own = {"task": "own", "spvmia_attack": "loss", "spvmia_dataset": "custom", "spvmia_audit": "canary"}
    task = AuditTask({**own, "metadata": metadata})
    assert task.attack.name == task.settings.canary_attack == task.config.metadata["spvmia_attack"] == expected


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("spv_wcb", r"got 'spv_wcb' \(did you mean 'spv_wbc'\?\)"),
        ("bag_of_words", "got 'bag_of_words', which does not look at the model"),
    ],
)
def test_an_attack_that_cannot_guess_is_refused_with_the_list(audit, target, name, why):
    with pytest.raises(SpvmiaError, match="mia_canary_attack: expected one of both_wbc, .*detectgpt, .*zlib, " + why):
        audit(target, target, mia_canary_attack=name)


def test_another_tokenizer_than_at_fine_tuning_is_told(evaluate, target, base, tmp_path, capsys):
    """The manifest remembers how its tokenizer cuts a few sentences."""
    other = save_tiny(tmp_path / "other", tiny_texts(30, seed=99))
    args = {"pretrained": str(target), "peft": None, "tokenizer": str(other)}
    result = evaluate(["loss_mia_custom"], {"mia_cache_dir": str(tmp_path / "cache")}, model_args=args)
    record = result["configs"]["loss_mia_custom"]["metadata"]["mia_audit"]
    codes = [finding["code"] for finding in record["preconditions"]]
    assert codes[0] == "tokenizer_changed"
    said = capsys.readouterr().err
    assert said.index("tokenizer is not the one it was trained with") < said.index("scoring: target")
    same = evaluate(
        ["loss_mia_custom"], {"mia_cache_dir": str(tmp_path / "cache")}, model_args={**args, "tokenizer": None}
    )
    findings = same["configs"]["loss_mia_custom"]["metadata"]["mia_audit"]["preconditions"]
    assert "tokenizer_changed" not in {finding["code"] for finding in findings}
