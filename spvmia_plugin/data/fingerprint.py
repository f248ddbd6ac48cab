"""Keyed hashes of private text: the same data are recognised, and nobody can test a guess without the key."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from pathlib import Path

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.util.files import as_path, private_folder, write_private

KEY_BYTES = 32
KEY_FILE = "fingerprint.key"

Entry = tuple[str, str]
"""A label ("member", "nonmember", "prompt", ...) and a text."""


def fingerprint(key: bytes, entries: Iterable[Entry]) -> str:
    """HMAC-SHA256 over texts and labels, in hexadecimal; the order of the entries does not matter.

    Args:
        key: secret; equal data under another key have another fingerprint.
        entries: labels and texts.
    """
    digests = sorted(_entry_digest(key, label, text) for label, text in entries)
    return hmac.new(key, b"".join(digests), hashlib.sha256).hexdigest()


def _entry_digest(key: bytes, label: str, text: str) -> bytes:
    head = f"{label}\0{len(text)}\0".encode()  # the length keeps label and text apart
    return hmac.new(key, head + text.encode("utf-8", "surrogatepass"), hashlib.sha256).digest()


def derived_key(key: bytes, purpose: str) -> bytes:
    """A key for one purpose, which tells nothing about the key it comes from."""
    return hmac.new(key, purpose.encode("utf-8", "surrogatepass"), hashlib.sha256).digest()


def user_cache_root(cache_dir: str | None) -> Path:
    """The folder for what outlives a run: `mia_cache_dir`, else the user's cache folder for `spvmia`."""
    if cache_dir is not None:
        return as_path(cache_dir, "mia_cache_dir")
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("spvmia"))


def user_key(cache_root: Path) -> bytes:
    """The user's fingerprint key in `cache_root`, made at first use with mode 0600.

    With the same key the same data have the same fingerprint in every audit of this user.

    Raises:
        SpvmiaError: the folder is not writable, or the file in it is no key.
    """
    path = cache_root / KEY_FILE
    try:
        if not path.exists():
            if not cache_root.is_dir():
                private_folder(cache_root)
            write_private(path, secrets.token_bytes(KEY_BYTES), replace=False)
        key = path.read_bytes()
    except OSError as error:
        raise SpvmiaError(
            f"mia_cache_dir: expected a folder that can be written, got {cache_root} ({error.strerror}); "
            "name another one, or set XDG_CACHE_HOME"
        ) from error
    if len(key) != KEY_BYTES:
        raise SpvmiaError(
            f"mia_cache_dir: expected {KEY_BYTES} bytes in {path}, got {len(key)}; remove the file to get a new key "
            "(data fingerprints change with it)"
        )
    return key
