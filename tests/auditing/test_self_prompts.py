"""Self-prompts as an audit tells of them: whether they differ, how long they are, what is kept and found again."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from spvmia_plugin import hookimpl
from spvmia_plugin.auditing.calibrate import Calibration
from spvmia_plugin.auditing.plan import reference_stages, shortfall
from spvmia_plugin.auditing.roles import Player
from spvmia_plugin.auditing.scorer import Scorer
from spvmia_plugin.auditing.self_prompts import SelfPrompts, TrainingTexts, blank_of, length_of
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.plugins import load_registry
from spvmia_plugin.records import Conversation, Document, Rendered
from spvmia_plugin.signals import Role
from spvmia_plugin.store.store import Store
from spvmia_plugin.training import conversations
from tests.auditing.fakes import FakeBackend, make_data
from tests.auditing.test_run import run
from tests.chat import FakeRenderer, chat_data, conversation, plain_row

END = 3
REFERENCE, CANDIDATE = (Player(role, role, True, {}) for role in (Role.REFERENCE, Role.CANDIDATE))
PLAIN = make_data(6, prompts=4)


class Chatty(FakeBackend):
    """Writes its seed, or the same words always; keeps what it was trained on."""

    def __init__(self, words=None, **options):
        super().__init__(**options)
        self.words = words
        self.rendered = []
        self.written = 0

    def generate(self, prompts, lengths, seeds, *, on_done=None, done=(), ends=None, complete=False):
        self.written += len(prompts)
        made = {}
        for i, (prompt, length, seed) in enumerate(zip(prompts, lengths, seeds, strict=True)):
            new = str(seed % 10**6) if self.words is None else self.words
            made[i] = [*prompt, *self.encode(new)[: length - len(prompt)]]
        if on_done:
            on_done(made)
        return list(made.values())

    def train_reference(self, texts, output_dir, *, rendered=None):
        self.rendered.append(rendered)
        tokens = sum(len(each.token_ids) for each in rendered) if rendered else sum(map(len, texts))
        return {**super().train_reference(texts, output_dir), "tokens": tokens}


def renderer(**options):
    backend = FakeBackend()
    return FakeRenderer(backend.encode, backend.decode, END, **options)


HELD_OUT = [conversation(f"Question {i}", "An answer of some length", "And?", "Nothing") for i in range(4)]
RECORDS = [conversation(f"Hello {i}", f"Good day {i}") for i in range(8)]
CHAT = chat_data(RECORDS, HELD_OUT, renderer(), candidate=[conversation("c", "d"), conversation("e", "ff")])


@pytest.fixture
def build(tmp_path):
    """Builds a reference in one store; gives the calibration, the backend and the record."""

    def built(data=CHAT, *, backend=None, player=REFERENCE, registry=None, **options):
        config = AuditConfig(**{"self_prompts": 6, "reference_epochs": 2.0, **options})
        backend = backend or Chatty()
        registry = registry or load_registry(entry_points=False)
        known = []
        with Store(tmp_path) as store:
            made = Calibration(
                data, config, backend, registry, store, on_known=lambda name, tokens: known.append((name, tokens))
            )
            made.check()
            return made, backend, made.build(player), known

    return built


def test_conversations_are_trained_on_as_they_are_rendered(build):
    made, backend, record, known = build()
    assert record["self_prompts"] == 6
    (rendered,) = backend.rendered
    (words,) = backend.trained
    assert words[0].startswith("Question 0\n")
    assert "assistant: " not in words[0]
    assert backend.decode(rendered[5].token_ids).startswith("user: Question 1\x03assistant: ")
    assert any(rendered[5].counted)
    assert not all(rendered[5].counted)
    lengths = [len(each.token_ids) for each in rendered]
    assert made.self_prompts_told == SelfPrompts(6, 1.0, sum(lengths) / 6, 0.0)
    assert known == [("training the reference", 2 * sum(lengths))]


def test_a_store_hit_tells_the_same_and_trains_nothing(build):
    first, _, _, _ = build()
    backend = Chatty()
    again, _, record, known = build(backend=backend)
    assert again.self_prompts_told == first.self_prompts_told
    assert (backend.written, backend.trained, record["trained"], known) == (0, [], False, [])


def test_plain_text_is_told_of_too(build):
    made, backend, _, _ = build(PLAIN, prompt_tokens=5, block_size=9)
    assert made.self_prompts_told == SelfPrompts(6, 1.0, 9.0, 0.0)
    assert backend.rendered == [None]


def test_plain_texts_that_end_at_once_are_counted(build):
    class Ending(Chatty):
        def generate(self, prompts, lengths, seeds, **options):
            found = super().generate(prompts, lengths, seeds)
            return [text[: len(prompts[i])] if i in (1, 4) else text for i, text in enumerate(found)]

    made, _, _, _ = build(PLAIN, backend=Ending(), prompt_tokens=5, block_size=9)
    assert made.self_prompts_told == SelfPrompts(6, 1.0, (4 * 9 + 2 * 5) / 6, 2 / 6)


def test_turns_that_end_at_once_are_counted(build):
    class Ending(Chatty):
        """Ends the second turn of every other conversation at once."""

        def generate(self, prompts, lengths, seeds, **options):
            found = super().generate(prompts, lengths, seeds)
            second = self.decode(prompts[0]).count("assistant: ") == 2
            return [text[: len(prompts[i])] if second and i % 2 else text for i, text in enumerate(found)]

    made, _, _, _ = build(backend=Ending())
    assert made.self_prompts_told.ended_at_once == 0.5
    assert made.self_prompts_told.distinct == 1.0


SAME_HEADS = dataclasses.replace(
    PLAIN, prompts=tuple(Document(f"p:{i}", "You are a kind helper. " + str(i) * 30) for i in range(4))
)


@pytest.mark.parametrize(
    ("data", "words", "options", "message"),
    [
        (
            SAME_HEADS,
            "",
            {},
            r"got 1 different ones, 6 of 6 the same: the first 16 tokens of most held-out documents are",
        ),
        (CHAT, "Sure.", {}, r"got 1 different ones, 6 of 6 the same: the target writes the same again and again; give"),
        (CHAT, "", {}, r"6 of 6 the same: the target ends 6 of them at once; give other mia_prompts or a higher"),
        (CHAT, "", {"self_prompt": "whole"}, r"the target ends 6 of them at once; use mia_self_prompt=reply with held"),
        (
            PLAIN,
            "",
            {"self_prompts": 20},
            r"got 4 different ones, 5 of 20 the same: the target ends 20 of them at once",
        ),
        (
            dataclasses.replace(CHAT, prompts=SAME_HEADS.prompts),
            "",
            {"self_prompt": "prefix"},
            r"the first 16 tokens of most .* larger mia_prompt_tokens, or mia_self_prompt=reply; mia_allow",
        ),
    ],
)
def test_texts_that_are_too_alike_are_refused_before_training(build, tmp_path, data, words, options, message):
    backend = Chatty(words)
    with pytest.raises(SpvmiaError, match=message) as caught:
        build(data, backend=backend, **options)
    assert str(caught.value).startswith("mia_self_prompt: expected self-prompts of which at least half differ")
    assert str(caught.value).endswith("mia_allow_degenerate=true goes on")
    assert not backend.trained
    assert list((tmp_path / "self_prompts").iterdir())  # they stay, and are not written again
    backend = Chatty(words)
    made, _, _, _ = build(data, backend=backend, allow_degenerate=True, **options)
    assert backend.written == 0
    assert len(backend.trained) == 1
    assert made.self_prompts_told.distinct <= 0.25


def test_conversations_that_the_target_never_begins_are_its_doing_not_the_templates(build):
    """A template renders no conversation without a message: that would be called a fault of the template."""

    class Strict(FakeRenderer):
        def render(self, conversation):
            if not conversation.messages:
                raise SpvmiaError("mia_chat_template: expected a chat template that renders a conversation")
            return super().render(conversation)

    backend = Chatty("")
    strict = Strict(backend.encode, backend.decode, END)
    data = chat_data(RECORDS, HELD_OUT, strict)
    with pytest.raises(SpvmiaError, match="the target ends 6 of them at once; use mia_self_prompt=reply with held-out"):
        build(data, backend=backend, self_prompt="whole")
    trained = TrainingTexts.of_store([Conversation(()).to_text()] * 2, strict)
    assert [each.reason for each in trained.rendered] == ["the target wrote nothing"] * 2


def test_half_of_them_different_is_enough(build):
    class Halting(Chatty):
        def generate(self, prompts, lengths, seeds, **options):
            found = super().generate(prompts, lengths, seeds)
            return [found[i // 2 * 2][:9] if self.half else found[0][:9] for i in range(len(found))]

    for half, refused in ((True, False), (False, True)):
        backend = Halting()
        backend.half = half
        data = dataclasses.replace(PLAIN, prompts=tuple(Document(f"p:{i}", f"{half}{i}abcdefgh") for i in range(2)))
        try:
            made, _, _, _ = build(data, backend=backend, prompt_tokens=4, self_prompts=4, block_size=30)
        except SpvmiaError:
            assert refused
        else:
            assert made.self_prompts_told.distinct == 0.5
            assert not refused


def test_whole_conversations_without_any_held_out_one(build):
    """Their words are the target's alone, and as many as an audited record has tokens."""
    data = dataclasses.replace(CHAT, prompts=())
    made, backend, _, _ = build(data)
    assert made.way == "whole"
    assert made.self_prompts_told.texts == 6
    assert made.self_prompts_told.distinct == 1.0
    median = len(CHAT.records[0].rendered.token_ids)
    assert all(len(each.token_ids) >= median for each in backend.rendered[0])
    assert all(text.count("Question") == 0 for text in backend.trained[0])


def test_the_candidate_is_trained_on_under_the_same_mask(build):
    _, backend, record, known = build(player=CANDIDATE)
    assert record["documents"] == 2
    (rendered,) = backend.rendered
    expected = [CHAT.renderer.render(document.conversation) for document in CHAT.candidate]
    assert rendered == expected
    assert known == [("training the candidate reference", 2 * sum(len(each.token_ids) for each in expected))]
    assert build(player=CANDIDATE)[2]["trained"] is False


def test_what_the_template_refuses_is_left_out_unless_it_is_all():
    good, bad = conversation("a", "b"), conversation("a", "bad")
    render = renderer(refuses="bad")
    texts = TrainingTexts.of_store([each.to_text() for each in (good, bad)], render)
    assert texts.rendered == [render.render(good), Rendered((), (), reason="the template refuses it")]
    with pytest.raises(SpvmiaError, match="mia_chat_template: refused"):
        _ = TrainingTexts.of_store([bad.to_text()] * 2, render).rendered


def test_a_plugin_s_texts_are_plain_or_conversations(build):
    class Plugin:
        texts: list[str]

        @hookimpl
        def spvmia_self_prompt(self, prompts, renderer, length):
            assert renderer is CHAT.renderer
            assert length == len(CHAT.records[0].rendered.token_ids)
            assert prompts[0].conversation == HELD_OUT[0]
            return self.texts

    def with_texts(*texts):
        registry, plugin = load_registry(entry_points=False), Plugin()
        plugin.texts = list(texts)
        registry.manager.register(plugin, name=f"other-{len(json.dumps(texts))}")
        return build(registry=registry)

    made, backend, _, _ = with_texts("one", "two", "", "3")
    assert backend.rendered == [None]
    assert backend.trained == [["one", "two", "", "3"]]
    assert made.self_prompts_told == SelfPrompts(4, 1.0, 7 / 4, 0.25)
    _, backend, _, _ = with_texts(HELD_OUT[0].to_text(), HELD_OUT[1].to_text())
    assert [len(each) for each in backend.rendered] == [2]
    with pytest.raises(SpvmiaError, match=r"spvmia_self_prompt: expected conversations .* got both: 1 of 2 are conv"):
        with_texts(HELD_OUT[0].to_text(), "two")


def test_a_backend_that_knows_nothing_of_conversations_is_refused(build):
    class Trains(Chatty):
        def generate(self, prompts, lengths, seeds, *, on_done=None, done=()):
            raise NotImplementedError

    class Writes(Chatty):
        def train_reference(self, texts, output_dir):
            raise NotImplementedError

    for backend, lacks in ((Trains(), r"generate has no argument 'complete'"), (Writes(), "train_reference has no")):
        with pytest.raises(
            SpvmiaError, match=rf"--model: expected a backend that writes conversations .*'fake', .*{lacks}"
        ):
            build(backend=backend)
    build(PLAIN, backend=FakeBackend(), prompt_tokens=5)


def keys(tmp_path, data, **options):
    with Store(tmp_path) as store:
        registry = load_registry(entry_points=False)
        made = Calibration(data, AuditConfig(**options), Chatty(), registry, store)
        return (
            made.corpus_key(),
            made.reference_key(["a"], rendered=data.renderer is not None),
            made.reference_key(["a"]),
        )


def test_what_counts_for_conversations(tmp_path):
    usual = keys(tmp_path, CHAT)
    for option in (
        {"prompt_tokens": 3}, {"block_size": 64}, {"allow_degenerate": True}, {"loss_on": "all"},
        {"format": "messages"}, {"record_tokens": 9}, {"chat_template": "t"}, {"self_prompt": "reply"},
    ):  # fmt: skip
        assert keys(tmp_path, CHAT, **option) == usual, option
    for option in ({"self_prompts": 3}, {"temperature": 0.5}, {"seed": 4}, {"self_prompt": "whole"}):
        assert keys(tmp_path, CHAT, **option)[0] != usual[0], option
    other = keys(tmp_path, dataclasses.replace(CHAT, renderer=renderer(loss_on="all")))
    assert other[0] != usual[0]
    assert other[1] != usual[1]
    assert other[2] == usual[2]  # of plain text
    answered = [conversation("Question 0", "Another answer"), *HELD_OUT[1:]]
    assert keys(tmp_path, chat_data(RECORDS, answered, CHAT.renderer))[0] != usual[0]


def test_whole_conversations_depend_on_lengths_and_not_on_held_out_ones(tmp_path):
    usual = keys(tmp_path, CHAT, self_prompt="whole")[0]
    assert keys(tmp_path, dataclasses.replace(CHAT, prompts=()))[0] == usual
    longer = chat_data([conversation("Hello", "A much longer good day")] * 8, HELD_OUT, CHAT.renderer)
    assert keys(tmp_path, longer, self_prompt="whole")[0] != usual
    assert keys(tmp_path, longer)[0] == keys(tmp_path, CHAT)[0]  # `reply` depends on neither
    plain = chat_data([plain_row("p", "c")] * 8, HELD_OUT, CHAT.renderer)
    assert keys(tmp_path, plain, self_prompt="whole")[0] != usual


def test_the_beginnings_of_conversations_are_kept_as_those_of_any_text(tmp_path):
    """They are written to the median length, as whole documents are: conversations are no blocks."""
    as_text = dataclasses.replace(CHAT, renderer=None)
    assert keys(tmp_path, CHAT, self_prompt="prefix")[0] == keys(tmp_path, as_text, block_size=0)[0]
    assert keys(tmp_path, CHAT, self_prompt="prefix")[0] != keys(tmp_path, as_text)[0]


def stages(tmp_path, data, backend=None, players=(REFERENCE, CANDIDATE), **options):
    config = AuditConfig(**{"self_prompts": 6, "reference_epochs": 3.0, **options})
    with Store(tmp_path) as store:
        made = Calibration(data, config, backend or Chatty(), load_registry(entry_points=False), store)
        mean = sum(len(each.rendered.token_ids) for each in data.records) / len(data.records)
        return {stage.name: stage.tokens for stage in reference_stages(players, config, data, made, mean)}


def test_the_plan_counts_the_tokens_that_conversations_have(tmp_path, build):
    rendered = [document.rendered for document in CHAT.prompts]
    written, whole = sum(sum(each.answers) for each in rendered), sum(len(each.token_ids) for each in rendered)
    candidate = sum(len(CHAT.renderer.render(document.conversation).token_ids) for document in CHAT.candidate)
    planned = stages(tmp_path, CHAT)
    assert planned == {
        "self-prompting the target": 6 * written // 4,
        "training the reference": 3 * 6 * whole // 4,
        "training the candidate reference": 3 * candidate,
    }
    _, backend, _, _ = build()
    # The texts are there: what they really have is planned for another training.
    real = sum(len(each.token_ids) for each in backend.rendered[0])
    assert real != 6 * whole // 4
    planned = stages(tmp_path, CHAT, players=[REFERENCE], reference_lr=1e-3)
    assert planned == {"self-prompting the target": 0, "training the reference": 3 * real}


def test_the_plan_of_whole_conversations_and_of_beginnings(tmp_path):
    length = len(CHAT.records[0].rendered.token_ids)
    planned = stages(tmp_path, CHAT, players=[REFERENCE], self_prompt="whole")
    assert planned == {"self-prompting the target": 6 * length, "training the reference": 18 * length}
    planned = stages(tmp_path, CHAT, players=[REFERENCE], self_prompt="prefix", prompt_tokens=10)
    words = len(HELD_OUT[0].words())
    assert planned == {"self-prompting the target": 6 * (words - 10), "training the reference": 18 * words}


def test_a_conversation_without_messages_is_like_the_audited_ones():
    def blank(*conversations):
        return blank_of(chat_data(conversations, (), CHAT.renderer))

    thinking, other = (Conversation(HELD_OUT[0].messages, options={"enable_thinking": each}) for each in (True, False))
    assert blank(thinking, thinking) == Conversation((), options={"enable_thinking": True})
    assert blank(thinking, other) == Conversation(())
    assert blank(plain_row("p", "c")) == Conversation((), prompt=0, plain=True)
    assert blank(Conversation(HELD_OUT[0].messages, prompt=3)) == Conversation((), prompt=0)
    assert blank_of(PLAIN) is None
    assert length_of(PLAIN) is None


def test_far_fewer_tokens_than_planned_are_told():
    assert shortfall("reference", 1000, {"tokens": 500}) is None
    note = "the reference was trained on 499 tokens, where the plan counted 1,000: its texts came out shorter"
    assert note in shortfall("reference", 1000, {"tokens": 499})
    assert note in shortfall("reference", 250, {"tokens": 499}, processes=4)
    assert shortfall("reference", 1000, {"trained": False}) is None
    assert shortfall("reference", 0, {"tokens": 3}) is None


def test_a_conversation_written_from_nothing_is_compared_by_all_its_words():
    from spvmia_plugin.auditing.self_prompts import Written

    two = [conversation("a", "x"), conversation("b", "x")]
    texts = TrainingTexts.of_store([each.to_text() for each in two], renderer())
    assert Written.of(texts, "whole", None).told([1, 1]).distinct == 1.0
    assert Written.of(texts, "reply", None).told([1, 1]).distinct == 0.5
    rows = TrainingTexts.of_store([plain_row("", "x").to_text(), plain_row("", "").to_text()], renderer())
    assert Written.of(rows, "whole", None).ended == [False, True]
    nothing = TrainingTexts.of_store([Conversation(()).to_text()], renderer())
    assert Written.of(nothing, "whole", None).ended == [True]


class Without(Chatty):
    """Its training leaves a conversation out."""

    def _signals(self, role, item, moments):
        """Nothing stands before the first token of a conversation: it has no score."""
        found = super()._signals(role, item, moments)
        return found.where(np.arange(len(found)) >= len(found) - item.scored)

    def train_reference(self, texts, output_dir, *, rendered=None):
        return {**super().train_reference(texts, output_dir, rendered=rendered), "without_loss": 1}


def test_an_audit_says_what_became_of_the_plan(tmp_path, capsys):
    """Texts that end at once: 6 of 16 tokens instead of 40."""
    options = {"mia_block_size": 40, "mia_reference_epochs": 1.0}
    note = "the reference was trained on 96 tokens, where the plan counted 240"
    outcome, _ = run(tmp_path / "1", ["spv_ez"], data=PLAIN, backend=Chatty(""), quiet=False, **options)
    assert [each for each in outcome.notes if note in each]
    assert outcome.details["self_prompts"]["ended_at_once"] == 1.0
    outcome, _ = run(tmp_path / "2", ["spv_ez"], data=PLAIN, backend=Chatty("x" * 99), quiet=False, **options)
    assert not [each for each in outcome.notes if "the plan counted" in each]
    outcome, _ = run(tmp_path / "3", ["spv_ez"], data=CHAT, backend=Without(), mia_block_size=None)
    assert "the reference was trained without 1 conversation in which no token carries loss" in outcome.notes
    capsys.readouterr()


def test_a_plan_that_turns_out_wrong_is_corrected_before_the_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Scorer, "measure", lambda self, requests: 1.0)
    options = {"mia_block_size": 40, "mia_reference_epochs": 1.0}
    run(tmp_path, ["spv_ez"], data=PLAIN, backend=Chatty(""), quiet=False, **options)
    assert "(training the reference has 96 tokens, not 240 as planned)" in capsys.readouterr().err


class Killed(Exception):
    pass


def test_a_killed_run_finds_its_conversations_and_writes_the_rest(tmp_path, monkeypatch):
    monkeypatch.setitem(conversations.CHUNK, "cpu", 2)

    class Dying(Chatty):
        """Dies in the second chunk, between its turns."""

        def generate(self, prompts, lengths, seeds, **options):
            if self.written == 6:
                raise Killed
            return super().generate(prompts, lengths, seeds, **options)

    def texts(folder, backend):
        with Store(folder) as store:
            config = AuditConfig(self_prompts=6)
            made = Calibration(CHAT, config, backend, load_registry(entry_points=False), store)
            return made.self_prompts()

    whole, rest = Chatty(), Chatty()
    expected = texts(tmp_path / "whole", whole)
    with pytest.raises(Killed):
        texts(tmp_path / "killed", Dying())
    assert texts(tmp_path / "killed", rest) == expected
    assert (whole.written, rest.written) == (12, 8)
