"""Classes that are named where they are registered, and imported where they are used."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from spvmia_plugin.errors import SpvmiaError

T = TypeVar("T")


@dataclass(frozen=True)
class Lazy(Generic[T]):
    """A class that a plugin registers by its name, so that listing what there is imports neither it nor torch.

    Attributes:
        name: what the class's own `name` is.
        target: where it is: "module:Class".
    """

    name: str
    target: str

    def load(self) -> type[T]:
        """Import the class.

        Raises:
            SpvmiaError: there is no such module or class, or it has another name.
        """
        module, _, attribute = self.target.partition(":")
        try:
            found: type[T] = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise SpvmiaError(
                f"plugins: expected {self.name!r} at {self.target!r} ('module:Class'), which cannot be imported "
                f"({type(error).__name__}: {error}); reinstall that plugin, or correct what it registers"
            ) from error
        name = getattr(found, "name", None)
        if name != self.name:
            raise SpvmiaError(
                f"plugins: expected the class at {self.target!r} to be named {self.name!r} as it is registered, got "
                f"{name!r}; correct it in that plugin"
            )
        return found


class Loading(Mapping[str, Any]):
    """What is registered, by name. An entry that is a `Lazy` is imported when it is asked for, and not by its name."""

    def __init__(self, entries: Mapping[str, Any]) -> None:
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> Any:
        entry = self._entries[name]
        if isinstance(entry, Lazy):
            entry = self._entries[name] = entry.load()
        return entry

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
