"""In which precision a model computes, and which of them a CPU is no good at."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

TO_FLOAT32 = "pass dtype=float32 in --model_args"
"""What a user of the harness can do."""
_WITHOUT = ("DEFAULT", "NO AVX", "AVX2")
"""What torch calls an x86 CPU for which its libraries have no matrix products of 16 bits: oneDNN's need AVX-512.

Seen on one with AVX2 (EPYC, torch 2.13, beside other work): a linear layer of 576 x 1,536 over 8 x 128 tokens takes 8
times as long in bfloat16 forward, 24 times forward and backward; a plain product of matrices about 60 times."""


def is_slow_in(dtype: torch.dtype) -> bool:
    """Whether this CPU is known to take many times as long in a precision as in float32.

    It is asked, and not timed: on a busy machine the same CPU would be fast in one run and slow in the next, and what
    is computed depends on the answer. Of other architectures nothing is known, and no.
    """
    import torch

    if dtype not in (torch.bfloat16, torch.float16) or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return torch.backends.cpu.get_cpu_capability().upper() in _WITHOUT


def too_slow(dtype: torch.dtype, instead: str) -> str | None:
    """A line that says that a precision is no choice for this CPU; None if it is one.

    Args:
        dtype: in which a model would compute.
        instead: what is done, or what the user is to pass.
    """
    if not is_slow_in(dtype):
        return None
    name = str(dtype).removeprefix("torch.")
    return f"this CPU has no instructions for {name}, and takes many times as long in it as in float32; {instead}"


def computes_in(model: Any, autocast: torch.dtype | None = None) -> torch.dtype | None:
    """The precision in which a model on the CPU computes; None for one that is elsewhere, or has no weights here.

    Args:
        model: a transformers or peft model.
        autocast: dtype of the harness's mixed precision, or None.
    """
    weight = _first_weight(model)
    if weight is None or weight.device.type != "cpu":
        return None
    dtype: torch.dtype = autocast or weight.dtype
    return dtype


def dtype_of(model: Any) -> torch.dtype | None:
    """The precision of a model's weights; None for one without any that is a floating-point number."""
    weight = _first_weight(model)
    return None if weight is None else weight.dtype


def _first_weight(model: Any) -> Any:
    return next((p for p in model.parameters() if p.is_floating_point()), None)


def dtype_named(name: object, own: object) -> torch.dtype:
    """The precision behind `dtype=` of a model's arguments: a name, a torch.dtype, or `auto` for the model's own.

    Args:
        name: the argument.
        own: what the model's configuration says, a name, a torch.dtype or None (float32).
    """
    import torch

    chosen = own if name in (None, "", "auto") else name
    found = chosen if isinstance(chosen, torch.dtype) else getattr(torch, str(chosen).removeprefix("torch."), None)
    return found if isinstance(found, torch.dtype) else torch.float32
