"""One name for the key-value cache, whatever the version of transformers and the model call it."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace

import pytest

from spvmia_plugin.models.forward import cache_name, cache_of, inner_model


class New:
    def forward(self, input_ids, cache=None): ...


class Old:
    def forward(self, input_ids, past_key_values=None): ...


class Wrapped:
    """As peft's: its own forward pass takes anything."""

    def __init__(self, inner):
        self.inner = inner

    def get_base_model(self):
        return self.inner

    def forward(self, *args, **kwargs): ...


@pytest.mark.parametrize(("model", "name"), [(New(), "cache"), (Old(), "past_key_values")])
def test_the_cache_is_handed_over_by_the_name_that_the_model_has(model, name):
    assert cache_name(model) == name
    assert cache_name(Wrapped(model)) == name
    assert inner_model(Wrapped(model)) is model


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_the_cache_is_found_by_either_name(name):
    assert cache_of(OrderedDict({"logits": 1, name: "kept"})) == "kept"
    assert cache_of(SimpleNamespace(logits=1, **{name: "kept"})) == "kept"
    assert cache_of(OrderedDict(logits=1)) is None
