"""The model that a fine-tuning starts from: found before the data are dealt out, loaded after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spvmia_plugin.data.tokenisation import Reading
from spvmia_plugin.errors import SpvmiaError, reason_of
from spvmia_plugin.models.intact import check_intact
from spvmia_plugin.models.precision import dtype_named, is_slow_in, too_slow
from spvmia_plugin.records import Record
from spvmia_plugin.seeds import stable_seed
from spvmia_plugin.util.files import as_path
from spvmia_plugin.util.libraries import brings_code, isolated_rng

if TYPE_CHECKING:
    import torch

    from spvmia_plugin.training.config import FinetuneConfig


@dataclass(frozen=True)
class BaseModel:
    """The base model before its weights are loaded.

    Attributes:
        name: hub id, or absolute path of a folder.
        tokenizer: its tokenizer.
        context: tokens it can read at once, None if it does not say.
        quantised: whether its weights are packed.
        dtype: of its weights when they are loaded.
        slow: that this CPU is slow in the precision that was asked for, None if it isn't.
        audited_in: precision to name where the harness would take the base's own and this CPU is slow in that; None
            where nothing need be named.
    """

    name: str
    tokenizer: Any
    context: int | None
    quantised: bool
    dtype: str = "auto"
    slow: str | None = None
    audited_in: str | None = None

    @classmethod
    def find(cls, config: FinetuneConfig) -> BaseModel:
        """Load config and tokenizer.

        Raises:
            SpvmiaError: there is no such model, or it cannot be trained as asked.
        """
        from transformers import AutoConfig, AutoTokenizer

        local = as_path(config.model, "--model", utf8=True)
        name = str(local.absolute()) if local.is_dir() else config.model
        try:
            model_config = AutoConfig.from_pretrained(name, trust_remote_code=config.trust_remote_code)
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=config.trust_remote_code)
        except Exception as error:  # tokenizers raises nothing more special for a damaged file
            _refuse_code(config, error)
            raise SpvmiaError(
                f"--model: no model with a tokenizer could be loaded from {config.model!r} ({reason_of(error)}); "
                "name a local folder, or a hub id if the hub can be reached"
            ) from error
        context = getattr(model_config, "max_position_embeddings", None)
        quantised = getattr(model_config, "quantization_config", None) is not None
        if context is not None and (config.block_size or 0) > context:
            raise SpvmiaError(
                f"--block-size: expected at most the {context} tokens of the model's context, got "
                f"{config.block_size}; lower it"
            )
        if quantised and config.method == "full":
            raise SpvmiaError(
                f"--method: full expects a base with plain weights, got the quantised {config.model!r}; use lora"
            )
        return cls(name, tokenizer, context, quantised, *_precision(config, model_config, quantised))

    def sequences(self, records: Sequence[Record]) -> list[list[int]]:
        """Training tokens of each record, no longer than the context.

        Raises:
            SpvmiaError: a text with nothing to predict.
        """
        sequences, reading = [], Reading(self.tokenizer)
        for record in records:
            if record.rendered is not None:
                sequences.append(list(record.rendered.token_ids))
                continue
            ids = reading.natural(record.text)[: self.context]
            if len(ids) < 2:
                raise SpvmiaError(f"--data: {record.id}: expected at least 2 tokens to train on, got fewer; remove it")
            sequences.append(ids)
        return sequences


def _precision(config: FinetuneConfig, model_config: Any, quantised: bool) -> tuple[str, str | None, str | None]:
    """`dtype`, `slow` and `audited_in`.

    `auto` is the model's own, and float32 for `full`, and on a CPU that takes many times as long in the model's own.
    """
    if config.dtype == "auto" and config.method == "full":
        return "float32", None, None
    if quantised or training_device().type != "cpu":
        return config.dtype, None, None
    own, auto = getattr(model_config, "dtype", None), config.dtype == "auto"
    told = too_slow(dtype_named(config.dtype, own), "the base is loaded in float32" if auto else "pass --dtype float32")
    # Of `full` the harness reads what was trained and saved here.
    audited = dtype_named("auto", config.dtype if config.method == "full" else own)
    return "float32" if auto and told else config.dtype, told, "float32" if is_slow_in(audited) else None


def load_model(config: FinetuneConfig, base: BaseModel) -> Any:
    """The base on the accelerator if there is one; with a fresh adapter for LoRA.

    Raises:
        SpvmiaError: there are no such weights, or `--lora-targets` names no modules of the model or
            some that peft refuses.
    """
    from transformers import AutoModelForCausalLM

    check_intact("--model", base.name)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            base.name, dtype=base.dtype, trust_remote_code=config.trust_remote_code
        )
    except Exception as error:  # files, formats, a pickle that is refused: each library has its own
        _refuse_code(config, error)
        raise SpvmiaError(
            f"--model: no causal language model could be loaded from {config.model!r} ({reason_of(error)}); "
            "name a folder with config.json and weights as safetensors"
        ) from error
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None and not quantizer.is_trainable:
        raise SpvmiaError(
            f"--model: expected a base that can be trained, got {config.model!r} with quantised weights of a kind that "
            "cannot; give the model with plain weights"
        )
    model = model.to(training_device())
    if config.method == "full":
        return model
    from peft import get_peft_model

    from spvmia_plugin.models.adapters import AdapterHost
    from spvmia_plugin.training.lora import lora_config

    lora = lora_config(AdapterHost(model), config, "--lora-targets")
    with isolated_rng(stable_seed(config.seed, "adapter")):
        adapted = get_peft_model(model, lora)
    adapted.peft_config["default"].base_model_name_or_path = base.name
    return adapted


def _refuse_code(config: FinetuneConfig, error: Exception) -> None:
    """Say so if the base cannot be loaded because it brings code that nobody allowed to run."""
    if brings_code(error) and not config.trust_remote_code:
        raise SpvmiaError(
            f"--model: {config.model!r} brings code of its own, which runs only with --trust-remote-code; read that "
            "code before you add it, or name a model without"
        ) from None


def training_device() -> torch.device:
    """The accelerator that is there, or the CPU. A torch that is built for CUDA names it without a card, too."""
    import torch

    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return device or torch.device("cpu")
