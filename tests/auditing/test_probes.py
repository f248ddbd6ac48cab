"""Records read after masked copies of themselves: what is masked, what stands before a record, and what counts."""

from __future__ import annotations

import dataclasses

import pytest

from spvmia_plugin.auditing.probes import probes
from spvmia_plugin.auditing.run import Job, Run
from spvmia_plugin.auditing.sequences import Inputs
from spvmia_plugin.auditing.sheets import Sheet
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.protocols import Frame
from spvmia_plugin.records import AuditData, Conversation, Record, Rendered
from spvmia_plugin.signals import Role, View
from spvmia_plugin.store.store import Store
from tests.auditing.fakes import FakeBackend, make_data
from tests.auditing.test_run import REGISTRY, run
from tests.chat import FakeRenderer, chat_data

TEXT = "Anna sold 12 blue boats, and -- in May -- Böris bought 3 of them again."


def text_of(ids):
    return "".join(map(chr, ids))


def data_of(*texts, **kwargs):
    records = tuple(Record(f"f:{i}", text, i % 2 == 0, f"f:{i}") for i, text in enumerate(texts, start=1))
    return AuditData(records, (), (), "declared", "f" * 8, "made", 0, **kwargs)


@pytest.mark.parametrize("seed", range(5))
def test_seventy_percent_of_the_words_with_a_letter_are_masked(seed):
    (edits,) = probes(TEXT, [seed])
    words = [word for word in TEXT.split() if any(letter.isalpha() for letter in word)]
    assert len(words) == 12
    assert len(edits.spans) == 8  # floor(0.7 * 12)
    replaced = [TEXT[a:b] for a, b, _ in edits.spans]
    assert {new for _, _, new in edits.spans} == {"word"}
    assert set(replaced) <= set(words)
    rest = edits.apply(TEXT).split()
    assert [a if b != "word" else b for a, b in zip(TEXT.split(), rest, strict=True)] == rest
    assert all(kept in rest for kept in ("12", "--", "3"))


def test_the_draw_is_the_seeds_alone_and_every_word_can_be_drawn():
    assert probes(TEXT, [0, 1])[1:] == probes(TEXT, [1])
    drawn = [{a for a, _, _ in edits.spans} for edits in probes(TEXT, range(40))]
    assert len({frozenset(each) for each in drawn}) > 20
    assert len(set().union(*drawn)) == 12


@pytest.mark.parametrize(("text", "probed"), [("sold", "word"), ("3 boats", "3 word"), ("船", "word")])
def test_a_short_text_loses_a_word_too(text, probed):
    assert probes(text, [0])[0].apply(text) == probed


@pytest.mark.parametrize("text", ["", " ", "12 -- 3"])
def test_a_text_without_words_has_no_probe(text):
    assert probes(text, [0]) is None
    inputs = Inputs(FakeBackend(), data_of(text), probes=1)
    assert inputs.probed(data_of(text).records[0]) == "no word to mask in a probe"


class Framing(FakeBackend):
    def __init__(self, frame):
        super().__init__()
        self._frame = frame

    def frame(self, text):
        return self._frame


@pytest.mark.parametrize(
    ("frame", "before", "scored"),
    [
        (Frame(), "{probe}\n\nA", "nna sold boats"),  # its first token has no score alone either
        (Frame((1,), (), (2,)), "\x01{probe}\n\n", "Anna sold boats\x02"),
        (Frame((9,), (1,), (2,)), "\x09\x01{probe}\n\n", "Anna sold boats\x02"),  # no BOS in the middle
    ],
)
def test_a_probe_stands_before_the_record_in_its_own_frame(frame, before, scored):
    data, backend = data_of("Anna sold boats"), Framing(frame)
    inputs = Inputs(backend, data, probes=2, seed=4)
    first, second = inputs.probed(data.records[0])
    shown = {text_of(each.item.context_ids) for each in (first, second)}
    possible = [
        " ".join(w if k != kept else ["Anna", "sold", "boats"][k] for k, w in enumerate(["word"] * 3))
        for kept in range(3)
    ]
    assert shown <= {before.format(probe=each) for each in possible}  # floor(2.1) of 3 words are masked
    assert [text_of(each.item.token_ids) for each in (first, second)] == [scored] * 2
    alone = inputs.of(data.records[0], View.TEXT)
    assert alone.item.scored - first.item.scored == len(frame.before)


def test_probes_go_by_the_seed_and_the_records_id_and_not_by_the_others():
    data = make_data(6)

    def made(probes=2, seed=0, data=data):
        inputs = Inputs(FakeBackend(), data, probes=probes, seed=seed)
        return {each.id: [found.item for found in inputs.probed(each)] for each in data.records}

    assert made() == made()
    assert {key: found[:1] for key, found in made().items()} == made(probes=1)
    assert made(data=dataclasses.replace(data, records=data.records[3:])) == dict(list(made().items())[3:])
    assert sum(a != b for a, b in zip(made(seed=1).values(), made().values(), strict=True)) > 6  # of 12
    one = data_of(TEXT)
    other = dataclasses.replace(one, records=(dataclasses.replace(one.records[0], id="f:another"),))
    assert made(data=other)["f:another"] != made(data=one)["f:1"]


def test_record_and_probe_have_to_fit_the_context():
    record = data_of("abc def ghi").records[0]
    whole = Inputs(FakeBackend(), data_of("abc def ghi"), probes=1).probed(record)[0].item
    room = len(whole.context_ids) + len(whole.token_ids)
    assert isinstance(Inputs(FakeBackend(max_length=room), data_of("x"), probes=1).probed(record), list)
    told = Inputs(FakeBackend(max_length=room - 1), data_of("x"), probes=1).probed(record)
    assert told == "record and probe exceed the model's context"


def test_an_audit_scores_records_after_their_probes(tmp_path):
    data = make_data(5)
    outcome, backend = run(tmp_path, ["icp", "loss"], data=data, mia_icp_probes=2)
    found, plain = outcome.results["icp_mia_custom"], outcome.results["loss_mia_custom"]
    inputs = Inputs(FakeBackend(), data, probes=2)
    for record in data.records:
        after = [backend._signals(Role.TARGET, each.item, False).logprob for each in inputs.probed(record)]
        alone = backend._signals(Role.TARGET, inputs.of(record, View.TEXT).item, False).logprob
        best = max(after, key=lambda values: values.mean(dtype="float64"))
        expected = alone[len(alone) - len(best) :].mean(dtype="float64") - best.mean(dtype="float64")
        assert found[record.id].score == pytest.approx(expected, rel=1e-6)
        assert found[record.id].target == plain[record.id].target
    assert set(backend.scored.values()) == {1}
    again, asked = run(tmp_path, ["icp"], data=data, mia_icp_probes=2)
    assert not asked.scored
    assert again.results["icp_mia_custom"] == found
    _, asked = run(tmp_path, ["icp"], data=data)
    assert not asked.scored  # one of the two
    _, asked = run(tmp_path, ["icp"], data=data, mia_seed=5)
    assert asked.scored


def test_records_without_a_probe_have_a_reason(tmp_path):
    records = [Record(f"f:{i}", text, i % 2 == 0, f"f:{i}") for i, text in enumerate([TEXT, "1 2 3", TEXT * 9], 1)]
    data = dataclasses.replace(make_data(2), records=(*records, *make_data(2).records[3:]))
    outcome, _ = run(tmp_path, ["icp"], data=data, backend=FakeBackend(max_length=700))
    told = {record_id: each.reason for record_id, each in outcome.results["icp_mia_custom"].items()}
    assert told["f:1"] is None
    assert told["f:2"] == "no word to mask in a probe"
    assert told["f:3"] == "record and probe exceed the model's context"


def test_an_attack_that_wants_fewer_probes_sees_its_own(tmp_path):
    data = make_data(4)
    icp = REGISTRY.attacks["icp"]

    def scores(folder, *attacks):
        audit = Job(data, AuditConfig(), {repr(each): each for each in attacks}, data.records, data.records)
        with Store(tmp_path / folder) as store:
            return Run(audit, FakeBackend(), REGISTRY, store, quiet=True).execute().results

    both = scores("both", icp(), icp(probes=3))
    assert both[repr(icp())] == scores("one", icp())[repr(icp())]
    assert both[repr(icp(probes=3))] == scores("three", icp(probes=3))[repr(icp(probes=3))]


CHAT = Conversation(
    (
        {"role": "user", "content": "where is it now"},
        {"role": "assistant", "content": "on its long way"},
        {"role": "user", "content": "thanks a lot"},
        {"role": "assistant", "content": "bye for now"},
    )
)


class Cut(FakeBackend):
    """Gives no signals of a first token that nothing stands before, as models do."""

    def _signals(self, role, item, moments):
        found = super()._signals(role, item, moments)
        return dataclasses.replace(found, **cut(found, item.scored))


def chatting(conversation=CHAT, *, loss_on="completion", begin=(), **options):
    backend = Cut(**options)
    renderer = FakeRenderer(backend.encode, backend.decode, 1, begin=begin, loss_on=loss_on)
    renderer.bos_id = begin[0] if begin else None
    return backend, chat_data([conversation] * 4, [conversation], renderer)


@pytest.mark.parametrize("begin", [(), (2,)])
def test_of_conversations_the_texts_that_carry_loss_are_masked_and_rendered_again(begin):
    backend, data = chatting(begin=begin)
    inputs = Inputs(backend, data, probes=1)
    record = data.records[0]
    (found,) = inputs.probed(record)
    before, own = text_of(found.item.context_ids), text_of(record.rendered.token_ids)
    # A BOS begins the whole and is not repeated; otherwise the record's first token, which has no score alone, is read.
    shown, middle = (before, "") if begin else (before[:-1], before[-1])
    assert (middle + text_of(found.item.token_ids)) == (own[1:] if begin else own)
    turns = shown.removeprefix("".join(map(chr, begin))).split("\x01")
    assert turns[0] == "user: where is it now"
    assert turns[2] == "user: thanks a lot"
    answers = [turn.removeprefix("assistant: ").split() for turn in (turns[1], turns[3])]
    assert [len(answer) for answer in answers] == [4, 3]
    assert sum(word == "word" for answer in answers for word in answer) == 4  # floor(0.7 * 7)
    alone = inputs.of(record, View.TEXT)
    assert found.item.scored == alone.item.scored
    assert found.mask.tolist() == alone.mask.tolist()
    assert found.other.tolist() == alone.other.tolist()


def test_under_a_loss_on_everything_every_message_is_masked():
    backend, data = chatting(loss_on="all")
    (found,) = Inputs(backend, data, probes=1).probed(data.records[0])
    turns = text_of(found.item.context_ids[:-1]).split("\x01")
    words = [word for turn in turns for word in turn.partition(": ")[2].split()]
    assert len(words) == 14
    assert words.count("word") == 9


def test_conversations_without_a_probe_have_a_reason():
    backend, data = chatting()
    record = data.records[0]
    reason = dataclasses.replace(record, rendered=Rendered((1,), (False,), None, "nothing to score"))
    assert Inputs(backend, data, probes=1).probed(reason) == "nothing to score"
    numbers = CHAT.with_contents({1: "1 2", 3: "3"})
    backend, data = chatting(numbers)
    assert Inputs(backend, data, probes=1).probed(data.records[0]) == "no word to mask in a probe"
    backend, data = chatting()
    data.renderer.max_tokens = 1  # the copy is cut to nothing
    assert Inputs(backend, data, probes=1).probed(data.records[0]) == "nothing to score"
    backend, data = chatting(max_length=100)
    assert Inputs(backend, data, probes=1).probed(data.records[0]) == "record and probe exceed the model's context"


def test_the_other_mask_reads_the_same_sequence():
    backend, data = chatting()
    sheet = Sheet(data.records[0], Inputs(backend, data, probes=2))
    items = sheet.sequences([View.TEXT, View.PROBED])
    assert len(items) == 3
    found = {item: backend.score(Role.TARGET, [item], moments=False)[0] for item in items}
    sheet.fill(Role.TARGET, [View.TEXT, View.PROBED], found)
    here, there = sheet.signals({}), sheet.under_other_mask({})
    count = sum(data.records[0].rendered.counted)
    assert [len(each) for each in here.probed_of(Role.TARGET)] == [count] * 2
    assert [len(each) for each in there.probed_of(Role.TARGET)] == [items[0].scored] * 2


def cut(signals, scored):
    return {"logprob": signals.logprob[-scored:], "top1": signals.top1[-scored:]}
