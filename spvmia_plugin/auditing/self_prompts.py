"""What references are trained on, and what self-prompts turned out as: whether they differ, and how long they are."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from spvmia_plugin.auditing.makers import to_correct
from spvmia_plugin.config import AuditConfig, SelfPrompt
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import Backend
from spvmia_plugin.records import AuditData, Conversation, Document, Rendered
from spvmia_plugin.util.handed_over import is_whole_number
from spvmia_plugin.util.strict_json import is_unicode

LEAST_DISTINCT = 0.5
"""A reference on texts of which fewer differ has learnt a few of them by heart, and calibrates nothing."""


def blank_of(data: AuditData) -> Conversation | None:
    """A conversation without messages as the audited ones are; None for plain text."""
    conversations = [record.conversation for record in data.records if record.conversation is not None]
    if not conversations:
        return None
    first = conversations[0]
    options = first.options if all(each.options == first.options for each in conversations) else {}
    return Conversation((), None if first.prompt is None else 0, first.plain, options=options)


def length_of(data: AuditData) -> int | None:
    """Tokens that an audited conversation has, in the median; None for plain text."""
    lengths = [len(record.rendered.token_ids) for record in data.records if record.rendered is not None]
    return int(statistics.median(lengths)) if lengths else None


def written_texts(found: Any, kept: Collection[int], makers: Iterable[str]) -> dict[int, str]:
    """The texts by position that a hook `spvmia_self_prompt` gave, checked where it answers.

    Args:
        found: its answer.
        kept: positions of texts that are there already: None may stand for these.
        makers: who implements the hook.

    Raises:
        SpvmiaError: it is no sequence of texts, or has none.
    """
    if isinstance(found, (str, bytes)) or not isinstance(found, Sequence):
        raise _refused(type(found).__name__, makers)
    made = {i: text for i, text in enumerate(found) if text is not None}
    if missing := len(found) - len(made.keys() | {i for i in kept if i < len(found)}):
        raise _refused(f"None for {missing} of {len(found)} that are not there yet", makers)
    check_batch(made, makers)
    if not made and not kept:
        raise _refused("none", makers)
    return made


def check_batch(batch: Any, makers: Iterable[str]) -> None:
    """Make sure that what a hook `spvmia_self_prompt` tells `on_done` are texts by position.

    Raises:
        SpvmiaError: they are not.
    """
    if not isinstance(batch, Mapping):
        raise _refused(f"{type(batch).__name__} for on_done, which takes {{position: text}}", makers)
    for position, text in batch.items():
        if not is_whole_number(position) or position < 0:
            raise _refused(f"a text at another position than a whole number >= 0: {type(position).__name__}", makers)
        if not isinstance(text, str):
            raise _refused(f"{type(text).__name__} among them", makers)
        held = _conversation(text)  # as JSON, which spells what no text may hold
        if not all(map(is_unicode, (text, *(held.contents() if held is not None else ())))):
            raise _refused("half a surrogate pair in one, which is no valid Unicode", makers)


def _refused(got: str, makers: Iterable[str]) -> SpvmiaError:
    return SpvmiaError(f"spvmia_self_prompt: expected a list of texts, got {got}; {to_correct(makers)}")


@dataclass(frozen=True)
class Expected:
    """Tokens that a self-prompt is expected to have, for the plan.

    Attributes:
        written: sampled from the target.
        tokens: in all, to be trained on.
    """

    written: float
    tokens: float


def expected_of(way: SelfPrompt, data: AuditData, backend: Backend, prompt_tokens: int, length: float) -> Expected:
    """Of an audit of conversations, from the held-out ones; `length` tokens of an audited record."""
    if way == "whole":
        return Expected(length, length)
    if way == "prefix":
        words = statistics.median(min(len(backend.encode(each.text)), backend.max_length) for each in data.prompts)
        return Expected(words - prompt_tokens, words)
    rendered = [each.rendered or data.renderer.render(each.conversation) for each in data.prompts if each.conversation]
    read = [each for each in rendered if each.reason is None] or rendered
    written = [sum(each.answers if each.answers is not None else each.counted) for each in read]
    return Expected(statistics.fmean(written), statistics.fmean(len(each.token_ids) for each in read))


@dataclass(frozen=True)
class TrainingTexts:
    """What a reference is trained on.

    Attributes:
        texts: as the store keeps them and keys hold them: plain, or `Conversation.to_text`.
        conversations: what they hold; None for plain text.
        renderer: how these become tokens.
    """

    texts: Sequence[str] = field(repr=False)
    conversations: Sequence[Conversation] | None = field(default=None, repr=False)
    renderer: Any = field(default=None, repr=False)

    @classmethod
    def of_documents(cls, documents: Sequence[Document], renderer: Any) -> TrainingTexts:
        """Held-out documents as they are, preferences with the chosen answer; without a renderer their words."""
        if renderer is None:
            return cls([document.text for document in documents])
        held = [document.conversation for document in documents if document.conversation is not None]
        conversations = [conversation.with_chosen() for conversation in held]
        return cls([conversation.to_text() for conversation in conversations], conversations, renderer)

    @classmethod
    def of_store(cls, texts: Sequence[str], renderer: Any) -> TrainingTexts:
        """Self-prompts of conversations as they were kept. A plugin may have given plain text.

        Raises:
            SpvmiaError: it gave both.
        """
        read = [_conversation(text) for text in texts]
        conversations = [conversation for conversation in read if conversation is not None]
        if not conversations:
            return cls(texts)
        if len(conversations) < len(texts):
            raise SpvmiaError(
                f"spvmia_self_prompt: expected conversations (Conversation.to_text) or plain text, got both: "
                f"{len(conversations)} of {len(texts)} are conversations; 'spvmia plugins' names the plugin"
            )
        return cls(texts, conversations, renderer)

    def words(self) -> list[str]:
        """The texts without any template."""
        if self.conversations is None:
            return list(self.texts)
        return [conversation.words() for conversation in self.conversations]

    @cached_property
    def rendered(self) -> list[Rendered] | None:
        """The conversations as a model reads them; None for plain text.

        What the target wrote may be what its template refuses: such a conversation has no tokens, and the reason.

        Raises:
            SpvmiaError: it refuses all.
        """
        if self.conversations is None:
            return None
        found: list[Rendered] = []
        refused: list[SpvmiaError] = []
        for conversation in self.conversations:
            if not conversation.messages:  # which no template renders
                found.append(Rendered((), (), reason="the target wrote nothing"))
                continue
            try:
                found.append(self.renderer.render(conversation))
            except SpvmiaError as error:
                refused.append(error)
                found.append(Rendered((), (), reason="the template refuses it"))
        if refused and len(refused) == len(found):
            raise refused[0]
        return found

    def lengths(self, backend: Backend) -> list[int]:
        """Tokens of each, as far as the model's context goes."""
        if self.rendered is None:
            return [min(len(backend.encode(text)), backend.max_length) for text in self.texts]
        return [min(len(each.token_ids), backend.max_length) for each in self.rendered]


def _conversation(text: str) -> Conversation | None:
    try:
        return Conversation.from_text(text)
    except (ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class SelfPrompts:
    """What an audit's self-prompts are like, for `mia_audit`.

    Attributes:
        texts: how many there are.
        distinct: share of different ones; of conversations, by what the target wrote of them.
        tokens: mean number a text, of conversations as a model reads them.
        ended_at_once: share in which the target wrote nothing, or nothing in one of its turns.
    """

    texts: int
    distinct: float
    tokens: float
    ended_at_once: float


@dataclass(frozen=True)
class Written:
    """What the target wrote of its self-prompts.

    Attributes:
        contents: of each text what has to differ.
        ended: of each whether something in it was ended at once.
    """

    contents: Sequence[Hashable] = field(repr=False)
    ended: Sequence[bool]

    @classmethod
    def of(cls, trained: TrainingTexts, way: SelfPrompt, beginnings: Sequence[str] | None) -> Written:
        """Look at self-prompts.

        Args:
            trained: the texts.
            way: what they were written from.
            beginnings: what plain texts go on from, the i-th the i-th, over and over; None where that is not known.
        """
        if trained.conversations is None:
            texts = trained.texts
            heads = [beginnings[i % len(beginnings)] if beginnings else "" for i in range(len(texts))]
            ended = [not text.strip() or text == head for text, head in zip(texts, heads, strict=True)]
            return cls(list(texts), ended)
        contents: list[tuple[str, ...]] = []
        for each in trained.conversations:
            of_each = each.contents()
            # Plain rows begin with an empty prompt where the target wrote all of it: only the completion is its own.
            which = range(len(of_each)) if way == "whole" and not each.plain else each.answers()
            contents.append(tuple(of_each[i] for i in which))
        return cls(contents, [not all(map(str.strip, turns)) or not turns for turns in contents])

    def told(self, lengths: Sequence[int]) -> SelfPrompts:
        """Describe them; `lengths` are their tokens."""
        n = len(self.contents)
        return SelfPrompts(
            n,
            len(set(self.contents)) / n if n else 0.0,
            statistics.fmean(lengths) if n else 0.0,
            sum(self.ended) / n if n else 0.0,
        )

    def check(self, way: SelfPrompt, config: AuditConfig, beginnings: Sequence[str] | None, *, chat: bool) -> None:
        """Refuse texts that are too alike to train a reference on.

        Args:
            way: what they were written from.
            config: `mia_allow_degenerate` lets them pass.
            beginnings: as in `of`.
            chat: whether the data are conversations.

        Raises:
            SpvmiaError: fewer than half of them differ.
        """
        n, distinct = len(self.contents), len(set(self.contents))
        if config.allow_degenerate or distinct >= LEAST_DISTINCT * n:
            return
        alike = Counter(self.contents).most_common(1)[0][1]
        ended = sum(self.ended)
        if way == "prefix" and beginnings and len(set(beginnings)) < LEAST_DISTINCT * len(beginnings):
            why = (
                f"the first {config.prompt_tokens} tokens of most held-out documents are the same, as within a shared "
                "system prompt"
            )
        elif ended >= LEAST_DISTINCT * n:
            why = f"the target ends {ended} of them at once"
        else:
            why = "the target writes the same again and again"
        if way == "prefix":
            remedy = "give other mia_prompts or a larger mia_prompt_tokens, or mia_self_prompt=reply" + (
                "" if chat else " where the data are conversations (mia_format)"
            )
        elif way == "reply":
            remedy = "give other mia_prompts or a higher mia_temperature, or check mia_chat_template"
        else:
            remedy = "use mia_self_prompt=reply with held-out conversations (mia_prompts), or check mia_chat_template"
        raise SpvmiaError(
            f"mia_self_prompt: expected self-prompts of which at least half differ, got {distinct} different ones, "
            f"{alike} of {n} the same: {why}; {remedy}; mia_allow_degenerate=true goes on"
        )
