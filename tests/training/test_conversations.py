"""Self-prompts that are conversations: who writes what, where they end, and that a killed run ends in the same bits."""

from __future__ import annotations

import json

import pytest

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import Backend
from spvmia_plugin.records import Conversation
from spvmia_plugin.seeds import stable_seed
from spvmia_plugin.training import conversations as module
from spvmia_plugin.training.conversations import Writer
from spvmia_plugin.training.self_prompt import self_prompt, way_of
from tests.chat import FakeRenderer, conversation, documents, plain_row

END = 3
"""Ends a turn."""


class Typist(Backend):
    """Characters are tokens. What it writes: the answer of a table to what it has read, or else its seed in digits."""

    max_length = 1000
    device = None

    def __init__(self, answers=None):
        self.answers = answers
        self.calls = []

    def encode(self, text):
        return [ord(c) for c in text]

    def decode(self, token_ids):
        return "".join(map(chr, token_ids))

    def generate(self, prompts, lengths, seeds, *, on_done=None, done=(), ends=None, complete=False):
        assert complete
        assert ends == {END}
        self.calls.append((list(prompts), list(lengths), list(seeds)))
        found = []
        for prompt, length, seed in zip(prompts, lengths, seeds, strict=True):
            new = self.answers(self.decode(prompt)) if self.answers else f"<{seed}>"
            found.append([*prompt, *self.encode(new)[: length - len(prompt)]])
        return found


def renderer(**options) -> FakeRenderer:
    backend = Typist()
    return FakeRenderer(backend.encode, backend.decode, END, **options)


HELD_OUT = documents(
    [
        conversation("Hi", "Hello, how can I help?", "Lost", "Where?", system="Be kind."),
        conversation("No answer yet"),
        conversation("One", "Two"),
        conversation("a", "bb", "c", "dd", "e", "f"),
    ]
)
LONGEST = len("Hello, how can I help?") + 1


def write(way, prompts=HELD_OUT, *, n=7, backend=None, render=None, seed=0, **options):
    config = AuditConfig(self_prompts=n, self_prompt=way, seed=seed)
    made = self_prompt(backend or Typist(), prompts, config, renderer=render or renderer(), **options)
    return [Conversation.from_text(text) for text in made if text is not None]


def spoken(made: Conversation) -> list[tuple[str, str]]:
    return [(message["role"][0], message["content"]) for message in made.messages]


def seeds(i, turn, seed=0):
    return f"<{stable_seed(seed, 'self_prompt', i, turn)}>"


def test_replies_keep_what_others_said_and_draw_each_turn_from_a_seed_of_its_own():
    made = write("reply", seed=5)
    assert len(made) == 7
    assert spoken(made[0]) == [
        ("s", "Be kind."), ("u", "Hi"), ("a", seeds(0, 0, 5)), ("u", "Lost"), ("a", seeds(0, 1, 5)),
    ]  # fmt: skip
    # Documents without an answer are not used; the others over and over.
    assert [each.messages[-2]["content"] for each in made] == ["Lost", "One", "e"] * 2 + ["Lost"]
    answers = [words for each in made for who, words in spoken(each) if who == "a"]
    assert len(set(answers)) == len(answers) == 2 + 1 + 3 + 2 + 1 + 3 + 2


def test_the_target_reads_what_it_wrote_before():
    backend = Typist(lambda read: f"{len(read)}")
    (made,) = write("reply", HELD_OUT[3:], n=1, backend=backend)
    read = [backend.decode(prompts[0]) for prompts, _, _ in backend.calls]
    assert read[0] == "user: a\x03assistant: "
    assert read[1] == f"user: a\x03assistant: {len(read[0])}\x03user: c\x03assistant: "
    assert spoken(made)[-1] == ("a", str(len(read[2])))


def test_a_turn_is_no_longer_than_the_longest_held_out_one_and_stays_within_the_cut():
    backend = Typist(lambda read: "x" * 500)
    made = write("reply", backend=backend, n=1)[0]
    assert [len(words) for who, words in spoken(made) if who == "a"] == [LONGEST, LONGEST]
    cut = len("system: Be kind.\x03user: Hi\x03assistant: ") + 7
    made = write("reply", backend=backend, n=1, render=renderer(max_tokens=cut))[0]
    # The second answer lies beyond: the conversation ends with the user's turn before it, as the trainer cuts it.
    assert spoken(made)[2:] == [("a", "x" * 7), ("u", "Lost")]
    backend.max_length = cut - 2
    assert spoken(write("reply", backend=backend, n=1)[0])[2] == ("a", "x" * 5)


def test_a_template_that_does_not_tell_answers_has_turns_as_long_as_their_words():
    class Silent(FakeRenderer):
        def render(self, conversation):
            rendered = super().render(conversation)
            return type(rendered)(rendered.token_ids, rendered.counted)

    backend = Typist(lambda read: "x" * 500)
    made = write("reply", backend=backend, n=1, render=Silent(backend.encode, backend.decode, END))[0]
    assert len(spoken(made)[2][1]) == LONGEST


def test_of_rows_with_prompt_and_completion_the_completion_alone_is_written():
    backend = Typist()
    render = renderer()
    made = write("reply", documents([plain_row("Say it: ", "It is so")]), n=2, backend=backend, render=render)
    assert [spoken(each) for each in made] == [[("u", "Say it: "), ("a", seeds(i, 0)[:9])] for i in (0, 1)]
    assert backend.decode(backend.calls[0][0][0]) == "Say it: "
    assert all(each.plain and each.prompt == 1 for each in made)
    assert render.roles == ["plain"] * 2
    turns = conversation("q", "known", "r", "to write", "s", "to write")
    made = write("reply", documents([Conversation(turns.messages, prompt=3)]), n=1)[0]
    assert [words for _, words in spoken(made)][:3] == ["q", "known", "r"]
    assert [words for _, words in spoken(made)][3:] == [seeds(0, 0)[:9], "s", seeds(0, 1)[:9]]


def test_what_templates_read_of_a_conversation_stays_with_it():
    first = Conversation(conversation("q", "a").messages, tools=({"name": "f"},), options={"enable_thinking": False})
    made = write("reply", documents([first]), n=1)[0]
    assert made.tools == first.tools
    assert made.options == first.options


@pytest.mark.parametrize("options", [{}, {"max_tokens": 10}])
def test_nothing_to_reply_to(options):
    prompts = HELD_OUT[:1] if options else HELD_OUT[1:2]
    with pytest.raises(SpvmiaError, match=r"mia_prompts: expected held-out conversations with an answer .* got 1 with"):
        write("reply", prompts, render=renderer(**options))


def test_beginnings_with_tokens_that_the_target_does_not_have_are_not_used():
    backend = Typist()
    backend.unknown_ids = lambda role: frozenset({ord("H")})
    made = write("reply", backend=backend, n=2)
    assert [spoken(each)[0] for each in made] == [("u", "One"), ("u", "a")]


def test_whole_conversations_need_no_data_and_are_as_long_as_the_audited_ones():
    backend = Typist(lambda read: "question" if read.endswith("user: ") else "answer")
    render = renderer()
    made = write("whole", (), n=3, backend=backend, blank=Conversation(()), length=70, render=render)
    assert render.roles == (["user"] * 3 + ["assistant"] * 3) * 3
    exchange = len("user: question\x03assistant: answer\x03")
    count = -(-70 // exchange)
    assert count == 3
    assert spoken(made[0]) == [("u", "question"), ("a", "answer")] * count
    assert backend.calls[0] == ([backend.encode("user: ")] * 3, [76] * 3, [int(seeds(i, 0)[1:-1]) for i in range(3)])
    assert backend.calls[1][2] == [int(seeds(i, 1)[1:-1]) for i in range(3)]


def test_the_last_answer_is_the_completion_of_a_row_with_prompt_and_completion():
    backend = Typist(lambda read: "question" if read.endswith("user: ") else "answer")
    made = write("whole", (), n=1, backend=backend, blank=Conversation((), prompt=0), length=50)[0]
    assert spoken(made) == [("u", "question"), ("a", "answer")] * 2
    assert made.answers() == [3]


def test_no_turn_is_longer_than_an_audited_conversation_and_a_user_leaves_room_for_an_answer():
    options = {"n": 1, "backend": Typist(lambda read: "x" * 500), "blank": Conversation(()), "length": 40}
    assert [len(words) for _, words in spoken(write("whole", (), **options)[0])] == [40, 40]
    made = write("whole", (), render=renderer(max_tokens=60), **options)[0]
    assert [len(words) for _, words in spoken(made)] == [27, 60 - len("user: \x03assistant: ") - 27]


def test_a_conversation_ends_where_a_turn_comes_out_empty():
    def writes(read):
        if read.endswith("user: "):
            return "  " if "user" in read[6:] else "q"
        return "" if "empty" in read else "a"

    made = write("whole", (), n=1, backend=Typist(writes), blank=Conversation(()), length=900)[0]
    assert spoken(made) == [("u", "q"), ("a", "a")]
    made = write("whole", (), n=1, backend=Typist(lambda read: ""), blank=Conversation(()), length=900)[0]
    assert spoken(made) == []
    mute = Typist(lambda read: "q" if read.endswith("user: ") else "")
    made = write("whole", (), n=1, backend=mute, blank=Conversation(()), length=900)[0]
    assert spoken(made) == [("u", "q"), ("a", "")]


def test_what_the_template_refuses_ends_a_conversation_and_not_the_run():
    seen = []

    def writes(read):
        seen.append(read)
        return "bad" if len(seen) == 1 else "good"

    made = write("reply", HELD_OUT[:1], n=2, backend=Typist(writes), render=renderer(refuses="bad"))
    assert [spoken(each)[2:] for each in made] == [
        [("a", "bad"), ("u", "Lost")],
        [("a", "good"), ("u", "Lost"), ("a", "good")],
    ]
    with pytest.raises(SpvmiaError, match="refused"):
        write("reply", documents([conversation("bad", "x")]), render=renderer(refuses="bad"))


def test_plain_rows_are_written_from_what_the_tokenizer_begins_with():
    blank = Conversation((), plain=True)
    made = write("whole", (), n=2, blank=blank, length=12, render=renderer(begin=[1]))
    assert [spoken(each) for each in made] == [[("u", ""), ("a", seeds(i, 0)[:11])] for i in (0, 1)]
    assert all(each.plain and each.answers() == [1] for each in made)
    with pytest.raises(SpvmiaError, match=r"mia_self_prompt: whole expects a chat template, or a tokenizer"):
        write("whole", (), blank=blank, length=12)


def test_the_way_follows_from_the_data():
    config, made = AuditConfig(), renderer()
    assert way_of(config, None, HELD_OUT) == "prefix"
    assert way_of(config, made, HELD_OUT) == "reply"
    assert way_of(config, made, ()) == "whole"
    for way in ("reply", "whole", "prefix"):
        assert way_of(AuditConfig(self_prompt=way), made, HELD_OUT) == way
    for way in ("reply", "whole"):
        with pytest.raises(SpvmiaError, match=rf"mia_self_prompt: expected prefix, .* plain text, got '{way}'"):
            way_of(AuditConfig(self_prompt=way), None, HELD_OUT)
    with pytest.raises(SpvmiaError, match=r"mia_self_prompt: reply expects held-out conversations, got none"):
        way_of(AuditConfig(self_prompt="reply"), made, ())


class Killed(Exception):
    pass


@pytest.mark.parametrize("way", ["reply", "whole"])
def test_a_killed_run_ends_in_the_same_bits(way, monkeypatch):
    """Batches too: what a batch holds may change a kernel's rounding, and so a token."""
    monkeypatch.setitem(module.CHUNK, "cpu", 3)
    frame = {"blank": Conversation(()), "length": 60}
    config = AuditConfig(self_prompts=8, self_prompt=way)
    whole, kept = Typist(), {}
    expected = self_prompt(whole, HELD_OUT, config, renderer=renderer(), **frame)

    def die(batch):
        if 3 in batch:
            raise Killed
        kept.update(batch)

    with pytest.raises(Killed):
        self_prompt(Typist(), HELD_OUT, config, die, renderer=renderer(), **frame)
    assert set(kept) == {0, 1, 2}
    kept[4] = expected[4]  # of the second chunk one text was kept: it is written whole all the same
    rest, told = Typist(), []
    made = self_prompt(rest, HELD_OUT, config, told.append, set(kept), renderer=renderer(), **frame)
    assert made == [None, None, None, *expected[3:]]
    assert [sorted(batch) for batch in told] == [[3, 4, 5], [6, 7]]
    assert rest.calls == whole.calls[-len(rest.calls) :]


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (lambda prompts: [[*prompt, 65] for prompt in prompts[1:]], "2 texts for 3 openings"),
        (lambda prompts: [None for _ in prompts], "None"),
        (lambda prompts: [[65] for _ in prompts], "a text that does not begin with its opening"),
        (lambda prompts: [[*prompt, *[65] * 99] for prompt in prompts], "tokens where"),
    ],
)
def test_what_is_no_continuation_is_refused_by_the_backend_s_name(answer, got):
    class Wrong(Typist):
        name = "wrong"

        def generate(self, prompts, lengths, seeds, **options):
            return answer(prompts)

    with pytest.raises(SpvmiaError, match=rf"^wrong\.generate: expected each opening .* got .*{got}"):
        write("reply", n=3, backend=Wrong())


def test_a_backend_that_leaves_conversations_unwritten_is_named():
    class Forgetful(Typist):
        name = "forgetful"

        def converse(self, turns, follow, *, ends):
            super().converse({i: turn for i, turn in turns.items() if i % 2}, follow, ends=ends)

    with pytest.raises(SpvmiaError, match=r"^forgetful: expected all of 7 conversations .* got 4 that were not"):
        write("reply", backend=Forgetful())


def test_held_out_rows_with_nothing_before_the_answer_are_not_written_from():
    rows = documents([plain_row("", "It is so"), plain_row("Say it: ", "It is so")])
    made = write("reply", rows, n=2)
    assert [each.contents()[0] for each in made] == ["Say it: "] * 2
    with pytest.raises(SpvmiaError, match="with an answer that has something before it and begins within"):
        write("reply", rows[:1], n=2)


def test_more_conversations_change_nothing_about_the_first():
    assert write("reply", n=4) == write("reply", n=7)[:4]


def test_a_device_writes_more_side_by_side(monkeypatch):
    class Cuda:
        type = "cuda"

    backend = Typist()
    backend.device = Cuda()
    write("reply", HELD_OUT[2:3], n=module.CHUNK["cpu"] + 1, backend=backend)
    assert len(backend.calls) == 1
    backend.device = None
    backend.calls.clear()
    write("reply", HELD_OUT[2:3], n=module.CHUNK["cpu"] + 1, backend=backend)
    assert [len(call[0]) for call in backend.calls] == [module.CHUNK["cpu"], 1]


def test_they_are_kept_as_texts_that_can_be_read_back():
    made = self_prompt(Typist(), HELD_OUT, AuditConfig(self_prompts=1), renderer=renderer())[0]
    assert json.loads(made)["messages"][0] == {"role": "system", "content": "Be kind."}
    assert Writer(Typist(), renderer(), 0, 1).replies(HELD_OUT, None, {0}) == [None]


def test_a_target_that_has_learnt_replies_writes_them(tmp_path):
    """A tiny model that was trained on conversations under their mask answers each question as it has learnt to."""
    from spvmia_plugin.models.hf_backend import HFBackend
    from spvmia_plugin.training.trainer import TrainSettings, train
    from tests.models.models import harness_lm, save_base

    learnt = {"red": "river", "blue": "garden mountain", "forty": "snow"}
    save_base(tmp_path)
    lm = harness_lm(tmp_path, "full")
    backend = HFBackend(lm, AuditConfig(temperature=0.05))
    render = FakeRenderer(backend.encode, backend.decode, lm.tokenizer.eos_token_id)
    taught = [render.render(conversation(q, a)) for q, a in learnt.items()]
    taught += [render.render(conversation(p, learnt[p], q, learnt[q])) for p in learnt for q in learnt]
    settings = TrainSettings(25, 1e-2, 4, save_steps=0)
    rows, counted = [each.token_ids for each in taught], [each.counted for each in taught]
    train(lm.model, rows, settings, tmp_path, counted=counted, pad_token_id=0, description="x")
    backend = HFBackend(lm, AuditConfig(temperature=0.05))
    prompts = documents([conversation("blue", "-" * 9), conversation("red", "-", "forty", "-")])
    texts = self_prompt(backend, prompts, AuditConfig(self_prompts=4), renderer=render)
    made = [spoken(Conversation.from_text(text)) for text in texts]
    assert made[0] == made[2] == [("u", "blue"), ("a", "garden mountain")]
    assert made[1] == made[3] == [("u", "red"), ("a", "river"), ("u", "forty"), ("a", "snow")]
