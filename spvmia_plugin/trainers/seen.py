"""The trainer's own rows, held against the declared ones: who is among them, and which tokens carry loss.

Declared rows are rendered in the ways that trainers render them, and looked for. Order and packing make no difference;
a way that is found tells how the audit has to render.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import ne
from typing import get_args

from spvmia_plugin.data.manifest import MATCHED
from spvmia_plugin.data.weights import spread
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import Document, LossOn
from spvmia_plugin.trainers.blocks import WINDOW, Haystack
from spvmia_plugin.trainers.rows import Row, Rows
from spvmia_plugin.trainers.ways import AS_MESSAGES, Candidate

LOOKED_FOR = 64
"""Records of a class that are looked for; all, up to `ALL`, where the trainer has fewer rows than there are members."""
ALL = 2000
COMPARED = 256
"""Records of a class, at least, that what is looked for in blocks must be in no other of."""
_NAMED = 5


@dataclass(frozen=True)
class Sighting:
    """What came of looking.

    Attributes:
        data: `matched`, `differs: ...` or `not checked: ...`.
        way: how the trainer renders (`Candidate.way`); None where no record was found.
        loss_on: which tokens carry loss, as the rows say: that mask or the nearest; None where they don't say.
        notes: what else is to be said.
        unreadable: whether it is not checked because the trainer's data cannot be read whole before they are trained
            on: a stream, or too many rows.
    """

    data: str
    way: str | None = None
    loss_on: LossOn | None = None
    notes: tuple[str, ...] = ()
    unreadable: bool = False

    @property
    def differs(self) -> bool:
        """Whether the trainer's data are not the declared ones."""
        return self.data.startswith("differs")

    @property
    def is_unchecked(self) -> bool:
        """Whether nobody knows."""
        return self.data.startswith("not checked")


class Lookout:
    """Looks for declared records among the trainer's rows.

    Args:
        rows: the trainer's.
        make: the ways of a record.
        max_length: where the trainer cuts, as far as its arguments say.
        collate: the trainer's collator, asked for the loss mask where rows don't say it; gets numbers of rows.

    Attributes:
        cut: tokens of the longest record that was found cut; 0 for none.
        by_ends: whether one was found of which the end was left.
        refused: why a record cannot be rendered in any way; empty where all can.
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
        self._declared: dict[str, Haystack] = {}
        self._starts: dict[tuple[int, ...], list[int]] = {}
        self.cut, self.by_ends, self.refused = 0, False, ""

    def compare(self, documents: Sequence[Document]) -> None:
        """Take records for those that what is looked for must not be in, too, where rows are blocks."""
        if self._rows.blocks is None:
            return
        of_way: dict[str, list[tuple[int, ...]]] = {}
        for document in documents:
            for candidate in self._make(document):
                of_way.setdefault(candidate.way, []).append(candidate.ids)
        self._declared = {way: Haystack(sequences) for way, sequences in of_way.items()}

    def _make(self, document: Document) -> list[Candidate]:
        if document.id not in self._made:
            try:
                self._made[document.id] = self._ways(document)
            except SpvmiaError as error:
                self._made[document.id], self.refused = [], self.refused or str(error)
        return self._made[document.id]

    def find(self, document: Document, *, whole: bool = True) -> list[tuple[Candidate, Row]]:
        """The row that a record became, by every way that leads to one; none if it is not there, whichever way.

        Args:
            document: the record.
            whole: of a preference, whether the row must have its rejected answer, too.
        """
        hits = (self._placed(candidate, whole=whole) for candidate in self._make(document))
        return [hit for hit in hits if hit is not None]

    def _placed(self, candidate: Candidate, *, whole: bool) -> tuple[Candidate, Row] | None:
        number = len(candidate.ids)
        cuts = {self._max_length or self._rows.longest, self._rows.longest, number}
        blocks, starts = self._rows.blocks, self._own(candidate)
        for length in sorted((cut for cut in cuts if cut <= number), reverse=True):
            if blocks is not None and length < number and not any(start + WINDOW <= length for start in starts):
                continue  # a block that begins as all records do
            row = self._rows.place(candidate.ids[:length])
            if row is not None and not (whole and self._is_another_pair(candidate, length, cuts)):
                self.cut = max(self.cut, length if length < number else 0)
                return candidate, row
        for length in sorted((cut for cut in cuts if 1 < cut < number), reverse=True):
            for ending in candidate.ending(length):
                row = self._rows.place(ending.ids)
                if row is not None and candidate.rejected is None:
                    self.cut, self.by_ends = max(self.cut, length), True
                    return ending, row
        if blocks is not None and blocks.tells(starts) and blocks.holds(candidate.ids, starts):
            return candidate, Row(-1, -1, number)
        return None

    def _is_another_pair(self, candidate: Candidate, length: int, cuts: Collection[int]) -> bool:
        """Whether rows have this chosen answer beside other rejected ones alone."""
        rejected = candidate.rejected
        if rejected is None or not self._rows.pairs:
            return False
        chosen = candidate.ids[:length]
        return not any(self._rows.holds_pair(chosen, rejected[:cut]) for cut in (*cuts, len(rejected)))

    def _own(self, candidate: Candidate) -> list[int]:
        declared = self._declared.get(candidate.way)
        if self._rows.blocks is None or declared is None:
            return []
        if candidate.ids not in self._starts:
            self._starts[candidate.ids] = self._rows.blocks.own(candidate.ids, declared)
        return self._starts[candidate.ids]

    def can_tell(self, document: Document) -> bool:
        """Whether a record that is there would be found, and none for it that is not."""
        blocks = self._rows.blocks
        made = self._make(document)
        return bool(made) if blocks is None else any(blocks.tells(self._own(each)) for each in made)

    def is_on_another_side(self, document: Document) -> bool:
        """Whether an answer of a record, whole, is trained on as what it is not: chosen as rejected, or the other way.

        A rejected answer that is trained on as one counts as well: half of that record is no news.
        """
        made = self._make(document)
        if any(self._rows.holds_rejected(each.ids) for each in made):
            return True
        others = [each.rejected for each in made if each.rejected is not None]
        return any(self._rows.holds_rejected(ids) or self._rows.place(ids) is not None for ids in others)

    def differing(self, candidate: Candidate, row: Row) -> Mapping[LossOn, int] | None:
        """How many tokens of a row each mask that an audit knows takes otherwise than the trainer does; None where
        nobody says which carry loss."""
        counted = self._rows.counted(row)
        if counted is None and row.start == 0:
            counted = self._collate(row.item)
        if counted is None or len(counted) != row.length:
            return None
        masks: dict[LossOn, Sequence[bool]] = {"all": [True] * row.length}
        if candidate.answers is not None:
            masks["completion"] = candidate.answers[: row.length]
        # The first token is predicted from nothing: no mask makes it count.
        return {name: sum(map(ne, counted[1:], mask[1:])) for name, mask in masks.items()}

    def leaves_something(self, document: Document, way: str | None) -> bool:
        """Whether any token that the model is to write is left of a record once it is cut."""
        made = [each for each in self._make(document) if each.way == way and each.answers is not None]
        kept = slice(-(self._max_length or 0), None) if self.by_ends else slice(1, self._max_length)
        return not made or any((made[0].answers or ())[kept])


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
    packed = packed or rows.blocks is not None
    fewer = not packed and rows.complete and rows.number < len(members)
    asked = spread(members, ALL if fewer else LOOKED_FOR)
    held = spread(nonmembers, LOOKED_FOR)
    lookout.compare(_once([*asked, *held, *spread(members, COMPARED), *spread(nonmembers, COMPARED)]))
    wanted = [each for each in asked if lookout.can_tell(each) or lookout.find(each)]
    found = {document.id: hits for document in wanted if (hits := lookout.find(document))}
    missing = [document for document in wanted if document.id not in found]
    ways = Counter(candidate.way for hits in found.values() for candidate, _ in hits)
    way = max(ways, key=lambda each: ways[each]) if ways else None
    pairs = [(candidate, row) for hits in found.values() for candidate, row in hits if candidate.way == way]
    loss_on, notes = _nearest_mask(pairs[:LOOKED_FOR], lookout)
    beside = len(rows.places) - len(members)  # rows that are alike are one
    if not packed and rows.complete and beside > 0 and found:
        notes.append(
            f"the trainer has {beside} rows beside the declared members: they are neither members nor non-members of "
            "the audit"
        )
    if lookout.by_ends:
        notes.append("long rows were trained on by their ends (cut from the left), and are scored by their starts")
    if way == AS_MESSAGES:
        notes.append(
            "the trainer renders prompts with completions as rows of messages, by its training template "
            "(assistant_only_loss), which an audit of such rows does not: declare them as rows of messages, the prompt "
            "and the completion in one list, and the audit reads the same tokens"
        )
    if few := _too_few(wanted, asked, lookout):
        sighting = Sighting(f"not checked: {few}", way, loss_on, tuple(notes))
    else:
        if len(wanted) < len(asked):
            notes.append(f"{len(wanted)} of {len(asked)} members could be looked for in the trainer's rows")
        sighting = Sighting(MATCHED, way, loss_on, tuple(notes))
    # Cut early, rows of both classes may be one sequence: a system prompt.
    taken = {row for _, row in pairs if row.item >= 0}
    trained = [
        document
        for document in held
        if any(row not in taken for _, row in lookout.find(document, whole=False))
        or lookout.is_on_another_side(document)
    ]
    if trained:
        return replace(sighting, data=f"differs: {_named('non-members', trained)} are among the trainer's rows")
    # A row without a token that carries loss is dropped by trainers.
    missing = [each for each in missing if loss_on != "completion" or lookout.leaves_something(each, way)]
    if not missing:
        return sighting
    if any(lookout.find(each, whole=False) for each in missing):
        problem = f"{_named('members', missing)} of {len(wanted)} looked for are trained on with other rejected answers"
    elif not found:
        problem = (
            f"none of {len(wanted)} members looked for is among the trainer's {rows.number} rows: it is trained on "
            "other data, or renders them in another way (a formatting function, another template)"
        )
    else:
        problem = f"{_named('members', missing)} of {len(wanted)} looked for are not among the trainer's rows"
    if not rows.complete:
        return replace(
            sighting, data=f"not checked: of the trainer's data not all was read, and {problem}", unreadable=True
        )
    return replace(sighting, data=f"differs: {problem}")


def _once(documents: Sequence[Document]) -> list[Document]:
    return list({document.id: document for document in documents}.values())


def _too_few(wanted: Sequence[Document], asked: Sequence[Document], lookout: Lookout) -> str | None:
    """Why nothing can be said of the trainer's data, where most of the members cannot be looked for."""
    if 2 * len(wanted) >= len(asked):
        return None
    reason = lookout.refused or (
        "its rows are blocks, in which records that are short, or much like each other, are not recognised"
    )
    return f"{len(wanted) or 'none'} of {len(asked)} members could be looked for: {reason}"


def _nearest_mask(pairs: Sequence[tuple[Candidate, Row]], lookout: Lookout) -> tuple[LossOn | None, list[str]]:
    """The mask that is the trainer's, else the nearest one and how far it is from that.

    None where nobody says, and where it is not all tokens and there is nothing to compare it with.
    """
    told = [(row.length, found) for candidate, row in pairs if (found := lookout.differing(candidate, row)) is not None]
    if not told:
        return None, []
    known = set.intersection(*(set(found) for _, found in told))
    sums: dict[LossOn, int] = {
        each: sum(found[each] for _, found in told) for each in get_args(LossOn) if each in known
    }
    nearest = min(sums, key=lambda each: sums[each])
    if not sums[nearest]:
        return nearest, []
    if "completion" not in known:
        return None, [
            "the trainer's loss mask is not all tokens, and which are the answers is not known: name the nearer one "
            "with loss_on="
        ]
    tokens = sum(length - 1 for length, _ in told)
    return nearest, [
        f"the trainer's loss mask is neither all tokens nor the answers: {nearest} is the nearest, and takes "
        f"{sums[nearest]} of {tokens} tokens otherwise (loss_on= names another)"
    ]


def _named(what: str, documents: Sequence[Document]) -> str:
    """Records by their ids: never their text."""
    ids = ", ".join(document.id for document in documents[:_NAMED])
    more = len(documents) - _NAMED
    return f"{what} {ids}{f' and {more} more' if more > 0 else ''}"
