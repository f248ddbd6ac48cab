"""Norms of gradients against autograd's own, one text at a time, with the weights that were trained found by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models import gradients
from spvmia_plugin.models.adapters import has_gradients, trained_weights
from spvmia_plugin.models.batching import BatchRunner
from spvmia_plugin.models.gradients import GradientNorms
from spvmia_plugin.models.hf_backend import HFBackend
from spvmia_plugin.protocols import Cost, ScoreInput
from spvmia_plugin.signals import Role
from spvmia_plugin.util.libraries import isolated_rng, quiet_libraries
from tests.models.models import assert_same, fingerprint, harness_lm, inputs, rng_states
from tests.tiny import tiny_texts

TEXTS = tiny_texts(6, words=(2, 30))
ADAPTERS = {
    "lora": lambda name: ".lora_" in name,
    "lora_everywhere": lambda name: ".lora_" in name,  # with the magnitudes of DoRA
    "lora_modules": lambda name: ".lora_" in name or ".modules_to_save." in name,
    "bias": lambda name: ".lora_" in name,  # q_proj of a Llama has no bias
    "ia3": lambda name: ".ia3_l" in name,
    "prefix": lambda name: "prompt_encoder" in name,
    "prompt": lambda name: "prompt_encoder" in name,
    "full": lambda name: True,
}
BATCHED = {"lora", "bias"}


def masks_of(items, seed=0):
    """Some of the tokens of every other text, at least one."""
    rng = np.random.default_rng(seed)
    drawn = [rng.random(item.scored) < 0.4 for item in items]
    for mask in drawn:
        mask[-1] = True
    return [None if i % 2 else mask for i, mask in enumerate(drawn)]


def naive(model, is_trained, item, mask):
    """The norm in float64 sums, from the mean NLL over some tokens, by `backward`."""
    sequence = [*item.context_ids, *item.token_ids]
    named = {name: p for name, p in model.named_parameters() if is_trained(name)}
    assert named
    required = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for p, _ in required:
            p.requires_grad_(False)
        for p in named.values():
            p.requires_grad_(True)
        with quiet_libraries():
            logits = model(input_ids=torch.tensor([sequence[:-1]])).logits[0, -(len(sequence) - 1) :]
        logp = logits.float().log_softmax(-1)
        logp = logp[range(len(sequence) - 1), sequence[1:]][len(sequence) - 1 - item.scored :]
        (-logp[torch.ones(item.scored, dtype=torch.bool) if mask is None else torch.tensor(mask)].mean()).backward()
        return sum(p.grad.double().square().sum().item() for p in named.values() if p.grad is not None) ** 0.5
    finally:
        for p, was in required:
            p.grad = None
            p.requires_grad_(was)


def norms(backend, items, masks, **options):
    return backend.gradient_norms(Role.TARGET, items, masks, **options)


@pytest.fixture
def backend_of(models):
    made = []

    def of(kind, **options):
        lm = harness_lm(models, kind)
        made.append(HFBackend(lm, AuditConfig(**options)))
        return made[-1], lm.model

    yield of
    for backend in made:
        backend.close()


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("context", [(), (5,), (7, 9, 300)])
def test_each_norm_is_that_of_autograd(backend_of, kind, context):
    backend, model = backend_of(kind)
    items = [ScoreInput(item.token_ids, context) for item in inputs(backend, TEXTS)]
    masks = masks_of(items)
    expected = [naive(model, ADAPTERS[kind], item, mask) for item, mask in zip(items, masks, strict=True)]
    assert min(expected) > 0
    assert norms(backend, items, masks) == pytest.approx(expected, rel=1e-5)
    assert (backend.paths == {}) is (kind in BATCHED)
    backend.check_gradients(Role.TARGET)


def test_a_token_more_or_less_is_another_norm(backend_of):
    backend, _ = backend_of("lora")
    (item,) = inputs(backend, TEXTS[:1])
    mask = np.ones(item.scored, dtype=bool)
    whole, same = norms(backend, [item, item], [None, mask])
    assert whole == pytest.approx(same, rel=1e-6)
    mask[0] = False
    assert norms(backend, [item], [mask])[0] != pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize("kind", ["lora", "full", "prefix", "lora_modules"])
def test_the_target_is_left_as_it_was(backend_of, kind):
    backend, model = backend_of(kind)
    items = inputs(backend, TEXTS[:3])
    required = {name: i % 2 == 0 for i, name in enumerate(dict(model.named_parameters()))}
    before_all = {name: p.requires_grad for name, p in model.named_parameters()}
    try:
        for name, p in model.named_parameters():
            p.requires_grad_(required[name])
        model.train()
        hooks = [len(module._forward_hooks) for module in model.modules()]
        before, state = fingerprint(model), rng_states()
        first = norms(backend, items, [None] * 3)
        backend.check_gradients(Role.TARGET)
        assert_same(before, fingerprint(model))
        assert all(p.grad is None for p in model.parameters())
        assert [len(module._forward_hooks) for module in model.modules()] == hooks
        assert rng_states() == state
        assert torch.is_grad_enabled()
    finally:
        model.eval()
        for name, p in model.named_parameters():
            p.requires_grad_(before_all[name])
    assert norms(backend, items, [None] * 3) == first  # dropout and flags play no part


def test_under_no_grad_and_in_a_failing_pass_nothing_stays(backend_of, monkeypatch):
    backend, model = backend_of("lora")
    items = inputs(backend, TEXTS[:2])
    expected = norms(backend, items, [None] * 2)
    with torch.no_grad():
        assert norms(backend, items, [None] * 2) == expected
    before = fingerprint(model)

    def fail(*_, **__):
        raise RuntimeError("derivative for this kernel is not implemented")

    monkeypatch.setattr(torch.autograd, "grad", fail)
    with pytest.raises(SpvmiaError, match=r"^target: .* loss can be differentiated, got Llama.*LORA"):
        norms(backend, items, [None] * 2)
    with pytest.raises(SpvmiaError, match=r"^target: .* which says: derivative for this kernel is not implemented"):
        backend.check_gradients(Role.TARGET)
    assert_same(before, fingerprint(model))
    assert not any(module._forward_hooks for module in model.modules())


def test_batches_and_memory_change_nothing(backend_of, monkeypatch):
    backend, _ = backend_of("lora")
    items = inputs(backend, TEXTS)
    masks = masks_of(items)
    whole = norms(backend, items, masks)
    passes = []
    original = GradientNorms._together

    def tight(self, texts):
        passes.append(len(texts))
        if len(texts) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return original(self, texts)

    monkeypatch.setattr(GradientNorms, "_together", tight)
    assert norms(backend, items, masks) == pytest.approx(whole, rel=1e-6)
    assert max(passes) > 1
    assert backend._runners["gradients"].limit is not None
    monkeypatch.setattr(gradients, "token_budget", lambda kind: 4)
    monkeypatch.setattr(GradientNorms, "_together", original)
    assert norms(backend, items, masks) == pytest.approx(whole, rel=1e-6)


def test_batches_are_reported_and_a_resumed_run_repeats_them(backend_of, monkeypatch):
    monkeypatch.setattr(gradients, "token_budget", lambda kind: 800)
    backend, _ = backend_of("lora")
    items, reported = inputs(backend, TEXTS), []
    before = backend.cost(Role.TARGET)
    whole = norms(backend, items, [None] * len(items), on_done=reported.append)
    spent = backend.cost(Role.TARGET) - before
    assert spent.batches == len(reported) > 1
    assert spent.forward_tokens == sum(item.scored for item in items)
    assert {i: norm for batch in reported for i, norm in batch.items()} == dict(enumerate(whole))
    again = []
    whole_batch, part = reported[0], next(batch for batch in reported[1:] if len(batch) > 1)
    done = {*whole_batch, min(part)}
    rest = norms(backend, items, [None] * len(items), done=done, on_done=again.append)
    assert [set(batch) for batch in again] == [set(batch) for batch in reported[1:]]
    assert rest == [None if i in whole_batch else norm for i, norm in enumerate(whole)]


def test_half_precision_is_summed_in_single(models):
    norms_of = {}
    for dtype in ("float32", "bfloat16"):
        backend = HFBackend(harness_lm(models, "lora", dtype=dtype), AuditConfig())
        items = inputs(backend, TEXTS)
        norms_of[dtype] = norms(backend, items, [None] * len(items))
        assert not backend.paths
        backend.close()
    assert norms_of["bfloat16"] == pytest.approx(norms_of["float32"], rel=0.05)


class Tied(nn.Module):
    """A layer used twice, one with a bias, a matrix that is the embedding's, and a norm."""

    def __init__(self, hidden, vocab):
        super().__init__()
        self.embed = nn.Embedding(vocab, hidden)
        self.twice = nn.Linear(hidden, hidden, bias=False)
        self.wide = nn.Linear(hidden, 6 * hidden)
        self.back = nn.Linear(6 * hidden, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, vocab, bias=False)
        self.head.weight = self.embed.weight
        self.device = torch.device("cpu")

    def forward(self, input_ids, use_cache=False):
        x = self.embed(input_ids)
        x = x + self.twice(torch.tanh(self.twice(x))).cumsum(1)
        x = x + self.back(torch.relu(self.wide(self.norm(x))))
        return transformers.modeling_outputs.CausalLMOutput(logits=self.head(x))

    def get_output_embeddings(self):
        return self.head


@pytest.mark.parametrize(
    ("trained", "batched"),
    [
        (["twice.weight"], True),  # a sum over both uses
        (["wide.weight", "wide.bias", "back.weight"], True),
        (["back.bias"], True),
        (["twice.weight", "norm.weight"], False),
        (["embed.weight"], False),
        (None, False),
    ],
)
def test_layers_of_every_kind(trained, batched):
    from spvmia_plugin.models.forward import HeadlessModel

    with isolated_rng(3):
        model = Tied(8, 50)
    own = dict(model.named_parameters())
    names = sorted(own) if trained is None else trained
    headless = HeadlessModel(model)
    made = GradientNorms(headless, [own[name] for name in names], 0, BatchRunner(), Cost())
    rng = np.random.default_rng(1)
    items = [ScoreInput(tuple(rng.integers(0, 50, n).tolist())) for n in (2, 9, 30, 60)]
    masks = masks_of(items)
    expected = [naive(model, set(names).__contains__, item, mask) for item, mask in zip(items, masks, strict=True)]
    assert made.of(items, masks, on_done=None, done=()) == pytest.approx(expected, rel=1e-5)
    assert made.batched is batched


@pytest.mark.parametrize("shape", [(3, 40, 4, 5), (3, 4, 40, 50)])
def test_both_ways_to_a_square_norm(shape):
    """Long texts through small matrices, and short ones through large ones."""
    rows, width, out, into = shape
    generator = torch.Generator().manual_seed(0)
    g, a = torch.randn(rows, width, out, generator=generator), torch.randn(rows, width, into, generator=generator)
    expected = [sum(torch.outer(g[b, t], a[b, t]) for t in range(width)).square().sum().item() for b in range(rows)]
    assert gradients._square_norms(g, a).tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("change", [lambda found: [2 * norm for norm in found], lambda found: 1 / 0])
def test_what_a_batch_gives_is_taken_only_where_it_agrees(backend_of, monkeypatch, change):
    backend, _ = backend_of("lora")
    items = inputs(backend, TEXTS[:2])
    expected = norms(backend, items, [None] * 2)
    original = GradientNorms._together
    monkeypatch.setattr(GradientNorms, "_together", lambda self, texts: change(original(self, texts)))
    other, _ = backend_of("lora")
    assert norms(other, items, [None] * 2) == pytest.approx(expected, rel=1e-5)
    assert "one text at a time" in other.paths["target: gradients"]


def lora_target(**options):
    """A tiny Llama with LoRA adapters `default` and `other` on it, `default` active."""
    from peft import LoraConfig, get_peft_model

    from tests.tiny import tiny_llama, tiny_tokenizer

    with isolated_rng(2), quiet_libraries():
        config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", **options)
        model = get_peft_model(tiny_llama(tiny_tokenizer()), config)
        model.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj", "o_proj"], task_type="CAUSAL_LM"))
    return model


def names_of(model, weights):
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)] for p in weights}


def test_trained_weights_are_those_of_the_adapters_that_act():
    model = lora_target()
    every = set(dict(model.named_parameters()))
    base = {name for name in every if ".lora_" not in name}
    with quiet_libraries():
        assert names_of(model, trained_weights(model)) == {n for n in every if ".lora_" in n and ".default." in n}
        model.set_adapter("other")
        assert names_of(model, trained_weights(model)) == {n for n in every if ".lora_" in n and ".other." in n}
        model.base_model.set_adapter(["default", "other"])
        assert names_of(model, trained_weights(model)) == every - base
        model.base_model.disable_adapter_layers()
        assert names_of(model, trained_weights(model)) == base
        model.base_model.enable_adapter_layers()
        model.base_model.merge_adapter()
        assert names_of(model, trained_weights(model)) == base  # in which the adapter is now
    plain = model.base_model.unload()
    assert names_of(plain, trained_weights(plain)) == set(dict(plain.named_parameters()))


def test_weights_that_are_not_there_have_no_gradient(models, backend_of):
    backend, model = backend_of("full")
    assert backend.features.gradients
    assert has_gradients(model)

    class Packed:
        def __init__(self, is_trainable):
            self.is_trainable = is_trainable

    for trainable in (True, False):
        model.hf_quantizer = Packed(trainable)
        try:
            assert has_gradients(model) is trainable
            lm = harness_lm(models, "full")
            lm._model = model
            assert HFBackend(lm, AuditConfig()).features.gradients is trainable
        finally:
            del model.hf_quantizer
    with torch.device("meta"):  # as accelerate leaves what lies on a disk
        model.on_disk = nn.Linear(2, 2)
    try:
        assert not has_gradients(model)
    finally:
        del model.on_disk
