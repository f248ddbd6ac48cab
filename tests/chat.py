"""A renderer of conversations that is a line of code a message, and conversations to render."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import AuditData, Conversation, Document, Record, Rendered


class FakeRenderer:
    """`role: content` and an end token for each message; plain rows are prompt, completion and an end token.

    Args:
        encode: tokens of a text alone.
        decode: text of tokens.
        end: token that ends a turn.
        begin: tokens before everything.
        loss_on: the mask.
        max_tokens: where conversations are cut.
        refuses: a text that the template refuses.
    """

    def __init__(
        self,
        encode: Callable[[str], Sequence[int]],
        decode: Callable[[Sequence[int]], str],
        end: int,
        *,
        begin: Sequence[int] = (),
        loss_on: str = "completion",
        max_tokens: int = 1000,
        refuses: str | None = None,
    ) -> None:
        self._encode = encode
        self._decode = decode
        self._end = end
        self._begin = list(begin)
        self._refuses = refuses
        self.loss_on = loss_on
        self.max_tokens = max_tokens
        self.ends = frozenset({end})
        self.roles: list[str] = []  # whose words were asked for

    def render(self, conversation: Conversation) -> Rendered:
        ids, answers = self._parts(conversation)
        if conversation.plain:
            ids, answers = [*ids, self._end], [*answers, True]
        ids, answers = ids[: self.max_tokens], answers[: self.max_tokens]
        counted = answers if self.loss_on == "completion" else [True] * len(ids)
        reason = None if any(counted[1:]) else "nothing to score"
        other = conversation.with_rejected()
        rejected = None if other is None else self.render(other)
        return Rendered(tuple(ids), tuple(counted), tuple(answers), reason, rejected)

    def opening(self, conversation: Conversation) -> list[int]:
        ids = self._parts(conversation)[0]
        return ids if conversation.plain else [*ids, *self._encode("assistant: ")]

    def user_opening(self, conversation: Conversation) -> list[int]:
        ids = self._parts(conversation)[0]
        if conversation.plain:
            raise SpvmiaError("mia_self_prompt: no template")
        return [*ids, *self._encode("user: ")]

    def written(self, token_ids: Sequence[int], *, role: str = "assistant", plain: bool = False) -> str:
        self.roles.append("plain" if plain else role)
        return self._decode(token_ids) if plain else self._decode(token_ids).strip()

    def notes(self, conversation: Conversation, *, known: bool = False) -> list[str]:
        return []

    def identity(self) -> dict[str, object]:
        return {"renderer": "fake", "loss_on": self.loss_on, "max_tokens": self.max_tokens}

    def _parts(self, conversation: Conversation) -> tuple[list[int], list[bool]]:
        ids, answers = list(self._begin), [False] * len(self._begin)
        written = conversation.answers()
        for i, message in enumerate(conversation.messages):
            if message["content"] == self._refuses:
                raise SpvmiaError("mia_chat_template: refused")
            head = [] if conversation.plain else list(self._encode(f"{message['role']}: "))
            body = [*self._encode(message["content"]), *([] if conversation.plain else [self._end])]
            ids += [*head, *body]
            answers += [*[False] * len(head), *[i in written] * len(body)]
        return ids, answers


def conversation(*turns: str, system: str | None = None) -> Conversation:
    """Users' and assistant's turns in alternation."""
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
    return Conversation(tuple(messages))


def plain_row(prompt: str, completion: str) -> Conversation:
    """A prompt and its completion as strings."""
    messages = ({"role": "user", "content": prompt}, {"role": "assistant", "content": completion})
    return Conversation(messages, prompt=1, plain=True)


def documents(conversations: Sequence[Conversation], name: str = "p") -> tuple[Document, ...]:
    """Held-out documents."""
    return tuple(Document(f"{name}:{i}", each.words(), conversation=each) for i, each in enumerate(conversations, 1))


def chat_data(
    conversations: Sequence[Conversation],
    prompts: Sequence[Conversation],
    renderer: FakeRenderer,
    candidate: Sequence[Conversation] = (),
) -> AuditData:
    """An audit of conversations, every other one a member."""
    records = [
        Record(f"f:{i}", each.words(), i % 2 == 0, f"f:{i}", (), each, renderer.render(each))
        for i, each in enumerate(conversations, 1)
    ]
    held_out = [replace(document, rendered=renderer.render(document.conversation)) for document in documents(prompts)]
    return AuditData(
        records=tuple(records),
        prompts=tuple(held_out),
        candidate=documents(candidate, "c"),
        membership="declared",
        fingerprint="f" * 8,
        source="made",
        block_size=0,
        format="messages",
        renderer=renderer,
    )
