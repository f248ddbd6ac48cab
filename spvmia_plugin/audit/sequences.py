"""From records to sequences, and from their signals to what attacks see of a record."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from spvmia_plugin.protocols import (
    Backend,
    EmbeddingNoise,
    Neighbour,
    Neighbours,
    ScoreInput,
    TextEdits,
    frame_of,
    unknown_ids,
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
        frame = frame_of(self._backend, record.text)
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
        frame = frame_of(self._backend, text)
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
        frame = frame_of(self._backend, "")
        around = len(frame.context) + len(frame.before) + len(frame.after)
        room = context - around - min(longest, context // 2)
        separator = self.encode(SHOT_SEPARATOR)
        prefix: list[int] = []
        used = 0
        unknown = unknown_ids(self._backend, Role.TARGET)
        texts = (self._cut(self.encode(document.text)) for document in self._data.prompts)
        for text in islice((ids for ids in texts if unknown.isdisjoint(ids)), shots):
            shot = [*text, *separator]
            if len(prefix) + len(shot) > room:
                break
            prefix += shot
            used += 1
        return tuple(prefix), used


PER_RECORD = (View.TEXT, View.LOWERCASE, View.PREFIXED)
"""The views that are one sequence a record."""


class Sheet:
    """The sequences of one record by view, and the signals found for them, role by role."""

    def __init__(self, record: Record, inputs: Inputs, neighbours: Neighbours | None) -> None:
        self.record = record
        self._views = {view: inputs.of(record, view) for view in PER_RECORD}
        self._neighbours = [inputs.neighbour(record, variant) for variant in neighbours.variants] if neighbours else []
        self._no_neighbours = neighbours.reason if neighbours else None
        self._tokens: dict[tuple[Role, View], TokenSignals] = {}
        self._of_neighbours: dict[Role, Sequence[TokenSignals]] = {}
        self._missing: dict[tuple[Role, View], str] = {}

    def inputs(self, views: Sequence[View]) -> list[ScoreInput]:
        """The sequences of the given views that exist."""
        single = [item for view in views if isinstance(item := self._views.get(view), ScoreInput)]
        return single + (self._neighbours if View.NEIGHBOURS in views else [])

    def fill(self, role: Role, views: Mapping[View, bool], found: Mapping[ScoreInput, TokenSignals]) -> None:
        """Take from `found` what a role's views of this record are."""
        for view in views:
            item = self._views.get(view)
            if isinstance(item, ScoreInput):
                self._tokens[role, view] = found[item]
            elif isinstance(item, str):
                self._missing[role, view] = item
        if View.NEIGHBOURS in views:
            self._of_neighbours[role] = [found[item] for item in self._neighbours]
            if self._no_neighbours:
                self._missing[role, View.NEIGHBOURS] = self._no_neighbours

    def refuse(self, role: Role, views: Mapping[View, bool], reason: str) -> None:
        """Note why a role gives nothing."""
        self._missing |= {(role, view): reason for view in views}

    def signals(self, population: Mapping[Role, Sequence[TokenSignals]]) -> RecordSignals:
        """What attacks get to see of the record."""
        return RecordSignals(self.record.text, self._tokens, self._of_neighbours, population, self._missing)


@dataclass(frozen=True)
class Sweep:
    """Distinct sequences, scored with moments or without.

    Attributes:
        inputs: the sequences.
        moments: whether mean and standard deviation over the vocabulary are needed.
    """

    inputs: Sequence[ScoreInput]
    moments: bool


def sweeps(views: Mapping[View, bool], sheets: Iterable[Sheet], population: Sequence[ScoreInput]) -> list[Sweep]:
    """All sequences of one role's views (view -> with moments), each once.

    Paraphrases go last and by themselves. They are not there yet when the first batch of the others is scored to
    measure the speed, and that batch has to be the one which the whole sweep has.
    """
    sheets = list(sheets)
    seen: dict[ScoreInput, bool] = {}
    found = []
    for paraphrases in (False, True):
        for moments in (True, False):
            wanted = [view for view, asked in views.items() if asked is moments]
            wanted = [view for view in wanted if (view is View.NEIGHBOURS) is paraphrases]
            sequences = [item for sheet in sheets for item in sheet.inputs(wanted)]
            sequences += population if View.POPULATION in wanted else []
            new = [item for item in dict.fromkeys(sequences) if item not in seen or (moments and not seen[item])]
            seen |= dict.fromkeys(new, moments)
            found += [Sweep(new, moments)] if new else []
    return found
