"""The page of each kind of finding: what its top says, and that a browser shows all of it, wide and narrow, light and
dark."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from spvmia_plugin.report.claims import claims
from spvmia_plugin.report.facts import exposed, picked_out
from spvmia_plugin.report.html import render
from spvmia_plugin.report.numbers import plain
from spvmia_plugin.report.records import picked_in_words
from spvmia_plugin.report.verdict import judge
from spvmia_plugin.results import HarnessRun, read_latest
from spvmia_plugin.results.bound import Bound, hold
from tests.browser import SCHEMES, WIDTHS, opened, serious, shifted, spilled, unfold, window
from tests.report.pages import Page
from tests.results.scenarios import OF_BASE, SCENARIOS


@dataclass(frozen=True)
class Shown:
    """One scenario: its run, its page as a file, and as markup."""

    run: HarnessRun
    path: Path
    page: Page


@pytest.fixture(scope="module")
def shown_pages(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Shown]:
    """All of them, each made once."""
    root, found = tmp_path_factory.mktemp("scenarios"), {}
    for name, write in SCENARIOS.items():
        (folder := root / name).mkdir()
        run = read_latest(write(folder))
        path = folder / "report.html"
        path.write_text(html := render(run), encoding="utf-8")
        found[name] = Shown(run, path, Page(html))
    return found


@pytest.fixture
def scenario(request: pytest.FixtureRequest, shown_pages: Mapping[str, Shown]) -> Shown:
    return shown_pages[request.param]


LOOKS = [
    pytest.param(width, scheme, marks=() if (width == WIDTHS[0]) == (scheme == SCHEMES[0]) else pytest.mark.slow)
    for width in WIDTHS
    for scheme in SCHEMES
]
"""Each width and each scheme with every page; all pairs of them among the slow tests."""


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
@pytest.mark.parametrize("scenario", SCENARIOS, indirect=True)
def test_all_of_it_can_be_read(browser: Any, scenario: Shown, width: int, scheme: str) -> None:
    found = opened(browser, scenario.path, width=width, scheme=scheme)
    assert spilled(found.page) == []
    unfold(found.page)
    assert spilled(found.page) == []
    assert serious(found.page) == []
    assert found.complaints == []
    assert [url for url in found.requests if not url.startswith("data:")] == [scenario.path.as_uri()]
    found.page.context.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scenario", SCENARIOS, indirect=True)
def test_nothing_moves_while_the_page_comes_in(browser: Any, scenario: Shown, width: int) -> None:
    assert shifted(browser, scenario.path, width=width) == []


TOPS = {
    "clear-leak": ("found", "of 100 pairs", "found", "of 100 records"),
    "nothing-found": ("quiet", "so nothing was found", "quiet", "so nothing was found"),
    "too-few": ("doubt", "so nothing was found", "doubt", "12 non-members cannot resolve an FPR of 5 %"),
    "one-record": ("doubt", "Nothing can be concluded", "doubt", "1 non-member cannot resolve"),
    "broken-split": ("doubt", "Provisional: see the conditions above.", "doubt", "of 100 records"),
}


@pytest.mark.parametrize("scenario", TOPS, indirect=True)
def test_the_top_says_what_was_found_and_how_sure_that_is(request: Any, scenario: Shown) -> None:
    whole_tone, of_whole, few_tone, of_few = TOPS[request.node.callspec.params["scenario"]]
    [audit] = scenario.run.audits
    whole, few = claims(audit, judge(audit))
    assert (whole.tone, few.tone) == (whole_tone, few_tone)
    for claim, words in ((whole, of_whole), (few, of_few)):
        said = " ".join([plain(claim.big), claim.unit, plain(claim.sentence), plain(claim.certainty)])
        assert words in said
        assert not re.search(r"\b(NaN|nan|N/A)\b", said)
        assert plain(claim.big) in scenario.page.text
    headline = scenario.page.text.index(scenario.page.headings[1][1])
    order = [
        "The records as a whole",
        "The most exposed few",
        "What this can't say",
        "All attacks",
        "How it was measured",
    ]
    places = [scenario.page.text.index(words, headline) for words in order]
    assert places == sorted(places)


def test_a_few_memorised_records_stand_out_although_the_rest_does_not(shown_pages: Mapping[str, Shown]) -> None:
    [audit] = shown_pages["partial-leak"].run.audits
    whole, few = claims(audit, judge(audit))
    assert audit.strongest.auroc.value < 0.6
    assert few.tone == "found"
    assert few.hundred.count("sure") >= 2
    assert few.hundred.count("rest") > 85
    assert whole.bars[0][1].at(0.5) > 0


def test_where_no_model_is_needed_the_headline_does_not_speak_of_the_model(shown_pages: Mapping[str, Shown]) -> None:
    [audit] = shown_pages["broken-split"].run.audits
    assert judge(audit).headline.startswith("This audit cannot tell whether the model gives its training records away")
    # An attack far above what words tell is evidence, of which the split has a part.
    weak = replace(audit.mia_audit.blind, auroc=0.56, low=0.52, high=0.6)
    tasks = [replace(task, mia_audit=replace(task.mia_audit, blind=weak)) for task in audit.tasks]
    assert judge(replace(audit, tasks=tasks)).headline.startswith("Provisionally, an outsider can often tell")


@pytest.mark.parametrize("scenario", ["clear-leak", "partial-leak", "chat"], indirect=True)
def test_which_records_are_picked_out_is_said(scenario: Shown) -> None:
    """As many as the TPR says, with the ranks that the table has under that attack, and none with a better rank."""
    [audit] = scenario.run.audits
    leader, few = audit.strongest.most_exposed, audit.strongest.low_end_metric
    members = exposed(audit)
    found = picked_out(audit, members)
    count, rank, others, wrongly = found.records, found.rank, found.others, found.wrongly
    number = members.names.index(leader.attack)
    ranks = members.rank[number]
    assert count == int(((ranks > 0) & (ranks <= rank)).sum())
    assert count / int((ranks > 0).sum()) == pytest.approx(leader.value, abs=0.01)
    assert wrongly == rank - count
    assert wrongly < few.fpr * (others + 1) < wrongly + 2
    assert plain(picked_in_words(found)) in " ".join(scenario.page.text.split())
    # They stand first, in the order of their ranks, which the table shows at once.
    assert list(ranks[:count]) == sorted(ranks[ranks > 0])[:count]
    [data] = scenario.page.data
    assert data["attacks"][data["chosen"]]["name"] == leader.attack
    assert data["attacks"][data["chosen"]]["rank"][:count] == [
        int(rank) for rank in ranks[: min(count, len(data["ids"]))]
    ]


@pytest.mark.parametrize("scenario", ["clear-leak", "chat", "bound-within"], indirect=True)
def test_the_hundred_dots_are_the_numbers(scenario: Shown) -> None:
    [audit] = scenario.run.audits
    few, leader = claims(audit, judge(audit))[1], audit.strongest.most_exposed
    counts = [sum(kind in kinds for kind in few.hundred) for kinds in (("sure",), ("sure", "likely"))]
    # Outwards: so many at least, so many at most.
    ends = [math.floor(100 * leader.low), round(100 * leader.value), math.ceil(100 * leader.high)]
    assert [*counts, 100 - few.hundred.count("rest")] == ends


def test_bars_stand_where_their_numbers_are(shown_pages: Mapping[str, Shown]) -> None:
    [audit] = shown_pages["clear-leak"].run.audits
    [(_, bar, alt)] = claims(audit, judge(audit))[0].bars
    assert (bar.low, bar.value, bar.high) == tuple(
        getattr(audit.strongest.auroc, end) for end in ("low", "value", "high")
    )
    assert bar.at(bar.start) == 0
    assert bar.at(bar.end) == 1
    assert bar.at(0.5) == pytest.approx((0.5 - bar.start) / (1 - bar.start), abs=1e-4)
    assert "50 in 100" in alt


BOUNDS = {
    "bound-within": ("quiet", "holds"),
    "bound-exceeded": ("found", "exceeded"),
    "bound-not-shown": ("doubt", "in part not tested"),
}


@pytest.mark.parametrize("scenario", BOUNDS, indirect=True)
def test_a_declared_bound_is_the_third_claim(request: Any, scenario: Shown) -> None:
    tone, word = BOUNDS[request.node.callspec.params["scenario"]]
    [audit] = scenario.run.audits
    claim = claims(audit, judge(audit))[2]
    assert (claim.tone, plain(claim.big)) == (tone, word)
    told = {held.metric: held for held in hold(audit, Bound.of(audit)).held}
    limits = [(value, source) for value, source, _ in scenario.page.numbers if "/bound/max_" in source]
    assert {float(value) for value, _ in limits} == {held.limit for held in told.values()}
    computed = [(value, source) for value, source, _ in scenario.page.numbers if source.startswith("computed/bound/")]
    assert computed
    for value, source in computed:
        _, _, metric, end = source.split("/")
        assert float(value) == getattr(told[metric], end)
    assert all(held.limit == bar.limit for held, (_, bar, _) in zip(told.values(), claim.bars, strict=False))


def test_the_numbers_that_the_verdict_rests_on_have_the_ranges_of_the_cards(shown_pages: Mapping[str, Shown]) -> None:
    """In the table, too: an attack's own range is narrower than that which allows for having chosen it."""
    [audit] = shown_pages["clear-leak"].run.audits
    for leader in (audit.strongest.auroc, audit.strongest.most_exposed):
        assert f"for all attacks:{leader.low:.3f} to {leader.high:.3f}" in re.sub(
            r"\s*\n\s*", "", shown_pages["clear-leak"].page.text
        )


def test_records_without_a_score_are_told_once_for_all_attacks(shown_pages: Mapping[str, Shown]) -> None:
    text = shown_pages["clear-leak"].page.text
    [line] = [line for line in text.splitlines() if line.endswith(": 3 records, fewer than 8 tokens")]
    assert line.startswith("Windows, SPV reference; Error zone, SPV reference; ")  # names have commas of their own
    assert "LiRA, candidate reference: 1,200 records, " in text


def test_without_a_bound_nothing_is_said_of_one(shown_pages: Mapping[str, Shown]) -> None:
    assert "declared bound" not in shown_pages["clear-leak"].page.text


def test_canaries_bound_the_training(shown_pages: Mapping[str, Shown]) -> None:
    [audit] = shown_pages["canaries"].run.audits
    claim = claims(audit, judge(audit))[2]
    assert plain(claim.big) == f"≥ {audit.tasks[0].metrics['epsilon_lb']:.3f}"
    assert "200 canaries" in plain(claim.sentence) or "400 canaries" in plain(claim.sentence)


def test_attacks_of_one_attacker_stand_together_strongest_first(shown_pages: Mapping[str, Shown]) -> None:
    html = shown_pages["clear-leak"].page.html
    table = html[html.index('<table class="sortable attacks">') : html.index("What an accusation is worth")]
    bodies = [re.findall(r'<tr class="family"><th[^>]*><span>(.*?)</span>', body) for body in table.split("<tbody")[1:]]
    assert [family[0] for family in bodies[:-1]] == [
        "Given the base",
        "Given the base, a way to paraphrase",
        "Given a way to paraphrase",
        "Given nothing but the answers of the target",
        "Without a score",
    ]
    assert "sees no model" in bodies[-1][0]
    [audit] = shown_pages["clear-leak"].run.audits
    aurocs = {task.task: task.metrics["auroc"] for task in audit.model_attacks}
    groups = [re.findall(r'class="sub">(\w+)', body) for body in table.split("<tbody")[1:-1]]
    assert [len(group) for group in groups] == [4, 1, 1, 2, 1]
    for group in groups[:-1]:
        assert [aurocs[task] for task in group] == sorted((aurocs[task] for task in group), reverse=True)
    assert [aurocs[group[0]] for group in groups[:-1]] == sorted(
        (aurocs[group[0]] for group in groups[:-1]), reverse=True
    )
    assert math.isnan(aurocs[groups[-1][0]])


def test_a_baseline_that_was_no_task_is_told_of_too(shown_pages: Mapping[str, Shown]) -> None:
    page = shown_pages["partial-leak"].page
    [audit] = shown_pages["partial-leak"].run.audits
    assert all(task.attack != "bag_of_words" for task in audit.tasks)
    assert "Blind baseline" in page.text
    sources = [source for _, source, _ in page.numbers if source.endswith("/blind/auroc")]
    assert len(sources) == 2  # in the table, and under what was checked


def test_what_the_model_can_do_stands_beside_its_privacy_with_the_base(shown_pages: Mapping[str, Shown]) -> None:
    page = shown_pages["clear-leak"].page
    assert page.text.index("What the model can do") < page.text.index("What to do now")
    told = {source: float(value) for value, source, _ in page.numbers if source.startswith("base/")}
    run = shown_pages["clear-leak"].run
    key, by_itself = run.base_of(run.audits[0]).mia_audit.strongest.furthest
    for end in ("value", "low", "high"):
        assert told.pop(f"base/strongest/{key}/{end}") == getattr(by_itself, end)
    assert by_itself.low < 0.5 < by_itself.high
    assert "The base by itself, on the same records: AUROC" in page.text
    assert told == {f"base/{task}/{metric}": value for task, row in OF_BASE.items() for metric, value in row.items()}
    assert not any(source.startswith("base/") for _, source, _ in shown_pages["partial-leak"].page.numbers)
    assert "What the model can do" not in shown_pages["chat"].page.text


def test_what_came_from_the_store_has_no_cost(shown_pages: Mapping[str, Shown]) -> None:
    page = shown_pages["nothing-found"].page
    assert "everything was in the store already" in page.text
    assert "Seconds at most" not in page.text
    assert "seconds of the stages" not in page.html
    assert not any("/cost/" in source or "seconds" in source for _, source, _ in page.numbers)
    assert "seconds of the stages" in shown_pages["clear-leak"].page.html


@pytest.mark.parametrize("scenario", SCENARIOS, indirect=True)
def test_words_are_those_of_people(scenario: Shown) -> None:
    """One word for what has no number, one record is no "1 records", and a line's end is one."""
    assert not re.search(r"\b(NaN|nan|N/A)\b", scenario.page.text)
    assert not re.search(
        r"\b(?<![.,\d])1 (records|attacks|others|members|units|non-members|canaries)\b", scenario.page.text
    )
    assert "\\x0a" not in scenario.page.html


def test_conversations_have_their_lines(browser: Any, shown_pages: Mapping[str, Shown]) -> None:
    found = opened(browser, shown_pages["chat"].path)
    page = found.page
    page.get_by_label("Find in ids").fill("second one")
    cell = page.locator(".records td.text").first
    assert "second one" not in cell.inner_text()
    cell.locator("summary").click()
    lines = cell.inner_text().split("\n")
    assert "  2. the second one is a mistake" in lines
    page.get_by_label("Find in ids").fill("def total")
    page.locator(".records td.text summary").first.click()
    assert "    return sum(row['amount'] for row in rows)" in page.locator(".records td.text").first.inner_text()
    page.context.close()


def test_commands_are_copied_by_a_button(browser: Any, shown_pages: Mapping[str, Shown]) -> None:
    path = shown_pages["clear-leak"].path
    page = window(browser, permissions=["clipboard-read", "clipboard-write"])
    page.goto(path.as_uri())
    box = page.locator("section[aria-labelledby=provenance] .copied")
    box.get_by_role("button", name="Copy").click()
    box.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == box.locator("code").inner_text()
    assert page.locator("button.copy").count() == page.locator(".copied").count() >= 4
    page.evaluate("navigator.clipboard.writeText('')")
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")  # as on a server without TLS
    first = page.locator(".advice .copied").first
    first.get_by_role("button").click()
    first.get_by_role("button", name="Copied").wait_for()
    page.context.close()
    page = window(browser, java_script_enabled=False)
    page.goto(path.as_uri())
    assert page.locator("button.copy:visible").count() == 0
    assert page.locator(".copied code").first.is_visible()
    page.context.close()
