"""Whether a model can go on from its cache, decided by what it gives: a shortcut is tried beside plain passes.

What a cache can do can't be read off it. Some have all methods of one and raise in them; states of recurrent layers
take one further token but not several; some models read padding on the left that the mask tells them to leave out.
So every shortcut is taken once on a few tokens, and compared with what the model gives for each text by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from accelerate.utils.memory import should_reduce_batch_size

from spvmia_plugin.models.head import HeadlessModel
from spvmia_plugin.util.libraries import quiet_libraries

TOLERANCE = 1e-4
"""Largest difference of two logits that count as equal, in units of the largest logit of the text."""
_ROUNDINGS = 8
"""The same for coarser numbers, in roundings of one: bfloat16 then differs by up to 6 % of the largest logit."""
_REFUSED_FROM = 32
"""The same where the consequence is no slower way but none: experts chosen by a hair's breadth may differ."""
_STRIDE = 37

Attempt = Callable[[], Iterable[tuple[torch.Tensor, Sequence[int]]]]
"""Yields final hidden states (n, d) that a shortcut gave, and the text (ids) whose last n tokens they belong to."""


def probe_ids(model: HeadlessModel, n: int, *, start: int = 0) -> list[int]:
    """`n` different token ids from all over the vocabulary."""
    return [(11 + _STRIDE * (start + i)) % model.vocab for i in range(n)]


def holds(model: HeadlessModel, shortcut: str, attempt: Attempt) -> bool:
    """Whether a shortcut gives what plain passes give; tried once a model, under the shortcut's name."""
    if shortcut not in model.tried:
        model.tried[shortcut] = _agrees(model, attempt, _ROUNDINGS)
    return model.tried[shortcut]


def looks_back_only(model: HeadlessModel) -> bool:
    """Whether a text's outputs depend on nothing that comes after them, or stands in another row of the batch."""

    def attempt() -> Iterator[tuple[torch.Tensor, Sequence[int]]]:
        long, short = probe_ids(model, 10), probe_ids(model, 5, start=20)
        rows = model.forward(input_ids=torch.tensor([long, short + long[:5]], device=model.device)).rows
        yield rows[0], long
        yield rows[0, :5], long[:5]
        yield rows[1, :5], short

    return _agrees(model, attempt, _REFUSED_FROM)


def answers_nan(model: HeadlessModel) -> bool:
    """Whether a model has no numbers for a plain text: its training diverged, or its precision does not hold them."""
    ids = torch.tensor([probe_ids(model, 10)], device=model.device)
    return bool(model.logits(model.forward(input_ids=ids).rows).isnan().any())


def _agrees(model: HeadlessModel, attempt: Attempt, roundings: int) -> bool:
    tolerance = max(TOLERANCE, roundings * _epsilon(model))
    with quiet_libraries():
        try:
            for found, text in attempt():
                ids = torch.tensor([list(text)], device=model.device)
                rows = model.forward(input_ids=ids).rows[0, -len(found) :]
                expected, given = model.logits(rows).float(), model.logits(found).float()
                if not bool(((given - expected).abs().max() <= tolerance * expected.abs().max()).item()):
                    return False
        except Exception as error:  # whatever a model's own code raises where it can't do this
            if isinstance(error, RuntimeError) and should_reduce_batch_size(error):
                raise
            return False
    return True


def _epsilon(model: HeadlessModel) -> float:
    """The coarsest rounding on the way to the logits."""
    kinds = {p.dtype for p in model.model.parameters() if p.is_floating_point()} | {model.autocast}
    coarse = [torch.finfo(kind).eps for kind in kinds if kind is not None]
    packed = any(not p.is_floating_point() for p in model.model.parameters())  # integers: computed in half at best
    if model.device.type == "cuda" and torch.get_float32_matmul_precision() != "highest":
        coarse.append(torch.finfo(torch.float16).eps)
    return max([*coarse, *([torch.finfo(torch.bfloat16).eps] if packed else [])], default=0.0)


def each(rows: Iterable[torch.Tensor], texts: Iterable[Sequence[int]]) -> Iterator[tuple[torch.Tensor, Sequence[int]]]:
    """Pairs for an `Attempt`: one final hidden state (d,) for every text."""
    return ((row[None], text) for row, text in zip(rows, texts, strict=True))
