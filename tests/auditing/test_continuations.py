"""What the target writes where records go on: who is asked what, what is kept, planned, resumed, compared."""

from __future__ import annotations

import dataclasses
import re
import stat
from collections import Counter

import numpy as np
import pytest

from spvmia_plugin.attacks.text_only import halves
from spvmia_plugin.auditing import similarity
from spvmia_plugin.auditing.continuations import STAGE, Continuations
from spvmia_plugin.auditing.sequences import Inputs
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.roc import auroc
from spvmia_plugin.protocols import BackendFeatures, Cost
from spvmia_plugin.signals import Continued, Role
from spvmia_plugin.store.store import Store
from tests.auditing.fakes import FakeBackend, make_data
from tests.auditing.test_plan import planned
from tests.auditing.test_probes import data_of
from tests.auditing.test_run import run
from tests.chat import FakeRenderer, chat_data, conversation, plain_row

WORDS = ["the", "of", "bank", "oil", "rally", "over", "shares", "said", "in", "new", "to", "on", "a", "profit", "we"]


def sentence(seed: int, count: int = 24) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, count))


TEXTS = [sentence(seed) for seed in range(24)]
DATA = data_of(*TEXTS)


class Writing(FakeBackend):
    """Goes on by heart from what members begin with, and in words of its own from anything else.

    Args:
        known: the texts it has learnt.
        dies: after so many texts.
    """

    def __init__(self, known=(), *, dies=None, **options):
        super().__init__(**options)
        self.known = {halves(text)[0]: text for text in known}
        self.dies = dies
        self.asked = Counter()
        self.reached = []

    def generate(self, prompts, lengths, seeds, *, on_done=None, done=(), ends=None, complete=False):
        found = []
        for i, (prompt, length, seed) in enumerate(zip(prompts, lengths, seeds, strict=True)):
            if i in done:
                found.append(None)
                continue
            if self.dies is not None and len(self.reached) == self.dies:
                raise KeyboardInterrupt
            self.reached.append(i)
            text = self.decode(prompt)
            self.asked[text] += 1
            learnt = self.known.get(text)
            new = learnt[len(text) :] if learnt and seed % 2 else f" {sentence(1000 + seed % 1000, 40)}"
            found.append(self.encode(text + new)[:length])
            if on_done:
                on_done({i: found[-1]})
        return found


def members(data=DATA):
    return [record.text for record in data.records if record.is_member]


def audited(tmp_path, names=("ngram",), *, backend=None, data=DATA, **options):
    return run(tmp_path, list(names), data=data, backend=backend or Writing(members()), mia_continuations=5, **options)


def scores(outcome, task="ngram_mia_custom"):
    return {record_id: each.score for record_id, each in outcome.results[task].items()}


def test_what_is_known_by_heart_is_covered(tmp_path):
    outcome, _ = audited(tmp_path)
    found = scores(outcome)
    labels = [record.is_member for record in DATA.records]
    assert auroc([found[record.id] for record in DATA.records], labels) > 0.95
    assert max(found.values()) == 1.0


def test_members_and_others_are_asked_alike_and_no_model_is_scored(tmp_path):
    _, backend = audited(tmp_path)
    assert not backend.scored
    assert backend.asked == {halves(text)[0]: 5 for text in TEXTS}


def test_a_continuation_is_as_long_as_the_truth_at_most(tmp_path):
    config, backend = AuditConfig(continuations=2), Writing()
    with Store(tmp_path) as store:
        written = Continuations(config, backend, store, quiet=True).of(DATA.records, Inputs(backend, DATA))
    for record in DATA.records:
        continued = written[record.id]
        assert isinstance(continued, Continued)
        assert record.text.endswith(continued.truth)
        assert [len(text) for text in continued.texts] == [1 + len(continued.truth)] * 2
        assert continued.texts[0] != continued.texts[1]


def test_draws_depend_on_the_text_and_the_seed_alone(tmp_path):
    def texts(records, place, **options):
        backend = Writing()
        with Store(tmp_path / place) as store:
            made = Continuations(AuditConfig(continuations=3, **options), backend, store, quiet=True)
            return {key: found.texts for key, found in made.of(records, Inputs(backend, DATA)).items()}

    whole = texts(DATA.records, "a")
    assert texts(DATA.records[5:7], "b") == {record.id: whole[record.id] for record in DATA.records[5:7]}
    other = texts(DATA.records, "c", seed=1)
    assert all(other[key] != found for key, found in whole.items())


def test_a_second_run_asks_nothing_and_a_larger_one_what_is_missing(tmp_path):
    few = dataclasses.replace(DATA, records=DATA.records[:10])
    first, backend = audited(tmp_path, data=few)
    assert sum(backend.asked.values()) == 50
    again, backend = audited(tmp_path, data=few)
    assert not backend.asked
    assert scores(again) == scores(first)
    whole, backend = audited(tmp_path)
    assert sum(backend.asked.values()) == 14 * 5
    assert {key: scores(whole)[key] for key in scores(first)} == scores(first)
    _, backend = run(tmp_path, ["ngram"], data=DATA, backend=Writing(members()), mia_continuations=7)
    assert set(backend.asked.values()) == {2}


@pytest.mark.parametrize("changed", [{"mia_temperature": 0.5}, {"mia_top_p": 0.9}, {"mia_top_k": 3}, {"mia_seed": 2}])
def test_other_sampling_is_other_texts(tmp_path, changed):
    audited(tmp_path)
    _, backend = audited(tmp_path, **changed)
    assert sum(backend.asked.values()) == 24 * 5


@pytest.mark.parametrize("after", [0, 1, 7, 60, 119])
def test_a_killed_run_goes_on_where_it_was(tmp_path, after):
    whole, _ = audited(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        audited(tmp_path / "killed", backend=Writing(members(), dies=after))
    resumed, backend = audited(tmp_path / "killed")
    assert len(backend.reached) == 120 - after
    assert scores(resumed) == scores(whole)


def test_what_was_written_lies_with_the_self_prompts_for_their_owner_alone(tmp_path):
    audited(tmp_path)
    folders = list((tmp_path / "store" / "self_prompts").iterdir())
    assert len(folders) == 1
    assert stat.S_IMODE(folders[0].stat().st_mode) == 0o700
    files = list(folders[0].iterdir())
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    prompts = [halves(text)[0] for text in TEXTS]
    for path in (tmp_path / "store").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(prompt.encode() in content for prompt in prompts)


def test_a_damaged_batch_is_asked_for_again(tmp_path):
    first, _ = audited(tmp_path)
    (folder,) = (tmp_path / "store" / "self_prompts").iterdir()
    broken = sorted(folder.iterdir())[3]
    broken.write_bytes(broken.read_bytes()[:-4] + b"oops")
    again, backend = audited(tmp_path)
    assert sum(backend.asked.values()) == 1
    assert scores(again) == scores(first)


def test_equal_beginnings_are_asked_once(tmp_path):
    same = data_of(*[TEXTS[0]] * 3, TEXTS[1])
    outcome, backend = audited(tmp_path, data=same)
    assert sum(backend.asked.values()) == 10
    found = list(scores(outcome).values())
    assert found[0] == found[1] == found[2]


def test_what_is_too_short_says_so(tmp_path):
    outcome, _ = audited(tmp_path, data=data_of("word", "", "a b", TEXTS[0]))
    reasons = [each.reason for each in outcome.results["ngram_mia_custom"].values()]
    assert reasons == [*["fewer than two words: nothing to go on from"] * 2, "fewer than 3 words to cover", None]


def test_the_plan_counts_what_is_asked_for(tmp_path, capsys):
    audited(tmp_path, ["ngram", "loss"], quiet=False)
    stages = planned(capsys.readouterr().err)
    assert stages[STAGE][:3] == (120, 0, 5 * sum(1 + len(halves(text)[1]) for text in TEXTS))
    audited(tmp_path, ["ngram", "loss"], quiet=False)
    assert planned(capsys.readouterr().err)[STAGE] == (120, 120, 0, "")


def test_the_plan_of_a_target_by_request_says_what_is_sent(tmp_path, capsys):
    class ByRequest(Writing):
        is_asked_by_text = True
        name = "SomeChat"

    audited(tmp_path, quiet=False, backend=ByRequest(members()))
    sent = 5 * sum(len(halves(text)[0]) for text in TEXTS)
    written = 5 * sum(1 + len(halves(text)[1]) for text in TEXTS)
    told = re.search(
        r"note: (\d+) requests to SomeChat: about ([\d,]+) tokens sent, up to ([\d,]+) written", _err(capsys)
    )
    assert [int(number.replace(",", "")) for number in told.groups()] == [120, sent, written]


def test_texts_of_an_earlier_run_alone_are_noted_of_a_target_by_request(tmp_path):
    class ByRequest(Writing):
        is_asked_by_text = True
        name = "SomeChat"

    def notes(names, backend):
        outcome, _ = audited(tmp_path, names, backend=backend)
        return [note for note in outcome.notes if "comes from an earlier run" in note]

    first, again = ByRequest(members()), ByRequest(members())
    first._cost[Role.TARGET] = Cost(batches=1)
    assert notes(["ngram"], first) == []
    (note,) = notes(["ngram"], again)
    assert note.startswith("all that SomeChat wrote comes from an earlier run")
    assert notes(["ngram"], Writing(members())) == []
    assert notes(["bag_of_words"], ByRequest()) == []


def _err(capsys):
    return capsys.readouterr().err


def test_a_prompt_too_long_for_the_context_is_read_to_its_end(tmp_path):
    backend = Writing(max_length=70)
    texts = backend.continue_texts(["x" * 100], [30], [4])
    assert [len(text) for text in texts] == [30]
    assert set(backend.asked) == {"x" * 40}


def test_a_blank_before_the_first_word_is_kept():
    class Tidy(Writing):
        def decode(self, ids):
            return super().decode(ids).lstrip()

    (text,) = Tidy().continue_texts(["some words"], [12], [0])
    assert text.startswith(" ")


# --- conversations ---

CHATS = [
    conversation(f"question {sentence(i, 4)}", f"short {i}", f"next {sentence(i, 3)}", sentence(100 + i, 12))
    for i in range(8)
]


class Answering(Writing):
    """Writes after an opening, up to the end token."""

    def __init__(self):
        super().__init__()
        self.options = []

    def generate(self, prompts, lengths, seeds, *, on_done=None, done=(), ends=None, complete=False):
        self.options.append((ends, complete))
        return super().generate(prompts, lengths, seeds, on_done=on_done, done=done)


def renderer(backend, **options):
    return FakeRenderer(backend.encode, backend.decode, 1, **options)


def test_of_a_conversation_the_longest_reply_is_written_after_what_stands_before_it(tmp_path):
    backend = Answering()
    data = chat_data(CHATS, CHATS[:2], renderer(backend))
    outcome, _ = audited(tmp_path, data=data, backend=backend)
    assert all(each.score is not None for each in outcome.results["ngram_mia_custom"].values())
    assert backend.options == [(frozenset({1}), True)]
    for chat in CHATS:
        user, answer, second, _ = chat.contents()
        assert backend.asked[f"user: {user}\x01assistant: {answer}\x01user: {second}\x01assistant: "] == 5


def test_of_a_prompt_with_completion_the_completion_is_written(tmp_path):
    backend = Answering()
    rows = [plain_row(sentence(i, 5), f" {sentence(50 + i, 8)}") for i in range(6)]
    data = chat_data(rows, rows[:1], renderer(backend))
    with Store(tmp_path) as store:
        made = Continuations(AuditConfig(continuations=1), backend, store, quiet=True)
        written = made.of(data.records, Inputs(backend, data))
    assert [written[record.id].truth for record in data.records] == [row.contents()[1] for row in rows]
    assert set(backend.asked) == {row.contents()[0] for row in rows}


def test_a_reply_counts_as_far_as_it_carried_loss():
    backend = Answering()
    lengths = [len(renderer(backend).render(chat).token_ids) for chat in CHATS]
    data = chat_data(CHATS[:2], CHATS[:1], renderer(backend, max_tokens=min(lengths) - 10))
    inputs = Inputs(backend, data)
    for record in data.records:
        found = inputs.replies(record)
        whole = record.conversation.contents()
        assert found[1] == whole[1]
        assert whole[3].startswith(found[3])
        assert 0 < len(found[3]) < len(whole[3])
    assert Inputs(backend, DATA).replies(DATA.records[0]) == {}


def test_a_conversation_without_a_reply_says_so(tmp_path):
    backend = Answering()
    data = chat_data([conversation("only a question"), CHATS[0]], CHATS[:1], renderer(backend, loss_on="all"))
    outcome, _ = audited(tmp_path, data=data, backend=backend)
    reasons = [each.reason for each in outcome.results["ngram_mia_custom"].values()]
    assert reasons == ["no reply that carried loss", None]


# --- what cannot write ---


def test_a_backend_that_does_not_write_is_refused_by_name(tmp_path):
    with pytest.raises(
        SpvmiaError, match=r"^--model: 'fake' lacks .*: ngram_mia_custom; these can run: loss_mia_custom"
    ):
        run(tmp_path, ["ngram", "loss"], data=DATA, backend=FakeBackend(features=BackendFeatures(generate=False)))


def test_a_backend_without_log_probabilities_is_told_what_needs_none(tmp_path):
    features = BackendFeatures(logprobs=False)
    with pytest.raises(
        SpvmiaError, match=r"loss_mia_custom; these can run: ngram_mia_custom; .* ngram, semantic, surr"
    ):
        run(tmp_path, ["ngram", "loss"], data=DATA, backend=FakeBackend(features=features))


# --- similarity ---


class Letters:
    """An embedding of 26 numbers: how often each letter stands in a text."""

    identity = {"letters": 1}  # noqa: RUF012
    calls = 0

    def __init__(self, config):
        self.config = config

    def check(self):
        pass

    def embed(self, texts):
        Letters.calls += 1
        counts = np.array([[text.count(chr(97 + k)) for k in range(26)] for text in texts], dtype=float)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


@pytest.fixture
def letters(monkeypatch):
    monkeypatch.setattr(similarity.Similarities, "_embedder", Letters(AuditConfig()))
    monkeypatch.setattr(Letters, "calls", 0)


def test_similarity_is_the_cosine_with_the_truth(tmp_path, letters):
    written = {"a": Continued("aab", ("aab", "b", "", "c")), "b": "too short"}
    with Store(tmp_path) as store:
        made = similarity.Similarities(AuditConfig(), store)
        assert made.of(written) == {"a": pytest.approx([1.0, 1 / np.sqrt(5), 0.0, 0.0])}
        assert Letters.calls == 1
        assert made.of(written) == made.of({"a": written["a"]})
        assert Letters.calls == 1
        assert made.of({}) == {}


def test_semantic_finds_what_is_known(tmp_path, letters):
    outcome, backend = audited(tmp_path, ["semantic", "ngram"])
    found = scores(outcome, "semantic_mia_custom")
    labels = [record.is_member for record in DATA.records]
    assert auroc([found[record.id] for record in DATA.records], labels) > 0.95
    assert sum(backend.asked.values()) == 120  # the texts of both attacks
    assert outcome.stages["comparing continuations"].seconds > 0


def test_semantic_without_a_model_is_refused_by_name(tmp_path):
    with pytest.raises(SpvmiaError, match=r"^mia_embedding_model: expected the embedding model .*, got nothing; pass"):
        audited(tmp_path, ["semantic"])


# --- surrogate ---


def test_surrogate_asks_reference_and_base_alone(tmp_path):
    data = make_data(6)
    outcome, backend = run(tmp_path, ["surrogate"], data=data)
    assert {role.value for role, *_ in backend.scored} == {"reference", "base"}
    assert len(backend.trained) == 1
    assert {each.n_tokens for each in outcome.results["surrogate_mia_custom"].values()} == {40}


def test_surrogate_of_the_base_has_nothing_to_compare(tmp_path):
    outcome, _ = run(tmp_path, ["surrogate"], data=make_data(6), mia_reference="base")
    assert {each.reason for each in outcome.results["surrogate_mia_custom"].values()} == {"the reference is the base"}
