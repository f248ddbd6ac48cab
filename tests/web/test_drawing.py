"""What becomes of matplotlib's SVG inside a page."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

from spvmia_plugin.web import drawing
from spvmia_plugin.web.drawing import inline

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">{}</svg>'


def test_paths_are_told_by_one_number_a_step():
    told = inline(SVG.format('<path d="M 1 2 L 1 3.04  L 4 3.0 L 4 3 L 5.06 6 z"/>'), "p-", "x")
    assert re.search(' d="([^"]*)"', told)[1] == "M1 2V3H4L5.1 6z"
    curved = "M 0 1.5 C 0.4 1.5 0.8 1.3 1.1 1.1 L 2 2"
    assert f'd="{curved}"' in inline(SVG.format(f'<path d="{curved}"/>'), "p-", "x")


def test_clouds_become_paths_and_keep_every_dot():
    uses = "".join(f'<use href="#m" x="{i}" y="1" style="fill: #b0431b; fill-opacity: 0.45"/>' for i in range(100))
    root = ElementTree.fromstring(inline(SVG.format(f"<g>{uses}</g>"), "p-", "x"))
    paths = [path.get("d", "") for path in root.iter("path")]
    assert len(paths) == 5
    assert re.findall(r"M(\d+) 1h0", "".join(paths)) == [str(i) for i in range(100)]
    few = inline(SVG.format('<g><use href="#m" x="1" y="1"/></g>'), "p-", "x")
    assert "<use" in few


def test_what_somebody_has_set_for_his_own_figures_changes_none() -> None:
    import matplotlib

    def draw(in_page: bool) -> Any:
        figure, axes = drawing.axes(1.0)
        axes.plot([0, 1], [0, 1])
        return figure

    plain = drawing.svg(draw)
    with matplotlib.rc_context({"axes.grid": True, "lines.linewidth": 9, "axes.titleweight": "bold", "font.size": 30}):
        assert drawing.svg(draw) == plain


def test_the_name_of_an_attack_is_no_pattern() -> None:
    told = inline(SVG.format('<g style="clip-path: url(#c)"/><path clip-path="url(#c)"/>'), r"a0-\udfff\g<9>-", "x")
    assert told.count(r"url(#a0-\udfff\g&lt;9&gt;-c)") == 2
