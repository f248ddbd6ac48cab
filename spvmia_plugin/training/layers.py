"""Adapters on the upper layers alone: which modules those are, and what the lower layers gave, kept over the epochs.

Nothing flows back through layers below the lowest one that learns. What they give for a text never changes either, so
each text goes through them once. A model is no list of layers alone: some hand keys, residuals or router's logits past
it, or drop some of their activations by chance. So the short way is taken once on two texts and compared with the
plain one; where they differ, the lower layers run at every step, and only the way back is saved.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import nn

from spvmia_plugin.models.batching import plan_batches
from spvmia_plugin.models.forward import TOLERANCE, inner_model, takes
from spvmia_plugin.util.libraries import isolated_rng

KEPT_BYTES = 2**30
"""More is not kept: the lower layers then run at every step."""
_ROUNDINGS = 8
"""Of the model's numbers, by which the two ways may differ: batches of other sizes round otherwise."""


def layer_stack(model: Any) -> tuple[str, nn.ModuleList] | None:
    """Name and list of a model's layers, in their order; None if it has not exactly one list that could be it."""
    inner = inner_model(model)
    count = getattr(inner.config.get_text_config(decoder=True), "num_hidden_layers", None)
    found = [
        (name, module)
        for name, module in inner.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    outermost = [(name, module) for name, module in found if not any(name.startswith(f"{up}.") for up, _ in found)]
    return outermost[0] if len(outermost) == 1 else None


def upper_modules(model: Any, targets: Sequence[str] | str, share: float) -> list[str] | None:
    """Full names of the modules that `targets` name in the upper layers; None if the layers can't be told apart.

    Args:
        model: any causal LM.
        targets: names as peft takes them, or a pattern.
        share: of the layers, counted from the top and rounded up to whole ones.
    """
    stack = layer_stack(model)
    if stack is None:
        return None
    name, layers = stack
    upper = tuple(f"{name}.{i}." for i in range(len(layers) - math.ceil(share * len(layers)), len(layers)))
    if isinstance(targets, str):
        pattern = re.compile(targets)

        def is_meant(module: str) -> bool:
            return pattern.fullmatch(module) is not None
    else:
        ends = tuple(f".{target}" for target in targets)

        def is_meant(module: str) -> bool:
            return module in targets or module.endswith(ends)

    return [module for module, _ in inner_model(model).named_modules() if module.startswith(upper) and is_meant(module)]


class LowerLayers:
    """The layers below the lowest that learns, and what they gave for each text.

    Args:
        model: with its adapter, in the mode it is trained in.
        pad_token_id: any valid token.

    Attributes:
        count: how many there are; 0 if something below all layers learns, or the layers can't be told apart.
    """

    def __init__(self, model: Any, pad_token_id: int) -> None:
        self._model = model
        self._pad_id = pad_token_id
        stack = layer_stack(model)
        self._layers: list[Any] = list(stack[1]) if stack is not None else []
        self.count = _lowest(inner_model(model), self._layers) if self._layers else 0
        self._rests: list[tuple[Any, ...] | None] = []  # what each layer returns beside its hidden states
        self._kept: list[torch.Tensor] = []  # (T, d) of each text
        self._rows: Sequence[int] = ()

    def keep(self, sequences: Sequence[Sequence[int]], batch_size: int) -> str | None:
        """Run every text through the lower layers once; returns why that cannot be, None if it is done.

        Depends on nothing but the arguments and the weights, so a training that resumes finds the same bits.

        Args:
            sequences: token ids.
            batch_size: texts that go through the whole model at once in training: so many fit into memory here.
        """
        if not self.count:
            return "the layers that learn are not the upper ones of one list"
        lengths = [len(ids) for ids in sequences]
        try:
            with isolated_rng(0), torch.no_grad():
                order = sorted(range(len(lengths)), key=lengths.__getitem__)
                width = self._try([sequences[order[0]], sequences[order[-1]]])
                if sum(lengths) * width > KEPT_BYTES:
                    return f"what the lower layers give takes more than {KEPT_BYTES // 2**20} MB"
                kept: dict[int, torch.Tensor] = {}
                for batch in plan_batches(lengths, batch_size * max(lengths)):
                    rows = list(batch.rows)
                    kept.update(zip(rows, self._through([sequences[i] for i in rows]), strict=True))
        except Exception as error:  # whatever a model's own code raises where it can't do this
            if isinstance(error, RuntimeError) and should_reduce_batch_size(error):
                raise
            return " ".join(str(error).split())[:200] or type(error).__name__
        self._kept = [kept[i] for i in range(len(sequences))]
        return None

    def choose(self, rows: Sequence[int]) -> None:
        """The next batch holds these texts, by their places in what was kept."""
        self._rows = rows

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """Inside, the lower layers give what was kept of the chosen texts, and compute nothing."""

        def enter(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            # (B, W, d), padded on the right as the batch itself
            kept = nn.utils.rnn.pad_sequence([self._kept[row] for row in self._rows], batch_first=True)
            return _replaced(args, kwargs, kept.to(_entering(args, kwargs).device))

        with self._skipping(range(self.count)), _hooked(self._layers[self.count], enter):
            yield

    def _through(self, sequences: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """What enters the lowest layer that learns, (T, d) for each text."""
        found: list[torch.Tensor] = []

        def enter(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.append(_entering(args, kwargs))

        inputs = self._batch(sequences)
        with self._skipping(range(self.count, len(self._layers))), _hooked(self._layers[self.count], enter):
            inner_model(self._model).base_model(**inputs)  # without the output layer
        (hidden,) = found
        if hidden.shape[:2] != inputs["input_ids"].shape or hidden.dim() != 3:
            raise ValueError(f"the layers read something of shape {tuple(hidden.shape)}")
        return [row[: len(ids)].clone() for row, ids in zip(hidden, sequences, strict=True)]

    def _try(self, sequences: list[Sequence[int]]) -> int:
        """Compare the short way with the plain one on some texts; returns the bytes of one token.

        Raises:
            ValueError: they differ.
        """
        self._rests = []
        inputs = self._batch(sequences)
        labels = torch.where(inputs["attention_mask"] == 1, inputs["input_ids"], -100)
        with isolated_rng(0), self._watching():
            plain = self._model(**inputs, labels=labels)
        first = self._through(sequences)
        with isolated_rng(1):
            again = self._through(sequences)
        if not all(map(torch.equal, first, again)):
            raise ValueError("the lower layers drop some of their activations by chance")
        self._through([[*ids[1:], ids[0]] for ids in sequences])  # what a model may remember is of other texts
        self._kept, self._rows = first, range(len(sequences))
        with isolated_rng(0), self.standing_in():
            short = self._model(**inputs, labels=labels)
        tolerance = max(TOLERANCE, _ROUNDINGS * torch.finfo(first[0].dtype).eps)
        real = (labels != -100).to(plain.logits.device)
        for one, other in ((plain.logits[real], short.logits[real]), (plain.loss, short.loss)):
            if not bool((one.float() - other.float()).abs().max() <= tolerance * one.float().abs().max()):
                raise ValueError("the upper layers read more than what the lower ones give")
        return int(first[0].shape[-1] * first[0].element_size())

    def _batch(self, sequences: Sequence[Sequence[int]]) -> dict[str, Any]:
        """As the training's own batches are."""
        width = max(map(len, sequences))
        ids = [[*row, *[self._pad_id] * (width - len(row))] for row in sequences]
        mask = [[1] * len(row) + [0] * (width - len(row)) for row in sequences]
        device = self._model.device
        inputs = {"input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(mask, device=device)}
        return inputs | ({"use_cache": False} if takes(self._model, "use_cache") else {})

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Learn what each layer returns beside its hidden states."""

        def leave(layer: Any, args: Any, output: Any) -> None:
            rest = None if isinstance(output, torch.Tensor) else tuple(output)[1:]
            # Attention weights, mostly, that nobody reads: who does misses them in the short way.
            self._rests.append(rest and tuple(None if isinstance(value, torch.Tensor) else value for value in rest))

        handles = [layer.register_forward_hook(leave) for layer in self._layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        if len(self._rests) != len(self._layers):
            raise ValueError("the layers do not run once each")

    @contextmanager
    def _skipping(self, places: Sequence[int]) -> Iterator[None]:
        """Layers that hand on what they are given."""
        own = {place: vars(self._layers[place]).get("forward") for place in places}  # accelerate's hooks put one there
        for place in places:
            self._layers[place].forward = _passing(self._rests[place])
        try:
            yield
        finally:
            for place, forward in own.items():
                if forward is None:
                    del self._layers[place].forward
                else:
                    self._layers[place].forward = forward


def _lowest(inner: Any, layers: Sequence[nn.Module]) -> int:
    """The lowest layer that learns; 0 if anything outside the layers does, but for the output layer after them."""
    places = {id(p): 0 for p in inner.parameters()}
    head = inner.get_output_embeddings()
    if isinstance(head, nn.Module):
        places |= {id(p): len(layers) - 1 for p in head.parameters()}
    places |= {id(p): 0 for p in inner.get_input_embeddings().parameters()}  # may be the output layer's own
    places |= {id(p): i for i in reversed(range(len(layers))) for p in layers[i].parameters()}
    return min((places[id(p)] for p in inner.parameters() if p.requires_grad), default=0)


def _passing(rest: tuple[Any, ...] | None) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        hidden = _entering(args, kwargs)
        return hidden if rest is None else (hidden, *rest)

    return forward


def _entering(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """The hidden states among a layer's arguments."""
    hidden: torch.Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def _replaced(
    args: tuple[Any, ...], kwargs: dict[str, Any], hidden: torch.Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})


@contextmanager
def _hooked(layer: nn.Module, enter: Callable[..., Any]) -> Iterator[None]:
    handle = layer.register_forward_pre_hook(enter, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
