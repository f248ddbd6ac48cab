"""The quick part of `python -m tests.sweep` in every run, the whole in `slow`."""

from __future__ import annotations

import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import CONFIG_MAPPING

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.adapters import AdapterHost
from spvmia_plugin.models.hf_backend import HFBackend
from spvmia_plugin.training.config import FinetuneConfig
from spvmia_plugin.training.lora import lora_targets
from spvmia_plugin.util.libraries import quiet_libraries
from tests.models.models import assert_same, fingerprint, harness_lm
from tests.sweep.adapters import ADAPTERS, NO_TARGETS, OTHER
from tests.sweep.families import FAMILIES, NotOne, build
from tests.sweep.try_adapter import try_adapter
from tests.sweep.try_family import try_family

pytestmark = pytest.mark.filterwarnings("default")  # peft and transformers, of what is done to them here

MISSING = {"lora, loftq": "bitsandbytes"}
NOT_LOADED = {"lora, corda"}
"""What peft itself does not load from its files, for want of what it was made with; in memory: test_base.py."""
QUICK_ADAPTERS = (
    "lora, dora",
    "lora, pissa",
    "lora, layer_replication",
    "lora, modules_to_save of the ends",
    "lora, trainable_token_indices",
    "lora, target_parameters",
    "lora, layers_to_transform",
    "lora, output layer",
    "IA3",
    "LILY",
    "LN_TUNING",
    "POLY",
    "SHADOW",
    "TRAINABLE_TOKENS",
    "VERA",
)
QUICK_FAMILIES = {
    # family: how a context is read, how texts are written
    "cohere2": ("yes", "yes"),
    "falcon_h1": ("yes (read again)", "yes (read again)"),  # a cache with rows by name only
    "gemma2": ("yes", "yes"),
    "gpt_neox": ("yes", "yes"),
    "jamba": ("yes (read again)", "yes (read again)"),
    "llama4_text": ("yes", "yes"),  # its routers are linear by class only
    "mamba2": ("yes (read again)", "yes (read again)"),
    "mixtral": ("yes", "yes"),
    "moshi": ("yes (read again)", "yes (read again)"),  # goes wrong beyond its window
    "phi3": ("yes", "yes"),
    "recurrent_gemma": ("yes (read again)", "yes (read again)"),
    "roberta": ("yes", "yes (one length at a time)"),  # counts positions by what is no padding
}


def check_adapter(kind, models, folder):
    if kind in MISSING:
        pytest.importorskip(MISSING[kind])
    if kind in OTHER and kind not in {known.value for known in PEFT_TYPE_TO_CONFIG_MAPPING}:
        pytest.skip("this peft does not have it")
    if kind in NOT_LOADED:
        with pytest.raises(ValueError, match="preprocess_corda"):
            try_adapter(kind, models / "base", folder)
        return
    result = try_adapter(kind, models / "base", folder)
    assert result.right, result


@pytest.mark.parametrize("kind", QUICK_ADAPTERS)
def test_adapters(kind, models, tmp_path):
    check_adapter(kind, models, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(set(ADAPTERS) - set(QUICK_ADAPTERS)))
def test_all_other_adapters(kind, models, tmp_path):
    check_adapter(kind, models, tmp_path)


def test_every_type_in_the_registry_is_tried():
    # An older peft has fewer.
    assert {kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING} <= {*OTHER, *NO_TARGETS, "LORA"}


@pytest.mark.parametrize("family", QUICK_FAMILIES)
def test_families(family, models, tmp_path):
    result = try_family(family, harness_lm(models, "full"), tmp_path)
    assert result.right, result
    assert (result.contexts, result.generation) == QUICK_FAMILIES[family]


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in QUICK_FAMILIES])
def test_all_other_families(family, models, tmp_path):
    lm = harness_lm(models, "full")
    try:
        build(family, len(lm.tokenizer))
    except NotOne as error:
        pytest.skip(str(error))
    except Exception as error:  # transformers itself can't: the page lists it
        pytest.skip(f"not built: {error}")
    result = try_family(family, lm, tmp_path)
    assert result.right, result


def test_a_model_that_looks_ahead_is_refused_by_name(models, tmp_path):
    result = try_family("cpmant", harness_lm(models, "full"), tmp_path)
    assert result.scored.startswith("refused: target: expected a causal language model, got CpmAntForCausalLM")
    assert result.generation.startswith("refused: ")


@pytest.fixture
def mamba(models):
    lm = harness_lm(models, "full")
    return build("mamba", len(lm.tokenizer))


@pytest.fixture
def called(mamba):
    """The linear layers of a Mamba that its forward pass calls, but for what peft refuses; others are only read."""
    seen = set()
    hooks = [
        module.register_forward_hook(lambda *_, name=name: seen.add(name.rpartition(".")[2]))
        for name, module in mamba.named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
    with torch.no_grad():
        mamba(input_ids=torch.tensor([[5, 6, 7]]))
    for hook in hooks:
        hook.remove()
    assert {"in_proj", "x_proj"} <= seen  # dt_proj too in an older transformers
    return sorted(seen - {"out_proj", "lm_head"})


def test_all_linear_is_what_peft_takes_and_what_learns(mamba, called):
    before = fingerprint(mamba)
    assert lora_targets(AdapterHost(mamba), ["all-linear"], "--lora-targets", r=4) == called
    assert_same(before, fingerprint(mamba))


def test_a_module_that_peft_refuses_is_told_with_those_it_takes(mamba, called):
    words = rf"--lora-targets: .* got out_proj \(.*some of {', '.join(called)}"
    with pytest.raises(SpvmiaError, match=words):
        lora_targets(AdapterHost(mamba), ["in_proj", "out_proj"], "--lora-targets", r=4)


def test_a_module_that_fails_in_training_is_told(models):
    model = build("llama4_text", 400)
    with pytest.raises(SpvmiaError, match=r"mia_lora_targets: .* got .*router"):
        lora_targets(AdapterHost(model), ["q_proj", "router"], "mia_lora_targets", r=4)


def test_weights_that_peft_would_not_find_again_are_not_trained(models):
    if "laguna" not in CONFIG_MAPPING:
        pytest.skip("this transformers does not have the family")
    host = AdapterHost(build("laguna", 400))  # peft renames those of its shared experts, to names that are not there
    names = lora_targets(host, ["all-linear"], "--lora-targets", r=4)
    assert names == ["g_proj", "k_proj", "o_proj", "q_proj", "v_proj"]
    with pytest.raises(SpvmiaError, match=r"--lora-targets: .* got up_proj .*would not find 2 of their weights"):
        lora_targets(host, ["up_proj"], "--lora-targets", r=4)


def test_the_audit_and_finetune_read_all_linear_alike(models, tmp_path, mamba, called):
    from spvmia_plugin.training.base_model import BaseModel, load_model

    lm = harness_lm(models, "full")
    mamba.save_pretrained(tmp_path / "mamba")
    lm.tokenizer.save_pretrained(tmp_path / "mamba")
    settings = FinetuneConfig(
        model=str(tmp_path / "mamba"), data="", output=tmp_path, block_size=32, lora_targets="all-linear", lora_rank=4
    )
    with quiet_libraries():
        trained = load_model(settings, BaseModel.find(settings))
    lm._model = mamba
    backend = HFBackend(lm, AuditConfig(lora_targets=("all-linear",), max_length=100), str(tmp_path / "mamba"))
    backend.check_training()
    texts = ["one red river", "seven blue winters"]
    backend.train_reference(texts, tmp_path / "reference")
    from peft import PeftConfig

    reference = PeftConfig.from_pretrained(tmp_path / "reference")
    assert set(trained.peft_config["default"].target_modules) == set(reference.target_modules)
    assert set(reference.target_modules) == set(called)


def test_an_adapter_with_weights_missing_is_refused_beside_a_target_of_its_own(models, tmp_path):
    from safetensors.torch import load_file, save_file

    from spvmia_plugin.signals import Role

    backend = HFBackend(harness_lm(models, "lora"), AuditConfig(lora_rank=2, reference_epochs=1.0))
    backend.train_reference(["one red river", "seven blue winters"], tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    kept = {key: value for key, value in weights.items() if "layers.0" in key}
    save_file(kept, tmp_path / "adapter_model.safetensors")
    with pytest.raises(SpvmiaError, match="mia_reference: expected an adapter that fits"):
        backend.load_reference(Role.REFERENCE, str(tmp_path))
    assert len(kept) == len(weights) // 2
