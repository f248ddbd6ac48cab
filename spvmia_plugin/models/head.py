"""A model's forward pass without its logits: final hidden states now, the output layer later, on the rows one needs.

Logits of a batch are the largest tensors of a scoring run (2048 tokens of a vocabulary of 49k take 400 MB in float32),
most of them only to be reduced to four numbers a row. So the output layer is stood in for by a stub that keeps its
input, and is applied afterwards, chunk by chunk. Models that do something to their logits after the output layer
(soft-capping, scaling) are noticed by a comparison on a few tokens, once a model, and give plain logits instead.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from spvmia_plugin.models.inner import cache_name, cache_of, prompt_learning
from spvmia_plugin.util.libraries import quiet_libraries

PROBE_SHAPE = (2, 5)


@dataclass
class Hidden:
    """What a forward pass gave.

    Attributes:
        rows: (B, W, d) final hidden states, or (B, W, V) logits where the model's logits are not its output layer's.
        cache: the key-value cache, if asked for.
    """

    rows: torch.Tensor
    cache: Any = None


class HeadlessModel:
    """Runs a model up to its output layer.

    Args:
        model: a causal LM, wrapped by peft or not. Nothing about it is changed except during a call.
        autocast: dtype of the harness's mixed precision, or None.
    """

    def __init__(self, model: Any, autocast: torch.dtype | None = None) -> None:
        self.model = model
        self.autocast = autocast
        self.tried: dict[str, bool] = {}  # shortcuts, and whether they hold: see `trial`
        self._cache_name = cache_name(model)
        self.device = torch.device(model.device)
        self.vocab, self.exact, self._out = self._probe()

    def sharing(self, model: Any) -> HeadlessModel:
        """The same for a model with the same output layer, without another probe."""
        other = copy.copy(self)
        other.model = model
        return other

    @contextmanager
    def precision(self) -> Iterator[None]:
        """The precision that the harness runs the model in, without gradients."""
        enabled = self.autocast is not None
        quiet = quiet_libraries() if prompt_learning(self.model) else nullcontext()
        with quiet, torch.no_grad(), torch.autocast(self.device.type, dtype=self.autocast, enabled=enabled):
            yield

    def forward(self, *, cache: Any = None, use_cache: bool = False, **inputs: Any) -> Hidden:
        """One forward pass; `inputs` as for the model. Virtual tokens of a prompt-tuned model are cut off.

        Args:
            cache: what an earlier pass gave, to go on from.
            use_cache: whether to give one back.
            inputs: the model's own.
        """
        width = (inputs["input_ids"] if "input_ids" in inputs else inputs["inputs_embeds"]).shape[1]
        known = {} if cache is None else {self._cache_name: cache}
        with self.precision():
            rows, output = (_hidden if self.exact else _plain)(self.model, {**inputs, **known, "use_cache": use_cache})
        return Hidden(rows[:, -width:].to(self._out), cache_of(output) if use_cache else None)

    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits (..., V) of hidden states (..., d)."""
        if not self.exact:
            return rows
        with self.precision():
            return self.model.get_output_embeddings()(rows)

    def _probe(self) -> tuple[int, bool, torch.device]:
        """Size and device of the logits, and whether the output layer's product is what the model returns, bit for bit.

        A model split over several devices has its output layer on another one than its embeddings, and hands its
        logits back on the first: statistics are computed where the output layer is.
        """
        ids = torch.arange(PROBE_SHAPE[0] * PROBE_SHAPE[1], device=self.device).view(PROBE_SHAPE)
        with self.precision():
            expected, _ = _plain(self.model, {"input_ids": ids, "use_cache": False})
            made_on = self._exact_on(ids, expected)
        return expected.shape[-1], made_on is not None, made_on or expected.device

    def _exact_on(self, ids: torch.Tensor, expected: torch.Tensor) -> torch.device | None:
        """Where the output layer gives what the model returns; None if it gives something else."""
        if getattr(self.model, "get_output_embeddings", None) is None:
            return None
        head = self.model.get_output_embeddings()
        if not isinstance(head, torch.nn.Module):
            return None
        try:
            rows, _ = _hidden(self.model, {"input_ids": ids, "use_cache": False})
        except (RuntimeError, TypeError, IndexError):
            return None  # the model looks at its logits: the stub will not do
        if rows.shape[:2] != expected.shape[:2]:
            return None
        made = head(rows)
        return made.device if torch.equal(made.to(expected), expected) else None


def _plain(model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, Any]:
    output = model(**inputs)
    return output.logits, output


def _hidden(model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, Any]:
    """Run the model with its output layer replaced by a stub of one column that keeps what it was given."""
    head = model.get_output_embeddings()
    kept: list[torch.Tensor] = []

    def stub(rows: torch.Tensor) -> torch.Tensor:
        kept.append(rows)
        return rows[..., :1]

    own = vars(head).get("forward")  # accelerate's hooks put a forward on the instance
    head.forward = stub
    try:
        output = model(**inputs)
    finally:
        if own is None:
            del head.forward
        else:
            head.forward = own
    if len(kept) != 1:
        raise RuntimeError(f"the output layer ran {len(kept)} times")
    return kept[0], output
