"""Paths as users write them, files that only their owner may read, and digests of files."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path

from spvmia_plugin.errors import SpvmiaError

_ABSENT = (errno.ENOENT, errno.ENOTDIR)

_OF_LM_EVAL = re.compile(r".*_\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(\.\d+)?\.jsonl?")
"""Results and samples end in the time of their run."""


def path_problem(text: str | Path, *, utf8: bool = False) -> str | None:
    """Why the file system cannot look for this path, None if it can; that nothing lies there is no problem.

    Args:
        text: a path, or a hub id: there may be a folder of that name.
        utf8: whether it must be UTF-8, as the libraries want it that read and write weights and databases.
    """
    try:
        place = Path(text).expanduser()
        if utf8 and label(place) != str(place):
            os.fsencode(place)
            return "one that is not in UTF-8"
        os.stat(place)
    except RuntimeError:
        return "a home folder of a user who is not known"
    except UnicodeEncodeError:
        return "half a surrogate pair"
    except ValueError:
        return "a NUL character"
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return "a longer name than the file system takes"
        return None if error.errno in _ABSENT else (error.strerror or type(error).__name__)
    return None


def as_path(text: str | Path, option: str, *, utf8: bool = False) -> Path:
    """The path that an option names, `~` spelt out.

    Args:
        text: what the user wrote.
        option: what asked for it, for errors.
        utf8: as for `path_problem`.

    Raises:
        SpvmiaError: no file can have this name, or the file system refuses to look for it.
    """
    problem = path_problem(text, utf8=utf8)
    if problem is not None:
        raise SpvmiaError(f"{option}: expected the path of a file or folder, got {problem}; correct the path")
    return Path(text).expanduser()


def user_cache(named: str | Path | None = None, *, utf8: bool = False) -> Path:
    """The folder for what outlives a run: the one that `mia_cache_dir` names, else the user's cache for `spvmia`.

    Raises:
        SpvmiaError: as `as_path`.
    """
    import platformdirs

    return as_path(platformdirs.user_cache_dir("spvmia") if named is None else named, "mia_cache_dir", utf8=utf8)


def label(name: str | Path) -> str:
    """A name as it stands in ids and results, which are UTF-8: bytes of it that are not are written `\\xe9`.

    Everything else is kept as it is, and escaped where it is shown.
    """
    text = str(name)
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a pair that stands for no byte: no file is called so
        return text.encode("utf-8", "backslashreplace").decode()


PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600

TEMPORARY = ".spvmia-tmp-"
"""Prefix of files that are being written; a killed process leaves them, nothing ever reads them."""

_CHUNK = 2**20
_HEAD = 2**16
"""Bytes in which an output is known again."""


def private_folder(path: Path) -> Path:
    """Make `path`, and what is missing above it, readable by the owner alone; a folder that exists keeps its parents.

    Raises:
        OSError: it cannot be made.
    """
    if not path.is_dir():
        if not path.parent.is_dir():
            private_folder(path.parent)
        try:
            path.mkdir(mode=PRIVATE_FOLDER)
        except FileExistsError:
            if not path.is_dir():  # a file is in the way; otherwise another process was faster
                raise
    if path.stat().st_mode & 0o777 != PRIVATE_FOLDER:  # an unusual umask may have taken rights from the owner too
        path.chmod(PRIVATE_FOLDER)
    return path


def write_private(path: Path, content: bytes | Iterable[bytes], *, replace: bool = True) -> None:
    """Write a whole file at once with mode 0600: readers see the old file or the new one, never half of one.

    Args:
        path: the file; its folder exists.
        content: what it holds, at once or piece by piece.
        replace: whether an existing file is replaced; otherwise it is kept and nothing is written.

    Raises:
        OSError: it cannot be written.
    """
    part = path.parent / f"{TEMPORARY}{os.urandom(8).hex()}"
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE), "wb") as file:
            part.chmod(PRIVATE_FILE)
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(part, path)
        elif not path.exists():
            try:
                os.link(part, path)
            except FileExistsError:  # another process was first
                pass
            except OSError:  # a file system without hard links
                os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, read piece by piece: a checkpoint is larger than the memory there is for it.

    Raises:
        OSError: it cannot be read.
    """
    import hashlib  # a tenth of what `spvmia --help` takes

    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def check_file_to_write(path: Path, option: str, mark: str) -> None:
    """Refuse an output that would take the place of something other than an earlier output.

    Args:
        path: the file to be written; a link is followed.
        option: what named it, for errors.
        mark: ASCII that every such output has near its beginning, and hardly anything else.

    Raises:
        SpvmiaError: there is a folder, a device, a pipe or a socket, a file that lm_eval wrote, or one without the
            mark that is not empty: what was trained on, say, named by a slip.
    """
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "a device, a pipe or a socket"
        raise SpvmiaError(f"{option}: expected a regular file, got {path}, which is {what}")
    if path.exists() and _OF_LM_EVAL.fullmatch(path.resolve().name):
        raise SpvmiaError(
            f"{option}: expected a file that may be replaced, got {path}, results or samples of an lm_eval run; name "
            "another file"
        )
    if path.exists():
        try:
            with path.open("rb") as file:
                head = file.read(_HEAD)
        except OSError as error:
            raise SpvmiaError(f"{option}: cannot read {path} ({error.strerror}); name another file") from error
        if head and mark.encode("ascii") not in head:
            raise SpvmiaError(
                f"{option}: expected a file that may be replaced, got {path}, which is no earlier output of this kind; "
                "name another file, or remove it"
            )
