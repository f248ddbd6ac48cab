"""The plugin against axolotl 0.19's interface, whose two lines that matter are repeated here: it is not installed."""

from __future__ import annotations

import sys
import types

import pytest

from spvmia_plugin import MembershipManifest
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.trainers import axolotl

from .conftest import chats


@pytest.fixture
def packages(monkeypatch):
    """What axolotl and pydantic bring, as far as it is asked for."""

    class BasePlugin:
        def __init__(self):
            self.made = True

    class BaseModel:
        pass

    def create_model(name, **fields):
        return type(name, (BaseModel,), {"fields": fields})

    for name, brought in {
        "axolotl": {},
        "axolotl.integrations": {},
        "axolotl.integrations.base": {"BasePlugin": BasePlugin},
        "pydantic": {"create_model": create_model},
    }.items():
        module = types.ModuleType(name)
        vars(module).update(brought)
        monkeypatch.setitem(sys.modules, name, module)
    return BasePlugin


def test_the_plugin_brings_the_callback(packages, split):
    import importlib

    # As `load_plugin` and `merge_input_args` of axolotl.integrations do it.
    module, name = ["spvmia_plugin.trainers.axolotl", "MembershipPlugin"]
    plugin = getattr(importlib.import_module(module), name)()
    assert isinstance(plugin, packages)
    assert plugin.made
    namespace = {}
    module, name = plugin.get_input_args().rsplit(".", 1)
    exec(f"from {module} import {name}", namespace)
    assert list(namespace[name].fields) == ["mia"]
    members, nonmembers = split(chats(90))
    (found,) = plugin.add_callbacks_pre_trainer({"mia": {"members": members, "nonmembers": nonmembers}}, None)
    assert isinstance(found, MembershipManifest)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, "mia: expected the records of the training under this key, got none"),
        ({"mia": {"member": "a.jsonl"}}, "mia: expected arguments of MembershipManifest"),
        ({"mia": {"members": "a.jsonl"}}, "members=: .*a.jsonl|nonmembers=: expected"),
    ],
)
def test_bad_input(config, expected):
    with pytest.raises(SpvmiaError, match=f"^({expected})"):
        axolotl.callbacks_of(config)


def test_other_names_are_none():
    with pytest.raises(AttributeError, match="has no attribute 'Plugin'"):
        axolotl.Plugin  # noqa: B018
