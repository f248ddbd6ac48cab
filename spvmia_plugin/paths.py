"""What users write as a path, made one: `~` spelt out, and what no file can be called refused by name."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from spvmia_plugin.errors import SpvmiaError

_ABSENT = (errno.ENOENT, errno.ENOTDIR)


def path_problem(text: str | Path) -> str | None:
    """Why the file system cannot look for this path, None if it can; that nothing lies there is no problem.

    A hub id is a path like any other here: there may be a folder of that name.
    """
    try:
        os.stat(Path(text).expanduser())
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


def as_path(text: str | Path, option: str) -> Path:
    """The path that an option names, `~` spelt out.

    Args:
        text: what the user wrote.
        option: what asked for it, for errors.

    Raises:
        SpvmiaError: no file can have this name, or the file system refuses to look for it.
    """
    problem = path_problem(text)
    if problem is not None:
        raise SpvmiaError(f"{option}: expected the path of a file or folder, got {problem}; correct the path")
    return Path(text).expanduser()


def label(name: str | Path) -> str:
    """A name as it stands in ids and results, which are UTF-8: bytes of it that are not are written `\\xe9`."""
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
