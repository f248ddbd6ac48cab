"""Trains a LoRA adapter on the base model: the self-prompt reference, or the LiRA candidate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.models.adapters import AdapterHost, save_adapter
from spvmia_plugin.training.checkpoints import writing
from spvmia_plugin.training.lora_targets import lora_targets
from spvmia_plugin.training.trainer import TrainSettings, train
from spvmia_plugin.util.libraries import is_first

_NAME = "training"


def train_lora(
    host: AdapterHost,
    sequences: Sequence[Sequence[int]],
    config: AuditConfig,
    output_dir: Path,
    *,
    pad_token_id: int,
    base_name: str | None,
    processes: int = 1,
) -> dict[str, object]:
    """Train an adapter and write it to `output_dir` as a peft folder; the host's model stays what it was.

    Args:
        host: the model without adapters.
        sequences: token ids; those too short to predict anything are left out.
        config: `reference_*`, `lora_*` and `seed`.
        output_dir: gets the adapter, and the checkpoints; the last one stays (see `training.train`).
        pad_token_id: for padding.
        base_name: written into the adapter's config.
        processes: that train together; the first writes.

    Returns:
        What `training.train` returns, with the number of texts and of trained parameters.

    Raises:
        SpvmiaError: the LoRA targets are not in the model or refused by peft; `output_dir` cannot be written.
    """
    usable = [ids for ids in sequences if len(ids) > 1]
    settings = TrainSettings(
        epochs=config.reference_epochs,
        lr=config.reference_lr,
        batch_size=config.reference_batch,
        seed=config.seed,
        processes=processes,
    )
    with host.new(_NAME, _lora_config(host, config, base_name), config.seed) as model:
        record = train(model, usable, settings, output_dir, pad_token_id=pad_token_id, description="reference")
        parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        if is_first(processes):
            with writing(output_dir):
                save_adapter(model, _NAME, output_dir)
    return {**record, "texts": len(usable), "parameters": parameters}


def check_targets(host: AdapterHost, config: AuditConfig) -> None:
    """Make sure that every one of the targets gets LoRA and learns: tried, with nothing left behind.

    Raises:
        SpvmiaError: one is not in the model, or refused; or the model can't be trained.
    """
    _targets(host, config)


def _targets(host: AdapterHost, config: AuditConfig) -> list[str] | str:
    return lora_targets(host, config.lora_targets, "mia_lora_targets", r=config.lora_rank)


def _lora_config(host: AdapterHost, config: AuditConfig, base_name: str | None) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=_targets(host, config),
        base_model_name_or_path=base_name,
    )
