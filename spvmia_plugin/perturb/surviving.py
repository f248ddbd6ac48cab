"""Replaced tokens that leave a text: each is tried among the tokens around it, and the whole is made sure of.

Whether tokens are those of their own text takes the text to be cut again. Were all of it cut for every token that is
tried, a record of ten times the length would take a hundred times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

Survives = Callable[[Sequence[int]], bool]
"""Whether tokens are those of their own text, as `Backend.survives`."""

REACH = 24
"""Tokens on either side of a replaced one with which it is tried: a tokenizer looks no further than a few words."""
SHIFTS = 8
"""Places where such a piece may begin, and where it may end: not within a word, or the bytes of a character."""
REPAIRS = 4
"""How often the whole may turn out to be no text before whatever is left is tried as a whole."""


def replaced(
    token_ids: Sequence[int], order: Sequence[int], draws: Sequence[Mapping[int, int]], count: int, survives: Survives
) -> dict[int, int]:
    """The new tokens by position: each position's first draw with which the whole is still a text.

    Where a tokenizer cuts a text by more than a piece shows, the first replacement with which the whole is none is
    looked for and taken back, and all after it are made anew.

    Args:
        token_ids: of the text, which survive.
        order: positions, in the order in which they are to be replaced.
        draws: tokens for each of them, the first to be tried first.
        count: how many are to be replaced; fewer are where the positions don't last.
        survives: says what is a text.
    """
    steps: list[tuple[int, int]] = []  # places in the order, and the tokens that were taken there
    refused: set[tuple[int, int]] = set()  # those that only the whole could refuse
    place = sound = repairs = 0

    def after(number: int) -> list[int]:
        edited = list(token_ids)
        for at, new in steps[:number]:
            edited[order[at]] = new
        return edited

    text = list(token_ids)
    while True:
        while place < len(order) and len(steps) < count:
            position = order[place]
            fits = _test(text, position, REACH if repairs <= REPAIRS else len(text), survives)
            tries = ((place, draw[position]) for draw in draws)
            step = next((each for each in tries if each not in refused and fits(each[1])), None)
            if step is not None:
                steps.append(step)
                text[position] = step[1]
            place += 1
        if survives(text):
            return {order[at]: new for at, new in steps}
        low, high = sound, len(steps)  # a text after so many, and none after so many
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if survives(after(middle)) else (low, middle)
        refused.add(steps[low])
        place, sound, repairs = steps[low][0], low, repairs + 1
        del steps[low:]
        text = after(low)


def _test(text: Sequence[int], position: int, reach: int, survives: Survives) -> Callable[[int], bool]:
    """What says of a token whether it leaves a text at a position, by the first piece around it that is one itself.

    Pieces are tried as long as all of them together are less than half of the whole.
    """
    tried, piece, at = 0, text, position
    for begins, ends, lead in _pieces(len(text), position, reach):
        candidate = [*text[:lead], *text[begins:ends]]
        tried += len(candidate)
        if 2 * tried >= len(text):
            break
        if survives(candidate):
            piece, at = candidate, position - begins + lead
            break
    return lambda new: survives([*piece[:at], new, *piece[at + 1 :]])


def _pieces(length: int, position: int, reach: int) -> Iterator[tuple[int, int, int]]:
    """Where pieces around a position begin and end, those near to it first, and how many of the first tokens lead.

    A tokenizer that begins every text with a blank reads no text as it reads the middle of one: then the first token
    of the text is set before the piece.
    """
    begin, end = position - reach, position + reach + 1
    begins = range(begin, max(begin - SHIFTS, -1), -1) if begin > 0 else (0,)
    ends = range(end, min(end + SHIFTS, length + 1)) if end < length else (length,)
    for distance in range(len(begins) + len(ends) - 1):
        for i in range(max(0, distance - len(ends) + 1), min(distance + 1, len(begins))):
            yield from ((begins[i], ends[distance - i], lead) for lead in ((0, 1) if begins[i] else (0,)))
