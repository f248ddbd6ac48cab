"""What a precision costs on a CPU: one without instructions for bfloat16 takes 20 to 50 times as long as in float32."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_WITHOUT = ("DEFAULT", "NO AVX", "AVX2")
"""What torch calls an x86 CPU for which its libraries have no matrix products of 16 bits: oneDNN's need AVX-512.

Measured on one with AVX2 (EPYC, torch 2.13): .7 to 1.2 GFLOP/s in bfloat16, 42 to 59 in float32."""


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
    return f"this CPU has no instructions for {name}, and takes 20 to 50 times as long in it as in float32; {instead}"


def computes_in(model: Any, autocast: torch.dtype | None = None) -> torch.dtype | None:
    """The precision in which a model on the CPU computes; None for one that is elsewhere, or has no weights here.

    Args:
        model: a transformers or peft model.
        autocast: dtype of the harness's mixed precision, or None.
    """
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    if weight is None or weight.device.type != "cpu":
        return None
    dtype: torch.dtype = autocast or weight.dtype
    return dtype


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
