"""Copies with packed weights: of which model one is, by what stands in the files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from spvmia_plugin.models.copies import quantised_copy
from tests.tiny import save_tiny, tiny_llama, tiny_texts, tiny_tokenizer

PACKED = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("original") / "model")


def pack(original: Path, folder: Path, bits: int, *, nested: bool = False, **settings: object) -> Path:
    """A copy as bitsandbytes 0.50 saves it, in bfloat16; the packed numbers themselves are left zero."""
    shutil.copytree(original, folder)
    written: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(original / "model.safetensors").items():
        weights = tensor.to(torch.bfloat16)
        if "proj" not in name:
            written[name] = weights
        elif bits == 4:
            scales = weights.reshape(-1, 64).abs().amax(-1).float()
            written[name] = torch.zeros(weights.numel() // 2, 1, dtype=torch.uint8)
            written[f"{name}.absmax"] = torch.zeros(len(scales), dtype=torch.uint8) if nested else scales
        else:
            written[name] = torch.zeros(weights.shape, dtype=torch.int8)
            written[f"{name.removesuffix('weight')}SCB"] = weights.abs().amax(-1).float()
    save_file(written, folder / "model.safetensors")
    quantisation = {"quant_method": "bitsandbytes", "load_in_4bit": bits == 4, "load_in_8bit": bits == 8}
    configure(folder, quantization_config=quantisation, dtype="bfloat16", **settings)
    return folder


def configure(folder: Path, **settings: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def change(folder: Path, name: str, factor: float) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = tensors[name] * factor
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_copy_is_one(original: Path, tmp_path: Path, bits: int, nested: bool) -> None:
    copy = pack(original, tmp_path / "copy", bits, nested=nested, pad_token_id=7)
    assert quantised_copy(str(copy), str(original)) == f"{bits} bits (bitsandbytes)"


@pytest.mark.parametrize("bits", [4, 8])
def test_other_weights_are_another_model(original: Path, tmp_path: Path, bits: int) -> None:
    other = save_tiny(tmp_path / "other", seed=1)
    copy = pack(original, tmp_path / "copy", bits)
    assert quantised_copy(str(copy), str(other)) is None
    scales = f"{PACKED}.absmax" if bits == 4 else f"{PACKED.removesuffix('weight')}SCB"
    for number, name in enumerate(("model.norm.weight", scales)):
        changed = pack(original, tmp_path / f"changed-{number}", bits)
        change(changed, name, 1.01)  # as a merged adapter would, or a training of everything
        assert quantised_copy(str(changed), str(original)) is None, name


def test_what_does_not_show_it(original: Path, tmp_path: Path) -> None:
    copy = pack(original, tmp_path / "copy", 4)
    name, whole = str(copy), str(original)
    assert quantised_copy(whole, whole) is None  # not packed
    assert quantised_copy(name, str(tmp_path / "gone")) is None
    assert quantised_copy("x" * 5000, whole) is None
    configure(copy, rms_norm_eps=1e-3)
    assert quantised_copy(name, whole) is None
    configure(copy, rms_norm_eps=1e-6, quantization_config={"quant_method": "gptq", "bits": 4})
    assert quantised_copy(name, whole) is None


def test_other_tokens_are_another_model(original: Path, tmp_path: Path) -> None:
    copy = pack(original, tmp_path / "copy", 8)
    tiny_tokenizer(tiny_texts(50, seed=9)).save_pretrained(copy)
    assert quantised_copy(str(copy), str(original)) is None
    (copy / "tokenizer.json").write_text("{")
    assert quantised_copy(str(copy), str(original)) is None


def test_no_weights_show_nothing(original: Path, tmp_path: Path) -> None:
    copy = pack(original, tmp_path / "copy", 4)
    (copy / "model.safetensors").write_bytes(b"cut")
    assert quantised_copy(str(copy), str(original)) is None


@pytest.mark.parametrize("bits", [4, 8])
def test_of_bitsandbytes_itself(tmp_path: Path, bits: int) -> None:
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes, which is not installed")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    tokenizer = tiny_tokenizer()
    for seed in (0, 1):
        folder = tmp_path / f"{seed}"
        tiny_llama(tokenizer, seed=seed, hidden=64).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    how = BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    options = {"quantization_config": how, "device_map": {"": "cpu"}, "dtype": torch.bfloat16}
    AutoModelForCausalLM.from_pretrained(tmp_path / "0", **options).save_pretrained(tmp_path / "copy")
    tokenizer.save_pretrained(tmp_path / "copy")
    assert quantised_copy(str(tmp_path / "copy"), str(tmp_path / "0")) == f"{bits} bits (bitsandbytes)"
    assert quantised_copy(str(tmp_path / "copy"), str(tmp_path / "1")) is None
