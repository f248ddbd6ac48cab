"""Rows as trainers take them: messages, prompts with completions, instructions, ShareGPT's conversations, preferences.

What stands for a row is what TRL 1.16 and axolotl read from it. Nothing is rendered here: that takes a template.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from spvmia_plugin.data.objects import decode, repeats_a_key
from spvmia_plugin.errors import known_columns
from spvmia_plugin.records import ASSISTANT, THOUGHTS, Conversation
from spvmia_plugin.util.strict_json import is_unicode

RowFormat = Literal["text", "messages", "prompt_completion", "instruction", "sharegpt", "preference"]
"""What the rows of a source are."""


class RowError(ValueError):
    """What does not fit about a row, and what to do, without any of its content; whoever reads it adds the place."""

    def __init__(self, problem: str, remedy: str = "correct or remove the row") -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem, self.remedy = problem, remedy


@dataclass(frozen=True)
class Keys:
    """The columns of a format.

    Attributes:
        required: by these it is recognised; every row has them.
        optional: read where they are there.
        read: makes a conversation of a row.
        title: what the rows are, for people.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...]
    read: Callable[[Mapping[str, Any]], Conversation]
    title: str

    @property
    def every(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.required, *self.optional)


def recognise(keys: Collection[str], text_column: str, *, text_given: bool = False) -> RowFormat | None:
    """The format of rows with these keys, None if there is none.

    As in TRL, prompt and completion, messages, conversations and preferences win over a column of text beside them;
    text wins over an instruction, which TRL does not read (Alpaca's own data have the two as one in `text`).

    Args:
        keys: of a row, or the columns of a table.
        text_column: the column that would hold plain text.
        text_given: whether the user named that one.

    Raises:
        RowError: keys of several formats, or a text column that is but a part of a format.
    """
    found = [name for name, format_ in FORMATS.items() if set(format_.required) <= set(keys)]
    parts = [name for name in found if text_column in FORMATS[name].every]
    if text_given:
        if text_column not in keys:
            return None
        if parts:
            others = _listed([key for key in FORMATS[parts[0]].every if key in keys and key != text_column])
            raise RowError(
                f"expected no mia_text_column (finetune: --text-column), got {text_column!r}, which the format "
                f"{parts[0]} reads" + (f" together with {others}" if others else ""),
                "leave the option out and the whole is read, or say mia_format=text (finetune: --format text) to take "
                "that column alone",
            )
        return "text"
    if text_column in keys and not parts:
        found = [name for name in found if name != "instruction"]
    if len(found) > 1:
        raise RowError(
            f"expected the columns of one format, got those of {_listed(found)}",
            "name the one that was trained on with mia_format (finetune: --format)",
        )
    if found:
        return found[0]
    return "text" if text_column in keys else None


def conversation_of(row: Mapping[str, Any], row_format: RowFormat) -> Conversation:
    """The conversation in a row.

    Args:
        row: its values; a key that is not there is a null.
        row_format: any but `text`.

    Raises:
        RowError: what is missing or wrong.
    """
    return FORMATS[row_format].read(row)


def is_empty(row: Mapping[str, Any], row_format: RowFormat) -> bool:
    """Whether nothing stands in a row of the format."""
    return all(row.get(key) is None for key in FORMATS[row_format].required)


def checked_size(conversation: Conversation) -> int:
    """The characters of all that a conversation holds.

    Raises:
        RowError: it holds what no file of JSON can, or half a surrogate pair.
    """
    rejected = None if conversation.rejected is None else list(conversation.rejected)
    held = [list(conversation.messages), conversation.tools, dict(conversation.options), rejected]
    try:
        written = json.dumps(held, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RowError("expected texts, numbers, lists and objects, got something that JSON cannot hold") from error
    if not is_unicode(written):
        raise RowError("expected valid Unicode, got half a surrogate pair", "correct the row")
    return len(written)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(map(repr, names))


def _of_messages(row: Mapping[str, Any]) -> Conversation:
    """As TRL: nulls among a message's keys are left out (transformers does so too), nulls further in are kept."""
    messages = _with_answer(_messages(row.get("messages"), "messages"), "messages")
    return Conversation(messages, tools=_tools(row), options=_options(row))


def _of_prompt_completion(row: Mapping[str, Any]) -> Conversation:
    """As TRL: two texts, or two lists of messages; in a CSV file these are JSON."""
    prompt, completion = (_required(row, key) for key in ("prompt", "completion"))
    if all(isinstance(value, list | tuple) or _is_json_list(value) for value in (prompt, completion)):
        before, after = _messages(prompt, "prompt"), _messages(completion, "completion")
        return Conversation((*before, *after), len(before), tools=_tools(row), options=_options(row))
    if isinstance(prompt, str) and isinstance(completion, str):
        return _plain(prompt, completion)
    raise RowError(
        "expected 'prompt' and 'completion' as two texts or as two lists of messages, got "
        f"{type(prompt).__name__} and {type(completion).__name__}"
    )


def _is_json_list(value: Any) -> bool:
    """Whether a text is a list of messages in JSON: texts of both kinds are hardly that by chance."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return False
    try:
        messages = json.loads(value)
    except (ValueError, RecursionError):
        return False
    return bool(messages) and all(isinstance(message, dict) and "role" in message for message in messages)


def _plain(prompt: str, completion: str) -> Conversation:
    messages = ({"role": "user", "content": prompt}, {"role": ASSISTANT, "content": completion})
    return Conversation(messages, prompt=1, plain=True)


def _of_preference(row: Mapping[str, Any]) -> Conversation:
    """As TRL's DPOTrainer: two answers, as texts or as lists of messages (in a CSV file these are JSON), to one prompt.

    Without a prompt both answers begin with it; so do messages whose prompt is a text, which repeats what they hold
    (TRL's `maybe_extract_prompt`).
    """
    prompt = row.get("prompt")
    values = [_required(row, key) for key in ("chosen", "rejected")]
    if all(isinstance(value, list | tuple) or _is_json_list(value) for value in values):
        chosen, rejected = _messages(values[0], "chosen"), _messages(values[1], "rejected")
        if isinstance(prompt, list | tuple) or _is_json_list(prompt):
            before = _messages(prompt, "prompt")
        else:
            shared = _shared(chosen, rejected)
            before, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        if not before:
            raise RowError(
                "expected 'chosen' and 'rejected' to begin with the same messages, which are the prompt, got none that "
                "they share",
                "give the prompt as messages in 'prompt', or correct or remove the row",
            )
        return Conversation(
            (*before, *_with_answer(chosen, "chosen")),
            len(before),
            tools=_tools(row),
            options=_options(row),
            rejected=_with_answer(rejected, "rejected"),
        )
    kinds = " and ".join(type(value).__name__ for value in values)
    if not all(isinstance(value, str) for value in values):
        raise RowError(f"expected 'chosen' and 'rejected' as two texts or as two lists of messages, got {kinds}")
    chosen, rejected = values
    if prompt is None:
        if not (chosen and rejected):
            raise RowError(
                "expected 'chosen' and 'rejected' to begin with the prompt where there is no column 'prompt', got an "
                "empty text",
                "add 'prompt', or correct or remove the row",
            )
        shared = _shared(chosen, rejected)
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    elif not isinstance(prompt, str):
        raise RowError(f"expected 'prompt' as a text beside answers that are texts, got {type(prompt).__name__}")
    return replace(_plain(prompt, chosen), rejected=({"role": ASSISTANT, "content": rejected},))


def _shared(chosen: Sequence[Any], rejected: Sequence[Any]) -> int:
    """How many messages or characters of both are their prompt, to the letter as TRL's `extract_prompt` counts them.

    A blank before the difference belongs to the answers. Where one is the beginning of the other, so does the last
    message or character that they share. -1, the last character alone as the answer, where texts differ from the
    beginning and the chosen one ends in a blank: what was trained on is audited, odd or not.
    """
    place = 0
    for place in range(min(len(chosen), len(rejected))):
        if chosen[place] != rejected[place]:
            return place - 1 if chosen[place - 1] == " " else place
    return place


_ALPACA = "Below is an instruction that describes a task{}. Write a response that appropriately completes the request."
_ALPACA_INPUT = ", paired with an input that provides further context"


def _of_instruction(row: Mapping[str, Any]) -> Conversation:
    """The prompt of Stanford's Alpaca, as axolotl's `alpaca` writes it; an empty input is none.

    Trainers differ in what they make of `system`, `history` and `tools`, and say so in no row: they are refused.
    """
    instruction, output = _text(row, "instruction"), _text(row, "output")
    context = "" if row.get("input") is None else _text(row, "input")
    for key in ("system", "history", "tools"):
        if row.get(key) not in (None, "", [], "[]"):
            raise RowError(
                f"expected no {key!r} beside 'instruction', got one, which trainers read in different ways",
                "write the text that was trained on as prompt and completion, or as messages",
            )
    head = _ALPACA.format(_ALPACA_INPUT if context else "")
    middle = f"### Input:\n{context}\n\n" if context else ""
    return _plain(f"{head}\n\n### Instruction:\n{instruction}\n\n{middle}### Response:\n", output)


_ROLES = {
    "system": "system",
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "bot", "model"), ASSISTANT),
    **dict.fromkeys(("tool", "function", "observation"), "tool"),
}
"""What ShareGPT's speakers are called in templates."""

FUNCTION_CALL = "function_call"
"""LLaMA-Factory's name for a turn of the assistant that calls tools, in JSON."""


def _of_sharegpt(row: Mapping[str, Any]) -> Conversation:
    """As axolotl's `chat_template` and LLaMA-Factory: speakers get the templates' names, `system` stands before.

    A system turn in the list wins over the column. TRL itself leaves `human` and `gpt` as they are called.
    """
    messages = _messages(row.get("conversations"), "conversations", _renamed)
    if row.get("system") and messages[0]["role"] != "system":
        messages = ({"role": "system", "content": _text(row, "system")}, *messages)
    return Conversation(_with_answer(messages, "conversations"), tools=_tools(row), options=_options(row))


def _renamed(message: dict[str, Any], place: str) -> dict[str, Any]:
    """A message of `from` and `value` (or of `role` and `content`) with the templates' names."""
    others = {key: value for key, value in message.items() if key not in ("from", "value")}
    for old, new in (("from", "role"), ("value", "content")):
        if old in message:
            others[new] = message[old]
    role = others.get("role")
    if not isinstance(role, str):
        return others
    if role == FUNCTION_CALL:
        return {**others, "role": ASSISTANT, "content": "", "tool_calls": _calls(others.get("content"), place)}
    if role not in _ROLES:
        raise RowError(
            f"expected {', '.join(_ROLES)} or {FUNCTION_CALL} as the speaker of {place}, got "
            + (known_columns([role]) or ["another text"])[0]
        )
    return {**others, "role": _ROLES[role]}


def _calls(content: Any, place: str) -> list[dict[str, Any]]:
    calls = _json(content, place) if isinstance(content, str) else content
    calls = [calls] if isinstance(calls, dict) else calls
    if not isinstance(calls, list) or not calls or not all(isinstance(c, dict) and "name" in c for c in calls):
        raise RowError(f"expected JSON with the name and the arguments of a call in {place}, got something else")
    return [
        {"type": "function", "function": {"name": call["name"], "arguments": call.get("arguments", {})}}
        for call in calls
    ]


def _as_it_is(message: dict[str, Any], _: str) -> dict[str, Any]:
    return message


def _messages(
    value: Any, key: str, change: Callable[[dict[str, Any], str], dict[str, Any]] = _as_it_is
) -> tuple[dict[str, Any], ...]:
    """The messages of a list, or of JSON that holds one."""
    value = _json(value, repr(key)) if isinstance(value, str) else value
    if not isinstance(value, list | tuple) or not value:
        got = "none" if value is None else "an empty list" if value in ([], ()) else type(value).__name__
        raise RowError(f"expected a list of messages in {key!r}, got {got}")
    found = []
    for number, each in enumerate(value, start=1):
        place = f"message {number} of {key!r}"
        held = _json(each, place) if isinstance(each, str) else each  # Arrow's own type for JSON
        if not isinstance(held, Mapping):
            raise RowError(f"expected an object as {place}, got {type(held).__name__}")
        # Tables have every key in every message.
        message = change({name: item for name, item in held.items() if item is not None}, place)
        if "role" not in message:
            raise RowError(
                f"expected a role in {place}, got none",
                "rename the list to 'conversations', where 'from' and 'value' are read"
                if "from" in message
                else "correct or remove the row",
            )
        if not isinstance(message["role"], str):
            raise RowError(f"expected text as the role of {place}, got {type(message['role']).__name__}")
        found.append(_with_content(message, place))
    return tuple(found)


_SAYS_ELSE = ("tool_calls", *THOUGHTS)
"""What an assistant's turn may hold in the place of content."""


def _with_content(message: dict[str, Any], place: str) -> dict[str, Any]:
    """A message whose content is one text, or a list of parts of text, which a template prints its own way."""
    content = message.get("content")
    if isinstance(content, str):
        return message
    if content is None:
        if any(message.get(key) for key in _SAYS_ELSE):
            return message
        raise RowError(f"expected content in {place}, got none")
    if not isinstance(content, list | tuple):
        raise RowError(f"expected text as the content of {place}, got {type(content).__name__}")
    parts: list[Any] = []
    for part in content:
        held = {"type": "text", "text": part} if isinstance(part, str) else part
        kind = held.get("type", "text") if isinstance(held, Mapping) else None
        if not isinstance(held, Mapping) or kind not in ("text", None) or not isinstance(held.get("text"), str):
            got = known_columns([kind]) if isinstance(kind, str) and kind != "text" else []
            raise RowError(
                f"expected parts of text in the content of {place}, got "
                + (f"a part of type {got[0]!r}" if got else "something else"),
                "only text is audited: correct or remove the row",
            )
        # Tables have every key in every part.
        parts.append(part if isinstance(part, str) else {key: item for key, item in held.items() if item is not None})
    return {**message, "content": parts}


def _with_answer(messages: tuple[dict[str, Any], ...], key: str) -> tuple[dict[str, Any], ...]:
    if all(message["role"] != ASSISTANT for message in messages):
        raise RowError(f"expected at least one assistant's turn in {key!r}, got none")
    return messages


def _tools(row: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """What the template is told of tools: a list, or as TRL takes it JSON that holds one."""
    value = row.get("tools")
    if isinstance(value, str):
        value = _json(value, "'tools'") if value.strip() else None
    if value is None:
        return None
    if isinstance(value, list | tuple):
        tools = tuple(_json(tool, "'tools'") if isinstance(tool, str) else tool for tool in value)
        if all(isinstance(tool, Mapping) for tool in tools):
            return tools
        raise RowError("expected a list of objects in 'tools', got a list of something else")
    raise RowError(f"expected a list of objects in 'tools', got {type(value).__name__}")


def _options(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Further arguments of the template."""
    value = row.get("chat_template_kwargs")
    if isinstance(value, str):
        value = _json(value, "'chat_template_kwargs'") if value.strip() else None
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise RowError(f"expected an object in 'chat_template_kwargs', got {type(value).__name__}")
    return dict(value)


def _required(row: Mapping[str, Any], key: str) -> Any:
    if row.get(key) is None:
        raise RowError(f"expected {key!r}, got none")
    return row[key]


def _text(row: Mapping[str, Any], key: str) -> str:
    value = _required(row, key)
    if not isinstance(value, str):
        raise RowError(f"expected text in {key!r}, got {type(value).__name__}")
    return value


def _json(text: str, place: str) -> Any:
    try:
        value = decode(text)
    except (ValueError, RecursionError) as error:
        raise RowError(f"expected JSON in {place}, got text that is none", "write it with json.dumps") from error
    if repeats_a_key(value):
        raise RowError(f"expected each key once in the JSON of {place}, got one twice", "remove what is not meant")
    return value


FORMATS: Mapping[RowFormat, Keys] = {
    "messages": Keys(("messages",), ("tools", "chat_template_kwargs"), _of_messages, "conversations (messages)"),
    "prompt_completion": Keys(
        ("prompt", "completion"),
        ("tools", "chat_template_kwargs"),
        _of_prompt_completion,
        "prompts with completions (prompt_completion)",
    ),
    "instruction": Keys(
        ("instruction", "output"),
        ("input", "system", "history", "tools"),
        _of_instruction,
        "instructions with outputs (instruction: in the words of Alpaca's prompt)",
    ),
    "sharegpt": Keys(
        ("conversations",),
        ("system", "tools", "chat_template_kwargs"),
        _of_sharegpt,
        "conversations (sharegpt: human is user, gpt is assistant)",
    ),
    "preference": Keys(
        ("chosen", "rejected"),
        ("prompt", "tools", "chat_template_kwargs"),
        _of_preference,
        "preferences (preference: a chosen and a rejected answer)",
    ),
}
"""The formats of rows that are no plain text, by what `mia_format` calls them."""
