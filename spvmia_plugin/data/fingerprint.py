"""Keyed hashes of private text: the same data are recognised, and nobody can test a guess without the key."""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Iterable
from pathlib import Path

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import Conversation, Document, Record
from spvmia_plugin.util.files import private_folder, write_private

KEY_BYTES = 32
KEY_FILE = "fingerprint.key"


def fingerprint(key: bytes, entries: Iterable[tuple[str, str]]) -> str:
    """HMAC-SHA256 over texts and labels, in hexadecimal; the order of the entries does not matter.

    Args:
        key: secret; equal data under another key have another fingerprint.
        entries: labels ("member", "nonmember", "prompt", ...) and texts.
    """
    digests = []
    for label, text in entries:
        head = f"{label}\0{len(text)}\0".encode()  # the length keeps label and text apart
        digests.append(hmac.digest(key, head + text.encode("utf-8", "surrogatepass"), "sha256"))
    return hmac.digest(key, b"".join(sorted(digests)), "sha256").hex()


def held_by(item: Record | Document) -> str:
    """All that a row holds, as one text: a plain text itself, of a conversation all that a trainer gets of it in JSON.

    That is who says what, where the answer begins, tools (an empty list is not none: templates tell them apart),
    options of the template and what a preference rejects. Rows that say the same (`Conversation.said`) may hold
    different things, which are trained on and scored as different sequences.
    """
    held = _conversation(item)
    if held is None:
        return item.text
    told = [list(held.messages), held.prompt, held.plain, held.tools, held.options]
    if held.rejected is not None:
        told.append(list(held.rejected))
    return f"conversation\0{json.dumps(told, sort_keys=True)}"


def content_hash(key: str, item: Record | Document) -> str:
    """HMAC-SHA256 of all that a row holds (`held_by`), in hexadecimal.

    Args:
        key: in hexadecimal.
        item: the row, or a record that was cut from rows.
    """
    content = held_by(item) if _conversation(item) else f"text\0{item.text}"
    return hmac.digest(bytes.fromhex(key), content.encode("utf-8", "surrogatepass"), "sha256").hex()


def _conversation(item: Record | Document) -> Conversation | None:
    """What a row holds where it is more than a text; a text with an end token after it is but that."""
    return None if item.conversation is None or item.conversation.is_text else item.conversation


def derived_key(key: bytes, purpose: str) -> bytes:
    """A key for one purpose, which tells nothing about the key it comes from."""
    return hmac.digest(key, purpose.encode("utf-8", "surrogatepass"), "sha256")


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
