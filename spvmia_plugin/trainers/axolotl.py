"""The callback in axolotl: a plugin that its YAML names, with the records under `mia`.

    plugins:
      - spvmia_plugin.trainers.axolotl.MembershipPlugin
    mia:
      members: trained_on.jsonl
      nonmembers: held_out.jsonl

Both classes are made when axolotl asks for them: the one is a plugin of its, the other a model of pydantic, which it
brings. Tried with axolotl 0.19 on a CPU; docs/axolotl.md says how.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from spvmia_plugin.errors import SpvmiaError

KEY = "mia"


def callbacks_of(config: Any) -> list[Any]:
    """The callback with the arguments that stand under `mia` in an axolotl configuration.

    Raises:
        SpvmiaError: there are none, or one that the callback does not have.
    """
    from spvmia_plugin.trainers.callback import MembershipManifest

    given = config.get(KEY)
    if not isinstance(given, Mapping):
        raise SpvmiaError(
            f"{KEY}: expected the records of the training under this key, got none; write members and "
            "nonmembers below it"
        )
    try:
        return [MembershipManifest(**given)]
    except TypeError as error:
        raise SpvmiaError(
            f"{KEY}: expected arguments of MembershipManifest (members, nonmembers, prompts, ...), got "
            f"{', '.join(map(repr, given))}; correct the names"
        ) from error


def _plugin(base: type) -> type:
    class MembershipPlugin(base):  # type: ignore[misc]
        """A plugin of axolotl's."""

        def get_input_args(self) -> str:
            """Where the model of what stands under `mia` is."""
            return f"{__name__}.MembershipArgs"

        def add_callbacks_pre_trainer(self, cfg: Any, model: Any) -> list[Any]:
            """The callback."""
            return callbacks_of(cfg)

    return MembershipPlugin


def __getattr__(name: str) -> Any:
    """The two classes that need axolotl's own packages."""
    if name == "MembershipPlugin":
        return _plugin(importlib.import_module("axolotl.integrations.base").BasePlugin)
    if name == "MembershipArgs":
        return importlib.import_module("pydantic").create_model(name, **{KEY: (dict[str, Any] | None, None)})
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
