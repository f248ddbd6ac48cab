"""From records to sequences, and from their signals to what attacks see of a record."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.auditing.probes import probes
from spvmia_plugin.protocols import Backend, EmbeddingNoise, Neighbour, ScoreInput, TextEdits
from spvmia_plugin.records import AuditData, Conversation, Document, LossOn, Record, Rendered
from spvmia_plugin.seeds import stable_seed
from spvmia_plugin.signals import WRITTEN, Role, TokenSignals, View

SCORED = frozenset(View) - WRITTEN - {View.GRADIENT}
"""Views that are token signals of sequences."""

MAX_POPULATION = 1000
"""At most this many held-out documents serve as population."""

SHOT_SEPARATOR = "\n\n"

_NO_PREFIX = "no held-out document fits the context as a ReCaLL prefix"
_PREFIX_TOO_LONG = "record and ReCaLL prefix exceed the model's context"

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """A sequence to score, and which of its tokens count for attacks.

    Attributes:
        item: the sequence.
        mask: (T,) which of the scored tokens carried loss; None for all, as in plain text.
        other: (T,) those that would count under the other mask; None where there is none, or it is not known.
    """

    item: ScoreInput
    mask: Mask | None = None
    other: Mask | None = None

    def seen(self, signals: TokenSignals, *, other: bool) -> TokenSignals:
        """What attacks see of the sequence's signals."""
        mask = self.other if other else self.mask
        return signals if mask is None else signals.where(mask)


def counted(rendered: Rendered, loss_on: LossOn, context: tuple[int, ...] = (), skipped: int = 0) -> Counted:
    """A rendered conversation as it is scored, after `context` and without its first `skipped` tokens."""
    item = ScoreInput(rendered.token_ids[skipped:], context)
    first = len(rendered.token_ids) - item.scored
    answers = rendered.answers if loss_on == "all" else (True,) * len(rendered.token_ids)
    masks = (None if mask is None else np.array(mask[first:], dtype=bool) for mask in (rendered.counted, answers))
    return Counted(item, *masks)


def as_perturbed(record: Record, loss_on: LossOn | None) -> Document:
    """What a perturbation gets of a record: of a conversation the texts that carry loss, a line break between them."""
    if record.conversation is None or loss_on is None:
        return Document(record.id, record.text)
    text = record.conversation.words(record.conversation.counted(loss_on))
    return Document(record.id, text, 0, record.conversation, record.rendered)


def edited(conversation: Conversation, loss_on: LossOn, edits: TextEdits) -> Conversation | None:
    """The conversation after edits of the text that `as_perturbed` made of it; None where a message is left empty."""
    contents = conversation.contents()
    parts: dict[int, str] = {}
    start = 0
    for i in conversation.counted(loss_on):
        if not contents[i]:
            continue
        end = start + len(contents[i])
        # An edit that reaches over the line break is made in the message where it begins, and takes from the next.
        inside = [
            (max(a, start) - start, min(b, end) - start, new if a >= start else "")
            for a, b, new in edits.spans
            if a < end and b > start
        ]
        parts[i] = TextEdits(tuple(inside)).apply(contents[i])
        if not parts[i].strip():
            return None
        start = end + 1
    return conversation.with_contents(parts)


class Inputs:
    """Builds the sequences of an audit. A record's text is tokenised once.

    Args:
        backend: whose tokenizer and context length hold.
        data: the full data of the audit, whichever share of the records this process scores: the population and
            the ReCaLL prefix depend on it alone.
        shots: how many prompt documents the ReCaLL prefix should hold, 0 if no attack asks for one.
        probes: after how many perturbed copies of itself a record is read.
        seed: of these copies.
    """

    def __init__(self, backend: Backend, data: AuditData, shots: int = 0, *, probes: int = 0, seed: int = 0) -> None:
        self._backend = backend
        self._data = data
        self._probes, self._seed = probes, seed
        self._renderer: Any = data.renderer
        self._tokens: dict[str, tuple[int, ...]] = {}  # of any text, until `forget`
        self._of_records: dict[str, array[int]] = {}  # by id: an eighth of what a tuple of numbers takes
        self.prefix, self.shots = self._recall_prefix(shots) if shots else ((), 0)

    @property
    def loss_on(self) -> LossOn | None:
        """Which tokens of conversations count; None for plain text."""
        found: LossOn | None = self._renderer.loss_on if self._renderer is not None else None
        return found

    @property
    def renderer(self) -> Any:
        """How conversations become tokens; None for plain text."""
        return self._renderer

    def replies(self, record: Record) -> dict[int, str]:
        """Of a conversation the words of the assistant that carried loss, by the place of their message."""
        loss_on = self.loss_on
        if record.conversation is None or loss_on is None:
            return {}
        answers = set(record.conversation.answers())
        return {
            place: text
            for place, text in self._counted_words(record, record.conversation, loss_on)
            if place in answers and text.strip()
        }

    def encode(self, text: str) -> tuple[int, ...]:
        """Tokens of a text alone, remembered."""
        if text not in self._tokens:
            self._tokens[text] = tuple(self._backend.encode(text))
        return self._tokens[text]

    def tokens_of(self, record: Record) -> tuple[int, ...]:
        """Tokens of a record, remembered for the whole audit: of its text, or of the rendered conversation."""
        if record.rendered is not None:
            return record.rendered.token_ids
        if record.text not in self._tokens:
            if record.id not in self._of_records:
                self._of_records[record.id] = array("i", self._backend.encode(record.text))
            self._tokens[record.text] = tuple(self._of_records[record.id])
        return self._tokens[record.text]

    def forget(self) -> None:
        """Let go of the tokens of all texts but the records', which are kept packed."""
        self._tokens.clear()

    def scored_text(self, record: Record, *, other: bool = False) -> str:
        """The words that count, of a conversation those that carry loss (or would, under the other mask).

        What lies beyond the cut of a conversation is not scored, and no part of them.
        """
        loss_on = self.loss_on
        if record.conversation is None or loss_on is None:
            return record.text
        if other:
            loss_on = "all" if loss_on == "completion" else "completion"
        return "\n".join(text for _, text in self._counted_words(record, record.conversation, loss_on) if text)

    def _counted_words(self, record: Record, conversation: Conversation, loss_on: LossOn) -> list[tuple[int, str]]:
        """(place, words) of the messages that carry loss, as far as they are not cut off."""
        places, contents = conversation.counted(loss_on), conversation.contents()
        if record.rendered is None or len(record.rendered.token_ids) < self._renderer.max_tokens:
            return [(i, contents[i]) for i in places]
        kept = _kept([contents[i] for i in places], self._backend.decode(record.rendered.token_ids))
        return list(zip(places, kept, strict=False))

    def framed(self, text: str) -> ScoreInput:
        """A text as the model reads it: in the context and with the special tokens that `mia_prefix` says."""
        return self._in_frame(text, self.encode(text))

    def of(self, record: Record, view: View) -> Counted | str:
        """The sequence of a record's view TEXT, LOWERCASE, PREFIXED, REJECTED or GRADIENT.

        A string is the reason why there is none.
        """
        if view is View.GRADIENT:
            return self._whole(self.of(record, View.TEXT))
        if view is View.REJECTED:
            return self._rejected(record)
        if record.rendered is not None:
            return self._of_conversation(record, record.rendered, view)
        if view is View.LOWERCASE:
            return Counted(self.framed(record.text.lower()))
        text = self._in_frame(record.text, self.tokens_of(record))
        if view is View.TEXT:
            return Counted(text)
        if not self.prefix:
            return _NO_PREFIX
        frame = self._backend.frame(record.text)
        context = (*frame.context, *frame.before, *self.prefix)
        token_ids = text.token_ids[len(frame.before) :]
        if len(context) + len(token_ids) > self._backend.max_length:
            return _PREFIX_TOO_LONG
        return Counted(ScoreInput(token_ids, context))

    def _rejected(self, record: Record) -> Counted | str:
        rejected = record.rendered.rejected if record.rendered is not None else None
        if rejected is None or self.loss_on is None:
            return "no preference: the row has no rejected answer"
        return rejected.reason if rejected.reason is not None else counted(rejected, self.loss_on)

    def _whole(self, found: Counted | str) -> Counted | str:
        """A sequence whose loss is one number: it fits the context, and some token counts."""
        if isinstance(found, str):
            return found
        if len(found.item.context_ids) + len(found.item.token_ids) - 1 > self._backend.max_length:
            return "the record exceeds the model's context, so its loss has no gradient in one piece"
        counts = found.item.scored if found.mask is None else found.mask.sum()
        return found if counts else "no scored tokens"

    def probed(self, record: Record) -> list[Counted] | str:
        """The record after each of its probes, or the reason why there is none.

        Those tokens count that count without a probe: the first one, if nothing stands before it, is read with the
        probe.
        """
        if record.rendered is not None and record.rendered.reason is not None:
            return record.rendered.reason
        seeds = [stable_seed(self._seed, record.id, "probe", number) for number in range(self._probes)]
        edits = probes(as_perturbed(record, self.loss_on).text, seeds)
        if edits is None:
            return "no word to mask in a probe"
        found: list[Counted] = []
        for each in edits:
            made = self._after_probe(record, each)
            if isinstance(made, str):
                return made
            if len(made.item.context_ids) + len(made.item.token_ids) > self._backend.max_length:
                return "record and probe exceed the model's context"
            found.append(made)
        return found

    def _after_probe(self, record: Record, edits: TextEdits) -> Counted | str:
        rendered, loss_on, conversation = record.rendered, self.loss_on, record.conversation
        if rendered is None or loss_on is None or conversation is None:
            frame = self._backend.frame(record.text)
            ids = (*self.tokens_of(record), *frame.after)
            first = 0 if frame.context else 1
            shown = (*self.encode(edits.apply(record.text)), *self.encode(SHOT_SEPARATOR))
            return Counted(ScoreInput(ids[first:], (*frame.context, *frame.before, *shown, *ids[:first])))
        changed = edited(conversation, loss_on, edits)
        if changed is None:
            return "a probe leaves a message empty"
        copy: Rendered = self._renderer.render(changed)
        if copy.reason is not None:
            return copy.reason
        read = () if self._lead(rendered) else rendered.token_ids[:1]
        return counted(rendered, loss_on, (*copy.token_ids, *read), 1)

    def _of_conversation(self, record: Record, rendered: Rendered, view: View) -> Counted | str:
        loss_on, conversation = self.loss_on, record.conversation
        if rendered.reason is not None or loss_on is None or conversation is None:
            return rendered.reason or "no conversation"
        if view is View.TEXT:
            return counted(rendered, loss_on)
        if view is View.LOWERCASE:
            contents = conversation.contents()
            lower = {i: contents[i].lower() for i in conversation.counted(loss_on) if contents[i]}
            return self._rendered(conversation.with_contents(lower))
        if not self.prefix:
            return _NO_PREFIX
        lead = self._lead(rendered)
        if len(self.prefix) + len(rendered.token_ids) - lead > self._backend.max_length:
            return _PREFIX_TOO_LONG
        return counted(rendered, loss_on, self.prefix, lead)

    def _rendered(self, conversation: Conversation) -> Counted | str:
        found: Rendered = self._renderer.render(conversation)
        return found.reason if found.reason is not None else counted(found, self._renderer.loss_on)

    def _lead(self, rendered: Rendered) -> int:
        """How many tokens only begin a sequence: a BOS does not stand in the middle of one."""
        bos = self._renderer.bos_id
        # ChatML's `<|im_start|>` is a BOS by name that begins every turn.
        return int(bos is not None and rendered.token_ids[:1] == (bos,) and rendered.token_ids.count(bos) == 1)

    def neighbour(self, record: Record, variant: Neighbour) -> Counted | str:
        """The sequence of one paraphrase, or why it is none."""
        rendered, loss_on, conversation = record.rendered, self.loss_on, record.conversation
        if rendered is None or loss_on is None or conversation is None:
            if isinstance(variant, TextEdits):
                return Counted(self.framed(variant.apply(record.text)))
            if isinstance(variant, EmbeddingNoise):
                return Counted(replace(self._in_frame(record.text, self.tokens_of(record)), noise=variant))
            return Counted(self._in_frame(record.text, tuple(variant.apply(self.tokens_of(record)))))
        if isinstance(variant, TextEdits):
            changed = edited(conversation, loss_on, variant)
            return self._rendered(changed) if changed is not None else "a paraphrase leaves a message empty"
        found = counted(rendered, loss_on)
        if isinstance(variant, EmbeddingNoise):
            only = tuple(i for i, is_counted in enumerate(rendered.counted) if is_counted)
            return replace(found, item=replace(found.item, noise=replace(variant, only=only)))
        if not all(rendered.counted[position] for position in variant.positions):
            return "a paraphrase changes tokens that carried no loss"
        return replace(found, item=ScoreInput(tuple(variant.apply(rendered.token_ids))))

    def _in_frame(self, text: str, token_ids: tuple[int, ...]) -> ScoreInput:
        frame = self._backend.frame(text)
        return ScoreInput((*frame.before, *token_ids, *frame.after), frame.context)

    def population(self) -> list[Counted]:
        """Held-out documents, cut to the length of a record where records are blocks."""
        documents = self._data.prompts[:MAX_POPULATION]
        if self.loss_on is None:
            return [Counted(self._in_frame(each.text, self._cut(self.encode(each.text)))) for each in documents]
        rendered = [each.rendered for each in documents if each.rendered is not None and each.rendered.reason is None]
        return [counted(each, self.loss_on) for each in rendered]

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
        prefix: list[int] = []
        used = 0
        unknown = self._backend.unknown_ids(Role.TARGET)
        for shot in islice((ids for ids in self._shots() if unknown.isdisjoint(ids)), shots):
            if len(prefix) + len(shot) > room:
                break
            prefix += shot
            used += 1
        return tuple(prefix), used

    def _shots(self) -> Iterable[tuple[int, ...]]:
        """Held-out documents one after the other; conversations but the first without what only begins a sequence."""
        if self.loss_on is None:
            separator = self.encode(SHOT_SEPARATOR)
            yield from ((*self._cut(self.encode(each.text)), *separator) for each in self._data.prompts)
            return
        first = True
        for each in self._data.prompts:
            if each.rendered is not None and each.rendered.reason is None:
                yield each.rendered.token_ids[0 if first else self._lead(each.rendered) :]
                first = False


def _kept(texts: Sequence[str], whole: str) -> list[str]:
    """Of texts that stand one after the other in a sequence, what is left of them where that was cut."""
    whole = whole.rstrip("\ufffd")  # half a character
    kept, start = [], 0
    for text in map(str.strip, texts):  # as many templates do
        found = whole.find(text, start)
        if found < 0:
            most = min(len(text), len(whole) - start)
            kept.append(text[: next((n for n in range(most, 0, -1) if whole.endswith(text[:n])), 0)])
            break
        kept.append(text)
        start = found + len(text)
    return kept
