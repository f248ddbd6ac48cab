"""Four formats, one board: the numbers are the results file's to the last digit, and no name does anything."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.export import FORMATS as EXPORTS
from spvmia_plugin.export import ExportOptions
from spvmia_plugin.leaderboard import Board, Options, build_board
from spvmia_plugin.leaderboard.entrants import Source
from spvmia_plugin.leaderboard.formats import FORMATS, to_csv, to_json, write_board
from spvmia_plugin.leaderboard.page import to_html
from spvmia_plugin.leaderboard.plain import show_board, to_markdown
from spvmia_plugin.results import read_latest
from tests.hostile import ALERT, NAMES, NASTY, control_characters
from tests.leaderboard.models import DUPLICATES, audit_of, audited, model, three_models

HEADINGS = {
    "strongest attack, AUROC": ("auroc", "strongest"),
    "TPR at 5 % FPR": ("tpr_at_5pct_fpr", "strongest"),
    "SPV-MIA, AUROC": ("auroc", "spv"),
}


def board_of(folder: Path, **options: Any) -> Board:
    return build_board([Source(folder)], Options(**options))


def terminal(board: Board, width: int = 240) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False)
    show_board(board, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def truth(folder: Path) -> dict[str, dict[str, Any]]:
    """By model: what its results file says, read without the package."""
    found = {}
    for path in folder.rglob("results_*.json"):
        raw = json.loads(path.read_text())
        found[raw["model_name"]] = raw
    return found


def told(raw: dict[str, Any], heading: str) -> tuple[float, float, float]:
    """Value and interval of a column, from the results file."""
    metric, attack = HEADINGS[heading]
    row, audit = raw["results"]["spv_mia_custom"], raw["configs"]["spv_mia_custom"]["metadata"]["mia_audit"]
    if attack == "strongest":
        leader = audit["strongest"][metric]
        assert leader["attack"] == "spv"
        return leader["value"], leader["low"], leader["high"]
    found = audit["metrics"].get(metric)
    interval = found["interval"] if isinstance(found, dict) else audit["metrics"].get(f"{metric}_interval")
    return row[f"{metric},none"], *(interval or (math.nan, math.nan))


def cases(folder: Path) -> Iterator[tuple[str, str, tuple[float, float, float]]]:
    for name, raw in truth(folder).items():
        for heading in HEADINGS:
            yield name, heading, told(raw, heading)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return three_models(tmp_path_factory.mktemp("three"))


def test_json_holds_the_results_file_s_numbers(folder: Path) -> None:
    (table,) = json.loads(to_json(board_of(folder)), parse_constant=lambda word: pytest.fail(word))["tables"]
    rows = {row["model"]: row for row in table["rows"]}
    for name, heading, (value, low, high) in cases(folder):
        found = rows[name]["number"] if heading.startswith("strongest") else rows[name]["further"][heading]
        assert found["value"] == value
        assert found["interval"] == [None if math.isnan(end) else end for end in (low, high)]
    for name, raw in truth(folder).items():
        (capability,) = rows[name]["capabilities"]
        assert capability["value"] == raw["results"]["arc_easy"]["acc,none"]
        assert capability["stderr"] == raw["results"]["arc_easy"]["acc_stderr,none"]


def test_csv_holds_the_results_file_s_numbers(folder: Path) -> None:
    text = to_csv(board_of(folder))
    rows = {row["model"]: row for row in csv.DictReader(io.StringIO(text))}
    for name, heading, numbers in cases(folder):
        for title, number in zip((heading, f"{heading}, low", f"{heading}, high"), numbers, strict=True):
            assert rows[name][title] == ("" if math.isnan(number) else repr(number))
    for name, raw in truth(folder).items():
        assert float(rows[name]["arc_easy, acc"]) == raw["results"]["arc_easy"]["acc,none"]
    assert [row["rank"] for row in csv.DictReader(io.StringIO(text))] == ["1", "2", "3"]


def markdown_cells(text: str) -> dict[str, dict[str, str]]:
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    heads = [head.strip().partition(" (")[0].replace("\\", "") for head in lines[0]]
    return {cells[1].strip(): dict(zip(heads, map(str.strip, cells), strict=True)) for cells in lines[2:]}


def html_cells(text: str) -> dict[str, dict[str, str]]:
    titles = re.findall(r'<th scope="col".*?<button type="button">(.*?)</button>', text)
    heads = [html.unescape(title.replace("<wbr>", "")) for title in titles]  # where a long name may break
    rows = {}
    for row in re.findall(r"<tr[^>]*>(.*?)</tr>", text.partition("<tbody>")[2], re.S):
        cells = re.findall(r"<t[dh] .*?>(.*?)</t[dh]>", row, re.S)
        plain = [html.unescape(re.sub("<.*?>", " ", cell)).strip() for cell in cells]
        rows[plain[1]] = dict(zip(heads, plain, strict=True))
    return rows


@pytest.mark.parametrize("form", [to_markdown, to_html])
def test_people_read_the_results_file_s_numbers_rounded(folder: Path, form: Any) -> None:
    text = form(board_of(folder))
    rows = markdown_cells(text) if form is to_markdown else html_cells(text)
    for name, heading, numbers in cases(folder):
        printed = re.findall(r"\d\.\d+", rows[name][heading])
        assert printed == [f"{number:.3f}" for number in numbers if not math.isnan(number)]
    for name, raw in truth(folder).items():
        row = raw["results"]["arc_easy"]
        expected = [f"{row['acc,none']:.3f}", f"{row['acc_stderr,none']:.3f}"]
        assert re.findall(r"\d\.\d+", rows[name]["arc_easy, acc"]) == expected


def test_the_terminal_shows_the_same_cells(folder: Path) -> None:
    text = terminal(board_of(folder))
    for _, _, numbers in cases(folder):
        assert all(f"{number:.3f}" in text for number in numbers if not math.isnan(number))
    assert "On the front" in text


def test_marked_rows_say_why_in_every_format(tmp_path: Path) -> None:
    model(tmp_path, "org/good", audited(weights="good"))
    model(tmp_path, "org/bad", audited(weights="bad", findings=[DUPLICATES]))
    board = board_of(tmp_path)
    reason = DUPLICATES.message
    assert f"org/bad: {reason}" in to_markdown(board)
    assert "org/bad (not ranked)" in to_markdown(board)
    assert reason in html.unescape(to_html(board))
    assert 'href="#why-1-2"' in to_html(board)
    assert 'id="why-1-2"' in to_html(board)
    rows = list(csv.DictReader(io.StringIO(to_csv(board))))
    assert [(row["rank"], row["not_ranked_because"]) for row in rows] == [("1", ""), ("", reason)]
    bad = json.loads(to_json(board))["tables"][0]["rows"][1]
    assert (bad["rank"], bad["not_ranked_because"]) == (None, [reason])
    assert f"Not ranked: org/bad: {reason}" in terminal(board)


def test_what_differs_is_said_in_every_format(tmp_path: Path) -> None:
    model(tmp_path, "org/one", audited(weights="one"))
    model(tmp_path, "org/two", audited(weights="two", settings={"mia_self_prompts": 7}))
    board = board_of(tmp_path)
    words = "mia_self_prompts (7 here, 10000 there)"
    assert all(words in text for text in (terminal(board), html.unescape(to_html(board))))
    assert words in to_markdown(board).replace("\\", "")
    assert json.loads(to_json(board))["tables"][1]["differs_from_first"] == words


def parsed(page: str) -> list[tuple[str, list[str]]]:
    """Every element of a page with the names of its attributes."""
    found = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append((tag, [name for name, _ in attrs]))

    Parser().feed(page)
    return found


HOSTILE = [*NASTY, *NAMES, "=cmd|' /C calc'!A0", "www.example.com", "https://example.com/x", "a|b|c", ""]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One model that is ranked, one that is not."""
    folder = tmp_path_factory.mktemp("pair")
    return [
        model(folder, "org/one", audited(weights="one")).parent,
        model(folder, "org/two", audited(weights="two", findings=[DUPLICATES])).parent,
    ]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_only_text(pair: list[Path], name: str) -> None:
    sources = [Source(place, name + place.name) for place in pair]
    board = build_board(sources, Options())
    page = to_html(board)
    elements = parsed(page)
    assert [tag for tag, _ in elements].count("script") == 1
    assert {tag for tag, _ in elements}.isdisjoint({"img", "iframe", "object", "form", "base"})
    assert not [name for _, names in elements for name in names if name.startswith("on") or ALERT in name]
    text = to_markdown(board)
    widths = {len(re.split(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1
    assert "<" not in re.sub(r"\\.", "", text)
    assert not re.search(r"https?://|www\.", text)
    for form in (page, text, to_csv(board).replace("\r\n", "\n"), terminal(board)):
        assert control_characters(form) == []
    rows = list(csv.reader(io.StringIO(to_csv(board))))
    assert {len(row) for row in rows} == {len(rows[0])}
    assert not [cell for row in rows for cell in row if cell.lstrip().startswith(("=", "+", "-", "@"))]
    models = {row["model"] for row in json.loads(to_json(board))["tables"][0]["rows"]}
    assert models == {source.name for source in sources}


def test_every_format_says_what_ranks(folder: Path) -> None:
    board = board_of(folder)
    for text in (to_html(board), to_markdown(board), terminal(board)):
        assert "Ranked by what the strongest attack reaches at most" in text
        assert "strongest attack, AUROC, at most" in text
        assert "Run on 2026-11-01 with spvmia-plugin" in text.replace("\\", "")
    told = json.loads(to_json(board))
    assert told["ranked_by"] == "upper limit of strongest attack, AUROC"
    (table,) = told["tables"]
    limits = [row["at_most"] for row in table["rows"]]
    assert limits == sorted(row["number"]["interval"][1] for row in table["rows"])
    rows = list(csv.DictReader(io.StringIO(to_csv(board))))
    assert [row["strongest attack, AUROC, at most"] for row in rows] == [repr(limit) for limit in limits]
    assert [row["base"] for row in rows] == ["./base"] * 3
    assert [row["newest_run"] for row in rows] == ["2026-11-01"] * 3


def test_two_hundred_models_stay_a_page_that_opens(tmp_path: Path) -> None:
    """A reader of 200 models loads less than a megabyte; the names are as long as those of the Hub are."""
    strongest = ["spv", "loss", "lira_base", "ratio", "min_k", "zlib"]
    for k in range(4):
        tasks = audited({name: 0.4 * k + 0.1 * i for i, name in enumerate(strongest)}, weights=f"of {k}")
        for copy in range(50):
            weights = f"{k} {copy}"
            for task in tasks:
                audit_of(task)["models"]["target"]["weights"][-1]["files"]["model.safetensors"] = weights
            name = f"an-organisation/a-rather-long-name-of-a-model-{copy}-{k}"
            model(tmp_path / weights, name, tasks, acc=0.3 + k / 10 + copy / 900, with_samples=False)
    board = board_of(tmp_path)
    assert [len(table.rows) for table in board.tables] == [200]
    assert len(to_html(board).encode()) < 800_000


def test_numbers_stay_numbers_in_csv(folder: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(board_of(folder)))))
    assert all(not math.isnan(float(row["strongest attack, AUROC"])) for row in rows)
    assert "nan" not in to_csv(board_of(folder)).lower()


def test_json_is_strict_where_numbers_are_missing(tmp_path: Path) -> None:
    model(tmp_path, "org/one", audited({"spv": 1.0, "lira_candidate": None}), acc=None)
    text = to_json(board_of(tmp_path, attack="lira_candidate"))
    (row,) = json.loads(text, parse_constant=lambda word: pytest.fail(word))["tables"][0]["rows"]
    assert row["number"]["value"] is None
    assert row["rank"] is None
    assert row["number"]["reason"]


def test_cards_and_notes_call_nobody(tmp_path: Path) -> None:
    path = model(tmp_path, "org/one", audited({"spv": 1.0}))
    raw = json.loads(path.read_text())
    for config in raw["configs"].values():
        if audit := config.get("metadata", {}).get("mia_audit"):
            audit["data"]["source"] = "@octocat #12 mallory@example.com"
            audit["membership"] = "@octocat"
            audit["preconditions"] = [
                {"code": "too_few_nonmembers_0.1pct", "severity": "warning", "message": "@octocat", "details": {}}
            ]
    path.write_text(json.dumps(raw))
    run = read_latest(path)
    for name in set(EXPORTS) - {"every-eval-ever"}:  # which is for programs
        for text in EXPORTS[name](run, ExportOptions(benchmark="a/b")).values():
            lines = [line for line in str(text).splitlines() if "membership" not in line or name != "model-index"]
            assert not re.search(r"@octocat|#12|y@e", "\n".join(lines))


@pytest.mark.parametrize("ending", FORMATS)
def test_a_board_replaces_an_earlier_board_and_nothing_else(folder: Path, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"board{ending}"
    for _ in range(2):
        write_board(board_of(folder), path)
    path.write_text('{"text": "SECRET"}')
    with pytest.raises(SpvmiaError, match=r"^--output: expected a file that may be replaced, got"):
        write_board(board_of(folder), path)
    assert path.read_text() == '{"text": "SECRET"}'
