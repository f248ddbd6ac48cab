"""vLLM's flat prompt log-probabilities as signals of tokens.

`FlatLogprobs` holds lists of Python numbers: for each position of the prompt those of the token that stands there,
then of the most probable ones, from the first down. All V of them take about 150 bytes a token of the vocabulary and
position, in this process: so few passes at a time are asked for their moments, and turned into arrays position by
position.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.engines.passes import Answer
from spvmia_plugin.errors import SpvmiaError

_LEAST = -1e4
"""Stands for a log-probability of -inf where it is multiplied by its probability, 0."""


def read_answer(flat: Any, token_ids: Sequence[int], scored: int, vocab: int | None) -> Answer:
    """The signals of the last `scored` tokens of a prompt.

    Args:
        flat: `RequestOutput.prompt_logprobs` with `flat_logprobs`, of one or all log-probabilities a position.
        token_ids: the prompt.
        scored: at its end; fewer than all, since the first has nothing before it.
        vocab: V, where all were asked for: then there are moments.

    Raises:
        SpvmiaError: it does not belong to this prompt, or is no number.
    """
    if len(flat) != len(token_ids):
        raise _wrong(f"{len(flat)} positions for {len(token_ids)} tokens")
    starts, ends = flat.start_indices[-scored:], flat.end_indices[-scored:]
    if [flat.token_ids[start] for start in starts] != list(token_ids[-scored:]):
        raise _wrong("those of other tokens")
    logprob = np.array([flat.logprobs[start] for start in starts], np.float32)
    # Not by rank: among equals none has rank 1, and in bfloat16 the two best are often equal.
    best = np.array([max(flat.logprobs[s:e][:2]) for s, e in zip(starts, ends, strict=True)], np.float32)
    if np.isnan(logprob).any():
        raise _wrong("NaN: the engine's precision does not hold the model's numbers")
    if vocab is None:
        return Answer(logprob, logprob >= best)
    mean, std = np.empty((2, scored), np.float32)
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if end - start != vocab + 1:
            raise _wrong(f"{end - start - 1} of a vocabulary of {vocab}")
        mean[row], std[row] = _moments(np.array(flat.logprobs[start + 1 : end], np.float64))
    return Answer(logprob, logprob >= best, mean, std)


def _moments(logprobs: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and standard deviation of log p(v) under p, of (V,) log-probabilities; two passes, as rounding wants it."""
    logprobs = np.maximum(logprobs, _LEAST)
    p = np.exp(logprobs)
    p /= p.sum()  # float32 answers add up to 1 but for 1e-5
    mean = float(p @ logprobs)
    variance = float(p @ np.square(logprobs - mean))
    return mean, variance**0.5


def _wrong(got: str) -> SpvmiaError:
    return SpvmiaError(
        f"--model: expected vLLM to give a log-probability for each token of a prompt, got {got}; use another version "
        "of vLLM, or '--model hf'"
    )
