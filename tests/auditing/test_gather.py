"""What every process of a run is told of the others, by real processes."""

from __future__ import annotations

import pytest

from spvmia_plugin.util.processes import all_say
from tests.launch import two_processes

WORKER = """
import os, sys
import numpy as np
from accelerate import Accelerator
from spvmia_plugin.util.processes import all_say, one_of

accelerator = Accelerator(cpu=True)
rank = accelerator.process_index
mine = ([f"r:{rank}"], np.full((rank, 3), rank, dtype=np.float32), rank)  # the first process has no row
with one_of(2):
    first, second = all_say(mine, 2)
assert (first[0], second[0], first[2], second[2]) == (["r:0"], ["r:1"], 0, 1)
assert first[1].shape == (0, 3) and second[1].tolist() == [[1, 1, 1]]
if rank == 1:
    os._exit(7)
with one_of(2):
    all_say(mine, 2)
"""


def test_one_process_says_it_to_itself():
    value = object()
    assert all_say(value, 1) == [value]


@pytest.mark.slow
def test_processes_tell_each_other_and_one_that_died_is_told(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    (status, said), (died, _) = two_processes([str(tmp_path / "worker.py")], {"PYTHONPATH": "."})
    assert died == 7
    assert status == 1
    assert "several processes: expected all 2 to finish, got a broken connection: another one has failed" in said
