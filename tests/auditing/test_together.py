"""A reference that several processes train together (`mia_reference_parallel`): who looks, plans, trains, commits."""

from __future__ import annotations

import pytest

from spvmia_plugin import hookimpl
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.plugins import load_registry
from spvmia_plugin.signals import Role
from tests.auditing.fakes import FakeBackend
from tests.auditing.test_plan import table
from tests.auditing.test_run import run

BATCH = {"mia_reference_batch": 6}


class Launched(FakeBackend):
    """The first of several processes that train together."""

    processes, first = 3, True

    def agree(self, value):
        return value


def test_each_process_plans_its_share_of_a_training_that_is_shared(tmp_path, capsys):
    alone, _, _ = table(tmp_path / "one", capsys)
    together, _, _ = table(tmp_path / "three", capsys, backend=Launched(), mia_reference_parallel=True, **BATCH)
    for name in ("training the reference", "training the candidate reference"):
        assert together[name][1] == alone[name][1] // 3
    not_asked, _, _ = table(tmp_path / "asked", capsys, backend=Launched())
    assert {name: row[:2] for name, row in not_asked.items()} == {name: row[:2] for name, row in alone.items()}


def test_a_training_that_cannot_be_shared_is_refused_before_any_work(tmp_path):
    backend = FakeBackend()
    with pytest.raises(SpvmiaError, match=r"mia_reference_parallel: expected a backend that trains .* got 'fake'"):
        run(tmp_path, ["spv"], backend=backend, mia_reference_parallel=True)
    backend = Launched()
    with pytest.raises(SpvmiaError, match=r"mia_reference_batch: expected a multiple of the 3 processes .* got 4"):
        run(tmp_path, ["spv"], backend=backend, mia_reference_parallel=True)

    class Other:
        @hookimpl
        def spvmia_train_reference(self, backend, texts, config, output_dir):
            raise NotImplementedError

    registry = load_registry(entry_points=False)
    registry.manager.register(Other(), name="other-trainer")
    with pytest.raises(SpvmiaError, match=r"mia_reference_parallel: expected our own .* got that of 'other-trainer'"):
        run(tmp_path, ["spv"], backend=backend, registry=registry, mia_reference_parallel=True, **BATCH)
    assert not backend.trained
    assert not backend.scored


class Second(Launched):
    """Has no reference in its store, and is told what the first says; nothing more may be asked than was told."""

    first = False

    def __init__(self, told):
        super().__init__()
        self.answers = list(told)

    def agree(self, value):
        return self.answers.pop(0)


def test_the_first_of_several_processes_locks_looks_and_commits(tmp_path):
    run(tmp_path / "first", ["spv"], backend=(first := Launched()), mia_reference_parallel=True, **BATCH)
    (made,) = (tmp_path / "first" / "store" / "references").iterdir()
    work = tmp_path / "work"
    work.mkdir()
    for told in ([set(), made], [set(), None, work, made]):  # it was there; all train
        second, place = Second(told), tmp_path / str(len(told))
        run(place, ["spv"], backend=second, mia_reference_parallel=True, **BATCH)
        assert second.answers == []
        assert len(second.trained) == (len(told) == 4)
        assert second.loaded == first.loaded
        assert not (place / "store" / "references").exists()


def test_a_named_reference_is_loaded_by_each_process_for_itself(tmp_path):
    second = Second([{Role.REFERENCE}])
    run(tmp_path, ["spv"], backend=second, mia_reference_parallel=True, mia_reference="their/model", **BATCH)
    assert second.answers == []
    assert second.loaded == {Role.REFERENCE: "ir/model"}


def test_several_references_are_told_of_in_one_order(tmp_path):
    options = {"mia_reference_parallel": True, "mia_references": 3, **BATCH}
    run(tmp_path / "first", ["spv_wbc"], backend=(first := Launched()), **options)
    folders = {path.name[-8:]: path for path in (tmp_path / "first" / "store" / "references").iterdir()}
    made = [folders[first.loaded[role]] for role in Role.REFERENCE.siblings(3)]
    assert len(set(made)) == 3
    second = Second([set(), *made])
    run(tmp_path / "second", ["spv_wbc"], backend=second, **options)
    assert second.answers == []
    assert second.loaded == first.loaded
