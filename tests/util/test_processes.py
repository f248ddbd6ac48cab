"""Who takes part in an audit, and what the processes of a launch have to have in common. Real ones: tests/harness."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.util import processes
from spvmia_plugin.util.processes import Processes, launch, processes_of
from tests.launch import two_processes


def lm(**attributes: Any) -> Any:
    model = SimpleNamespace(device=torch.device("cpu"))
    return SimpleNamespace(**{"rank": 0, "world_size": 1, "pretrained": "x", "model": model, **attributes})


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process group in which this one is the second of three."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "3")


def test_the_harnesss_ranks_hold(group: None, torchrun: None) -> None:
    assert processes_of(lm(rank=4, world_size=8)) == Processes(4, 8, whole=False)


def test_one_process_is_alone(group: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    alone = Processes(0, 1, whole=False)
    assert processes_of(lm()) == alone
    assert processes_of(lm(accelerator=SimpleNamespace(num_processes=1))) == alone
    monkeypatch.setenv("WORLD_SIZE", "3")  # of a launcher that is not known to have started any other
    assert processes_of(lm()) == alone


def test_what_accelerate_knows_counts(group: None) -> None:
    assert processes_of(lm(accelerator=SimpleNamespace(num_processes=3))) == Processes(1, 3, whole=True)


def test_what_torchrun_says_counts_on_a_cpu_for_models_that_the_harness_loads(group: None, torchrun: None) -> None:
    assert processes_of(lm()) == Processes(1, 3, whole=True)
    assert processes_of(lm(pretrained=object())).count == 1
    assert processes_of(lm(model=SimpleNamespace(device=torch.device("meta")))).count == 1
    assert processes_of(SimpleNamespace(world_size=1)).count == 1  # an API


def test_what_torchrun_started(monkeypatch: pytest.MonkeyPatch, torchrun: None) -> None:
    monkeypatch.setenv("RANK", "2")
    assert launch() == Processes(2, 3)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert launch() == Processes()  # of another launcher nothing is known


def test_processes_that_are_not_joined(monkeypatch: pytest.MonkeyPatch, torchrun: None) -> None:
    joined: list[str] = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: bool(joined))
    assert processes_of(lm(accelerator=SimpleNamespace(num_processes=3))).count == 1  # as on TPUs
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda name, timeout: joined.append(name))
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    assert processes_of(lm()) == processes_of(lm()) == Processes(2, 3, whole=True)
    assert joined == ["gloo"]


def test_records_are_dealt_out_one_by_one_unless_the_harness_did() -> None:
    records = list(range(8))
    shares = [list(Processes(rank, 3, whole=True).share(records)) for rank in range(3)]
    assert shares == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert Processes(1, 3).share(records) == records
    assert Processes().share(records) == records


def test_too_few_records() -> None:
    Processes(0, 3).check_enough(3)
    with pytest.raises(
        SpvmiaError, match="--limit: expected at least one record for each of 3 processes, got 2; raise"
    ):
        Processes(2, 3).check_enough(2)


def test_processes_on_several_machines_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    boots = [("1", "alpha"), ("1", "in-a-container"), ("2", "beta")]
    monkeypatch.setattr(processes, "all_say", lambda mine, count: [mine, *boots[:count]])
    monkeypatch.setattr(processes, "_BOOT", Path("/nowhere"))
    monkeypatch.setattr(processes.platform, "node", lambda: "1")
    Processes(0, 2).check_machine()
    with pytest.raises(SpvmiaError, match=r"expected all 3 on one machine, got 2 \(beta, in-a-container\); .*on each"):
        Processes(0, 3).check_machine()


WORKER = """
import sys
from pathlib import Path
from accelerate import Accelerator
from spvmia_plugin.util import processes

rank = Accelerator(cpu=True).process_index
Path(sys.argv[1], f"boot-{rank}").write_text(f"kernel {rank}")
processes._BOOT = Path(sys.argv[1], f"boot-{rank}")
Path(sys.argv[1], f"store-{rank}").mkdir()
together = processes.Processes(rank, 2, whole=True)
refused = []
for check in (together.check_machine, lambda: together.check_folder("x", Path(sys.argv[1], f"store-{rank}"))):
    try:
        check()
    except SystemExit as error:
        refused.append(str(error))
print("\\n".join(refused), file=sys.stderr)
"""


@pytest.mark.slow
def test_every_process_is_told(tmp_path: Path) -> None:
    for status, said in two_processes(["-c", WORKER, str(tmp_path)], {"PYTHONPATH": "."}):
        assert status == 0, said
        assert "several processes: expected all 2 on one machine, got 2 (" in said
        assert "x: expected one folder for all 2 processes, got 2 different ones" in said


def test_this_machine_is_one() -> None:
    Processes().check_machine()


def test_several_folders_under_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, other = tmp_path / "here", tmp_path / "other"
    for folder in (here, other):
        folder.mkdir()
    (tmp_path / "link").symlink_to(here)

    def seen(folder: Path) -> tuple[int, int]:
        return folder.stat().st_dev, folder.stat().st_ino

    monkeypatch.setattr(processes, "all_say", lambda mine, count: [mine, seen(tmp_path / "link")])
    Processes(0, 2).check_folder("mia_cache_dir", here)
    monkeypatch.setattr(processes, "all_say", lambda mine, count: [mine, seen(other)])
    with pytest.raises(
        SpvmiaError, match="mia_cache_dir: expected one folder for all 2 processes, got 2 different ones"
    ):
        Processes(0, 2).check_folder("mia_cache_dir", here)
    Processes().check_folder("mia_cache_dir", tmp_path / "missing")
