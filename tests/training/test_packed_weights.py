"""4-bit weights on a CPU: trained on as they are laid out for training, and left as they were."""

from __future__ import annotations

import pytest
import torch

from spvmia_plugin.training.trainer import TrainSettings, train, unpacked
from spvmia_plugin.util.libraries import quiet_libraries
from tests.tiny import save_tiny, tiny_llama, tiny_tokenizer

IDS = torch.arange(40)[None]


@pytest.fixture(params=[False, True], ids=["once", "twice"])
def quantised(request, tmp_path):
    """A model in 4 bits, its scales quantised too or not, that has run in inference mode."""
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes, which is not installed")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    four_bits = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=request.param
    )
    tokenizer = tiny_tokenizer()
    tiny_llama(tokenizer, hidden=64).save_pretrained(tmp_path / "model")
    options = {"quantization_config": four_bits, "device_map": {"": "cpu"}, "dtype": torch.bfloat16}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", **options).eval()
    logits(model)
    return model


def logits(model):
    with torch.no_grad():
        return model(IDS).logits.float()


def test_the_layout_for_training_holds_the_same_weights_and_the_other_comes_back(quantised):
    before = logits(quantised)
    with unpacked(quantised):
        quantised.train()
        assert (logits(quantised) - before).abs().max() < 0.05 * before.abs().max()
    assert torch.equal(logits(quantised.eval()), before)


def test_an_adapter_learns_in_every_layer(quantised, tmp_path):
    from peft import LoraConfig, get_peft_model

    before = logits(quantised)
    with quiet_libraries():
        model = get_peft_model(quantised, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    sequences = [[1 + i % 200 for i in range(start, start + 24)] for start in range(16)]
    losses = train(model, sequences, TrainSettings(4, 5e-3, 4), tmp_path, pad_token_id=0, description="x")["losses"]
    assert losses[-1] < losses[0] - 0.2
    learnt = [parameter.abs().max() > 0 for name, parameter in model.named_parameters() if "lora_B" in name]
    assert all(learnt)
    with model.disable_adapter():
        assert torch.equal(logits(model.eval()), before)


def test_other_models_are_left_alone(tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(save_tiny(tmp_path))
    held = [parameter.data_ptr() for parameter in model.parameters()]
    with unpacked(model):
        assert [parameter.data_ptr() for parameter in model.parameters()] == held
