"""What trainers read from a row, and what is said of rows that do not fit."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from spvmia_plugin.data.formats import FORMATS, RowError, RowFormat, checked_size, conversation_of, is_empty, recognise
from spvmia_plugin.records import Conversation

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"x": {"type": "integer", "enum": None}}}}


def refused(row: Mapping[str, Any], row_format: RowFormat) -> str:
    with pytest.raises(RowError) as caught:
        checked_size(conversation_of(row, row_format))
    assert "SECRET" not in str(caught.value)
    return str(caught.value)


# --- which format ---


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["messages"], "messages"),
        (["id", "messages", "tools"], "messages"),
        (["prompt", "completion"], "prompt_completion"),
        (["instruction", "output"], "instruction"),
        (["instruction", "input", "output"], "instruction"),
        (["conversations", "system"], "sharegpt"),
        (["text"], "text"),
        (["text", "label"], "text"),
        (["body"], None),
        (["prompt"], None),
        (["instruction"], None),
        # TRL: prompt and completion, then messages (which it makes of conversations), then text.
        (["text", "prompt", "completion"], "prompt_completion"),
        (["text", "messages"], "messages"),
        (["text", "conversations"], "sharegpt"),
        # TRL reads no instruction: Alpaca's own data have the whole in `text`.
        (["instruction", "input", "output", "text"], "text"),
        # As in UltraChat: the prompt stands in the messages too.
        (["prompt", "prompt_id", "messages"], "messages"),
        (["chosen", "rejected"], "preference"),
        (["prompt", "chosen", "rejected", "score_chosen"], "preference"),
        (["chosen", "rejected", "text"], "preference"),
        (["prompt", "chosen"], None),
        (["rejected"], None),
    ],
)
def test_the_keys_say_the_format(keys: list[str], expected: str | None) -> None:
    assert recognise(keys, "text") == expected
    assert recognise(list(reversed(keys)), "text") == expected


def test_a_text_column_that_is_a_part_of_a_format_does_not_hide_it() -> None:
    assert recognise(["instruction", "output"], "output") == "instruction"
    assert recognise(["prompt", "completion"], "completion") == "prompt_completion"


def test_a_column_that_the_user_named_is_text() -> None:
    assert recognise(["body", "messages"], "body", text_given=True) == "text"
    assert recognise(["text", "prompt", "completion"], "text", text_given=True) == "text"
    assert recognise(["prompt"], "prompt", text_given=True) == "text"
    assert recognise(["completion"], "completion", text_given=True) == "text"
    assert recognise(["messages"], "body", text_given=True) is None


@pytest.mark.parametrize(
    ("column", "keys", "together"),
    [
        ("completion", ["prompt", "completion"], "prompt_completion reads together with 'prompt'"),
        ("prompt", ["prompt", "completion"], "prompt_completion reads together with 'completion'"),
        ("output", ["instruction", "input", "output"], "instruction reads together with 'instruction' and 'input'"),
        ("input", ["instruction", "input", "output"], "instruction reads together with 'instruction' and 'output'"),
        ("messages", ["messages", "tools"], "messages reads together with 'tools'"),
        ("conversations", ["conversations"], "the format sharegpt reads; leave"),
        ("chosen", ["chosen", "rejected"], "preference reads together with 'rejected'"),
        ("prompt", ["prompt", "chosen", "rejected"], "preference reads together with 'chosen' and 'rejected'"),
    ],
)
def test_a_part_of_a_format_is_no_text_column(column: str, keys: list[str], together: str) -> None:
    with pytest.raises(RowError) as caught:
        recognise(keys, column, text_given=True)
    message = str(caught.value)
    assert message.startswith(f"expected no mia_text_column (finetune: --text-column), got {column!r}, which ")
    assert together in message
    assert message.endswith(
        "; leave the option out and the whole is read, or say mia_format=text (finetune: --format text) to take "
        "that column alone"
    )


def test_columns_of_several_formats_are_not_guessed_at() -> None:
    with pytest.raises(RowError, match=r"got those of 'messages' and 'prompt_completion'; name the one .* mia_format"):
        recognise(["messages", "prompt", "completion"], "text")
    with pytest.raises(RowError, match="got those of 'messages' and 'sharegpt'"):
        recognise(["messages", "conversations", "text"], "text")
    with pytest.raises(RowError, match="got those of 'prompt_completion' and 'instruction'"):
        recognise(["prompt", "completion", "instruction", "output"], "text")
    # As UltraFeedback has it: for an SFT and for a DPO.
    with pytest.raises(RowError, match="got those of 'messages' and 'preference'"):
        recognise(["prompt", "chosen", "rejected", "messages"], "text")


# --- messages ---


def test_messages_are_kept_with_all_that_a_template_reads() -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [CALL], "reasoning_content": "think"}
    result = {"role": "tool", "content": "r", "name": "f", "tool_call_id": "1"}
    row = {"messages": [USER, call, result, ANSWER], "tools": [TOOL], "chat_template_kwargs": {"enable_thinking": True}}
    expected = Conversation((USER, call, result, ANSWER), tools=(TOOL,), options={"enable_thinking": True})
    found = conversation_of(row, "messages")
    assert found == expected
    assert (found.prompt, found.plain, found.answers()) == (None, False, [1, 3])
    assert Conversation.from_text(found.to_text()) == found


def test_nulls_that_tables_put_into_every_message_are_left_out_and_those_further_in_are_kept() -> None:
    nulls = {"name": None, "tool_calls": None}
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"y": None}}}]}
    row = {"messages": [{**USER, **nulls}, call, {**ANSWER, **nulls}], "tools": None, "chat_template_kwargs": None}
    kept = {"role": "assistant", "tool_calls": call["tool_calls"]}
    assert conversation_of(row, "messages") == Conversation((USER, kept, ANSWER))


def test_cells_may_be_json() -> None:
    messages = [USER, {"role": "assistant", "content": "é", "tool_calls": [CALL]}]
    row = {"messages": json.dumps(messages), "tools": json.dumps([TOOL]), "chat_template_kwargs": '{"a": [1]}'}
    expected = Conversation(tuple(messages), tools=(TOOL,), options={"a": [1]})
    assert conversation_of(row, "messages") == expected
    each = {**row, "messages": [json.dumps(message) for message in messages], "tools": [json.dumps(TOOL)]}
    assert conversation_of(each, "messages") == expected
    blank = {**row, "tools": " ", "chat_template_kwargs": ""}
    assert conversation_of(blank, "messages") == Conversation(tuple(messages))


def test_no_tools_and_an_empty_list_of_them_differ_as_they_do_for_trl() -> None:
    assert conversation_of({"messages": [USER, ANSWER], "tools": []}, "messages").tools == ()
    assert conversation_of({"messages": [USER, ANSWER]}, "messages").tools is None


def test_parts_of_text_stay_parts_for_the_template_and_are_one_text_for_all_else() -> None:
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b", "image": None}, "c", {"text": "d"}]
    found = conversation_of({"messages": [{"role": "user", "content": parts}, ANSWER]}, "messages")
    kept = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}, "c", {"text": "d"}]
    assert found.messages[0] == {"role": "user", "content": kept}
    assert (found.contents(), found.has_parts) == (["a bcd", "a"], True)
    assert found.said() == found.words() == "a bcd\na"
    edited = found.with_contents({0: "other", 1: "one"})
    assert edited.messages[0]["content"] == [{"type": "text", "text": "other"}]
    assert edited.messages[1]["content"] == "one"
    assert Conversation.from_text(found.to_text()) == found
    assert conversation_of({"messages": [{"role": "user", "content": []}, ANSWER]}, "messages").contents()[0] == ""


@pytest.mark.parametrize(
    ("part", "got"),
    [
        ({"type": "image"}, "a part of type 'image'"),
        ({"type": "image_url", "image_url": {"url": "SECRET"}}, "a part of type 'image_url'"),
        ({"type": "audio", "text": None}, "a part of type 'audio'"),
        ({"type": "video", "video": "SECRET"}, "a part of type 'video'"),
        ({"type": "SECRET it is"}, "something else"),
        ({"type": "text"}, "something else"),
        ({"type": "text", "text": 3}, "something else"),
        ({"image": "SECRET"}, "something else"),
        (3, "something else"),
        (None, "something else"),
    ],
)
def test_parts_that_are_no_text_are_refused_by_name(part: Any, got: str) -> None:
    content = [{"type": "text", "text": "SECRET"}, part]
    message = refused({"messages": [{"role": "user", "content": content}, ANSWER]}, "messages")
    assert message.startswith(f"expected parts of text in the content of message 1 of 'messages', got {got};")


@pytest.mark.parametrize("content", ["", None])
def test_an_assistants_turn_that_says_nothing_is_left_to_the_template(content: str | None) -> None:
    assert conversation_of({"messages": [USER, {"role": "assistant", "content": ""}]}, "messages").answers() == [1]
    for key in ("tool_calls", "reasoning_content", "thinking", "reasoning"):
        turn = {"role": "assistant", "content": content, key: [CALL] if key == "tool_calls" else "SECRET"}
        assert conversation_of({"messages": [USER, turn]}, "messages").contents() == ["q", ""]


def test_conversations_that_call_or_think_something_else_are_others() -> None:
    def said(**turn: Any) -> str:
        return conversation_of({"messages": [USER, {"role": "assistant", **turn}]}, "messages").said()

    call = [{"type": "function", "id": "1", "function": {"name": "find", "arguments": {"city": "Köln", "at": 1}}}]
    same = [{"type": "function", "id": "2", "function": {"name": "find", "arguments": {"at": 1, "city": "Köln"}}}]
    other = [{"function": {"name": "find", "arguments": {"at": 1, "city": "Rom"}}}]
    assert said(content="A") == "q\nA"
    assert said(content="", tool_calls=call) == said(tool_calls=same) == 'q\nfind {"at": 1, "city": "Köln"}'
    assert said(tool_calls=other) != said(tool_calls=call)
    assert said(tool_calls=[{"function": {"name": "find", "arguments": '{"at": 1}'}}]) == 'q\nfind {"at": 1}'
    for key in ("reasoning_content", "thinking", "reasoning"):
        assert said(content="A", **{key: "hm"}) == "q\nhm\nA"
    assert said(content="A", tool_calls="none") == said(content="A", tool_calls=["x", {"function": 3}]) == "q\nA"


def test_roles_and_their_order_are_the_templates_affair() -> None:
    system = {"role": "system", "content": "s"}
    messages = (system, system, {"role": "developer", "content": "d"}, ANSWER, ANSWER)
    assert conversation_of({"messages": list(messages)}, "messages") == Conversation(messages)


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (None, "expected a list of messages in 'messages', got none"),
        ([], "expected a list of messages in 'messages', got an empty list"),
        ("[]", "expected a list of messages in 'messages', got an empty list"),
        (3, "expected a list of messages in 'messages', got int"),
        (USER, "expected a list of messages in 'messages', got dict"),
        ('{"role": "user", "content": "SECRET"}', "expected a list of messages in 'messages', got dict"),
        ("SECRET", "expected JSON in 'messages', got text that is none; write it with json.dumps"),
        ("[{'role': 'user', 'content': 'SECRET'}]", "expected JSON in 'messages', got text that is none"),
        ("[" * 100_000, "expected JSON in 'messages', got text that is none"),
        ([USER, None], "expected an object as message 2 of 'messages', got NoneType"),
        ([["user", "SECRET"]], "expected an object as message 1 of 'messages', got list"),
        (["SECRET"], "expected JSON in message 1 of 'messages', got text that is none"),
        ([USER, {"content": "SECRET"}], "expected a role in message 2 of 'messages', got none; correct or remove"),
        ([{"role": None, "content": "SECRET"}], "expected a role in message 1 of 'messages', got none"),
        ([{"from": "human", "value": "SECRET"}], "expected a role in message 1 of 'messages', got none; rename the"),
        ([{"role": 1, "content": "SECRET"}], "expected text as the role of message 1 of 'messages', got int"),
        ([{"role": ["SECRET"], "content": ""}], "expected text as the role of message 1 of 'messages', got list"),
        ([USER, {"role": "assistant"}], "expected content in message 2 of 'messages', got none"),
        ([{"role": "user", "content": None}, ANSWER], "expected content in message 1 of 'messages', got none"),
        ([USER, {"role": "assistant", "tool_calls": []}], "expected content in message 2 of 'messages', got none"),
        ([{"role": "user", "content": 3}, ANSWER], "expected text as the content of message 1 of 'messages', got int"),
        ([{"role": "user", "content": {"text": "SECRET"}}, ANSWER], "expected text as the content of message 1"),
        ([USER], "expected at least one assistant's turn in 'messages', got none"),
        (
            [USER, {"role": "gpt", "content": "SECRET"}],
            "expected at least one assistant's turn in 'messages', got none",
        ),
    ],
)
def test_messages_that_do_not_fit(messages: Any, expected: str) -> None:
    assert refused({"messages": messages}, "messages").startswith(expected)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"tools": {"name": "SECRET"}}, "expected a list of objects in 'tools', got dict"),
        ({"tools": 3}, "expected a list of objects in 'tools', got int"),
        ({"tools": [3]}, "expected a list of objects in 'tools', got a list of something else"),
        ({"tools": "SECRET"}, "expected JSON in 'tools', got text that is none"),
        ({"tools": ["SECRET"]}, "expected JSON in 'tools', got text that is none"),
        ({"chat_template_kwargs": ["SECRET"]}, "expected an object in 'chat_template_kwargs', got list"),
        ({"chat_template_kwargs": "SECRET"}, "expected JSON in 'chat_template_kwargs', got text that is none"),
    ],
)
def test_what_stands_beside_messages_and_does_not_fit(more: dict[str, Any], expected: str) -> None:
    assert refused({"messages": [USER, ANSWER], **more}, "messages").startswith(expected)


def test_what_no_file_can_hold() -> None:
    half = {"role": "user", "content": "SECRET \ud800"}
    assert refused({"messages": [half, ANSWER]}, "messages").startswith("expected valid Unicode, got half a surrogate")
    odd = {"role": "user", "content": "q", "at": b"SECRET"}
    assert "got something that JSON cannot hold" in refused({"messages": [odd, ANSWER]}, "messages")
    size = checked_size(conversation_of({"messages": [USER, ANSWER], "tools": [TOOL]}, "messages"))
    assert size > len(json.dumps([USER, ANSWER, TOOL]))


# --- prompts with completions ---


def test_a_prompt_and_its_completion_as_texts() -> None:
    found = conversation_of({"prompt": "p [", "completion": " c", "tools": None}, "prompt_completion")
    messages = ({"role": "user", "content": "p ["}, {"role": "assistant", "content": " c"})
    assert found == Conversation(messages, prompt=1, plain=True)
    assert found.answers() == [1]
    empty = conversation_of({"prompt": "p", "completion": ""}, "prompt_completion")
    assert empty.contents() == ["p", ""]


def test_a_prompt_and_its_completion_as_messages() -> None:
    system = {"role": "system", "content": "s"}
    row: dict[str, Any] = {"prompt": [system, USER], "completion": [ANSWER], "tools": [TOOL]}
    expected = Conversation((system, USER, ANSWER), prompt=2, tools=(TOOL,))
    assert conversation_of(row, "prompt_completion") == expected
    cells = {key: json.dumps(value) for key, value in row.items()}
    assert conversation_of(cells, "prompt_completion") == expected
    assert conversation_of({**row, "prompt": cells["prompt"]}, "prompt_completion") == expected


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ('[{"role": "user", "content": "q"}]', "a"),
        ("[1, 2]", "[3]"),
        ("[]", "[]"),
        ("[", "]"),
        ('["role"]', '["role"]'),
        ('[{"a": 1}]', '[{"b": 2}]'),
    ],
)
def test_texts_that_look_like_json_are_texts(prompt: str, completion: str) -> None:
    found = conversation_of({"prompt": prompt, "completion": completion}, "prompt_completion")
    assert (found.plain, found.contents()) == (True, [prompt, completion])


@pytest.mark.parametrize(
    ("prompt", "completion", "expected"),
    [
        ("SECRET", None, "expected 'completion', got none"),
        (None, "SECRET", "expected 'prompt', got none"),
        (
            "SECRET",
            [ANSWER],
            "expected 'prompt' and 'completion' as two texts or as two lists of messages, got str and",
        ),
        ([USER], "SECRET", "expected 'prompt' and 'completion' as two texts or as two lists of messages, got list and"),
        ("SECRET", 3, "expected 'prompt' and 'completion' as two texts or as two lists of messages, got str and int"),
        ({"role": "user"}, "SECRET", "expected 'prompt' and 'completion' as two texts or as two lists of messages"),
        ([USER], [], "expected a list of messages in 'completion', got an empty list"),
        ([], [ANSWER], "expected a list of messages in 'prompt', got an empty list"),
        ([USER], [{"role": "assistant"}], "expected content in message 1 of 'completion', got none"),
        ([{"content": "SECRET"}], [ANSWER], "expected a role in message 1 of 'prompt', got none"),
    ],
)
def test_prompts_with_completions_that_do_not_fit(prompt: Any, completion: Any, expected: str) -> None:
    assert refused({"prompt": prompt, "completion": completion}, "prompt_completion").startswith(expected)


# --- preferences ---

OTHER = {"role": "assistant", "content": "no"}


def preference(**row: Any) -> Conversation:
    found = conversation_of(row, "preference")
    assert Conversation.from_text(found.to_text()) == found
    return found


def test_a_preference_as_texts() -> None:
    found = preference(prompt="p", chosen=" c", rejected="", tools=None)
    said = ({"role": "user", "content": "p"}, {"role": "assistant", "content": " c"})
    assert found == Conversation(said, prompt=1, plain=True, rejected=({"role": "assistant", "content": ""},))
    assert (found.answers(), found.words()) == ([1], "p\n c")
    other = found.with_rejected()
    assert other == Conversation((said[0], {"role": "assistant", "content": ""}), prompt=1, plain=True)
    assert found.with_chosen() == Conversation(said, prompt=1, plain=True)
    assert (found.with_chosen().with_rejected(), found.with_chosen().with_chosen()) == (None, found.with_chosen())


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("Q? A: Ann", "Q? A: Bo", "Q? A:"),  # the blank belongs to the answers
        ("abc", "abd", "ab"),
        ("a  b", "a  c", "a "),
        ("x", "y", ""),
        ("one is", "one is more", "one i"),
        ("one is more", "one is", "one i"),
        ("same", "same", "sam"),
        ("odd ", "even", "odd"),  # as TRL takes it apart
    ],
)
def test_texts_without_a_prompt_begin_with_it(chosen: str, rejected: str, prompt: str) -> None:
    found = preference(chosen=chosen, rejected=rejected)
    assert found.contents() == [prompt, chosen.removeprefix(prompt)]
    if rejected.startswith(prompt):
        assert found.rejected == ({"role": "assistant", "content": rejected.removeprefix(prompt)},)


def test_a_preference_as_messages() -> None:
    system = {"role": "system", "content": "s"}
    row = {"prompt": [system, USER], "chosen": [ANSWER], "rejected": [OTHER], "tools": [TOOL]}
    more = {"chat_template_kwargs": {"a": 1}}
    messages = (system, USER, ANSWER)
    expected = Conversation(messages, prompt=2, tools=(TOOL,), options={"a": 1}, rejected=(OTHER,))
    assert preference(**row, **more) == expected
    cells = {key: json.dumps(value) for key, value in row.items()}
    assert preference(**cells, **more) == expected
    whole = {**row, "chosen": [system, USER, ANSWER], "rejected": [system, USER, OTHER]}
    assert preference(**{**whole, "prompt": None}, **more) == expected
    assert preference(**{**whole, "prompt": "q"}, **more) == expected  # as UltraFeedback has it
    assert preference(**{**whole, "prompt": "anything"}, **more) == expected


def test_messages_that_only_one_side_has_belong_to_the_answer() -> None:
    found = preference(chosen=[USER, ANSWER, USER, ANSWER], rejected=[USER, ANSWER])
    assert (found.prompt, found.messages, found.rejected) == (1, (USER, ANSWER, USER, ANSWER), (ANSWER,))
    same = preference(chosen=[USER, ANSWER], rejected=[USER, ANSWER])
    assert (same.prompt, same.rejected) == (1, (ANSWER,))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "SECRET", "chosen": "SECRET"}, "expected 'rejected', got none"),
        ({"prompt": "SECRET", "rejected": "SECRET", "chosen": None}, "expected 'chosen', got none"),
        (
            {"chosen": "SECRET", "rejected": [USER, ANSWER]},
            "expected 'chosen' and 'rejected' as two texts or as two lists of messages, got str and list",
        ),
        ({"chosen": [USER, ANSWER], "rejected": 3}, "expected 'chosen' and 'rejected' as two texts or as two lists"),
        ({"chosen": USER, "rejected": USER}, "expected 'chosen' and 'rejected' as two texts or as two lists"),
        ({"chosen": "SECRET", "rejected": ""}, "expected 'chosen' and 'rejected' to begin with the prompt where there"),
        ({"chosen": "", "rejected": "SECRET"}, "expected 'chosen' and 'rejected' to begin with the prompt where there"),
        (
            {"prompt": [USER], "chosen": "SECRET", "rejected": "SECRET 2"},
            "expected 'prompt' as a text beside answers that are texts, got list",
        ),
        ({"prompt": 3, "chosen": "SECRET", "rejected": "b"}, "expected 'prompt' as a text beside answers that are"),
        ({"prompt": [USER], "chosen": [], "rejected": [ANSWER]}, "expected a list of messages in 'chosen', got an em"),
        ({"prompt": [USER], "chosen": [ANSWER], "rejected": []}, "expected a list of messages in 'rejected', got an "),
        ({"prompt": [], "chosen": [ANSWER], "rejected": [OTHER]}, "expected a list of messages in 'prompt', got an em"),
        ({"chosen": [ANSWER], "rejected": [OTHER]}, "expected 'chosen' and 'rejected' to begin with the same messages"),
        (
            {"prompt": "SECRET", "chosen": [ANSWER], "rejected": [OTHER]},
            "expected 'chosen' and 'rejected' to begin with the same messages",
        ),
        (
            {"prompt": [USER], "chosen": [USER], "rejected": [ANSWER]},
            "expected at least one assistant's turn in 'chosen', got none",
        ),
        (
            {"chosen": [USER, ANSWER], "rejected": [USER, USER]},
            "expected at least one assistant's turn in 'rejected', got none",
        ),
        ({"prompt": [USER], "chosen": [ANSWER], "rejected": [{"role": "assistant"}]}, "expected content in message 1"),
    ],
)
def test_preferences_that_do_not_fit(row: dict[str, Any], expected: str) -> None:
    assert refused(row, "preference").startswith(expected)


def test_all_of_a_preference_is_measured_and_checked() -> None:
    row: dict[str, Any] = {"prompt": [USER], "chosen": [ANSWER], "rejected": [OTHER]}
    longer = {**row, "rejected": [{"role": "assistant", "content": "n" * 100}]}
    sizes = [checked_size(conversation_of(each, "preference")) for each in (row, longer)]
    assert sizes[1] - sizes[0] == 98
    half = {**row, "rejected": [{"role": "assistant", "content": "SECRET \ud800"}]}
    assert refused(half, "preference").startswith("expected valid Unicode, got half a surrogate")
    assert not is_empty({"chosen": None, "rejected": "r"}, "preference")
    assert is_empty({"prompt": "p", "chosen": None, "rejected": None}, "preference")


# --- instructions ---

WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n### Instruction:\n{}\n\n### Input:\n{}\n\n### Response:\n"
)
WITHOUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{}\n\n### Response:\n"
)


@pytest.mark.parametrize("more", [{}, {"input": None}, {"input": ""}, {"input": "", "system": "", "history": []}])
def test_an_instruction_in_alpacas_words(more: dict[str, Any]) -> None:
    found = conversation_of({"instruction": "do {this}", "output": "o", **more}, "instruction")
    assert (found.plain, found.prompt, found.contents()) == (True, 1, [WITHOUT.format("do {this}"), "o"])


def test_an_instruction_with_its_input_in_alpacas_words() -> None:
    found = conversation_of({"instruction": "do", "input": "with {this}", "output": "o", "tools": "[]"}, "instruction")
    assert (found.plain, found.prompt) == (True, 1)
    assert found.contents() == [WITH_INPUT.format("do", "with {this}"), "o"]
    assert [message["role"] for message in found.messages] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"output": None}, "expected 'output', got none"),
        ({"instruction": None}, "expected 'instruction', got none"),
        ({"output": ["SECRET"]}, "expected text in 'output', got list"),
        ({"input": 3}, "expected text in 'input', got int"),
        ({"system": "SECRET"}, "expected no 'system' beside 'instruction', got one, which trainers read in different"),
        ({"history": [["SECRET", "SECRET"]]}, "expected no 'history' beside 'instruction', got one"),
        ({"tools": '[{"name": "SECRET"}]'}, "expected no 'tools' beside 'instruction', got one"),
    ],
)
def test_instructions_that_do_not_fit(more: dict[str, Any], expected: str) -> None:
    message = refused({"instruction": "SECRET", "output": "SECRET", **more}, "instruction")
    assert message.startswith(expected)


# --- ShareGPT ---


@pytest.mark.parametrize(
    ("speaker", "role"),
    [
        *((name, "user") for name in ("human", "user")),
        *((name, "assistant") for name in ("gpt", "assistant", "bot", "model")),
        *((name, "tool") for name in ("tool", "function", "observation")),
        ("system", "system"),
    ],
)
@pytest.mark.parametrize("keys", [("from", "value"), ("role", "content")])
def test_speakers_get_the_names_of_templates(speaker: str, role: str, keys: tuple[str, str]) -> None:
    turns = [dict(zip(keys, (speaker, "x"), strict=True)), dict(zip(keys, ("gpt", "a"), strict=True))]
    found = conversation_of({"conversations": [{**turns[0], "weight": 0}, turns[1]]}, "sharegpt")
    assert found == Conversation(({"role": role, "content": "x", "weight": 0}, ANSWER))


def test_what_stands_beside_the_conversation() -> None:
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    row = {"conversations": turns, "system": "s", "tools": json.dumps([TOOL])}
    system = {"role": "system", "content": "s"}
    assert conversation_of(row, "sharegpt") == Conversation((system, USER, ANSWER), tools=(TOOL,))
    own = {"from": "system", "value": "own"}
    found = conversation_of({**row, "conversations": [own, *turns]}, "sharegpt")
    assert found.contents() == ["own", "q", "a"]
    assert conversation_of({"conversations": turns, "system": ""}, "sharegpt") == Conversation((USER, ANSWER))
    assert refused({"conversations": turns, "system": 3}, "sharegpt").startswith("expected text in 'system', got int")


@pytest.mark.parametrize("several", [False, True])
def test_a_call_of_a_function_is_the_assistants(several: bool) -> None:
    call = {"name": "f", "arguments": {"x": 1}}
    value = json.dumps([call, {"name": "g"}] if several else call)
    turns = [{"from": "human", "value": "q"}, {"from": "function_call", "value": value}]
    found = conversation_of({"conversations": [*turns, {"from": "observation", "value": "r"}]}, "sharegpt")
    other = {"type": "function", "function": {"name": "g", "arguments": {}}}
    assert found.messages[1:] == (
        {"role": "assistant", "content": "", "tool_calls": [CALL, other] if several else [CALL]},
        {"role": "tool", "content": "r"},
    )
    assert found.answers() == [1]


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([], "expected a list of messages in 'conversations', got an empty list"),
        ([{"from": "bing", "value": "SECRET"}], "expected system, human, user, gpt, assistant, bot, model, tool,"),
        ([{"from": "SECRET person", "value": "x"}], "expected system, human, user, gpt,"),
        ([{"value": "SECRET"}], "expected a role in message 1 of 'conversations', got none"),
        ([{"from": "human"}], "expected content in message 1 of 'conversations', got none"),
        ([{"from": 3, "value": "SECRET"}], "expected text as the role of message 1 of 'conversations', got int"),
        ([{"from": "human", "value": 3}], "expected text as the content of message 1 of 'conversations', got int"),
        ([{"from": "human", "value": "SECRET"}], "expected at least one assistant's turn in 'conversations', got none"),
        (
            [{"from": "function_call", "value": "SECRET"}],
            "expected JSON in message 1 of 'conversations', got text that is none",
        ),
        (
            [{"from": "function_call", "value": '["SECRET"]'}],
            "expected JSON with the name and the arguments of a call in message 1 of 'conversations', got something",
        ),
        ([{"from": "function_call"}], "expected JSON with the name and the arguments of a call in message 1"),
    ],
)
def test_conversations_that_do_not_fit(turns: list[Any], expected: str) -> None:
    assert refused({"conversations": turns}, "sharegpt").startswith(expected)


def test_a_speaker_nobody_knows_is_named() -> None:
    turn = {"from": "bing", "value": "SECRET"}
    assert re.search(
        r"as the speaker of message 1 of 'conversations', got bing;", refused({"conversations": [turn]}, "sharegpt")
    )


@pytest.mark.parametrize("row_format", FORMATS)
def test_a_row_without_any_of_the_formats_keys_is_empty(row_format: RowFormat) -> None:
    assert is_empty({}, row_format)
    assert is_empty(dict.fromkeys(FORMATS[row_format].every), row_format)
    assert not is_empty({FORMATS[row_format].required[-1]: ""}, row_format)
