"""Finds plugins and answers what is registered. Built-ins come through the same hooks as anyone's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, TypeVar

import pluggy

from spvmia_plugin import hookspecs
from spvmia_plugin.attacks.base import Attack
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError, did_you_mean
from spvmia_plugin.protocols import Backend, DatasetSource, Perturbation

GROUP = "spvmia"

T = TypeVar("T")


class Registry:
    """The attacks, perturbations, data sets and backends of one plugin manager.

    Attributes:
        manager: the pluggy manager, for the hooks that are called during a run.
    """

    def __init__(self, manager: pluggy.PluginManager) -> None:
        self.manager = manager

    @cached_property
    def attacks(self) -> dict[str, type[Attack]]:
        """Attack classes by name."""
        return self._by_name("spvmia_register_attacks", lambda item: item.name)

    @cached_property
    def perturbations(self) -> dict[str, type[Perturbation]]:
        """Perturbation classes by name."""
        return self._by_name("spvmia_register_perturbations", lambda item: item.name)

    @cached_property
    def datasets(self) -> dict[str, DatasetSource]:
        """Data sets by name."""
        return self._by_name("spvmia_register_datasets", lambda item: item.name)

    @cached_property
    def backends(self) -> dict[str, type[Backend]]:
        """Backend classes by name, the last registered first."""
        return self._by_name("spvmia_register_backends", lambda item: item.name)

    @property
    def attack_options(self) -> frozenset[str]:
        """All option names that registered attacks declare."""
        return frozenset(option for attack in self.attacks.values() for option in attack.options.values())

    def attack(self, name: str, config: AuditConfig) -> Attack:
        """Construct an attack with the hyper-parameters the config sets.

        Raises:
            SpvmiaError: no such attack, or a hyper-parameter out of range.
        """
        cls = self._known("attack", name, self.attacks)
        return cls(**config.attack_fields(cls.options))

    def perturbation(self, config: AuditConfig) -> Perturbation:
        """Construct the perturbation the config names.

        Raises:
            SpvmiaError: no such perturbation.
        """
        return self._known("mia_perturbation", config.perturbation, self.perturbations)(config)

    def dataset(self, name: str) -> DatasetSource:
        """Return a data set by name.

        Raises:
            SpvmiaError: no such data set.
        """
        return self._known("data set", name, self.datasets)

    def distribution_of(self, plugin: object) -> str:
        """The distribution ("name version") a plugin came from; `spvmia-plugin` for the built-ins."""
        for candidate, dist in self.manager.list_plugin_distinfo():
            if candidate is plugin:
                return f"{dist.project_name} {dist.version}"
        return "spvmia-plugin"

    def _by_name(self, hook: str, name_of: Callable[[Any], str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for items in getattr(self.manager.hook, hook)():
            for item in items:
                name = name_of(item)
                if name in found:
                    raise SpvmiaError(
                        f"{hook}: two plugins register {name!r}, expected unique names; "
                        "uninstall one of the distributions listed by 'spvmia plugins'"
                    )
                found[name] = item
        return found

    @staticmethod
    def _known(what: str, name: str, known: dict[str, T]) -> T:
        if name not in known:
            names: Iterable[str] = sorted(known)
            raise SpvmiaError(f"{what}: expected one of {', '.join(names)}, got {name!r}{did_you_mean(name, known)}")
        return known[name]


def load_registry(*, entry_points: bool = True) -> Registry:
    """Make a plugin manager with the built-ins and, unless told otherwise, everything installed.

    Raises:
        SpvmiaError: a plugin implements a hook that does not exist, or cannot be imported.
    """
    from spvmia_plugin import builtins

    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(builtins, name="spvmia-builtins")
    if entry_points:
        try:
            manager.load_setuptools_entrypoints(GROUP)
        except ImportError as error:
            raise SpvmiaError(
                f"plugins: an entry point of group {GROUP!r} cannot be imported ({error}); reinstall or uninstall it"
            ) from error
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise SpvmiaError(f"plugins: {error}; the hooks are listed in docs/plugins.md") from error
    return Registry(manager)
