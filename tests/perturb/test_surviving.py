"""Replacements are those that trying the whole text each time would find, at a cost that follows its length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest

from spvmia_plugin.data.tokenisation import Reading
from spvmia_plugin.perturb.surviving import REPAIRS, replaced
from tests.tiny import tiny_texts, tiny_tokenizer

Draws = list[dict[int, int]]
CHINESE = "我们在城市里走路看见一只小猫坐在门口等着主人回家吃饭" * 20
ODD = "naïve  café\n\n東京 😀–😀 x\t1,000,000.00 " * 20


def as_a_whole(
    token_ids: Sequence[int], order: Sequence[int], draws: Draws, count: int, survives: Callable[[list[int]], bool]
) -> dict[int, int]:
    """The plain way: all of the text, for each token that is tried."""
    text, chosen = list(token_ids), {}
    for position in order:
        for draw in draws:
            if survives([*text[:position], draw[position], *text[position + 1 :]]):
                text[position] = chosen[position] = draw[position]
                break
        if len(chosen) == count:
            break
    return chosen


def drawn(token_ids: Sequence[int], vocabulary: Sequence[int], seed: int = 0) -> tuple[list[int], Draws]:
    """An order of three fifths of the positions, and four tokens for each."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(token_ids))[: 3 * len(token_ids) // 5].tolist()
    return order, [dict(zip(order, rng.choice(vocabulary, len(order)).tolist(), strict=True)) for _ in range(4)]


def with_blank() -> Reading:
    """Begins every text with a blank, as SentencePiece does, and has characters that no blank stands before."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>"], show_progress=False)
    made.train_from_iterator([*tiny_texts(200, seed=1), CHINESE[:27], ODD, "xx"], trainer)
    return Reading(PreTrainedTokenizerFast(tokenizer_object=made))


@pytest.mark.parametrize("text", [" ".join(tiny_texts(8)), CHINESE, ODD, "x" * 400, "one two " * 100])
@pytest.mark.parametrize("reading", [lambda: Reading(tiny_tokenizer()), with_blank], ids=["bytes", "blank"])
def test_the_same_as_by_the_whole(reading: Callable[[], Reading], text: str) -> None:
    read = reading()
    token_ids = read.body(text)[:250]
    while not read.survives(token_ids):  # half a character
        del token_ids[-1]
    usual = token_ids if len(set(token_ids)) > 20 else range(len(read.tokenizer))
    for seed, vocabulary in enumerate((usual, range(len(read.tokenizer)))):
        order, draws = drawn(token_ids, vocabulary, seed)
        found = replaced(token_ids, order, draws, len(token_ids) // 5, read.survives)
        assert found == as_a_whole(token_ids, order, draws, len(token_ids) // 5, read.survives)
        assert len(found) >= 10


class Letters:
    """Tokens from 0 to 9, of which a 7 stands beside no other 7, with a rule for the whole; counts what it is asked."""

    def __init__(self, whole: Callable[[Sequence[int]], bool] = lambda text: True) -> None:
        self.whole = whole
        self.asked = 0

    def __call__(self, text: Sequence[int]) -> bool:
        self.asked += len(text)
        return all((a, b) != (7, 7) for a, b in pairwise(text)) and self.whole(text)


def letters(length: int) -> tuple[list[int], list[int], Draws]:
    token_ids = [i % 5 for i in range(length)]
    return token_ids, *drawn(token_ids, range(5, 10))


def cost(length: int) -> int:
    survives = Letters()
    token_ids, order, draws = letters(length)
    assert len(replaced(token_ids, order, draws, length // 5, survives)) == length // 5
    return survives.asked


def test_the_cost_follows_the_length() -> None:
    assert cost(4000) < 4.4 * cost(1000)


@pytest.mark.parametrize("beyond", [REPAIRS - 2, REPAIRS + 12])
def test_what_the_whole_alone_shows_is_taken_back(beyond: int) -> None:
    """No piece shows how many nines there are in all, of which a text may have so many."""
    token_ids, order, draws = letters(400)
    free = replaced(token_ids, order, draws, 150, Letters())
    most = list(free.values()).count(9) - beyond

    def whole(text: Sequence[int]) -> bool:
        return list(text).count(9) <= most

    found = replaced(token_ids, order, draws, 150, Letters(whole))
    assert found == as_a_whole(token_ids, order, draws, 150, Letters(whole))
    assert list(found.values()).count(9) == most


def test_where_no_piece_stands_by_itself_the_whole_is_tried() -> None:
    """At about half as much again as that costs, at most."""
    token_ids, order, draws = letters(300)
    plain, careful = (Letters(lambda text: len(text) == 300) for _ in range(2))
    assert replaced(token_ids, order, draws, 60, careful) == as_a_whole(token_ids, order, draws, 60, plain)
    assert careful.asked < 1.7 * plain.asked
