"""Self-prompts that are conversations: the target writes the assistant's turns of held-out ones, or all turns.

`whole` is the idea of Magpie (Xu et al. 2024, arXiv 2406.08464): a model that is given nothing but its template up to
where a user begins writes what users write, and answers it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import Backend, OnDone
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
                f"mia_prompts: expected held-out conversations with an answer that begins within {self._limit} tokens, "
                f"got {len(prompts)} without; give others, raise mia_record_tokens, or use mia_self_prompt=whole"
            )
        longest = max(self._longest_turn(conversation) for conversation in usable)
        return self._in_chunks(
            lambda rows: self._reply({i: usable[i % len(usable)] for i in rows}, longest), on_done, done
        )

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
            return self._in_chunks(lambda rows: self._complete(rows, row, opening, length), on_done, done)
        self._renderer.user_opening(blank)  # a template that takes no user here is refused, not taken for a word's
        return self._in_chunks(lambda rows: self._exchange(rows, blank, length), on_done, done)

    def _in_chunks(
        self,
        write: Callable[[Sequence[int]], Mapping[int, Conversation]],
        on_done: OnDone | None,
        done: Collection[int],
    ) -> list[str | None]:
        """The texts of all conversations. A chunk that is not wholly done is written whole: to the same bits."""
        texts: list[str | None] = [None] * self._count
        for rows in self._chunks():
            if all(i in done for i in rows):
                continue
            made = {i: conversation.to_text() for i, conversation in write(rows).items()}
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
        fits = len(opening) < self._limit and self._backend.unknown_ids(Role.TARGET).isdisjoint(opening)
        return conversation.with_chosen() if fits else None

    def _longest_turn(self, conversation: Conversation) -> int:
        """Most tokens that a turn to write has, its end included; at least one."""
        rendered: Rendered = self._renderer.render(conversation)
        if rendered.answers is not None:
            return max((len(list(run)) for answer, run in groupby(rendered.answers) if answer), default=1)
        contents = conversation.contents()
        return max(len(self._backend.encode(contents[i])) + 1 for i in _to_write(conversation))

    def _reply(self, conversations: Mapping[int, Conversation], longest: int) -> dict[int, Conversation]:
        made = dict(conversations)
        turns = {i: _to_write(conversation) for i, conversation in conversations.items()}
        for turn in range(max(map(len, turns.values()))):
            openings: dict[int, list[int]] = {}
            for i, places in turns.items():
                if turn < len(places):
                    so_far = _first(made[i], places[turn])
                    opening = self._begun(self._renderer.opening, so_far)
                    if opening is not None:
                        openings[i] = opening
                    else:
                        made[i], turns[i] = so_far, places[:turn]
            room = {i: min(longest, self._limit - len(opening)) for i, opening in openings.items()}
            plain = {i for i, conversation in conversations.items() if conversation.plain}
            before = {i: _first(made[i], turns[i][turn]) for i in openings}
            for i, words in self._written(openings, room, turn, ASSISTANT, before, plain).items():
                messages, place = list(made[i].messages), turns[i][turn]
                messages[place] = {"role": messages[place]["role"], "content": messages[place].get("content")}
                made[i] = replace(made[i], messages=tuple(messages)).with_contents({place: words})
        return made

    def _exchange(self, rows: Sequence[int], blank: Conversation, length: int) -> dict[int, Conversation]:
        made = dict.fromkeys(rows, blank)
        going, exchange = list(rows), 0
        while going:
            openings = self._all_begun(self._renderer.user_opening, {i: made[i] for i in going})
            room = {i: max(1, min(length, (self._limit - len(opening)) // 2)) for i, opening in openings.items()}
            questions = self._written(openings, room, 2 * exchange, USER, made)
            asked = {i: _and(made[i], USER, words) for i, words in questions.items() if words.strip()}
            openings = self._all_begun(self._renderer.opening, asked)
            room = {i: min(length, self._limit - len(opening)) for i, opening in openings.items()}
            answers = self._written(openings, room, 2 * exchange + 1, ASSISTANT, asked)
            made |= {i: _answered(asked[i], words) for i, words in answers.items()}
            read = self._all_begun(self._sequence, {i: made[i] for i, words in answers.items() if words.strip()})
            going, exchange = [i for i, token_ids in read.items() if len(token_ids) < length], exchange + 1
        return made

    def _sequence(self, conversation: Conversation) -> list[int]:
        return list(self._renderer.render(conversation).token_ids)

    def _complete(
        self, rows: Sequence[int], row: Conversation, opening: list[int], length: int
    ) -> dict[int, Conversation]:
        room = max(1, min(length, self._limit) - len(opening))
        openings, before = dict.fromkeys(rows, opening), dict.fromkeys(rows, row)
        written = self._written(openings, dict.fromkeys(rows, room), 0, ASSISTANT, before, set(rows))
        return {i: _answered(row, words) for i, words in written.items()}

    def _all_begun(
        self, begin: Callable[[Conversation], list[int]], conversations: Mapping[int, Conversation]
    ) -> dict[int, list[int]]:
        found = {i: self._begun(begin, conversation) for i, conversation in conversations.items()}
        return {i: opening for i, opening in found.items() if opening is not None}

    def _begun(self, begin: Callable[[Conversation], list[int]], so_far: Conversation) -> list[int] | None:
        """What is read before the next turn; None where that lies beyond the cut.

        Or where the template refuses what the target has written: the conversation ends there, and not the run.
        """
        try:
            opening = begin(so_far)
        except SpvmiaError:
            return None
        return opening if len(opening) < self._limit else None

    def _written(
        self,
        openings: Mapping[int, Sequence[int]],
        room: Mapping[int, int],
        turn: int,
        role: str,
        before: Mapping[int, Conversation],
        plain: Collection[int] = (),
    ) -> dict[int, str]:
        """The words that the target writes after each opening, in at most so many tokens; `plain` rows as they are.

        `before` are the conversations that the openings are of: what a target of text alone is given.
        """
        rows = list(openings)
        if not rows:
            return {}
        if self._backend.is_asked_by_text:
            return self._answered_by_text(rows, room, turn, role, before)
        found = self._backend.generate(
            [openings[i] for i in rows],
            [len(openings[i]) + room[i] for i in rows],
            [stable_seed(self._seed, "self_prompt", i, turn) for i in rows],
            ends=self._renderer.ends,
            complete=True,
        )
        return {
            i: self._renderer.written(token_ids[len(openings[i]) :], role=role, plain=i in plain)
            for i, token_ids in zip(rows, found, strict=True)
            if token_ids is not None
        }

    def _answered_by_text(
        self, rows: Sequence[int], room: Mapping[int, int], turn: int, role: str, before: Mapping[int, Conversation]
    ) -> dict[int, str]:
        if role == USER:
            raise SpvmiaError(
                f"mia_self_prompt: expected reply or held-out conversations, because {self._backend.name} answers and "
                "writes no user's turns, got whole; give mia_prompts and mia_self_prompt=reply"
            )
        found = self._backend.continue_texts(
            [before[i] for i in rows],
            [room[i] for i in rows],
            [stable_seed(self._seed, "self_prompt", i, turn) for i in rows],
            renderer=self._renderer,
        )
        return {i: text for i, text in zip(rows, found, strict=True) if text is not None}


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
