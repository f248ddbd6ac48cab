"""Folders of results that somebody else made: pipes, devices, broken runs among whole ones, other names."""

from __future__ import annotations

import json
import os
import random
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from spvmia_plugin.cli.main import make_app
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.leaderboard import FORMATS, Options, build_board
from spvmia_plugin.leaderboard.entrants import Source
from spvmia_plugin.report.facts import report_facts
from spvmia_plugin.report.tokens import token_views
from spvmia_plugin.results import files, read, read_latest, read_runs, samples
from tests.results.builders import fake_audit, fake_records, write_run

OLD, NEW = (datetime(2026, 1, day, tzinfo=timezone.utc) for day in (1, 2))


@pytest.fixture(scope="module")
def audit():
    return fake_audit({"spv": 1.0, "loss": 0.2}, records=fake_records(30, 30, blocks=2), findings=())


def at(kind: str, path: Path) -> None:
    """A results file of a kind that must not be opened like one."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(files.MAX_RESULTS + 1)
    elif kind == "nowhere":
        path.symlink_to("nowhere")
    elif kind == "deep":
        path.write_text('{"results": {}, "configs": ' + "[" * 600 + "]" * 600 + "}")
    elif kind == "digits":
        path.write_text('{"results": {}, "configs": {}, "date": ' + "9" * 5000 + "}")
    else:
        path.write_text('{"results": ')


KINDS = ["pipe", "endless", "folder", "huge", "nowhere", "deep", "digits", "half"]


@pytest.mark.parametrize("kind", KINDS)
def test_alone_it_is_one_line(tmp_path, kind):
    at(kind, tmp_path / "results_2026-01-01T00-00-00.json")
    with pytest.raises(SpvmiaError, match=r"RESULTS: .*expected"):
        read_latest(tmp_path)
    with pytest.raises(SpvmiaError, match=r"RESULTS: .*expected"):
        build_board([Source(tmp_path)], Options())


@pytest.mark.parametrize("kind", KINDS)
def test_an_older_one_is_named_and_left_out(tmp_path, audit, kind, undrawn):
    at(kind, tmp_path / "results_2020-01-01T00-00-00.000001.json")
    path = write_run(tmp_path, [audit], date=NEW)
    run = read_latest(tmp_path)
    assert run.path == path
    [problem] = run.left_out
    assert "2020-01-01" in problem
    board = build_board([Source(tmp_path)], Options())
    assert all("2020-01-01" in write(board).replace("\\", "") for name, write in FORMATS.items() if name != ".csv")
    result = CliRunner().invoke(make_app(), ["report", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "left out: " in result.output


def test_a_newer_one_stops_the_report_of_an_older(tmp_path, audit):
    path = write_run(tmp_path, [audit], date=OLD)
    at("half", tmp_path / "results_2030-01-01T00-00-00.json")
    with pytest.raises(SpvmiaError, match=r"2030-01-01.*name an older results file") as caught:
        read_latest(tmp_path)
    assert str(path) in str(caught.value)
    assert read_latest(path).path == path


@pytest.mark.parametrize("kind", ["pipe", "endless", "folder"])
def test_samples_that_are_no_file(tmp_path, audit, kind):
    path = write_run(tmp_path, [audit])
    found = next(path.parent.glob("samples_spv*"))
    found.unlink()
    at(kind, found)
    with pytest.raises(SpvmiaError, match="expected a regular file"):
        read_latest(tmp_path)


def test_a_line_without_an_end_is_no_sample(tmp_path, audit, monkeypatch):
    path = write_run(tmp_path, [audit])
    next(path.parent.glob("samples_spv*")).write_bytes(b" " * 5000)
    monkeypatch.setattr(files, "MAX_LINE", 1000)
    with pytest.raises(SpvmiaError, match="line 1: expected a sample"):
        read_latest(tmp_path)


def test_samples_are_read_of_the_newest_run_alone(tmp_path, audit, monkeypatch):
    older = [write_run(tmp_path, [audit], date=OLD.replace(hour=hour)) for hour in range(3)]
    newest = write_run(tmp_path, [audit], date=NEW)
    for path in older:
        for found in path.parent.glob(f"samples_*{path.stem.removeprefix('results_')}*"):
            found.write_text("broken\n")
    seen = []

    def spy(path: Path, *rest: Any) -> Any:
        seen.append(path)
        return samples.read_samples(path, *rest)

    monkeypatch.setattr(read, "read_samples", spy)
    run = read_latest(tmp_path)
    assert run.path == newest
    assert len(seen) == 2
    assert run.left_out == []


def test_attacks_share_the_ids_of_their_records(tmp_path, audit):
    write_run(tmp_path, [audit])
    [found] = read_latest(tmp_path).audits
    first, second = (task.records for task in found.tasks)
    assert first.roster is second.roster
    assert len(read_runs(tmp_path)[0].audits[0].ids()) == 60


def test_records_are_what_the_file_says(tmp_path):
    texts = ["a text \U0001f600 with more", "another"]
    records = fake_records(20, 20, texts=texts)
    audit = fake_audit({"spv": 1.0}, records=records, findings=(), settings={"mia_log_text": True}, unscored_every=7)
    path = write_run(tmp_path, [audit])
    [found] = read_latest(path).audits
    lines = [json.loads(line) for line in next(path.parent.glob("samples_*")).read_text().splitlines()]
    for line, record in zip(lines, found.records, strict=True):
        answer = json.loads(line["resps"][0][0])
        assert (record.id, record.is_member) == (line["doc"]["id"], line["doc"]["is_member"])
        for name in ("score", "reason", "n_tokens", "target", "reference"):
            assert getattr(record, name) == answer[name]
    ids = [record.id for record in records[5:9]]
    assert found.records.texts([*ids, "absent"]) == {record.id: record.text for record in records[5:9]}
    next(path.parent.glob("samples_*")).write_text("{}\n" * 50)
    with pytest.raises(SpvmiaError, match="expected the file that was read"):
        found.records.texts(ids)


def renamed(path: Path, to: str) -> Path:
    """The results file as `--output_path x/out.json` names it: samples keep their names and lie beside it."""
    return path.rename(path.with_name(path.name.replace("results_", to, 1)))


def test_an_output_path_that_ends_in_json(tmp_path, audit):
    path = renamed(write_run(tmp_path, [audit]), "out_")
    (path.parent / "notes_2026-01-01T00-00-00.json").write_text("[1]")
    for place in (tmp_path, path, path.parent / "out.json"):
        run = read_latest(place)
        assert run.path == path
        assert run.audits[0].has_samples
        assert run.left_out == []
    with pytest.raises(SpvmiaError, match="which is not there"):
        read_latest(path.parent / "other.json")


def test_a_run_that_predicted_only(tmp_path, audit):
    path = write_run(tmp_path, [audit])
    raw = json.loads(path.read_text())
    for name in raw["results"]:  # what lm_eval 0.4.13 makes of it
        raw["results"][name] = {"name": name, "alias": name, "bypass,none": 999, "bypass_stderr,none": "N/A"}
        del raw["configs"][name]["metadata"]["mia_audit"]
    path.write_text(json.dumps(raw))
    with pytest.raises(SpvmiaError, match=r"--predict_only, which computes no metrics: run it again without"):
        read_latest(tmp_path)
    (run,) = read_runs(tmp_path)
    assert [path.name in told and "--predict_only" in told for told in run.left_out] == [True]
    with pytest.raises(SpvmiaError, match=r"got none in .* is of a run with --predict_only"):
        build_board([Source(tmp_path)], Options())


def test_a_run_without_samples_says_how_to_have_them(tmp_path, audit):
    write_run(tmp_path, [audit], with_samples=False)
    result = CliRunner().invoke(make_app(), ["report", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "run lm_eval with --log_samples" in result.output


def test_a_folder_of_samples_alone(tmp_path, audit):
    write_run(tmp_path, [audit]).unlink()
    with pytest.raises(SpvmiaError, match="with samples only"):
        read_latest(tmp_path)


@pytest.mark.parametrize(
    ("part", "value", "reason"),
    [
        ("mia_cache_dir", 7, "mia_cache_dir: expected a text"),
        ("mia_cache_dir", ["a"], "mia_cache_dir: expected a text"),
        ("mia_cache_dir", "a\0b", "mia_cache_dir: expected a text"),
        ("mia_cache_dir", "~nosuchuser/x", "mia_cache_dir: expected a folder"),
        ("mia_cache_dir", "a" * 300, "mia_cache_dir"),
        ("mia_max_length", "long", "mia_max_length: expected a whole number"),
    ],
)
def test_settings_of_others_are_no_traceback_of_a_record(tmp_path, audit, part, value, reason):
    path = write_run(tmp_path, [audit])
    raw = json.loads(path.read_text())
    for name in raw["results"]:
        raw["configs"][name]["metadata"]["mia_audit"]["settings"][part] = value
    path.write_text(json.dumps(raw))
    run = read_latest(path)
    [view] = token_views(run, run.audits[0], [run.audits[0].ids()[0]])
    assert reason in str(view.reason)


@pytest.mark.parametrize("date", [1e18, 10**18, -1, 1e308, 10**400])
def test_dates_that_no_calendar_has(tmp_path, audit, date):
    path = write_run(tmp_path, [audit])
    path.write_text(json.dumps(json.loads(path.read_text()) | {"date": date}))
    with pytest.raises(SpvmiaError, match="expected a finite number as 'date'"):
        read_latest(path)


@pytest.mark.parametrize("seed", [2**63 - 1, 1291534745182931591, 10**18])
def test_a_seed_keeps_all_its_digits(tmp_path, seed):
    path = write_run(tmp_path, [fake_audit({"spv": 1.0}, findings=())])
    raw = json.loads(path.read_text())
    raw["configs"]["spv_mia_custom"]["metadata"]["mia_audit"]["stages"]["reference"] = {"seed": seed}
    path.write_text(json.dumps(raw))
    found = json.dumps(read_latest(tmp_path).audits[0].tasks[0].told)
    assert f'"seed": {seed}' in found


def test_half_surrogates_are_shown_as_their_escapes(tmp_path, audit):
    path = write_run(tmp_path, [audit], capabilities={"arc_x": {"acc": 0.5}})
    path.write_text(path.read_text().replace("arc_x", "arc\\ud800").replace("spv_mia_custom", "spv\\udc12"))
    run = read_latest(path)
    json.dumps(report_facts(run), ensure_ascii=False).encode()
    assert run.capabilities[0].task == "arc\\ud800"


def depth_of(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth_of, inner), default=0)


def nested(rng: random.Random, levels: int) -> object:
    """A value of so many levels, with brackets, quotes and backslashes in its texts."""
    texts = ["a]}", "\\", '\\"[[[', '"', "}" * 5, '[{"\\\\', "]]]]]]\\\\\\", "é{"]
    value: object = rng.choice([1, None, *texts])
    for _ in range(levels):
        text = rng.choice(texts)
        value = {text: value, "b": text} if rng.random() < 0.5 else [text, value, text]
    return value


def test_levels_are_counted_whatever_stands_in_the_texts(tmp_path):
    rng, seen = random.Random(0), set()
    for number in range(200):
        value = nested(rng, rng.choice([1, 5, files.MAX_DEPTH - 1, files.MAX_DEPTH, files.MAX_DEPTH + 1, 150]))
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(value, ensure_ascii=rng.random() < 0.5), encoding="utf-8")
        too_deep = depth_of(value) > files.MAX_DEPTH
        seen.add(too_deep)
        if too_deep:
            with pytest.raises(SpvmiaError, match="got more than 100 levels"):
                files.load_results(path)
        else:
            assert files.load_results(path) == value
    assert seen == {True, False}
