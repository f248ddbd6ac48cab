"""Preferences: both answers are scored after one prompt, and every other attack sees the chosen one alone."""

from __future__ import annotations

import dataclasses
import math

import pytest

from spvmia_plugin.auditing.self_prompts import TrainingTexts, blank_of
from spvmia_plugin.auditing.sequences import Inputs
from spvmia_plugin.auditing.sheets import Sheet
from spvmia_plugin.protocols import Backend
from spvmia_plugin.records import Conversation, Document
from spvmia_plugin.signals import Role, View
from spvmia_plugin.training.conversations import Writer
from tests.auditing.fakes import FakeBackend, make_data
from tests.auditing.test_probes import Cut, text_of
from tests.auditing.test_run import run
from tests.chat import FakeRenderer, chat_data

ATTACKS = ["premia", "loss", "zlib", "lowercase", "lira_base", "ez", "wbc"]


def preference(number, *, rejected="rather not"):
    prompt = {"role": "user", "content": f"may I have {number} of them"}
    answers = [{"role": "assistant", "content": text} for text in (f"yes all {number}" + " please" * number, rejected)]
    return Conversation((prompt, answers[0]), prompt=1, rejected=(answers[1],))


def without(conversation):
    return dataclasses.replace(conversation, rejected=None)


def data_of(conversations, **options):
    backend = Cut(**options)
    renderer = FakeRenderer(backend.encode, backend.decode, 1)
    renderer.bos_id = None
    held_out = [preference(90 + i) for i in range(12)]
    data = chat_data(conversations, held_out, renderer)
    kind = "preference" if conversations[0].rejected is not None else "prompt_completion"
    return backend, dataclasses.replace(data, format=kind)


class Writing:
    """A backend that answers every prompt in the same words."""

    def __init__(self, backend):
        self._backend = backend
        self.device = None

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def generate(self, prompts, lengths, seeds, *, ends, complete):
        answer = [*self._backend.encode("as you like"), 1]
        return [[*prompt, *answer][:length] for prompt, length in zip(prompts, lengths, strict=True)]

    converse = Backend.converse


ROWS = [preference(i) for i in range(1, 9)]


def test_the_rejected_answer_stands_after_the_same_prompt():
    backend, data = data_of(ROWS)
    inputs, record = Inputs(backend, data), data.records[2]
    chosen, rejected = (inputs.of(record, view) for view in (View.TEXT, View.REJECTED))
    assert text_of(rejected.item.token_ids) == "user: may I have 3 of them\x01assistant: rather not\x01"
    assert text_of(chosen.item.token_ids).startswith("user: may I have 3 of them\x01assistant: yes all 3 please")
    read = rejected.item.token_ids[1:]  # nothing stands before the first
    assert text_of(i for i, counts in zip(read, rejected.mask, strict=True) if counts) == "rather not\x01"


def test_rows_without_a_rejected_answer_have_a_reason():
    backend, data = data_of([without(row) for row in ROWS])
    assert Inputs(backend, data).of(data.records[0], View.REJECTED) == "no preference: the row has no rejected answer"
    text = make_data(2)
    found = Inputs(FakeBackend(), text).of(text.records[0], View.REJECTED)
    assert found == "no preference: the row has no rejected answer"
    backend, data = data_of(ROWS)
    rendered = dataclasses.replace(data.records[0].rendered.rejected, reason="both are the same")
    record = dataclasses.replace(
        data.records[0], rendered=dataclasses.replace(data.records[0].rendered, rejected=rendered)
    )
    assert Inputs(backend, data).of(record, View.REJECTED) == "both are the same"


def test_an_audit_scores_both_answers(tmp_path):
    backend, data = data_of(ROWS)
    outcome, backend = run(tmp_path, ATTACKS, data=data, backend=backend)
    inputs = Inputs(backend, data)
    for record in data.records:
        moved = []
        for view in (View.TEXT, View.REJECTED):
            found = inputs.of(record, view)
            by_role = [backend._signals(role, found.item, False).logprob for role in (Role.TARGET, Role.BASE)]
            sums = [
                math.fsum(x for x, counts in zip(each.tolist(), found.mask, strict=True) if counts) for each in by_role
            ]
            moved.append(sums[0] - sums[1])
        assert outcome.results["premia_mia_custom"][record.id].score == pytest.approx(moved[0] - moved[1], rel=1e-5)
    assert set(backend.scored.values()) == {1}


def test_every_other_attack_sees_the_chosen_side_alone(tmp_path):
    backend, data = data_of(ROWS)
    with_both, _ = run(tmp_path / "both", ATTACKS, data=data, backend=backend)
    backend, data = data_of([without(row) for row in ROWS])
    alone, _ = run(tmp_path / "chosen", ATTACKS, data=data, backend=backend)
    for attack in ATTACKS[1:]:
        task = f"{attack}_mia_custom"
        assert with_both.results[task] == alone.results[task], attack
    told = alone.results["premia_mia_custom"]
    assert {each.reason for each in told.values()} == {"no preference: the row has no rejected answer"}
    assert {each.score for each in told.values()} == {None}


def test_plain_texts_are_no_preferences_and_the_run_goes_on(tmp_path):
    outcome, _ = run(tmp_path, ["premia", "loss"], data=make_data(6))
    told = outcome.results["premia_mia_custom"]
    assert {each.reason for each in told.values()} == {"no preference: the row has no rejected answer"}
    assert all(each.score is not None for each in outcome.results["loss_mia_custom"].values())


def test_there_is_no_other_mask_and_none_is_checked(tmp_path):
    backend, data = data_of(ROWS)
    sheet = Sheet(data.records[0], Inputs(backend, data))
    items = sheet.sequences([View.TEXT, View.REJECTED])
    assert len(items) == 2
    found = {item: backend.score(Role.TARGET, [item], moments=False)[0] for item in items}
    sheet.fill(Role.TARGET, [View.TEXT, View.REJECTED], found)
    assert sheet.under_other_mask({}) is None
    assert set(sheet.signals({}).tokens) == {(Role.TARGET, View.TEXT), (Role.TARGET, View.REJECTED)}
    outcome, _ = run(tmp_path / "preferences", ["lira_base", "premia"], data=data, backend=backend)
    assert "other" not in outcome.details["scored"]
    assert "loss_mask" not in outcome.details
    backend, data = data_of([without(row) for row in ROWS])
    outcome, _ = run(tmp_path / "completions", ["lira_base"], data=data, backend=backend)
    assert outcome.details["loss_mask"]["documents"] == 12
    assert "other" in outcome.details["scored"]


@pytest.mark.parametrize("attacks", [["loss"], ["loss", "premia"], ["bag_of_words"]])
def test_an_audit_of_preferences_says_which_attack_is_left_out(tmp_path, attacks):
    backend, data = data_of([preference(i) for i in range(1, 25)])
    outcome, _ = run(tmp_path, attacks, data=data, backend=backend)
    told = [note for note in outcome.notes if "premia_mia_custom" in note]
    assert len(told) == (attacks == ["loss"])


def test_self_prompts_and_candidates_have_no_rejected_answer():
    backend, data = data_of(ROWS)
    backend = Writing(backend)
    written = Writer(backend, data.renderer, 0, 2).replies(data.prompts, None, ())
    made = [Conversation.from_text(text) for text in written]
    assert [(each.prompt, each.rejected) for each in made] == [(1, None)] * 2
    assert [each.messages[0] for each in made] == [p.conversation.messages[0] for p in data.prompts[:2]]
    texts = TrainingTexts.of_documents(data.prompts, data.renderer)
    assert all(each.rejected is None for each in texts.conversations)
    assert texts.texts == [without(each.conversation).to_text() for each in data.prompts]
    assert blank_of(data) == Conversation((), 0)


def test_the_rejected_side_is_private_too():
    _, data = data_of([preference(1, rejected="a secret of theirs"), *ROWS])
    texts = dict(data.texts()[-len(data.texts()) // 2 :])
    assert "a secret of theirs" in texts["f:1"]
    assert len(data.texts()) == 2 * (len(data.records) + len(data.prompts))
    words = [text for _, text in make_data(3).texts()]
    assert words == [each.text for each in (*make_data(3).records, *make_data(3).prompts)]
    assert dataclasses.replace(data, records=(), prompts=(Document("p", "plain"),)).texts() == [("p", "plain")]
