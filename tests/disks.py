"""A small file system that is really full, or really read-only. Root is refused nothing by modes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Disk:
    """A file system in memory, mounted at `place`."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def fill(self, leave: int = 0) -> None:
        """Leave so many bytes free."""
        descriptor = os.open(self.place / "filling", os.O_WRONLY | os.O_CREAT)
        try:
            while True:
                os.write(descriptor, bytes(4096))
        except OSError:
            pass
        finally:
            os.close(descriptor)
        os.truncate(self.place / "filling", os.path.getsize(self.place / "filling") - leave)

    def free(self) -> None:
        """Give back what `fill` took."""
        (self.place / "filling").unlink()

    def freeze(self) -> None:
        """Make it read-only."""
        subprocess.run(["mount", "-o", "remount,ro", self.place], check=True, capture_output=True)


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Disk]:
    """Mount a disk of a size (`4m`), or skip the test where that is not allowed."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a file system is not allowed here")
    try:
        yield Disk(place)
    finally:
        subprocess.run(["umount", "-l", place], check=True, capture_output=True)
