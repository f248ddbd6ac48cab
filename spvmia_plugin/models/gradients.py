"""How large the gradient of each text's loss is, in the weights that were trained.

The gradient of a linear layer's weight is the sum over tokens of g_t a_t^T, a_t (I,) being its input and g_t (O,) the
gradient of its output, so its square norm needs no gradient of a weight: a batch goes forward and back once, and the
norm of each row follows from what passed through the layers,

    || sum_t g_t a_t^T ||^2 = sum_{s,t} (a_s . a_t) (g_s . g_t).

That serves targets whose trained weights are all matrices of plain linear layers, as those of LoRA are. It is tried on
a few tokens first, against the gradients themselves; what does not agree, and any other kind of weight (norms,
embeddings, tied matrices, DoRA), gets them one text at a time.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from numpy.typing import NDArray
from torch import nn

from spvmia_plugin.models.batching import PADDED_SHARE, Batch, BatchRunner, plan_batches, token_budget
from spvmia_plugin.models.forward import HeadlessModel, epsilon, probe_ids
from spvmia_plugin.protocols import Cost, OnDone, ScoreInput

Mask = NDArray[np.bool_] | None

_BUDGET_SHARE = {"cpu": 4}
"""A batch holds one in so many of the tokens that are scored at once: activations are kept until the way back."""
_BUDGET_SHARE_DEVICE = 16
_SHORTCUT = "gradients of whole batches"
_TOLERANCE = 1e-4
_ROUNDINGS = 32
"""Roundings by which both ways may differ where numbers are coarser: a half-precision backward pass has many."""


class GradientNorms:
    """Norms of the gradients of texts' losses under one model.

    Args:
        model: runs it; in evaluation mode.
        trained: the weights that gradients are taken in, each once.
        pad_id: any token.
        runner: runs batches, remembers what fitted into memory.
        cost: is added to.
    """

    def __init__(
        self, model: HeadlessModel, trained: Sequence[nn.Parameter], pad_id: int, runner: BatchRunner, cost: Cost
    ) -> None:
        self._model = model
        self._trained = list(trained)
        self._pad_id = pad_id
        self._runner = runner
        self._cost = cost
        self._linear = _linear_layers(model.model, self._trained)

    def of(
        self, inputs: Sequence[ScoreInput], counted: Sequence[Mask], *, on_done: OnDone | None, done: Collection[int]
    ) -> list[float | None]:
        """As `Backend.gradient_norms`."""
        started = time.perf_counter()
        texts = [Text.of(item, mask) for item, mask in zip(inputs, counted, strict=True)]
        kind = self._model.device.type
        budget = token_budget(kind) // _BUDGET_SHARE.get(kind, _BUDGET_SHARE_DEVICE)
        norms_of = self._together if self.batched else self._one_by_one
        found: list[float | None] = [None] * len(texts)

        def work(batch: Batch) -> None:
            norms = norms_of([texts[i] for i in batch.rows])
            made = dict(zip(batch.rows, norms, strict=True))
            for i, norm in made.items():
                found[i] = norm
            self._cost.batches += 1
            self._cost.forward_tokens += sum(len(texts[i].ids) for i in batch.rows)
            if on_done is not None:
                on_done(made)

        most_padding = token_budget(kind) // PADDED_SHARE
        planned = plan_batches([len(text.ids) for text in texts], budget, most_padding=most_padding)
        self._runner.run([batch for batch in planned if not all(i in done for i in batch.rows)], work)
        self._cost.seconds += time.perf_counter() - started
        return found

    def check(self) -> None:
        """Take the way back once.

        Raises:
            RuntimeError: there is none, or whatever the model raises where there is none.
        """
        self._one_by_one(self._tried())

    @property
    def batched(self) -> bool:
        """Whether a batch gives the norms of its rows; tried once a model, on a few tokens."""
        if _SHORTCUT not in self._model.tried:
            self._model.tried[_SHORTCUT] = self._linear is not None and self._agrees()
        return self._model.tried[_SHORTCUT]

    def _tried(self) -> list[Text]:
        """Two texts of unequal length."""
        ids = probe_ids(self._model, 18)
        return [Text(each[:-1], range(len(each) - 1), each[1:]) for each in (ids[:11], ids[11:])]

    def _agrees(self) -> bool:
        """Whether two texts in one batch have the norms that each has by itself."""
        texts = self._tried()
        expected = np.array(self._one_by_one(texts))
        try:
            given = np.array(self._together(texts))
        except Exception as error:  # whatever a layer raises that is none of the plain ones after all
            if isinstance(error, RuntimeError) and should_reduce_batch_size(error):
                raise
            return False
        tolerance = max(_TOLERANCE, _ROUNDINGS * epsilon(self._model))
        return bool((np.abs(given - expected) <= tolerance * expected).all())

    def _one_by_one(self, texts: Sequence[Text]) -> list[float]:
        """The gradients themselves, one text at a time."""
        norms = []
        with self._requiring():
            for text in texts:
                (loss,) = self._losses([text])
                square = 0.0
                if loss.requires_grad:
                    for gradient in torch.autograd.grad(loss, self._trained, allow_unused=True):
                        square += 0.0 if gradient is None else gradient.float().square().sum().item()
                norms.append(square**0.5 / len(text.targets))
        return norms

    def _together(self, texts: Sequence[Text]) -> list[float]:
        """From what passes through the layers, forward and back, in one pass."""
        layers = self._linear or {}
        passed: list[tuple[nn.Linear, torch.Tensor, torch.Tensor]] = []

        def keep(layer: Any, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            # Where nothing before it has a gradient, the way back ends here: no weight has to require one.
            passed.append((layer, arguments[0].detach(), output if output.requires_grad else output.requires_grad_()))

        handles = [layer.register_forward_hook(keep) for layer in layers]
        try:
            with torch.enable_grad():
                loss = self._losses(texts).sum()
        finally:
            for handle in handles:
                handle.remove()
        back = torch.autograd.grad(loss, [output for _, _, output in passed], allow_unused=True)
        through: dict[nn.Linear, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        for (layer, given, _), gradient in zip(passed, back, strict=True):
            if gradient is not None:
                through.setdefault(layer, []).append((gradient.float(), given.float()))
        squares = np.zeros(len(texts))
        for layer, calls in through.items():
            # One after the other, as if they were further tokens: a layer may be used more than once.
            gradients, inputs = (torch.cat(each, 1) for each in zip(*calls, strict=True))
            if len(gradients) != len(texts):
                raise ValueError("a layer sees no rows of the batch")
            has_weight, has_bias = layers[layer]
            if has_weight:
                squares += _square_norms(gradients, inputs).cpu().double().numpy()
            if has_bias:
                squares += gradients.sum(1).square().sum(1).cpu().double().numpy()
        return [float(norm) for norm in np.sqrt(squares) / [len(text.targets) for text in texts]]

    def _losses(self, texts: Sequence[Text]) -> torch.Tensor:
        """(B,) the sums of the texts' NLLs: means would lose digits in half precision, on the way back.

        Rows are padded on the right and not masked: in a causal model what comes after a token has no effect on it.
        """
        model, width = self._model, max(len(text.ids) for text in texts)
        rows = [[*text.ids, *[self._pad_id] * (width - len(text.ids))] for text in texts]
        with model.running():
            ids = torch.tensor(rows, device=model.device)
            logits = model.model(input_ids=ids, use_cache=False).logits[:, -width:]  # virtual tokens come before
        places = [(row, place) for row, text in enumerate(texts) for place in text.places]
        targets = [target for text in texts for target in text.targets]
        of_row, at = torch.tensor(places, device=logits.device).T
        logprobs = logits[of_row, at].float().log_softmax(-1)
        nll = -logprobs.gather(-1, torch.tensor(targets, device=logits.device)[:, None])[:, 0]
        return torch.zeros(len(texts), device=logits.device).index_add(0, of_row, nll)

    @contextmanager
    def _requiring(self) -> Iterator[None]:
        """The trained weights require a gradient, as they may not in a model that is only asked."""
        before = [parameter.requires_grad for parameter in self._trained]
        try:
            for parameter in self._trained:
                parameter.requires_grad_(True)
            with torch.enable_grad():
                yield
        finally:
            for parameter, required in zip(self._trained, before, strict=True):
                parameter.requires_grad_(required)


class Text:
    """One text as the model reads it, and what its loss is over.

    Attributes:
        ids: tokens that go in.
        places: which outputs count.
        targets: the tokens that these are to predict.
    """

    __slots__ = ("ids", "places", "targets")

    def __init__(self, ids: Sequence[int], places: Sequence[int], targets: Sequence[int]) -> None:
        self.ids, self.places, self.targets = ids, places, targets

    @classmethod
    def of(cls, item: ScoreInput, mask: Mask) -> Text:
        """A sequence of which those scored tokens count that `mask` (T,) says."""
        sequence = (*item.context_ids, *item.token_ids)
        first = len(sequence) - item.scored
        places = [first - 1 + t for t in range(item.scored) if mask is None or mask[t]]
        return cls(sequence[:-1], places, [sequence[place + 1] for place in places])


def _linear_layers(model: nn.Module, trained: Sequence[nn.Parameter]) -> dict[nn.Linear, tuple[bool, bool]] | None:
    """The plain linear layers that hold all the trained weights, each by itself; of each, whether weight and bias are.

    None where a weight lies in anything else, or in two places.
    """
    wanted, found = {id(parameter) for parameter in trained}, dict[nn.Linear, tuple[bool, bool]]()
    seen = 0
    for module in model.modules():
        own = {name: id(p) in wanted for name, p in module.named_parameters(recurse=False, remove_duplicate=False)}
        if not any(own.values()):
            continue
        if type(module) is not nn.Linear:
            return None
        found[module] = own["weight"], own.get("bias", False)
        seen += sum(own.values())
    return found if seen == len(wanted) else None


def _square_norms(gradients: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """(B,) square norms of sum_t g_t a_t^T, from g (B, W, O) and a (B, W, I); by whichever way is less work."""
    width, out, into = gradients.shape[1], gradients.shape[2], inputs.shape[2]
    if width * (out + into) < out * into:
        return ((gradients @ gradients.mT) * (inputs @ inputs.mT)).sum((1, 2))
    return (gradients.mT @ inputs).square().sum((1, 2))
