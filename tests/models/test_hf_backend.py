from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models import batching, scoring
from spvmia_plugin.models.hf_backend import HFBackend
from spvmia_plugin.protocols import Backend, EmbeddingNoise, ScoreInput
from spvmia_plugin.signals import Role
from tests.models.models import harness_lm, inputs, naive, rolling
from tests.tiny import tiny_texts

TEXTS = [*tiny_texts(7, words=(2, 40)), "a", ""]


@pytest.fixture(scope="module")
def lm(models):
    return harness_lm(models, "lora")


@pytest.fixture
def backend(lm):
    backend = HFBackend(lm, AuditConfig())
    yield backend
    backend.close()


def sums(signals):
    return [float(s.logprob.astype(np.float64).sum()) for s in signals]


def test_it_is_a_backend(backend, lm):
    assert isinstance(backend, Backend)
    assert HFBackend.accepts(lm)
    assert backend.max_length == lm.max_length
    assert not HFBackend.accepts(object())
    assert not HFBackend.accepts(type("HFLM", (), {"backend": "seq2seq"})())
    caching = type("CachingLM", (), {"lm": lm})()
    assert HFBackend.accepts(caching)
    assert HFBackend(caching, AuditConfig()).encode("a") == backend.encode("a")


def test_sums_are_the_harness_log_likelihoods_in_its_own_context(lm):
    backend = HFBackend(lm, AuditConfig(prefix="harness"))
    assert sums(backend.score(Role.TARGET, inputs(backend, TEXTS), moments=False)) == pytest.approx(
        rolling(lm, TEXTS), rel=1e-4
    )


def test_every_token_against_the_definitions(backend, lm):
    items = inputs(backend, TEXTS)
    for item, signals in zip(items, backend.score(Role.TARGET, items, moments=True), strict=True):
        assert not item.context_ids  # the tokenizer adds nothing: the first token has no score
        assert len(signals) == max(0, len(item.token_ids) - 1) == len(signals.top1)
        if len(signals):
            logprob, top1, mean, std = naive(lm.model, item)
            assert signals.logprob == pytest.approx(logprob.numpy(), abs=1e-4)
            assert signals.top1.tolist() == top1
            assert signals.mean == pytest.approx(mean.numpy(), abs=1e-4)
            assert signals.std == pytest.approx(std.numpy(), abs=1e-4)
        assert signals.logprob.dtype == np.float32
        assert signals.top1.dtype == np.bool_


@pytest.mark.parametrize("max_length", [2, 7, 32])
def test_long_texts_are_scored_in_the_windows_of_the_harness(models, max_length):
    lm = harness_lm(models, "lora", max_length=max_length)
    backend = HFBackend(lm, AuditConfig(prefix="harness"))
    signals = backend.score(Role.TARGET, inputs(backend, TEXTS), moments=False)
    assert sums(signals) == pytest.approx(rolling(lm, TEXTS), rel=1e-4)
    for item, signal in zip(inputs(backend, TEXTS), signals, strict=True):
        assert signal.windows == max(1, math.ceil(len(item.token_ids) / max_length))
    shorter = HFBackend(harness_lm(models, "lora"), AuditConfig(max_length=max_length))
    assert sums(shorter.score(Role.TARGET, inputs(backend, TEXTS), moments=False)) == pytest.approx(sums(signals))


def test_batching_does_not_change_results(backend, monkeypatch):
    items = inputs(backend, TEXTS)
    whole = backend.score(Role.TARGET, items, moments=True)
    monkeypatch.setattr(scoring, "token_budget", lambda kind: 1)
    for a, b in zip(whole, backend.score(Role.TARGET, items, moments=True), strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
        assert a.std == pytest.approx(b.std, abs=1e-4)


def test_out_of_memory_halves_batches_and_changes_nothing(backend, monkeypatch):
    items = inputs(backend, TEXTS)
    whole = backend.score(Role.TARGET, items, moments=False)
    original = scoring.ScoringPass.plain

    def tight(self, pieces, asked):
        if len(pieces) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return original(self, pieces, asked)

    monkeypatch.setattr(scoring.ScoringPass, "plain", tight)
    assert sums(backend.score(Role.TARGET, items, moments=False)) == pytest.approx(sums(whole), rel=1e-5)
    assert backend._runners["score"].limit is not None


def test_equal_inputs_are_computed_once(backend):
    items = inputs(backend, TEXTS[:3])
    before = backend.cost(Role.TARGET).forward_tokens
    found = backend.score(Role.TARGET, [*items, *items, items[0]], moments=False)
    assert backend.cost(Role.TARGET).forward_tokens - before == sum(item.scored for item in items)
    assert found[0] is found[3] is found[6]


def test_results_are_reported_as_batches_finish(backend, monkeypatch):
    monkeypatch.setattr(scoring, "token_budget", lambda kind: 60)
    items = [*inputs(backend, TEXTS), *inputs(backend, TEXTS[:1])]
    reported = []
    found = backend.score(Role.TARGET, items, moments=False, on_done=reported.append)
    assert len(reported) > 3
    merged = {i: signals for batch in reported for i, signals in batch.items()}
    assert sum(map(len, reported)) == len(merged) == len(items)
    assert all(merged[i] is found[i] for i in merged)


def test_a_resumed_run_repeats_the_batches_of_a_whole_one(backend, monkeypatch):
    monkeypatch.setattr(scoring, "token_budget", lambda kind: 100)
    items, reported = inputs(backend, TEXTS), []
    whole = backend.score(Role.TARGET, items, moments=True, on_done=reported.append)
    done = {i for batch in reported[:3] for i in batch} - {min(reported[2])}
    before = backend.cost(Role.TARGET).batches
    rest = backend.score(Role.TARGET, items, moments=True, done=done)
    assert backend.cost(Role.TARGET).batches - before < len(reported)
    for i, (a, b) in enumerate(zip(whole, rest, strict=True)):
        if b is None:
            assert i in done
        else:
            assert np.array_equal(a.logprob, b.logprob)
            assert np.array_equal(a.std, b.std)


def test_nothing_is_computed_when_everything_is_done(backend):
    items = inputs(backend, TEXTS[:3])
    assert backend.score(Role.TARGET, items, moments=False, done=range(3)) == [None] * 3
    assert backend.cost(Role.TARGET).batches == 0


CONTEXT = tuple(range(40, 60))


def test_a_context_is_conditioned_on_and_not_scored(backend, lm):
    items = [ScoreInput(item.token_ids, CONTEXT) for item in inputs(backend, [*TEXTS, "b"])]
    before = backend.cost(Role.TARGET).forward_tokens
    for item, signals in zip(items, backend.score(Role.TARGET, items, moments=True), strict=True):
        if item.token_ids:
            logprob, _, _, std = naive(lm.model, item)
            assert signals.logprob == pytest.approx(logprob.numpy(), abs=1e-4)
            assert signals.std == pytest.approx(std.numpy(), abs=1e-4)
        assert len(signals) == len(item.token_ids)
    read = sum(max(0, len(item.token_ids) - 1) for item in items)
    assert backend.cost(Role.TARGET).forward_tokens - before == len(CONTEXT) + read  # the context once
    assert not backend.paths


def test_contexts_that_no_other_sequence_has_are_read_with_it_many_at_once(backend, lm):
    own = [tuple(range(40 + k, 60 + k)) for k in range(4)]
    items = [ScoreInput(item.token_ids, own[k]) for k, item in enumerate(inputs(backend, TEXTS[:4]))]
    before = backend.cost(Role.TARGET)
    for item, signals in zip(items, backend.score(Role.TARGET, items, moments=True), strict=True):
        logprob, top1, _, std = naive(lm.model, item)
        assert signals.logprob == pytest.approx(logprob.numpy(), abs=1e-4)
        assert signals.top1.tolist() == top1
        assert signals.std == pytest.approx(std.numpy(), abs=1e-4)
    spent = backend.cost(Role.TARGET) - before
    assert spent.forward_tokens == sum(len(item.context_ids) + len(item.token_ids) - 1 for item in items)
    assert spent.batches < len(items)
    shared = ScoreInput(items[1].token_ids, own[0])  # a context that two have is read once
    before = backend.cost(Role.TARGET).forward_tokens
    backend.score(Role.TARGET, [items[0], shared], moments=False)
    read = len(own[0]) + len(items[0].token_ids) - 1 + len(shared.token_ids) - 1
    assert backend.cost(Role.TARGET).forward_tokens - before == read


def test_a_context_without_a_shared_cache(backend, monkeypatch):
    items = [ScoreInput(item.token_ids, CONTEXT) for item in inputs(backend, TEXTS[:4])]
    items += [ScoreInput(item.token_ids) for item in items]
    fast = backend.score(Role.TARGET, items, moments=True)
    monkeypatch.setattr(scoring.ScoringPass, "context", lambda self, ids: None)
    for a, b in zip(fast, backend.score(Role.TARGET, items, moments=True), strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
    assert any("read again" in words for words in backend.paths.values())


def test_a_context_that_does_not_fit_is_an_error(backend):
    def item(n):
        return ScoreInput((1, 2, 3), tuple(i % 300 for i in range(n)))

    assert backend.score(Role.TARGET, [item(254)], moments=False)
    with pytest.raises(SpvmiaError, match="mia_recall_shots"):
        backend.score(Role.TARGET, [item(255)], moments=False)


@pytest.mark.parametrize("context", [(), (0,), CONTEXT])
def test_noise_on_the_embeddings(backend, lm, context):
    ids = tuple(backend.encode(TEXTS[0]))
    items = [ScoreInput(ids, context, EmbeddingNoise(seed=9, sign=sign, scale=0.3)) for sign in (1, -1)]
    items.append(ScoreInput(ids, context))
    plus, minus, plain = backend.score(Role.TARGET, items, moments=False)
    embed = lm.model.get_input_embeddings()
    z = torch.randn(len(ids) - 1, embed.weight.shape[1], generator=torch.Generator().manual_seed(9))
    for sign, signals in ((1, plus), (-1, minus), (0, plain)):
        with torch.no_grad():
            rows = embed(torch.tensor([[*context, *ids[:-1]]]))
            rows[0, len(context) :] += sign * 0.3 * embed.weight.std() * z
            logp = lm.model(inputs_embeds=rows).logits[0].log_softmax(-1)
        expected = logp[range(-len(signals), 0), list(ids[-len(signals) :])].numpy()
        assert len(signals) == len(ids) - (not context)
        assert signals.logprob == pytest.approx(expected, abs=2e-4)
    assert abs(sums([plus])[0] - sums([plain])[0]) > 1e-3


def test_noise_in_windows_moves_on_with_the_text(models):
    lm = harness_lm(models, "lora")
    backend = HFBackend(lm, AuditConfig(max_length=10))
    ids = tuple(backend.encode(TEXTS[0]))[:14]
    noisy = [ScoreInput(ids, (), EmbeddingNoise(3, 1, 0.5))]
    (signals,) = backend.score(Role.TARGET, noisy, moments=False)
    assert signals.windows == 2
    embed = lm.model.get_input_embeddings()
    z = torch.randn(len(ids) - 1, embed.weight.shape[1], generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        rows = embed(torch.tensor([ids[3:13]]))
        rows[0] += 0.5 * embed.weight.std() * z[3:13]
        logp = lm.model(inputs_embeds=rows).logits[0, -3:].log_softmax(-1)
    assert signals.logprob[10:] == pytest.approx(logp[range(3), list(ids[11:])].numpy(), abs=2e-4)


def test_decode_leaves_special_tokens_out(backend, lm):
    ids = [lm.prefix_token_id, *backend.encode("a red garden"), lm.prefix_token_id]
    assert backend.decode(ids) == "a red garden"


def test_cost_counts_tokens_without_padding(backend):
    items = inputs(backend, TEXTS)
    backend.score(Role.TARGET, items, moments=False)
    cost = backend.cost(Role.TARGET)
    assert cost.forward_tokens == sum(item.scored for item in items)
    assert cost.seconds > 0
    assert backend.cost(Role.REFERENCE).forward_tokens == 0


def test_models_that_change_their_logits_are_noticed(models):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    lm = harness_lm(models, "full")
    config = Gemma2Config(
        vocab_size=len(lm.tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        final_logit_softcapping=0.05,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    lm._model = Gemma2ForCausalLM(config).eval()
    backend = HFBackend(lm, AuditConfig())
    ids = tuple(backend.encode(TEXTS[0]))
    (signals,) = backend.score(Role.TARGET, [ScoreInput(ids)], moments=True)
    logprob, _, _, std = naive(lm.model, ScoreInput(ids))
    assert signals.logprob == pytest.approx(logprob.numpy(), abs=1e-4)
    assert signals.std == pytest.approx(std.numpy(), abs=1e-4)
    assert any("after its output layer" in words for words in backend.paths.values())


def test_the_batch_budget_depends_on_the_device():
    assert batching.token_budget("cpu") < batching.token_budget("cuda")


def test_slower_ways_are_told(backend, monkeypatch):
    items = [ScoreInput(item.token_ids, CONTEXT) for item in inputs(backend, TEXTS[:4])]
    monkeypatch.setattr(scoring.ScoringPass, "context", lambda self, ids: None)
    backend.score(Role.TARGET, items, moments=False)
    assert "target: contexts: read again with every sequence: no shared key-value cache" in backend.notes


@pytest.mark.parametrize("moments", [False, True])
def test_the_kth_log_probability_bounds_all_but_the_k_most_probable_tokens(backend, moments):
    items = [*inputs(backend, TEXTS), ScoreInput(())]
    plain = backend.score(Role.TARGET, items, moments=moments)
    for k in (1, 7):
        found = backend.score(Role.TARGET, items, moments=moments, kth=k)
        for one, other in zip(plain, found, strict=True):
            assert one.kth is None
            assert other.logprob.tolist() == one.logprob.tolist()
            assert len(other.kth) == len(one)
            if k == 1:
                assert (other.logprob >= other.kth - 1e-6).tolist() == one.top1.tolist()
    assert backend.features.kth
