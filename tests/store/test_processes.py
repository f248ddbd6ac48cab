"""Several processes at once, and processes that are killed."""

from __future__ import annotations

import json
import multiprocessing
import random
import subprocess
import sys
import time
from pathlib import Path

from spvmia_plugin.store.store import Store
from tests.store.samples import bits, build, signals

REPOSITORY = Path(__file__).parents[2]


def write_and_build(root: str, rank: int, results: multiprocessing.Queue) -> None:
    """One of several processes that start together: the same values, the same reference, its own text."""
    store = Store(root)
    for i in range(30):
        store.signals.put({store.key("signals", i=j): signals(j) for j in range(i, i + 3)})
        store.json.put({store.key("json", rank=rank, i=i): [rank, i]})
    corpus = store.corpus(store.key("corpus"))
    for i in range(5):
        corpus.append({i: f"text {i}", 100 * (rank + 1) + i: f"rank {rank}"})
    key = store.key("references", a=1)
    built = 0
    with store.lock(key):
        if store.find_folder("references", key) is None:
            time.sleep(0.1)
            build(store, key)
            built = 1
    results.put((rank, built, store.find_folder("references", key) is not None, store.text_hash("x")))
    store.close()


def test_several_processes_write_one_store(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    arguments = [(str(tmp_path / "store"), rank, results) for rank in range(3)]
    processes = [context.Process(target=write_and_build, args=each) for each in arguments]
    for process in processes:
        process.start()
    reports = [results.get(timeout=300) for _ in processes]
    for process in processes:
        process.join(timeout=300)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sum(built for _, built, _, _ in reports) == 1  # the others waited and found it
    assert all(found for _, _, found, _ in reports)
    assert len({name for *_, name in reports}) == 1  # one key, though all made the store at once
    with Store(tmp_path / "store") as store:
        keys = {store.key("signals", i=i): i for i in range(32)}
        found = store.signals.get(keys)
        assert {key: bits(value) for key, value in found.items()} == {k: bits(signals(i)) for k, i in keys.items()}
        values = {store.key("json", rank=rank, i=i): [rank, i] for rank in range(3) for i in range(30)}
        assert store.json.get(values) == values
        texts = {100 * (rank + 1) + i: f"rank {rank}" for rank in range(3) for i in range(5)}
        assert store.corpus(store.key("corpus")).load() == {**{i: f"text {i}" for i in range(5)}, **texts}
        assert store.verify().removed == []
        assert store.corrupt_count == 0


READER = """
import sys
from pathlib import Path
from spvmia_plugin.store.store import Store

with Store(Path(sys.argv[1])) as store:
    print(len(store.json.get([store.key("json", i=i) for i in range(20)])))
"""


def test_what_is_written_after_another_process_has_closed_the_store_is_kept(tmp_path: Path) -> None:
    """Whatever looked at the file meanwhile in the process that writes: its size, another store on the same folder."""

    def read() -> int:
        command = [sys.executable, "-c", READER, str(tmp_path / "store")]
        return int(subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout)

    with Store(tmp_path / "store") as store:
        for i in range(3):
            store.json.put({store.key("json", i=i): i})
            assert store.summary()
            with Store(tmp_path / "store") as second:
                assert second.json.get([store.key("json", i=i)])
            assert read() == i + 1
        store.json.put({store.key("json", i=3): 3})
    assert read() == 4


WRITER = """
import sys
from pathlib import Path
from spvmia_plugin.store.store import Store
from tests.store.samples import build, signals

store = Store(Path(sys.argv[1]))
start = int(sys.argv[2])
corpus = store.corpus(store.key("corpus"))
for i in range(start, start + 100_000):
    store.signals.put({store.key("signals", i=i, j=j): signals(i + j, 500) for j in range(20)})
    corpus.append({i: f"text {i} " * 100})
    build(store, store.key("references", i=i), b"%d" % i * 50_000)
    print(i, flush=True)  # all of it is written
"""


def test_killed_at_any_moment_the_store_is_sound_and_has_what_was_finished(tmp_path: Path) -> None:
    draw = random.Random(0)
    root = tmp_path / "store"
    finished: list[int] = []
    for trial in range(4):
        command = [sys.executable, "-c", WRITER, str(root), str(1000 * trial)]
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            finished.append(int(writer.stdout.readline()))
            time.sleep(draw.uniform(0, 0.2))
            writer.kill()
            finished += [int(line) for line in writer.stdout if line.endswith("\n")]
        check_whole(root, finished)


def check_whole(root: Path, finished: list[int]) -> None:
    """Everything reported as written is there, and whatever else is there is whole."""
    with Store(root) as store:
        texts = store.corpus(store.key("corpus")).load()
        assert set(finished) <= set(texts)
        assert all(text == f"text {i} " * 100 for i, text in texts.items())
        for i in [*finished, max(finished) + 1]:
            found = store.signals.get([store.key("signals", i=i, j=j) for j in range(20)])
            assert len(found) == 20 if i in finished else len(found) in (0, 20)  # a batch is whole or absent
            for j in range(20):
                value = found.get(store.key("signals", i=i, j=j))
                assert value is None or bits(value) == bits(signals(i + j, 500))
            folder = store.find_folder("references", store.key("references", i=i))
            assert folder is not None or i not in finished
            if folder is not None:
                assert (folder / "adapter_model.safetensors").read_bytes() == b"%d" % i * 50_000
        assert store.verify().removed == []
        assert store.corrupt_count == 0
        assert json.dumps(store.summary())
