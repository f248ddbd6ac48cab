"""Every Eval Ever: valid against the published schemas, the harness's numbers to the last digit, ids and no text."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.export import ExportOptions, export_run
from spvmia_plugin.results import read_latest
from tests.hostile import NASTY
from tests.leaderboard.models import DUPLICATES, audited, model
from tests.results import builders
from tests.results.builders import fake_records

SCHEMAS = Path(__file__).parent / "schemas"
LOWER = {"auroc", "tpr_at_1pct_fpr", "tpr_at_0.1pct_fpr", "asr", "blind_auroc", "epsilon_lb"}
BLIND = {"spv": 1.6, "bag_of_words": 0.1, "lira_candidate": None}


def schema(name: str) -> jsonschema.Draft7Validator:
    found = json.loads((SCHEMAS / name).read_text(encoding="utf-8"))
    assert found["version"] == "0.3.0"
    return jsonschema.Draft7Validator(found)


AGGREGATE, INSTANCE = schema("eval.schema.json"), schema("instance_level_eval.schema.json")


def strict(text: str) -> Any:
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def exported(folder: Path, results: Path, **options: Any) -> list[Path]:
    return export_run(read_latest(results), "every-eval-ever", folder / "out", ExportOptions(**options))


def record_of(paths: list[Path]) -> dict[str, Any]:
    (path,) = (path for path in paths if path.suffix == ".json")
    found = strict(path.read_text(encoding="utf-8"))
    AGGREGATE.validate(found)
    return found  # type: ignore[no-any-return]


def test_every_number_is_the_results_file_s(tmp_path: Path) -> None:
    results = model(tmp_path, "org/one", audited(BLIND))
    raw = json.loads(results.read_text())
    record = record_of(exported(tmp_path, results))
    found = {
        (json.loads(result["score_details"]["details"]["attack"])["name"], result["evaluation_result_id"]): result
        for result in record["evaluation_results"]
        if ".strongest." not in result["evaluation_name"]
    }
    expected = 0
    for task, row in raw["results"].items():
        if task == "arc_easy":
            continue
        audit = raw["configs"][task]["metadata"]["mia_audit"]
        for key in (*LOWER, "privacy_score"):
            value = row[f"{key},none"]
            if math.isnan(value):
                continue
            expected += 1
            (result,) = (
                r for (name, i), r in found.items() if name == audit["attack"]["name"] and i.endswith(f".{key}")
            )
            details = result["score_details"]
            assert details["score"] == value
            assert result["metric_config"]["lower_is_better"] is (key in LOWER)
            stderr = row[f"{key}_stderr,none"]
            if isinstance(stderr, float) and not math.isnan(stderr):
                assert details["uncertainty"]["standard_error"]["value"] == stderr
            if key == "auroc":
                assert result["metric_config"]["metric_id"] == "auroc"
                interval = details["uncertainty"]["confidence_interval"]
                assert [interval["lower"], interval["upper"]] == audit["metrics"]["auroc_interval"]
                assert interval["confidence_level"] == 0.95
            if key == "blind_auroc":
                interval = details["uncertainty"]["confidence_interval"]
                assert [interval["lower"], interval["upper"]] == [audit["blind"]["low"], audit["blind"]["high"]]
    assert expected == len(found)
    assert expected >= 10


def test_the_strongest_attack_has_its_simultaneous_interval(tmp_path: Path) -> None:
    results = model(tmp_path, "org/one", audited({"spv": 1.6, "loss": 0.2, "bag_of_words": 3.0}))
    told = json.loads(results.read_text())["configs"]["loss_mia_custom"]["metadata"]["mia_audit"]["strongest"]
    record = record_of(exported(tmp_path, results))
    entries = [one for one in record["evaluation_results"] if ".strongest." in one["evaluation_name"]]
    for found, metric in zip(entries, ("auroc", told["low_end"]), strict=True):
        interval = found["score_details"]["uncertainty"]["confidence_interval"]
        assert found["evaluation_result_id"].endswith(f".{metric}")
        assert found["score_details"]["score"] == told[metric]["value"]
        assert [interval["lower"], interval["upper"]] == [told[metric]["low"], told[metric]["high"]]
        assert interval["method"].startswith("simultaneous over 2 attacks")
        assert json.loads(found["score_details"]["details"]["attack"])["name"] == told[metric]["attack"] == "spv"
    ids = [one["evaluation_result_id"] for one in record["evaluation_results"]]
    assert len(set(ids)) == len(ids)


def test_ids_are_namespaced_by_protocol(tmp_path: Path) -> None:
    def names(place: str, **options: Any) -> set[str]:
        results = model(tmp_path / place, "org/one", audited({"spv": 1.0}, weights=place, **options))
        return {
            result["evaluation_name"] for result in record_of(exported(tmp_path / place, results))["evaluation_results"]
        }

    first = names("first")
    assert all(re.fullmatch(r"spvmia\.custom\.(spv|strongest)\.[0-9a-f]{12}", name) for name in first)
    assert len(first) == 2
    assert names("second") == first
    assert not names("third", settings={"mia_self_prompts": 7}) & first
    assert not names("fourth", fingerprint="b" * 64) & first


def test_metric_ids_are_canonical_or_ours(tmp_path: Path) -> None:
    record = record_of(exported(tmp_path, model(tmp_path, "org/one", audited())))
    ids = {result["metric_config"]["metric_id"] for result in record["evaluation_results"]}
    assert {name for name in ids if not name.startswith("spvmia.")} == {"auroc"}
    for result in record["evaluation_results"]:
        low, high = result["metric_config"]["min_score"], result["metric_config"]["max_score"]
        assert low <= result["score_details"]["score"] <= (math.inf if high == "Infinity" else high)


def test_warnings_travel_with_every_number(tmp_path: Path) -> None:
    results = model(tmp_path, "org/one", audited({"spv": 1.0}, findings=[DUPLICATES]))
    record = record_of(exported(tmp_path, results))
    told = [json.loads(result["score_details"]["details"]["warnings"]) for result in record["evaluation_results"]]
    assert told == [[DUPLICATES.message]] * len(told)
    assert told


def test_what_has_no_number_is_left_out_and_told(tmp_path: Path) -> None:
    record = record_of(exported(tmp_path, model(tmp_path, "org/one", audited({"spv": 1.0}))))
    ids = [result["evaluation_result_id"].split(".")[-1] for result in record["evaluation_results"]]
    assert "epsilon_lb" not in ids
    auroc = next(result for result in record["evaluation_results"] if result["metric_config"]["metric_id"] == "auroc")
    reasons = json.loads(auroc["score_details"]["details"]["left_out"])
    assert "not randomised" in reasons["epsilon_lb"]
    assert "1000" in reasons["tpr_at_0.1pct_fpr"]


def test_canaries_have_a_bound_and_a_record_of_their_own(tmp_path: Path) -> None:
    canary = audited({"spv": 2.0}, canary=True, records=fake_records(200, 200))
    results = model(tmp_path, "org/one", audited({"spv": 1.0}), canary)
    paths = exported(tmp_path, results)
    records = [strict(path.read_text()) for path in paths]
    for record in records:
        AGGREGATE.validate(record)
    assert sorted(path.relative_to(tmp_path / "out").parts[1] for path in paths) == [
        "spvmia_custom",
        "spvmia_custom_canaries",
    ]
    bounds = [
        r for record in records for r in record["evaluation_results"] if r["metric_config"]["metric_kind"] == "epsilon"
    ]
    raw = json.loads(results.read_text())
    assert [bound["score_details"]["score"] for bound in bounds] == [
        raw["results"]["canary_audit_custom"]["epsilon_lb,none"]
    ]
    assert bounds[0]["metric_config"]["max_score"] == "Infinity"
    told = raw["configs"]["canary_audit_custom"]["metadata"]["mia_audit"]["epsilon_lb"]
    assert json.loads(bounds[0]["score_details"]["details"]["bound"]) == told


def test_the_blind_baseline_s_interval_has_its_own_confidence(tmp_path: Path) -> None:
    results = model(tmp_path, "org/one", audited({"spv": 1.0}, blind=replace(builders.BLIND, confidence=0.9)))
    found = record_of(exported(tmp_path, results))["evaluation_results"]
    levels = {
        r["metric_config"]["metric_name"]: r["score_details"]["uncertainty"].get("confidence_interval") for r in found
    }
    assert levels["AUROC of the blind baseline"]["confidence_level"] == 0.9
    assert levels["AUROC"]["confidence_level"] == 0.95


def test_the_same_results_have_the_same_path(tmp_path: Path) -> None:
    results = model(tmp_path, "org/one", audited({"spv": 1.0}))
    first = exported(tmp_path, results)
    assert exported(tmp_path, results) == first
    (path,) = first
    assert re.fullmatch(
        r"data/spvmia_custom/local/one/[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\.json",
        path.relative_to(tmp_path / "out").as_posix(),
    )


def test_audits_that_differ_in_the_seed_have_files_of_their_own(tmp_path: Path) -> None:
    """They may be compared, so their digits are equal: one record took the place of the other."""
    (again,) = audited({"spv": 1.0}, settings={"mia_seed": 1}, seed=1)
    results = model(tmp_path, "org/one", audited({"spv": 1.0}), [replace(again, name="spv_again")])
    records = [strict(path.read_text()) for path in exported(tmp_path, results)]
    assert len(records) == 2 == len({record["evaluation_id"] for record in records})
    for record, audit in zip(records, read_latest(results).audits, strict=True):
        AGGREGATE.validate(record)
        strongest = next(r for r in record["evaluation_results"] if ".strongest." in r["evaluation_name"])
        assert strongest["score_details"]["score"] == pytest.approx(audit.tasks[0].metrics["auroc"])
        notes = json.loads(strongest["score_details"]["details"]["notes"])
        assert notes[0] == "chosen among the attacks of this audit alone: the run has 1 more of the same data"


def test_an_attack_below_guessing_that_reaches_further_is_told(tmp_path: Path) -> None:
    results = model(tmp_path, "org/one", audited({"spv": 0.3, "loss": -2.0}))
    found = record_of(exported(tmp_path, results))["evaluation_results"]
    told = [r["score_details"]["details"]["notes"] for r in found if ".strongest." in r["evaluation_name"]]
    assert [("loss reaches AUROC" in notes, "turned round" in notes) for notes in told] == [
        (True, True),
        (False, True),
    ]
    assert "turned round may pick out more members than any TPR tells" in told[1]


def details_of(found: list[dict[str, Any]], name: str, metric: str) -> dict[str, Any]:
    (one,) = (r for r in found if f".{name}." in r["evaluation_name"] and r["evaluation_result_id"].endswith(metric))
    return {**one["score_details"]["details"], "score": one["score_details"]["score"]}


@pytest.mark.parametrize("strengths", [{"spv": -2.0}, {"spv": -2.0, "loss": 2.0}])
def test_each_number_of_an_attack_below_guessing_says_so(tmp_path: Path, strengths: dict[str, float]) -> None:
    """The format asks for one direction of a metric: by it the attack that tells members best was the most private."""
    results = model(tmp_path, "org/one", audited(strengths, findings=()))
    found = record_of(exported(tmp_path, results))["evaluation_results"]
    for metric in ("auroc", "asr"):
        told = details_of(found, "spv", f".{metric}")
        words = f"below guessing, where lower is no more private: turned round it is {1 - told['score']:.4f}"
        assert json.loads(told["notes"])[0] == words
    assert "turned round may pick out more" in details_of(found, "spv", ".tpr_at_1pct_fpr")["notes"]
    assert "below" not in details_of(found, "spv", ".privacy_score")["notes"]
    chosen = details_of(found, "strongest", ".auroc")["notes"]
    assert ("where lower is no more private" in chosen) is (len(strengths) == 1)
    if "loss" in strengths:
        assert "below" not in details_of(found, "loss", ".auroc")["notes"]


def test_records_that_an_attack_left_out_are_a_warning_of_its_own_numbers(tmp_path: Path) -> None:
    results = model(tmp_path, "org/one", audited({"spv": 1.0}, findings=(), unscored_every=10))
    found = record_of(exported(tmp_path, results))["evaluation_results"]
    said = ["spv has no score for 16 of 160 records, which may be the exposed ones"]
    assert json.loads(details_of(found, "spv", ".auroc")["warnings"]) == said


def test_the_shares_at_a_threshold_stand_with_it(tmp_path: Path) -> None:
    """The rate of false accusations at the threshold stood alone beside a TPR that is read between two."""
    results = model(tmp_path, "org/one", audited({"spv": 1.6}))
    audit = read_latest(results).audits[0]
    told = details_of(record_of(exported(tmp_path, results))["evaluation_results"], "spv", ".tpr_at_1pct_fpr")
    above = audit.scores(audit.tasks[0]) >= float(told["threshold"])
    for name, side in (("tpr_at_threshold", audit.labels()), ("realised_fpr", ~audit.labels())):
        assert float(told[name]) == pytest.approx(above[side].mean())


def test_a_threshold_that_no_score_reaches_is_left_out(tmp_path: Path) -> None:
    tasks = audited({"spv": 1.6})
    audit = tasks[0].config["metadata"]["mia_audit"]  # type: ignore[index]
    audit["metrics"]["tpr_at_1pct_fpr"]["threshold"] = None
    told = details_of(
        record_of(exported(tmp_path, model(tmp_path, "org/one", tasks)))["evaluation_results"],
        "spv",
        ".tpr_at_1pct_fpr",
    )
    assert ("threshold" in told, "realised_fpr" in told) == (False, True)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("/home/me/runs/adapter", None, "local/adapter"),
        ("org/folder", None, "local/folder"),
        ("/home/me/runs/adapter", "acme/support-7b", "acme/support-7b"),
        (f"/tmp/{NASTY[0].replace('/', '')}", None, None),
        ("..", None, "local/model"),
    ],
)
def test_a_folder_is_not_taken_for_a_hub_id(tmp_path: Path, name: str, given: str | None, expected: str | None) -> None:
    results = model(tmp_path, "placeholder", audited({"spv": 1.0}))
    raw = json.loads(results.read_text())
    results.write_text(json.dumps({**raw, "model_name": name}))
    (path,) = exported(tmp_path, results, model_id=given)
    record = record_of([path])
    found = record["model_info"]["id"]
    assert found == expected or (expected is None and re.fullmatch(r"local/[\w.-]+", found))
    assert path.relative_to(tmp_path / "out").as_posix().startswith(f"data/spvmia_custom/{found}/")
    assert len(path.relative_to(tmp_path / "out").parts) == 5


def test_a_model_of_the_hub_keeps_its_id(tmp_path: Path) -> None:
    tasks = audited({"spv": 1.0})
    for task in tasks:
        audit = task.config["metadata"]["mia_audit"]  # type: ignore[index]
        audit["models"]["target"]["weights"] = [{"hub": "org/one", "commit": "abc"}]
    record = record_of(exported(tmp_path, model(tmp_path, "org/one", tasks)))
    assert record["model_info"]["id"] == "org/one"


def test_a_bad_id_is_an_error(tmp_path: Path) -> None:
    results = model(tmp_path, "org/one", audited({"spv": 1.0}))
    for bad in ("one", "a/b/c", "../x", "a/"):
        with pytest.raises(SpvmiaError, match="--model-id"):
            exported(tmp_path, results, model_id=bad)


def test_instances_hold_ids_and_no_text(tmp_path: Path) -> None:
    records = fake_records(60, 100)
    tasks = audited({"spv": 1.0, "loss": 0.2}, records=records, settings={"mia_log_text": True}, unscored_every=40)
    results = model(tmp_path, "org/one", tasks)
    assert exported(tmp_path / "plain", results)[0].suffix == ".json"
    paths = exported(tmp_path, results, instances=True)
    record = record_of(paths)
    (samples,) = (path for path in paths if path.suffix == ".jsonl")
    assert samples.stat().st_mode & 0o777 == 0o600
    detail = record["detailed_evaluation_results"]
    text = samples.read_text(encoding="utf-8")
    rows = [strict(line) for line in text.splitlines()]
    for row in rows:
        INSTANCE.validate(row)
        assert (row["evaluation_id"], row["model_id"]) == (record["evaluation_id"], record["model_info"]["id"])
    assert detail["file_path"] == samples.relative_to(tmp_path / "out").as_posix()
    assert detail["checksum"] == hashlib.sha256(samples.read_bytes()).hexdigest()
    assert detail["total_rows"] == len(rows) == 2 * (160 - 4)
    assert not [one for one in records if one.text in text]
    results_ids = {result["evaluation_result_id"] for result in record["evaluation_results"]}
    assert {row["evaluation_result_id"] for row in rows} <= results_ids
    (run,) = [read_latest(results)]
    by_id = {one.id: one for one in run.audits[0].tasks[0].records}
    mine = [row for row in rows if ".spv." in row["evaluation_result_id"]]
    assert all(row["evaluation"]["score"] == by_id[row["sample_id"]].score for row in mine)
    assert all(
        row["input"]["reference"] == ["member" if by_id[row["sample_id"]].is_member else "nonmember"] for row in mine
    )


@pytest.mark.parametrize(("others", "fpr"), [(100, "1 %"), (60, "5 %"), (12, None)])
def test_members_are_guessed_at_an_fpr_that_the_others_resolve(tmp_path: Path, others: int, fpr: str | None) -> None:
    results = model(tmp_path, "org/one", audited({"spv": 1.6}, records=fake_records(300, others)))
    found = [path for path in exported(tmp_path, results, instances=True) if path.suffix == ".jsonl"]
    rows = [strict(line) for path in found for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == (300 + others if fpr else 0)
    told = [row["answer_attribution"][0] for row in rows]
    assert {each["extraction_method"] for each in told} == (
        {f"score at or above the threshold of {fpr} FPR"} if fpr else set()
    )
    hits = [each["extracted_value"] == "member" for each in told]
    assert [row["evaluation"]["is_correct"] for row in rows] == [
        hit == (row["input"]["reference"] == ["member"]) for hit, row in zip(hits, rows, strict=True)
    ]
    assert fpr is None or 20 < sum(hits) < 250


def test_hostile_ids_survive_as_text(tmp_path: Path) -> None:
    files = [name.replace(":", "").replace("#", "") for name in NASTY[:6]]
    records = fake_records(60, 100, files=files)
    results = model(tmp_path, "org/one", audited({"spv": 1.0}, records=records))
    paths = exported(tmp_path, results, instances=True)
    record_of(paths)
    (samples,) = (path for path in paths if path.suffix == ".jsonl")
    rows = [strict(line) for line in samples.read_text(encoding="utf-8").split("\n") if line]
    assert {row["sample_id"] for row in rows} == {record.id for record in records}


def test_paths_of_the_user_stay_at_home(tmp_path: Path) -> None:
    secret = "/home/somebody/private"
    places = {"mia_cache_dir": "cache", "mia_base_model": "base", "mia_reference": "ref", "mia_mask_model": "t5"}
    tasks = audited({"spv": 1.0}, settings={key: f"{secret}/{name}" for key, name in places.items()})
    results = model(tmp_path, f"{secret}/adapter", tasks)
    (path,) = exported(tmp_path, results)
    assert secret not in path.read_text()
    settings = record_of([path])["evaluation_results"][0]["generation_config"]["additional_details"]
    assert (settings["mia_reference"], settings["mia_mask_model"]) == ("ref", "t5")


def test_the_package_of_every_eval_ever_takes_it_and_gives_it_back(tmp_path: Path) -> None:
    types = pytest.importorskip("every_eval_ever.eval_types", reason="needs every-eval-ever, which needs Python 3.12")
    results = model(tmp_path, "org/one", audited(BLIND))
    record = record_of(exported(tmp_path, results))
    parsed = types.EvaluationLog.model_validate(record)
    again = json.loads(parsed.model_dump_json(exclude_none=True))
    AGGREGATE.validate(again)
    assert types.EvaluationLog.model_validate(again) == parsed
    assert [r["score_details"] for r in again["evaluation_results"]] == [
        r["score_details"] for r in record["evaluation_results"]
    ]
