"""The trainer's rows held against declared ones, by TRL's own data sets."""

from __future__ import annotations

import pytest

from spvmia_plugin.data.formats import conversation_of
from spvmia_plugin.records import Document
from spvmia_plugin.trainers.rows import read_rows
from spvmia_plugin.trainers.seen import AS_MESSAGES, Lookout, candidates, look
from tests.data.families import family_tokenizer
from tests.data.test_rendering_trl import by_trl, said

from .conftest import tiny_texts

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


def rows_of(n):
    """Prompts that hold an answer, so that a template may render it otherwise when it is training."""
    texts = iter(tiny_texts(4 * n, seed=5, words=(4, 9)))
    turns = [said(*(next(texts) for _ in range(4))) for _ in range(n)]
    return [{"prompt": each[:3], "completion": each[3:]} for each in turns]


@pytest.mark.parametrize(
    ("family", "options", "way"),
    [
        ("qwen3", {"assistant_only_loss": True}, AS_MESSAGES),
        ("qwen3", {}, "chat completion"),
        ("chatml_marked", {"assistant_only_loss": True}, "chat completion"),
    ],
)
def test_prompts_that_are_rendered_as_messages_are_no_other_data(family, options, way, tmp_path):
    import datasets

    rows, tokenizer = rows_of(24), family_tokenizer(family)
    theirs = by_trl(family_tokenizer(family), rows[:12], tmp_path, max_length=512, **options)
    made = [{"input_ids": ids, "labels": [i if on else -100 for i, on in zip(ids, mask, strict=True)]}
            for ids, mask in theirs.values()]  # fmt: skip
    documents = [Document(f"f:{i}", "", 0, conversation_of(row, "prompt_completion")) for i, row in enumerate(rows)]
    seen = read_rows(datasets.Dataset.from_list(made), blocks=False)
    lookout = Lookout(seen, lambda each: candidates(each, tokenizer, None, ended=False), 512, lambda item: None)
    found = look(documents[:12], documents[12:], seen, lookout, packed=False)
    assert (found.data, found.loss_on) == ("matched", "completion")
    assert (found.way == AS_MESSAGES) == (way == AS_MESSAGES)
    assert any("declare them as rows of messages" in note for note in found.notes) == (way == AS_MESSAGES)
