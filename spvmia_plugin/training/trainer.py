"""Fine-tuning by `transformers.Trainer`, resumable to the same bits and without a trace outside its folder."""

from __future__ import annotations

import copy
import importlib
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.seeds import stable_seed
from spvmia_plugin.training.checkpoints import CHECKPOINTS, Seal, fingerprint, last_checkpoint, step_of, writing
from spvmia_plugin.training.memory import InMemory
from spvmia_plugin.util.console import Bar
from spvmia_plugin.util.libraries import isolated_rng, quiet_libraries
from spvmia_plugin.util.processes import first_says, is_first, one_of

_WEIGHTS = "trainable.safetensors"
_LOSSES = "spvmia.losses"
_LAUNCH_SETTINGS = ("ACCELERATE_", "FSDP_")
"""Prefixes of what a launcher says of precision, sharding and compilation: no part of a reference's key."""
_LAUNCH_PLACES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "PMI_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_")
"""Names, and prefixes, of what it says of the processes."""


@dataclass(frozen=True)
class TrainSettings:
    """How to train. The optimiser is AdamW without weight decay.

    Attributes:
        epochs: passes over the data, fractions allowed.
        lr: peak learning rate.
        batch_size: sequences per step.
        seed: order of the data and dropout.
        schedule: the Trainer's name of the learning-rate schedule, without warm-up.
        max_grad_norm: gradients are clipped to this norm.
        save_steps: steps between checkpoints; None for a tenth of the run but at least 10 steps, 0 for none.
        processes: of the launch, that train together; each takes its part of every batch.
    """

    epochs: float
    lr: float
    batch_size: int
    seed: int = 0
    schedule: str = "linear"
    max_grad_norm: float = 1.0
    save_steps: int | None = None
    processes: int = 1

    def total_steps(self, n_sequences: int) -> int:
        """Optimiser steps for so many sequences."""
        return math.ceil(self.epochs * math.ceil(n_sequences / self.batch_size))

    def checkpoint_interval(self, n_sequences: int) -> int:
        """Steps between checkpoints, 0 for none."""
        if self.save_steps is not None:
            return self.save_steps
        return max(10, math.ceil(self.total_steps(n_sequences) / 10))


def train(
    model: Any,
    sequences: Sequence[Sequence[int]],
    settings: TrainSettings,
    output_dir: Path,
    *,
    counted: Sequence[Sequence[bool]] | None = None,
    pad_token_id: int,
    description: str,
) -> dict[str, object]:
    """Train the parameters of `model` that require gradients on next-token prediction, in place.

    Runs on the model's own device and in its own dtypes; in this process alone, whatever the launcher, unless
    `settings.processes` says otherwise: then all call it, and the first writes. Their steps are those of one process to
    rounding, but that each draws its own dropout, and gets a whole share of the last batch: what is missing is taken
    from the beginning.

    A run that was killed resumes from its last whole checkpoint in `output_dir/checkpoints` to the same bits; a
    checkpoint of other data or settings, or a damaged one, is not used. The last one is left there, so that a run that
    is killed before the caller has saved the weights trains nothing twice: remove it after that. Global random state,
    accelerate's state, the environment and the model's mode are what they were.

    Args:
        model: a `PreTrainedModel` or `PeftModel`.
        sequences: token ids, used as they are; padded on the right where lengths differ.
        settings: how to train.
        output_dir: gets the checkpoints, and nothing else.
        counted: which tokens of each sequence carry loss, the mean over all of a batch as ever; None for all tokens.
            Nothing predicts the first of a sequence, which never does.
        pad_token_id: any valid token: padding is masked and has no loss.
        description: words for the progress bar.

    Returns:
        JSON-ready: `losses` (mean per epoch), `steps`, `tokens` (seen, without padding), with `counted` also
        `tokens_with_loss`, `seconds`, `resumed_at` (step, 0 for none), the settings, and `recomputes` if memory did
        not hold the activations of a step.

    Raises:
        SpvmiaError: no sequence, or one without a token to predict; no room for a checkpoint, or in memory for a step;
            another process is gone.
    """
    if not sequences or min(map(len, sequences)) < 2:
        raise SpvmiaError(
            f"{description}: expected texts of at least 2 tokens to train on, got "
            f"{'none' if not sequences else 'a shorter one'}; give more or longer documents"
        )
    if counted is not None and not all(any(mask[1:]) for mask in counted):
        raise SpvmiaError(
            f"{description}: expected a token that carries loss in each text to train on, got one without; leave it out"
        )
    folder = output_dir / CHECKPOINTS
    run = fingerprint(model, sequences, asdict(settings), counted)
    started = time.perf_counter()
    alone, first = settings.processes == 1, is_first(settings.processes)
    with (
        one_of(settings.processes),
        isolated_rng(settings.seed),
        quiet_libraries(),
        _launcher(model.device, settings.processes),
        _untouched(model),
        unpacked(model),
    ):
        found = last_checkpoint(folder, run) if first else None
        checkpoint = first_says(found, settings.processes)
        with writing(folder):  # it makes the folder
            trainer = _make_trainer(model, sequences, counted, settings, folder, pad_token_id)
        if not alone:  # the Trainer has seeded all alike: equal rows of their batches would share their dropout
            torch.manual_seed(stable_seed("dropout", settings.seed, torch.distributed.get_rank()))
        for callback in (Seal(run), _Bar(description)) if first else ():
            trainer.add_callback(callback)
        resumed_at = step_of(checkpoint) if checkpoint else 0
        steps = settings.total_steps(len(sequences))
        try:
            if checkpoint and resumed_at == steps:
                trainer._load_from_checkpoint(str(checkpoint))  # all is done; the Trainer would take one more step
            else:
                trainer.in_memory.foresee((settings.batch_size // settings.processes, max(map(len, sequences))))
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            trainer.in_memory.restore()
        losses = trainer.epoch_losses()
    with_loss = {}
    if counted is not None:
        with_loss["tokens_with_loss"] = round(settings.epochs * sum(sum(mask[1:]) for mask in counted))
    return {
        "losses": losses,
        "steps": steps,
        "tokens": round(settings.epochs * sum(map(len, sequences))),
        **with_loss,
        "seconds": round(time.perf_counter() - started, 3),
        "resumed_at": resumed_at,
        **asdict(settings),
        **({"recomputes": True} if trainer.in_memory.recomputes else {}),
    }


def _make_trainer(
    model: Any,
    sequences: Sequence[Sequence[int]],
    counted: Sequence[Sequence[bool]] | None,
    settings: TrainSettings,
    folder: Path,
    pad_token_id: int,
) -> _Trainer:
    every = settings.checkpoint_interval(len(sequences))
    device = torch.device(model.device)
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        learning_rate=settings.lr,
        lr_scheduler_type=settings.schedule,
        max_grad_norm=settings.max_grad_norm,
        per_device_train_batch_size=settings.batch_size // settings.processes,
        # An expert that no token of this process went to has no gradient.
        ddp_find_unused_parameters=any("expert" in name for name in model.config.to_dict()),
        seed=settings.seed % 2**32,
        data_seed=settings.seed % 2**32,  # the order of the data, in all processes
        use_cpu=device.type == "cpu",
        save_strategy="steps" if every else "no",
        save_steps=every or 1,
        logging_strategy="no",
        log_level="error",  # its warnings are about what is done on purpose: training alone under a launcher
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=device.type == "cuda",
    )
    if settings.processes == 1:
        # The Trainer would take cuda:0, and spread over all cards it sees. The model stays where the harness put it.
        vars(arguments)["_setup_devices"] = device
        arguments._n_gpu = 0 if device.type == "cpu" else 1
    trainer = _Trainer(
        alone=settings.processes == 1,
        model=model,
        args=arguments,
        train_dataset=[
            {"input_ids": list(ids), "labels": _labels(ids, None if counted is None else counted[i])}
            for i, ids in enumerate(sequences)
        ],
        data_collator=_Collator(pad_token_id),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _labels(ids: Sequence[int], counted: Sequence[bool] | None) -> list[int]:
    """What each token is to be predicted as; nothing predicts the first.

    Transformers before 5.10 or so would count a label there into the mean.
    """
    counts = counted if counted is not None else [True] * len(ids)
    return [-100, *(token if here else -100 for token, here in zip(ids[1:], counts[1:], strict=True))]


class _Collator:
    """Right padding; padded positions are masked and have no label."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        width = max(len(row["input_ids"]) for row in rows)
        input_ids = torch.full((len(rows), width), self.pad_token_id)
        labels = torch.full((len(rows), width), -100)
        attention_mask = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            n = len(row["input_ids"])
            input_ids[i, :n], labels[i, :n] = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])
            attention_mask[i, :n] = 1
        return {"input_ids": input_ids, "labels": labels, "attention_mask": attention_mask}


class _Trainer(Trainer):  # type: ignore[misc]
    """The Trainer, with checkpoints of nothing but what is trained, and losses summed without a host sync."""

    def __init__(self, *, alone: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.in_memory = InMemory(self.model, alone=alone)
        epochs = math.ceil(self.args.num_train_epochs)
        device = torch.device(self.args.device)
        device = torch.device("cpu") if device.type == "mps" else device  # no float64 there
        self._sums = torch.zeros(2, epochs, dtype=torch.float64, device=device)  # losses, steps

    def training_step(self, model: Any, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        step = super().training_step
        loss = self.in_memory.run(lambda: step(model, inputs, *args, **kwargs), inputs["input_ids"].shape)
        epoch = min(int(self.state.epoch or 0), self._sums.shape[1] - 1)
        self._sums[0, epoch] += loss.detach().to(self._sums.device)
        self._sums[1, epoch] += 1
        return loss

    def epoch_losses(self) -> list[float]:
        """Mean loss of each epoch."""
        self._share_sums()
        sums, steps = self._sums.tolist()
        return [total / max(count, 1) for total, count in zip(sums, steps, strict=True)]

    def _share_sums(self) -> None:
        """Give all processes the mean of their losses, which is the loss of the whole batch."""
        self._sums = self.accelerator.reduce(self._sums, reduction="mean")

    def _trainable(self) -> dict[str, torch.Tensor]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self._share_sums()
        with writing(Path(self.args.output_dir)):
            super()._save_checkpoint(*args, **kwargs)
        self.accelerator.wait_for_everyone()  # each wrote its random state, which the seal covers

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: p.detach().contiguous() for name, p in self._trainable().items()}
        save_file({**weights, _LOSSES: self._sums.contiguous()}, folder / _WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        saved = load_file(Path(resume_from_checkpoint) / _WEIGHTS)
        self._sums.copy_(saved.pop(_LOSSES))
        with torch.no_grad():
            for name, parameter in self._trainable().items():
                parameter.copy_(saved[name])


class _Bar(TrainerCallback):  # type: ignore[misc]
    """A progress bar over optimiser steps; silent where stderr is no terminal."""

    def __init__(self, description: str) -> None:
        self.description = description
        self.bar: Bar | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar = Bar(total=state.max_steps, initial=state.global_step, desc=self.description, unit="steps")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(1)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()


@contextmanager
def _launcher(device: torch.device, processes: int) -> Iterator[None]:
    """Hide the launcher's settings from the Trainer; and all of it, if this process trains alone while others wait.

    Puts back accelerate's global state, which the Trainer resets and the harness's own accelerator lives in.
    """
    from accelerate.state import AcceleratorState, GradientState, PartialState

    hidden = processes == 1
    states = (PartialState, AcceleratorState, GradientState)
    kept = [dict(state._shared_state) for state in states]
    environment = dict(os.environ)
    current = torch.cuda.current_device() if device.type == "cuda" else None
    verbosity = logging.get_verbosity()
    try:
        for name in environment:
            if name.startswith(_LAUNCH_SETTINGS) or (hidden and name.startswith(_LAUNCH_PLACES)):
                del os.environ[name]
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
        # Under `torchrun` on a CPU accelerate has taken each process for the only one.
        if hidden or kept[0].get("num_processes") != processes:
            for state in states:
                state._shared_state.clear()
        logging.set_verbosity_error()  # it warns of a process group that is there and not used: on purpose
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        for state, values in zip(states, kept, strict=True):
            state._shared_state.clear()
            state._shared_state.update(values)
        logging.set_verbosity(verbosity)
        if current is not None:
            torch.cuda.set_device(current)


@contextmanager
def _untouched(model: Any) -> Iterator[None]:
    """Put back what the Trainer leaves on a model besides trained weights: modes, attributes, gradients."""
    modes = {module: module.training for module in model.modules()}
    attributes, use_cache = set(vars(model)), getattr(model.config, "use_cache", None)
    try:
        yield
    finally:
        model.zero_grad(set_to_none=True)
        for module, training in modes.items():
            module.training = training
        for name in set(vars(model)) - attributes:
            delattr(model, name)
        if use_cache is not None:
            model.config.use_cache = use_cache


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
