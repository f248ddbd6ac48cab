"""The leaderboard's page in a browser: nothing is loaded, sorting works by mouse, keyboard and screen reader."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from pathlib import Path
from typing import Any

import pytest

from spvmia_plugin.leaderboard import Options, build_board, write_board
from spvmia_plugin.leaderboard.entrants import Source
from tests.browser import SCHEMES, WIDTHS, opened, serious, shifted, spilled, unfold, window
from tests.hostile import NASTY
from tests.leaderboard.models import DUPLICATES, RECIPE, audit_of, audited, file_of, model, three_models
from tests.results.builders import write_run


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three ranked models, one marked, one in a table of its own, one without an audit; two of them with bad names."""
    folder = three_models(tmp_path_factory.mktemp("board"))
    marked = model(folder / "m", "org/marked", audited({"spv": 0.5, "loss": 0.1}, weights="m", findings=[DUPLICATES]))
    model(folder, "org/other", audited(weights="o", recipe={**RECIPE, "epochs": 9.0}))
    model(folder, NASTY[0].replace("/", "_"), acc=0.2)
    sources = [Source(path) for path in folder.rglob("results_*.json") if path != marked]
    board = build_board([*sources, Source(marked, f"{NASTY[0]} {NASTY[7]}")], Options())
    output = folder / "board.html"
    write_board(board, output)
    return output


def column(page: Any, number: int, table: int = 1) -> list[str]:
    cells = page.locator(f"section:nth-of-type({table}) tbody tr > :nth-child({number})")
    return [text.split("\n")[0].split(" ")[0] for text in cells.all_inner_texts()]


def test_the_policy_names_the_style_and_the_script(page_file: Path) -> None:
    text = page_file.read_text(encoding="utf-8")
    (policy,) = map(html.unescape, re.findall(r'Content-Security-Policy" content="([^"]*)"', text))
    assert policy.startswith("default-src 'none'")
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.S)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "style=" not in text


def test_the_axes_say_what_they_show(page_file: Path) -> None:
    text = page_file.read_text(encoding="utf-8")
    assert ">arc_easy, acc against AUROC</title>" in text
    assert re.findall(r'<text class="name"[^>]*>([^<]*)</text>', text) == [
        *("arc_easy, acc, more capable →", "AUROC, more private →"),
        *("arc_easy, acc →", "AUROC, more private →"),  # on a phone
    ]
    assert "Metric(" not in text


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_it_loads_nothing_and_complains_of_nothing(browser: Any, page_file: Path, width: int, scheme: str) -> None:
    found = opened(browser, page_file, width=width, scheme=scheme)
    assert found.complaints == []
    assert found.requests == [page_file.as_uri()]
    assert found.page.evaluate("document.documentElement.scrollWidth") <= width
    assert found.page.title() == "Capability and privacy of 5 models"
    assert found.page.locator("img, iframe, object").count() == 0


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_axe_finds_nothing_serious(browser: Any, page_file: Path, width: int, scheme: str) -> None:
    found = opened(browser, page_file, width=width, scheme=scheme)
    for details in found.page.locator("details").all():
        details.locator("summary").click()
    assert serious(found.page) == []


def test_sorting_by_mouse(browser: Any, page_file: Path) -> None:
    page = opened(browser, page_file).page
    assert column(page, 1) == ["1", "2", "3", "–"]
    heading = page.locator("section:nth-of-type(1) th[scope=col]").nth(2)  # at most
    assert heading.get_attribute("aria-sort") is None
    heading.get_by_role("button").click()
    ascending = column(page, 3)
    assert [float(value) for value in ascending] == sorted(float(value) for value in ascending)
    assert heading.get_attribute("aria-sort") == "ascending"
    heading.get_by_role("button").click()
    assert column(page, 3) == ascending[::-1]
    assert heading.get_attribute("aria-sort") == "descending"
    assert page.locator("[aria-sort]").count() == 2  # one in each table


def test_a_capability_is_sorted_best_first_and_says_so(browser: Any, page_file: Path) -> None:
    page = opened(browser, page_file).page
    page.locator("section:nth-of-type(1)").get_by_role("button", name="arc_easy, acc").click()
    values = [float(value) for value in column(page, 7)]
    assert values == sorted(values, reverse=True)
    assert page.locator("#says-1").inner_text() == "Sorted by arc_easy, acc, descending."


def test_missing_values_come_last_in_either_direction(browser: Any, page_file: Path) -> None:
    page = opened(browser, page_file).page
    button = page.locator("section:nth-of-type(1)").get_by_role("button", name="rank")
    button.click()
    assert column(page, 1) == ["3", "2", "1", "–"]
    button.click()
    assert column(page, 1) == ["1", "2", "3", "–"]


def test_sorting_by_keyboard(browser: Any, page_file: Path) -> None:
    page = opened(browser, page_file).page
    page.locator("section:nth-of-type(1)").get_by_role("button", name="model").focus()
    page.keyboard.press("Enter")
    names = column(page, 2)
    assert names[1:] == ["org/capable", "org/neither", "org/private"]
    page.keyboard.press("Space")
    assert column(page, 2) == names[::-1]


def test_everything_can_be_reached_by_tab(browser: Any, page_file: Path) -> None:
    page = opened(browser, page_file).page
    wanted = page.locator("button:visible, a[href], summary, [tabindex='0']").count()
    page.evaluate("window.reached = new Set(); addEventListener('focusin', event => reached.add(event.target))")
    for _ in range(wanted):
        page.keyboard.press("Tab")
    assert page.evaluate("reached.size") == wanted


def test_a_marked_row_leads_to_its_reason(browser: Any, page_file: Path) -> None:
    page = opened(browser, page_file).page
    page.get_by_role("link", name="not ranked: why?").click()
    assert DUPLICATES.message in page.locator(":target").inner_text()


def test_the_theme_can_be_changed(browser: Any, page_file: Path) -> None:
    page = opened(browser, page_file, scheme="dark").page
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    page.get_by_role("button", name="Light theme").click()
    assert page.evaluate(paper) != dark
    page.get_by_role("button", name="Dark theme").click()
    assert page.evaluate(paper) == dark


def test_filters_and_order_stand_in_the_address(browser: Any, page_file: Path) -> None:
    found = opened(browser, page_file)
    page = found.page
    page.get_by_label("Search").fill("org/")
    page.get_by_label("ranked only").check()
    page.locator("section:nth-of-type(1)").get_by_role("button", name="arc_easy, acc").click()
    names = "section:nth-of-type(1) tbody tr:visible th bdi"
    visible = page.locator(names).all_inner_texts()
    assert visible == ["org/capable", "org/private", "org/neither"]
    assert page.locator("#counted").inner_text() == "4 of 5 rows"
    address = page.url
    assert address.endswith("#text=org%2F&ranked=1&sort=1.7.d")
    again = window(browser)
    again.goto(address)
    assert again.locator(names).all_inner_texts() == visible
    assert again.get_by_label("ranked only").is_checked()
    assert again.locator("svg:visible .model.out").count() == 0
    again.get_by_label("Search").fill("capable")
    assert again.locator("svg:visible .model.out").count() == 2
    again.evaluate("location.hash = ''")
    again.wait_for_function("document.getElementById('counted').textContent === '5 rows'")
    assert column(again, 1) == ["1", "2", "3", "–"]
    assert found.complaints == []


def test_an_address_that_means_nothing_here_changes_nothing(browser: Any, page_file: Path) -> None:
    page = window(browser)
    page.goto(f"{page_file.as_uri()}#method=none-such&sort=1.99.d&sort=x&sort=7.1.a")
    assert page.locator("#counted").inner_text() == "5 rows"
    assert column(page, 1) == ["1", "2", "3", "–"]


def test_on_a_phone_a_table_is_sorted_by_a_choice(browser: Any, page_file: Path) -> None:
    page = opened(browser, page_file, width=390).page
    page.get_by_label("Sort table 1 by").select_option("model")
    assert column(page, 2)[1:] == ["org/capable", "org/neither", "org/private"]
    assert (
        page.locator("section:nth-of-type(1) td:visible").first.evaluate(
            "cell => getComputedStyle(cell, '::before').content"
        )
        == '"rank"'
    )


@pytest.fixture(scope="module")
def many_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 models, four of them bases; one results file, its numbers and names changed."""
    folder = tmp_path_factory.mktemp("many")
    for k in range(200):
        base = f"base-{k % 4}"
        name = base if k < 4 else f"org-{k % 17}/model-{k}"
        tasks = MANY[k % len(MANY)]
        for task in tasks:
            models = audit_of(task)["models"]
            models["base"]["weights"] = [file_of(base)]
            models["target"]["weights"] = [file_of(base)] + ([] if k < 4 else [file_of(name)])
        model(folder / str(k), name, tasks, acc=0.3 + k * 37 % 200 / 500, with_samples=False)
    output = folder / "board.html"
    write_board(build_board([Source(folder)], Options()), output)
    return output


MANY = [audited({"spv": 0.1 + 0.3 * k, "loss": 0.1}) for k in range(8)]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("which", ["page_file", "many_file"])
def test_nothing_is_cut(browser: Any, request: Any, which: str, width: int, scheme: str) -> None:
    page = opened(browser, request.getfixturevalue(which), width=width, scheme=scheme).page
    unfold(page)
    assert spilled(page) == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("which", ["page_file", "many_file"])
def test_nothing_moves_while_the_page_comes_in(browser: Any, request: Any, which: str, width: int) -> None:
    assert shifted(browser, request.getfixturevalue(which), width=width) == []


@pytest.mark.parametrize("width", [1440, 1200, 390])
def test_long_names_of_tasks_and_attacks_need_no_scrolling(browser: Any, tmp_path: Path, width: int) -> None:
    """Of five columns of numbers and two of words: what is small below a number goes on in another line."""
    for name, epochs in (("some-model", 1.0), ("another-model", 9.0)):
        strengths = {"candidate_wbc": 2.0, "spv": 0.8, "spv_wbc": 0.9, "loss": 0.1}
        audit = audited(strengths, weights=name, recipe={**RECIPE, "epochs": epochs})
        capabilities = {"demo_department": {"acc": 0.34}}
        write_run(tmp_path / name, [audit], model=f"org/{name}", capabilities=capabilities)
    output = tmp_path / "board.html"
    write_board(build_board([Source(tmp_path)], Options(compare="recipes")), output)
    page = opened(browser, output, width=width).page
    assert "by candidate_wbc, strongest of 4" in " ".join(page.locator("tbody").inner_text().split())
    assert "demo_department, acc" in page.locator("thead").text_content()
    wider = "[...document.querySelectorAll('.scroll')].map(region => region.scrollWidth - region.clientWidth)"
    assert page.evaluate(wider) == [0]


@pytest.mark.parametrize(("width", "scheme"), [(1440, "dark"), (390, "light")])
def test_axe_finds_nothing_serious_in_many(browser: Any, many_file: Path, width: int, scheme: str) -> None:
    assert serious(opened(browser, many_file, width=width, scheme=scheme).page) == []


def test_the_picture_of_a_phone_is_legible(browser: Any, page_file: Path) -> None:
    page = opened(browser, page_file, width=390).page
    drawing = page.locator("svg.picture:visible").first
    assert "narrow" in (drawing.get_attribute("class") or "")
    heights = drawing.evaluate(
        "svg => [...svg.querySelectorAll('text')].map(text => text.getBoundingClientRect())"
        ".filter(box => box.height < box.width).map(box => box.height)"
    )
    assert min(heights) >= 12  # pixels, of letters 10 high


def test_it_can_be_read_without_scripts(browser: Any, page_file: Path) -> None:
    page = window(browser, java_script_enabled=False)
    page.goto(page_file.as_uri())
    assert page.locator("section:nth-of-type(1) tbody tr").count() == 4
    assert page.locator(".theme").is_hidden()
