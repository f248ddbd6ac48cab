from __future__ import annotations

from collections.abc import Iterable

import pytest

from spvmia_plugin.data.split import Packer, Parts, deal, shuffled, split_declared, split_paper, split_random, unique
from spvmia_plugin.records import Document, Record
from tests.data.builders import documents, word_tokenize
from tests.tiny import tiny_texts

WHOLE = Packer(0)
BLOCKS = Packer(16, word_tokenize)
PAPER = Packer(16, word_tokenize, sequential=True)


def rows(blocks: Iterable[Record]) -> set[int]:
    return {piece.row for block in blocks for piece in block.pieces}


def prompt_rows(prompts: Iterable[Document]) -> set[int]:
    return {int(p.id.rpartition(":")[2].partition("#")[0]) for p in prompts}


@pytest.mark.parametrize("packer", [WHOLE, BLOCKS])
def test_a_random_split_shares_no_document_and_depends_on_the_seed_alone(packer: Packer) -> None:
    docs = documents(tiny_texts(300))
    parts = split_random(docs, packer, 50, 50, seed=1)
    assert (len(parts.members), len(parts.nonmembers), len(parts.prompts)) == (50, 50, 50)
    groups = [rows(parts.members), rows(parts.nonmembers), prompt_rows(parts.prompts)]
    assert {record.is_member for record in parts.members} == {True}
    assert {record.is_member for record in parts.nonmembers} == {False}
    assert sum(map(len, groups)) == len(set.union(*groups))
    assert split_random(docs, packer, 50, 50, seed=1) == parts
    assert rows(split_random(docs, packer, 50, 50, seed=2).members) != groups[0]


def test_a_small_pool_leaves_something_for_every_class() -> None:
    parts = split_random(documents(tiny_texts(100)), WHOLE, 1000, 1000, seed=0)
    assert (len(parts.members), len(parts.nonmembers), len(parts.prompts)) == (40, 40, 20)


def test_equal_texts_go_into_a_split_once_and_are_counted() -> None:
    texts = [*tiny_texts(100), *tiny_texts(30), " " + tiny_texts(1)[0] + "\n"]
    parts = split_random(documents(texts), WHOLE, 1000, 1000, seed=0)
    assert parts.counts["duplicate_documents"] == 31
    found = [block.text for block in (*parts.members, *parts.nonmembers)] + [p.text for p in parts.prompts]
    assert len(found) == len(set(found)) == 100


def test_unique_keeps_the_first() -> None:
    assert [d.id for d in unique(documents(["a", "b", " a"]))] == ["d.jsonl:1", "d.jsonl:2"]


def test_the_papers_split_takes_blocks_in_order() -> None:
    docs = documents(tiny_texts(200))
    parts = split_paper(docs, None, PAPER, 20, 15)
    assert parts.members[0].id == "d.jsonl:1"
    assert [b.text for b in parts.members] == [b.text for b in PAPER.pack(docs, 20).records]
    assert parts.nonmembers[0].id == "d.jsonl:181"  # the last tenth
    assert len(parts.prompts) == 15
    assert prompt_rows(parts.prompts).isdisjoint(rows(parts.members))
    assert max(prompt_rows(parts.prompts)) <= 180


def test_the_papers_split_with_a_held_out_split() -> None:
    docs, heldout = documents(tiny_texts(100)), documents([*tiny_texts(5), *tiny_texts(50, seed=9)], "held.jsonl")
    parts = split_paper(docs, heldout, PAPER, 10, 10)
    assert all(block.id.startswith("held.jsonl") for block in parts.nonmembers)
    assert parts.nonmembers[0].id == "held.jsonl:6"  # the first five are training texts
    assert parts.counts["duplicate_documents"] == 5


def test_a_quarter_of_the_nonmembers_becomes_the_prompts_where_none_are_given() -> None:
    members, nonmembers = documents(tiny_texts(60), "m"), documents(tiny_texts(80, seed=1), "n")
    parts = split_declared(members, nonmembers, None, WHOLE, 1000, 10, seed=3)
    assert (len(parts.members), len(parts.nonmembers), len(parts.prompts)) == (60, 60, 20)
    assert {p.text for p in parts.prompts}.isdisjoint(b.text for b in parts.nonmembers)
    other = split_declared(members, nonmembers, None, WHOLE, 1000, 10, seed=4)
    assert {p.text for p in other.prompts} != {p.text for p in parts.prompts}


def test_given_prompts_leave_the_nonmembers_alone_and_are_no_longer_than_a_record() -> None:
    members, nonmembers = documents(tiny_texts(60), "m"), documents(tiny_texts(80, seed=1), "n")
    prompts = documents(tiny_texts(7, seed=2), "p")
    parts = split_declared(members, nonmembers, prompts, BLOCKS, 1000, 10, seed=3)
    assert [p.id for p in parts.prompts] == [p.id for p in prompts]
    assert {len(word_tokenize(p.text)[0]) for p in parts.prompts} == {16}
    assert rows(parts.nonmembers) <= set(range(1, 81))


def test_max_samples_cuts_both_classes() -> None:
    members, nonmembers = documents(tiny_texts(60), "m"), documents(tiny_texts(80, seed=1), "n")
    parts = split_declared(members, nonmembers, None, BLOCKS, 25, 10, seed=3)
    assert len(parts.members) == len(parts.nonmembers) == 25


def test_dealing_gives_exactly_what_is_asked_for_while_it_lasts() -> None:
    docs = documents(tiny_texts(300))
    wanted = {"members": 40, "nonmembers": 30, "canaries": 20, "prompts": 10_000}
    dealt, counts = deal(docs, BLOCKS, wanted, seed=0)
    assert [len(dealt[name]) for name in ("members", "nonmembers", "canaries")] == [40, 30, 20]
    assert 20 < len(dealt["prompts"]) < 10_000
    groups = [rows(blocks) for blocks in dealt.values()]
    assert sum(map(len, groups)) == len(set.union(*groups))
    assert len({block.cluster for block in dealt["canaries"]}) == 20
    assert counts["duplicate_documents"] == 0


def test_shuffling_needs_no_global_state() -> None:
    assert shuffled(range(10), 0, "a") == shuffled(range(10), 0, "a")
    assert sorted(shuffled(range(10), 0, "a")) == list(range(10))
    assert shuffled(range(100), 0, "a") != shuffled(range(100), 0, "b")


def test_counts_add_up() -> None:
    parts = Parts()
    parts.count("x", 2)
    parts.count("x", 3)
    assert parts.counts == {"x": 5}
