"""References on the upper layers: which modules learn, and that keeping what the lower ones give changes nothing."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from peft import get_peft_model
from torch import nn

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.adapters import AdapterHost
from spvmia_plugin.training import layers as module
from spvmia_plugin.training.layers import layer_stack, upper_modules
from spvmia_plugin.training.lora import lora_config, train_lora
from spvmia_plugin.training.trainer import TrainSettings, train
from spvmia_plugin.util.libraries import isolated_rng, quiet_libraries
from tests.models.models import fingerprint
from tests.sweep.families import build
from tests.tiny import tiny_llama
from tests.training.test_training import PAD, TOKENIZER, Killed, kill_at, masks, sequences, states, trained

LAYERS = 4
SETTINGS = TrainSettings(3, 1e-2, 4, seed=7, save_steps=2)


def upper_model(share: float = 0.5, *, model=None, dropout: float = 0.2, attention_dropout: float = 0.0):
    """A Llama, or another model, whose upper layers have an adapter."""
    inner = model if model is not None else tiny_llama(TOKENIZER, layers=LAYERS)
    for each in inner.modules():
        if isinstance(getattr(each, "attention_dropout", None), float):
            each.attention_dropout = attention_dropout
    config = AuditConfig(lora_rank=4, lora_dropout=dropout, lora_targets=("all-linear",))
    with isolated_rng(0), quiet_libraries():
        view = get_peft_model(inner, lora_config(AdapterHost(inner), config, "mia_lora_targets", layers=share))
    return view.eval()


def run(folder, monkeypatch, model, rows, *, kept: bool, settings=SETTINGS, **options):
    with monkeypatch.context() as patch:
        if not kept:
            patch.setattr(module, "KEPT_BYTES", 0)
        return train(model, rows, settings, folder, pad_token_id=PAD, description="x", **options)


def assert_alike(one, two):
    assert one.keys() == two.keys()
    assert one
    for name, value in one.items():
        assert torch.allclose(value, two[name], atol=2e-5, rtol=1e-4), name


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_what_is_kept_teaches_what_the_plain_way_teaches(tmp_path, monkeypatch, dropout, masked):
    rows = sequences(10, None)  # of unequal length, so that batches are padded
    options = {"counted": masks(rows)} if masked else {}
    plain, short = upper_model(dropout=dropout), upper_model(dropout=dropout)
    one = run(tmp_path / "plain", monkeypatch, plain, rows, kept=False, **options)
    two = run(tmp_path / "short", monkeypatch, short, rows, kept=True, **options)
    assert (one["lower_layers"], two["lower_layers"]) == ("what the lower layers give takes more than 0 MB", "kept")
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert_alike(trained(plain), trained(short))
    start = trained(upper_model(dropout=dropout))
    assert all(not torch.equal(value, start[name]) for name, value in trained(short).items() if "lora_B" in name)


def test_the_plain_way_is_that_of_a_bare_loop(tmp_path):
    """AdamW with a linear schedule, by hand, on batches of all texts: no stand-in, no Trainer."""
    rows, steps, lr = sequences(6, None), 3, 1e-2
    short, bare = upper_model(dropout=0.0), upper_model(dropout=0.0).train()
    settings = TrainSettings(steps, lr, 6)
    assert train(short, rows, settings, tmp_path, pad_token_id=PAD, description="x")["lower_layers"] == "kept"
    learning = [p for p in bare.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=lr, weight_decay=0.0)
    for step in range(steps):
        losses = []
        for row in rows:
            logp = bare(torch.tensor([row])).logits[0].log_softmax(-1)
            losses.append(-logp[range(len(row) - 1), row[1:]])
        torch.cat(losses).mean().backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps)
        optimizer.step()
        optimizer.zero_grad()
    assert_alike(trained(bare), trained(short))


def test_lower_layers_see_each_text_once(tmp_path):
    model, rows = upper_model(), sequences(10, None)
    seen = {place: [] for place in range(LAYERS)}
    for place, layer in enumerate(layer_stack(model)[1]):
        layer.mlp.register_forward_hook(lambda m, a, out, place=place: seen[place].append(out.shape[0]))
    train(model, rows, SETTINGS, tmp_path, pad_token_id=PAD, description="x")
    tried = 4 * 2  # two texts, by the plain way and thrice through the lower layers
    assert (sum(seen[0]), sum(seen[1])) == (10 + tried, 10 + tried)
    assert (sum(seen[2]), sum(seen[3])) == (3 * 10 + 2 * 2, 3 * 10 + 2 * 2)


@pytest.mark.parametrize("step", [3, 4, 7])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, monkeypatch, step):
    rows, whole, resumed = sequences(10, None), upper_model(), upper_model()
    expected = train(whole, rows, SETTINGS, tmp_path / "a", pad_token_id=PAD, description="x")
    with monkeypatch.context() as patch:
        kill_at(patch, step)
        with pytest.raises(Killed):
            train(upper_model(), rows, SETTINGS, tmp_path / "b", pad_token_id=PAD, description="x")
    torch.rand(step)
    found = train(resumed, rows, SETTINGS, tmp_path / "b", pad_token_id=PAD, description="x")
    assert (found["resumed_at"], found["lower_layers"]) == (step // 2 * 2, "kept")
    assert found["losses"] == expected["losses"]
    assert all(torch.equal(trained(resumed)[name], value) for name, value in trained(whole).items())


@pytest.mark.parametrize("kept", [True, False])
def test_it_leaves_nothing_behind(tmp_path, monkeypatch, kept):
    model = upper_model()
    for layer in layer_stack(model)[1]:
        layer.register_forward_pre_hook(lambda m, a: None)
    before, random, hooks = fingerprint(model), states(), [len(m._forward_pre_hooks) for m in model.modules()]
    run(tmp_path, monkeypatch, model, sequences(), kept=kept)
    after = fingerprint(model)
    assert states() == random
    assert [len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert not any(m._forward_hooks for m in model.modules())
    assert {key: before[key] for key in ("modules", "attributes", "training")} == {
        key: after[key] for key in ("modules", "attributes", "training")
    }


def test_an_error_on_the_way_leaves_the_layers_as_they_were(tmp_path, monkeypatch):
    model = upper_model()
    before = fingerprint(model)
    kill_at(monkeypatch, 1)
    with pytest.raises(Killed):
        train(model, sequences(), SETTINGS, tmp_path, pad_token_id=PAD, description="x")
    assert fingerprint(model)["attributes"] == before["attributes"]


def test_a_layer_that_has_a_forward_of_its_own_gets_it_back(tmp_path):
    """As accelerate's hooks put one there."""
    model = upper_model()
    layers = layer_stack(model)[1]
    own = [layer.forward for layer in layers]
    for layer, forward in zip(layers, own, strict=True):
        layer.forward = forward
    assert train(model, sequences(), SETTINGS, tmp_path, pad_token_id=PAD, description="x")["lower_layers"] == "kept"
    assert [vars(layer)["forward"] for layer in layers] == own


@pytest.mark.parametrize(
    ("model", "settings", "reason"),
    [
        (upper_model, dataclasses.replace(SETTINGS, epochs=1), "each text is seen once"),
        (
            lambda: upper_model(attention_dropout=0.1),
            SETTINGS,
            "the lower layers drop some of their activations by chance",
        ),
    ],
)
def test_why_nothing_is_kept(tmp_path, model, settings, reason):
    made = model()
    found = train(made, sequences(), settings, tmp_path, pad_token_id=PAD, description="x")
    assert found["lower_layers"] == reason
    assert all(not torch.equal(value, trained(model())[n]) for n, value in trained(made).items() if "lora_B" in n)


def test_where_all_layers_learn_nothing_is_told(tmp_path):
    assert "lower_layers" not in train(
        upper_model(1.0), sequences(), SETTINGS, tmp_path / "a", pad_token_id=PAD, description="x"
    )
    model = upper_model()
    model.get_input_embeddings().weight.requires_grad_(True)
    assert "lower_layers" not in train(model, sequences(), SETTINGS, tmp_path / "b", pad_token_id=PAD, description="x")


class Shortcut(nn.Module):
    """A layer that adds what the first one gave: the outputs of those below it are not all it reads."""

    def __init__(self, layer, first):
        super().__init__()
        self.layer = layer
        first.register_forward_hook(lambda m, args, out: setattr(self, "seen", out))

    def forward(self, hidden_states, **kwargs):
        return self.layer(hidden_states, **kwargs) + self.seen


class Pair(nn.Module):
    """A layer that returns more than its hidden states, as those of older models do."""

    def __init__(self, layer, more):
        super().__init__()
        self.layer, self.more = layer, more

    def forward(self, hidden_states, **kwargs):
        return self.layer(hidden_states, **kwargs), self.more


def test_layers_that_read_past_the_list_run_at_every_step(tmp_path, monkeypatch):
    def model():
        inner = tiny_llama(TOKENIZER, layers=LAYERS)
        inner.model.layers[2] = Shortcut(inner.model.layers[2], inner.model.layers[0])
        return upper_model(model=inner)

    one, two = model(), model()
    found = run(tmp_path / "a", monkeypatch, one, sequences(), kept=True)
    assert found["lower_layers"] == "the upper layers read more than what the lower ones give"
    run(tmp_path / "b", monkeypatch, two, sequences(), kept=False)
    assert all(torch.equal(trained(two)[name], value) for name, value in trained(one).items())


@pytest.mark.parametrize(
    ("more", "is_read", "reason"),
    [(None, False, "kept"), (torch.ones(1), False, "kept"), (torch.ones(1), True, "unsupported operand type")],
)
def test_layers_that_return_tuples(tmp_path, monkeypatch, more, is_read, reason):
    def model():
        inner = tiny_llama(TOKENIZER, layers=LAYERS)
        layers = inner.model.layers
        for place in range(LAYERS - 1):
            layers[place] = Pair(layers[place], more)
        for layer in layers[1:]:
            layer.register_forward_pre_hook(lambda m, args: (args[0][0] + args[0][1] if is_read else args[0][0],))
        return upper_model(model=inner)

    one, two = model(), model()
    assert run(tmp_path / "a", monkeypatch, one, sequences(), kept=True)["lower_layers"].startswith(reason)
    run(tmp_path / "b", monkeypatch, two, sequences(), kept=False)
    assert_alike(trained(one), trained(two))


def test_out_of_memory_is_not_taken_for_a_reason():
    model = upper_model().train()

    def full(*_):
        raise RuntimeError("CUDA out of memory.")

    layer_stack(model)[1][0].register_forward_pre_hook(full)
    with pytest.raises(RuntimeError, match="out of memory"):
        module.LowerLayers(model, PAD).keep(sequences(), 4)


def test_a_model_without_a_list_of_its_layers_keeps_nothing():
    model = upper_model(1.0)
    model.config.num_hidden_layers = 7
    lower = module.LowerLayers(model, PAD)
    assert (lower.count, layer_stack(model), upper_modules(model, ["q_proj"], 0.5)) == (0, None, None)
    assert lower.keep(sequences(), 4) == "the layers that learn are not the upper ones of one list"


FAMILIES = (
    *("gpt2", "opt", "bloom", "gpt_neox", "falcon", "mistral", "gemma2", "gemma3n_text", "phi", "mixtral", "mamba"),
    *("qwen3", "recurrent_gemma", "jamba", "phi3", "cohere2"),
)


@pytest.mark.filterwarnings("default")  # peft's, of what it makes of some layers
@pytest.mark.parametrize("family", FAMILIES)
def test_other_architectures(tmp_path, monkeypatch, family):
    def model():
        inner = build(family, len(TOKENIZER))
        for each in inner.modules():
            for name in [name for name, value in vars(each).items() if "drop" in name and isinstance(value, float)]:
                setattr(each, name, 0.0)
            if isinstance(each, nn.Dropout):
                each.p = 0.0
        return upper_model(model=inner, dropout=0.0)

    one, two = model(), model()
    name, layers = layer_stack(one)
    half = len(layers) - math.ceil(len(layers) / 2)
    learning = [n for n, p in one.named_parameters() if p.requires_grad]
    assert learning
    assert all(int(n.partition(f"{name}.")[2].partition(".")[0]) >= half for n in learning)
    rows = sequences(6, None)
    found = run(tmp_path / "a", monkeypatch, one, rows, kept=True)
    run(tmp_path / "b", monkeypatch, two, rows, kept=False)
    assert found["lower_layers"] == REASONS.get(family, "kept")
    assert_alike(trained(one), trained(two))


REASONS = {"gemma3n_text": "the layers read something of shape (4, 2, 11, 32)"}  # four versions of each hidden state


def host() -> AdapterHost:
    return AdapterHost(tiny_llama(TOKENIZER, layers=LAYERS))


PARAMETERS = 2 * (2 * 64 + 2 * (32 + 16) + 3 * (32 + 64))
"""Of an adapter of rank 2 on one layer: q and o are 32 by 32, k and v 32 by 16, the others 32 by 64."""
CONFIG = AuditConfig(reference_epochs=2.0, reference_lr=1e-2, lora_rank=2, lora_targets=("all-linear",), lora_dropout=0)


@pytest.mark.parametrize(("share", "lowest"), [(1.0, 0), (0.9, 0), (0.75, 1), (0.5, 2), (0.3, 2), (0.25, 3), (1e-9, 3)])
def test_the_share_counts_whole_layers_from_the_top(share, lowest):
    found = lora_config(host(), CONFIG, "mia_lora_targets", layers=share).target_modules
    assert {int(name.split(".")[2]) for name in found if "." in name} == (
        set(range(lowest, LAYERS)) if share < 1 else set()
    )
    assert len(found) == (7 * (LAYERS - lowest) if share < 1 else 7)


def test_patterns_and_names():
    model = tiny_llama(TOKENIZER, layers=LAYERS)
    assert upper_modules(model, r".*\.[23]\.self_attn\.(q|v)_proj", 0.25) == [
        "model.layers.3.self_attn.q_proj",
        "model.layers.3.self_attn.v_proj",
    ]
    assert upper_modules(model, ["v_proj", "model.layers.0.mlp.up_proj"], 0.25) == ["model.layers.3.self_attn.v_proj"]
    assert upper_modules(model, ["proj"], 0.5) == []


def test_targets_in_lower_layers_alone_are_refused():
    config = dataclasses.replace(CONFIG, lora_targets=("model.layers.0.mlp.up_proj",))
    lora_config(host(), config, "mia_lora_targets")
    with pytest.raises(SpvmiaError, match=r"mia_reference_layers: expected a share .* got 0.5, in whose upper layers"):
        lora_config(host(), config, "mia_lora_targets", layers=0.5)


def test_a_model_whose_layers_cannot_be_told_apart_learns_in_all_and_says_so(tmp_path):
    rows = sequences()
    for k, config in enumerate((CONFIG, dataclasses.replace(CONFIG, reference_layers=0.5))):
        for strange in (False, True):
            made = host()
            if strange:
                made.model.config.num_hidden_layers = 7
            folder = tmp_path / f"{k}{strange}"
            record = train_lora(made, rows, config, folder, pad_token_id=PAD, base_name=None)
            assert record.get("all_layers", False) == (strange and k == 1)
            assert record.get("lower_layers") == ("kept" if k == 1 and not strange else None)
            assert record["parameters"] == (2 if k == 1 and not strange else 4) * PARAMETERS


@pytest.mark.parametrize("value", [0, -0.5, 1.01, 30, "0.5", "upper_half", True, [0.5], float("nan")])
def test_bad_shares(value):
    with pytest.raises(SpvmiaError, match=r"^mia_reference_layers: expected a number > 0 and <= 1, got .*$"):
        AuditConfig.from_metadata({"mia_reference_layers": value})


@pytest.mark.parametrize(("value", "read"), [(1, 1.0), (0.5, 0.5), (None, 1.0)])
def test_good_shares(value, read):
    assert AuditConfig.from_metadata({"mia_reference_layers": value}).reference_layers == read
