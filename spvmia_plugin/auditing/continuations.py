"""Texts that the target writes where records go on: asked for once, kept in the store as they come.

They are text, and lie with the self-prompts in the store's folder of text. All texts of one target under one way of
sampling are one corpus, each by a number that follows from its prompt, its length and its draw: an audit of more
records, or with more continuations, asks for what is missing alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from spvmia_plugin.attacks.text_only import halves
from spvmia_plugin.auditing.asked import Amount
from spvmia_plugin.auditing.sequences import Inputs
from spvmia_plugin.auditing.variety import ENOUGH, Variety, check_varied
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.protocols import Backend
from spvmia_plugin.records import Conversation, Record
from spvmia_plugin.seeds import stable_seed
from spvmia_plugin.signals import Continued, Role
from spvmia_plugin.store.folders import Corpus
from spvmia_plugin.store.store import Store
from spvmia_plugin.util.console import Bar

STAGE = "continuing the records"
"""Name of the plan's stage."""
COMPARING = "comparing continuations"
"""Name of what an embedding model is asked for."""


@dataclass(frozen=True, slots=True)
class Passage:
    """What the target is given of a record, and what it should go on with.

    Attributes:
        prompt: the first half of a text, or the conversation before a reply.
        truth: the second half, or the reply.
        max_tokens: how many tokens that has, and so a continuation at most.
    """

    prompt: str | Conversation = field(repr=False)
    truth: str = field(repr=False)
    max_tokens: int

    def written(self) -> str:
        """The prompt as one text, which no other prompt has."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt.to_text()


@dataclass(frozen=True, slots=True)
class Missing:
    """What is to be asked for yet.

    Attributes:
        kept: how many continuations the store has.
        texts: how many are to be written.
        tokens: at most so many in all.
        sent: tokens of their prompts, about.
    """

    kept: int
    texts: int
    tokens: int
    sent: int


class Continuations:
    """Continuations of records by the target.

    Args:
        config: settings of the audit.
        backend: the target.
        store: keeps them.
        quiet: show no progress.
        on_done: told how many tokens the texts had left that were just written, as `missing` counts them.

    Attributes:
        variety: how much the texts of all records differ so far.
        asked: how many texts all records took so far, of at most how many tokens, and how much of it was not stored.
    """

    def __init__(
        self,
        config: AuditConfig,
        backend: Backend,
        store: Store,
        *,
        quiet: bool = False,
        on_done: Callable[[int], None] = lambda tokens: None,
    ) -> None:
        self._config = config
        self._backend = backend
        self._store = store
        self._quiet = quiet
        self._on_done = on_done
        self._known: dict[int, str] | None = None
        self.asked = Amount()
        self.variety = Variety()

    def of(self, records: Sequence[Record], inputs: Inputs) -> dict[str, Continued | str]:
        """What the target wrote for each record, by id; a string is the reason why there is nothing."""
        passages = {record.id: self._passage(record, inputs) for record in records}
        asked = [passage for passage in passages.values() if isinstance(passage, Passage)]
        texts = self._texts(asked, inputs)
        distinct = {passage.written(): passage for passage in asked}.values()
        if not self.variety.records:  # a last part may be a few records
            self._check_varied({self._numbers(passage)[0]: passage.truth for passage in distinct}, texts)
        for passage in distinct:
            self.variety.add([texts[number] for number in self._numbers(passage)])
        return {
            record_id: passage
            if isinstance(passage, str)
            else Continued(passage.truth, tuple(texts[number] for number in self._numbers(passage)))
            for record_id, passage in passages.items()
        }

    def _check_varied(self, truths: Mapping[int, str], texts: Mapping[int, str]) -> None:
        """Refuse answers that are mostly alike; `truths` are by the number of each record's first answer."""
        first = {number: texts[number] for number in truths if number in texts}
        allowed = self._config.allow_degenerate
        check_varied(list(first.values()), [truths[number] for number in first], allowed=allowed)

    def missing(self, records: Sequence[Record], inputs: Inputs) -> Missing:
        """What the store does not have of them."""
        found = [self._passage(record, inputs) for record in records]
        distinct = {passage.written(): passage for passage in found if isinstance(passage, Passage)}
        known = self._load()
        kept = texts = tokens = sent = 0
        for passage in distinct.values():
            count = sum(number not in known for number in self._numbers(passage))
            kept += self._config.continuations - count
            words = passage.prompt if isinstance(passage.prompt, str) else passage.prompt.words()
            texts, tokens = texts + count, tokens + count * passage.max_tokens
            sent += count * self._backend.count(words) if count else 0
        return Missing(kept, texts, tokens, sent)

    def forget(self) -> None:
        """Let go of what was read; the store has it."""
        self._known = None

    def _passage(self, record: Record, inputs: Inputs) -> Passage | str:
        """What is asked of a record, or why nothing is."""
        if record.conversation is not None and record.rendered is not None:
            return self._reply(record.conversation, record, inputs)
        found = halves(record.text)
        if found is None:
            return "fewer than two words: nothing to go on from"
        # With the white space that stands before it: a model writes that too.
        return Passage(*found, max(1, self._backend.count(record.text[len(found[0]) :])))

    def _reply(self, conversation: Conversation, record: Record, inputs: Inputs) -> Passage | str:
        """The longest reply that carried loss as a whole, and what stands before it."""
        replies = inputs.replies(record)
        if not replies:
            return "no reply that carried loss"
        place, words = max(replies.items(), key=lambda found: (len(found[1]), -found[0]))
        before = conversation.messages[:place]
        prompt = None if conversation.prompt is None else place
        return Passage(replace(conversation, messages=before, prompt=prompt), words, max(1, self._backend.count(words)))

    def _texts(self, passages: Sequence[Passage], inputs: Inputs) -> dict[int, str]:
        """Texts by number, of all continuations of these passages."""
        numbers = {number: passage for passage in passages for number in self._numbers(passage)}
        known = self._load()
        lengths = {number: passage.max_tokens for number, passage in numbers.items()}
        new = sum(length for number, length in lengths.items() if number not in known)
        self.asked += Amount(len(lengths), sum(lengths.values()), new)
        if all(number in known for number in numbers):
            return known
        order = list(numbers)
        done = {i for i, number in enumerate(order) if number in known}
        draws = self._draws(passages)
        first = {self._numbers(passage)[0]: passage.truth for passage in passages}
        with Bar(desc=STAGE, total=len(order), unit="texts", initial=len(done), quiet=self._quiet) as bar:

            def keep(batch: Mapping[int, str]) -> None:
                made = {order[i]: text for i, text in batch.items() if order[i] not in known}
                self._corpus.append(made)
                known.update(made)
                if sum(number in known for number in first) >= ENOUGH:  # each text may have to be paid for
                    self._check_varied(first, known)
                self._on_done(sum(lengths[number] for number in made))
                bar.update(len(made))

            found = self._backend.continue_texts(
                [numbers[number].prompt for number in order],
                [numbers[number].max_tokens for number in order],
                [draws[number] for number in order],
                on_done=keep,
                done=done,
                renderer=inputs.renderer,
            )
            keep({i: text for i, text in enumerate(found) if text is not None})
        return known

    def _draws(self, passages: Sequence[Passage]) -> dict[int, int]:
        """The seed of each continuation, by number."""
        return {
            number: stable_seed(self._config.seed, "continuation", passage.written(), n)
            for passage in passages
            for n, number in enumerate(self._numbers(passage))
        }

    def _numbers(self, passage: Passage) -> list[int]:
        """What each continuation of a passage is kept under: 60 bits of a keyed hash, which tells of no text."""
        base = self._store.text_hash(json.dumps([passage.written(), passage.max_tokens]))
        return [int(self._store.text_hash(f"{base} {n}")[:15], 16) for n in range(self._config.continuations)]

    def _load(self) -> dict[int, str]:
        if self._known is None:
            self._known = self._corpus.load()
        return self._known

    @cached_property
    def _corpus(self) -> Corpus:
        config = self._config
        return self._store.corpus(
            self._store.key(
                "continuations",
                target=self._backend.identity(Role.TARGET),
                sampling=[config.temperature, config.top_k, config.top_p],
                seed=config.seed,
                max_length=self._backend.max_length,
            )
        )
