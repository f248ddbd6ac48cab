from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spvmia_plugin.data.packing import (
    SEPARATOR,
    cut_documents,
    document_row,
    fast_tokenize,
    pack,
    rebuild_text,
    whole_documents,
)
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import Document, Piece
from tests.data.builders import documents, word_tokenize
from tests.tiny import tiny_texts, tiny_tokenizer

TEXTS = st.lists(st.text("ab é\n\u200f\x00", min_size=1, max_size=120).filter(str.strip), min_size=1, max_size=12)


def naive_blocks(docs: list[Document], block_size: int) -> list[tuple[str, str, str]]:
    """(id, cluster, text) by the rules in words, reading all that is left each time."""
    blocks = []
    i = 0
    while i < len(docs):
        joined = SEPARATOR.join(d.text for d in docs[i:])
        spans = word_tokenize(joined)[1]
        if len(spans) < block_size:
            break
        cluster, end = docs[i].id, spans[block_size - 1][1]
        blocks.append((docs[i].id, cluster, joined[:end]))
        j = i
        while end > len(docs[j].text + SEPARATOR) or (end == len(docs[j].text + SEPARATOR) and j + 1 < len(docs)):
            end -= len(docs[j].text + SEPARATOR)
            j += 1
        number = 1
        while 0 < end < len(docs[j].text):
            rest = docs[j].text[end:]
            spans = word_tokenize(rest)[1]
            if len(spans) < block_size:
                break
            number += 1
            blocks.append((f"{docs[j].id}#{number}", cluster, rest[: spans[block_size - 1][1]]))
            end += spans[block_size - 1][1]
        i = j + 1 if end else j
    return [block for block in blocks if len(word_tokenize(block[2])[0]) == block_size]


@given(TEXTS, st.integers(2, 12))
@settings(max_examples=300)
def test_blocks_are_those_of_a_naive_reading(texts: list[str], block_size: int) -> None:
    docs = documents(texts)
    packed = pack(docs, word_tokenize, block_size)
    assert [(b.id, b.cluster, b.text) for b in packed.records] == naive_blocks(docs, block_size)


@given(TEXTS, st.integers(2, 12), st.booleans())
@settings(max_examples=200)
def test_pieces_rebuild_every_block_without_a_tokenizer(texts: list[str], block_size: int, sequential: bool) -> None:
    docs = documents(texts)
    packed = pack(docs, word_tokenize, block_size, sequential=sequential)
    by_row = {document_row(d): d.text for d in docs}
    for block in packed.records:
        assert rebuild_text(by_row, block.pieces) == block.text
        assert len(word_tokenize(block.text)[0]) == block_size
    assert len({block.id for block in packed.records}) == len(packed.records)


@given(TEXTS, st.integers(2, 12))
@settings(max_examples=200)
def test_no_document_lies_in_two_clusters(texts: list[str], block_size: int) -> None:
    clusters: dict[int, set[str]] = {}
    for block in pack(documents(texts), word_tokenize, block_size).records:
        for piece in block.pieces:
            clusters.setdefault(piece.row, set()).add(block.cluster)
    assert all(len(found) == 1 for found in clusters.values())


@given(TEXTS, st.integers(2, 12))
@settings(max_examples=100)
def test_sequential_blocks_leave_no_gap(texts: list[str], block_size: int) -> None:
    docs = documents(texts)
    packed = pack(docs, word_tokenize, block_size, sequential=True)
    joined = SEPARATOR.join(texts)
    if not packed.changed_length:
        assert joined.startswith("".join(block.text for block in packed.records))
        assert len(packed.records) == len(word_tokenize(joined)[0]) // block_size


def test_one_short_document_after_the_other_makes_one_block() -> None:
    packed = pack(documents(["aaaa bbbb", "cccc", "dddd eeee"]), word_tokenize, 4)
    (block,) = packed.records
    assert block.text == "aaaa bbbb\n\ncccc"
    assert block.pieces == (Piece(1, 0, 11), Piece(2, 0, 4))
    assert packed.used == 3  # the last document fills no block


def test_a_long_document_goes_on_as_long_as_it_fills_blocks_and_its_rest_is_counted() -> None:
    text = " ".join(["abcd"] * 11)
    packed = pack(documents([text, text]), word_tokenize, 4)
    assert [b.id for b in packed.records] == ["d.jsonl:1", "d.jsonl:1#2", "d.jsonl:2", "d.jsonl:2#2"]
    assert [b.cluster for b in packed.records] == ["d.jsonl:1"] * 2 + ["d.jsonl:2"] * 2
    assert packed.cut_rests == 2
    assert packed.used == 2


def test_packing_stops_when_there_is_enough_and_reads_no_further() -> None:
    read: list[str] = []

    def tokenize(text: str) -> tuple[list[int], list[tuple[int, int]]]:
        read.append(text)
        return word_tokenize(text)

    docs = documents([f"{i:04d} " + "abcd " * 30 for i in range(10_000)])
    packed = pack(docs, tokenize, 8, limit=5)
    assert len(packed.records) == 5
    assert packed.used == 2
    assert len(read) < 20


def test_one_block_a_cluster_for_canaries() -> None:
    docs = documents([" ".join(["abcd"] * 40), " ".join(["efgh"] * 40)])
    packed = pack(docs, word_tokenize, 8, one_per_cluster=True)
    assert [b.id for b in packed.records] == ["d.jsonl:1", "d.jsonl:2"]


def test_a_block_of_another_length_on_its_own_is_dropped_and_counted() -> None:
    def moody(text: str) -> tuple[list[int], list[tuple[int, int]]]:
        ids, spans = word_tokenize(text)
        return (ids, spans) if len(spans) > 4 else ([*ids, 0], [*spans, spans[-1]])  # one token more when short

    docs = documents([" ".join(["abcd"] * 9)])
    packed = pack(docs, moody, 4)
    assert packed.records == ()
    assert packed.changed_length == 2


def test_a_megabyte_without_a_space_packs_in_linear_time() -> None:
    tokenizer = fast_tokenize(tiny_tokenizer())
    packed = pack(documents(["é" * 200_000]), tokenizer, 128, limit=50)
    assert len(packed.records) == 50
    assert all(len(tokenizer(block.text)[0]) == 128 for block in packed.records)


def test_a_real_tokenizer_gives_blocks_of_exactly_the_size_on_hostile_text() -> None:
    tokenizer = fast_tokenize(tiny_tokenizer())
    rng = random.Random(0)
    texts = [
        text + rng.choice([" \x00\u202e", "\r\n\n", " 世界 🎉", "\u2028 end"]) + tail
        for text, tail in zip(tiny_texts(60), tiny_texts(60, seed=2), strict=True)
    ]
    packed = pack(documents(texts), tokenizer, 32)
    assert len(packed.records) > 60
    assert {len(tokenizer(block.text)[0]) for block in packed.records} == {32}


def test_tokenizers_that_add_special_tokens_add_none_here() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|end|> $A", special_tokens=[("<|end|>", 0)]
    )
    assert len(tokenizer("abc")["input_ids"]) == len(fast_tokenize(tokenizer)("abc")[0]) + 1


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(SpvmiaError, match="mia_block_size: packing expects a fast tokenizer, got Slow"):
        fast_tokenize(Slow())


def test_prompts_are_the_heads_of_documents() -> None:
    docs = documents(["abcd " * 500, "ab cd"])
    cut = cut_documents(docs, word_tokenize, 8)
    assert [d.id for d in cut] == ["d.jsonl:1", "d.jsonl:2"]
    assert cut[0].text == docs[0].text[: word_tokenize(docs[0].text)[1][7][1]]
    assert cut[1].text == "ab cd"


def test_whole_documents_are_records_of_their_own() -> None:
    packed = whole_documents(documents(["a", "bc", "d"]), 2)
    assert [(b.id, b.cluster, b.text, b.pieces) for b in packed.records] == [
        ("d.jsonl:1", "d.jsonl:1", "a", (Piece(1, 0, 1),)),
        ("d.jsonl:2", "d.jsonl:2", "bc", (Piece(2, 0, 2),)),
    ]
    assert packed.used == 2


def test_pieces_that_do_not_fit_the_text_are_refused() -> None:
    with pytest.raises(IndexError):
        rebuild_text({1: "abc"}, [Piece(1, 0, 6)])
    with pytest.raises(KeyError):
        rebuild_text({1: "abc"}, [Piece(2, 0, 1)])
