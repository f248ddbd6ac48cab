"""Self-prompts that are conversations: the target writes the assistant's turns of held-out ones, or all turns.

`whole` is the idea of Magpie (Xu et al. 2024, arXiv 2406.08464): a model that is given nothing but its template up to
where a user begins writes what users write, and answers it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import Backend, OnDone, Turn
from spvmia_plugin.records import ASSISTANT, Conversation, Document, Rendered
from spvmia_plugin.seeds import stable_seed
from spvmia_plugin.signals import Role

CHUNK = {"cpu": 64}
CHUNK_DEVICE = 512
"""So many conversations are written side by side, and are kept or lost together when a run is killed."""

USER = "user"


class Writer:
    """Has the target write conversations, turn after turn, many side by side.

    Conversation i depends on what it is written from, the settings and i alone; turn t of it is drawn from a seed of
    its own. They are kept as `Conversation.to_text`.

    Args:
        backend: the target.
        renderer: how conversations become tokens (`data.rendering.Renderer`).
        seed: of the audit.
        count: how many conversations.
    """

    def __init__(self, backend: Backend, renderer: Any, seed: int, count: int) -> None:
        self._backend = backend
        self._renderer = renderer
        self._seed = seed
        self._count = count
        self._limit = min(renderer.max_tokens, backend.max_length)

    def replies(self, prompts: Sequence[Document], on_done: OnDone | None, done: Collection[int]) -> list[str | None]:
        """Conversations whose users' turns are those of held-out ones, over and over; the answers are the target's.

        System and tool turns stay too, and so does the prompt of rows with prompt and completion. A turn has at most as
        many tokens as the longest of the held-out ones. A conversation ends where the trainer cuts it.

        Args:
            prompts: the held-out documents; those without a turn to write, or whose first lies beyond where
                conversations are cut, are not used.
            on_done: called with {i: text} as conversations finish.
            done: the i that are there already: a chunk of nothing else is not written again (None in the answer).

        Raises:
            SpvmiaError: no document can be used.
        """
        usable = [found for document in prompts if (found := self._replied_to(document)) is not None]
        if not usable:
            raise SpvmiaError(
                "mia_prompts: expected held-out conversations with an answer that has something before it and begins "
                f"within {self._limit} tokens, got {len(prompts)} without; give others, raise mia_record_tokens, or "
                "use mia_self_prompt=whole"
            )
        longest = max(self._longest_turn(conversation) for conversation in usable)
        return self._in_chunks(lambda i: self._reply(usable[i % len(usable)], longest), on_done, done)

    def wholes(
        self, blank: Conversation, length: int, on_done: OnDone | None, done: Collection[int]
    ) -> list[str | None]:
        """Conversations of which every word is the target's: a user's turn, an answer, and so on.

        One ends with the answer at which it has `length` tokens, or where a turn comes out empty. No turn is longer
        than `length`; a user's leaves room for an answer. Of rows with prompt and completion the last answer is the
        completion. Plain ones have no template that would say who speaks: all that the target writes is the completion.

        Args:
            blank: a conversation without messages; `prompt` is 0 for rows with prompt and completion.
            length: in tokens.
            on_done: as in `replies`.
            done: as in `replies`.

        Raises:
            SpvmiaError: nothing stands before a user's first word, so there is nothing to write from.
        """
        if blank.plain:
            row = replace(_and(blank, USER, ""), prompt=1)  # an empty prompt
            opening = self._renderer.opening(row)
            if not opening:
                raise SpvmiaError(
                    "mia_self_prompt: whole expects a chat template, or a tokenizer that begins texts with a token of "
                    "its own, got plain prompts with completions and a tokenizer that begins with nothing; use "
                    "mia_self_prompt=reply with held-out rows (mia_prompts)"
                )
            return self._in_chunks(lambda i: self._complete(row, opening, length), on_done, done)
        self._renderer.user_opening(blank)  # a template that takes no user here is refused, not taken for a word's
        return self._in_chunks(lambda i: self._exchange(blank, length), on_done, done)

    def _in_chunks(
        self,
        script: Callable[[int], Script],
        on_done: OnDone | None,
        done: Collection[int],
    ) -> list[str | None]:
        """The texts of all conversations. A chunk that is not wholly done is written whole: to the same bits."""
        texts: list[str | None] = [None] * self._count
        for rows in self._chunks():
            if all(i in done for i in rows):
                continue
            conversations = self._written({i: script(i) for i in rows})
            made = {i: conversations[i].to_text() for i in rows}
            for i, text in made.items():
                texts[i] = text
            if on_done is not None:
                on_done(made)
        return texts

    def _chunks(self) -> Iterator[Sequence[int]]:
        size = CHUNK.get(getattr(self._backend.device, "type", "cpu"), CHUNK_DEVICE)
        for start in range(0, self._count, size):
            yield range(start, min(start + size, self._count))

    def _replied_to(self, document: Document) -> Conversation | None:
        """The conversation of a held-out document, if the target can write a turn of it."""
        conversation = document.conversation
        turns = _to_write(conversation) if conversation is not None else []
        if conversation is None or not turns:
            return None
        opening = self._renderer.opening(_first(conversation, turns[0]))
        fits = 0 < len(opening) < self._limit and self._backend.unknown_ids(Role.TARGET).isdisjoint(opening)
        return conversation.with_chosen() if fits else None

    def _longest_turn(self, conversation: Conversation) -> int:
        """Most tokens that a turn to write has, its end included; at least one."""
        rendered: Rendered = self._renderer.render(conversation)
        if rendered.answers is not None:
            return max((len(list(run)) for answer, run in groupby(rendered.answers) if answer), default=1)
        contents = conversation.contents()
        return max(len(self._backend.encode(contents[i])) + 1 for i in _to_write(conversation))

    def _reply(self, conversation: Conversation, longest: int) -> Script:
        """All turns of a held-out conversation that the target is to write; it ends where one would lie beyond."""
        made = conversation
        for place in _to_write(conversation):
            before = _first(made, place)
            opening = self._begun(self._renderer.opening, before)
            if opening is None:
                return before
            room = min(longest, self._limit - len(opening))
            words = yield _Asked(opening, room, ASSISTANT, before, plain=conversation.plain)
            messages = list(made.messages)
            messages[place] = {"role": messages[place]["role"], "content": messages[place].get("content")}
            made = replace(made, messages=tuple(messages)).with_contents({place: words})
        return made

    def _exchange(self, blank: Conversation, length: int) -> Script:
        """A user's turn, an answer, and so on, until `length` tokens, the cut, or a turn without words."""
        made = blank
        while True:
            opening = self._begun(self._renderer.user_opening, made)
            if opening is None:
                return made
            room = max(1, min(length, (self._limit - len(opening)) // 2))
            words = yield _Asked(opening, room, USER, made)
            asked = _and(made, USER, words)
            opening = self._begun(self._renderer.opening, asked) if words.strip() else None
            if opening is None:
                return made
            words = yield _Asked(opening, min(length, self._limit - len(opening)), ASSISTANT, asked)
            made = _answered(asked, words)
            read = self._begun(self._sequence, made) if words.strip() else None
            if read is None or len(read) >= length:
                return made

    def _complete(self, row: Conversation, opening: list[int], length: int) -> Script:
        """The completion of a plain row whose prompt is empty."""
        room = max(1, min(length, self._limit) - len(opening))
        words = yield _Asked(opening, room, ASSISTANT, row, plain=True)
        return _answered(row, words)

    def _sequence(self, conversation: Conversation) -> list[int]:
        return list(self._renderer.render(conversation).token_ids)

    def _begun(self, begin: Callable[[Conversation], list[int]], so_far: Conversation) -> list[int] | None:
        """What is read before the next turn; None where that lies beyond the cut.

        Or where the template refuses what the target has written: the conversation ends there, and not the run.
        """
        try:
            opening = begin(so_far)
        except SpvmiaError:
            return None
        return opening if len(opening) < self._limit else None

    def _written(self, scripts: Mapping[int, Script]) -> dict[int, Conversation]:
        """What comes out of the scripts when the target writes whatever they ask for."""
        made: dict[int, Conversation] = {}
        asked: dict[int, _Asked] = {}
        turns = dict.fromkeys(scripts, 0)

        def go_on(i: int, words: str | None) -> Turn | None:
            try:
                asked[i] = next(scripts[i]) if words is None else scripts[i].send(words)
            except StopIteration as end:
                made[i] = end.value
                return None
            seed = stable_seed(self._seed, "self_prompt", i, turns[i])
            turns[i] += 1
            return Turn(asked[i].opening, asked[i].room, seed)

        def follow(i: int, token_ids: list[int]) -> Turn | None:
            return go_on(i, self._renderer.written(token_ids, role=asked[i].role, plain=asked[i].plain))

        begun = {i: turn for i in scripts if (turn := go_on(i, None)) is not None}
        if self._backend.is_asked_by_text:
            while begun:
                texts = self._answered_by_text({i: asked[i] for i in begun}, [turn.seed for turn in begun.values()])
                following = {i: go_on(i, words) for i, words in texts.items()}
                begun = {i: turn for i, turn in following.items() if turn is not None}
        else:
            self._backend.converse(begun, follow, ends=self._renderer.ends)
        if missing := len(scripts) - len(made):
            raise SpvmiaError(
                f"{self._backend.name}: expected all of {len(scripts)} conversations written to their ends, got "
                f"{missing} that were not; correct the backend"
            )
        return made

    def _answered_by_text(self, asked: Mapping[int, _Asked], seeds: Sequence[int]) -> dict[int, str]:
        if any(each.role == USER for each in asked.values()):
            raise SpvmiaError(
                f"mia_self_prompt: expected reply or held-out conversations, because {self._backend.name} answers and "
                "writes no user's turns, got whole; give mia_prompts and mia_self_prompt=reply"
            )
        found = self._backend.continue_texts(
            [each.before for each in asked.values()],
            [each.room for each in asked.values()],
            seeds,
            renderer=self._renderer,
        )
        return {i: text for i, text in zip(asked, found, strict=True) if text is not None}


@dataclass(frozen=True)
class _Asked:
    """A turn that a script asks for.

    Attributes:
        opening: all that the target reads before.
        room: how many tokens it may write.
        role: whose turn.
        before: the conversation that `opening` is of: what a target of text alone is given.
        plain: whether the words stand there without a template.
    """

    opening: list[int]
    room: int
    role: str
    before: Conversation
    plain: bool = False


Script = Generator[_Asked, str, Conversation]
"""How a conversation is written: it asks for turns, is sent the words of each, and answers the conversation."""


def _to_write(conversation: Conversation) -> list[int]:
    """The messages that the target writes: the answers that nobody else gave."""
    answers = conversation.answers()
    return answers if conversation.plain else [i for i in answers if conversation.messages[i]["role"] == ASSISTANT]


def _first(conversation: Conversation, count: int) -> Conversation:
    return replace(conversation, messages=conversation.messages[:count])


def _answered(conversation: Conversation, words: str) -> Conversation:
    """With an answer, which is the completion of a row that has one."""
    prompt = None if conversation.prompt is None else len(conversation.messages)
    return replace(_and(conversation, ASSISTANT, words), prompt=prompt)


def _and(conversation: Conversation, role: str, words: str) -> Conversation:
    return replace(conversation, messages=(*conversation.messages, {"role": role, "content": words}))
