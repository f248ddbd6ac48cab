from __future__ import annotations

import os
from pathlib import Path

import pytest

from spvmia_plugin.store import folders as folders_module
from spvmia_plugin.store.store import Store
from tests.store.samples import Clock, build, signals, some_signals


def test_a_reference_is_found_once_it_is_finished(store: Store) -> None:
    key = store.key("references", a=1)
    assert store.find_folder("references", key) is None
    work = store.work_folder("references", key)
    (work / "checkpoint-5").mkdir()
    assert store.find_folder("references", key) is None
    assert Store(store.root).work_folder("references", key) == work  # a killed training resumes here
    assert (work / "checkpoint-5").is_dir()
    folder = build(store, key)
    assert Store(store.root).find_folder("references", key) == folder
    assert not work.exists()
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


@pytest.mark.parametrize("moment", ["before the rename", "after the rename"])
def test_a_kill_while_committing_loses_nothing(store: Store, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key = store.key("references", a=1)

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if moment == "before the rename":
            patch.setattr(Path, "rename", kill)
        else:
            patch.setattr(folders_module.Folders, "_drop_leftovers", kill)
        with pytest.raises(Killed):
            build(store, key)
    if moment == "before the rename":
        work = store.work_folder("references", key)
        assert (work / "checkpoint-10" / "optimizer.pt").exists()
        assert store.find_folder("references", key) is None
        build(store, key)
    folder = store.find_folder("references", key)
    assert folder is not None
    assert not (folder / "checkpoint-10").exists()
    assert store.corrupt_count == 0


def test_committing_again_replaces(store: Store) -> None:
    key = store.key("references", a=1)
    build(store, key, b"one")
    folder = build(store, key, b"two")
    assert (folder / "adapter_model.safetensors").read_bytes() == b"two"
    assert store.find_folder("references", key) == folder


def test_unknown_kinds_of_folders_are_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="expected one of references"):
        store.find_folder("pictures", store.key("pictures", a=1))


def test_the_lock_is_between_stores_and_can_be_taken_twice_by_one(store: Store) -> None:
    key = store.key("references", a=1)
    other = Store(store.root)
    with store.lock(key), store.lock(key), other._locks.try_hold(key) as held:
        assert not held
    with other._locks.try_hold(key) as held:
        assert held


def test_least_recently_used_goes_first_over_all_kinds(tmp_path: Path) -> None:
    clock = Clock()
    root = tmp_path / "store"

    def opened(limit: int = 10**9) -> Store:
        clock.now += 10_000
        return Store(root, size_limit_bytes=limit, clock=clock)

    with opened() as store:
        keys = [store.key("references", i=i) for i in range(3)]
        old_reference = build(store, keys[0], b"w" * 200_000)
    with opened() as store:
        old_corpus = store.corpus(store.key("corpus", i=0))
        old_corpus.append({0: "t" * 200_000})
        os.utime(old_corpus.folder, (clock.now, clock.now))
    with opened() as store:
        old_entries = {store.key("signals", i=i): signals(i, 4000) for i in range(5)}
        store.signals.put(old_entries)
    with opened() as store:
        used_reference = build(store, keys[1], b"w" * 200_000)
        new_entries = {store.key("signals", i=i): signals(i, 4000) for i in range(5, 10)}
        store.signals.put(new_entries)
    with opened() as store:  # reading makes the oldest ones young again
        assert store.find_folder("references", keys[0])
        assert len(store.signals.get(list(old_entries)[:2])) == 2
        total = store.summary()["total_bytes"]
    with opened(limit=int(total * 0.8)) as store:
        freed = store.evict()
        assert 0.2 * total < freed < 0.6 * total
        assert store.summary()["total_bytes"] < 0.8 * total
        assert not old_corpus.folder.exists()  # least recently used, then the three entries not read again
        assert set(store.signals.get(old_entries)) == set(list(old_entries)[:2])
        assert len(store.signals.get(new_entries)) == 5
        assert old_reference.exists()
        assert used_reference.exists()
        assert store.evict() == 0


def test_clearing_gives_the_room_back(store: Store) -> None:
    store.signals.put({store.key("signals", i=i): signals(i, 4000) for i in range(50)})
    store.close()
    before = store.summary()["total_bytes"]
    store.clear("signals")
    store.close()
    assert store.summary()["total_bytes"] < before / 20


def test_what_is_in_use_is_never_evicted(tmp_path: Path) -> None:
    clock = Clock()
    with Store(tmp_path, size_limit_bytes=10**9, clock=clock) as store:
        keys = [store.key("references", i=i) for i in range(3)]
        build(store, keys[0])
        store.work_folder("references", keys[1])
        values = some_signals(store)
        store.signals.put(values)
    clock.now += 10_000
    first = Store(tmp_path, size_limit_bytes=1, clock=clock)
    found = first.find_folder("references", keys[0])
    assert len(first.signals.get(values)) == len(values)
    clock.now += 10_000  # long after its last use, but by this very process
    with Store(tmp_path).lock(keys[1]):  # and a process is training here
        first.evict()
    assert found is not None
    assert found.exists()
    assert len(first.signals.get(values)) == len(values)
    assert (tmp_path / "work" / "references" / keys[1]).exists()
    clock.now += 10_000
    with Store(tmp_path, size_limit_bytes=1, clock=clock) as later:
        assert later.evict() > 0
    assert not found.exists()
    assert first.signals.get(values) == {}
    first.close()


def test_the_limit_is_kept_while_writing(tmp_path: Path) -> None:
    clock = Clock()
    limit = 400_000
    for run in range(8):
        clock.now += 10_000
        with Store(tmp_path, size_limit_bytes=limit, clock=clock) as store:
            store.signals.put({store.key("signals", run=run, i=i): signals(i, 1000) for i in range(10)})
            build(store, store.key("references", run=run), b"w" * 50_000)
        assert store.summary()["total_bytes"] <= limit
        store.close()


def test_what_killed_processes_left_is_swept_after_an_hour(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.prepare()
        corpus = store.corpus(store.key("corpus", i=0))
        corpus.append({0: "a"})
        old = [tmp_path / ".spvmia-tmp-1", corpus.folder / ".spvmia-tmp-2"]
        for path in old:
            path.write_bytes(b"half")
            os.utime(path, (1, 1))
        (tmp_path / ".spvmia-trash-3").mkdir()
        os.utime(tmp_path / ".spvmia-trash-3", (1, 1))
        young = tmp_path / ".spvmia-tmp-4"
        young.write_bytes(b"another process writes it now")
        store.verify()
        assert not any(path.exists() for path in [*old, tmp_path / ".spvmia-trash-3"])
        assert young.exists()


def test_clear_leaves_what_is_not_ours_and_what_is_being_built(tmp_path: Path) -> None:
    (tmp_path / "references").mkdir()
    (tmp_path / "references" / "thesis.bib").write_text("mine")
    with Store(tmp_path) as store:
        built, building = store.key("references", i=0), store.key("references", i=1)
        build(store, built)
        store.work_folder("references", building)
        store.corpus(store.key("corpus", i=0)).append({0: "a"})
        store.signals.put(some_signals(store))
        with Store(tmp_path).lock(building):
            cleared = store.clear()
        assert cleared.in_use == [f"references/{building[:12]}"]
        assert {kind: count for kind, (count, _) in cleared.removed.items()} == {
            "signals": 40,
            "neighbours": 0,
            "json": 0,
            "references": 1,
            "self_prompts": 1,
        }
        assert (tmp_path / "references" / "thesis.bib").read_text() == "mine"
        assert list((tmp_path / "self_prompts").iterdir()) == []
        assert store.find_folder("references", built) is None
        assert store.signals.get(some_signals(store)) == {}
