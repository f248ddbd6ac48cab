"""Weights that peft has written over: never by our own commands, and found before a model of them is taken for whole.

The harness's `parallelize=True` leaves the CPU out of the memory that a model may take, unless `max_cpu_memory` is
given: what does not fit the GPUs is read from the model's own files whenever it is needed. To put an adapter on such a
model, `PeftModel.from_pretrained(..., peft)` writes each of these files anew with the adapter's weights in it and every
name changed, over the file itself where its path is relative (`os.path.join` of the parts of an absolute one loses the
root: the copy goes below the working directory). Of the new names transformers finds none, next time, and goes on with
random weights.
"""

from __future__ import annotations

import importlib.util
import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spvmia_plugin.errors import SpvmiaError

ADAPTED = "base_model.model."
"""What peft puts before the names of a model's weights."""

_SAFE = (
    "merge the adapter into a copy of the model, or give room for what the GPUs do not hold (max_cpu_memory=64GiB "
    "beside parallelize=True in --model_args; lm_eval 0.5.0.dev1 leaves it out)"
)


def check_intact(option: str, name: object) -> None:
    """Refuse a folder of which transformers would load random weights, as peft leaves it. Reads the names alone.

    Args:
        option: that names it.
        name: a folder. Anything else (a hub id, a model in memory) is none of peft's to write over.

    Raises:
        SpvmiaError: a file of weights holds those of a model and its adapter.
    """
    if not isinstance(name, (str, Path)):
        return
    try:
        paths = sorted(Path(name).glob("*.safetensors")) if Path(name).is_dir() else []
    except OSError:  # no name that a file could have
        return
    for path in paths:
        if path.name.startswith("adapter_"):
            continue
        try:
            names = header_of(path)
        except (OSError, ValueError):  # loading it says what is wrong
            continue
        if any(each.startswith(ADAPTED) for each in names):
            raise SpvmiaError(
                f"{option}: expected the weights of a model, got {path} with those of a model and its adapter, of "
                "which transformers reads none and goes on with random ones; parallelize=True with peft=... has "
                f"written over it: put the original file back, then {_SAFE}"
            )


def header_of(path: Path) -> dict[str, Any]:
    """What a file of safetensors says of its tensors, by name; no tensor is read.

    Raises:
        OSError: it cannot be read.
        ValueError: it is none, or was cut short: a download that broke off, a disk that was full.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else size
        if 8 + length > size:
            raise ValueError(f"{size:,} bytes, which end within its header")
        try:
            told = dict(json.loads(file.read(length)))
            told.pop("__metadata__", None)
            wanted = 8 + length + max((entry["data_offsets"][1] for entry in told.values()), default=0)
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            raise ValueError("a header that is none") from None
    if size != wanted:
        raise ValueError(f"{size:,} bytes where its header says {wanted:,}")
    return told


@contextmanager
def weights_kept() -> Iterator[None]:
    """Let the harness load models, but not peft write over them.

    Whatever the arguments are, and wherever they come from (the command line, a file of the harness's): peft asks for
    this only of a model that was left on disk.

    Raises:
        SpvmiaError: peft was about to.
    """
    if importlib.util.find_spec("peft") is None:
        yield
        return
    from peft import PeftModel

    original = getattr(PeftModel, "_update_offload", None)
    if original is None:  # a peft that leaves the files of a model alone
        yield
        return

    def update_offload(model: Any, offload_index: Mapping[str, Mapping[str, str]] | None, weights: Any) -> Any:
        if offload_index:
            files = sorted({entry["safetensors_file"] for entry in offload_index.values()})
            raise SpvmiaError(
                "parallelize: expected a model that the memory of the GPUs holds, got one of which "
                f"{len(offload_index)} weights stay in {files[0]}, which peft=... would write over with the adapter's "
                f"among them; {_SAFE}"
            )
        return original(model, offload_index, weights)

    PeftModel._update_offload = update_offload
    try:
        yield
    finally:
        PeftModel._update_offload = original
