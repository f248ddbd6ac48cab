"""Folders of the user, found without our dependencies."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from spvmia_plugin.data.fingerprint import user_key
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.util.files import as_path, private_folder

APP = "spvmia"


def cache_folder() -> Path:
    """The user's cache for `spvmia`, where platformdirs has it."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / APP / APP / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / APP
    return _xdg("XDG_CACHE_HOME", ".cache")


def data_folder() -> Path:
    """The user's data for `spvmia`, where platformdirs has them."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / APP / APP
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / APP
    return _xdg("XDG_DATA_HOME", ".local/share")


def _xdg(variable: str, default: str) -> Path:
    named = os.environ.get(variable, "").strip()
    return (Path(named) if named else Path.home() / default) / APP


def own_key(data_dir: str | Path | None) -> bytes:
    """The user's fingerprint key: of the folder that was named, else of the user's cache.

    Raises:
        SpvmiaError: it cannot be made there.
    """
    if data_dir is None:
        return user_key(cache_folder())
    return user_key(private(data_dir))


def private(data_dir: str | Path | None) -> Path:
    """The folder for rows and manifests that must not lie beside the weights, readable by its owner alone.

    Raises:
        SpvmiaError: it cannot be made.
    """
    folder = data_folder() if data_dir is None else as_path(data_dir, "data_dir", utf8=True).absolute()
    try:
        return private_folder(folder)
    except OSError as error:
        raise SpvmiaError(
            f"data_dir: expected a folder that can be written, got {folder} ({error.strerror}); name another"
        ) from error
