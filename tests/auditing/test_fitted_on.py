"""What the weights of a shadow were fitted on is not scored with them, and is told."""

from __future__ import annotations

import dataclasses
import json

import pytest

from spvmia_plugin.attacks.learned import Learned
from spvmia_plugin.attacks.weights import FILE as WEIGHTS
from spvmia_plugin.attacks.weights import Weights, shipped, write_weights
from spvmia_plugin.auditing.fitted_on import FILE, FittedShadow, all_barred, barred, same_hash, write_fitted_on
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import ASSISTANT, Conversation

from .fakes import make_data
from .test_run import run

KEY, OTHER_KEY = "00" * 32, "11" * 32
DATA = dataclasses.replace(make_data(), provenance={"manifest_fingerprint": "a"})


def weights_of(folder, *manifests):
    """Weights that were fitted on shadows with these manifests."""
    card = dataclasses.replace(shipped().card, settings={"shadows": list(manifests)} if manifests else {})
    write_weights(folder / WEIGHTS, Weights(card, shipped().variants))
    return Learned(str(folder))


def fitted_on(folder, records=(), key=KEY, manifest="b"):
    write_fitted_on(folder, [FittedShadow(manifest, key, tuple(same_hash(key, record) for record in records))])


def test_the_model_that_weights_were_fitted_on_has_no_score_and_the_run_goes_on(tmp_path):
    weights_of(tmp_path, "b", "a")
    outcome, _ = run(tmp_path / "run", ["learned", "loss"], data=DATA, mia_shadow=str(tmp_path))
    learned, loss = (outcome.results[f"{name}_mia_custom"] for name in ("learned", "loss"))
    assert {(each.score, each.reason) for each in learned.values()} == {
        (None, "the weights were fitted on these records and their labels")
    }
    assert all(each.score is not None for each in loss.values())
    (note,) = [note for note in outcome.notes if note.startswith("learned: ")]
    assert note.startswith("learned: its weights were fitted on the audited model's own records and labels, so no")
    assert outcome.told["learned"]["fitted_on"] == ["b", "a"]


def test_by_itself_it_is_refused_before_anything_is_asked(tmp_path):
    with pytest.raises(SpvmiaError, match=r"^mia_shadow: expected weights that were fitted on other models"):
        all_barred({"learned": weights_of(tmp_path, "a")}, DATA)
    assert all_barred({"learned": Learned(), "loss": Learned()}, DATA) == {}


def test_records_that_weights_were_fitted_on_have_no_score_whatever_model_holds_them(tmp_path):
    weights_of(tmp_path, "b")
    own = DATA.records[3:9]
    fitted_on(tmp_path, own, OTHER_KEY)
    outcome, _ = run(tmp_path / "run", ["learned"], data=DATA, mia_shadow=str(tmp_path))
    found = outcome.results["learned_mia_custom"]
    without = {key for key, each in found.items() if each.score is None}
    assert without == {record.id for record in own}
    assert {found[key].reason for key in without} == {"the weights were fitted on this record and a label of it"}
    assert "learned: 6 of 48 records are among those that its weights were fitted on, and are not scored with them" in (
        outcome.notes
    )
    # Those that are scored have the score that they have anyway: ranks are among all records, and ask for no label.
    fitted_on(tmp_path)
    anyway, _ = run(tmp_path / "other", ["learned"], data=DATA, mia_shadow=str(tmp_path))
    every = anyway.results["learned_mia_custom"]
    assert all(each.score == every[key].score for key, each in found.items() if key not in without)
    assert not [note for note in anyway.notes if note.startswith("learned: ")]


TURNS = ({"role": "user", "content": "What is it?"}, {"role": ASSISTANT, "content": "A parcel."})
CHAT = Conversation(TURNS)


@pytest.mark.parametrize(
    "again",
    [
        Conversation(TURNS, tools=()),
        Conversation(TURNS, tools=({"name": "price"},)),
        Conversation(({**TURNS[0], "name": "bob"}, TURNS[1])),
        Conversation(({**TURNS[0], "role": "tool"}, TURNS[1])),
        Conversation(TURNS, prompt=1),
        Conversation(TURNS, prompt=1, plain=True),
        Conversation(TURNS, options={"enable_thinking": False}),
        Conversation(({"role": "user", "content": "What is it?\nA  parcel. "},)),
        Conversation.of_text("What is it? A parcel."),
        None,
    ],
)
def test_a_conversation_that_says_the_same_is_one_that_weights_were_fitted_on(tmp_path, again):
    weights_of(tmp_path, "b")
    record = dataclasses.replace(DATA.records[0], text="What is it?\nA parcel.")
    fitted_on(tmp_path, [dataclasses.replace(record, conversation=CHAT)])
    # What stands in most conversations is no part of the text by which an audit tells them apart.
    text = record.text if again is None else "parcel"
    data = dataclasses.replace(DATA, records=(dataclasses.replace(record, conversation=again, text=text),))
    assert set(barred(weights_of(tmp_path, "b"), data).records) == {record.id}


def test_a_conversation_that_says_something_else_is_another(tmp_path):
    thinks = Conversation((TURNS[0], {**TURNS[1], "thinking": "It has a stamp."}))
    record = dataclasses.replace(DATA.records[0], conversation=CHAT)
    fitted_on(tmp_path, [record])
    data = dataclasses.replace(DATA, records=(dataclasses.replace(record, conversation=thinks),))
    assert barred(weights_of(tmp_path, "b"), data).records == {}


def test_weights_that_came_without_their_records_say_that_nobody_knows(tmp_path):
    found = barred(weights_of(tmp_path, "b"), DATA)
    assert found.records == {}
    assert str(found.note).startswith(f"learned: there is no {FILE} beside the weights, so whether audited records are")
    assert barred(weights_of(tmp_path), DATA).note == found.note  # a card that names no shadow
    assert barred(weights_of(tmp_path, "b"), dataclasses.replace(DATA, provenance={})).note == found.note


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("nonsense", "JSONDecodeError"),
        ("[]", "expected a mapping as the file"),
        ('{"format": 1, "shadows": []}', "format 1, where this version has 2"),
        ('{"format": 2, "shadows": [{"manifest": "b", "key": "0", "records": []}]}', "ValueError"),
        ('{"format": 2, "shadows": [{"manifest": "b", "key": "00"}]}', "records"),
        ('{"format": 2, "shadows": []}', "it belongs to other weights"),
        (json.dumps({"format": 2, "shadows": [{"manifest": "c", "key": KEY, "records": []}]}), "it belongs to other"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path, content, problem):
    attack = weights_of(tmp_path, "b")
    (tmp_path / FILE).write_text(content)
    with pytest.raises(
        SpvmiaError, match=f"^mia_shadow: expected in .*{FILE} what .* got .*{problem}.*; give the same"
    ):
        barred(attack, DATA)
