"""What the weights in a folder are recognised by, so that a manifest is not read beside another model's.

Tensors are hashed by shape and content, whatever they are called: a trainer knows its parameters by other names
than the file it writes, and a folder may be moved, sharded anew or get other files beside it.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spvmia_plugin.errors import SpvmiaError, reason_of
from spvmia_plugin.util.strict_json import any_loads, is_whole

ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_FILES = (ADAPTER_FILE, "adapter_model.bin")
WHOLE_FILES = "model*.safetensors"
MOST = 16
"""Tensors that are hashed of a training in memory, spread evenly over those that are trained."""
HEAD_BYTES = 2**20
"""So much of each: two trainings agree in no such stretch."""
MERGED = "not told: written for an adapter, read beside whole weights (merged?)"
"""An adapter's manifest that somebody named for whole weights: they may be its merged copy."""
UNMERGED = "not told: written for an adapter, found beside whole weights (merged?)"
"""The same of one that nobody named."""
BELOW = "not told: of the model below the adapter"
"""A manifest that nobody named, found beside the model that an adapter was put on: the adapter's training has none."""
_LONGEST_HEADER = 100 * 2**20
_NO_FILE = 2**62
"""Bytes that no file has, and at which none can be read."""


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies in a file."""

    path: Path
    start: int
    size: int
    shape: tuple[int, ...]

    def digest(self) -> str:
        """See `tensor_digest`."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            return tensor_digest(self.shape, file.read(min(self.size, HEAD_BYTES)))


def tensor_digest(shape: Iterable[int], head: bytes) -> str:
    """SHA-256 of a tensor's shape and its first bytes, in hexadecimal."""
    return hashlib.sha256(json.dumps(list(shape)).encode() + b"\0" + head).hexdigest()


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of them, evenly."""
    if len(items) <= most:
        return list(items)
    return [items[i * (len(items) - 1) // (most - 1)] for i in range(most)]


def tensors_in(path: Path) -> Iterator[Tensor]:
    """The tensors of a safetensors file, read with the standard library.

    Raises:
        OSError: it cannot be read.
        ValueError: it is none.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size + 1
        if length > min(size, _LONGEST_HEADER):
            raise ValueError("no header of safetensors")
        header = any_loads(file.read(length))
    begin = 8 + length
    try:
        for name, told in header.items():
            if name != "__metadata__":
                start, end = map(_count, told["data_offsets"])
                if not start <= end < _NO_FILE:
                    raise ValueError
                yield Tensor(path, begin + start, end - start, tuple(map(_count, told["shape"])))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ValueError("a header that is none of safetensors") from None


def _count(value: Any) -> int:
    if not is_whole(value) or value < 0:
        raise ValueError
    return value


def weights_of(folder: Path) -> dict[str, object] | None:
    """What the weights in a folder are recognised by: all of them, for most may be those of the base (a training that
    left layers frozen, a merged adapter); None where there are none in safetensors.

    Raises:
        OSError, ValueError: they cannot be read.
    """
    kind, tensors = _found(folder)
    if not tensors:
        return None
    return {"kind": kind, "tensors": [tensor.digest() for tensor in tensors if tensor.size], "all": True}


def _found(folder: Path) -> tuple[str, list[Tensor]]:
    """An adapter wins over whole weights beside it, one that cannot be read without torch too (it has no tensors)."""
    adapters = [folder / name for name in ADAPTER_FILES if (folder / name).is_file()]
    paths = adapters or sorted(folder.glob(WHOLE_FILES))
    tensors = [tensor for path in paths if path.suffix == ".safetensors" for tensor in tensors_in(path)]
    return "adapter" if adapters else "whole", tensors


def check_weights(bound: Mapping[str, Any] | None, folder: Path, manifest: Path, *, named: bool = True) -> str:
    """Make sure that the weights in a folder are those that a manifest was written for.

    Args:
        bound: what the manifest says of them.
        folder: of the target that is audited.
        manifest: its path, for errors.
        named: whether the user named the manifest; else it was found in the folder.

    Returns:
        `matched`, or why it cannot be told; `UNMERGED` where an adapter's manifest was found beside whole weights.

    Raises:
        SpvmiaError: they are others.
    """
    if bound is None:
        return "not told: the manifest does not say which weights it was written for"
    try:
        kind, tensors = _found(folder)
        if not tensors and (bound["kind"], kind) != ("whole", "adapter"):
            return "not told: no weights in safetensors beside it"
        if (bound["kind"], kind) == ("adapter", "whole"):
            return MERGED if named else UNMERGED
        wanted, found = set(bound["tensors"]), {tensor.digest() for tensor in tensors}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"not told: the weights cannot be read ({reason_of(error)})"
    missing = len(wanted - found)
    # Libraries may write some tensors of a whole model in another shape than they train them: of others, none fits.
    # What was written is known as it is. (Manifests of earlier versions have some of it.)
    if missing == 0 or (bound.get("all") is not True and 2 * missing <= len(wanted)):
        return "matched"
    if (bound["kind"], kind) == ("whole", "adapter"):
        raise SpvmiaError(
            f"mia_manifest: {manifest}: expected the whole weights it was written for, got an adapter in {folder}, "
            "which no merge makes of them: it says who was a member of another training; train again with the "
            "callback, write one for this model with 'spvmia manifest', or give mia_members and mia_nonmembers in a "
            "folder without it"
        )
    raise SpvmiaError(
        f"mia_manifest: {manifest}: expected the weights it was written for, got others in {folder} ({missing} of "
        f"{len(wanted)} tensors differ): it says who was a member of another training; put it back beside its own "
        "weights, or write one for these with 'spvmia manifest'"
    )
