"""The model under peft's wrapper, and what its forward pass calls its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

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
