"""A store that is damaged, full or not to be written: the right numbers or one clear line, never a wrong number."""

from __future__ import annotations

import errno
import os
import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.store import database
from spvmia_plugin.store.store import Store
from tests.auditing.fakes import make_data
from tests.auditing.test_run import run
from tests.refusing import refuse_folders

NAMES = ["spv", "min_k_pp", "recall", "rmia", "lira_candidate", "spv_wbc"]
DATA = make_data(4, prompts=5, candidate=2)


def results(store: Path) -> dict[str, object]:
    outcome, _ = run(store, NAMES, data=DATA, mia_perturbation="causal")
    return {key: {record_id: each.to_json() for record_id, each in of.items()} for key, of in outcome.results.items()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """A store as a killed process leaves it, its write-ahead log not yet folded in, and the audit's numbers."""
    folder = tmp_path_factory.mktemp("finished")
    copy = folder.with_name("copy")
    with Store(folder / "store") as beside:  # who closes last folds the log in
        beside.json.put({beside.key("json", beside=True): 1})
        numbers = results(folder)
        shutil.copytree(folder, copy)
    return copy, numbers


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_byte_anywhere_in_the_store_changes_no_number(
    finished: tuple[Path, dict[str, object]], tmp_path: Path, seed: int
) -> None:
    store, numbers = finished
    draw = random.Random(seed)
    files = sorted(path.relative_to(store) for path in store.rglob("*") if path.is_file() and path.stat().st_size)
    assert {"key", "adapter.json", ".spvmia-manifest"} <= {path.name for path in files}
    assert any(path.name.endswith("-wal") for path in files)
    for trial in range(8):
        damaged = tmp_path / str(trial)
        shutil.copytree(store, damaged)
        victim = damaged / files[(trial * 4 + seed) % len(files)]
        content = bytearray(victim.read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        victim.write_bytes(content)
        assert results(damaged) == numbers, victim
        assert results(damaged) == numbers, victim  # what was computed again is sound


class Full:
    """A disk that is full at the k-th thing written to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
        self.calls = 0
        self._fails_at = fails_at
        for name in ("open", "mkdir", "replace", "rename", "fsync"):
            monkeypatch.setattr(os, name, self._guard(getattr(os, name), OSError(errno.ENOSPC, "No space left")))
        full = sqlite3.OperationalError("database or disk is full")
        monkeypatch.setattr(database, "_transaction", self._guard(database._transaction, full, lambda *a: a[1]))

    def _guard(self, function, error, writes=lambda *_: True):
        def guarded(*args, **kwargs):
            if writes(*args) and writes(*args) != "BEGIN":
                self.calls += 1
                if self.calls == self._fails_at:
                    raise error
            return function(*args, **kwargs)

        return guarded


def test_a_disk_that_fills_at_any_write_is_told_and_the_run_continues_to_the_same_numbers(
    finished: tuple[Path, dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, numbers = finished
    with monkeypatch.context() as patch:
        disk = Full(patch, 0)
        assert results(tmp_path / "whole") == numbers
    draw = random.Random(0)
    told: list[str] = []
    for fails_at in [*range(1, 13), *draw.sample(range(13, disk.calls), 16)]:
        store = tmp_path / str(fails_at)
        with monkeypatch.context() as patch:
            Full(patch, fails_at)
            try:
                assert results(store) == numbers, fails_at  # a failed note of the last use harms nothing
            except SpvmiaError as error:
                told.append(str(error))
        assert results(store) == numbers, fails_at
    assert len(told) >= 20
    for message in told:
        assert message.startswith("mia_cache_dir: expected a folder that can be written")
        assert "\n" not in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o500)
    with pytest.raises(SpvmiaError, match="mia_cache_dir: expected a folder that can be written"):
        results(tmp_path)


def test_a_read_only_file_system_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_folders(monkeypatch, errno.EROFS)
    with pytest.raises(SpvmiaError, match=r"mia_cache_dir: .*Read-only file system"):
        results(tmp_path)
