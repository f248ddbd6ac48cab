"""4-bit weights on a CPU, laid out for inference by bitsandbytes, laid out for training while a model trains.

Its layers pack their weights at the first forward pass in inference mode, and the product with packed weights has no
gradient: nothing below the last adapters would learn, without a word (bitsandbytes 0.50, processors with AVX-512 bf16).
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def unpacked(model: Any) -> Iterator[None]:
    """Unpack the packed layers of `model` inside the block; afterwards they hold the very tensors they held before."""
    kept = [(weight, weight.data, weight.quant_state) for weight in _packed(model)]
    for weight, data, state in kept:
        weight.data, weight.quant_state = _for_training(data, state)
    try:
        yield
    finally:
        for weight, data, state in kept:
            weight.data, weight.quant_state = data, state


def _packed(model: Any) -> list[Any]:
    weights = [getattr(module, "weight", None) for module in model.modules()]
    return [w for w in weights if getattr(getattr(w, "quant_state", None), "packing_format_for_cpu", False)]


def _for_training(data: Any, state: Any) -> tuple[Any, Any]:
    """The weights of the packed layout in the ordinary one, to the bit: with the scales that packing has rounded.

    bitsandbytes' own inverse leaves the scales of singly quantised weights transposed, and quantises those of doubly
    quantised ones anew.
    """
    # No dependency of ours: whoever holds such weights has it.
    functional = importlib.import_module("bitsandbytes.functional")
    ordinary = copy.copy(state)
    ordinary.original_nested = False
    ordinary.absmax = state.absmax.T.reshape(-1).float()
    weights, layout = functional._convert_weight_packed_for_cpu_inverse(data, ordinary)
    return weights, layout
