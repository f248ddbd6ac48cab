"""The same results on other kinds of decoders: learned and no positions, sliding windows, states instead of caches."""

from __future__ import annotations

import functools

import pytest
import torch
import transformers

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.models.hf_backend import HFBackend
from spvmia_plugin.protocols import EmbeddingNoise, ScoreInput, Turn
from spvmia_plugin.signals import Role
from spvmia_plugin.util.libraries import isolated_rng
from tests.models.models import harness_lm, naive
from tests.models.test_generation import conversed, one_by_one, talk
from tests.models.test_hf_backend import CONTEXT
from tests.tiny import tiny_texts

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
CONFIGS = {
    "gpt2": lambda n: transformers.GPT2Config(vocab_size=n, n_embd=32, n_layer=2, n_head=4, n_positions=128, **IDS),
    "gpt_neox": lambda n: transformers.GPTNeoXConfig(vocab_size=n, **SMALL, **IDS),
    "gpt_neo_local": lambda n: transformers.GPTNeoConfig(
        vocab_size=n,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=128,
        window_size=8,
        **IDS,
    ),
    "gptj": lambda n: transformers.GPTJConfig(
        vocab_size=n, n_embd=32, n_layer=2, n_head=4, n_positions=128, rotary_dim=8, **IDS
    ),
    "opt": lambda n: transformers.OPTConfig(
        vocab_size=n,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        word_embed_proj_dim=32,
        max_position_embeddings=128,
        **IDS,
    ),
    "bloom": lambda n: transformers.BloomConfig(vocab_size=n, hidden_size=32, n_layer=2, n_head=4, **IDS),
    "mistral_sliding": lambda n: transformers.MistralConfig(
        vocab_size=n, **SMALL, num_key_value_heads=2, sliding_window=8, max_position_embeddings=128, **IDS
    ),
    "gemma3_scaled_embeddings": lambda n: transformers.Gemma3TextConfig(
        vocab_size=n, **SMALL, num_key_value_heads=2, head_dim=8, sliding_window=8, max_position_embeddings=128, **IDS
    ),
    "mixtral_experts": lambda n: transformers.MixtralConfig(
        vocab_size=n, **SMALL, num_key_value_heads=2, num_local_experts=4, max_position_embeddings=128, **IDS
    ),
    "mamba_without_cache": lambda n: transformers.MambaConfig(
        vocab_size=n, hidden_size=32, num_hidden_layers=2, state_size=8, time_step_rank=4, **IDS
    ),
}


@pytest.fixture(params=sorted(CONFIGS))
def lm(request, models):
    lm = harness_lm(models, "full")
    with isolated_rng(4):
        model = transformers.AutoModelForCausalLM.from_config(CONFIGS[request.param](len(lm.tokenizer)))
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)  # far from uniform predictions
    lm._model = model.float().eval()
    return lm


def test_scores_and_contexts(lm):
    backend = HFBackend(lm, AuditConfig(max_length=100))
    rows = [tuple(backend.encode(text)) for text in tiny_texts(4, words=(3, 12))]
    for context in ((), (0,), CONTEXT):
        items = [ScoreInput(ids, context) for ids in rows]
        for item, signals in zip(items, backend.score(Role.TARGET, items, moments=True), strict=True):
            logprob, _, mean, std = naive(lm.model, item)
            assert signals.logprob == pytest.approx(logprob.numpy(), abs=1e-4)
            assert signals.mean == pytest.approx(mean.numpy(), abs=1e-4)
            assert signals.std == pytest.approx(std.numpy(), abs=1e-4)


def test_generation_with_prompts_of_unequal_length(lm):
    backend = HFBackend(lm, AuditConfig(max_length=100))
    heads = [backend.encode(text)[: 2 + 3 * i] for i, text in enumerate(tiny_texts(4))]
    found = backend.generate(heads, [22] * 4, range(4))
    assert found == [one_by_one(lm.model, head, 22, i, lm.eot_token_id) for i, head in enumerate(heads)]


def test_conversations_of_unequal_length(lm, request):
    backend = HFBackend(lm, AuditConfig(max_length=100))
    heads = [backend.encode(text)[: 2 + 3 * i] for i, text in enumerate(tiny_texts(4))]
    own, plain = conversed(backend, {i: talk(head, i, 3, changed={i % 2}) for i, head in enumerate(heads)})
    assert own == plain
    # Columns that nobody reads would count in a window, and a state can't be gone back to.
    plainly = {"gpt_neo_local", "mistral_sliding", "gemma3_scaled_embeddings", "mamba_without_cache"}
    with backend._generator((), []) as generator:
        assert generator.rewinds == (request.node.callspec.params["lm"] not in plainly)


def test_what_has_ended_does_not_go_on_beyond_the_positions_of_a_model(lm):
    backend = HFBackend(lm, AuditConfig(max_length=128))
    # A long row has no more than a few tokens left, when the others of its batch have many.
    heads = [*([20 + i, 21, 22, 23] for i in range(7)), list(range(20, 140)), list(range(20, 147))]
    lengths = [30] * 7 + [128] * 2
    found = backend.generate(heads, lengths, range(9))
    for i in (0, 7, 8):
        assert found[i] == one_by_one(lm.model, heads[i], lengths[i], i, lm.eot_token_id)

    def script(heard, i):
        if len(heard) == (2 if i < 7 else 1):
            return None
        return Turn(
            [*heads[i], *(heard[0][:9] if heard else []), 7][: 128 - 1], min(20, 128 - 1 - len(heads[i]) or 1), i
        )

    own, plain = conversed(backend, {i: functools.partial(script, i=i) for i in range(9)})
    assert own == plain


def test_noise_is_in_units_of_what_the_model_reads(lm):
    backend = HFBackend(lm, AuditConfig(max_length=100))
    ids = tuple(backend.encode(tiny_texts(1)[0]))[:20]
    (signals,) = backend.score(Role.TARGET, [ScoreInput(ids, (), EmbeddingNoise(9, 1, 0.3))], moments=False)
    embed = lm.model.get_input_embeddings()
    with torch.no_grad():
        std = embed(torch.arange(embed.weight.shape[0])).std()
        rows = embed(torch.tensor([ids[:-1]]))
        z = torch.randn(len(ids) - 1, rows.shape[-1], generator=torch.Generator().manual_seed(9))
        rows[0] += 0.3 * std * z
        logp = lm.model(inputs_embeds=rows).logits[0].log_softmax(-1)
    assert signals.logprob == pytest.approx(logp[range(len(ids) - 1), list(ids[1:])].numpy(), abs=5e-4)
