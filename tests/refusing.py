"""Folders that cannot be made."""

from __future__ import annotations

import os
import pathlib
from typing import NoReturn

import pytest


def refuse_folders(monkeypatch: pytest.MonkeyPatch, reason: int) -> None:
    """Have every `mkdir` fail with this error number, as a read-only or full file system would."""

    def refuse(path: object, *_: object, **__: object) -> NoReturn:
        raise OSError(reason, os.strerror(reason), str(path))

    monkeypatch.setattr(os, "mkdir", refuse)
    if hasattr(pathlib, "_NormalAccessor"):  # Python 3.10 has taken its own reference
        monkeypatch.setattr(pathlib._NormalAccessor, "mkdir", staticmethod(refuse))
