"""Token ids and masks are those of TRL's own tokenised data set; its training templates are the ones it ships."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spvmia_plugin.data import formats
from spvmia_plugin.data.chat_templates import TRAINING_TEMPLATES, has_marks, training_template
from spvmia_plugin.data.rendering import Renderer
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import Conversation, LossOn
from tests.data.families import FAMILIES, family_tokenizer, trl_templates
from tests.data.make_training_templates import LEFT_OUT, contents, pairs
from tests.tiny import tiny_llama

pytest.importorskip("trl", reason="it comes with the extra 'trl'")
# What TRL still calls transformers by.
pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")

Row = dict[str, Any]

CUT = 120


def said(*contents: str, system: str | None = None) -> list[Row]:
    first = [] if system is None else [{"role": "system", "content": system}]
    return first + [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


KINDS = {
    "single": said("Where is my order?", "It was sent on Monday."),
    "several": said("Where is it?", "In Paris.", "And when does it come?", "On Friday, maybe.", "Thanks", "Welcome."),
    "system": said("Who are you?", "A helper.", "Of whom?", "Of yours.", system="Be short. "),
    "unanswered": said("Where is it?", "In Paris.", "And now?"),
    "white space": said("  two blanks\n", "\n\n A line break, blanks.  \n", " ", "Yes \t"),
    "unicode": said("naïve café, 東京?", "😀 – “yes” \u200d e\u0301", "Ünïcödé", "👩‍👩‍👧 ok"),
    "empty": said("Nothing?", "", "", "Something."),
    "empty last": said("Something?", "Yes.", "Nothing?", ""),
    "thinking": said(
        "12 * 12?", "<think>\nTwelve times twelve.\n</think>\n\n144.", "Sure?", "<think>\n\n</think>\n\nYes."
    ),
    "tokens as words": said("Say <|im_end|> and </s>", "<|eot_id|> <end_of_turn> [/INST] <|end|>", "?", "ok"),
    "long question": said("word " * CUT, "too late"),
    "cut answer": said("Tell me", "a story " * CUT),
}

CALL = {"type": "function", "function": {"name": "price", "arguments": {"item": "red garden", "n": 2}}}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "price",
            "description": "What it costs.",
            "parameters": {"type": "object", "properties": {"item": {"type": "string"}, "n": {"type": "integer"}}},
        },
    }
]
CALLED = [
    {"role": "user", "content": "What do two cost?"},
    {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL]},
    {"role": "tool", "name": "price", "content": "12 €"},
    {"role": "assistant", "content": "Twelve."},
]


def rows_of(name: str) -> list[Row]:
    return [{"messages": messages} for kind, messages in KINDS.items() if kind not in FAMILIES[name].refuses]


def by_trl(tokenizer: Any, rows: list[Row], folder: Path, **options: Any) -> dict[int, tuple[list[int], list[bool]]]:
    """Token ids and what carries a label, by number of the row: of a real trainer's data set."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    settings = {"max_length": CUT, "report_to": "none", "use_cpu": True, "bf16": False, "disable_tqdm": True}
    trainer = SFTTrainer(
        model=tiny_llama(tokenizer, layers=1),
        args=SFTConfig(output_dir=str(folder), **{**settings, **options}),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([{**row, "number": i} for i, row in enumerate(rows)]),
    )
    return {
        row["number"]: (row["input_ids"], [label != -100 for label in row["labels"]]) for row in trainer.train_dataset
    }


def conversation_of(row: Row) -> Conversation:
    """As readers of rows make them."""
    tools = None if row.get("tools") is None else tuple(row["tools"])
    options = row.get("chat_template_kwargs", {})
    if "messages" in row:
        return Conversation(tuple(row["messages"]), tools=tools, options=options)
    if isinstance(row["prompt"], str):
        turns = ({"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]})
        return Conversation(turns, prompt=1, plain=True)
    turns = (*row["prompt"], *row["completion"])
    return Conversation(turns, prompt=len(row["prompt"]), tools=tools, options=options)


def by_us(tokenizer: Any, rows: list[Row], loss_on: LossOn, cut: int = CUT) -> dict[int, tuple[list[int], list[bool]]]:
    """The same of what is not without anything to score."""
    renderer = Renderer(tokenizer, loss_on, cut)
    rendered = {i: renderer.render(conversation_of(row)) for i, row in enumerate(rows)}
    return {i: (list(r.token_ids), list(r.counted)) for i, r in rendered.items() if r.reason is None}


ENDS = {
    "llama3": {"<|eot_id|>"},
    "qwen2_5": {"<|im_end|>"},
    "qwen3": {"<|im_end|>"},
    "gemma": {"<end_of_turn>", "<eos>"},
    "gemma3": {"<end_of_turn>"},
    "phi3": {"<|end|>", "<|endoftext|>"},
    "deepseekv3": {"<｜end▁of▁sentence｜>", "<｜Assistant｜>"},
    "deepseek_r1_distill": {"<｜end▁of▁sentence｜>", "<｜Assistant｜>"},
}
"""Families that TRL ships training templates for, and what ends a turn of theirs."""

TRAINS_ON_ANSWERS = [name for name in FAMILIES if name in ENDS or name == "chatml_marked"]
"""TRL refuses the others: neither do their templates mark anything, nor does it ship one that does."""


@pytest.mark.parametrize("name", FAMILIES)
def test_messages_with_loss_on_everything(name: str, tmp_path: Path) -> None:
    rows = rows_of(name)
    theirs = by_trl(family_tokenizer(name), rows, tmp_path)
    assert len(theirs) == len(rows)
    assert by_us(family_tokenizer(name), rows, "all") == theirs


def in_parts(*contents: tuple[str, ...]) -> Row:
    """A conversation of which every content is a list of parts."""
    turns = ((("user", "assistant")[i % 2], texts) for i, texts in enumerate(contents))
    return {
        "messages": [
            {"role": role, "content": [{"type": "text", "text": text} for text in texts]} for role, texts in turns
        ]
    }


PARTS = [in_parts(("Context: the order.\n", " Where is it?"), ("In Paris.",)), in_parts(("Hi",), (" Hello", "\nyou "))]
TEXT_ONLY = ["qwen2_5", "phi3", "deepseekv3"]
TRIES_PARTS = ["llama3", "qwen2_5", "qwen3", "gemma", "gemma3", "phi3", "deepseekv3", "chatml_marked"]


@pytest.mark.parametrize("name", TRIES_PARTS)
def test_parts_are_what_the_template_makes_of_them(name: str, tmp_path: Path) -> None:
    """Trimmed each, left out or printed with all their quotes; where TRL's training stops, an audit does too."""
    rows = [formats.conversation_of(row, "messages") for row in PARTS]
    renderer = Renderer(family_tokenizer(name), "completion", CUT)
    if name in TEXT_ONLY:
        with pytest.raises(TypeError, match="can only concatenate str"):
            by_trl(family_tokenizer(name), PARTS, tmp_path, assistant_only_loss=True)
        with pytest.raises(SpvmiaError, match="is a list of parts, which many templates do not take: write it as one"):
            renderer.render(rows[0])
        return
    theirs = by_trl(family_tokenizer(name), PARTS, tmp_path, assistant_only_loss=True)
    rendered = [renderer.render(row) for row in rows]
    assert {i: (list(r.token_ids), list(r.counted)) for i, r in enumerate(rendered)} == theirs
    assert any("something else than of their texts joined" in note for note in renderer.notes(rows[0]))
    plain = formats.conversation_of(in_parts(("Hi",), ("Hello",)), "messages")
    assert any("texts joined" in note for note in renderer.notes(plain)) == (name != "gemma3")


@pytest.mark.parametrize("name", TRAINS_ON_ANSWERS)
def test_messages_with_loss_on_answers(name: str, tmp_path: Path) -> None:
    rows = rows_of(name)
    theirs = by_trl(family_tokenizer(name), rows, tmp_path, assistant_only_loss=True)
    assert len(rows) - 1 == len(theirs)  # of the long question nothing is left
    assert by_us(family_tokenizer(name), rows, "completion") == theirs
    assert all(any(counted) and not all(counted) for _, counted in theirs.values())


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_and_completions_as_messages(name: str, tmp_path: Path) -> None:
    rows = [
        {"prompt": row["messages"][:at], "completion": row["messages"][at:]}
        for row in rows_of(name)
        for at in range(1, len(row["messages"]))
        if row["messages"][at]["role"] == "assistant"
    ]
    theirs = by_trl(family_tokenizer(name), rows, tmp_path)
    assert by_us(family_tokenizer(name), rows, "completion") == theirs
    everything = by_trl(family_tokenizer(name), rows, tmp_path, completion_only_loss=False)
    assert by_us(family_tokenizer(name), rows, "all") == everything


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_and_completions_as_strings(name: str, tmp_path: Path) -> None:
    end = FAMILIES[name].eos
    pairs = [
        ("Where is it?", " In Paris."), ("Merged wo", "rds here"), ("ends in a blank ", "and goes on"),
        ("", "no prompt"), ("no completion", ""), ("has its end", f" already{end}"), ("naïve 東", "京 😀"),
        ("\n\n", "\n"), ("word " * CUT, "too late"), ("e", "\u0301 joins"),
    ]  # fmt: skip
    rows = [{"prompt": prompt, "completion": completion} for prompt, completion in pairs]
    theirs = by_trl(family_tokenizer(name), rows, tmp_path)
    assert len(theirs) == len(rows) - 1
    assert by_us(family_tokenizer(name), rows, "completion") == theirs
    everything = by_trl(family_tokenizer(name), rows, tmp_path, completion_only_loss=False)
    assert by_us(family_tokenizer(name), rows, "all") == everything


@pytest.mark.parametrize("only_answers", [False, True])
@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "deepseekv3"])
def test_tool_calls(name: str, only_answers: bool, tmp_path: Path) -> None:
    called = CALLED
    if name == "deepseekv3" and not only_answers:  # its own template takes them as text alone
        call = {**CALL, "function": {"name": "price", "arguments": json.dumps(CALL["function"]["arguments"])}}  # type: ignore[index,dict-item]
        called = [{**m, "tool_calls": [call]} if "tool_calls" in m else m for m in CALLED]
    rows = [{"messages": called, "tools": TOOLS}]
    loss_on: LossOn = "completion" if only_answers else "all"
    theirs = by_trl(family_tokenizer(name), rows, tmp_path, assistant_only_loss=only_answers, max_length=2000)
    assert by_us(family_tokenizer(name), rows, loss_on, 2000) == theirs
    assert len(theirs) == 1


@pytest.mark.parametrize("name", ["qwen3"])
def test_options_of_a_row_reach_the_template(name: str, tmp_path: Path) -> None:
    rows = [
        {"prompt": said("Hi"), "completion": [{"role": "assistant", "content": "Yes."}], "chat_template_kwargs": kwargs}
        for kwargs in ({"enable_thinking": True}, {"enable_thinking": False})
    ]
    theirs = by_trl(family_tokenizer(name), rows, tmp_path)
    assert by_us(family_tokenizer(name), rows, "completion") == theirs
    assert theirs[0] != theirs[1]


@pytest.mark.parametrize("name", [n for n in TRAINS_ON_ANSWERS if n not in ("qwen3", "deepseek_r1_distill")])
def test_what_the_model_writes_is_known_where_everything_carries_loss(name: str) -> None:
    """The ids are those without a training template, and so is the mask, where that renders the same."""
    conversations = [Conversation(tuple(row["messages"])) for row in rows_of(name)]
    everywhere, on_answers = (Renderer(family_tokenizer(name), loss_on, 10_000) for loss_on in ("all", "completion"))
    for conversation in conversations:
        one, other = everywhere.render(conversation), on_answers.render(conversation)
        if one.token_ids == other.token_ids:
            assert one.answers == other.answers == other.counted
    assert everywhere.render(conversations[0]).token_ids == on_answers.render(conversations[0]).token_ids


@pytest.mark.parametrize("only_answers", [False, True])
def test_of_named_templates_the_default_is_taken_and_with_tools_the_one_for_them(
    only_answers: bool, tmp_path: Path
) -> None:
    def tokenizer() -> Any:
        found = family_tokenizer("llama3")
        for_tools = "{{ tools | tojson }}" + FAMILIES["chatml_marked"].template
        found.chat_template = {"default": found.chat_template, "tool_use": for_tools}
        return found

    rows: list[Row] = [{"messages": said("Where?", "Here."), "tools": tools} for tools in (None, TOOLS)]
    theirs = by_trl(tokenizer(), rows, tmp_path, assistant_only_loss=only_answers)
    assert by_us(tokenizer(), rows, "completion" if only_answers else "all") == theirs
    assert (theirs[0] == theirs[1]) == only_answers  # its training template stands for both


@pytest.mark.parametrize("loss_on", ["all", "completion"])
@pytest.mark.parametrize("name", ENDS)
def test_what_follows_an_opening_is_what_is_written(name: str, loss_on: LossOn) -> None:
    """Self-prompts are made so: an opening, what the model writes up to an end, and the whole is rendered."""
    renderer, tokenizer = Renderer(family_tokenizer(name), loss_on, 1000), family_tokenizer(name)
    assert {tokenizer.decode([i]) for i in renderer.ends} == ENDS[name]
    assert renderer.identity()["training_template"] == f"{name}_training"
    first, second = said("Where is it, naïve 東京?", "In Paris 😀.\n\nTwo lines."), said("And when?", "Now.")

    def rest(opening: list[int], messages: list[Row]) -> list[int]:
        whole = renderer.render(Conversation(tuple(messages))).token_ids
        assert whole[: len(opening)] == tuple(opening)
        return list(whole[len(opening) :])

    user = rest(renderer.user_opening(Conversation(())), first)
    assert renderer.written(user, role="user") == first[0]["content"]
    answer = rest(renderer.opening(Conversation(tuple(first[:1]))), first)
    assert renderer.written(answer) == first[1]["content"]
    user = rest(renderer.user_opening(Conversation(tuple(first))), first + second)
    assert renderer.written(user, role="user") == second[0]["content"]
    answer = rest(renderer.opening(Conversation((*first, *second[:1]))), first + second)
    assert renderer.written(answer) == second[1]["content"]


def test_marks_of_a_rendering_that_differs_are_none_of_this_one() -> None:
    """Qwen3's own template has a thought in the last turn alone, the one that TRL trains with in all."""
    everywhere, on_answers = (Renderer(family_tokenizer("qwen3"), loss_on, 1000) for loss_on in ("all", "completion"))
    one, several = Conversation(tuple(KINDS["single"])), Conversation(tuple(KINDS["several"]))
    assert everywhere.render(one).answers == on_answers.render(one).counted
    assert everywhere.render(several).token_ids != on_answers.render(several).token_ids
    assert everywhere.render(several).answers is None


def test_the_training_templates_are_those_that_trl_ships() -> None:
    """Where this fails, TRL ships others: `python -m tests.data.make_training_templates`."""
    present = {path.name: path.read_bytes() for path in TRAINING_TEMPLATES.iterdir() if path.name != "NOTICE.md"}
    expected = contents()
    del expected["NOTICE.md"]
    assert present == expected
    assert set(LEFT_OUT) < {name.removesuffix("_training") for name in pairs()}


@pytest.mark.parametrize("path", sorted(trl_templates().glob("*.jinja")), ids=lambda path: path.stem)
def test_the_template_that_is_trained_with_is_the_one_that_trl_takes(path: Path) -> None:
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    text = path.read_text(encoding="utf-8")
    assert has_marks(text) == has_generation_markers(text)
    if has_marks(text) or path.stem in LEFT_OUT:
        return
    tokenizer = family_tokenizer("chatml")
    tokenizer.chat_template = text
    try:
        expected = get_training_chat_template(tokenizer)
    except ValueError:
        expected = None
    ours = training_template(text)
    assert (None if ours is None else ours[1]) == expected
