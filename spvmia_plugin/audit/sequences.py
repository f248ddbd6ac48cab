"""From records to sequences, and from their signals to what attacks see of a record."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from spvmia_plugin.audit.roles import Player
from spvmia_plugin.protocols import (
    Backend,
    EmbeddingNoise,
    Neighbour,
    Neighbours,
    ScoreInput,
    TextEdits,
)
from spvmia_plugin.records import AuditData, Record
from spvmia_plugin.signals import RecordSignals, Role, TokenSignals, View

MAX_POPULATION = 1000
"""At most this many held-out documents serve as population."""

SHOT_SEPARATOR = "\n\n"


class Inputs:
    """Builds the sequences of an audit. A record's text is tokenised once.

    Args:
        backend: whose tokenizer and context length hold.
        data: the full data of the audit, whichever share of the records this process scores: the population and
            the ReCaLL prefix depend on it alone.
        shots: how many prompt documents the ReCaLL prefix should hold, 0 if no attack asks for one.
    """

    def __init__(self, backend: Backend, data: AuditData, shots: int = 0) -> None:
        self._backend = backend
        self._data = data
        self._tokens: dict[str, tuple[int, ...]] = {}  # of any text, until `forget`
        self._of_records: dict[str, array[int]] = {}  # by id: an eighth of what a tuple of numbers takes
        self.prefix, self.shots = self._recall_prefix(shots) if shots else ((), 0)

    def encode(self, text: str) -> tuple[int, ...]:
        """Tokens of a text alone, remembered."""
        if text not in self._tokens:
            self._tokens[text] = tuple(self._backend.encode(text))
        return self._tokens[text]

    def tokens_of(self, record: Record) -> tuple[int, ...]:
        """Tokens of a record's text, remembered for the whole audit."""
        if record.text not in self._tokens:
            if record.id not in self._of_records:
                self._of_records[record.id] = array("i", self._backend.encode(record.text))
            self._tokens[record.text] = tuple(self._of_records[record.id])
        return self._tokens[record.text]

    def forget(self) -> None:
        """Let go of the tokens of all texts but the records', which are kept packed."""
        self._tokens.clear()

    def framed(self, text: str) -> ScoreInput:
        """A text as the model reads it: in the context and with the special tokens that `mia_prefix` says."""
        return self._in_frame(text, self.encode(text))

    def of(self, record: Record, view: View) -> ScoreInput | str:
        """The sequence of a record's view TEXT, LOWERCASE or PREFIXED; a string is the reason why there is none."""
        if view is View.LOWERCASE:
            return self.framed(record.text.lower())
        text = self._in_frame(record.text, self.tokens_of(record))
        if view is View.TEXT:
            return text
        if not self.prefix:
            return "no held-out document fits the context as a ReCaLL prefix"
        frame = self._backend.frame(record.text)
        context = (*frame.context, *frame.before, *self.prefix)
        token_ids = text.token_ids[len(frame.before) :]
        if len(context) + len(token_ids) > self._backend.max_length:
            return "record and ReCaLL prefix exceed the model's context"
        return ScoreInput(token_ids, context)

    def neighbour(self, record: Record, variant: Neighbour) -> ScoreInput:
        """The sequence of one paraphrase."""
        if isinstance(variant, TextEdits):
            return self.framed(variant.apply(record.text))
        if isinstance(variant, EmbeddingNoise):
            return replace(self._in_frame(record.text, self.tokens_of(record)), noise=variant)
        return self._in_frame(record.text, tuple(variant.apply(self.tokens_of(record))))

    def _in_frame(self, text: str, token_ids: tuple[int, ...]) -> ScoreInput:
        frame = self._backend.frame(text)
        return ScoreInput((*frame.before, *token_ids, *frame.after), frame.context)

    def population(self) -> list[ScoreInput]:
        """Held-out documents, cut to the length of a record where records are blocks."""
        documents = self._data.prompts[:MAX_POPULATION]
        return [self._in_frame(document.text, self._cut(self.encode(document.text))) for document in documents]

    def _cut(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        return tuple(token_ids[: self._data.block_size or None])

    def _recall_prefix(self, shots: int) -> tuple[tuple[int, ...], int]:
        """As many shots as leave room for the longest record; records beyond half the context don't count."""
        context = self._backend.max_length
        longest = 0
        for record in self._data.records:
            longest = max(longest, len(self.tokens_of(record)))
            if len(self._tokens) > 1000:
                self.forget()
        frame = self._backend.frame("")
        around = len(frame.context) + len(frame.before) + len(frame.after)
        room = context - around - min(longest, context // 2)
        separator = self.encode(SHOT_SEPARATOR)
        prefix: list[int] = []
        used = 0
        unknown = self._backend.unknown_ids(Role.TARGET)
        texts = (self._cut(self.encode(document.text)) for document in self._data.prompts)
        for text in islice((ids for ids in texts if unknown.isdisjoint(ids)), shots):
            shot = [*text, *separator]
            if len(prefix) + len(shot) > room:
                break
            prefix += shot
            used += 1
        return tuple(prefix), used


class Sheet:
    """The sequences of one record by view, made when they are asked for, and the signals found for them.

    Args:
        record: whose sequences.
        inputs: makes them.
    """

    def __init__(self, record: Record, inputs: Inputs) -> None:
        self.record = record
        self._inputs = inputs
        self._sequences: dict[View, ScoreInput | str] = {}  # of the views that are one a record, or why there is none
        self._paraphrases: list[ScoreInput] = []
        self._no_paraphrases: str | None = None
        self._tokens: dict[tuple[Role, View], TokenSignals] = {}
        self._of_paraphrases: dict[Role, Sequence[TokenSignals]] = {}
        self._missing: dict[tuple[Role, View], str] = {}

    def paraphrase(self, found: Neighbours) -> None:
        """Take the record's paraphrases."""
        self._paraphrases = [self._inputs.neighbour(self.record, variant) for variant in found.variants]
        self._no_paraphrases = found.reason

    def sequences(self, views: Iterable[View]) -> list[ScoreInput]:
        """The record's own sequences of some views, as far as they exist."""
        found: list[ScoreInput] = []
        for view in views:
            if view is View.NEIGHBOURS:
                found += self._paraphrases
            elif view is not View.POPULATION and isinstance(item := self._sequence(view), ScoreInput):
                found.append(item)
        return found

    def fill(self, role: Role, views: Iterable[View], found: Mapping[ScoreInput, TokenSignals]) -> None:
        """Take from `found` what a role's views of this record are."""
        for view in views:
            if view is View.NEIGHBOURS:
                self._of_paraphrases[role] = [found[item] for item in self._paraphrases]
                if self._no_paraphrases:
                    self._missing[role, view] = self._no_paraphrases
            elif view is not View.POPULATION:
                item = self._sequence(view)
                if isinstance(item, str):
                    self._missing[role, view] = item
                else:
                    self._tokens[role, view] = found[item]

    def refuse(self, role: Role, views: Iterable[View], reason: str) -> None:
        """Note why a role gives nothing."""
        self._missing |= {(role, view): reason for view in views}

    def signals(self, population: Mapping[Role, Sequence[TokenSignals]]) -> RecordSignals:
        """What attacks get to see of the record."""
        return RecordSignals(self.record.text, self._tokens, self._of_paraphrases, population, self._missing)

    def _sequence(self, view: View) -> ScoreInput | str:
        if view not in self._sequences:
            self._sequences[view] = self._inputs.of(self.record, view)
        return self._sequences[view]


@dataclass(frozen=True)
class Request:
    """Distinct sequences that one model scores in one go: batches are planned over them.

    Attributes:
        role: whom the signals are for.
        model: the role whose model scores them.
        inputs: the sequences.
        moments: whether mean and standard deviation over the vocabulary are needed.
        is_there: whether the model can be asked; one that is to be trained cannot, when the plan is made.
    """

    role: Role
    model: Role
    inputs: Sequence[ScoreInput]
    moments: bool
    is_there: bool = True


def requests(
    player: Player, model: Role, sheets: Sequence[Sheet], population: Sequence[ScoreInput], *, is_there: bool = True
) -> list[Request]:
    """All sequences of one role's views, each once.

    Paraphrases go last and by themselves. They are not there yet when the first batch of the others is scored to
    measure the speed, and that batch has to be the one which the whole request has.
    """
    seen: dict[ScoreInput, bool] = {}
    found = []
    for paraphrases in (False, True):
        for moments in (True, False):
            wanted = [view for view, asked in player.views.items() if asked is moments]
            wanted = [view for view in wanted if (view is View.NEIGHBOURS) is paraphrases]
            sequences = [item for sheet in sheets for item in sheet.sequences(wanted)]
            sequences += population if View.POPULATION in wanted else []
            new = [item for item in dict.fromkeys(sequences) if item not in seen or (moments and not seen[item])]
            seen |= dict.fromkeys(new, moments)
            found += [Request(player.role, model, new, moments, is_there)] if new else []
    return found
