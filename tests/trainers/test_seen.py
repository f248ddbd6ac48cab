"""The trainer's rows held against declared ones, by TRL's own data sets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from spvmia_plugin.data.formats import conversation_of
from spvmia_plugin.records import Document
from spvmia_plugin.trainers.rows import read_rows
from spvmia_plugin.trainers.seen import Lookout, look
from spvmia_plugin.trainers.ways import AS_MESSAGES, Candidate, candidates
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


class Words:
    """A tokenizer of one token a word, without a chat template."""

    eos_token, chat_template, truncation_side = None, None, "right"

    def __call__(self, text, **_):
        return {"input_ids": [hash(word) % 2**31 for word in text.split()]}


def seen(members, nonmembers, made, *, blocks=False, max_length=None, packed=False):
    """What comes of looking for records among rows of ids."""
    rows = read_rows(made, blocks=blocks)
    lookout = Lookout(rows, lambda each: candidates(each, Words(), None, ended=False), max_length, lambda item: None)
    return look(members, nonmembers, rows, lookout, packed=packed)


def words(n, length, seed):
    return [Document(f"{seed}:{i}", " ".join(f"w{seed}.{i}.{k}" for k in range(length)), 0) for i in range(n)]


def ids(documents):
    return [{"input_ids": Words()(each.text)["input_ids"]} for each in documents]


def of_answers(rows):
    return [Document(f"c:{i}", "", 0, conversation_of(row, "messages")) for i, row in enumerate(rows)]


def test_records_that_cannot_be_looked_for_are_not_taken_for_found():
    turns = [{"messages": said("one", f"two {i}")} for i in range(40)]
    found = seen(of_answers(turns[:30]), of_answers(turns[30:]), ids(words(30, 9, 1)))
    assert found.data.startswith("not checked: none of 30 members could be looked for: mia_chat_template: expected a")
    assert (found.is_unchecked, found.unreadable) == (True, False)


def blocks_of(documents, length=32):
    stream = [token for each in ids(documents) for token in each["input_ids"]]
    return [{"input_ids": stream[i : i + length]} for i in range(0, len(stream), length)]


@pytest.mark.parametrize(("short", "expected"), [(30, "none of"), (16, "14 of"), (15, None), (0, None)])
def test_of_blocks_it_is_said_how_many_could_be_looked_for(short, expected):
    members = [*words(short, 6, 1), *words(30 - short, 80, 2)]
    found = seen(members, words(30, 80, 3), blocks_of(members), blocks=True, packed=True)
    if expected:
        assert found.data.startswith(f"not checked: {expected} 30 members could be looked for: its rows are blocks")
    else:
        assert found.data == "matched"
        told = f"{30 - short} of 30 members could be looked for in the trainer's rows"
        assert (told in found.notes) == (short > 0)
    assert not any("beside the declared" in note for note in found.notes)


def with_words(before, documents):
    return [replace(each, text=f"{before} {each.text}") for each in documents]


def test_what_all_records_begin_with_is_no_record():
    """A system prompt: rows of others that have it, too, are not the members, and members are not the non-members."""
    prompt = " ".join(f"p{i}" for i in range(200))
    members, others, trained = (with_words(prompt, words(30, 60, seed)) for seed in (1, 2, 3))
    assert seen(members, others, blocks_of(trained), blocks=True).data.startswith("differs: none of 30 members")
    assert seen(members, others, blocks_of(members), blocks=True).data == "matched"
    assert seen(members, others, blocks_of(others), blocks=True).data.startswith("differs: non-members")


def test_rows_that_are_there_twice_are_no_others():
    members = words(30, 9, 1)
    assert seen(members, words(30, 9, 2), ids([*members, *members])).notes == ()
    (note,) = seen(members, words(30, 9, 2), ids([*members, *words(3, 9, 4)])).notes
    assert note.startswith("the trainer has 3 rows beside the declared members")


@pytest.mark.parametrize("first", [0, 1])
def test_rows_that_were_cut_from_the_left_are_found(first):
    members = words(30, 40, 1)
    cut = [{"input_ids": each["input_ids"][:first] + each["input_ids"][first - 20 :]} for each in ids(members)]
    found = seen(members, words(30, 40, 2), cut, max_length=20)
    assert (found.data, found.notes) == (
        "matched",
        ("long rows were trained on by their ends (cut from the left), and are scored by their starts",),
    )


def both(documents, others):
    """Rows of a DPO, and the records that are declared for them."""

    def of(one, other):
        return Candidate("pair", tuple(one), (True,) * len(one), tuple(other))

    made = [(a["input_ids"], b["input_ids"]) for a, b in zip(ids(documents), ids(others), strict=True)]
    rows = [{"prompt_ids": a[:2], "chosen_ids": a[2:], "rejected_ids": b[2:]} for a, b in made]
    return rows, {each.id: of(a, b) for each, (a, b) in zip(documents, made, strict=True)}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("as declared", "matched"),
        ("with the rejected answers of others", "are trained on with other rejected answers"),
        ("turned round", "are not among the trainer's rows"),
        ("non-members turned round", "differs: non-members 2:"),
    ],
)
def test_both_sides_of_a_preference_are_looked_for(kind, expected):
    def pairs(seed):
        return (with_words(f"x y{seed}.{{i}}", words(30, 9, each)) for each in (seed, seed + 10))

    (chosen, rejected), (held, refused) = pairs(1), pairs(2)
    declared = rejected[1:] + rejected[:1] if kind == "with the rejected answers of others" else rejected
    rows, _ = both(*((rejected, chosen) if kind == "turned round" else (chosen, rejected)))
    made = {**both(chosen, declared)[1], **both(held, refused)[1]}
    if kind == "non-members turned round":
        trained = [made[each.id] for each in chosen]
        turned = [replace(each, ids=each.rejected, rejected=each.ids) for each in trained]
        made |= {each.id: pair for each, pair in zip(held, turned, strict=True)}
    found_rows = read_rows(rows, blocks=False)
    lookout = Lookout(found_rows, lambda each: [made[each.id]], None, lambda item: None)
    data = look(chosen, held, found_rows, lookout, packed=False).data
    assert expected in data or (kind == "turned round" and data.startswith("differs: none of"))


def test_rows_of_kto_are_read():
    (row,) = ({"prompt_ids": [1, 2], "completion_ids": [3], "KL_completion_ids": [9], "label": True},)
    rows = read_rows([row], blocks=False)
    place = rows.place([1, 2, 3])
    assert place is not None
    assert rows.counted(place) == (False, False, True)
    assert (rows.pairs, rows.holds_rejected([1, 2, 9])) == (set(), False)
