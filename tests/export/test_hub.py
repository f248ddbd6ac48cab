"""The Hub's formats, read back by huggingface_hub's own classes."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import EvalResultEntry, ModelCard, eval_result_entries_to_yaml, parse_eval_result_entries

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.export import ExportOptions, export_run
from spvmia_plugin.results import read_latest
from tests.hostile import NASTY
from tests.leaderboard.models import DUPLICATES, audited, model
from tests.results.builders import fake_records

ATTACKS = {"spv": 1.6, "loss": 0.3, "lira_candidate": None}


def exported(folder: Path, results: Path, to: str, **options: Any) -> Path:
    (path,) = export_run(read_latest(results), to, folder / "out", ExportOptions(**options))
    return path


def rows(results: Path) -> dict[str, dict[str, Any]]:
    raw = json.loads(results.read_text())
    return {name: row for name, row in raw["results"].items() if name != "arc_easy"}


def hub_entries(path: Path) -> list[dict[str, Any]]:
    """The file, held against huggingface/hub-docs/eval_results.yaml: which keys there are and what they hold."""
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(found, list)
    for entry in found:
        assert set(entry) <= {"dataset", "value", "verifyToken", "date", "source", "evaluation_framework", "notes"}
        assert set(entry["dataset"]) <= {"id", "task_id", "revision"}
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", entry["dataset"]["id"])
        assert entry["dataset"]["task_id"]
        assert isinstance(entry["value"], (int, float))
        assert isinstance(entry["notes"], str)
        assert datetime.fromisoformat(entry["date"].replace("Z", "+00:00")).tzinfo is not None
    return found


def strongest_of(results: Path) -> dict[str, Any]:
    raw = json.loads(results.read_text())
    found: dict[str, Any] = raw["configs"]["spv_mia_custom"]["metadata"]["mia_audit"]["strongest"]
    return found


def test_hub_results_hold_what_the_strongest_attack_shows(tmp_path: Path) -> None:
    """No privacy score: it hides the most exposed few, and of a model that leaks nothing it is .91 at n = 50."""
    results = model(tmp_path, "org/one", audited(ATTACKS))
    path = exported(tmp_path, results, "hf-eval-results", benchmark="acme/privacy")
    assert path == tmp_path / "out" / ".eval_results" / "spvmia.yaml"
    told = strongest_of(results)
    found = {entry["dataset"]["task_id"]: entry for entry in hub_entries(path)}
    assert set(found) == {"mia_custom_auroc", f"mia_custom_{told['low_end']}"}
    for name, entry in found.items():
        leader = told[name.removeprefix("mia_custom_")]
        assert entry["dataset"]["id"] == "acme/privacy"
        assert entry["value"] == leader["value"]
        assert f"of the strongest of 2 attacks, {leader['attack']}: lower is more private" in entry["notes"]
        assert f"95% interval {leader['low']!r} to {leader['high']!r}" in entry["notes"]


def test_huggingface_hub_reads_hub_results_back(tmp_path: Path) -> None:
    results = model(tmp_path, "org/one", audited(ATTACKS))
    found = hub_entries(exported(tmp_path, results, "hf-eval-results", benchmark="acme/privacy"))
    entries = parse_eval_result_entries(found)
    assert all(isinstance(entry, EvalResultEntry) for entry in entries)
    assert eval_result_entries_to_yaml(entries) == found


def test_hub_results_begin_their_notes_with_the_warnings(tmp_path: Path) -> None:
    results = model(tmp_path, "org/one", audited({"spv": 1.0}, findings=[DUPLICATES]))
    entry, _ = hub_entries(exported(tmp_path, results, "hf-eval-results", benchmark="acme/privacy"))
    assert entry["notes"].startswith(f"WARNING: {DUPLICATES.message}; ")


@pytest.mark.parametrize(("strength", "warned"), [(0.2, False), (2.0, True)])
def test_a_warning_about_one_attack_counts_where_that_is_the_strongest(
    tmp_path: Path, strength: float, warned: bool
) -> None:
    overlap = replace(DUPLICATES, code="candidate_overlaps_audited")
    tasks = audited({"spv": 1.0, "lira_candidate": strength}, findings=[overlap])
    results = model(tmp_path, "org/one", tasks)
    entries = hub_entries(exported(tmp_path, results, "hf-eval-results", benchmark="acme/privacy"))
    assert [entry["notes"].startswith("WARNING") for entry in entries] == [warned, warned]
    with pytest.raises(SpvmiaError, match="without its warnings"):
        exported(tmp_path, results, "model-index")


UNDER_A_SEED = {"findings": (), "settings": {"mia_min_k": 0.5, "mia_seed": 1}, "seed": 1}


@pytest.mark.parametrize("to", ["hf-eval-results", "model-index"])
def test_one_data_set_has_one_strongest_attack(tmp_path: Path, to: str) -> None:
    """Three values would stand under one name: what the audits differ in is told instead. A blind one has no value."""
    first = audited({"spv": 1.0, "loss": 0.3}, findings=())
    results = model(tmp_path / "several", "org/one", first, audited({"min_k": 0.1}, **UNDER_A_SEED))
    differ = (
        r"of 'custom', .* got 2, which differ in mia_min_k \(not given, 0.5\), mia_seed \(0, 1\); run them one by one"
    )
    with pytest.raises(SpvmiaError, match=differ):
        exported(tmp_path, results, to, benchmark="acme/privacy")
    blind = model(tmp_path / "blind", "org/one", first, audited({"bag_of_words": 0.1}, **UNDER_A_SEED))
    assert exported(tmp_path, blind, to, benchmark="acme/privacy").exists()


def test_other_data_of_one_name_have_no_room_on_a_board(tmp_path: Path) -> None:
    """A card tells them apart by the protocol; a benchmark's task is one number."""
    first, other = audited({"spv": 1.0}, findings=()), audited({"loss": 0.3}, findings=(), fingerprint="0" * 64)
    results = model(tmp_path, "org/one", first, other)
    with pytest.raises(SpvmiaError, match=r"differ in data \(4f122957, 00000000\)"):
        exported(tmp_path, results, "hf-eval-results", benchmark="acme/privacy")
    assert exported(tmp_path, results, "model-index").exists()


def test_canaries_are_another_task_of_the_benchmark(tmp_path: Path) -> None:
    canaries = audited({"spv": 2.0}, canary=True, findings=())
    results = model(tmp_path, "org/one", audited({"spv": 1.0}, findings=()), canaries)
    found = hub_entries(exported(tmp_path, results, "hf-eval-results", benchmark="acme/privacy"))
    names = [entry["dataset"]["task_id"] for entry in found]
    assert [name.partition("_custom_")[0] for name in names] == ["mia", "mia", "canary_audit", "canary_audit"]


def test_one_below_guessing_that_rules_nothing_out_may_tell_more(tmp_path: Path) -> None:
    tasks = audited({"spv": -0.3, "loss": 0.0}, findings=(), records=fake_records(150, 150))
    results = model(tmp_path, "org/one", tasks)
    lowest = strongest_of(results)["lowest"]
    assert lowest["low"] < 0.5 < lowest["high"]
    auroc, _ = hub_entries(exported(tmp_path, results, "hf-eval-results", benchmark="acme/privacy"))
    assert f"and may tell members better: turned round up to {1 - lowest['low']:.4f}" in auroc["notes"]


@pytest.mark.parametrize("strength", [-2.0, -0.1])
def test_an_attack_below_guessing_that_reaches_further_is_told(tmp_path: Path, strength: float) -> None:
    """The number stays that of the strongest, and "lower is more private" is not all there is to say."""
    results = model(tmp_path, "org/one", audited({"spv": 0.3, "loss": strength}, findings=()))
    told = strongest_of(results)
    below = told["turned_round"] if strength < -1 else {"attack": None}
    auroc, tpr = hub_entries(exported(tmp_path, results, "hf-eval-results", benchmark="acme/privacy"))
    card = exported(tmp_path, results, "model-index").read_text()
    entry = yaml.safe_load(card.split("---")[1])["model-index"][0]["results"][0]["metrics"][0]
    assert auroc["value"] == entry["value"] == told["auroc"]["value"]
    more = "below a guess, and turned round may pick out more members than any TPR tells"
    cards = yaml.safe_load(card.split("---")[1])["model-index"][0]["results"]
    named = next(each for result in cards for each in result["metrics"] if each["name"].startswith("TPR"))["name"]
    assert (more in tpr["notes"], more in named) == (below["attack"] is not None,) * 2
    assert more not in auroc["notes"]
    if below["attack"] is None:
        assert "below guessing" not in auroc["notes"] + card
        return
    words = (
        f"loss reaches AUROC {below['value']!r} ({below['low']!r} to {below['high']!r}), below guessing, and tells "
        f"members better: turned round that is {1 - below['value']:.4f}"
    )
    assert words in auroc["notes"]
    assert words in entry["name"]


TURNED = "below guessing, where lower is no more private: turned round it is"


@pytest.mark.parametrize("strengths", [{"spv": -2.0}, {"spv": -2.0, "loss": 2.0}])
def test_no_number_of_an_attack_below_guessing_is_better_the_lower_it_is(
    tmp_path: Path, strengths: dict[str, float]
) -> None:
    """The attack that tells members best read as the most private one, as strongest of all where it is alone, too."""
    results = model(tmp_path, "org/one", audited(strengths, findings=()))
    row = rows(results)["spv_mia_custom"]
    card = ModelCard.load(exported(tmp_path, results, "model-index"))
    of_spv = {one.metric_type: one for one in card.data.eval_results if one.dataset_config.startswith("spv_mia")}
    for key, name in (("auroc", "roc_auc"), ("asr", "asr")):
        assert f"of the attack spv ({TURNED} {1 - row[f'{key},none']:.4f})" in of_spv[name].metric_name
        assert "lower_is_better" not in of_spv[name].metric_args
    assert "turned round may pick out more members than any TPR tells" in of_spv["tpr_at_1pct_fpr"].metric_name
    assert "lower_is_better" not in of_spv["tpr_at_1pct_fpr"].metric_args
    assert of_spv["privacy_score"].metric_args["lower_is_better"] is False
    others = [one for one in card.data.eval_results if one.dataset_config.startswith("loss_mia")]
    assert all("lower_is_better" in one.metric_args and TURNED not in one.metric_name for one in others)
    chosen = next(one for one in card.data.eval_results if one.dataset_config.startswith("strongest"))
    assert (TURNED in chosen.metric_name) is ("lower_is_better" not in chosen.metric_args) is (len(strengths) == 1)
    auroc, tpr = hub_entries(exported(tmp_path, results, "hf-eval-results", benchmark="acme/privacy"))
    assert tpr["notes"].count("turned round may pick out more") == 1
    assert ("lower is more private" in tpr["notes"]) is (len(strengths) > 1)
    assert (TURNED in auroc["notes"]) is ("lower is more private" not in auroc["notes"]) is (len(strengths) == 1)


def test_an_attack_that_may_guess_has_its_direction(tmp_path: Path) -> None:
    results = model(tmp_path, "org/one", audited({"spv": -0.1, "loss": 0.1}, findings=()))
    card = ModelCard.load(exported(tmp_path, results, "model-index"))
    assert all("lower_is_better" in one.metric_args for one in card.data.eval_results)


def with_gaps(records: Any, rng: Any) -> Any:
    """Scores of a guess for nine of ten records."""
    return np.where(np.arange(len(records)) % 10, rng.normal(size=len(records)), np.nan)


def test_what_another_attack_than_the_strongest_left_out_stands_with_its_numbers(tmp_path: Path) -> None:
    """Some attacks cannot score every record: the card of all others is none the less one."""
    results = model(tmp_path, "org/one", audited({"spv": 1.0, "icp": with_gaps}, findings=()))
    card = ModelCard.load(exported(tmp_path, results, "model-index"))
    said = "of the attack icp; icp has no score for 16 of 160 records, which may be the exposed ones"
    for one in card.data.eval_results:
        of_icp = one.dataset_config.startswith("icp_mia") and one.metric_type != "blind_auroc"
        assert (said in one.metric_name) is of_icp


def test_no_card_is_made_where_the_strongest_left_many_records_out(tmp_path: Path) -> None:
    results = model(tmp_path, "org/one", audited({"spv": 1.0}, findings=(), unscored_every=10))
    with pytest.raises(SpvmiaError, match="got spv has no score for 16 of 160 records, which may be the exposed ones"):
        exported(tmp_path, results, "model-index")


@pytest.mark.parametrize("benchmark", [None, "privacy", "a/b/c"])
def test_hub_results_need_a_benchmark(tmp_path: Path, benchmark: str | None) -> None:
    results = model(tmp_path, "org/one", audited({"spv": 1.0}))
    with pytest.raises(SpvmiaError, match="--benchmark: expected the Hub's data set"):
        exported(tmp_path, results, "hf-eval-results", benchmark=benchmark)


def test_a_model_index_round_trips_through_the_model_card(tmp_path: Path) -> None:
    results = model(tmp_path, "org/one", audited(ATTACKS))
    path = exported(tmp_path, results, "model-index", model_id="acme/support")
    card = ModelCard.load(path)
    assert card.data.model_name == "support"
    found = {(result.dataset_config, result.metric_type): result for result in card.data.eval_results}
    assert len(found) == len(card.data.eval_results)
    again = ModelCard(f"---\n{card.data.to_yaml()}\n---\n")
    assert again.data.eval_results == card.data.eval_results
    expected = {
        (task, {"auroc": "roc_auc"}.get(key, key)): row[f"{key},none"]
        for task, row in rows(results).items()
        for key in (
            "auroc",
            "tpr_at_1pct_fpr",
            "tpr_at_0.1pct_fpr",
            "asr",
            "blind_auroc",
            "epsilon_lb",
            "privacy_score",
        )
        if not math.isnan(row[f"{key},none"])
    }
    told = strongest_of(results)
    expected["strongest", "roc_auc"] = told["auroc"]["value"]
    expected["strongest", told["low_end"]] = told[told["low_end"]]["value"]
    assert {(config.rpartition("-")[0], metric): r.metric_value for (config, metric), r in found.items()} == expected


def test_a_model_index_holds_the_interval(tmp_path: Path) -> None:
    results = model(tmp_path, "org/one", audited({"spv": 1.0}))
    card = ModelCard.load(exported(tmp_path, results, "model-index"))
    audit = read_latest(results).audits[0]
    chosen, auroc = (result for result in card.data.eval_results if result.metric_type == "roc_auc")
    both = (("chosen", chosen), ("alone", auroc))
    assert auroc.metric_args["interval"] == audit.told["metrics"]["auroc_interval"]
    assert chosen.metric_args["interval"] == [audit.strongest.auroc.low, audit.strongest.auroc.high]
    assert "of the only attack, spv" in chosen.metric_name
    assert auroc.metric_args["lower_is_better"] is True
    said = {name: (one.metric_args["confidence_level"], one.metric_args["interval_method"]) for name, one in both}
    assert said["chosen"] == (0.95, "simultaneous over 1 attack, AUROC and TPRs (max statistic by document)")
    assert said["alone"] == (0.95, "pointwise: DeLong, summed within documents, logit-transformed")


def test_a_model_index_is_refused_where_a_precondition_failed(tmp_path: Path) -> None:
    results = model(tmp_path, "org/one", audited({"spv": 1.0}, findings=[DUPLICATES]))
    with pytest.raises(SpvmiaError, match="without its warnings") as raised:
        exported(tmp_path, results, "model-index")
    assert DUPLICATES.message in str(raised.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["hf-eval-results", "model-index"])
def test_without_a_number_there_is_nothing_to_export(tmp_path: Path, to: str) -> None:
    tasks = audited({"lira_candidate": None}, blind=None)
    results = model(tmp_path, "org/one", tasks)
    with pytest.raises(SpvmiaError, match="RESULTS: expected an audit"):
        exported(tmp_path, results, to, benchmark="acme/privacy")


@pytest.mark.parametrize("source", NASTY[:10])
def test_a_hostile_source_stays_a_value(tmp_path: Path, source: str) -> None:
    tasks = audited({"spv": 1.0})
    for task in tasks:
        task.config["metadata"]["mia_audit"]["data"]["source"] = f"x\n---\n{source}"  # type: ignore[index]
    results = model(tmp_path, "org/one", tasks)
    card = ModelCard.load(exported(tmp_path, results, "model-index"))
    assert set(card.data.to_dict()) == {"model-index"}
    assert card.text.strip() == ""
