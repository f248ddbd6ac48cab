"""The measure that says that a page can be read whole: it has to see what is wrong, and nothing where all is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.browser import opened, shifted, spilled, unfold

PAGE = '<!doctype html><meta name="viewport" content="width=device-width"><title>a page</title><body>{}'


@pytest.mark.parametrize(
    ("body", "kinds"),
    [
        ('<p style="width: 2000px">broad</p>', {"wide"}),
        ('<div style="overflow-x: auto"><p style="width: 2000px">broad, and scrolls</p></div>', set()),
        ('<p style="width: 40px; white-space: nowrap; overflow: hidden">more than fits</p>', {"cut"}),
        ('<p style="height: 9px; overflow: hidden">more<br>than<br>fits</p>', {"cut"}),
        ('<p style="width: 40px; white-space: nowrap">runs into its neighbour</p>', {"over"}),
        ('<svg width="60" height="20"><text x="40" y="15">beyond the edge</text></svg>', {"off"}),
        ('<svg width="200" height="20"><text x="9" y="15">inside</text></svg>', set()),
        ('<p style="position: absolute; width: 1px; overflow: hidden; clip-path: inset(50%)">heard alone</p>', set()),
        ('<p style="font-size: 13px">legible, <code style="font-size: .88em">and not</code></p>', {"small"}),
        ("<p>all that there is</p>", set()),
    ],
)  # fmt: skip
def test_what_can_not_be_read_whole_is_seen(browser: Any, tmp_path: Path, body: str, kinds: set[str]) -> None:
    found = opened(browser, _page(tmp_path, body), width=390)
    assert {line.split(":")[0] for line in spilled(found.page)} == kinds


def test_what_is_folded_is_measured_once_it_is_open(browser: Any, tmp_path: Path) -> None:
    folded = '<details><summary>more</summary><p style="width: 2000px">broad</p></details>'
    found = opened(browser, _page(tmp_path, folded))
    assert spilled(found.page) == []
    unfold(found.page)
    assert spilled(found.page)


def test_what_moves_is_seen(browser: Any, tmp_path: Path) -> None:
    by_script = "<p>reads this\n<script>document.querySelector('p').before(document.createElement('h1'), 1)</script>"
    assert "reads this" in _first(browser, _page(tmp_path, by_script))
    by_style = "<main>\n<p>reads this\n<p>and this\n<style>main { padding-top: 3rem }</style></main>\n<script></script>"
    assert "reads this" in _first(browser, _page(tmp_path, by_style))
    assert shifted(browser, _page(tmp_path, "<p>reads this\n<p>and this\n<script></script>"), width=390) == []


def _first(browser: Any, page: Path) -> str:
    """The first shift; a slow machine needs longer to paint what comes before it."""
    found = (shifted(browser, page, width=390, pause=pause) for pause in (0.04, 1, 5, 20))
    return next(filter(None, found))[0]


def _page(folder: Path, body: str) -> Path:
    page = folder / "page.html"
    page.write_text(PAGE.format(body), encoding="utf-8")
    return page
