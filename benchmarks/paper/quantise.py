"""A base model's folder with its weights in fewer bits (bitsandbytes), on a CPU or a CUDA device."""

from __future__ import annotations

import logging
from pathlib import Path

DONE = "config.json"


def quantised(model: str, bits: int, folder: Path) -> Path:
    """Write the model in 8 bits (LLM.int8) or 4 (NF4), unless it is there. Returns the folder, an ordinary one.

    Args:
        model: folder of the base.
        bits: 8 or 4.
        folder: for the result.
    """
    if (folder / DONE).is_file():
        return folder
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    from spvmia_plugin.util.libraries import quiet_libraries

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it would tell of each layer that it casts
    kind = (
        BitsAndBytesConfig(load_in_8bit=True)
        if bits == 8
        else BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    part = folder.with_suffix(".part")
    with quiet_libraries():
        loaded = AutoModelForCausalLM.from_pretrained(
            model, quantization_config=kind, device_map={"": device}, dtype=torch.bfloat16
        )
        loaded.save_pretrained(part)
        AutoTokenizer.from_pretrained(model).save_pretrained(part)
    part.rename(folder)
    return folder
