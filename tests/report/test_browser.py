"""The page in a real browser: no error, no request, and everything on it works by mouse, keyboard and screen reader."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spvmia_plugin.report.html import render
from spvmia_plugin.report.records import MAX_ROWS
from spvmia_plugin.report.tokens import Token, TokenView
from spvmia_plugin.results import read_latest
from spvmia_plugin.util.console import shown
from tests.browser import window
from tests.hostile import ALERT, NAMES, NASTY, hostile_texts
from tests.results.builders import WARNING, fake_audit, fake_records, write_run

MEMBERS, OTHERS = 9_000, 1_000


@pytest.fixture(scope="module")
def plain_file(plain_run, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "plain.html"
    words = zip(NASTY, (-1.0, -0.2, 2.0, 0.0, 4.0), strict=False)
    tokens = tuple(Token(shown(word), -1.0, -1.0 - difference) for word, difference in words)
    views = [TokenView("a.jsonl:1", True, "reference", tokens), TokenView("a.jsonl:2", False, reason="not there")]
    path.write_text(render(plain_run.run, [views]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def hostile_file(tmp_path_factory) -> Path:
    """10,000 records with texts that try to break out, right-to-left ones among them."""
    folder = tmp_path_factory.mktemp("hostile")
    texts = [*hostile_texts(400), "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd \u0645\u0631\u062d\u0628\u0627"]
    records = fake_records(MEMBERS, OTHERS, files=NAMES, texts=texts)
    audit = fake_audit({"spv": 1.5, "loss": 0.2}, records=records, findings=[WARNING], settings={"mia_log_text": True})
    write_run(folder, [audit])
    path = folder / "hostile.html"
    path.write_text(render(read_latest(folder)), encoding="utf-8")
    return path


class Opened:
    """A page in a window of its own, and everything that went wrong in it."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page = window(browser, **options)
        self.context = self.page.context
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: self.errors.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.context.route("**/*", self._allow_the_file_alone)
        self.url = path.as_uri()
        self.page.goto(self.url)

    def _allow_the_file_alone(self, route: Any) -> None:
        if route.request.url == self.url:
            route.continue_()
        else:
            route.abort()

    def close(self) -> None:
        self.context.close()
        assert self.errors == []
        assert {url for url in self.requests if not url.startswith("data:,")} == {self.url}

    def first_column(self) -> list[str]:
        return [text.strip() for text in self.page.locator(".records tbody tr td:first-child").all_inner_texts()]

    def status(self) -> str:
        return str(self.page.locator(".records [role=status]").inner_text())


@pytest.fixture
def plain(browser, plain_file) -> Iterator[Opened]:
    opened = Opened(browser, plain_file)
    yield opened
    opened.close()


@pytest.fixture
def hostile(browser, hostile_file) -> Iterator[Opened]:
    opened = Opened(browser, hostile_file)
    yield opened
    opened.close()


def test_without_scripts_the_page_shows_the_same_first_rows(browser, plain, plain_file):
    bare = Opened(browser, plain_file, java_script_enabled=False)
    assert bare.first_column() == plain.first_column()
    cells = ".records tbody td"
    assert bare.page.locator(cells).all_inner_texts() == plain.page.locator(cells).all_inner_texts()
    bare.close()


def test_filtering(plain):
    page = plain.page
    assert plain.status() == "1 to 25 of 150, page 1 of 6"
    wanted = plain.first_column()[3]
    page.get_by_label("Find in ids").fill(wanted.upper())
    assert plain.first_column() == [wanted]
    assert plain.status() == "1 to 1 of 1 (150 in all), page 1 of 1"
    page.get_by_label("Find in ids").fill("no such record")
    assert plain.first_column() == []
    assert plain.status().startswith("No record matches")
    page.get_by_label("Find in ids").fill("")
    page.get_by_label("only those that no other record matches").check()
    shares = page.locator(".records tbody td:nth-child(2)").all_inner_texts()
    assert shares
    assert all(share.startswith("0 of ") for share in shares)


def test_sorting(plain):
    page = plain.page
    head = page.locator(".records th[data-sort=score]")
    assert head.get_attribute("aria-sort") is None
    page.get_by_label("Rank and score under").select_option(label="Loss")
    assert "Loss" in head.inner_text()
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    values = [float(text) for text in page.locator(".records tbody td:last-child").all_inner_texts()]
    assert values == sorted(values, reverse=True)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    lowest = [float(text) for text in page.locator(".records tbody td:last-child").all_inner_texts()]
    assert lowest == sorted(lowest)
    assert lowest[0] < values[-1]
    page.locator(".records th[data-sort=id] button").click()
    names = plain.first_column()
    assert names == sorted(names)


def test_records_without_a_score_come_last_in_either_direction(plain):
    page = plain.page
    for _ in range(2):
        page.locator(".records th[data-sort=score] button").click()
        assert "–" not in page.locator(".records tbody td:last-child").all_inner_texts()


def test_paging(plain):
    page = plain.page
    first = plain.first_column()
    page.get_by_role("button", name="Next").click()
    assert plain.status() == "26 to 50 of 150, page 2 of 6"
    assert not set(first) & set(plain.first_column())
    page.get_by_role("button", name="Previous").click()
    assert plain.first_column() == first
    assert page.get_by_role("button", name="Previous").is_disabled()
    seen = set()
    for _ in range(5):
        seen |= set(plain.first_column())
        page.get_by_role("button", name="Next").click()
    assert len(seen | set(plain.first_column())) == 150
    assert page.get_by_role("button", name="Next").is_disabled()


def test_a_record_opens_to_all_its_attacks(plain):
    page = plain.page
    button = page.locator(".records .open").first
    assert button.get_attribute("aria-expanded") == "false"
    button.click()
    assert button.get_attribute("aria-expanded") == "true"
    details = page.locator(".records tr.more")
    assert details.locator("tbody tr").count() == 3
    shown = page.locator(".records tbody > tr").first.locator("td").all_inner_texts()
    assert shown[-1] in details.inner_text()
    button.click()
    assert details.count() == 0


def test_the_table_of_attacks_sorts(plain):
    """Attackers who have the same stay together, and the blind baseline stays last."""
    page = plain.page
    families = page.locator("table.sortable tbody")
    before = [set(families.nth(i).locator("th .sub").all_inner_texts()) for i in range(families.count())]
    page.locator("table.sortable th", has_text="ASR").get_by_role("button").click()
    for direction in (True, False):
        values = [
            [
                float(value.get_attribute("value"))
                for value in families.nth(i).locator("tr:not(.family) td:nth-last-child(3) > data").all()
            ]
            for i in range(families.count() - 1)
        ]
        assert sum(map(len, values)) == 3
        assert all(family == sorted(family, reverse=direction) for family in values)
        firsts = [family[0] for family in values if family]
        assert firsts == sorted(firsts, reverse=direction)
        after = [set(families.nth(i).locator("th .sub").all_inner_texts()) for i in range(families.count())]
        assert sorted(map(sorted, after)) == sorted(map(sorted, before))
        assert "bag_of_words_mia_custom" in after[-1].pop()
        page.locator("table.sortable th", has_text="ASR").get_by_role("button").click()


def test_choosing_an_attack_shows_its_pictures(plain):
    page = plain.page
    shown = page.locator("figure[data-attacks]:not([hidden]) figcaption")
    assert any("SPV-MIA" in text for text in shown.all_inner_texts())
    page.get_by_label("Attack to look at").select_option(label="Loss")
    assert all("SPV-MIA" not in text for text in shown.all_inner_texts())
    assert any("Scores of Loss" in text for text in shown.all_inner_texts())
    chosen = page.locator(".figures .curve.chosen")
    assert {chosen.nth(i).get_attribute("data-attack") for i in range(chosen.count())} == {"2"}
    # The line that says which curve it is looks like it.
    lines = [page.locator(f"{place} path").first for place in (".tools .drawn-as", ".figures .curve.chosen")]
    drawn = [each.evaluate("e => [getComputedStyle(e).stroke, getComputedStyle(e).strokeWidth]") for each in lines]
    assert drawn[0] == drawn[1]
    assert drawn[0][0] not in ("none", "rgb(0, 0, 0)")
    assert page.locator(".band.chosen").first.evaluate("e => getComputedStyle(e).visibility") == "visible"
    assert page.locator(".band:not(.chosen)").first.evaluate("e => getComputedStyle(e).visibility") == "hidden"


def test_a_cloud_of_dots_is_seen(plain):
    """A path of dots without length is painted by its round ends alone."""
    page = plain.page
    page.get_by_label("Attack to look at").select_option(label="SPV-MIA")
    dots = page.locator("figure:not([hidden]) path.dots")
    assert dots.count() >= 4
    ends = {dots.nth(i).evaluate("e => getComputedStyle(e).strokeLinecap") for i in range(dots.count())}
    assert ends == {"round", "square"}
    colours = {dots.nth(i).evaluate("e => getComputedStyle(e).stroke") for i in range(dots.count())}
    assert len(colours) == 2


@pytest.mark.parametrize(("scheme", "other"), [("light", "Dark theme"), ("dark", "Light theme")])
def test_themes(browser, plain_file, scheme, other):
    opened = Opened(browser, plain_file, color_scheme=scheme)
    background = "getComputedStyle(document.body).backgroundColor"
    before = opened.page.evaluate(background)
    opened.page.get_by_role("button", name=other).click()
    after = opened.page.evaluate(background)
    assert after != before
    opened.page.get_by_role("button", name="theme").click()
    assert opened.page.evaluate(background) == before
    opened.close()


def test_the_keyboard_reaches_and_works_everything(plain):
    page = plain.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the verdict"
    assert page.locator(".skip").bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    reached = set()
    for _ in range(120):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                """(() => { const e = document.activeElement;
                 return e.className || e.type || e.tagName.toLowerCase(); })()"""
            )
        )
        if page.evaluate("document.activeElement.closest('.records thead') !== null"):
            page.keyboard.press("Enter")
            assert page.locator(".records th[aria-sort]").count() == 1
            break
    else:
        raise AssertionError("the heads of the table were not reached")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.locator(".records th[aria-sort]").count() == 1
    for _ in range(8):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "open":
            page.keyboard.press("Enter")
            break
    assert page.locator(".records tr.more").count() == 1
    assert page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_accessibility(browser, plain_file, width, scheme):
    from axe_playwright_python.sync_playwright import Axe

    opened = Opened(browser, plain_file, viewport={"width": width, "height": 844}, color_scheme=scheme)
    opened.page.locator("details").evaluate_all("all => all.forEach((e) => { e.open = true; })")
    opened.page.locator(".records .open").first.click()
    found = Axe().run(opened.page).response["violations"]
    assert [(v["id"], v["impact"], [n["html"][:100] for n in v["nodes"][:3]]) for v in found] == []
    opened.close()


def test_no_page_is_wider_than_the_window(plain, hostile):
    for opened in (plain, hostile):
        for width in (320, 390, 768, 1440):
            opened.page.set_viewport_size({"width": width, "height": 844})
            assert opened.page.evaluate("document.documentElement.scrollWidth") <= width


def test_hostile_records_are_shown_and_run_nothing(hostile):
    page = hostile.page
    assert page.evaluate(f"typeof {ALERT}") == "undefined"
    assert page.locator("main script:not([type='application/json'])").count() == 0
    assert page.locator(".records img, .records a[href], .records iframe").count() == 0
    assert hostile.status() == f"1 to 25 of {MAX_ROWS}, page 1 of {MAX_ROWS // 25}"
    page.get_by_label("Find in ids").fill("</script><script>")
    found = hostile.status()
    assert "of 0" not in found
    assert "</script><script>" in page.locator(".records tbody td.text").first.inner_text()
    page.get_by_label("Find in ids").fill("\u05e9\u05dc\u05d5\u05dd")
    cell = page.locator(".records tbody td.text").first
    assert cell.evaluate("e => getComputedStyle(e).direction") == "rtl"
    page.locator(".records .open").first.click()
    assert page.locator("tr.more").count() == 1


def test_ten_thousand_records_open_and_sort_in_a_second(browser, hostile_file):
    """Of processor time of the page's thread: other processes share the machine."""
    opened = Opened(browser, hostile_file)
    session = opened.context.new_cdp_session(opened.page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent() -> float:
        metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
        return float(metrics["TaskDuration"])

    before = spent()
    opened.page.reload()
    loaded = spent()
    opened.page.locator(".records th[data-sort=score] button").click()
    scores = opened.page.locator(".records tbody td:last-child").all_inner_texts()
    assert [float(text) for text in scores] == sorted(map(float, scores), reverse=True)
    sorted_at = spent()
    opened.close()
    assert 0.01 < loaded - before < 1
    assert sorted_at - loaded < 1


def test_saved_tables_start_no_formula(hostile, tmp_path):
    with hostile.page.expect_download() as download:
        hostile.page.get_by_role("button", name="Save these as CSV").click()
    path = tmp_path / "exposure.csv"
    download.value.save_as(path)
    with path.open(encoding="utf-8", newline="") as file:
        head, *lines = csv.reader(file)
    assert head[:3] == ["record", "text", "others_as_high"]
    assert len(lines) == MAX_ROWS
    words = [cell for line in lines for cell in line[:2]]
    assert any(cell.startswith("'=") for cell in words)
    assert not any(cell.lstrip().startswith(("=", "+", "-", "@")) for cell in words)


def test_print_shows_the_verdict_and_no_controls(plain):
    plain.page.emulate_media(media="print")
    assert plain.page.locator("h2").is_visible()
    for hidden in ("nav", ".theme", ".pager", ".tools"):
        assert not plain.page.locator(hidden).first.is_visible()
