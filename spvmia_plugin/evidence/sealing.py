"""The list of a folder's files with their hashes, its signature, and what is not what it was.

The list has the format of `sha256sum`, so that `sha256sum -c` reads it, too. It is signed by `ssh-keygen -Y` or by
minisign: their programs, not ours.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.util.files import file_digest, write_private

LIST = "SHA256SUMS"
FACTS = "evidence.json"
SIGNED = "signed"
"""Its key that says what the list was signed with."""
Signed = Literal["ssh", "minisign"]
SSH_SIGNATURE, MINISIGN_SIGNATURE = f"{LIST}.sig", f"{LIST}.minisig"
NAMESPACE = "spvmia-evidence"
"""Of ssh signatures: one that was made for another purpose signs no evidence."""
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_SEALS = (LIST, SSH_SIGNATURE, MINISIGN_SIGNATURE)


def seal(folder: Path) -> Path:
    """Write the list of all files of a folder.

    Raises:
        OSError: a file cannot be read, or the list not written.
    """
    lines = [f"{file_digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in _files(folder)]
    write_private(folder / LIST, "".join(lines).encode("utf-8"))
    return folder / LIST


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder but the seals themselves, in the order of their names. Links are files by name alone."""
    for path in sorted(folder.rglob("*")):
        if (path.is_file() or path.is_symlink()) and path.relative_to(folder).as_posix() not in _SEALS:
            yield path


@dataclass(frozen=True)
class Findings:
    """What is not what it was.

    Attributes:
        changed: files whose content is another.
        missing: files of the list that are not there.
        added: files that are not in the list.
        signature: what was found out about the signature, in words.
        signed: whether a signature was checked and holds; None where there is none.
    """

    changed: Sequence[str]
    missing: Sequence[str]
    added: Sequence[str]
    signature: str
    signed: bool | None

    @property
    def holds(self) -> bool:
        """Whether every file is what it was, and the signature, if there is one, holds."""
        return not (self.changed or self.missing or self.added) and self.signed is not False

    def lines(self) -> Iterator[str]:
        """A line for each file that is not what it was."""
        for word, names in (("changed", self.changed), ("missing", self.missing), ("added", self.added)):
            yield from (f"{word}: {name}" for name in names)


def verify(
    folder: Path, *, allowed_signers: Path | None = None, identity: str | None = None, public_key: Path | None = None
) -> Findings:
    """Compare a folder with its list, and the list with its signature.

    Args:
        folder: that `seal` was called on.
        allowed_signers: of ssh: who may sign, as `ssh-keygen -Y verify` reads it.
        identity: of ssh: who is said to have signed.
        public_key: of minisign.

    Raises:
        SpvmiaError: no folder, or no list in it that can be read.
    """
    if not folder.is_dir():
        raise SpvmiaError(f"--verify: expected a folder of evidence, got {folder}, which is none; check the path")
    try:
        text = (folder / LIST).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpvmiaError(
            f"--verify: expected {LIST} in {folder}, got none that can be read ({type(error).__name__}); name the "
            "folder that 'spvmia evidence --output' wrote"
        ) from None
    listed: dict[str, str] = {}
    for line in text.splitlines():
        found = _LINE.fullmatch(line)
        if found is None:
            raise SpvmiaError(f"--verify: {folder / LIST}: expected lines of sha256sum, got another; it was changed")
        listed[found[2]] = found[1]
    there = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    changed = [
        name
        for name, digest in listed.items()
        if name in there and (there[name].is_symlink() or file_digest(there[name]) != digest)
    ]
    words, signed = _signature(folder, allowed_signers, identity, public_key)
    return Findings(
        changed=changed,
        missing=[name for name in listed if name not in there],
        added=[name for name in there if name not in listed],
        signature=words,
        signed=signed,
    )


def sign(folder: Path, key: Path, *, minisign: bool = False) -> Path:
    """Sign the list with a private key. The program asks for its passphrase itself.

    Args:
        folder: that was sealed.
        key: a private key of ssh, or of minisign.
        minisign: whose key it is.

    Returns:
        The signature.

    Raises:
        SpvmiaError: the program is not installed, or refuses.
    """
    if not key.is_file():
        raise SpvmiaError(f"--sign: expected a private key, got {key}, which is no file; name one")
    signature = folder / (MINISIGN_SIGNATURE if minisign else SSH_SIGNATURE)
    signature.unlink(missing_ok=True)
    words = (
        ["minisign", "-S", "-s", str(key), "-m", str(folder / LIST), "-x", str(signature)]
        if minisign
        else ["ssh-keygen", "-Y", "sign", "-f", str(key), "-n", NAMESPACE, str(folder / LIST)]
    )
    done = _run(words, "--sign")
    if done.returncode or not signature.is_file():
        raise SpvmiaError(
            f"--sign: expected a key that {words[0]} can sign with, got {key} ({_said(done)}); name another"
        )
    return signature


def _signature(
    folder: Path, allowed_signers: Path | None, identity: str | None, public_key: Path | None
) -> tuple[str, bool | None]:
    """What a signature is worth, in words, and whether it holds; None without one."""
    listed = folder / LIST
    if (folder / MINISIGN_SIGNATURE).is_file():
        if public_key is None:
            return "signed with minisign, and not checked: --public-key FILE does", None
        done = _run(
            ["minisign", "-V", "-p", str(public_key), "-m", str(listed), "-x", str(folder / MINISIGN_SIGNATURE)]
        )
        return _judged(done, f"the minisign signature holds for {public_key}")
    if not (folder / SSH_SIGNATURE).is_file():
        if (said := _said_to_be_signed(folder)) is not None:
            return f"NOT SIGNED: {FACTS} says that it was, with {said}: the signature was taken away", False
        if allowed_signers is not None or public_key is not None:
            return "NOT SIGNED, where a signature was asked for", False
        return "NOT SIGNED: whoever changed a file could have made the list anew", None
    signature = str(folder / SSH_SIGNATURE)
    content = listed.read_bytes()
    if allowed_signers is None:
        done = _run(["ssh-keygen", "-Y", "check-novalidate", "-n", NAMESPACE, "-s", signature], content=content)
        return _judged(done, "the ssh signature holds; by whom, --allowed-signers FILE --identity NAME checks")
    words = ["ssh-keygen", "-Y", "verify", "-f", str(allowed_signers), "-I", identity or "", "-n", NAMESPACE]
    done = _run([*words, "-s", signature], content=content)
    return _judged(done, f"the ssh signature holds, and is that of {identity}")


def _said_to_be_signed(folder: Path) -> str | None:
    """What the folder itself says that its list was signed with."""
    try:
        told = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # the list tells of a file that is missing or was changed
        return None
    said = told.get(SIGNED) if isinstance(told, dict) else None
    return str(said) if said else None


def _judged(done: subprocess.CompletedProcess[bytes], words: str) -> tuple[str, bool]:
    if not done.returncode:
        return words, True
    return f"the signature does not hold: {_said(done)}", False


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    """What a program complained of, on one line."""
    return " ".join((done.stderr or done.stdout).decode("utf-8", "backslashreplace").split())[:200]


def _run(
    words: Sequence[str], option: str = "--verify", content: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    if shutil.which(words[0]) is None:
        raise SpvmiaError(
            f"{option}: expected the program {words[0]!r}, which signs and checks signatures, got none; install "
            f"{'OpenSSH' if words[0] == 'ssh-keygen' else 'minisign'}"
        )
    if content is None and option == "--sign":  # it may ask for a passphrase
        return subprocess.run(words, capture_output=True, check=False)
    return subprocess.run(words, input=content or b"", capture_output=True, check=False)
