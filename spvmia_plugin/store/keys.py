"""Names for what is stored, and checksums: both keyed, so that nothing on disk can be matched against guessed text."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock

from spvmia_plugin.store.files import PRIVATE_FILE, make_folder, make_root, write_private

LAYOUT = 1
"""Version of everything the store writes. A new one leaves the old entries unreachable, and they age out."""

CHECKSUM_BYTES = 16
_KEY_BYTES = 32
_KEY_FILE = re.compile(rb"([0-9a-f]{64}) ([0-9a-f]{16})\n")


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
        canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"))
        return self._mac(f"name {LAYOUT} {kind}\n{canonical}".encode())

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
        """The random key, read from the file `key` or made now.

        Raises:
            OSError: the store's folder can't be read or written.
        """
        if self._secret is None:
            self._secret = self._load() or self._create()
        return self._secret

    def _load(self) -> bytes | None:
        try:
            match = _KEY_FILE.fullmatch((self._root / "key").read_bytes())
        except FileNotFoundError:
            return None
        secret = bytes.fromhex(match[1].decode()) if match else b""
        return secret if match and _key_check(secret) == match[2] else None

    def _create(self) -> bytes:
        make_root(self._root)
        lock = make_folder(self._root / "locks") / "key.lock"
        with FileLock(lock, mode=PRIVATE_FILE):
            if secret := self._load():  # another process was faster
                return secret
            self.corrupt_count += (self._root / "key").exists()
            secret = secrets.token_bytes(_KEY_BYTES)
            write_private(self._root / "key", secret.hex().encode() + b" " + _key_check(secret) + b"\n")
            return secret


def _key_check(secret: bytes) -> bytes:
    return hashlib.sha256(secret).hexdigest()[:16].encode()
