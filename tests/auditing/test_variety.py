"""Answers that are mostly alike are refused, and draws that are are told."""

from __future__ import annotations

import pytest

from spvmia_plugin.auditing import continuations
from spvmia_plugin.auditing.variety import Variety, check_varied
from spvmia_plugin.errors import SpvmiaError
from tests.auditing.test_continuations import DATA, Writing, audited, members

SORRY = " sorry, but that is nothing I can help with, so I stop here"
REFUSED = "mia_continuations: expected answers of which at least half differ from record to record, got 1 "


class Says(Writing):
    """Answers by what it is given, the prompt and the seed: `answer` makes the text."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def generate(self, prompts, lengths, seeds, *, on_done=None, done=(), ends=None, complete=False):
        found = [self.encode(self.decode(p) + self.answer(p, seed)) for p, seed in zip(prompts, seeds, strict=True)]
        self.reached += prompts
        for i, ids in enumerate(found):
            on_done({i: ids})
        return found


def notes(outcome):
    return [note for note in outcome.notes if "answers to" in note or "draws are" in note or "are empty" in note]


def test_a_target_that_refuses_everything_ends_the_run_early(tmp_path, monkeypatch):
    monkeypatch.setattr(continuations, "ENOUGH", 8)
    backend = Says(lambda prompt, seed: SORRY)
    with pytest.raises(SpvmiaError, match=f"{REFUSED}different ones, 8 of 8 the same: it refuses"):
        audited(tmp_path, backend=backend)
    with pytest.raises(SpvmiaError, match="8 of 8 the same: it refuses"):  # nor does the store hide it
        audited(tmp_path, backend=Says(lambda prompt, seed: SORRY))


def test_a_target_that_writes_nothing(tmp_path):
    with pytest.raises(SpvmiaError, match="24 of 24 the same: it writes nothing;"):
        audited(tmp_path, backend=Says(lambda prompt, seed: ""))


def test_who_allows_it_is_told_of_it(tmp_path):
    outcome, _ = audited(tmp_path, backend=Says(lambda prompt, seed: SORRY), mia_allow_degenerate=True)
    one, other = notes(outcome)
    assert one.startswith("1 different answers to 24 records: ")
    assert other.startswith("all draws are the same for 24 of 24 records: ")


def test_draws_that_are_all_the_same_are_told(tmp_path):
    """As of a gateway that keeps answers by their messages alone."""
    outcome, _ = audited(tmp_path, backend=Says(lambda prompt, seed: f" {sum(prompt)} words"))
    (note,) = notes(outcome)
    assert note.startswith("all draws are the same for 24 of 24 records: ")


def test_some_empty_answers_are_told_by_their_share(tmp_path):
    outcome, _ = audited(tmp_path, backend=Says(lambda prompt, seed: f" {seed} words" if seed % 2 else ""))
    (note,) = notes(outcome)
    assert note.endswith("of 120 texts that the target wrote are empty")


def test_nothing_is_told_of_answers_that_differ(tmp_path):
    assert notes(audited(tmp_path, backend=Writing(members()))[0]) == []
    assert len(DATA.records) == 24


def test_one_word_replies_are_no_refusals():
    check_varied(["yes", "no", "yes", "yes"], ["no", "yes", "yes", "no"], allowed=False)
    check_varied(["sorry"], ["a long text"], allowed=False)
    check_varied([], [], allowed=False)
    assert Variety().notes() == []
