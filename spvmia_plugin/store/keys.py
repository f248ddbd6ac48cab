"""Names for what is stored, and checksums: both keyed, so that nothing on disk can be matched against guessed text."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from filelock import FileLock

from spvmia_plugin.store import files
from spvmia_plugin.store.files import make_root
from spvmia_plugin.util.files import PRIVATE_FILE, private_folder, write_private

CHECKSUM_BYTES = 16
_KEY_BYTES = 32
_KEY_FILE = re.compile(rb"([0-9a-f]{64}) ([0-9a-f]{16})\n")
_KEY_FILE_BYTES = 82
_SEALED = re.compile(rb"[0-9a-f]{32}\n\{.*|[0-9a-f]{32}\n|[0-9a-f]{0,32}", re.DOTALL)
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
_MAY_DIFFER = 8
"""Bytes that may be out of place in a damaged key file of ours; with more it is another version's format."""


class Keys:
    """The store's secret, created with the first use, and what is derived from it.

    Attributes:
        corrupt_count: 1 if the key file was found damaged and replaced (everything stored is then unreachable).
    """

    def __init__(self, root: Path) -> None:
        self.corrupt_count = 0
        self._root = root
        self._secret: bytes | None = None

    def name(self, kind: str, parts: Mapping[str, object]) -> str:
        """HMAC-SHA256 of the canonical JSON of `parts`, as 64 hexadecimal digits."""
        return self._mac(f"name {files.LAYOUT} {kind}\n{_canonical(parts)}".encode())

    def names(self, kind: str, varying: str, fixed: Mapping[str, object]) -> Callable[[str], str]:
        """`name` as a function of one of the parts, given as JSON without spaces: the fixed ones are written once."""
        before = _canonical({name: value for name, value in fixed.items() if name < varying})[1:-1]
        after = _canonical({name: value for name, value in fixed.items() if name > varying})[1:-1]
        opening = f"name {files.LAYOUT} {kind}\n{{{before}{',' if before else ''}{_canonical(varying)}:"
        closing = f"{',' if after else ''}{after}}}"
        secret = self.secret  # read now: what is returned reads no file
        return lambda written: hmac.digest(secret, f"{opening}{written}{closing}".encode(), "sha256").hex()

    def text(self, text: str) -> str:
        """HMAC-SHA256 of a text, as 64 hexadecimal digits. Lone surrogates are allowed."""
        return self._mac(b"text\n" + text.encode("utf-8", "surrogatepass"))

    def checksum(self, context: bytes, value: bytes) -> bytes:
        """Keyed BLAKE2b of a value in its place: moved to another key or kind, it no longer fits."""
        digest = hashlib.blake2b(key=self.secret, digest_size=CHECKSUM_BYTES)
        digest.update(context + b"\n")
        digest.update(value)
        return digest.digest()

    def seal(self, context: str, payload: bytes) -> bytes:
        """A file's content with its checksum in the first line."""
        return self.checksum(context.encode(), payload).hex().encode() + b"\n" + payload

    def unseal(self, context: str, data: bytes) -> bytes | None:
        """The payload of a sealed file, or None if a bit of it differs."""
        checksum, _, payload = data.partition(b"\n")
        expected = self.checksum(context.encode(), payload).hex().encode()
        return payload if hmac.compare_digest(checksum, expected) else None

    def _mac(self, message: bytes) -> str:
        return hmac.digest(self.secret, message, "sha256").hex()

    @property
    def secret(self) -> bytes:
        """The random key, read from the file `key` or made now. A `key` of another format is left: ours has a number.

        Raises:
            OSError: the store's folder can't be read or written.
        """
        if self._secret is None:
            self._secret = self._load() or self._create()
        return self._secret

    @property
    def path(self) -> Path:
        """The file that holds the key, or will."""
        path, own = self._root / "key", self._root / f"key-v{files.LAYOUT}"
        return own if own.exists() or _is_foreign(path) else path

    def _load(self) -> bytes | None:
        path = self.path
        try:
            match = _KEY_FILE.fullmatch(path.read_bytes()) if path.is_file() else None  # reading a pipe would wait
        except FileNotFoundError:
            return None
        secret = bytes.fromhex(match[1].decode()) if match else b""
        return secret if match and _key_check(secret) == match[2] else None

    def _create(self) -> bytes:
        make_root(self._root)
        lock = private_folder(self._root / "locks") / "key.lock"
        with FileLock(lock, mode=PRIVATE_FILE):
            if secret := self._load():  # another process was faster
                return secret
            self.corrupt_count += self.path.exists()
            secret = secrets.token_bytes(_KEY_BYTES)
            write_private(self.path, secret.hex().encode() + b" " + _key_check(secret) + b"\n")
            return secret


def looks_sealed(data: bytes) -> bool:
    """Whether content has the form that `Keys.seal` gives JSON, or was cut before: damaged perhaps, but ours."""
    return bool(_SEALED.fullmatch(data))


def _key_check(secret: bytes) -> bytes:
    return hashlib.sha256(secret).hexdigest()[:16].encode()


def _is_foreign(path: Path) -> bool:
    """Whether a key file is not one of ours with a few bytes damaged or its end cut, but of another format."""
    if path.exists() and not path.is_file():  # reading a pipe would wait
        return True
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    wrong = sum(
        byte not in (b" " if i == 64 else b"\n" if i == 81 else b"0123456789abcdef") for i, byte in enumerate(content)
    )
    return len(content) > _KEY_FILE_BYTES or wrong > min(_MAY_DIFFER, len(content) // 4)
