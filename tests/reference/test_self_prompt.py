from __future__ import annotations

import pytest

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import Document
from spvmia_plugin.reference.self_prompt import MAX_ATTEMPTS, self_prompt, self_prompt_count
from spvmia_plugin.seeds import stable_seed


class Echo:
    """Characters are tokens; a continuation spells its seed; texts that start with a blank may come out blank."""

    max_length = 100

    def __init__(self, blank_attempts=0):
        self.blank_attempts = blank_attempts
        self.calls = []

    def encode(self, text):
        return [ord(c) for c in text]

    def decode(self, token_ids):
        return "".join(map(chr, token_ids))

    def generate(self, prompts, lengths, seeds, *, on_done=None, done=()):
        self.calls.append((prompts, lengths, seeds, list(done)))
        fill = " " if len(self.calls) <= self.blank_attempts else "z"
        texts = [
            [*p, *map(ord, (fill * 99 if p[0] == 32 else str(s) * 9)[: n - len(p)])]
            for p, n, s in zip(prompts, lengths, seeds, strict=True)
        ]
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


def test_blank_texts_are_written_again_with_another_seed():
    backend, kept = Echo(blank_attempts=2), {}
    documents = [Document("f:1", "      "), Document("f:2", "abcdef")]
    config = AuditConfig(self_prompts=4, prompt_tokens=6, block_size=20)
    texts = self_prompt(backend, documents, config, on_done=kept.update)
    assert all(text.strip() for text in texts)
    assert kept == dict(enumerate(texts))
    assert [len(call[0]) for call in backend.calls] == [4, 2, 2]
    assert backend.calls[2][2] == [stable_seed(0, "self_prompt", i, 2) for i in (0, 2)]
    with pytest.raises(SpvmiaError, match="blank"):
        self_prompt(Echo(blank_attempts=MAX_ATTEMPTS), documents, config)


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
