from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.adapters import linear_names
from spvmia_plugin.models.hf_backend import HFBackend
from spvmia_plugin.protocols import EmbeddingNoise, ScoreInput
from spvmia_plugin.signals import Role
from spvmia_plugin.util.libraries import quiet_libraries
from tests.models.models import (
    KINDS,
    assert_same,
    fingerprint,
    harness_lm,
    inputs,
    naive,
    rng_states,
    rolling,
    save_adapter,
)
from tests.tiny import save_tiny, tiny_texts

TEXTS = tiny_texts(4, words=(5, 12))
QUICK = {
    "reference_epochs": 1.0,
    "reference_lr": 0.05,
    "reference_batch": 4,
    "lora_rank": 3,
    "lora_targets": ("all-linear",),
    "self_prompts": 4,
    "block_size": 16,
    "prompt_tokens": 4,
}


def total(backend, role) -> list[float]:
    return [float(s.logprob.sum()) for s in backend.score(role, inputs(backend, TEXTS), moments=True)]


def make(models, kind, **options):
    lm = harness_lm(models, kind)
    return lm, HFBackend(lm, AuditConfig(**{**QUICK, **options}), str(models / "base"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_call_leaves_the_target_as_it_was(models, kind, tmp_path):
    lm, backend = make(models, kind)
    model = lm.model
    for parameter in list(model.parameters())[:3]:
        parameter.requires_grad_(True)  # whatever they were, they stay
    before, rng = fingerprint(model), rng_states()
    outputs = rolling(lm, TEXTS) if kind != "prompt" else None  # the harness misreads prompt-tuned logits

    def unchanged():
        assert_same(before, fingerprint(lm.model))
        assert rng_states() == rng
        assert lm.model is model

    backend.identity(Role.TARGET), backend.identity(Role.BASE)
    total(backend, Role.TARGET)
    unchanged()
    total(backend, Role.BASE)
    unchanged()
    ids = tuple(backend.encode(TEXTS[0]))
    backend.score(Role.BASE, [ScoreInput(ids, ids, EmbeddingNoise(1, 1, 0.1))], moments=False)
    backend.generate([ids[:4], ids[:5]], [12, 12], [1, 2])
    unchanged()
    backend.train_reference(TEXTS, tmp_path)
    unchanged()
    backend.load_reference(Role.REFERENCE, str(tmp_path))
    backend.load_reference(Role.CANDIDATE, str(tmp_path))
    unchanged()
    total(backend, Role.REFERENCE), total(backend, Role.CANDIDATE)
    unchanged()
    backend.close()
    unchanged()
    if outputs:
        assert rolling(lm, TEXTS) == outputs


@pytest.mark.parametrize("kind", KINDS)
def test_roles_score_under_the_models_they_name(models, kind, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    lm, backend = make(models, kind)
    base = AutoModelForCausalLM.from_pretrained(models / "base", dtype=torch.float32)
    backend.train_reference(TEXTS, tmp_path)
    backend.load_reference(Role.REFERENCE, str(tmp_path))

    def direct(model):
        found = []
        for text in TEXTS:
            with quiet_libraries():
                found.append(float(naive(model, *inputs(backend, [text]))[0].sum()))
        return found

    assert total(backend, Role.BASE) == pytest.approx(direct(base), rel=1e-5)
    with quiet_libraries():
        reference = PeftModel.from_pretrained(base, tmp_path).eval()
    assert total(backend, Role.REFERENCE) == pytest.approx(direct(reference), rel=1e-5)
    assert total(backend, Role.TARGET) == pytest.approx(direct(lm.model), rel=1e-5)
    assert len({round(total(backend, role)[0], 5) for role in (Role.TARGET, Role.BASE, Role.REFERENCE)}) == 3


def test_a_lora_target_shares_its_weights(models, monkeypatch, tmp_path):
    import transformers

    lm, backend = make(models, "lora")
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", None)
    backend.train_reference(TEXTS, tmp_path)
    backend.load_reference(Role.REFERENCE, str(tmp_path))
    total(backend, Role.REFERENCE)
    total(backend, Role.BASE)
    assert HFBackend(lm, AuditConfig())._roles.shared


def test_another_target_loads_its_base_once(models, monkeypatch, tmp_path):
    import transformers

    calls = []
    original = transformers.AutoModelForCausalLM.from_pretrained
    _, backend = make(models, "full")
    monkeypatch.setattr(
        transformers.AutoModelForCausalLM,
        "from_pretrained",
        lambda name, **kw: calls.append(name) or original(name, **kw),
    )
    backend.require([Role.BASE])
    assert not calls
    total(backend, Role.BASE)
    backend.train_reference(TEXTS, tmp_path)
    backend.load_reference(Role.REFERENCE, str(tmp_path))
    total(backend, Role.REFERENCE), total(backend, Role.BASE)
    assert calls == [str(models / "base")]


def test_the_base_of_a_target_that_is_split_over_devices_is_split_too(models, monkeypatch):
    from transformers import AutoModelForCausalLM

    load, asked = AutoModelForCausalLM.from_pretrained, []

    def noted(name, *, device_map=None, **settings):
        asked.append(device_map)
        return load(name, **settings)

    for devices, expected in (({"model": 0, "lm_head": 1}, "auto"), ({"": "cpu"}, None)):
        lm, backend = make(models, "full")
        monkeypatch.setattr(lm.model, "hf_device_map", devices, raising=False)
        with monkeypatch.context() as patch:
            patch.setattr(AutoModelForCausalLM, "from_pretrained", noted)
            total(backend, Role.BASE)
        assert asked.pop() == expected


def test_training_is_reproducible_and_follows_the_seed(models, tmp_path):
    weights = {}
    for name, kind, seed in (("a", "lora", 0), ("b", "lora", 0), ("c", "lora", 1), ("d", "full", 0)):
        _, backend = make(models, kind, seed=seed, lora_dropout=0.2)
        record = backend.train_reference(TEXTS, tmp_path / name)
        json.dumps(record)
        weights[name] = load_file(tmp_path / name / "adapter_model.safetensors")
        assert backend.cost(Role.REFERENCE).training_tokens == record["tokens"] > 0
        assert sorted(p.name for p in (tmp_path / name).iterdir()) == [
            "adapter_config.json",
            "adapter_model.safetensors",
            "checkpoints",  # the last one stays until the store has the folder
        ]
    assert all(value.dtype == torch.float32 for value in weights["a"].values())
    assert all(torch.equal(value, weights["b"][key]) for key, value in weights["a"].items())
    assert not all(torch.equal(value, weights["c"][key]) for key, value in weights["a"].items())
    # whatever the target: the reference is a matter of base, texts and settings
    assert all(torch.equal(value, weights["d"][key]) for key, value in weights["a"].items())


@pytest.mark.parametrize("targets", [None, ("q_proj",), ("all-linear",)])
def test_lora_targets(models, tmp_path, targets):
    _, backend = make(models, "lora_everywhere", lora_targets=targets)
    backend.train_reference(TEXTS, tmp_path)
    chosen = set(json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"])
    every = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert chosen == {None: {"q_proj", "v_proj"}, ("q_proj",): {"q_proj"}, ("all-linear",): every}[targets]
    backend.load_reference(Role.REFERENCE, str(tmp_path))
    assert total(backend, Role.REFERENCE) != total(backend, Role.BASE)


def test_all_linear_means_the_same_with_and_without_adapters(models):
    plain = harness_lm(models, "full").model
    for kind in ("lora", "lora_everywhere", "ia3"):
        assert linear_names(harness_lm(models, kind).model) == linear_names(plain)


def test_a_ready_reference_may_be_a_whole_model(models, tmp_path):
    _, backend = make(models, "lora")
    backend.load_reference(Role.REFERENCE, str(save_tiny(tmp_path, seed=8)))
    reference = total(backend, Role.REFERENCE)
    assert reference != total(backend, Role.BASE)
    backend.load_reference(Role.REFERENCE, str(models / "base"))
    assert total(backend, Role.REFERENCE) == pytest.approx(total(backend, Role.BASE), rel=1e-6)


def test_a_ready_reference_may_be_an_adapter_of_another_kind(models):
    _, backend = make(models, "lora")
    save_adapter(models, models / "base", "ia3")
    backend.load_reference(Role.REFERENCE, str(models / "ia3"))
    _, other = make(models, "ia3")
    assert total(backend, Role.REFERENCE) == pytest.approx(total(other, Role.TARGET), rel=1e-6)


def test_a_reference_can_be_replaced(models, tmp_path):
    _, backend = make(models, "lora")
    backend.train_reference(TEXTS, tmp_path / "one")
    backend.train_reference(TEXTS[:1], tmp_path / "two")
    found = []
    for name in ("one", "two", "one"):
        backend.load_reference(Role.REFERENCE, str(tmp_path / name))
        found.append((total(backend, Role.REFERENCE), json.dumps(backend.identity(Role.REFERENCE))))
    assert found[0] == found[2] != found[1]


def test_no_base_to_be_found_names_the_option(models):
    backend = HFBackend(harness_lm(models, "full"), AuditConfig())
    total(backend, Role.TARGET)
    with pytest.raises(SpvmiaError, match="mia_base_model"):
        backend.require([Role.BASE])
    backend.require([Role.TARGET, Role.REFERENCE])
    HFBackend(harness_lm(models, "ia3"), AuditConfig()).require([Role.BASE])  # the adapter's config names it


def test_a_base_with_another_tokenizer_is_refused(models, tmp_path):
    other = save_tiny(tmp_path, texts=["completely different words for another vocabulary " * 9])
    backend = HFBackend(harness_lm(models, "full"), AuditConfig(base_model=str(other)))
    with pytest.raises(SpvmiaError, match="another vocabulary"):
        backend.require([Role.BASE])
    with pytest.raises(SpvmiaError, match="mia_reference"):
        backend.load_reference(Role.REFERENCE, str(other))


@pytest.mark.parametrize("name", ["nobody/nothing", "/no/such/folder"])
def test_what_cannot_be_loaded_names_the_option_that_takes_a_path(models, name):
    backend = HFBackend(harness_lm(models, "full"), AuditConfig(base_model=name))
    with pytest.raises(SpvmiaError, match="give mia_base_model the path of a local folder"):
        backend.require([Role.BASE])
    with pytest.raises(SpvmiaError, match="give mia_reference the path of a local folder"):
        make(models, "lora")[1].load_reference(Role.REFERENCE, name)


def test_a_role_that_was_not_loaded(models):
    with pytest.raises(SpvmiaError, match="mia_reference"):
        total(make(models, "lora")[1], Role.REFERENCE)


def test_an_adapter_of_another_model_is_refused(models, tmp_path):
    _, backend = make(models, "lora")
    backend.train_reference(TEXTS, tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    weights = load_file(path)
    save_file({key: value[:, :2].contiguous() for key, value in weights.items()}, path)
    before = fingerprint(backend._roles.target)
    with pytest.raises(SpvmiaError, match="mia_reference: expected an adapter that fits"):
        backend.load_reference(Role.REFERENCE, str(tmp_path))
    assert_same(before, fingerprint(backend._roles.target))


def test_identity_is_the_content_and_not_the_place(models, tmp_path):
    import shutil

    def identity(folder, kind, role):
        return HFBackend(harness_lm(folder, kind), AuditConfig(), str(folder / "base")).identity(role)

    harness_lm(models, "lora"), harness_lm(models, "full")
    shutil.copytree(models, tmp_path / "copy")
    for kind in ("lora", "full"):
        for role in (Role.TARGET, Role.BASE):
            assert identity(models, kind, role) == identity(tmp_path / "copy", kind, role)
            json.dumps(identity(models, kind, role))
        assert identity(models, kind, Role.TARGET) != identity(models, kind, Role.BASE)
    path = tmp_path / "copy" / "lora" / "adapter_model.safetensors"
    stat, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    import os

    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert identity(tmp_path / "copy", "lora", Role.TARGET) != identity(models, "lora", Role.TARGET)
    assert identity(tmp_path / "copy", "lora", Role.BASE) == identity(models, "lora", Role.BASE)


def test_identity_of_a_model_that_came_as_an_object(models):
    from lm_eval.models.huggingface import HFLM

    lm = harness_lm(models, "full")
    found = [
        HFBackend(HFLM(pretrained=model, tokenizer=lm.tokenizer), AuditConfig()).identity(Role.TARGET)
        for model in (lm.model, harness_lm(models, "full").model, harness_lm(models, "full").model.bfloat16())
    ]
    assert found[0] == found[1] != found[2]
