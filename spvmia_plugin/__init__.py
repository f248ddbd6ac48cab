"""Privacy scores for fine-tuned language models inside lm-evaluation-harness.

Importing this package loads neither torch nor lm_eval; see `docs/` for the tasks, options and hooks.
"""

from importlib.metadata import version

import pluggy

__version__ = version("spvmia-plugin")

hookimpl = pluggy.HookimplMarker("spvmia")
"""Marks a function of a plugin as an implementation of one of `spvmia_plugin.hookspecs`."""

__all__ = ["__version__", "hookimpl"]
