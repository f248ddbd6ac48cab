"""docs/design.md says what the shared style does, and its colours hold what it promises of them."""

from __future__ import annotations

import itertools
import math
import re
from importlib.resources import files
from pathlib import Path

import pytest

from spvmia_plugin.leaderboard.picture import MANY
from spvmia_plugin.web.page import COLOURS
from spvmia_plugin.web.text import MISSING, interval, printed

NOTE = (Path(__file__).parents[2] / "docs" / "design.md").read_text(encoding="utf-8")
STYLE = (files("spvmia_plugin.web") / "files" / "base.css").read_text(encoding="utf-8")
SHEETS = {
    path.name: path.read_text(encoding="utf-8")
    for package in ("web", "report", "leaderboard", "compare", "evidence")
    for path in (files("spvmia_plugin") / package / "files").iterdir()
    if path.name.endswith(".css")
}
THEMES = {"light": 0, "dark": 1}
BACKGROUNDS = ("paper", "card", "wash")
TEXT = ("ink", "soft", "accent", "warn", "first", "second", "third", "chosen", "member", "other")
SIDE_BY_SIDE = [*itertools.combinations(("first", "second", "third"), 2), ("member", "other"), ("chosen", "grey")]
SEEN_WITHOUT = {
    "red": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "green": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "blue": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
"""Machado, Oliveira and Fernandes 2009, table 1, severity 1, on linear RGB."""
TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
WHITE = (0.95047, 1.0, 1.08883)

Three = tuple[float, float, float]


def linear(colour: str) -> Three:
    """Linear RGB of `#rrggbb`."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return red, green, blue


def times(matrix: tuple[Three, ...], colour: Three) -> Three:
    first, second, third = (math.fsum(a * b for a, b in zip(row, colour, strict=True)) for row in matrix)
    return first, second, third


def contrast(one: str, other: str) -> float:
    """WCAG 2.2."""
    bright, dark = sorted((times(TO_XYZ, linear(colour))[1] for colour in (one, other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def lab(colour: Three) -> Three:
    scaled = [part / white for part, white in zip(times(TO_XYZ, colour), WHITE, strict=True)]
    x, y, z = (part ** (1 / 3) if part > 0.008856 else 7.787 * part + 16 / 116 for part in scaled)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def seen(colour: str, without: str | None) -> Three:
    found = linear(colour)
    if without is not None:
        red, green, blue = (min(1.0, max(0.0, part)) for part in times(SEEN_WITHOUT[without], found))
        found = red, green, blue
    return lab(found)


def test_contrast_of_known_colours() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)
    assert lab(linear("#ff0000")) == pytest.approx((53.24, 80.09, 67.20), abs=0.05)


def test_text_can_be_read_on_every_background() -> None:
    found = {
        (role, background, theme): contrast(COLOURS[role][place], COLOURS[background][place])
        for theme, place in THEMES.items()
        for role in TEXT
        for background in (*BACKGROUNDS, "warn-wash")
    }
    assert min(found.values()) >= 4.5, min(found, key=lambda key: found[key])
    (least,) = re.findall(r"The least is (\d\.\d\d)\.", NOTE)
    assert float(least) == pytest.approx(min(found.values()), abs=0.005)
    for place in THEMES.values():
        assert contrast(COLOURS["accent-ink"][place], COLOURS["accent"][place]) >= 4.5


@pytest.mark.parametrize("theme", THEMES)
def test_borders_can_be_seen(theme: str) -> None:
    place = THEMES[theme]
    assert all(contrast(COLOURS["grey"][place], COLOURS[background][place]) >= 3 for background in BACKGROUNDS)


@pytest.mark.parametrize("without", [None, *SEEN_WITHOUT])
@pytest.mark.parametrize("theme", THEMES)
def test_colours_that_stand_side_by_side_differ_for_all_readers(theme: str, without: str | None) -> None:
    for one, other in SIDE_BY_SIDE:
        ends = (seen(COLOURS[role][THEMES[theme]], without) for role in (one, other))
        assert math.dist(*ends) >= 10, (one, other)


def test_the_note_has_the_colours_of_the_code() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| `(#[0-9a-f]{6})` \| `(#[0-9a-f]{6})` \| \S", NOTE, re.M)
    assert {role: (light, dark) for role, light, dark in rows} == dict(COLOURS)


def test_the_note_has_the_sizes_of_the_style() -> None:
    told = dict(re.findall(r"\| `(--text-[a-z0-9]+)` \| `([^`]+)` \|", NOTE))
    assert told == dict(re.findall(r"(--text-[a-z0-9]+): ([^;]+);", STYLE))
    for variable in ("--measure", "--radius"):
        (value,) = re.findall(rf"{variable}: ([^;]+);", STYLE)
        assert f"`{value}`" in NOTE


def test_there_is_a_sheet_for_each_kind_of_page() -> None:
    assert {"base.css", "tables.css", "report.css", "board.css", "compare.css", "evidence.css"} <= set(SHEETS)


@pytest.mark.parametrize("name", SHEETS)
def test_every_sheet_has_the_colours_and_sizes_of_the_note(name: str) -> None:
    sheet, own = SHEETS[name], set(re.findall(r"(--[a-z0-9-]+): ", STYLE + SHEETS[name]))
    assert set(re.findall(r"var\((--[a-z0-9-]+)\)", sheet)) <= {f"--{role}" for role in COLOURS} | own
    assert not re.search(r"#[0-9a-f]{3,8}\b", sheet)  # colours by role alone
    shown = sheet.partition("@media print")[0]
    sizes = re.findall(r"font-size: ([^;]+);", re.sub(r"svg[^{]*\{[^}]*\}", "", shown))
    assert [
        size for size in sizes if not re.fullmatch(r"(max\([\d.]+em, )?var\(--text-[a-z0-9]+\)\)?|1rem|[\d.]+em", size)
    ] == []
    radii = re.findall(r"border-radius: (\d+px);", shown)
    assert [radius for radius in radii if int(radius.removesuffix("px")) > 6] == []  # a card has --radius


def test_the_note_prints_numbers_as_the_code_does() -> None:
    for told in (
        printed(0.8421),
        interval(0.767, 0.899).replace("\N{NO-BREAK SPACE}", " "),
        MISSING,
        printed(12000, "count"),
    ):
        assert f"`{told}`" in NOTE
    assert f"more than {MANY} models" in NOTE
    assert interval(math.nan, 0.5) == interval(None, 0.5) == ""
