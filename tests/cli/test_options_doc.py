"""docs/options.md against the options themselves."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from spvmia_plugin.attacks import builtin_attacks
from spvmia_plugin.config import PREFIX, PRESETS, AuditConfig

TEXT = (Path(__file__).parents[2] / "docs" / "options.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.S | re.M))
FIELDS = {field.name: field for field in dataclasses.fields(AuditConfig) if field.metadata}


def rows(text: str) -> list[list[str]]:
    """The cells of the rows that start with an option."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:7] == "| `mia_"
    ]


def value(cell: str) -> Any:
    return None if cell == "not given" else json.loads(cell.strip("`"))


def test_every_option_is_listed_with_its_default_and_what_it_allows() -> None:
    listed = {
        name.strip("`").removeprefix(PREFIX): (value(default), allowed)
        for title, text in SECTIONS.items()
        if title not in ("Attacks", "Presets")
        for name, default, allowed, meaning in rows(text)
        if meaning
    }
    assert listed == {name: (field.default, field.metadata["check"].expected) for name, field in FIELDS.items()}


def test_every_option_of_an_attack_is_listed_with_its_default() -> None:
    listed = {
        name.strip("`"): (value(default), set(attacks.split(", ")))
        for name, default, _, attacks, _ in rows(SECTIONS["Attacks"])
    }
    actual: dict[str, tuple[Any, set[str]]] = {}
    for attack in builtin_attacks():
        defaults = {field.name: field.default for field in dataclasses.fields(attack)}
        for name, option in attack.options.items():
            default = list(d) if isinstance(d := defaults[name], tuple) else d
            actual.setdefault(option, (default, set()))[1].add(attack.name)
    assert listed == actual


def test_the_presets_are_listed_as_they_are() -> None:
    header = re.search(r"^\| option \| (.*) \|$", SECTIONS["Presets"], re.M)
    assert header
    assert re.findall(r"`(\w+)`", header[1]) == list(PRESETS)
    listed = {
        name.strip("`").removeprefix(PREFIX): [value(c) for c in cells] for name, *cells in rows(SECTIONS["Presets"])
    }
    set_by_any = {name for preset in PRESETS.values() for name in preset}
    assert listed == {
        name: [preset.get(name, FIELDS[name].default) for preset in PRESETS.values()] for name in set_by_any
    }
