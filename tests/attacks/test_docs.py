"""The documentation says of every attack what it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from spvmia_plugin.attacks import builtin_attacks
from spvmia_plugin.attacks.base import Attack
from spvmia_plugin.signals import Role

PAGE = Path(__file__).parents[2] / "docs" / "attacks.md"


def rows() -> dict[str, list[str]]:
    """Cells of the table's rows, by attack."""
    table = PAGE.read_text("utf-8").partition("## The table\n")[2].partition("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {row[0].strip("`"): row for row in cells if re.fullmatch(r"`\w+`", row[0])}


def test_every_built_in_attack_has_a_row_and_no_other() -> None:
    assert set(rows()) == {attack.name for attack in builtin_attacks()}


@pytest.mark.parametrize("attack", builtin_attacks(), ids=lambda attack: attack.name)
def test_a_row_is_complete_and_names_the_models_it_needs(attack: type[Attack]) -> None:
    row = rows()[attack.name]
    assert len(row) == 7
    assert all(row)
    cost = row[2]
    letters = {Role.TARGET: "T", Role.REFERENCE: "R", Role.BASE: "B", Role.CANDIDATE: "C"}
    assert set(re.findall(r"[TRBC]", cost)) == {letters[need.role] for need in attack().needs}
    for option in attack.options.values():
        assert f"`{option}`" in row[1]


@pytest.mark.parametrize("attack", builtin_attacks(), ids=lambda attack: attack.name)
def test_docstrings_give_formula_paper_and_variant(attack: type[Attack]) -> None:
    text = attack.__doc__ or ""
    assert text.startswith("score = ")
    assert re.search(r"arXiv \d{4}\.\d{5}", text)
    assert "Which one this is:" in text
