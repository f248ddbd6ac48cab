"""A backend of arithmetic, and a T5 whose every probability is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.protocols import Backend, BackendFeatures, Frame
from spvmia_plugin.signals import Role

VOCABULARY = 97
SENTINELS = 12
"""Real ones have 100; few make windows needed early."""
CHOICES = "abcd"


class FakeBackend(Backend):
    """A character is a token; replacements are drawn evenly from the other tokens. Remembers what it was asked."""

    name = "fake"

    def __init__(
        self,
        *,
        max_length: int = 64,
        embeddings: bool = True,
        context: tuple[int, ...] = (VOCABULARY,),
        survives: Callable[[Sequence[int]], bool] = lambda token_ids: True,
    ) -> None:
        self.max_length = max_length
        self.context = context
        self.survives = survives
        self.features = BackendFeatures(embeddings=embeddings)
        self.device = "cpu"
        self.calls: list[tuple[Role, list[list[int]]]] = []

    def encode(self, text: str) -> list[int]:
        return [ord(char) % VOCABULARY for char in text]

    def frame(self, text: str) -> Frame:
        return Frame(self.context)

    def sample_replacements(
        self,
        role: Role,
        sequences: Sequence[Sequence[int]],
        positions: Sequence[Sequence[NDArray[np.int64]]],
        seeds: Sequence[int],
    ) -> list[list[NDArray[np.int64]]]:
        self.calls.append((role, [list(sequence) for sequence in sequences]))
        drawn = []
        for sequence, draws, seed in zip(sequences, positions, seeds, strict=True):
            assert len(self.context) + len(sequence) <= self.max_length + 1
            assert all(self.context or 0 not in draw for draw in draws)
            rng = np.random.default_rng(seed)
            tokens = np.array(sequence)
            drawn.append([(tokens[draw] + rng.integers(1, VOCABULARY, len(draw))) % VOCABULARY for draw in draws])
        return drawn


def fill_word(sentinel: int, choice: str = "a") -> str:
    """One of the words that the tiny T5 puts in place of a sentinel; no other sentinel gets it."""
    return f"fill{sentinel}{choice}"


def tiny_t5_tokenizer() -> Any:
    """A real T5 tokenizer: letters, and the fill words."""
    from transformers import T5Tokenizer

    letters = "abcdefghijklmnopqrstuvwxyz0123456789<>_/.,-"
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -3.0)]
    vocabulary += [(char, -5.0) for char in letters]
    vocabulary += [("▁" + fill_word(k, choice), -9.0) for k in range(SENTINELS) for choice in CHOICES]
    return T5Tokenizer(vocab=vocabulary, extra_ids=SENTINELS)


def transitions(tokenizer: Any, *, stop: float = 0.0, words: Sequence[str] = CHOICES) -> dict[str, dict[str, float]]:
    """What follows a token in the tiny T5: sentinel, one to several fill words, next sentinel.

    After a fill word the output ends with probability `stop`, and the masks after it get nothing.
    """
    table: dict[str, dict[str, float]] = {"<pad>": {"<extra_id_0>": 1.0}}
    for k in range(SENTINELS):
        fills = ["▁" + fill_word(k, choice) for choice in words]
        table[f"<extra_id_{k}>"] = dict.fromkeys(fills, 1 / len(fills))
        following = f"<extra_id_{k + 1}>" if k + 1 < SENTINELS else "</s>"
        for fill in fills:
            ends = {following: 0.8 * (1 - stop), "</s>": stop or 1e-9} if following != "</s>" else {following: 0.8}
            table[fill] = {**ends, **{other: 0.2 * (1 - stop) / len(fills) for other in fills}}
    return table


def save_t5(
    folder: Path, table: Mapping[str, Mapping[str, float]], *, mixing: float = 2e-3, context: int = 512, seed: int = 0
) -> Path:
    """Write a one-layer T5 that is a table of next-token probabilities, plus a little of what the encoder read.

    Embeddings are unit vectors, all blocks but cross-attention give nothing, so the last hidden state is the last
    token's unit vector and the output layer is the table's logarithm.

    Args:
        folder: where to.
        table: probability of the next token by token.
        mixing: how much of the encoder's states reaches the decoder.
        context: tokens at once.
        seed: of the cross-attention.
    """
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = tiny_t5_tokenizer()
    size = len(tokenizer)
    config = T5Config(
        vocab_size=size, d_model=size, d_kv=8, d_ff=8, num_layers=1, num_heads=2, dropout_rate=0.0,
        n_positions=context, tie_word_embeddings=False, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    # What never follows differs a little, or the encoder's share would shift all words of a sentinel alike.
    logits = -30 + torch.rand((size, size), generator=torch.Generator().manual_seed(seed))
    ids = tokenizer.get_vocab()
    for token, row in table.items():
        for following, probability in row.items():
            logits[ids[token], ids[following]] = float(np.log(probability))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = T5ForConditionalGeneration(config).eval()
        for name, weight in model.named_parameters():
            if name.endswith((".o.weight", ".wo.weight")):
                weight.zero_()
        model.shared.weight.copy_(torch.eye(size))
        model.encoder.embed_tokens.weight.copy_(torch.eye(size))
        model.decoder.embed_tokens.weight.copy_(torch.eye(size))
        cross = model.decoder.block[0].layer[1].EncDecAttention
        cross.v.weight.normal_(std=1.0)
        cross.o.weight.normal_(std=mixing)
        model.lm_head.weight = torch.nn.Parameter(logits.T / size**0.5)  # T5 1.1 has an output layer of its own, too
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
