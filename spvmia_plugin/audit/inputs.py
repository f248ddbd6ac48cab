"""From records to sequences: what each view of a record is as tokens."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from spvmia_plugin.protocols import Backend, EmbeddingNoise, Neighbour, ScoreInput, TextEdits, frame_of, unknown_ids
from spvmia_plugin.records import AuditData, Record
from spvmia_plugin.signals import Role, View

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
