"""Perturbed copies of a record that are read before it: words masked, no model asked."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from spvmia_plugin.perturb.masking import split_words
from spvmia_plugin.protocols import TextEdits

MASKED = 0.7
"""Share of the words, `--mask_rate 0.7` in the instructions of RPI-DSPlab/ICP-MIA."""
PLACEHOLDER = "word"
"""What stands for each of them, as in that code."""


def probes(text: str, seeds: Iterable[int]) -> list[TextEdits] | None:
    """For each seed max(1, floor(0.7 n)) of the n words of a text that hold a letter; None if there are none."""
    bounds = [(a, b) for a, b in split_words(text).bounds if any(map(str.isalpha, text[a:b]))]
    if not bounds:
        return None
    count = max(1, int(np.floor(MASKED * len(bounds))))
    drawn = (np.random.default_rng(seed).choice(len(bounds), count, replace=False) for seed in seeds)
    return [TextEdits(tuple((*bounds[i], PLACEHOLDER) for i in sorted(chosen.tolist()))) for chosen in drawn]
