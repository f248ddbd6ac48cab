"""Steps of a training that fit into memory: what it does not hold of a step's activations is computed anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from spvmia_plugin.errors import SpvmiaError

T = TypeVar("T")
PROBED = 32
"""Tokens of the text by which is measured what a step keeps, of which as much is kept for each token of a batch."""
MOST_OF_MEMORY = 0.7
"""Share of the free memory that this may take: a step of SmolLM2 under LoRA takes 1.4 times as much at its peak."""


class InMemory:
    """Runs the steps of a training of one model.

    Args:
        model: a `PreTrainedModel` or `PeftModel`.
        alone: whether no other process takes part, which would wait for a step that is done twice.

    Attributes:
        recomputes: whether a step did not fit, or would not: from then on activations are not kept for the backward
            pass, which gives the same gradients in about 1.4 times the time (SmolLM2 under LoRA).
    """

    def __init__(self, model: Any, *, alone: bool = True) -> None:
        self.recomputes = False
        self._model = model
        self._alone = alone

    def foresee(self, shape: Sequence[int]) -> None:
        """On a CPU, keep no activations from the start if those of the largest step would not leave room.

        There no error comes when memory runs out: the kernel kills the process, and would again where it goes on.

        Args:
            shape: texts and tokens of the largest batch.
        """
        if torch.device(self._model.device).type == "cpu":
            texts, tokens = shape
            probed = min(tokens, PROBED)
            if texts * tokens / probed * _kept_by_a_step(self._model, probed) > MOST_OF_MEMORY * available_memory():
                self._recompute()

    def run(self, step: Callable[[], T], shape: Sequence[int]) -> T:
        """A forward and a backward pass. If memory runs out, once more without keeping activations, as all after it.

        Args:
            step: does it; what it draws at random it draws again.
            shape: texts and tokens of the batch, for an error.

        Raises:
            SpvmiaError: it does not fit so, either.
        """
        draw_again = _drawing_again(torch.device(self._model.device))
        for _ in range(2):
            try:
                return step()
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
            # Outside of the handler: the error holds the frames, and they hold the tensors.
            if not self._recompute():
                break
            draw_again()
        texts, tokens = shape
        raise SpvmiaError(
            f"out of memory: expected room to train on {texts} texts of {tokens} tokens at once, got none; lower "
            "mia_reference_batch (of 'spvmia finetune': --batch-size), cut records shorter (mia_record_tokens of "
            "conversations, mia_block_size of texts), or use a device with more memory"
        )

    def restore(self) -> None:
        """Leave the model as it was."""
        if self.recomputes:
            _checkpointing(self._model, "disable")()

    def _recompute(self) -> bool:
        """Have the model keep no activations; whether that helps."""
        if (
            keeps_no_activations(self._model)
            or not self._alone
            or not getattr(self._model, "supports_gradient_checkpointing", False)
        ):
            return False
        self._model.zero_grad(set_to_none=True)
        clear_device_cache(garbage_collection=True)
        _checkpointing(self._model, "enable")({"use_reentrant": False})
        self.recomputes = True
        return True


def keeps_no_activations(model: Any) -> bool:
    """Whether some layer of a model computes its activations anew in the backward pass."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def available_memory(group: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process can still take, by the machine and by the group of processes (container) it is in."""
    found = int(psutil.virtual_memory().available)
    try:
        most, taken, parts = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current", "stat"))
    except OSError:  # another system, or another version of groups
        return found
    # Files that were read, a model's weights for one, count as taken, and make room where room is needed.
    files = next((int(line.split()[1]) for line in parts.splitlines() if line.startswith("inactive_file ")), 0)
    return found if most == "max" else min(found, int(most) - int(taken) + files)


def _kept_by_a_step(model: Any, tokens: int) -> int:
    """Bytes that a step on one text takes until its backward pass: what is kept, and gradients of the largest of it."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    draw_again = _drawing_again(torch.device(model.device))
    ids = torch.zeros((1, tokens), dtype=torch.long, device=model.device)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(input_ids=ids, labels=ids).loss
    del loss
    draw_again()
    return sum(kept.values()) + 2 * max(kept.values(), default=0)


def _checkpointing(model: Any, what: str) -> Callable[..., None]:
    """The method of a model that enables or disables this: transformers 5.24 has given it another name."""
    today, before = (f"{name}_checkpointing_{what}" for name in ("activation", "gradient"))
    method: Callable[..., None] = getattr(model, today if hasattr(model, today) else before)
    return method


def _drawing_again(device: torch.device) -> Callable[[], None]:
    """What puts the generators that dropout draws from back to where they are now."""
    of_cpu = torch.get_rng_state()
    if device.type == "cpu":
        return lambda: torch.set_rng_state(of_cpu)
    module = torch.get_device_module(device)
    which = () if device.type == "mps" else (device,)
    of_device = module.get_rng_state(*which)

    def draw_again() -> None:
        torch.set_rng_state(of_cpu)
        module.set_rng_state(of_device, *which)

    return draw_again
