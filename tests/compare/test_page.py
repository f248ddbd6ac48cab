"""The page of `spvmia compare` in a browser, of variants and of checkpoints."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from spvmia_plugin.compare.variants import compare
from spvmia_plugin.compare.view import text, to_html
from spvmia_plugin.leaderboard.entrants import Source
from tests.browser import SCHEMES, WIDTHS, opened, serious, shifted, spilled, unfold
from tests.leaderboard.models import DUPLICATES, TOO_FEW
from tests.results.builders import fake_audit, fake_records, write_run

RECORDS = fake_records(150, 150)
STRENGTHS = {"spv_wbc": 1.5, "loss": 0.3, "lira_base": 0.9}


def variant(folder: Path, share: float, model: str = "./adapter", findings: Any = (TOO_FEW,)) -> Path:
    strengths = {attack: strength * share for attack, strength in STRENGTHS.items()}
    write_run(folder, [fake_audit(strengths, records=RECORDS, findings=findings)], model=model)
    return folder


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("variants")
    shares = {"adapter": 1.0, "merged into the base, then packed into 8 bits": 0.999, "dp": 0.1}
    sources = [Source(variant(folder / str(k), share), name) for k, (name, share) in enumerate(shares.items())]
    sources.append(Source(variant(folder / "more", 0.5, findings=(TOO_FEW, DUPLICATES)), "more"))
    found = compare(sources)
    (folder / "lines.txt").write_text("\n".join(text(found)), encoding="utf-8")
    (folder / "page.html").write_text(to_html(found), encoding="utf-8")
    return folder / "page.html"


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("series")
    places = [variant(folder / f"checkpoint-{step}", step / 400, f"out/checkpoint-{step}") for step in (100, 200, 400)]
    (folder / "page.html").write_text(to_html(compare([Source(place) for place in places])), encoding="utf-8")
    return folder / "page.html"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("which", ["variants", "series"])
def test_nothing_is_cut_loads_or_bars_anybody(browser: Any, request: Any, which: str, width: int, scheme: str) -> None:
    path = request.getfixturevalue(which)
    found = opened(browser, path, width=width, scheme=scheme)
    assert (found.complaints, found.requests) == ([], [path.as_uri()])
    unfold(found.page)
    assert spilled(found.page) == []
    assert serious(found.page) == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("which", ["variants", "series"])
def test_nothing_moves_while_the_page_comes_in(browser: Any, request: Any, which: str, width: int) -> None:
    assert shifted(browser, request.getfixturevalue(which), width=width) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_boxes_of_warnings_stand_apart(browser: Any, variants: Path, width: int) -> None:
    page = opened(browser, variants, width=width).page
    boxes = page.evaluate(
        """() => [...document.querySelectorAll('.differs')]
            .map(box => box.getBoundingClientRect()).map(box => [box.top, box.bottom])"""
    )
    assert len(boxes) >= 2
    assert all(after[0] - before[1] >= 8 for before, after in pairwise(boxes))


def test_a_warning_of_all_variants_is_told_once(variants: Path) -> None:
    page = variants.read_text(encoding="utf-8")
    assert page.count(TOO_FEW.message) == page.count(DUPLICATES.message) == 1
    boxes = re.findall(r'<div class="differs">.*?numbers of <bdi>(.*?)</bdi>', page, re.S)
    assert boxes == ["all variants", "more"]
    lines = (variants.parent / "lines.txt").read_text(encoding="utf-8")
    assert lines.count(TOO_FEW.message) == 1
    assert f"warning, more: {DUPLICATES.message}" in lines


def test_the_answer_comes_first(variants: Path) -> None:
    words = re.findall(r'<p class="verdict">(.*?)</p>', variants.read_text(encoding="utf-8"))
    assert words[0].startswith("dp: lower AUROC than adapter under spv_wbc")
    assert words[-1] == "No attack tells merged into the base, then packed into 8 bits from adapter."


def test_axes_have_names_and_guessing_is_on_them(variants: Path, series: Path) -> None:
    for path in (variants, series):
        texts = re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text(encoding="utf-8"))
        words = [word.strip() for word in texts]
        assert words.count("guessing") == 2
        assert {"AUROC, strongest attack", "TPR at 5 % FPR, strongest attack"} <= set(words)
        assert "0.5" in words
    assert "training step" in words
