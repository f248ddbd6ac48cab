"""Canaries of `spvmia finetune`: records of which independent fair coins decide whether they are trained on.

Where they come from is another matter than the coins, and decides how much they show (docs/statistics.md). `natural`
canaries are held-out records of the same data: what an outsider would look for. `sampled` ones are written by the base
itself at a high temperature (Mitchell et al. 2026, arXiv 2606.10481), and `random` ones are tokens drawn alike from the
vocabulary (Carlini et al. 2019, arXiv 1802.08232). Both are made from the base and the seed alone, so nothing private
is in them.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from spvmia_plugin.data.packing import fast_tokenize
from spvmia_plugin.data.split import Packer, text_key
from spvmia_plugin.data.tokenisation import Reading
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import Cost
from spvmia_plugin.records import Document, Record
from spvmia_plugin.seeds import stable_seed
from spvmia_plugin.training.base_model import BaseModel, load_model
from spvmia_plugin.util.libraries import isolated_rng, no_loading_bars, quiet_libraries

if TYPE_CHECKING:
    from spvmia_plugin.training.config import FinetuneConfig

NATURAL = "natural"
KINDS = (NATURAL, "sampled", "random")
TEMPERATURE = 1.5
"""Of `sampled`: the paper asks for 0.8 and more; far above 1, texts are of no data and yet of words."""
_SPARE = 1.5
"""Tokens drawn for each that is wanted: a text cut anew from its characters often has fewer."""
_ROUNDS = 20
"""How often as many texts are drawn as are still missing."""

Draw = Callable[[int, Sequence[int]], list[list[int]]]
"""(tokens, seeds) -> so many tokens for each seed."""


def tossed(canaries: Sequence[Record], seed: int) -> tuple[Record, ...]:
    """The canaries, made members by a fair coin each, independent of the others, of the split and of their texts."""
    coins = random.Random(stable_seed(seed, "canary coins"))  # noqa: S311 - reproducible by the owner's seed
    return tuple(replace(canary, is_member=bool(coins.getrandbits(1))) for canary in canaries)


def made_canaries(config: FinetuneConfig, base: BaseModel, like: Sequence[Record]) -> tuple[Record, ...]:
    """Write the texts of canaries that are not taken from the data; their coins are not tossed yet.

    Text i depends on the base, the seed and i alone, so more canaries begin with the same texts.

    Args:
        config: how many, which kind, tokens a record, seed.
        base: who writes.
        like: records of the data. With block size 0 a canary has the median of their numbers of tokens.

    Returns:
        `config.canaries` records of different texts, each its own cluster, without pieces: no document holds them.

    Raises:
        SpvmiaError: the base cannot write so many different texts of that length.
    """
    reading = Reading(base.tokenizer)
    size = config.block_size or max(2, int(statistics.median(len(reading.body(record.text)) for record in like)))
    packer = Packer(config.block_size or 0, fast_tokenize(base.tokenizer) if config.block_size else None)
    with isolated_rng(stable_seed(config.seed, "canaries")), quiet_libraries(), no_loading_bars():
        draw = _vocabulary(reading) if config.canary_kind == "random" else _written(config, base, reading)
        wanted = min(size, base.context or size) if packer.tokenize is None else int(_SPARE * size)
        texts: dict[str, str] = {}
        tried = 0
        for _ in range(_ROUNDS):
            missing = config.canaries - len(texts)
            seeds = [stable_seed(config.seed, "canary", tried + i) for i in range(missing)]
            tried += missing
            for ids in draw(wanted, seeds):
                text = _cut(packer, reading.text(ids))
                if text is not None:
                    texts.setdefault(text_key(text), text)
    if len(texts) < config.canaries:
        raise SpvmiaError(
            f"--canary-kind: expected {config.canaries} different texts of {size} tokens from {config.model!r}, got "
            f"{len(texts)} in {tried} tries; lower --canaries, change --block-size, or use --canary-kind {NATURAL}"
        )
    names = [f"canary:{number}" for number in range(1, len(texts) + 1)]
    return tuple(Record(name, text, False, name) for name, text in zip(names, texts.values(), strict=True))


def _cut(packer: Packer, text: str) -> str | None:
    """The text's first block, or all of it with block size 0; None where it is blank or has no block of that length."""
    if packer.tokenize is not None:
        text = packer.prompts([Document("", text)])[0].text
        if len(packer.tokenize(text)[0]) != packer.block_size:
            return None
    return text if text.strip() else None


def _vocabulary(reading: Reading) -> Draw:
    """Tokens drawn alike from all that stand for text by themselves: neither special nor a part of a character."""
    special = {*reading.tokenizer.all_special_ids, *reading.tokenizer.added_tokens_decoder}
    known = sorted(set(reading.tokenizer.get_vocab().values()) - special)
    ordinary = np.array([token_id for token_id in known if "\ufffd" not in reading.text([token_id])])
    return lambda length, seeds: [np.random.default_rng(seed).choice(ordinary, length).tolist() for seed in seeds]


def _written(config: FinetuneConfig, base: BaseModel, reading: Reading) -> Draw:
    """Texts that the base writes from nothing: after what begins a text, and on where it would end one.

    Raises:
        SpvmiaError: the tokenizer has no token that a text could begin with.
    """
    from spvmia_plugin.models.batching import BatchRunner
    from spvmia_plugin.models.forward import HeadlessModel
    from spvmia_plugin.models.generation import Generator
    from spvmia_plugin.models.sampling import Sampling

    edges = (base.tokenizer.bos_token_id, base.tokenizer.eos_token_id)
    start = list(reading.frame("").context) or [edge for edge in edges if edge is not None][:1]
    if not start:
        raise SpvmiaError(
            f"--canary-kind: sampled expects a base with a token that begins or ends a text, got none in "
            f"{config.model!r}; use --canary-kind random"
        )
    model = HeadlessModel(load_model(config, base).eval())
    no_end = [-1]  # a text that ended early would be shorter than a record
    generator = Generator(model, Sampling(TEMPERATURE), no_end, [], BatchRunner(), Cost())

    def draw(length: int, seeds: Sequence[int]) -> list[list[int]]:
        total = min(len(start) + length, base.context or len(start) + length)
        written = generator.generate([start] * len(seeds), [total] * len(seeds), seeds, on_done=None, done=())
        return [ids[len(start) :] for ids in written if ids is not None]

    return draw
