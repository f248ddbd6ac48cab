"""Privacy scores for fine-tuned language models inside lm-evaluation-harness.

Importing this package loads neither torch nor lm_eval; see `docs/` for the tasks, options and hooks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pluggy

    from spvmia_plugin.analysis import audit as audit
    from spvmia_plugin.trainers.callback import MembershipManifest as MembershipManifest

    __version__: str

    hookimpl: pluggy.HookimplMarker
    """Marks a function of a plugin as an implementation of one of `spvmia_plugin.hookspecs`."""

__all__ = ["MembershipManifest", "__version__", "audit", "hookimpl"]


def __getattr__(name: str) -> object:
    """What is made when it is asked for: `spvmia --help` needs none of it."""
    if name == "__version__":
        from importlib.metadata import version

        value: object = version("spvmia-plugin")
    elif name == "hookimpl":
        import pluggy

        value = pluggy.HookimplMarker("spvmia")
    elif name == "MembershipManifest":
        from spvmia_plugin.trainers.callback import MembershipManifest

        value = MembershipManifest
    elif name == "audit":
        from spvmia_plugin.analysis import audit

        value = audit
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value
