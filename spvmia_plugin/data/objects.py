"""JSON of rows: read so that an object in which a key stands twice is told from any other."""

from __future__ import annotations

import json
from typing import Any

from spvmia_plugin.util.strict_json import parse_whole


class Repeated(dict[str, Any]):
    """An object in which a key stands twice; of its values the last ones count.

    Attributes:
        keys_as_written: all of them, in order.
    """

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        """Keep what JSON says: the keys with their values."""
        super().__init__(pairs)
        self.keys_as_written = [key for key, _ in pairs]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else Repeated(pairs)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=parse_whole)


def decode(text: str) -> Any:
    """Read a row's JSON, NaN and the infinities included.

    Raises:
        ValueError, RecursionError: it is none, or nested too deeply.
    """
    return _DECODER.decode(text)


def repeats_a_key(value: Any) -> bool:
    """Whether a key stands twice in an object that `decode` read, or within: readers differ in which one counts."""
    waiting = [value]
    for each in waiting:  # which grows: no call in a call, however deep it goes
        if isinstance(each, Repeated):
            return True
        if isinstance(each, (dict, list)):
            waiting.extend(each.values() if isinstance(each, dict) else each)
    return False
