"""One name for the key-value cache, whatever the version of transformers and the model call it."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace

import pytest
import transformers

from spvmia_plugin.scoring.inner import cache_name, cache_of, has_rows, inner_model


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


def test_states_that_are_no_rows_of_keys_and_values_are_not_shared():
    config = transformers.LlamaConfig(num_hidden_layers=1)
    cache = transformers.DynamicCache(config=config)
    assert has_rows(cache)
    cache.layers = [SimpleNamespace(batch_repeat_interleave=None)]
    assert not has_rows(cache)
    assert not has_rows(None)
