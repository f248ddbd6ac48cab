"""The frame of both pages."""

from __future__ import annotations

import re

import pytest

from spvmia_plugin.leaderboard.page import COLOURS as BOARD
from spvmia_plugin.report.html import COLOURS as REPORT
from spvmia_plugin.web.page import COLOURS, theme


def colours(rule: str) -> dict[str, str]:
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", rule))


@pytest.mark.parametrize("lines", [REPORT, BOARD])
def test_the_button_chooses_what_the_system_would_and_paper_is_light(lines: tuple[str, ...]) -> None:
    style = theme(lines)
    light, of_system, chosen = style.split("  color-scheme: ")[1:]
    roles = " ".join(lines).split()
    assert colours(light) == {role: COLOURS[role][0] for role in roles}
    assert colours(of_system) == colours(chosen) == {role: COLOURS[role][1] for role in roles}
    assert style.count("{") == style.count("}")
    assert style.count("@media screen") == style.count("@media") == 2
