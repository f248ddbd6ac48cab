"""Preferences: both sequences are those of TRL's own DPOTrainer, in ids, in masks, and where they are cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spvmia_plugin.data.formats import conversation_of
from spvmia_plugin.data.rendering import Renderer
from tests.data.families import FAMILIES, family_tokenizer
from tests.data.test_rendering_trl import CALLED, CUT, KINDS, TOOLS, Row, said
from tests.tiny import tiny_llama

pytest.importorskip("trl", reason="it comes with the extra 'trl'")
# What TRL still calls transformers by.
pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")

_FAST = ("chatml", "qwen3", "gemma", "phi3", "mistral_03")
SOME = [name if name in _FAST else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
"""All families; those that split and open texts in the same ways as another one are left to the slow tests."""

Side = tuple[list[int], list[bool]]


def by_trl(tokenizer: Any, rows: list[Row], folder: Path, cut: int = CUT) -> dict[int, tuple[Side, Side]]:
    """(ids, completion mask) of the chosen and of the rejected side, by number of the row, as batches hold them."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    trainer = DPOTrainer(
        model=tiny_llama(tokenizer, layers=1),
        ref_model=tiny_llama(tokenizer, layers=1),
        args=DPOConfig(
            output_dir=str(folder), max_length=cut, report_to="none", use_cpu=True, bf16=False, disable_tqdm=True
        ),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([{**row, "number": i} for i, row in enumerate(rows)]),
    )
    found = {}
    for row in trainer.train_dataset:
        batch = trainer.data_collator([row])
        sides = []
        for ids, read, mask in zip(
            *(batch[k] for k in ("input_ids", "attention_mask", "completion_mask")), strict=True
        ):
            length = int(read.sum())
            sides.append((ids[:length].tolist(), [bool(each) for each in mask[:length]]))
        found[row["number"]] = (sides[0], sides[1])
    return found


def by_us(tokenizer: Any, rows: list[Row], cut: int = CUT) -> dict[int, tuple[Side, Side]]:
    """The same of the rows that have a token to score on the chosen side."""
    renderer, found = Renderer(tokenizer, "completion", cut), {}
    for i, row in enumerate(rows):
        chosen = renderer.render(conversation_of(row, "preference"))
        rejected = chosen.rejected
        assert rejected is not None
        if chosen.reason is None:
            one, other = ((list(each.token_ids), list(each.counted)) for each in (chosen, rejected))
            found[i] = (one, other)
    return found


def message_rows(name: str) -> list[Row]:
    """Each assistant's turn of each kind as the chosen answer, another text as the rejected one."""
    rows = []
    for kind, messages in KINDS.items():
        for at in range(1, len(messages)):
            if messages[at]["role"] == "assistant" and kind not in FAMILIES[name].refuses:
                other = [{"role": "assistant", "content": "Not so. " + messages[at]["content"][:20]}]
                rows.append({"prompt": messages[:at], "chosen": messages[at : at + 1], "rejected": other})
    return rows


@pytest.mark.parametrize("name", SOME)
def test_messages_with_a_prompt_and_without(name: str, tmp_path: Path) -> None:
    rows = message_rows(name)
    theirs = by_trl(family_tokenizer(name), rows, tmp_path)
    assert 0 < len(theirs) < len(rows)  # the long question leaves no room for an answer
    assert by_us(family_tokenizer(name), rows) == theirs
    whole = [{key: row["prompt"] + row[key] for key in ("chosen", "rejected")} for row in rows]
    assert by_trl(family_tokenizer(name), whole, tmp_path) == theirs
    assert by_us(family_tokenizer(name), whole) == theirs
    # As UltraFeedback has it, where TRL needs `maybe_extract_prompt` first.
    told = [{**row, "prompt": "what the user asked"} for row in whole]
    assert by_us(family_tokenizer(name), told) == theirs


@pytest.mark.parametrize("name", SOME)
def test_strings_with_a_prompt(name: str, tmp_path: Path) -> None:
    end = FAMILIES[name].eos
    tuples = [
        ("Where is it?", " In Paris.", " In Rome, or so."), ("Merged wo", "rds here", "rk"), ("One ", "a", " b"),
        ("", "no prompt", "none"), ("no answer", "", " but this"), ("nor here", " yes", ""),
        ("e", "\u0301 joins", " no"),
        ("has its end", f" already{end}", f" too{end}"), ("naïve 東", "京 😀", "方"), ("\n\n", "\n", " \n"),
        ("word " * CUT, "too late", "too"), ("cut", " a story" * CUT, " short"),
        ("cut too", " short", " a story" * CUT),
        ("the same", " answer", " answer"),
    ]  # fmt: skip
    rows = [dict(zip(("prompt", "chosen", "rejected"), each, strict=True)) for each in tuples]
    theirs = by_trl(family_tokenizer(name), rows, tmp_path)
    assert len(theirs) == len(rows) - 1
    assert by_us(family_tokenizer(name), rows) == theirs


@pytest.mark.parametrize("name", _FAST)
def test_strings_that_begin_with_their_prompt(name: str, tmp_path: Path) -> None:
    pairs = [
        ("Q: Who? A: Ann", "Q: Who? A: Bo"), ("Who? Ann", "Who? Bo"), ("abc", "abd"),
        ("one is", "one is the beginning"),
        ("the same", "the same"), ("nothing", "in common"), ("ends in a blank ", "from the first on"), ("a", "b"),
        ("naïve 東京", "naïve 東方"), ("a b", "a c"), ("a  b", "a  c"),
    ]  # fmt: skip
    rows = [{"chosen": chosen, "rejected": rejected} for chosen, rejected in pairs]
    theirs = by_trl(family_tokenizer(name), rows, tmp_path)
    assert by_us(family_tokenizer(name), rows) == theirs
    assert len(theirs) == len(rows)


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3"])
def test_tools_and_options_of_a_row_reach_the_template(name: str, tmp_path: Path) -> None:
    row = {"prompt": CALLED[:1], "chosen": CALLED[1:], "rejected": said("", "No idea.")[1:]}
    rows: list[Row] = [
        {**row, "tools": tools, "chat_template_kwargs": {"enable_thinking": thinking}}
        for tools in (TOOLS, None)
        for thinking in (True, False)
    ]
    theirs = by_trl(family_tokenizer(name), rows, tmp_path, 2000)
    assert by_us(family_tokenizer(name), rows, 2000) == theirs
    assert theirs[0] != theirs[2]
