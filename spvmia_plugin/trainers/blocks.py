"""Rows that hold parts of records, one after the other, and that nobody can take apart: where a record may be.

A block ends wherever it is full, so a record is looked for by stretches of its tokens. What other declared records
hold too (a system prompt, a licence) says nothing of one of them, and is not looked for.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice

WINDOW = 12
"""Tokens of a stretch."""
WINDOWS = 8
"""Of a record so many stretches are looked for: half from its beginning, half from its middle. The end of the last
record is often dropped, since it fills no block."""
LEAST_WINDOWS = 3
"""Of a record with fewer of its own, a cut may leave nothing that is known by it."""
_TRIED = 100
"""Stretches, from the beginning and from the middle, among which those are that no other record has."""
_MARK = -1
_SIZE = array("i").itemsize


def as_bytes(ids: Sequence[int]) -> bytes:
    """Token ids as they are searched."""
    return array("i", ids).tobytes()


class Haystack:
    """Many sequences of tokens, a mark between them.

    Args:
        sequences: the tokens of each, which are never looked for across two of them.
    """

    def __init__(self, sequences: Iterable[Sequence[int]]) -> None:
        self._tokens = b"".join(as_bytes([*ids, _MARK]) for ids in sequences)

    def times(self, window: Sequence[int], most: int) -> int:
        """How often these tokens stand there, counted up to `most`."""
        needle, found, at = as_bytes(window), 0, -1
        while found < most and (at := self._tokens.find(needle, at + 1)) >= 0:
            found += at % _SIZE == 0
        return found


class Blocks:
    """Blocks of a trainer.

    Args:
        rows: the tokens of each.
        length: of a whole one.
    """

    def __init__(self, rows: Iterable[Sequence[int]], length: int) -> None:
        self._rows, self._length = Haystack(rows), length

    def own(self, ids: Sequence[int], declared: Haystack) -> list[int]:
        """Where the stretches of a record begin that it is looked for by.

        Args:
            ids: its tokens.
            declared: all declared records, this one among them, in the same rendering.
        """
        starts = range(0, len(ids) - WINDOW + 1, WINDOW)

        def own(places: Sequence[int], most: int) -> list[int]:
            each = (start for start in places[:_TRIED] if declared.times(ids[start : start + WINDOW], 2) < 2)
            return list(islice(each, most))

        if len(starts) <= WINDOWS:
            return own(starts, WINDOWS)
        middle = len(starts) // 2
        return own(starts[:middle], WINDOWS // 2) + own(starts[middle:], WINDOWS // 2)

    def tells(self, starts: Sequence[int]) -> bool:
        """Whether a record with such stretches would be found if it is there, and no other for it."""
        left = len(starts) - self._cut(starts)
        return len(starts) >= LEAST_WINDOWS and left >= 2 and 2 * left >= len(starts)

    def holds(self, ids: Sequence[int], starts: Sequence[int]) -> bool:
        """Whether all these stretches of a record are there, but for those that the ends of blocks may have cut."""
        lost, most = 0, self._cut(starts)
        for start in starts:
            lost += not self._rows.times(ids[start : start + WINDOW], 1)
            if lost > most:
                return False
        return True

    def _cut(self, starts: Sequence[int]) -> int:
        """The most stretches that the ends of blocks cut, wherever the record begins in its block."""
        ends = Counter(end for start in starts for end in {(start + i) % self._length for i in range(1, WINDOW)})
        return max(ends.values(), default=0)
