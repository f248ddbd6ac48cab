"""Finds plugins and answers what is registered. Built-ins come through the same hooks as anyone's."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

from spvmia_plugin import __version__, hookspecs
from spvmia_plugin.errors import SpvmiaError, did_you_mean, reason_of
from spvmia_plugin.lazy import Loading
from spvmia_plugin.protocols import Perturbation, completed, takes
from spvmia_plugin.util.boundary import behind

if TYPE_CHECKING:
    from spvmia_plugin.attacks.base import Attack
    from spvmia_plugin.config import AuditConfig
    from spvmia_plugin.protocols import Backend, DatasetSource

GROUP = "spvmia"

T = TypeVar("T")

_BUILTINS = "spvmia-builtins"

# A name becomes a part of task names and file names.
_NAME = re.compile(r"[a-z][a-z0-9_]*")

_OPTION = re.compile(r"mia_[a-z][a-z0-9_]*")

# Hooks that answer with things that have a name; the others are called during a run.
_REGISTERING = "spvmia_register_"


@dataclass(frozen=True)
class Listed:
    """One line of `spvmia plugins`: what one plugin does with one hook.

    Attributes:
        hook: name of the hook.
        distribution: "name version" of the distribution that implements it; empty if none does.
        names: what it registers; the function's own name for a hook that is called during a run.
    """

    hook: str
    distribution: str
    names: tuple[str, ...]


class Registry:
    """The attacks, perturbations, data sets and backends of one plugin manager.

    Attributes:
        manager: the pluggy manager, for the hooks that are called during a run.
    """

    def __init__(self, manager: pluggy.PluginManager) -> None:
        self.manager = manager

    @cached_property
    def attacks(self) -> Mapping[str, type[Attack]]:
        """Attack classes by name."""
        return self._by_name("spvmia_register_attacks")

    @cached_property
    def perturbations(self) -> Mapping[str, type[Perturbation]]:
        """Perturbation classes by name."""
        return self._by_name("spvmia_register_perturbations")

    @cached_property
    def datasets(self) -> Mapping[str, DatasetSource]:
        """Data sets by name."""
        return self._by_name("spvmia_register_datasets")

    @cached_property
    def backends(self) -> Mapping[str, type[Backend]]:
        """Backend classes by name, the last registered first."""
        return self._by_name("spvmia_register_backends")

    @cached_property
    def attack_options(self) -> frozenset[str]:
        """All option names that registered attacks declare.

        Raises:
            SpvmiaError: an attack's `options` name no field of it, or no option that a plugin may have.
        """
        for attack in self.attacks.values():
            self._check_options(attack)
        return frozenset(option for attack in self.attacks.values() for option in attack.options.values())

    def attack(self, name: str, config: AuditConfig) -> Attack:
        """Construct an attack with the hyper-parameters the config sets.

        Raises:
            SpvmiaError: no such attack, or a hyper-parameter out of range.
        """
        cls = self.known_attack(name)
        self._check_options(cls)
        return behind(lambda: cls(**config.attack_fields(cls.options)), doing=f"attack {name}")

    def known_attack(self, name: str) -> type[Attack]:
        """Return an attack class by name.

        Raises:
            SpvmiaError: no such attack.
        """
        return self._known("attack", name, self.attacks)

    def perturbation(self, config: AuditConfig) -> Perturbation:
        """Construct the perturbation the config names.

        Raises:
            SpvmiaError: no such perturbation.
        """
        make = self._known("mia_perturbation", config.perturbation, self.perturbations)
        return behind(lambda: completed(make(config), Perturbation), doing=f"mia_perturbation {config.perturbation}")

    def dataset(self, name: str) -> DatasetSource:
        """Return a data set by name.

        Raises:
            SpvmiaError: no such data set.
        """
        return self._known("data set", name, self.datasets)

    def implementers(self, hook: str) -> list[str]:
        """The distributions that implement a hook, in the order they are asked: part of what its results depend on."""
        return [
            self.distribution_of(item.plugin) for item in reversed(getattr(self.manager.hook, hook).get_hookimpls())
        ]

    def distribution_of(self, plugin: object) -> str:
        """The distribution a plugin came from, as "name version"; a plugin registered by hand is named itself."""
        for candidate, dist in self.manager.list_plugin_distinfo():
            if candidate is plugin:
                return f"{dist.project_name} {dist.version}"
        name = self.manager.get_name(plugin)
        return f"spvmia-plugin {__version__}" if name == _BUILTINS else str(name)

    def registered_by(self, what: str, name: str) -> str:
        """The distribution that registers `what` ("attacks", "perturbations", "backends") by a name; "" if none."""
        return self._owners(f"{_REGISTERING}{what}", name)

    def listing(self) -> list[Listed]:
        """What every plugin does with every hook, in the order of the hookspecs and of the calls.

        Duplicate names are listed, not refused: this is where one looks for them.
        """
        return [
            line
            for hook in hook_names()
            for line in behind(partial(self._lines, hook), doing=f"plugins: {hook}") or [Listed(hook, "", ())]
        ]

    def _lines(self, hook: str) -> list[Listed]:
        implementations = reversed(getattr(self.manager.hook, hook).get_hookimpls())
        return [Listed(hook, self.distribution_of(impl.plugin), _registered(hook, impl)) for impl in implementations]

    def _by_name(self, hook: str) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        answers = behind(
            lambda: [list(items) for items in getattr(self.manager.hook, hook)()], doing=f"plugins: {hook}"
        )
        for items in answers:
            for item in items:
                name = item.name
                if not isinstance(name, str) or not _NAME.fullmatch(name):
                    raise SpvmiaError(
                        f"{hook}: expected names of lower-case letters, digits and underscores, got {name!r} from "
                        f"{self._owners(hook, name)}; rename it in that plugin"
                    )
                if name in found:
                    raise SpvmiaError(
                        f"{hook}: expected unique names, got {name!r} more than once from {self._owners(hook, name)}; "
                        "uninstall or rename one ('spvmia plugins' lists them all)"
                    )
                found[name] = item
        return Loading(found)

    def _check_options(self, attack: type[Attack]) -> None:
        from spvmia_plugin.config import PREFIX, AuditConfig

        options: object = attack.options
        wrong = None
        if not isinstance(options, Mapping):
            wrong = "a mapping from fields to options", type(options).__name__
            options = {}
        taken = {PREFIX + field.name for field in fields(AuditConfig) if field.metadata} | {f"{PREFIX}audit"}
        for name, option in options.items():
            if not takes(attack, name):
                wrong = "fields of the attack", f"{name!r}"
            elif not isinstance(option, str) or not _OPTION.fullmatch(option):
                wrong = f"options of lower-case letters, digits and underscores that begin with {PREFIX}", f"{option!r}"
            elif option in taken:
                wrong = "options of its own", f"{option!r}, which every audit has"
        if wrong is not None:
            raise SpvmiaError(
                f"attack {attack.name}: expected {wrong[0]} as options, got {wrong[1]} from "
                f"{self.registered_by('attacks', attack.name)}; correct it in that plugin"
            )

    def _owners(self, hook: str, name: object) -> str:
        owners = [line.distribution for line in self._lines(hook) if str(name) in line.names]
        return " and ".join(owners)

    @staticmethod
    def _known(what: str, name: str, known: Mapping[str, T]) -> T:
        if name not in known:
            names: Iterable[str] = sorted(known)
            raise SpvmiaError(f"{what}: expected one of {', '.join(names)}, got {name!r}{did_you_mean(name, known)}")
        return known[name]


def hook_names() -> list[str]:
    """The hooks, in the order of the hookspecs."""
    return [name for name in vars(hookspecs) if name.startswith("spvmia_")]


def load_registry(*, entry_points: bool = True) -> Registry:
    """Make a plugin manager with the built-ins and, unless told otherwise, everything installed.

    Raises:
        SpvmiaError: a plugin implements a hook that does not exist or with other arguments, cannot be imported, or
            has the entry point's name of another distribution.
    """
    from spvmia_plugin import builtins

    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(builtins, name=_BUILTINS)
    if entry_points:
        _refuse_shared_names()
        _load_entry_points(manager)
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise SpvmiaError(
            f"plugins: {error}{_closest_hook(manager)}; correct it in that plugin, the hooks are listed in "
            "docs/plugins.md"
        ) from error
    return Registry(manager)


def _load_entry_points(manager: pluggy.PluginManager) -> None:
    try:
        manager.load_setuptools_entrypoints(GROUP)
    except pluggy.PluginValidationError as error:
        raise SpvmiaError(f"plugins: {error}; the hooks and their arguments are listed in docs/plugins.md") from error
    except Exception as error:  # whatever somebody else's module raises when it is imported
        raise SpvmiaError(
            f"plugins: an entry point of group {GROUP!r} cannot be loaded ({reason_of(error)}); "
            "reinstall or uninstall it"
        ) from error


def _refuse_shared_names() -> None:
    """Two distributions with one entry-point name: pluggy would silently load only the first."""
    owners: dict[str, set[str]] = {}
    for distribution in importlib.metadata.distributions():
        for entry_point in distribution.entry_points:
            if entry_point.group == GROUP:
                owners.setdefault(entry_point.name, set()).add(str(distribution.metadata["Name"]))
    for name, distributions in sorted(owners.items()):
        if len(distributions) > 1:
            raise SpvmiaError(
                f"plugins: expected one distribution for the entry point {name!r} of group {GROUP!r}, got "
                f"{' and '.join(sorted(distributions))}; uninstall one"
            )


def _closest_hook(manager: pluggy.PluginManager) -> str:
    known = hook_names()
    for name in vars(manager.hook):
        if not name.startswith("_") and name not in known:
            return did_you_mean(name, known)
    return ""


def _registered(hook: str, implementation: Any) -> tuple[str, ...]:
    if not hook.startswith(_REGISTERING) or implementation.wrapper or implementation.hookwrapper:
        return (implementation.function.__name__,)
    function: Callable[[], Iterable[Any]] = implementation.function
    return tuple(str(item.name) for item in function())
