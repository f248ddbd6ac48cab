"""A built-in attack is added in three places, and its tasks are generated; what is missing is named."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from spvmia_plugin import attacks
from spvmia_plugin.attacks import PAIRED, PLACES, SAMPLED, WHITE_BOX, builtin_attacks
from spvmia_plugin.attacks.base import Attack
from spvmia_plugin.harness.enable import tasks_folder
from spvmia_plugin.harness.yamls import builtin_files, differences
from spvmia_plugin.signals import WRITTEN, View
from tests.attacks.test_docs import PAGE, rows


def defined() -> dict[str, type[Attack]]:
    """The attacks that the modules of the room define, by name."""
    modules = [
        importlib.import_module(f"{attacks.__name__}.{found.name}") for found in pkgutil.iter_modules(attacks.__path__)
    ]
    classes = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    return {found.name: found for found in classes if issubclass(found, Attack) and "name" in vars(found)}


def test_every_attack_that_is_defined_is_registered() -> None:
    missing = {name: f"{found.__module__.rpartition('.')[2]}:{found.__name__}" for name, found in defined().items()}
    missing = {name: place for name, place in missing.items() if PLACES.get(name) != place}
    assert missing == {}, "spvmia_plugin/attacks/__init__.py: PLACES; the rest is asked of what stands there"


def test_every_attack_has_a_title_and_says_what_it_looks_at() -> None:
    assert [found.name for found in builtin_attacks() if not found.title] == [], "`title` of the attack's class"
    clauses = [found.about for found in builtin_attacks()]
    assert [words for words in clauses if not words or not words[0].islower() or words.endswith(".")] == []
    assert len(set(clauses)) == len(clauses)


def test_every_attack_has_a_row_in_the_documentation() -> None:
    assert sorted(set(PLACES) - set(rows())) == [], f"{PAGE}: the table"


def test_every_attack_has_its_tasks() -> None:
    assert differences(tasks_folder(), builtin_files()) == [], "python -m spvmia_plugin.harness.yamls"


def test_every_attack_stands_in_the_table_of_tasks() -> None:
    page = PAGE.with_name("tasks.md").read_text("utf-8")
    assert [name for name in PLACES if f"`{name}`" not in page] == [], "docs/tasks.md: the table of attacks"


def test_every_attack_has_a_case_worked_out_by_hand() -> None:
    cases = Path(__file__).with_name("test_known_cases.py").read_text("utf-8")
    by_itself = {"bag_of_words", "learned"}  # test_bag_of_words.py, test_learned.py
    missing = [each.name for each in builtin_attacks() if f"{each.__name__}(" not in cases]
    assert sorted(set(missing) - by_itself) == [], "tests/attacks/test_known_cases.py"


def test_what_needs_the_weights_is_white_box() -> None:
    asks = {attack.name for attack in builtin_attacks() if any(need.view is View.GRADIENT for need in attack().needs)}
    assert asks == WHITE_BOX


def test_what_needs_both_answers_is_paired() -> None:
    asks = {attack.name for attack in builtin_attacks() if any(need.view is View.REJECTED for need in attack().needs)}
    assert asks == PAIRED


def test_what_has_the_target_write_for_each_record_is_sampled() -> None:
    asks = {attack.name for attack in builtin_attacks() if any(need.view in WRITTEN for need in attack().needs)}
    assert asks == SAMPLED
