"""What is audited: documents, the records cut from them, and who is a member."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

Membership = Literal["manifest", "declared", "assumed"]
"""How membership is known: from the training itself, from what the user says, or not at all (public data)."""


LossOn = Literal["all", "completion"]
"""Which tokens of a conversation carry loss: all, or what the model is to answer (the assistant's turns)."""

ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages, or a prompt with its answer, as a trainer gets them.

    Attributes:
        messages: `role`, `content` (a text, or a list of parts of text, which templates print each in its way) and
            whatever else a chat template reads (`tool_calls`, `name`, ...).
        prompt: how many of the messages are the prompt of a row with prompt and completion: everything after them is
            the answer, whoever speaks. None for a row of messages, where the assistant's turns are.
        plain: prompt and completion are plain strings: no template stands around them, an end token after them.
        tools: what the template is told of tools.
        options: further arguments of the template (TRL's `chat_template_kwargs`).
        rejected: of a preference the messages that stand in place of the answer; the messages above hold the chosen
            one. None elsewhere.
    """

    messages: tuple[Mapping[str, Any], ...] = field(repr=False)
    prompt: int | None = None
    plain: bool = False
    tools: tuple[Any, ...] | None = field(default=None, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    rejected: tuple[Mapping[str, Any], ...] | None = field(default=None, repr=False)

    def contents(self) -> list[str]:
        """The text of every message, parts joined, empty where it has none."""
        return list(map(content_of, self.messages))

    @property
    def has_parts(self) -> bool:
        """Whether the content of a message is a list of parts."""
        return any(isinstance(message.get("content"), list) for message in self.messages)

    def answers(self) -> list[int]:
        """Which messages the model is to write."""
        if self.prompt is not None:
            return list(range(self.prompt, len(self.messages)))
        return [i for i, message in enumerate(self.messages) if message["role"] == ASSISTANT]

    def counted(self, loss_on: LossOn) -> list[int]:
        """Which messages carry loss."""
        return self.answers() if loss_on == "completion" else list(range(len(self.messages)))

    def words(self, which: Sequence[int] | None = None) -> str:
        """The texts of the messages (of those in `which`) without any template, a line break between them."""
        contents = self.contents()
        chosen = contents if which is None else [contents[i] for i in which]
        return "\n".join(content for content in chosen if content)

    def said(self) -> str:
        """All that is said, without any template: the words, and what turns think and call.

        Conversations are the same where this is.
        """
        return "\n".join(text for message in self.messages for text in _all_said(message) if text)

    def transcript(self, loss_on: LossOn, words: str | None = None) -> str:
        """The turns for people to read: who speaks, which of them carry loss where not all do, and what is said.

        A turn without words names what it calls.

        Args:
            loss_on: which turns carry loss.
            words: of the record; turns that say something else stand in most records, and are left out.
        """
        counted = set(self.counted(loss_on))
        turns = [
            (message, " (scored)" if place in counted and len(counted) < len(self.messages) else "")
            for place, message in enumerate(self.messages)
        ]
        turns += [(message, " (rejected)") for message in self.rejected or ()]
        return "\n".join(
            f"{message['role']}{mark}: {_said(message)}"
            for message, mark in turns
            if words is None or content_of(message) in words
        )

    def with_contents(self, new: Mapping[int, str]) -> Conversation:
        """The same conversation with other texts in some messages."""
        messages = [{**m, "content": _like(m, new[i])} if i in new else m for i, m in enumerate(self.messages)]
        return replace(self, messages=tuple(messages))

    def with_rejected(self) -> Conversation | None:
        """Of a preference the conversation that ends with the rejected answer; None where there is none."""
        if self.rejected is None:
            return None
        return replace(self, messages=(*self.messages[: self.prompt], *self.rejected), rejected=None)

    def with_chosen(self) -> Conversation:
        """The conversation as it is trained on by itself: without the rejected answer of a preference."""
        return self if self.rejected is None else replace(self, rejected=None)

    def to_text(self) -> str:
        """As one text, for `from_text` to read."""
        given = {"messages": list(self.messages), "prompt": self.prompt, "plain": self.plain, "options": self.options}
        given["tools"] = None if self.tools is None else list(self.tools)
        # Only where it is: what is kept of others is found by this text.
        return json.dumps(given if self.rejected is None else {**given, "rejected": list(self.rejected)})

    @classmethod
    def of_text(cls, text: str) -> Conversation:
        """A plain text with an end token after it, as trainers write it: a completion of nothing."""
        return cls(({"role": ASSISTANT, "content": text},), prompt=0, plain=True)

    @property
    def is_text(self) -> bool:
        """Whether it is but a text with an end token."""
        return self.plain and self.prompt == 0

    @classmethod
    def from_text(cls, text: str) -> Conversation:
        """What `to_text` wrote."""
        given = json.loads(text)
        tools, rejected = given["tools"], given.get("rejected")
        return cls(
            tuple(given["messages"]),
            given["prompt"],
            given["plain"],
            None if tools is None else tuple(tools),
            given["options"],
            None if rejected is None else tuple(rejected),
        )


def content_of(message: Mapping[str, Any]) -> str:
    """The text of a message, its parts one after the other; empty where it has none."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part if isinstance(part, str) else str(part["text"]) for part in content)
    return str(content or "")


def _like(message: Mapping[str, Any], text: str) -> str | list[dict[str, str]]:
    """Another text for a message, as one part where it has parts."""
    return [{"type": "text", "text": text}] if isinstance(message.get("content"), list) else text


THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""What templates read of an assistant's thoughts."""


def _all_said(message: Mapping[str, Any]) -> Iterator[str]:
    """Thoughts, content and calls of a turn."""
    yield from (message[key] for key in THOUGHTS if isinstance(message.get(key), str))
    yield content_of(message)
    for call in _calls(message):
        arguments = call.get("arguments")
        # In one order and without what is null: tables have every key in every object, in an order of their own.
        if isinstance(arguments, Mapping):
            arguments = {key: value for key, value in arguments.items() if value is not None}
        written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False, sort_keys=True)
        yield f"{call.get('name')} {written}"


def _calls(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The functions that a turn calls, with their arguments."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list | tuple):
        return []
    found = [call.get("function", call) for call in calls if isinstance(call, Mapping)]
    return [call for call in found if isinstance(call, Mapping)]


def _said(message: Mapping[str, Any]) -> str:
    """What a turn says, and what it calls."""
    calls = _calls(message)
    named = f"[calls {', '.join(str(call.get('name')) for call in calls)}]" if calls else ""
    return " ".join(filter(None, (content_of(message), named)))


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a trainer makes of a conversation: the very sequence, and which of its tokens carry loss.

    Attributes:
        token_ids: (n,) all that the model reads, special tokens included; nothing stands before or after them.
        counted: (n,) which of them carried loss.
        answers: (n,) which of them the model is to write; None where the template does not tell.
        reason: why there is nothing to score, where that is so.
        rejected: of a preference the sequence with the rejected answer; None elsewhere.
    """

    token_ids: tuple[int, ...] = field(repr=False)
    counted: tuple[bool, ...] = field(repr=False)
    answers: tuple[bool, ...] | None = field(default=None, repr=False)
    reason: str | None = None
    rejected: Rendered | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Document:
    """One row of a data source.

    Attributes:
        id: `file:row`, rows counted from 1 in each file.
        text: the row's text; it never shows in `repr`. Of a conversation, all that is said, without any template.
        row: its number in the whole source, from the second of several files on; 0 where it is the one in `id`.
        conversation: what the row holds where it is no plain text.
        rendered: that as a model reads it, once it is known how.
        unit: keyed hash of whom it belongs to (`trainers` has it in clear until the key is known, so that it never
            shows in `repr`); None where nobody said.
        group: what it is one of; None likewise.
    """

    id: str
    text: str = field(repr=False)
    row: int = 0
    conversation: Conversation | None = None
    rendered: Rendered | None = None
    unit: str | None = field(default=None, repr=False)
    group: str | None = None


class Piece(NamedTuple):
    """Characters `start` to `end` of the document in a source's row, followed by a blank line."""

    row: int
    start: int
    end: int


def clusters_called(*, have_units: bool) -> str:
    """What the clusters of records are: whom they belong to where that is known, else documents."""
    return "units" if have_units else "documents"


@dataclass(frozen=True, slots=True)
class Record:
    """One audited text: a packed block of tokens, or a whole document.

    Attributes:
        id: `file:row` of its first document, with `#k` appended for the k-th further block of the same document.
        text: what is scored; never shown in `repr`, logs or errors.
        is_member: whether it was in the target's training data. Members are the positive class everywhere.
        cluster: id of the document it comes from, or of whom it belongs to. Records of one cluster are dependent, so
            the cluster is the unit of resampling; no document lies in two clusters.
        pieces: where the text was cut from, for a manifest to cut it again.
        conversation: what it is where it is no plain text; `text` then holds all that is said, without any template.
        rendered: that as a model reads it.
        unit: keyed hash of whom it belongs to (`data.units`); None where nobody said. No unit has records of both
            classes.
        group: what it is one of (a language, a region); None where nobody said, or where a block has several.
    """

    id: str
    text: str = field(repr=False)
    is_member: bool
    cluster: str
    pieces: tuple[Piece, ...] = field(default=(), repr=False)
    conversation: Conversation | None = None
    rendered: Rendered | None = None
    unit: str | None = None
    group: str | None = None


def clusters_by_records(records: Sequence[Record]) -> list[str]:
    """The cluster of each record under a name that no key changes: that of a unit is the least id of its records.

    Units are named by a keyed hash. What is ordered by such names, as documents are before they are dealt to folds,
    would be another thing with another key, and so would every number that comes of it.
    """
    least: dict[str, str] = {}
    for record in records:
        if record.unit is not None:
            least[record.cluster] = min(least.get(record.cluster, record.id), record.id)
    return [least.get(record.cluster, record.cluster) for record in records]


@dataclass(frozen=True)
class AuditData:
    """Everything one audit reads: the records, and the documents that are never audited.

    Attributes:
        records: members and non-members in a seeded shuffled order (ranks and `--limit` take slices of it).
        prompts: held-out documents. Their first tokens prompt the target; they are also the ReCaLL prefix and
            the RMIA population.
        candidate: other data of the same domain that `mia_candidate` names; empty if it names none.
        held_out: the prompts' documents cut like the records, as many as self-prompts for each of `mia_references`:
            what candidate references are trained on where no option names other data; empty where it does, or with
            `mia_candidate` `none`.
        membership: how membership is known.
        fingerprint: keyed hash of all texts and labels; safe to publish.
        source: what the data are, in words for people ("ag_news.jsonl", "hf:fancyzhx/ag_news:train").
        block_size: tokens per record, 0 when a record is a whole document.
        base_model: the model before fine-tuning if a manifest names it.
        provenance: JSON-ready details for `mia_audit` (counts, files, manifest path, protocol).
        format: what rows are: `text`, or a kind of conversation.
        renderer: how conversations become tokens (`data.rendering.Renderer`); None for plain text.
        unit_column: the column that says whom a record belongs to; None where nobody said.
        group_column: the column that says which group it is of; None likewise.
        maker: "name version" of the distribution that registers the data set; empty of files that the user names.
    """

    records: tuple[Record, ...]
    prompts: tuple[Document, ...]
    candidate: tuple[Document, ...]
    membership: Membership
    fingerprint: str
    source: str
    block_size: int
    base_model: str | None = None
    provenance: dict[str, object] = field(default_factory=dict)
    format: str = "text"
    renderer: Any = field(default=None, compare=False, repr=False)
    held_out: tuple[Document, ...] = ()
    unit_column: str | None = None
    group_column: str | None = None
    maker: str = ""

    def texts(self) -> list[tuple[str, str]]:
        """(id, text) of all that is private; of a preference the rejected side too."""
        items: list[Record | Document] = [*self.records, *self.prompts, *self.candidate, *self.held_out]
        sides = ((each.id, each.conversation.with_rejected()) for each in items if each.conversation is not None)
        rejected = [(id_, side.said()) for id_, side in sides if side is not None]
        return [(each.id, each.text) for each in items] + rejected

    @property
    def of_candidate(self) -> tuple[Document, ...]:
        """What the candidate reference is trained on; empty where there is none."""
        return self.candidate or self.held_out

    @property
    def members(self) -> Sequence[Record]:
        """The records that were trained on."""
        return [record for record in self.records if record.is_member]

    @property
    def nonmembers(self) -> Sequence[Record]:
        """The records that were not."""
        return [record for record in self.records if not record.is_member]
