"""`gguf_file=`: of a folder that holds a model in several precisions, the named file is the model."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from packaging.version import InvalidVersion
from transformers.utils import is_gguf_available

from spvmia_plugin.models.identity import Weights

pytest.importorskip("gguf", reason="needs gguf, which is not installed")


def write_gguf(base, path, scale=1.0):
    """A tiny Llama as llama.cpp has it, in float32; its embeddings multiplied."""
    import gguf
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    config, state = model.config, model.state_dict()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    for name, tensor in state.items():
        values = tensor.float()
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if part in name:  # llama.cpp turns neighbours where transformers turns halves
                values = values.reshape(heads, 2, -1, values.shape[1]).transpose(1, 2).reshape(values.shape)
        if "embed_tokens" in name:
            values = values * scale
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), values.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def folder(base, tmp_path_factory):
    """Two models in one folder."""
    found = tmp_path_factory.mktemp("gguf")
    write_gguf(base, found / "one.gguf")
    write_gguf(base, found / "other.gguf", scale=1.5)
    return found


def test_a_named_file_is_the_model(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    one, other = (Weights({str(copy): f"{name}.gguf"}).of(str(copy)) for name in ("one", "other"))
    everything = Weights().of(str(copy))
    assert [list(each["files"]) for each in (one, other)] == [["one.gguf"], ["other.gguf"]]
    assert everything["files"] == {**one["files"], **other["files"]}
    (copy / "other.gguf").write_bytes(b"another")
    assert Weights({str(copy): "one.gguf"}).of(str(copy)) == one
    assert Weights({str(copy): "gone.gguf"}).of(str(copy)) is None
    (copy / "config.json").write_text("{}")
    (copy / "sub").mkdir()
    shutil.move(copy / "one.gguf", copy / "sub" / "one.gguf")
    below = Weights({str(copy): "sub/one.gguf"}).of(str(copy))
    assert list(below["files"]) == ["config.json", "sub/one.gguf"]
    (copy / "other.gguf").unlink()
    (copy / "three.safetensors").write_bytes(b"x")
    assert list(Weights().of(str(copy))["files"]) == ["config.json", "three.safetensors"]  # as ever


@pytest.fixture
def reads_gguf():
    """transformers 5.4 does not find out, on Python 3.10, which gguf is installed, and reads no such file."""
    try:
        is_gguf_available()
    except InvalidVersion:
        pytest.skip("what is installed of transformers reads no GGUF on this Python")


@pytest.mark.usefixtures("reads_gguf")
def test_an_audit_keys_by_the_file_that_was_loaded(folder, base, adapter, evaluate, options, tmp_path):
    """With an adapter on it: the fresh base that it is compared with comes of the same file."""
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    metadata = {**options, "mia_max_samples": 20, "mia_cache_dir": str(tmp_path / "store")}

    def audit(file, **given):
        args = {"pretrained": str(place), "gguf_file": file, "tokenizer": str(base), **given}
        result = evaluate(["lira_base_mia_custom"], metadata, model_args=args)
        scored = [row["resps"] for row in result["samples"]["lira_base_mia_custom"]]
        return scored, result["configs"]["lira_base_mia_custom"]["metadata"]["mia_audit"]

    scores, told = audit("one.gguf")
    assert list(told["models"]["base"]["weights"][0]["files"]) == ["one.gguf"]
    assert not any("second copy" in note for note in told["notes"])
    plain = [row["resps"] for row in evaluate(["lira_base_mia_custom"], metadata)["samples"]["lira_base_mia_custom"]]
    pairs = [torch.tensor([json.loads(each[0][0])["score"] for each in side]) for side in (scores, plain)]
    assert torch.allclose(*pairs, atol=1e-4)  # the same weights
    (place / "other.gguf").unlink()
    again, retold = audit("one.gguf")
    assert again == scores
    assert sum(stage["forward_tokens"] for stage in retold["cost"].values()) == 0  # found by the same name
