"""The tokenizer of the model under audit, for packing: a task never sees the LM itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.util.libraries import refusal


def load_tokenizer(metadata: Mapping[str, Any]) -> Any:
    """Load the tokenizer the model's arguments name (`tokenizer`, else `pretrained`, else `peft`).

    Raises:
        SpvmiaError: none is named, or it cannot be loaded.
    """
    from transformers import AutoTokenizer

    name = next((metadata[key] for key in ("tokenizer", "pretrained", "peft") if metadata.get(key)), None)
    if hasattr(name, "get_vocab"):
        return name  # from Python it may be handed over itself
    name = getattr(name, "name_or_path", name)  # a model: the harness, too, takes the tokenizer from where it was
    if name is None:
        raise SpvmiaError(
            "mia_block_size: packing needs the model's tokenizer, got no 'pretrained' in the model's arguments; "
            "pass --metadata '{\"pretrained\": ...}' or set mia_block_size to 0 for whole documents"
        )
    passed_on = {key: metadata[key] for key in ("revision", "gguf_file") if metadata.get(key)}
    trusted = str(metadata.get("trust_remote_code")).lower() == "true"  # with None, transformers asks at the terminal
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=trusted, **passed_on)
    except Exception as error:  # tokenizers raises nothing more special for a damaged file
        raise SpvmiaError(
            f"pretrained: no tokenizer could be loaded from {name!r} ({refusal(error)}); "
            "name a local folder with a tokenizer, or pass tokenizer=... in --model_args"
        ) from error
