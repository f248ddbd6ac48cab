"""Which tokens of conversations count, what paraphrases may change, and what the held-out prompts say of the mask."""

from __future__ import annotations

import numpy as np
import pytest

from spvmia_plugin.attacks.bag_of_words import BagOfWords
from spvmia_plugin.attacks.learned import Learned
from spvmia_plugin.attacks.reference_free import Loss
from spvmia_plugin.auditing.masks import MaskCheck, Scored, other_than
from spvmia_plugin.auditing.outcome import RecordResult, Results
from spvmia_plugin.auditing.sequences import Counted, Inputs, as_perturbed, counted, edited
from spvmia_plugin.protocols import EmbeddingNoise, ScoreInput, TextEdits
from spvmia_plugin.records import Conversation, Record, Rendered
from spvmia_plugin.signals import RecordSignals, Role, TokenSignals, View
from tests.auditing.fakes import FakeBackend
from tests.chat import FakeRenderer, chat_data


def conversation(*turns):
    roles = ("user", "assistant")
    return Conversation(tuple({"role": roles[i % 2], "content": text} for i, text in enumerate(turns)))


def signals(values):
    values = np.array(values, dtype=np.float32)
    return TokenSignals(values, values > -1, values - 1, np.abs(values))


RENDERED = Rendered((1, 2, 3, 4, 5), (False, False, True, True, False), (False, False, True, True, False))


def test_masks_fit_the_scored_tokens():
    found = counted(RENDERED, "completion")
    assert found.item == ScoreInput((1, 2, 3, 4, 5))
    assert found.mask.tolist() == [False, True, True, False]  # nothing stands before the first token
    assert found.other.tolist() == [True] * 4
    after = counted(RENDERED, "completion", (9, 9), skipped=1)
    assert after.item == ScoreInput((2, 3, 4, 5), (9, 9))
    assert after.mask.tolist() == [False, True, True, False]
    everything = counted(Rendered((1, 2, 3), (True,) * 3, None), "all")
    assert everything.mask.all()
    assert everything.other is None


def test_signals_are_those_of_the_mask():
    found = counted(RENDERED, "completion")
    of_all = signals([-1, -2, -3, -4])
    seen = found.seen(of_all, other=False)
    assert seen.logprob.tolist() == [-2, -3]
    assert seen.mean.tolist() == [-3, -4]
    assert seen.std.tolist() == [2, 3]
    assert seen.top1.tolist() == [False, False]
    assert len(found.seen(of_all, other=True)) == 4
    assert Counted(found.item).seen(of_all, other=False) is of_all


def test_perturbations_get_the_words_that_carry_loss():
    chat = conversation("where is it", "on its way", "thanks", "bye")
    record = Record("a:1", chat.words(), True, "a:1", conversation=chat, rendered=RENDERED)
    assert as_perturbed(record, "completion").text == "on its way\nbye"
    assert as_perturbed(record, "all").text == "where is it\non its way\nthanks\nbye"
    assert as_perturbed(Record("a:1", "plain", True, "a:1"), None).text == "plain"


@pytest.mark.parametrize(
    ("spans", "contents"),
    [
        (((0, 2, "in"),), ["in its way", "bye"]),
        (((11, 14, "see you"),), ["on its way", "see you"]),
        (((3, 6, "the"), (11, 12, "B")), ["on the way", "Bye"]),
        (((7, 12, "road"),), ["on its road", "ye"]),  # over the line break: the next message loses what was replaced
        (((10, 14, " now"),), None),  # nothing of a message is left
        (((0, 10, ""),), None),
    ],
)
def test_edits_reach_the_messages_they_were_made_in(spans, contents):
    chat = conversation("where is it", "on its way", "thanks", "bye")
    found = edited(chat, "completion", TextEdits(spans))
    assert (found and [found.contents()[i] for i in (1, 3)]) == contents
    if found:
        assert [found.contents()[i] for i in (0, 2)] == ["where is it", "thanks"]


def test_messages_without_words_are_passed_over_by_edits():
    chat = conversation("hello", "", "again", "good bye")
    assert edited(chat, "completion", TextEdits(((0, 4, "well"),))).contents() == ["hello", "", "again", "well bye"]


def test_noise_is_for_the_tokens_it_names():
    assert EmbeddingNoise(1, 1, 0.1).only is None
    assert EmbeddingNoise(1, 1, 0.1, (2, 3)) != EmbeddingNoise(1, 1, 0.1)


def of_conversations(n, on_answers, on_rest, loss_on="completion", noise=0.02):
    """Held-out conversations under a base and a target that gained so much."""
    rng = np.random.default_rng(0)
    answers = np.array([False, False, True, True, True, False])
    masks = (answers, np.ones(6, dtype=bool)) if loss_on == "completion" else (np.ones(6, dtype=bool), answers)
    sequences = [Counted(ScoreInput((0,) * 7), *masks) for _ in range(n)]
    base = [signals(rng.normal(-3, 1, 6)) for _ in range(n)]
    gain = np.where(answers, on_answers, on_rest)
    target = [signals(each.logprob + gain + rng.normal(0, noise, 6)) for each in base]
    return MaskCheck.of(loss_on, sequences, target, base)


@pytest.mark.parametrize(
    ("loss_on", "on_answers", "on_rest", "told"),
    [
        ("completion", 0.8, 0.05, None),
        ("completion", 0.8, 0.8, "mia_loss_on=all"),
        ("completion", 0.8, -0.3, None),
        ("all", 0.8, 0.7, None),
        ("all", 0.8, 0.05, "mia_loss_on=completion"),
        ("all", -0.1, -0.2, None),  # it has learnt nothing
        ("completion", -0.1, -0.05, None),
    ],
)
def test_held_out_conversations_say_when_the_mask_is_another(loss_on, on_answers, on_rest, told):
    found = of_conversations(30, on_answers, on_rest, loss_on)
    assert found.answers == pytest.approx(on_answers, abs=0.02)
    assert found.rest == pytest.approx(on_rest, abs=0.02)
    said = found.contradiction(loss_on)
    assert said is None if told is None else told in said
    assert found.to_json()["documents"] == 30


def test_few_conversations_say_nothing():
    assert of_conversations(9, 0.8, 0.8) is None


@pytest.mark.parametrize(("loss_on", "gains"), [("completion", (0.0004, 0.0004)), ("all", (0.0004, 0.0))])
def test_a_model_that_learnt_hardly_anything_says_nothing(loss_on, gains):
    """However many conversations make the difference sure."""
    found = of_conversations(400, *gains, loss_on, noise=0.0001)
    assert found.rest > 20 * found.stderr or found.answers > 20 * found.stderr
    assert found.contradiction(loss_on) is None


def test_noise_says_nothing():
    assert of_conversations(12, 0.8, 0.3, noise=2.0).contradiction("completion") is None
    assert of_conversations(400, 0.8, 0.6, noise=2.0).contradiction("completion") is not None


def records(n):
    return [Record(f"r:{i}", "", i < n // 2, f"r:{i}", rendered=RENDERED) for i in range(n)]


def test_what_was_scored_is_counted():
    scored = Scored("messages", "completion")
    nothing = Record("x", "", True, "x", rendered=Rendered((1,), (False,), None, "nothing"))
    told = scored.to_json([*records(4), nothing])
    assert told == {"format": "messages", "loss_on": "completion", "tokens": 8, "context_tokens": 12}
    assert other_than("completion") == "all"
    assert other_than("all") == "completion"


def results(values):
    return Results({f"r:{i}": RecordResult(value) for i, value in enumerate(values)})


def test_the_other_mask_is_told_of_the_strongest_attack():
    scored = Scored("messages", "completion", other={"a": results([1, 0, 1, 0]), "b": results([2, 2, 0, 0])})
    here = {"a": results([3, 2, 1, 0]), "b": results([1, 0, 1, 0])}
    assert scored.to_json(records(4))["other"] == {"loss_on": "all", "auroc": {"a": 0.5, "b": 1.0}}
    note = scored.note(here, records(4))
    assert note == (
        "scored on the answers alone (mia_loss_on): a has AUROC 1.000; on all tokens it would have 0.500, and the "
        "strongest there is b, 1.000"
    )


def test_a_share_of_the_records_says_nothing_of_the_other_mask():
    scored = Scored("messages", "completion", other={"a": results([1, 0])})
    told = scored.to_json(records(4))
    assert "other" not in told
    assert (told["tokens"], told["context_tokens"]) == (8, 12)  # of the whole run, whichever process scored them
    assert scored.note({"a": results([1, 0])}, records(4)) is None


def test_attacks_without_scores_of_a_class_are_left_out():
    scored = Scored("messages", "all", other={"a": results([None, None, 1, 0])})
    assert scored.to_json(records(4))["other"]["auroc"] == {"a": None}
    note = scored.note({"a": results([1, 0, 1, 0])}, records(4))
    assert note == ("scored on all tokens (mia_loss_on); what the answers alone would have given is not known")


def test_why_nothing_is_known_of_the_other_mask_is_told():
    """A template that rewrites earlier turns does not tell which tokens are answers."""
    unknown = Results({f"r:{i}": RecordResult(None, "the template does not tell") for i in range(4)})
    scored = Scored("messages", "all", other={"a": unknown})
    note = scored.note({"a": results([1, 0, 1, 0])}, records(4))
    assert note.endswith("what the answers alone would have given is not known: the template does not tell")


@pytest.mark.parametrize(
    ("cut", "loss_on", "other", "text"),
    [
        (1000, "completion", False, "on its way\nbye"),
        (1000, "completion", True, "where is it\non its way\nthanks\nbye"),
        (32, "completion", False, "on "),
        (32, "completion", True, "where is it\non "),
        (40, "completion", False, "on its way"),  # within what the template puts around the next turn
        (65, "completion", False, "on its way\nb"),
        (40, "all", False, "where is it\non its way"),
        (51, "all", False, "where is it\non its way\nthank"),
    ],
)
def test_the_scored_words_end_where_the_conversation_is_cut(cut, loss_on, other, text):
    chat = conversation("where is it", "on its way", "thanks", "bye")
    renderer = FakeRenderer(lambda words: list(map(ord, words)), lambda ids: "".join(map(chr, ids)), 1)
    renderer.loss_on, renderer.max_tokens = loss_on, cut
    data = chat_data([chat, chat], [chat], renderer)
    assert Inputs(FakeBackend(), data).scored_text(data.records[0], other=other) == text


def test_attacks_on_all_records_at_once_are_left_out_of_the_other_mask():
    values = signals([-1, -2, -3])
    seen = {f"r:{i}": RecordSignals("a", {(Role.TARGET, View.TEXT): values}) for i in range(4)}
    scored = Scored("messages", "completion")
    scored.score({"learned": Learned(), "blind": BagOfWords(), "loss": Loss()}, seen)
    told = scored.to_json(records(4))["other"]
    assert set(told["auroc"]) == {"loss"}
    assert told["left_out"] == {"learned": "scored with all records of an audit together, not one by one"}
