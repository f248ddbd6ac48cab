"""The trainer's own rows, held against the declared ones: token ids, which of them carry loss, and who is among them.

A callback sees what the trainer made of its data: sequences of tokens, shuffled, cut, perhaps packed. Declared rows are
rendered in the ways that trainers render them, and looked for. Order and packing make no difference; a way that is
found tells how the audit has to render.
"""

from __future__ import annotations

import hashlib
import random
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from spvmia_plugin.data.manifest import MATCHED
from spvmia_plugin.data.rendering import Renderer
from spvmia_plugin.data.weights import spread
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import Conversation, Document, LossOn

LOOKED_FOR = 64
"""Records of a class that are looked for; all, up to `ALL`, where the trainer has fewer rows than there are members."""
ALL = 2000
MOST_TOKENS = 20_000_000
"""So many tokens of blocks are kept at most."""
MOST_ITEMS = 20_000
"""So many items of a data set that is no table are asked for at most."""
WINDOW, WINDOWS = 12, 8
"""Of a record that packing may have cut, so many stretches of so many tokens are looked for."""
LEAST_WINDOWS = 3
"""Of a record with fewer, the cut may have taken all that is its own."""
_NAMED = 5
_BATCH = 1000
_UNCUT = 2**40
_SIZE = array("i").itemsize


@dataclass(frozen=True)
class Row:
    """Where a sequence stands among the trainer's.

    Attributes:
        item: number of the row in the trainer's data set.
        start: its first token there.
        length: tokens.
    """

    item: int
    start: int
    length: int


@dataclass
class Rows:
    """What the trainer has.

    Attributes:
        dataset: its data set.
        number: rows of that.
        complete: whether all were read.
        longest: tokens of the longest sequence.
        places: of every sequence, by a digest of its tokens.
        blocks: rows that hold parts of records, which nobody can take apart: the tokens of all, a mark between them.
    """

    dataset: Any = field(repr=False)
    number: int
    complete: bool = True
    longest: int = 0
    places: dict[bytes, Row] = field(default_factory=dict)
    blocks: bytes = b""

    def place(self, ids: Sequence[int]) -> Row | None:
        """The sequence with these tokens; where rows are blocks, these tokens but for where a block ended."""
        row = self.places.get(_digest(ids))
        if row is not None or not self.blocks:
            return row
        windows = [ids[start : start + WINDOW] for start in range(0, len(ids) - WINDOW + 1, WINDOW)]
        lost = 1 + len(ids) // max(1, self.longest)
        if self.tells_of(ids) and sum(map(self._holds, spread(windows, WINDOWS))) >= min(len(windows), WINDOWS) - lost:
            return Row(-1, -1, len(ids))
        return None

    def tells_of(self, ids: Sequence[int]) -> bool:
        """Whether a sequence can be found at all: where rows are blocks, it must be longer than what a cut hides."""
        return not self.blocks or len(ids) // WINDOW >= LEAST_WINDOWS + len(ids) // max(1, self.longest)

    def _holds(self, window: Sequence[int]) -> bool:
        needle = _bytes(window)
        at = self.blocks.find(needle)
        while at >= 0 and at % _SIZE:
            at = self.blocks.find(needle, at + 1)
        return at >= 0

    def counted(self, row: Row) -> tuple[bool, ...] | None:
        """Which tokens of a sequence carry loss; None where its row does not say."""
        if row.start < 0:
            return None
        with as_before():
            sequences = _sequences(self.dataset[row.item]) or []
        return next((each.counted for each in sequences if each.start == row.start), None)


@dataclass(frozen=True)
class Sighting:
    """What came of looking.

    Attributes:
        data: `matched`, `differs: ...` or `not checked: ...`.
        way: how the trainer renders (`Candidate.way`); None where no record was found.
        loss_on: which tokens carry loss, as the rows say; None where they don't say, or it is another mask.
        notes: what else is to be said.
    """

    data: str
    way: str | None = None
    loss_on: LossOn | None = None
    notes: tuple[str, ...] = ()

    @property
    def differs(self) -> bool:
        """Whether the trainer's data are not the declared ones."""
        return self.data.startswith("differs")


def read_rows(dataset: Any, *, blocks: bool | None) -> Rows | str:
    """The sequences of a trainer's data set, or why they cannot be read.

    Args:
        dataset: the trainer's.
        blocks: whether its rows are blocks: several records, or parts of them, one after the other. None where nobody
            says: they are if all are equally long.
    """
    if not hasattr(dataset, "__len__"):
        return "the trainer's data are a stream, which passes unseen"
    names = list(getattr(dataset, "column_names", None) or ())
    rows = Rows(dataset, len(dataset))
    room, found = MOST_TOKENS, []
    for item, values in _table(dataset, names) if names else _items(dataset, rows):
        sequences = _sequences(values)
        if sequences is None:
            return "the trainer's rows hold no tokens: they are made in its collator"
        for each in sequences:
            rows.places.setdefault(_digest(each.ids), Row(item, each.start, len(each.ids)))
            rows.longest = max(rows.longest, len(each.ids))
        if len(sequences) == 1 and blocks is not False and room > 0:
            found.append(_bytes([*sequences[0].ids, -1]))
            room -= len(sequences[0].ids)
    rows.complete = rows.complete and room > 0
    alike = len({len(block) for block in found[:-1]}) == 1
    rows.blocks = b"".join(found) if blocks or alike else b""
    return rows


_NEEDED = (
    *("input_ids", "attention_mask", "labels", "completion_mask", "assistant_masks", "seq_lengths", "position_ids"),
    *("prompt_ids", "chosen_ids", "prompt_input_ids", "chosen_input_ids"),
)


def _table(dataset: Any, names: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    wanted = [name for name in _NEEDED if name in names]
    if not wanted:
        yield 0, {}
        return
    number = 0
    for batch in dataset.with_format(None).select_columns(wanted).iter(batch_size=_BATCH):
        for values in zip(*(batch[name] for name in wanted), strict=True):
            yield number, dict(zip(wanted, values, strict=True))
            number += 1


def _items(dataset: Any, rows: Rows) -> Iterator[tuple[int, Mapping[str, Any]]]:
    chosen = spread(range(len(dataset)), MOST_ITEMS)
    rows.complete = len(chosen) == len(dataset)
    with as_before():
        for item in chosen:
            values = dataset[item]
            yield item, values if isinstance(values, Mapping) else {}


@dataclass(frozen=True)
class _Sequence:
    """Tokens of a row that belong together, from where they stand in it, and which of them carry loss."""

    ids: list[int]
    counted: tuple[bool, ...] | None
    start: int = 0


def _sequences(values: Mapping[str, Any]) -> list[_Sequence] | None:
    """What a row holds: one sequence, or several that were packed; None where it holds no tokens."""
    for prompt, chosen in (("prompt_ids", "chosen_ids"), ("prompt_input_ids", "chosen_input_ids")):
        if prompt in values and chosen in values:
            before, after = _ints(values[prompt]), _ints(values[chosen])
            return [_Sequence([*before, *after], (*[False] * len(before), *[True] * len(after)))]
    if "input_ids" not in values:
        return None
    ids = _ints(values["input_ids"])
    counted = _counted(values, len(ids))
    mask = values.get("attention_mask")
    if mask is not None and len(ids) == len(bits := _ints(mask)):  # padding
        kept = [i for i, bit in enumerate(bits) if bit]
        ids, counted = [ids[i] for i in kept], None if counted is None else tuple(counted[i] for i in kept)
    found = []
    start = 0
    for length in _lengths(values, len(ids)) or [len(ids)]:
        cut = slice(start, start + length)
        found.append(_Sequence(ids[cut], None if counted is None else counted[cut], start))
        start += length
    return found


def _lengths(values: Mapping[str, Any], number: int) -> list[int] | None:
    if values.get("seq_lengths") is not None:
        return _ints(values["seq_lengths"])
    if values.get("position_ids") is not None:
        positions = _ints(values["position_ids"])
        starts = [i for i, position in enumerate(positions) if position == 0]
        if len(positions) == number and len(starts) > 1:
            return [end - start for start, end in zip(starts, [*starts[1:], number], strict=True)]
    return None


def _counted(values: Mapping[str, Any], number: int) -> tuple[bool, ...] | None:
    if values.get("labels") is not None:
        return tuple(label != -100 for label in _ints(values["labels"]))
    masks = [_ints(values[name]) for name in ("completion_mask", "assistant_masks") if values.get(name) is not None]
    if not masks or any(len(mask) != number for mask in masks):
        return None
    return tuple(all(bits) for bits in zip(*masks, strict=True))


def _ints(values: Any) -> list[int]:
    values = values.tolist() if hasattr(values, "tolist") else values
    return [int(each) for each in values]


def _bytes(ids: Sequence[int]) -> bytes:
    return array("i", ids).tobytes()


def _digest(ids: Sequence[int]) -> bytes:
    return hashlib.blake2b(_bytes(ids), digest_size=16).digest()


@contextmanager
def as_before() -> Iterator[None]:
    """Leave the random state of Python, NumPy and torch as it was: the training must come out the same."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    states = (
        random.getstate(),
        None if numpy is None else numpy.random.get_state(),
        None if torch is None else torch.random.get_rng_state(),
    )
    try:
        yield
    finally:
        random.setstate(states[0])
        if numpy is not None:
            numpy.random.set_state(states[1])
        if torch is not None:
            torch.random.set_rng_state(states[2])


@dataclass(frozen=True)
class Candidate:
    """A record in one of the ways that trainers make tokens of it.

    Attributes:
        way: which.
        ids: all its tokens, before anything is cut.
        answers: which the model is to write; None where the template does not tell, and of texts.
    """

    way: str
    ids: tuple[int, ...]
    answers: tuple[bool, ...] | None


def candidates(document: Document, tokenizer: Any, template: str | None, *, ended: bool) -> list[Candidate]:
    """All ways, the likely one first. A template that refuses the conversation, or does not tell turns apart, gives
    fewer.

    Args:
        document: the record.
        tokenizer: of the training.
        template: text of its chat template.
        ended: whether the trainer is known to put an end token after texts.
    """
    found: list[Candidate] = []
    if document.conversation is None:
        natural = tokenizer(document.text, add_special_tokens=True, verbose=False)["input_ids"]
        found.append(Candidate("natural", tuple(map(int, natural)), None))
        if tokenizer.eos_token is not None:
            text = Conversation.of_text(document.text)
            ids = Renderer(tokenizer, "all", _UNCUT).render(text, name=document.id).token_ids
            found.insert(0 if ended else 1, Candidate("end", ids, None))
        return found
    for loss_on in ("all", "completion"):
        try:
            rendered = Renderer(tokenizer, loss_on, _UNCUT, template).render(document.conversation, name=document.id)
        except SpvmiaError:
            continue
        found.append(Candidate(f"chat {loss_on}", rendered.token_ids, rendered.answers))
    return found


class Lookout:
    """Looks for declared records among the trainer's rows.

    Args:
        rows: the trainer's.
        make: the ways of a record.
        max_length: where the trainer cuts, as far as its arguments say.
        collate: the trainer's collator, asked for the loss mask where rows don't say it; gets numbers of rows.

    Attributes:
        cut: tokens of the longest record that was found cut; 0 for none.
    """

    def __init__(
        self,
        rows: Rows,
        make: Callable[[Document], list[Candidate]],
        max_length: int | None,
        collate: Callable[[int], tuple[bool, ...] | None],
    ) -> None:
        self._rows, self._max_length, self._collate = rows, max_length, collate
        self._ways = make
        self._made: dict[str, list[Candidate]] = {}
        self.cut = 0

    def _make(self, document: Document) -> list[Candidate]:
        if document.id not in self._made:
            self._made[document.id] = self._ways(document)
        return self._made[document.id]

    def find(self, document: Document) -> list[tuple[Candidate, Row]]:
        """The row that a record became, by every way that leads to one; none if it is not there, whichever way."""
        hits = []
        for candidate in self._make(document):
            cuts = {self._max_length or self._rows.longest, self._rows.longest, len(candidate.ids)}
            for length in sorted((cut for cut in cuts if cut <= len(candidate.ids)), reverse=True):
                row = self._rows.place(candidate.ids[:length])
                if row is not None:
                    self.cut = max(self.cut, length if length < len(candidate.ids) else 0)
                    hits.append((candidate, row))
                    break
        return hits

    def can_tell(self, document: Document) -> bool:
        """Whether a record that is there would be found."""
        return any(self._rows.tells_of(candidate.ids) for candidate in self._make(document))

    def mask(self, candidate: Candidate, row: Row) -> LossOn | str | None:
        """Which tokens of a row carry loss: `all`, `completion`, `other`; None where nobody says."""
        counted = self._rows.counted(row)
        if counted is None and row.start == 0:
            counted = self._collate(row.item)
        if counted is None or len(counted) != row.length:
            return None
        if all(counted[1:]):
            return "all"
        answers = None if candidate.answers is None else candidate.answers[: len(counted)]
        return "completion" if answers is not None and counted[1:] == answers[1:] else "other"

    def leaves_something(self, document: Document, way: str | None) -> bool:
        """Whether any token that the model is to write is left of a record once it is cut."""
        made = [each for each in self._make(document) if each.way == way and each.answers is not None]
        return not made or any((made[0].answers or ())[1 : self._max_length])


def look(
    members: Sequence[Document], nonmembers: Sequence[Document], rows: Rows, lookout: Lookout, *, packed: bool
) -> Sighting:
    """Hold declared records against the trainer's rows.

    Args:
        members, nonmembers: the declared records.
        rows: the trainer's.
        lookout: looks for one.
        packed: whether rows hold several records.
    """
    fewer = not packed and rows.complete and rows.number < len(members)
    wanted = [each for each in spread(members, ALL if fewer else LOOKED_FOR) if lookout.can_tell(each)]
    found = {document.id: hits for document in wanted if (hits := lookout.find(document))}
    missing = [document for document in wanted if document.id not in found]
    ways = Counter(candidate.way for hits in found.values() for candidate, _ in hits)
    way = max(ways, key=lambda each: ways[each]) if ways else None
    pairs = [(candidate, row) for hits in found.values() for candidate, row in hits if candidate.way == way]
    masks = Counter(lookout.mask(candidate, row) for candidate, row in pairs[:LOOKED_FOR])
    known: tuple[LossOn, ...] = ("all", "completion")
    loss_on = next((each for each in known if masks and set(masks) == {each}), None)
    notes = []
    if masks and loss_on is None and (masks["other"] or len(masks) > 1) and set(masks) != {None}:
        notes.append(
            "the trainer's loss mask is neither all tokens nor the assistant's turns: name the nearer one with loss_on="
        )
    if not packed and rows.complete and rows.number > len(members) and found:
        notes.append(
            f"the trainer has {rows.number - len(members)} rows beside the declared members: they are neither members "
            "nor non-members of the audit"
        )
    sighting = Sighting(MATCHED, way, loss_on, tuple(notes))
    # Cut early, rows of both classes may be one sequence: a system prompt.
    taken = {row for _, row in pairs if row.item >= 0}
    trained = [
        document
        for document in spread(nonmembers, LOOKED_FOR)
        if any(row not in taken for _, row in lookout.find(document))
    ]
    if trained:
        return replace(sighting, data=f"differs: {_named('non-members', trained)} are among the trainer's rows")
    # A row without a token that carries loss is dropped by trainers.
    missing = [each for each in missing if loss_on != "completion" or lookout.leaves_something(each, way)]
    if not missing:
        return sighting
    if not found:
        problem = (
            f"none of {len(wanted)} members looked for is among the trainer's {rows.number} rows: it is trained on "
            "other data, or renders them in another way (a formatting function, another template)"
        )
    else:
        problem = f"{_named('members', missing)} of {len(wanted)} looked for are not among the trainer's rows"
    if not rows.complete:
        return replace(sighting, data=f"not checked: of the trainer's data not all was read, and {problem}")
    return replace(sighting, data=f"differs: {problem}")


def _named(what: str, documents: Sequence[Document]) -> str:
    """Records by their ids: never their text."""
    ids = ", ".join(document.id for document in documents[:_NAMED])
    more = len(documents) - _NAMED
    return f"{what} {ids}{f' and {more} more' if more > 0 else ''}"
