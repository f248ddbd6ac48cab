"""Files that only their owner may read, and digests of files larger than memory should hold."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.util.files import check_file_to_write, file_digest, private_folder, write_private


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_digest_takes_no_memory_to_speak_of(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    content = os.urandom(2**20) * 32
    path.write_bytes(content)
    expected = hashlib.sha256(content).hexdigest()
    tracemalloc.start()
    found = file_digest(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == expected
    assert peak < 2**22


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_folders_and_files_are_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        folder = private_folder(tmp_path / "above" / "folder")
        write_private(folder / "file", b"first")
        write_private(folder / "file", (part for part in (b"sec", b"ond")))
    finally:
        os.umask(before)
    assert (folder / "file").read_bytes() == b"second"
    assert [mode(path) for path in (folder.parent, folder, folder / "file")] == [0o700, 0o700, 0o600]
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_a_folder_that_is_there_becomes_private_and_a_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    assert mode(private_folder(tmp_path / "open")) == 0o700
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        private_folder(tmp_path / "file")


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    def breaks() -> Iterator[bytes]:
        yield b"half"
        raise OSError(errno.ENOSPC, "No space left on device")

    write_private(tmp_path / "file", b"whole")
    with pytest.raises(OSError, match="No space left"):
        write_private(tmp_path / "file", breaks())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"whole"}


@pytest.mark.parametrize("raised", [None, FileExistsError, PermissionError])
def test_a_file_that_is_kept(tmp_path: Path, raised: type[OSError] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several processes that make a key at once the first wins, on file systems without hard links too."""
    path = tmp_path / "key"

    def link(source: Path, target: Path) -> None:
        if raised is FileExistsError:
            target.write_bytes(b"theirs")
        raise raised or AssertionError

    if raised is not None:
        monkeypatch.setattr(os, "link", link)
    write_private(path, b"ours", replace=False)
    expected = b"theirs" if raised is FileExistsError else b"ours"
    assert path.read_bytes() == expected
    write_private(path, b"later", replace=False)
    assert path.read_bytes() == expected
    assert [each.name for each in tmp_path.iterdir()] == ["key"]


def test_only_an_earlier_output_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    check_file_to_write(path, "--output", "mark")
    for fine in (b"", b"<!-- \xff mark -->", b" " * 60_000 + b"mark"):
        path.write_bytes(fine)
        check_file_to_write(path, "--output", "mark")
    for other in (b'{"text": "SECRET"}', b"MARK", b" " * 70_000 + b"mark"):
        path.write_bytes(other)
        with pytest.raises(SpvmiaError, match=r"^--output: expected a file that may be replaced, got .*page.html, wh"):
            check_file_to_write(path, "--output", "mark")
    link = tmp_path / "link.html"
    link.symlink_to(path)
    with pytest.raises(SpvmiaError, match=r"got .*link.html, which is no earlier output of this kind"):
        check_file_to_write(link, "--output", "mark")
