"""A model's forward pass: without its logits where that gives the same, and from its cache where that holds.

Logits of a batch are the largest tensors of a scoring run (2048 tokens of a vocabulary of 49k take 400 MB in float32),
most of them only to be reduced to four numbers a row. So the output layer is stood in for by a stub that keeps its
input, and is applied afterwards, chunk by chunk. Models that do something to their logits after the output layer
(soft-capping, scaling) are noticed by a comparison on a few tokens, once a model, and give plain logits instead.

What a cache can do can't be read off it. Some have all methods of one and raise in them; states of recurrent layers
take one further token but not several; some models read padding on the left that the mask tells them to leave out.
So every shortcut is taken once on a few tokens, and compared with what the model gives for each text by itself.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size

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


_WINDOWS = ("sliding_window", "window_size", "attention_window_size", "attention_chunk_size", "local_attention")
"""What families call the length of a window in their config."""


@dataclass(frozen=True)
class Kept:
    """What a key-value cache keeps.

    Attributes:
        token_bytes: of one token, in all layers.
        slides: whether some layers see a window of the last tokens alone. Some keep all of them in the cache all the
            same, and count columns (GPT-Neo): the config tells.
    """

    token_bytes: int
    slides: bool


class HeadlessModel:
    """Runs a model up to its output layer.

    Args:
        model: a causal LM, wrapped by peft or not. Nothing about it is changed except during a call.
        autocast: dtype of the harness's mixed precision, or None.
    """

    def __init__(self, model: Any, autocast: torch.dtype | None = None) -> None:
        self.model = model
        self.autocast = autocast
        self.tried: dict[str, bool] = {}  # shortcuts, and whether they hold: see `holds`
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
        with torch.no_grad(), self.running():
            yield

    @contextmanager
    def running(self) -> Iterator[None]:
        """That precision, with gradients or without."""
        enabled = self.autocast is not None
        quiet = quiet_libraries() if prompt_learning(self.model) else nullcontext()
        with quiet, torch.autocast(self.device.type, dtype=self.autocast, enabled=enabled):
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

    @functools.cached_property
    def most_columns(self) -> float:
        """Columns that a cache may have: some families hold a mask of so many positions and no more (GPT-Neo)."""
        return self._settings.get("max_position_embeddings") or math.inf

    @functools.cached_property
    def kept(self) -> Kept | None:
        """What the key-value cache keeps of a text; None where it is not a cache of layers."""
        ids = torch.arange(math.prod(PROBE_SHAPE), device=self.device).view(PROBE_SHAPE)
        layers = getattr(self.forward(input_ids=ids, use_cache=True).cache, "layers", ())
        held = [getattr(layer, name, None) for layer in layers for name in ("keys", "values")]
        count = sum(part.nbytes for part in held if isinstance(part, torch.Tensor)) // math.prod(PROBE_SHAPE)
        if not count:
            return None
        windows = any(self._settings.get(name) for name in _WINDOWS)
        return Kept(count, windows or any(getattr(layer, "is_sliding", False) for layer in layers))

    @functools.cached_property
    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = self.model.config.get_text_config().to_dict()
        return settings

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


_NEW, _OLD = "cache", "past_key_values"


def inner_model(model: Any) -> Any:
    """The model itself, without peft's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def prompt_learning(model: Any) -> bool:
    """Whether peft puts virtual tokens before whatever the model is given."""
    return bool(getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False))


def takes(model: Any, name: str) -> bool:
    """Whether the model's own forward pass has a parameter of that name."""
    return name in inspect.signature(inner_model(model).forward).parameters


def cache_name(model: Any) -> str:
    """The argument that takes a key-value cache: `cache` since transformers 5.24, `past_key_values` before.

    Models with code of their own may keep the old name.
    """
    return _NEW if takes(model, _NEW) else _OLD


def cache_of(output: Any) -> Any:
    """The key-value cache in a model's output, None where there is none. Asking by the old name would warn."""
    fields = dict(output.items()) if isinstance(output, Mapping) else vars(output)
    return fields.get(_NEW, fields.get(_OLD))


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
    tolerance = max(TOLERANCE, roundings * epsilon(model))
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


def epsilon(model: HeadlessModel) -> float:
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
