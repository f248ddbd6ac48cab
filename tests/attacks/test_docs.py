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
    assert set(rows()) == {attack.name for attack in builtin_attacks()}, f"{PAGE}: the table"


@pytest.mark.parametrize("attack", builtin_attacks(), ids=lambda attack: attack.name)
def test_a_row_is_complete_and_names_the_models_it_needs(attack: type[Attack]) -> None:
    assert attack.name in rows(), f"{PAGE}: a row for {attack.name} in the table"
    row = rows()[attack.name]
    assert len(row) == 7, "attack, options, cost, other signals, what the attacker has, paper, where it departs"
    assert all(row)
    cost = row[2]
    letters = {Role.TARGET: "T", Role.REFERENCE: "R", Role.BASE: "B", Role.CANDIDATE: "C"}
    assert set(re.findall(r"[TRBC]", cost)) == {letters[need.role] for need in attack().needs}
    for option in attack.options.values():
        assert f"`{option}`" in row[1]


@pytest.mark.parametrize("attack", builtin_attacks(), ids=lambda attack: attack.name)
def test_docstrings_give_formula_paper_and_variant(attack: type[Attack]) -> None:
    text = attack.__doc__ or ""
    assert text.startswith("score = "), "the docstring begins with 'score = '"
    assert re.search(r"arXiv \d{4}\.\d{5}", text), "the docstring names its paper, or the one it is a limit of"
    assert "Which one this is:" in text, "the docstring says where well-known code differs"
