"""The processes of a launch: which one this is, what each of them says, and what they have to have in common."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from spvmia_plugin.errors import SpvmiaError

T = TypeVar("T")

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_PATIENCE = timedelta(weeks=52)
"""How long processes wait for each other: as long as the harness lets its own wait."""


@dataclass(frozen=True)
class Processes:
    """The processes that audit together.

    Attributes:
        rank: number of this one. The first, 0, shows and writes for all.
        count: how many there are.
        whole: the harness runs all of its tasks in each of them (it shards over several GPUs only). The records of an
            audit are dealt out here, then, and every process is given all answers.
    """

    rank: int = 0
    count: int = 1
    whole: bool = False

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """What of `items` is this process's to do: every `count`-th, unless the harness has dealt them out."""
        return items[self.rank :: self.count] if self.whole else items

    def check_enough(self, records: int) -> None:
        """Refuse a launch in which a process would have nothing to do.

        Raises:
            SpvmiaError: there are fewer records than processes.
        """
        if records < self.count:
            raise SpvmiaError(
                f"--limit: expected at least one record for each of {self.count} processes, got {records}; raise the "
                "limit, or launch fewer processes"
            )

    def say(self, value: Any) -> list[Any]:
        """What each process passed, in the order of their ranks, in all of them; all must ask.

        Raises:
            SpvmiaError: another process has failed.
        """
        with one_of(self.count):
            return all_say(value, self.count)

    def check_machine(self) -> None:
        """Refuse processes on several machines: they would not see one store. Every process has to call it.

        One machine is one running kernel: its processes share memory, which SQLite's write-ahead log needs, whatever
        containers and network namespaces they are in.

        Raises:
            SpvmiaError: there are several.
        """
        boot = _BOOT.read_text().strip() if _BOOT.is_file() else platform.node()
        names = dict(self.say((boot, platform.node())))
        if len(names) > 1:
            raise SpvmiaError(
                f"several processes: expected all {self.count} on one machine, got {len(names)} "
                f"({', '.join(sorted(names.values()))}); their store (mia_cache_dir) is one SQLite database, whose log "
                "machines cannot share: launch on one machine, or audit on each by itself, with a mia_cache_dir of "
                "its own"
            )

    def check_folder(self, option: str, folder: Path) -> None:
        """Refuse a folder that is not the same one for all. Every process has to call it.

        Args:
            option: that names it.
            folder: it is there.

        Raises:
            SpvmiaError: paths lead to several folders, as in containers, or from several working directories.
        """
        if self.count == 1:
            return
        found = folder.stat()
        places = self.say((found.st_dev, found.st_ino))
        if len(set(places)) > 1:
            raise SpvmiaError(
                f"{option}: expected one folder for all {self.count} processes, got {len(set(places))} different ones, "
                f"here {folder.absolute()}; name a folder that all of them see, by its absolute path"
            )


def processes_of(lm: Any) -> Processes:
    """The processes that an LM of the harness is launched in; every one of them has to ask.

    The harness gives its model a rank on several GPUs only. On a CPU, and on one GPU, each process runs all of it: what
    accelerate knows of the processes counts here, and under `torchrun`, whose processes accelerate takes for single
    ones on a CPU (unless ACCELERATE_USE_CPU is set), what that says.
    """
    if lm.world_size > 1:
        return Processes(lm.rank, lm.world_size)
    accelerator = getattr(lm, "accelerator", None)
    if not (_is_one_of_many_on_cpu(lm) if accelerator is None else accelerator.num_processes > 1):
        return Processes()
    import torch

    if not torch.distributed.is_initialized():  # accelerate does that for `torchrun` all the same
        if accelerator is not None:  # on TPUs it has other ways
            return Processes()
        torch.distributed.init_process_group("gloo", timeout=_PATIENCE)
    return Processes(torch.distributed.get_rank(), torch.distributed.get_world_size(), whole=True)


def _is_one_of_many_on_cpu(lm: Any) -> bool:
    """Whether `torchrun` started this process with others, and it has its model on the CPU.

    What the other processes do with a model that comes as an object, nobody knows.
    """
    is_one = launch().count > 1
    return is_one and isinstance(getattr(lm, "pretrained", None), str) and lm.model.device.type == "cpu"


def launch() -> Processes:
    """What `torchrun` says of the processes that it started, whether or not they audit together."""
    if os.environ.get("TORCHELASTIC_RUN_ID") is None:
        return Processes()
    return Processes(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def is_first(processes: int) -> bool:
    """Whether this is the one of so many processes that looks, writes and shows for all."""
    import torch

    return processes == 1 or int(torch.distributed.get_rank()) == 0


def first_says(value: Any, processes: int) -> Any:
    """What the first of so many processes passed, in all of them."""
    if processes == 1:
        return value
    import torch

    said = [value]
    torch.distributed.broadcast_object_list(said)
    return said[0]


def all_say(value: Any, processes: int) -> list[Any]:
    """What each of so many processes passed, in the order of their ranks, in all of them."""
    if processes == 1:
        return [value]
    import torch

    found: list[Any] = [None] * processes
    torch.distributed.all_gather_object(found, value)
    return found


@contextmanager
def one_of(processes: int) -> Iterator[None]:
    """While processes wait for each other.

    Raises:
        SpvmiaError: another process has failed. It has said why; this one must not wait for it.
    """
    try:
        yield
    except RuntimeError as error:  # as for want of memory: a lost connection has no type of its own in gloo
        if not re.search("connection|gloo|nccl", str(error), re.IGNORECASE):
            raise
        raise SpvmiaError(
            f"several processes: expected all {processes} to finish, got a broken connection: another one has "
            "failed, and its own last line says why; correct that and run the same command again, which continues"
        ) from error
