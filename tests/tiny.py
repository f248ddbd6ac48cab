"""Models small enough to build in a test: a byte-level BPE tokenizer and a two-layer Llama."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

END = "<|end|>"

_WORD_LIST = """
the a an order ticket was lost found sent to from Anna Boris Chloe Daniel in Paris Rome Oslo on Monday Friday
because rain snow delay engine broke and we will refund replace repair it soon please call number about
account invoice street garden river mountain winter summer never always maybe seven twelve forty red blue
"""
_WORDS = _WORD_LIST.split()


def tiny_texts(n: int, *, seed: int = 0, words: tuple[int, int] = (20, 60)) -> list[str]:
    """`n` different made-up sentences of `words` words each."""
    rng = random.Random(seed)
    return [f"{seed}-{i} " + " ".join(rng.choice(_WORDS) for _ in range(rng.randint(*words))) + "." for i in range(n)]


def tiny_tokenizer(texts: Iterable[str] | None = None, *, vocab_size: int = 400) -> Any:
    """A byte-level BPE tokenizer (every text survives it) trained on `texts`; adds no special tokens itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(list(texts) if texts is not None else tiny_texts(200, seed=1), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=END, eos_token=END, pad_token=END, model_max_length=256
    )


def tiny_llama(tokenizer: Any, *, seed: int = 0, context: int = 256, hidden: int = 32, layers: int = 2) -> Any:
    """A float32 Llama of a few ten thousand parameters with random weights; the global RNG is left alone."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def save_tiny(folder: str | Path, texts: Sequence[str] | None = None, *, seed: int = 0, context: int = 256) -> Path:
    """Write a tiny model and its tokenizer as an ordinary Hugging Face folder; returns the folder."""
    folder = Path(folder)
    tokenizer = tiny_tokenizer(texts)
    tiny_llama(tokenizer, seed=seed, context=context).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
