from __future__ import annotations

import pytest

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import Backend
from spvmia_plugin.records import Document
from spvmia_plugin.seeds import stable_seed
from spvmia_plugin.training.self_prompt import self_prompt, self_prompt_count


class Echo(Backend):
    """Characters are tokens; a continuation spells its seed."""

    max_length = 100

    def __init__(self):
        self.calls = []

    def encode(self, text):
        return [ord(c) for c in text]

    def decode(self, token_ids):
        return "".join(map(chr, token_ids))

    def generate(self, prompts, lengths, seeds, *, on_done=None, done=()):
        self.calls.append((prompts, lengths, seeds, list(done)))
        texts = [[*p, *map(ord, (str(s) * 9)[: n - len(p)])] for p, n, s in zip(prompts, lengths, seeds, strict=True)]
        texts = [None if i in done else text for i, text in enumerate(texts)]
        if on_done:
            on_done({i: text for i, text in enumerate(texts) if text})
        return texts


DOCUMENTS = [Document(f"f:{i}", text) for i, text in enumerate(["abcdefgh", "short", "ijklmnopqrst", "uvwxyzabc"])]
CONFIG = AuditConfig(self_prompts=7, prompt_tokens=6, block_size=20, seed=3)


def test_prompts_are_the_beginnings_of_documents_over_and_over_with_new_seeds():
    backend = Echo()
    texts = self_prompt(backend, DOCUMENTS, CONFIG)
    assert len(texts) == self_prompt_count(CONFIG) == 7
    assert [text[:6] for text in texts] == ["abcdef", "ijklmn", "uvwxyz"] * 2 + ["abcdef"]
    assert {len(text) for text in texts} == {20}
    ((_, lengths, seeds, _),) = backend.calls
    assert lengths == [20] * 7
    assert seeds == [stable_seed(3, "self_prompt", i, 0) for i in range(7)]
    assert len(set(texts)) == 7


def test_more_prompts_change_nothing_about_the_first():
    fewer = self_prompt(Echo(), DOCUMENTS, AuditConfig(self_prompts=4, prompt_tokens=6, block_size=20, seed=3))
    assert self_prompt(Echo(), DOCUMENTS, CONFIG)[:4] == fewer


def test_whole_documents_are_written_to_the_median_length_within_the_context():
    backend = Echo()
    self_prompt(backend, DOCUMENTS, AuditConfig(self_prompts=1, prompt_tokens=4, block_size=0))
    assert backend.calls[0][1] == [8]  # of 8, 5, 12, 9 tokens
    long = [Document("f:1", "x" * 500)]
    backend = Echo()
    self_prompt(backend, long, AuditConfig(self_prompts=1, prompt_tokens=4, block_size=0))
    assert backend.calls[0][1] == [100]


def test_documents_that_begin_with_white_space_only_prompt_nothing():
    documents = [Document("f:1", "      and then words"), Document("f:2", "abcdef")]
    texts = self_prompt(Echo(), documents, AuditConfig(self_prompts=3, prompt_tokens=6, block_size=20))
    assert [text[:6] for text in texts] == ["abcdef"] * 3
    with pytest.raises(SpvmiaError, match="shorter, blank or begin"):
        self_prompt(Echo(), documents[:1], AuditConfig(self_prompts=3, prompt_tokens=6, block_size=20))


def test_what_is_done_is_not_written_again():
    backend, kept = Echo(), {}
    whole = self_prompt(Echo(), DOCUMENTS, CONFIG)
    texts = self_prompt(backend, DOCUMENTS, CONFIG, on_done=kept.update, done={0, 4})
    assert backend.calls[0][3] == [0, 4]
    assert texts == [None if i in (0, 4) else text for i, text in enumerate(whole)]
    assert set(kept) == {1, 2, 3, 5, 6}


def test_no_document_is_long_enough():
    with pytest.raises(SpvmiaError, match="mia_prompt_tokens"):
        self_prompt(Echo(), DOCUMENTS[1:2], CONFIG)
    with pytest.raises(SpvmiaError, match="mia_prompts"):
        self_prompt(Echo(), [], CONFIG)


def test_a_prompt_must_leave_something_to_write():
    with pytest.raises(SpvmiaError, match="fewer tokens than a text has"):
        self_prompt(Echo(), DOCUMENTS, AuditConfig(prompt_tokens=8, block_size=8))
