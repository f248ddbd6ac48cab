"""Every decoder family of transformers, as small as it can be built."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from spvmia_plugin.util.libraries import isolated_rng, quiet_libraries

FAMILIES: tuple[str, ...] = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


class NotOne(Exception):
    """A family that is not a decoder of text by itself."""


WIDTH, LAYERS, HEADS, CONTEXT = 32, 2, 4, 128
_TINY: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embedding_size", "word_embed_proj_dim", "dim"), WIDTH),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads", "num_heads"), HEADS),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "dff", "ffn_hidden_size"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_selected_experts", "moe_k", "moe_topk", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "num_shared_experts"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), CONTEXT),
    **dict.fromkeys(("head_dim", "qk_nope_head_dim", "v_head_dim", "qk_rope_head_dim", "kv_channels"), 8),
    **dict.fromkeys(("sliding_window", "attention_window_size"), 8),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0),
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "state_size": 8,
    "time_step_rank": 4,
    **dict.fromkeys(("chunk_size", "mamba_chunk_size"), 16),
    "is_decoder": True,
    "tie_word_embeddings": True,
}
"""Set where a configuration has such a field."""


def config_of(family: str, vocab: int) -> Any:
    """The family's configuration with every size it has a name for made small.

    Raises:
        NotOne: it is not that of a decoder by itself.
    """
    if family in TOO_LARGE:
        raise NotOne(TOO_LARGE[family])
    kind = type(transformers.AutoConfig.for_model(family))
    default = kind()
    if getattr(default, "is_encoder_decoder", False):
        raise NotOne("an encoder and a decoder: the harness takes it for a seq2seq model")
    if default.get_text_config(decoder=True) is not default:
        raise NotOne("text with other media: see the family of its text part")
    known = set(inspect.signature(kind.__init__).parameters)
    names = known | {name for name in default.to_dict() if not isinstance(getattr(kind, name, None), property)}
    values = {
        name: value
        for name, value in {**_TINY, "vocab_size": vocab, "unpadded_vocab_size": vocab}.items()
        if name in names
    }
    if "kv_lora_rank" in names:
        values["num_key_value_heads"] = HEADS
    for kinds in ("layer_types", "layers_block_type", "mlp_layer_types"):
        given = getattr(default, kinds, None)
        if kinds in known and isinstance(given, (list, tuple)) and given:
            distinct = list(dict.fromkeys(given))
            values[kinds] = (distinct * LAYERS)[: max(LAYERS, len(distinct))]
            values["num_hidden_layers"] = len(values[kinds])
    return kind(**{**values, **SPECIAL.get(family, {})})


SPECIAL: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "attn_layer_indices": [1]},
    "codegen": {"rotary_dim": 4},
    "cohere_compass_text": {
        "rope_parameters": {
            k: {"rope_type": "default", "rope_theta": 1e4} for k in ("full_attention", "sliding_attention")
        },
        "layer_types": ["full_attention"] * 2,
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "tie_word_embeddings": False,
        "num_key_value_heads": 2,
    },
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8},
    "gemma3n_text": {
        "num_kv_shared_layers": 0,
        "layer_types": ["sliding_attention", "full_attention"],
        "intermediate_size": [48, 48],
        "activation_sparsity_pattern": [0.95, 0.0],
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 4,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention"],
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
    },
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "kimi_linear": {"linear_head_dim": 8, "linear_num_heads": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "longcat_flash": {"num_layers": 2, "ffn_hidden_size": 48, "expert_ffn_hidden_size": 16, "zero_expert_num": 2},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 16,
        "indexer_compress_ratio": 2,
    },
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"axial_pos_embds": False, "attention_head_size": 8, "num_hashes": 1},
    "xlm": {"emb_dim": WIDTH, "causal": True},
    "xlstm": {"chunk_size": 64},
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"]},
    "zamba": {
        "num_hidden_layers": 6,
        "layers_block_type": None,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "attention_hidden_size": 64,
    },
    "zaya": {"num_experts_per_tok": 1},
}
"""What else a family needs to be small, valid, and to have every kind of layer it is known for."""
TOO_LARGE = {
    "blt": "not small: a model of bytes with a second one inside, whose sizes go by other names",
    "phi4_multimodal": "text with other media: see phi3, the family of its text part",
}


def build(family: str, vocab: int) -> Any:
    """A float32 model of the family in evaluation mode, with weights that matter."""
    with isolated_rng(4), quiet_libraries():
        model = transformers.AutoModelForCausalLM.from_config(config_of(family, vocab))
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model.float().eval()
