from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.models import conversing, generation
from spvmia_plugin.models.decoding import Decoder
from spvmia_plugin.models.generation import Generator
from spvmia_plugin.models.hf_backend import HFBackend
from spvmia_plugin.models.sampling import Sampling, uniforms
from spvmia_plugin.models.tokens import Tokens
from spvmia_plugin.protocols import Backend, Turn
from spvmia_plugin.signals import Role
from spvmia_plugin.util.libraries import quiet_libraries
from tests.models.models import KINDS, harness_lm
from tests.tiny import tiny_texts

TEXTS = tiny_texts(9, words=(12, 20))


def make(models, kind="lora", **config):
    lm = harness_lm(models, kind)
    return lm, HFBackend(lm, AuditConfig(**config), str(models / "base"))


def prompts(backend):
    return [backend.encode(text)[: 2 + i % 4] for i, text in enumerate(TEXTS)]


def one_by_one(model, prompt, length, seed, end):
    """No batch, no cache, no padding: the whole text through the model for every token."""
    ids = list(prompt)
    for u in uniforms(seed, length - len(prompt)):
        with torch.no_grad(), quiet_libraries():
            logits = model(torch.tensor([ids])).logits[:, -1]
        p = logits[0].softmax(-1).double().cumsum(0)
        token = int(torch.searchsorted(p, u * p[-1], right=True))
        if token == end:
            break
        ids.append(token)
    return ids


@pytest.mark.parametrize("kind", KINDS)
def test_batches_with_a_cache_give_what_one_by_one_gives(models, kind):
    lm, backend = make(models, kind)
    heads = prompts(backend)
    lengths = [10 + i for i in range(len(heads))]
    found = backend.generate(heads, lengths, range(len(heads)))
    for i, text in enumerate(found):
        assert text == one_by_one(lm.model, heads[i], lengths[i], i, lm.eot_token_id)
    assert all(text[: len(head)] == head for text, head in zip(found, heads, strict=True))


@pytest.mark.parametrize("rows", [1, 4])
def test_a_text_does_not_depend_on_its_batch(models, monkeypatch, rows):
    _, backend = make(models, temperature=0.8, top_k=50, top_p=0.9)
    heads = prompts(backend)
    whole = backend.generate(heads, [20] * len(heads), range(9))
    monkeypatch.setitem(generation.MAX_ROWS, "cpu", rows)
    assert backend.generate(heads, [20] * len(heads), range(9)) == whole
    assert backend.generate(heads[::-1], [20] * len(heads), range(8, -1, -1)) == whole[::-1]
    assert backend.generate(heads, [20] * len(heads), [1] * 9) != whole


def test_a_model_without_a_cache(models, monkeypatch):
    from transformers import DynamicCache

    _, backend = make(models)
    heads = prompts(backend)
    whole = backend.generate(heads, [15] * len(heads), range(9))
    assert not backend.paths
    backend.close()
    monkeypatch.setattr(DynamicCache, "batch_select_indices", lambda self, rows: None)  # there by name only
    assert backend.generate(heads, [15] * len(heads), range(9)) == whole
    assert "read again" in backend.paths["target: generation"]


def test_end_tokens_end_a_text_and_are_left_out(models, monkeypatch):
    lm, backend = make(models)
    heads = prompts(backend)
    whole = backend.generate(heads, [30] * 9, range(9))
    ends = {text[len(head) + 2] for text, head in zip(whole[:3], heads, strict=False)}
    monkeypatch.setattr(lm.model.generation_config, "eos_token_id", [*ends, lm.eot_token_id])
    for head, long, text in zip(heads, whole, backend.generate(heads, [30] * 9, range(9)), strict=True):
        new = long[len(head) :]
        first = next((i for i, token in enumerate(new) if token in ends), len(new))
        assert text == long[: len(head) + first]


def test_rows_that_ended_leave_the_batch(models, monkeypatch):
    _, backend = make(models)
    backend.generate([], [], [])  # the trial of the cache
    widths = []
    original = Decoder.step
    monkeypatch.setattr(
        Decoder, "step", lambda self, tokens, reads: widths.append(len(tokens)) or original(self, tokens, reads)
    )
    heads = prompts(backend)
    lengths = [len(head) + 1 + i for i, head in enumerate(heads)]
    found = backend.generate(heads, lengths, range(9))
    assert list(map(len, found)) == lengths
    assert widths[0] > 4 * widths[-1]
    cost = backend.cost(Role.TARGET)
    assert cost.generated_tokens == sum(range(1, 10))
    assert cost.forward_tokens == sum(map(len, heads)) + sum(range(9))


def test_done_batches_are_skipped_and_finished_ones_reported(models, monkeypatch):
    _, backend = make(models)
    monkeypatch.setitem(generation.MAX_ROWS, "cpu", 2)
    heads, reported = prompts(backend), []
    whole = backend.generate(heads, [12] * 9, range(9), on_done=reported.append)
    assert [len(batch) for batch in reported] == [2, 2, 2, 2, 1]
    assert {i: text for batch in reported for i, text in batch.items()} == dict(enumerate(whole))
    rest = backend.generate(heads, [12] * 9, range(9), done=[*reported[0], min(reported[1])])
    for i in range(9):
        assert rest[i] == (None if i in reported[0] else whole[i])


def test_nothing_left_to_write(models):
    _, backend = make(models)
    heads = prompts(backend)
    assert backend.generate(heads, [1] * 9, range(9)) == heads
    assert backend.generate([], [], []) == []


def test_the_tokenizer_s_own_lead_is_what_the_model_reads_first(models):
    lm, backend = make(models)
    with backend._model(Role.TARGET) as model:
        runner, cost = backend._runners["generate"], backend._costs[Role.TARGET]
        led = Generator(model, Sampling(), [lm.eot_token_id], [7], runner, cost)
        head = prompts(backend)[0]
        (text,) = led.generate([head], [12], [3], on_done=None, done=())
    assert text == one_by_one(lm.model, [7, *head], 13, 3, lm.eot_token_id)[1:]


def test_a_complete_prompt_is_all_that_the_model_reads(models, monkeypatch):
    lm, backend = make(models)
    monkeypatch.setattr(Tokens, "lead", property(lambda self: [7]))
    heads = prompts(backend)
    for complete, before in ((False, [7]), (True, [])):
        found = backend.generate(heads, [12] * 9, range(9), complete=complete)
        for i, text in enumerate(found):
            alone = one_by_one(lm.model, [*before, *heads[i]], 12 + len(before), i, lm.eot_token_id)
            assert text == alone[len(before) :]


def test_what_ends_a_turn_ends_a_text_besides_the_model_s_own(models, monkeypatch):
    lm, backend = make(models)
    heads = prompts(backend)
    whole = backend.generate(heads, [30] * 9, range(9))
    ends = {whole[0][len(heads[0]) + 2], whole[1][len(heads[1]) + 5]}
    own = whole[2][len(heads[2]) + 4]
    monkeypatch.setattr(lm.model.generation_config, "eos_token_id", [own, lm.eot_token_id])
    for head, long, text in zip(heads, whole, backend.generate(heads, [30] * 9, range(9), ends=ends), strict=True):
        new = long[len(head) :]
        assert text == long[: len(head) + next((i for i, token in enumerate(new) if token in {*ends, own}), len(new))]
    assert backend.generate(heads, [30] * 9, range(9), ends=()) == backend.generate(heads, [30] * 9, range(9))


def test_tokens_are_drawn_from_the_model(models):
    lm, backend = make(models, temperature=0.3)
    head = prompts(backend)[0]
    found = backend.generate([head] * 3000, [len(head) + 1] * 3000, range(3000))
    counts = np.zeros(len(lm.tokenizer))
    for text in found:
        counts[text[-1] if len(text) > len(head) else lm.eot_token_id] += 1
    with torch.no_grad():
        p = (lm.model(torch.tensor([head])).logits[0, -1].double() / 0.3).softmax(-1).numpy()
    groups = np.arange(len(p)) % 13
    expected = np.bincount(groups, p) * 3000
    assert chisquare(np.bincount(groups, counts), expected).pvalue > 0.001


def conversed(backend, scripts, ends=()):
    """What each script was told, by the backend's own way and turn by turn."""
    told = []
    for converse in (backend.converse, functools.partial(Backend.converse, backend)):
        heard = {i: [] for i in scripts}

        def follow(i, new, heard=heard):
            heard[i].append(new)
            return scripts[i](heard[i])

        begun = {i: script([]) for i, script in scripts.items()}
        converse(begun, follow, ends=ends)
        told.append(heard)
    return told


def talk(head, i, turns, changed=()):
    """Goes on from what was written, with two tokens between turns; what `changed` turns wrote is put otherwise."""

    def script(heard):
        read = list(head)
        for turn, new in enumerate(heard):
            read += ([*new[:-2], 9] if turn in changed else new) + [11 + turn, 12]
        return None if len(heard) == turns else Turn(read, 3 + (i + len(heard)) % 4, 100 * i + len(heard))

    return script


@pytest.mark.parametrize("kind", KINDS)
def test_conversations_are_written_as_turn_by_turn(models, monkeypatch, kind):
    _, backend = make(models, kind)
    heads = prompts(backend)
    scripts = {i: talk(head, i, 1 + i % 4, changed={i % 3}) for i, head in enumerate(heads)}
    calls = []
    original = HFBackend.generate
    monkeypatch.setattr(HFBackend, "generate", lambda *a, **k: calls.append(1) or original(*a, **k))
    own, plain = conversed(backend, scripts)
    assert own == plain
    assert [len(own[i]) for i in scripts] == [1 + i % 4 for i in scripts]
    assert len({tuple(new) for each in own.values() for new in each}) > 15
    # Virtual tokens are read once: such targets write turn by turn. The others never ask for a turn by itself.
    assert len(calls) == (8 if kind in ("prefix", "prompt") else 4)


@pytest.mark.parametrize("rows", [1, 4])
def test_a_conversation_does_not_depend_on_its_batch(models, monkeypatch, rows):
    _, backend = make(models)
    scripts = {i: talk(head, i, 3) for i, head in enumerate(prompts(backend))}
    whole = conversed(backend, scripts)[0]
    monkeypatch.setitem(generation.MAX_ROWS, "cpu", rows)
    own, plain = conversed(backend, dict(reversed(scripts.items())))
    assert own == plain == whole


def test_a_turn_may_end_early_and_the_next_may_be_read_already(models):
    _, backend = make(models)
    heads = prompts(backend)
    first = backend.generate(heads, [30] * 9, [100 * i for i in range(9)], complete=True)
    ends = {text[len(head) + 1] for head, text in zip(heads, first, strict=True)}
    # The second turn is drawn after a part of what was read in the first, the third after none but the first token.
    scripts = {
        i: lambda heard, head=head, i=i: [
            Turn(head, 6, 100 * i),
            Turn(head[:-1], 6, 100 * i + 1),
            Turn([5, *head], 6, 100 * i + 2),
            None,
        ][len(heard)]
        for i, head in enumerate(heads)
    }
    own, plain = conversed(backend, scripts, ends=ends)
    assert own == plain
    assert any(len(new) < 6 for each in own.values() for new in each)


@pytest.fixture
def decoders(monkeypatch):
    """Every decoder that was made, and how often it stepped."""
    made = []
    begin, step = Decoder.__init__, Decoder.step

    def note(self, model, rows, **options):
        made.append(self)
        self.steps, self.largest = 0, 0
        begin(self, model, rows, **options)

    def count(self, *given):
        self.steps += 1
        step(self, *given)
        self.largest = max(self.largest, self.rows * self.width)

    monkeypatch.setattr(Decoder, "__init__", note)
    monkeypatch.setattr(Decoder, "step", count)
    return made


def test_a_cache_of_what_nobody_reads_any_more_is_read_anew(models, monkeypatch, decoders):
    _, backend = make(models)
    with backend._generator((), []) as generator:
        assert generator.rewinds

    def script(heard, i):  # each turn begins otherwise, so that all columns before are read no more
        return Turn([20 + len(heard), *range(30, 40)], 3, 10 * i + len(heard)) if len(heard) < 5 else None

    scripts = {i: functools.partial(script, i=i) for i in range(4)}
    monkeypatch.setattr(conversing, "DEAR", {"cpu": 0})  # nothing is set aside
    for least_stale, anew in ((64, 0), (10, 3)):
        monkeypatch.setattr(conversing, "_LEAST_STALE", least_stale)
        decoders.clear()
        own, plain = conversed(backend, scripts)
        assert own == plain
        assert len(decoders) - 5 - 1 >= anew  # turn by turn there are 5


def test_what_would_take_many_steps_is_read_in_one_pass(models, decoders):
    _, backend = make(models)
    with backend._generator((), []) as generator:
        assert generator.rewinds
    decoders.clear()

    def script(heard, i):  # another's turn of 100 tokens comes in between
        read = [*range(20, 24 + i)]
        for new in heard:
            read += [*new, *range(100, 200)]
        return Turn(read, 4 + i, 10 * i + len(heard)) if len(heard) < 2 else None

    own, plain = conversed(backend, {i: functools.partial(script, i=i) for i in range(6)})
    assert own == plain
    # Two passes over whole texts (the second once most have come so far), and another way of two (turn by turn).
    assert 4 <= len(decoders) <= 5
    assert sum(decoder.steps for decoder in decoders) < 60


def test_a_cache_that_grows_too_large_goes_on_with_fewer_rows(models, monkeypatch, decoders):
    _, backend = make(models)
    heads = prompts(backend)
    scripts = {i: talk(head, i, 9, changed={3}) for i, head in enumerate(heads)}
    own, plain = conversed(backend, scripts)
    assert own == plain
    monkeypatch.setitem(generation.CACHE_BYTES, "cpu", 1)
    monkeypatch.setitem(generation.TOKENS_PER_BATCH, "cpu", 100)
    decoders.clear()
    again, _ = conversed(backend, scripts)
    assert again == own
    assert max(decoder.largest for decoder in decoders) < 100 + len(heads)


def test_memory_that_runs_out_in_the_middle_loses_no_turn(models, monkeypatch):
    _, backend = make(models)
    scripts = {i: talk(head, i, 3) for i, head in enumerate(prompts(backend))}
    whole = conversed(backend, scripts)[1]
    original, steps = Decoder.step, []

    def step(self, tokens, reads):
        steps.append(len(tokens))
        if len(tokens) > 4 and len(steps) > 9:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return original(self, tokens, reads)

    monkeypatch.setattr(Decoder, "step", step)
    heard = {i: [] for i in scripts}

    def follow(i, new):
        heard[i].append(new)
        return scripts[i](heard[i])

    backend.converse({i: script([]) for i, script in scripts.items()}, follow, ends=())
    assert heard == whole
    assert backend._runners["generate"].limit is not None


def test_more_tokens_fit_into_a_batch_where_the_cache_is_small(models, monkeypatch):
    _, backend = make(models)
    with backend._generator((), []) as generator:
        kept = generator._model.kept
        layers = generator._model.model.config.num_hidden_layers
        config = generator._model.model.config
        assert kept.token_bytes == 2 * layers * config.num_key_value_heads * config.head_dim * 4
        assert generator._room() == (generation.CACHE_BYTES["cpu"] // kept.token_bytes, 128)
        monkeypatch.setitem(generation.CACHE_BYTES, "cpu", 10)
        assert generator._room() == (generation.TOKENS_PER_BATCH["cpu"], 128)
