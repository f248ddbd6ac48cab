"""The trainer's own rows, held against the declared ones: who is among them, and which tokens carry loss.

Declared rows are rendered in the ways that trainers render them, and looked for. Order and packing make no difference;
a way that is found tells how the audit has to render.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import ne
from typing import Any, get_args

from spvmia_plugin.data.manifest import MATCHED
from spvmia_plugin.data.rendering import Renderer
from spvmia_plugin.data.weights import spread
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import Conversation, Document, LossOn
from spvmia_plugin.trainers.rows import Row, Rows

LOOKED_FOR = 64
"""Records of a class that are looked for; all, up to `ALL`, where the trainer has fewer rows than there are members."""
ALL = 2000
_NAMED = 5
_UNCUT = 2**40


@dataclass(frozen=True)
class Sighting:
    """What came of looking.

    Attributes:
        data: `matched`, `differs: ...` or `not checked: ...`.
        way: how the trainer renders (`Candidate.way`); None where no record was found.
        loss_on: which tokens carry loss, as the rows say: that mask or the nearest; None where they don't say.
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


AS_MESSAGES = "as messages"
"""The way of rows with prompt and completion that are rendered as rows of messages are."""


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
    if document.conversation.prompt is None or document.conversation.plain:
        return found
    # With assistant_only_loss TRL takes its training template for these rows too.
    messages = replace(document.conversation.with_chosen(), prompt=None)
    try:
        rendered = Renderer(tokenizer, "completion", _UNCUT, template).render(messages, name=document.id)
    except SpvmiaError:
        return found
    if all(rendered.token_ids != each.ids for each in found):
        found.append(Candidate(AS_MESSAGES, rendered.token_ids, rendered.answers))
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
    loss_on, notes = _nearest_mask(pairs[:LOOKED_FOR], lookout)
    if not packed and rows.complete and rows.number > len(members) and found:
        notes.append(
            f"the trainer has {rows.number - len(members)} rows beside the declared members: they are neither members "
            "nor non-members of the audit"
        )
    if way == AS_MESSAGES:
        notes.append(
            "the trainer renders prompts with completions as rows of messages, by its training template "
            "(assistant_only_loss), which an audit of such rows does not: declare them as rows of messages, the prompt "
            "and the completion in one list, and the audit reads the same tokens"
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
