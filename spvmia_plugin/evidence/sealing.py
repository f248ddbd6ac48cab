"""The list of a folder's files with their hashes, its signature, and what is not what it was.

The list has the format of `sha256sum`, so that `sha256sum -c` reads it, too. It is signed by `ssh-keygen -Y` or by
minisign: their programs, not ours.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
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
SIGNATURES: Mapping[Signed, str] = {"ssh": f"{LIST}.sig", "minisign": f"{LIST}.minisig"}
"""The file of each kind of signature."""
NAMESPACE = "spvmia-evidence"
"""Of ssh signatures: one that was made for another purpose signs no evidence."""
_NEVER_SIGNED = "NOT SIGNED: whoever changed a file could have made the list anew"
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def seal(folder: Path) -> Path:
    """Write the list of all files of a folder.

    Raises:
        OSError: a file cannot be read, or the list not written.
    """
    seals = {LIST, *SIGNATURES.values()}
    files = ((name, path) for name, path in _entries(folder).items() if name not in seals and _is_file(path))
    lines = [f"{file_digest(path)}  {name}\n" for name, path in files]
    write_private(folder / LIST, "".join(lines).encode("utf-8"))
    return folder / LIST


def _entries(folder: Path) -> dict[str, Path]:
    """All that lies below a folder, by name, in the order of names: links, pipes and sockets, too.

    A folder is told by what it holds; one that holds nothing by its own name, with a slash.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not path.is_dir():
            found[name] = path
        elif not any(path.iterdir()):
            found[f"{name}/"] = path
    return found


def _is_file(path: Path) -> bool:
    """Whether its content is its own, and can be read to an end: no link, and no pipe, which would never answer."""
    return path.is_file() and not path.is_symlink()


@dataclass(frozen=True)
class Findings:
    """What is not what it was.

    Attributes:
        changed: files whose content is another.
        missing: files of the list that are not there.
        added: files that are not in the list.
        signature: what was found out about signatures, in words.
        signed: whether all that were checked or asked for hold; None where there is none such.
    """

    changed: Sequence[str]
    missing: Sequence[str]
    added: Sequence[str]
    signature: str
    signed: bool | None

    @property
    def holds(self) -> bool:
        """Whether every file is what it was, and no signature that was checked or asked for fails."""
        return not (self.changed or self.missing or self.added) and self.signed is not False

    def lines(self) -> Iterator[str]:
        """A line for each file that is not what it was."""
        for word, names in (("changed", self.changed), ("missing", self.missing), ("added", self.added)):
            yield from (f"{word}: {name}" for name in names)


def verify(
    folder: Path, *, allowed_signers: Path | None = None, identity: str | None = None, public_key: Path | None = None
) -> Findings:
    """Compare a folder with its list, and the list with its signatures.

    Whatever a verifier gives asks for a signature of its kind that holds for it. A signature that nobody checks
    counts for nothing: it is told as added unless the folder itself says that it was signed so.

    Args:
        folder: that `seal` was called on.
        allowed_signers: of ssh: who may sign, as `ssh-keygen -Y verify` reads it.
        identity: of ssh: who is said to have signed.
        public_key: of minisign.

    Raises:
        SpvmiaError: no folder, no list in it that can be read, a file in it that cannot be read; `allowed_signers`
            without `identity` or the other way round; a file of keys that is none; a program that is not installed.
    """
    if (allowed_signers is None) is not (identity is None):
        given, missing = (
            ("--allowed-signers", "--identity") if identity is None else ("--identity", "--allowed-signers")
        )
        wanted = {"--identity": "who is said to have signed", "--allowed-signers": "a file that says who may sign"}
        raise SpvmiaError(f"{missing}: expected {wanted[missing]} beside {given}, got nothing; name both")
    for option, path in (("--allowed-signers", allowed_signers), ("--public-key", public_key)):
        if path is not None and not path.is_file():
            raise SpvmiaError(f"{option}: expected a file with public keys, got {path}, which is no file; name one")
    if not folder.is_dir():
        raise SpvmiaError(f"--verify: expected a folder of evidence, got {folder}, which is none; check the path")
    if not _is_file(folder / LIST):
        raise SpvmiaError(
            f"--verify: expected {LIST} in {folder}, got none that is a file; name the folder that 'spvmia evidence "
            "--output' wrote"
        )
    try:
        content = (folder / LIST).read_bytes()
        listed, entries = _listed(folder, content), _entries(folder)
        changed = [
            name
            for name, digest in listed.items()
            if name in entries and not (_is_file(entries[name]) and file_digest(entries[name]) == digest)
        ]
    except OSError as error:
        raise SpvmiaError(
            f"--verify: expected a folder that can be read, got {error.filename or folder}, which cannot "
            f"({error.strerror}); ask its owner for it"
        ) from None
    said = _said_to_be_signed(folder)
    told = _signatures(folder, content, said, allowed_signers, identity, public_key)
    counted = {LIST, *(SIGNATURES[kind] for kind, each in told.items() if kind == said or each.holds)}
    checked = [each.holds for each in told.values() if each.holds is not None]
    return Findings(
        changed=changed,
        missing=[name for name in listed if name not in entries],
        added=[name for name in entries if name not in listed and name not in counted],
        signature="; ".join(each.words for each in told.values()) or _NEVER_SIGNED,
        signed=all(checked) if checked else None,
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
    signature = folder / SIGNATURES["minisign" if minisign else "ssh"]
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


@dataclass(frozen=True)
class _Told:
    """What came of one kind of signature.

    Attributes:
        words: about it.
        holds: whether it does; None where nobody checked it.
    """

    words: str
    holds: bool | None


def _listed(folder: Path, content: bytes) -> dict[str, str]:
    """The digests of the list, by name."""
    found: dict[str, str] = {}
    for line in content.decode("utf-8", "backslashreplace").splitlines():
        parts = _LINE.fullmatch(line)
        if parts is None:
            raise SpvmiaError(f"--verify: {folder / LIST}: expected lines of sha256sum, got another; it was changed")
        found[parts[2]] = parts[1]
    return found


def _signatures(
    folder: Path,
    content: bytes,
    said: Signed | None,
    allowed_signers: Path | None,
    identity: str | None,
    public_key: Path | None,
) -> dict[Signed, _Told]:
    """What came of each kind of signature that is there, or should be: the folder says so, or a key asks for it."""
    told: dict[Signed, _Told] = {}
    asked = {"ssh": ("--allowed-signers", allowed_signers), "minisign": ("--public-key", public_key)}
    for kind, name in SIGNATURES.items():
        option, key = asked[kind]
        if _is_file(folder / name):
            told[kind] = (
                _ssh(folder / name, content, allowed_signers, identity)
                if kind == "ssh"
                else _minisign(folder / name, folder / LIST, public_key)
            )
        elif kind == said:
            told[kind] = _Told(
                f"NOT SIGNED: {FACTS} says that it was, with {kind}: the signature was taken away", False
            )
        elif key is not None:
            told[kind] = _Told(f"NOT SIGNED with {kind}, where {option} asks for such a signature", False)
    return told


def _ssh(signature: Path, content: bytes, allowed_signers: Path | None, identity: str | None) -> _Told:
    words, good = (
        ["check-novalidate"],
        "the ssh signature holds; by whom, --allowed-signers FILE --identity NAME checks",
    )
    if allowed_signers is not None:
        words = ["verify", "-f", str(allowed_signers), "-I", str(identity)]
        good = f"the ssh signature holds, and is that of {identity}"
    return _judged(_run(["ssh-keygen", "-Y", *words, "-n", NAMESPACE, "-s", str(signature)], content=content), good)


def _minisign(signature: Path, listed: Path, public_key: Path | None) -> _Told:
    if public_key is None:
        return _Told("the minisign signature was NOT CHECKED and counts for nothing: --public-key FILE does", None)
    words = ["minisign", "-V", "-p", str(public_key), "-m", str(listed), "-x", str(signature)]
    return _judged(_run(words), f"the minisign signature holds for {public_key}")


def _said_to_be_signed(folder: Path) -> Signed | None:
    """What the folder itself says that its list was signed with."""
    if not _is_file(folder / FACTS):  # the list tells of a file that is missing or was changed
        return None
    try:
        told = json.loads((folder / FACTS).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    said = told.get(SIGNED) if isinstance(told, dict) else None
    return next((kind for kind in SIGNATURES if kind == said), None)


def _judged(done: subprocess.CompletedProcess[bytes], words: str) -> _Told:
    if not done.returncode:
        return _Told(words, True)
    return _Told(f"the signature does not hold: {_said(done)}", False)


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
