"""Prompt log-probabilities of vLLM and SGLang as signals of tokens.

vLLM's `FlatLogprobs` holds lists of Python numbers: for each position of the prompt those of the token that stands
there, then of the most probable ones, from the first down. All V of them take about 150 bytes a token of the vocabulary
and position, in this process: so few passes at a time are asked for their moments, and turned into arrays position by
position. SGLang's `meta_info` holds a tuple (log-probability, token id, text) for each token of the prompt, and apart
from them those of the most probable token at each place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.engines.passes import Answer
from spvmia_plugin.errors import SpvmiaError

_LEAST = -1e4
"""Stands for a log-probability of -inf where it is multiplied by its probability, 0."""
_ABOVE_BEST = 1e-3
"""Nats by which rounding may put a token above the most probable one of its place; more is another place's."""


def read_flat(flat: Any, token_ids: Sequence[int], scored: int, vocab: int | None) -> Answer:
    """The signals of the last `scored` tokens of a prompt that vLLM has read.

    Args:
        flat: `RequestOutput.prompt_logprobs` with `flat_logprobs`, of one or all log-probabilities a position.
        token_ids: the prompt.
        scored: at its end; fewer than all, since the first has nothing before it.
        vocab: V, where all were asked for: then there are moments.

    Raises:
        SpvmiaError: it does not belong to this prompt, or is no number.
    """
    if len(flat) != len(token_ids):
        raise _wrong("vLLM", _too_few(len(flat), token_ids))
    starts, ends = flat.start_indices[-scored:], flat.end_indices[-scored:]
    if [flat.token_ids[start] for start in starts] != list(token_ids[-scored:]):
        raise _wrong("vLLM", _OTHERS)
    logprob = np.array([flat.logprobs[start] for start in starts], np.float32)
    # Not by rank: among equals none has rank 1, and in bfloat16 the two best are often equal.
    best = np.array([max(flat.logprobs[s:e][:2]) for s, e in zip(starts, ends, strict=True)], np.float32)
    if np.isnan(logprob).any():
        raise _wrong("vLLM", _NAN)
    if vocab is None:
        return Answer(logprob, logprob >= best)
    mean, std = np.empty((2, scored), np.float32)
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if end - start != vocab + 1:
            raise _wrong("vLLM", f"{end - start - 1} of a vocabulary of {vocab}")
        mean[row], std[row] = _moments(np.array(flat.logprobs[start + 1 : end], np.float64))
    return Answer(logprob, logprob >= best, mean, std)


def read_meta_info(told: Mapping[str, Any], token_ids: Sequence[int], scored: int, vocab: int) -> Answer:
    """The signals of the last `scored` tokens of a prompt that SGLang has read.

    The ids beside its log-probabilities are those that it was sent, whatever stands beside them: that a log-probability
    belongs to its place shows by its first one, which is none, and by the best one of each place, which is none below.

    Args:
        told: `meta_info`, with `input_token_logprobs` from the first token on (`logprob_start_len=0`) and
            `input_top_logprobs` of one a place.
        token_ids: the prompt.
        scored: at its end; fewer than all, since the first has nothing before it.
        vocab: V, of the model's configuration.

    Raises:
        SpvmiaError: it does not belong to this prompt, or is no number.
    """
    tokens, best = told.get("input_token_logprobs") or [], told.get("input_top_logprobs") or []
    for found in (tokens, best):
        if len(found) != len(token_ids):
            raise _wrong("SGLang", _too_few(len(found), token_ids))
    if tokens[0][0] is not None or best[0] is not None:
        raise _wrong("SGLang", "one for the first token, which has nothing before it")
    values, named = [each[0] for each in tokens[-scored:]], [each[1] for each in tokens[-scored:]]
    tops = [(row or [(None, None)])[0] for row in best[-scored:]]
    # It has token 0 stand for the vocabulary's last one, and for what lies beyond.
    if named != [token if token < vocab - 1 else 0 for token in token_ids[-scored:]] and named != list(
        token_ids[-scored:]
    ):
        raise _wrong("SGLang", _OTHERS)
    if None in values or any(top[0] is None for top in tops):
        raise _wrong("SGLang", "none for some")
    logprob, highest = (np.array(each, np.float32) for each in (values, [top[0] for top in tops]))
    if np.isnan(logprob).any() or np.isnan(highest).any():
        raise _wrong("SGLang", _NAN)
    if (logprob > highest + _ABOVE_BEST).any():
        raise _wrong("SGLang", "some above the most probable token's: they belong to other places")
    is_best = np.array([top[1] == token for top, token in zip(tops, token_ids[-scored:], strict=True)], bool)
    # By number too: of two equals one is named, and both are the most probable.
    return Answer(logprob, is_best | (logprob >= highest))


def _moments(logprobs: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and standard deviation of log p(v) under p, of (V,) log-probabilities; two passes, as rounding wants it."""
    logprobs = np.maximum(logprobs, _LEAST)
    p = np.exp(logprobs)
    p /= p.sum()  # float32 answers add up to 1 but for 1e-5
    mean = float(p @ logprobs)
    variance = float(p @ np.square(logprobs - mean))
    return mean, variance**0.5


_OTHERS = "those of other tokens"
_NAN = "NaN: the engine's precision does not hold the model's numbers"


def _too_few(found: int, token_ids: Sequence[int]) -> str:
    return f"{found} positions for {len(token_ids)} tokens"


def _wrong(engine: str, got: str) -> SpvmiaError:
    return SpvmiaError(
        f"--model: expected {engine} to give a log-probability for each token of a prompt, got {got}; use another "
        f"version of {engine}, or '--model hf'"
    )
