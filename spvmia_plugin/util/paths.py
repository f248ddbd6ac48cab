"""What users write as a path, made one: `~` spelt out, and what no file can be called refused by name."""

from __future__ import annotations

import errno
import os
import re
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


def label(name: str | Path) -> str:
    """A name as it stands in ids and results, which are UTF-8: bytes of it that are not are written `\\xe9`.

    Everything else is kept as it is, and escaped where it is shown.
    """
    text = str(name)
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a pair that stands for no byte: no file is called so
        return text.encode("utf-8", "backslashreplace").decode()


def check_file_to_write(path: Path, option: str) -> None:
    """Refuse an output that would take the place of something other than an earlier output.

    Args:
        path: the file to be written; a link is followed.
        option: what named it, for errors.

    Raises:
        SpvmiaError: there is a device, a pipe or a socket, or a file that lm_eval wrote.
    """
    if path.exists() and not path.is_file():
        raise SpvmiaError(f"{option}: expected a regular file, got {path}, which is a device, a pipe or a socket")
    if path.exists() and _OF_LM_EVAL.fullmatch(path.resolve().name):
        raise SpvmiaError(
            f"{option}: expected a file that may be replaced, got {path}, results or samples of an lm_eval run; name "
            "another file"
        )
