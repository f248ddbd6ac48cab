"""Results files of other people: what is not as lm_eval and the plugin write it is one line, never a traceback."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.export import FORMATS as EXPORTS
from spvmia_plugin.export import ExportOptions
from spvmia_plugin.leaderboard import FORMATS, Options, build_board
from spvmia_plugin.leaderboard.entrants import Source
from spvmia_plugin.report.facts import report_facts
from spvmia_plugin.results import read_latest, read_runs
from tests.leaderboard.models import audited, model
from tests.results.builders import fake_audit, fake_records, write_run

AUDIT = ("configs", "spv_mia_custom", "metadata", "mia_audit")
REFUSED = {
    "another layout": ((*AUDIT, "format"), 2, "format 1, got 2"),
    "no numbers": ((*AUDIT, "metrics"), None, "a mapping as metrics"),
    "a number in words": ((*AUDIT, "metrics", "auroc"), "0.5", "a finite number or null as metrics.auroc"),
    "no interval": ((*AUDIT, "metrics", "auroc_interval"), [0.1], "2 values as metrics.auroc_interval"),
    "infinity": ((*AUDIT, "metrics", "confidence"), float("inf"), "a finite number as metrics.confidence"),
    "infinity further down": ((*AUDIT, "stages"), {"a": [{"b": float("nan")}]}, "expected finite numbers"),
    "a stage without its seconds": ((*AUDIT, "cost"), {"a": {}}, "expected a finite number as cost of a.seconds"),
    "a fraction of a record": ((*AUDIT, "n", "members"), 1.5, "a count as n.members"),
    "findings that are none": ((*AUDIT, "preconditions"), ["x"], "a mapping as preconditions"),
    "half a strongest attack": ((*AUDIT, "strongest"), {"n_attacks": 1, "auroc": {}}, "as strongest.confidence"),
    "a low end that is none": ((*AUDIT, "strongest", "low_end"), "x", "the name of a TPR as strongest.low_end"),
    "a strongest beyond 1": ((*AUDIT, "strongest", "auroc", "value"), 2.5, "from 0 to 1 as strongest.auroc.value"),
    "an end below 0": (
        (*AUDIT, "strongest", "tpr_at_1pct_fpr", "low"),
        -1.0,
        "from 0 to 1 as strongest.tpr_at_1pct_fpr",
    ),
    "weights that are none": ((*AUDIT, "models", "target", "weights"), "x", "models.target.weights"),
    "documents that are none": ((*AUDIT, "data", "clusters"), [1], "data.clusters"),
    "documents that are no texts": ((*AUDIT, "data", "clusters"), {"x": 1}, "texts by record as data.clusters"),
    "no version of ours": ((*AUDIT, "versions"), {}, "a text as versions.spvmia-plugin, got NoneType"),
    "a baseline without an interval": ((*AUDIT, "blind"), {"auroc": 0.5}, "a finite number as blind.low, got NoneType"),
    "a row that is none": (("results", "arc_easy"), 3, "a mapping for each task"),
    "a number without an end": ((*AUDIT, "metrics", "auroc"), 10**400, "a finite number or null as metrics.auroc"),
    "a date in words": (("date",), "yesterday", "a finite number as 'date'"),
    "samples that are none": (("n-samples", "arc_easy"), 3, "mappings by task as 'n-samples'"),
    "a group of itself": (("group_subtasks",), {"a": ["b"], "b": ["a"]}, "do not hold themselves, got 'a'"),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    path = model(tmp_path_factory.mktemp("run"), "org/one", audited({"spv": 1.0, "loss": 0.2}))
    return path, json.loads(path.read_text(encoding="utf-8"))


def changed(raw: dict[str, Any], place: tuple[str, ...], value: object) -> dict[str, Any]:
    result = copy.deepcopy(raw)
    part: Any = result
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    return result


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_as_it_is_written_is_refused(written: tuple[Path, dict[str, Any]], what: str) -> None:
    path, raw = written
    place, value, words = REFUSED[what]
    path.write_text(json.dumps(changed(raw, place, value)), encoding="utf-8")
    with pytest.raises(SpvmiaError) as raised:
        read_runs(path)
    assert str(path) in str(raised.value)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ((*AUDIT, "blind"), {}),
        ((*AUDIT, "strongest"), {}),
        ((*AUDIT, "strongest", "auroc", "value"), None),
        ((*AUDIT, "models"), {}),
        (("results", "spv_mia_custom", "auroc,none"), float("inf")),
        (("results", "spv_mia_custom", "auroc,none"), 10**400),
        (("n-samples", "arc_easy", "effective"), [1]),
        (("higher_is_better", "arc_easy", "acc"), "yes"),
        (("higher_is_better",), None),
    ],
)
def test_what_may_be_missing_is_missed_by_nothing(
    written: tuple[Path, dict[str, Any]], place: tuple[str, ...], value: object
) -> None:
    path, raw = written
    path.write_text(json.dumps(changed(raw, place, value)), encoding="utf-8")
    board = build_board([Source(path)], Options())
    assert all(write(board) for write in FORMATS.values())
    assert all(write(read_latest(path), ExportOptions(benchmark="a/b", instances=True)) for write in EXPORTS.values())
    assert report_facts(read_latest(path))


def test_tasks_of_two_settings_are_two_audits_and_no_one_number_of_the_data(
    written: tuple[Path, dict[str, Any]],
) -> None:
    path, raw = written
    path.write_text(json.dumps(changed(raw, (*AUDIT, "settings", "mia_self_prompts"), 3)), encoding="utf-8")
    board = build_board([Source(path)], Options())
    assert all(write(board) for write in FORMATS.values())
    run, options = read_latest(path), ExportOptions(benchmark="a/b", instances=True)
    assert len(run.audits) == 2
    assert EXPORTS["every-eval-ever"](run, options)
    for one_number in EXPORTS.keys() - {"every-eval-ever"}:
        with pytest.raises(SpvmiaError, match=r"got 2, which differ in mia_self_prompts \(3, 10000\); run them one by"):
            EXPORTS[one_number](run, options)
    assert report_facts(run)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("id", 7),
        ("id", ["a"]),
        ("is_member", "yes"),
        ("text", 3),
        ("score", "0.5"),
        ("score", float("nan")),
        ("score", 10**400),
        ("n_tokens", -1),
        ("target", True),
        ("reason", {}),
    ],
)
def test_a_sample_of_another_type_is_refused_without_its_text(tmp_path: Path, key: str, value: object) -> None:
    path = model(tmp_path, "org/one", audited({"spv": 1.0}))
    samples = next(path.parent.glob("samples_spv_mia_custom*"))
    first, *others = samples.read_text(encoding="utf-8").splitlines()
    sample = json.loads(first)
    part = sample["doc"] if key in ("id", "is_member", "text") else json.loads(sample["resps"][0][0])
    part[key] = value
    if part is not sample["doc"]:
        sample["resps"][0][0] = json.dumps(part)
    samples.write_text("\n".join([json.dumps(sample), *others]), encoding="utf-8")
    with pytest.raises(SpvmiaError, match="line 1: expected a sample of a privacy task, got something else"):
        read_runs(path)


@pytest.mark.parametrize("line", [b"\xff\xfe not UTF-8", b"[" * 100_000, b"3", b""])
def test_a_line_that_is_no_sample_is_refused(tmp_path: Path, line: bytes) -> None:
    path = model(tmp_path, "org/one", audited({"spv": 1.0}))
    next(path.parent.glob("samples_spv_mia_custom*")).write_bytes(line + b"\n")
    with pytest.raises(SpvmiaError, match="line 1: expected a sample"):
        read_runs(path)


# --- samples and numbers that do not fit ---


def broken_run(tmp_path: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Path:
    """A run whose samples of `loss` somebody has changed."""
    results = write_run(tmp_path, [fake_audit({"spv": 1.6, "loss": 0.8}, records=fake_records(50, 50))])
    (samples,) = results.parent.glob("samples_loss_*.jsonl")
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    samples.write_text("".join(json.dumps(line) + "\n" for line in change(lines)))
    return tmp_path


def flipped(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for line in lines:
        line["doc"]["is_member"] = not line["doc"]["is_member"]
    return lines


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:20], r"expected 50 members and 50 non-members as in results_.*\.json, got \d+ and \d+;"),
        (lambda lines: [line for line in lines if line["doc"]["is_member"]], "got 50 and 0;"),
        (lambda lines: [], "got 0 and 0;"),
        (lambda lines: [*lines[1:], lines[1]], "expected each of 100 records once as in .*, got one of them twice"),
        (flipped, r"expected scores with an AUROC of 0\.\d+ as in .*, got 0\.\d+;"),
    ],
)
@pytest.mark.parametrize("read", [read_latest, read_runs])
def test_samples_that_are_not_those_of_the_results(tmp_path: Path, read: Any, change: Any, message: str) -> None:
    with pytest.raises(SpvmiaError, match=rf"^RESULTS: .*samples_loss_.*\.jsonl: .*{message}.*") as error:
        read(broken_run(tmp_path, change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [-0.1, 1.5])
@pytest.mark.parametrize("end", ["auroc", "low", "high"])
def test_a_blind_baseline_that_cannot_be(tmp_path: Path, end: str, value: float) -> None:
    path = write_run(tmp_path, [fake_audit({"spv": 1.6})])
    content = json.loads(path.read_text())
    content["configs"]["spv_mia_custom"]["metadata"]["mia_audit"]["blind"][end] = value
    path.write_text(json.dumps(content))
    with pytest.raises(SpvmiaError, match=rf"expected a number from 0 to 1 as blind\.{end}; run lm_eval"):
        read_latest(tmp_path)


@pytest.mark.parametrize("value", [-1, 0, 1, 2.5, 95])
@pytest.mark.parametrize("part", ["metrics", "blind", "strongest", "groups", "unit.together.strongest"])
def test_confidences_that_no_interval_has(tmp_path: Path, part: str, value: float) -> None:
    records = tuple(
        replace(record, unit=f"{record.is_member}{i % 25}", group="north" if i % 3 else "south")
        for i, record in enumerate(fake_records(150, 150))
    )
    path = write_run(tmp_path, [fake_audit({"spv": 1.6, "loss": 0.8}, records=records)])
    content = json.loads(path.read_text())
    for config in content["configs"].values():
        told = config["metadata"]["mia_audit"]
        for name in part.split("."):
            told = told[name]
        assert 0 < told["confidence"] < 1
        told["confidence"] = value
    path.write_text(json.dumps(content))
    with pytest.raises(SpvmiaError, match=rf"expected a number between 0 and 1 as {part}\.confidence; run lm_eval"):
        read_latest(tmp_path)


@pytest.mark.parametrize("value", [2.5, -1, 1e308, -1e-9])
@pytest.mark.parametrize("key", ["auroc,none", "auroc_stderr,none", "tpr_at_1pct_fpr,none", "privacy_score,none"])
def test_numbers_that_a_metric_cannot_be(tmp_path: Path, key: str, value: float) -> None:
    path = write_run(tmp_path, [fake_audit({"spv": 1.6, "loss": 0.8})])
    content = json.loads(path.read_text())
    (task,) = [name for name in content["results"] if name.startswith("spv_mia")]
    content["results"][task][key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(SpvmiaError, match=rf"{task}: {key.partition(',')[0]}: expected a number from 0 to 1, got "):
        read_latest(tmp_path)
