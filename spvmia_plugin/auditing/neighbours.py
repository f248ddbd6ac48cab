"""Paraphrases as a plugin hands them over: checked once, before they are kept, in words that name it and no text.

What they are worth shows when a model is to read them: one that reads as the record itself is none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from spvmia_plugin.auditing.sequences import Counted, Inputs
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import EmbeddingNoise, Neighbour, Neighbours, Perturbation, TextEdits, TokenEdits
from spvmia_plugin.records import Record
from spvmia_plugin.signals import View
from spvmia_plugin.util.handed_over import ROUNDING, is_whole_number
from spvmia_plugin.util.strict_json import is_number, is_unicode

_SEEDS = 2**63


def check_settings(perturbation: Perturbation) -> None:
    """Make sure that a perturbation's settings can be part of a key and of the record.

    Raises:
        SpvmiaError: they are no mapping, or hold what JSON has no place for.
    """
    settings = perturbation.settings()
    got = None
    if not isinstance(settings, Mapping):
        got = type(settings).__name__
    else:
        try:
            json.dumps(dict(settings), sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            got = str(error)  # which names types, and no value
    if got is not None:
        raise _refused(perturbation, "settings", "a mapping as JSON has them (texts, finite numbers, lists)", got)


def check_neighbours(
    perturbation: Perturbation,
    found: Any,
    text: str,
    count: int,
    tokens: Callable[[], int],
    vocab: int | None,
) -> None:
    """Make sure that these are the paraphrases of a text.

    Args:
        perturbation: made them.
        found: what it made.
        text: what it was given.
        count: how many it was asked for.
        tokens: says how many tokens the record has; asked where tokens are edited.
        vocab: how many token ids there are; None where that is not known.

    Raises:
        SpvmiaError: they are no `Neighbours`; another number without a reason; or edit what is not there.
    """
    if not isinstance(found, Neighbours) or not isinstance(found.variants, (tuple, list)):
        got = f"variants as {type(found.variants).__name__}" if isinstance(found, Neighbours) else type(found).__name__
        raise _refused(perturbation, "neighbours", "Neighbours with a tuple of paraphrases", got)
    if not isinstance(found.reason, (str, type(None))):
        raise _refused(perturbation, "neighbours", "a text or None as reason", type(found.reason).__name__)
    if len(found.variants) > count or (len(found.variants) < count and not found.reason):
        raise _refused(
            perturbation,
            "neighbours",
            f"{count} paraphrases of a text (twice mia_perturbations), or fewer and a reason",
            str(len(found.variants)),
        )
    rate = _plain(found.mask_rate)
    is_nan = isinstance(rate, float) and math.isnan(rate)
    if not is_nan and not (is_number(rate) and 0 <= rate <= 1 + ROUNDING):
        got = f"{rate:g}" if is_number(rate) else type(rate).__name__
        raise _refused(perturbation, "neighbours", "a mask_rate from 0 to 1, or NaN", got)
    for variant in found.variants:
        if isinstance(variant, TextEdits):
            wrong = _wrong_spans(variant.spans, len(text))
        elif isinstance(variant, TokenEdits):
            wrong = _wrong_tokens(variant, tokens(), vocab)
        elif isinstance(variant, EmbeddingNoise):
            wrong = _wrong_noise(variant)
        else:
            wrong = "TextEdits, TokenEdits or EmbeddingNoise as paraphrases", type(variant).__name__
        if wrong is not None:
            raise _refused(perturbation, "neighbours", *wrong)


def with_changes(found: Neighbours, record: Record, inputs: Inputs) -> Neighbours:
    """A record's paraphrases without those that a model reads as the record itself, which the reason counts.

    Such a one is as likely as the record: alone it scores every record the same, among others it takes their score
    towards that. It is found by its tokens: an edit may put the same words back, or what the tokenizer or a chat
    template reads alike (case, blanks at the ends).
    """
    own = inputs.of(record, View.TEXT)
    kept = tuple(each for each in found.variants if not _is_unchanged(each, own, record, inputs))
    if len(kept) == len(found.variants):
        return found
    if not kept:
        return Neighbours((), reason="no paraphrase changes what the model reads")
    left_out = f"{len(found.variants) - len(kept)} of {len(found.variants)} paraphrases without any change"
    return replace(found, variants=kept, reason="; ".join(filter(None, (found.reason, left_out))))


def _is_unchanged(variant: Neighbour, own: Counted | str, record: Record, inputs: Inputs) -> bool:
    if isinstance(variant, EmbeddingNoise):
        return variant.scale == 0
    made = inputs.neighbour(record, variant)
    return isinstance(made, Counted) and isinstance(own, Counted) and made.item == own.item


def _wrong_spans(spans: Any, length: int) -> tuple[str, str] | None:
    """What was expected of replaced spans of a text of so many characters, and what they are instead."""
    expected = f"spans (start, end, replacement), ascending and disjoint in the {length} characters of a text"
    if not isinstance(spans, (tuple, list)):
        return expected, type(spans).__name__
    last = 0
    for span in spans:
        if not isinstance(span, (tuple, list)) or len(span) != 3:
            return expected, type(span).__name__
        start, end, replacement = span
        if not (is_whole_number(start) and is_whole_number(end) and isinstance(replacement, str)):
            return expected, f"({', '.join(type(part).__name__ for part in span)})"
        if not last <= start <= end <= length:
            return expected, f"one from {start} to {end}, after {last}"
        if not is_unicode(replacement):
            return "replacements in valid Unicode", "half a surrogate pair"
        last = end
    return None


def _wrong_tokens(edits: TokenEdits, length: int, vocab: int | None) -> tuple[str, str] | None:
    """The same of replaced tokens, of a record of so many."""
    positions, ids = edits.positions, edits.token_ids
    expected = f"as many token_ids as positions, these from 0 to {length - 1} in the tokens of a record"
    if not isinstance(positions, (tuple, list)) or not isinstance(ids, (tuple, list)) or len(positions) != len(ids):
        return expected, " and ".join(_sized(part) for part in (positions, ids))
    for position in positions:
        if not is_whole_number(position) or not 0 <= position < length:
            return expected, str(position) if is_whole_number(position) else type(position).__name__
    for token_id in ids:
        if not is_whole_number(token_id) or not 0 <= token_id < (vocab or math.inf):
            got = str(token_id) if is_whole_number(token_id) else type(token_id).__name__
            return f"ids of tokens that the target has{f', below {vocab}' if vocab else ''}", got
    return None


def _wrong_noise(noise: EmbeddingNoise) -> tuple[str, str] | None:
    """The same of noise on embeddings."""
    if not is_whole_number(noise.seed) or not 0 <= noise.seed < _SEEDS:
        return "noise with a seed from 0 to 2**63 - 1", type(noise.seed).__name__
    if noise.sign not in (1, -1):
        return "noise with the sign 1 or -1", type(noise.sign).__name__
    scale = _plain(noise.scale)
    if not is_number(scale) or scale < 0:
        return "noise with a scale >= 0", type(noise.scale).__name__
    return None if noise.only is None else ("noise without `only`, which the run sets", type(noise.only).__name__)


def _sized(part: object) -> str:
    return f"{len(part)}" if isinstance(part, Sequence) else type(part).__name__


def _plain(value: object) -> object:
    """A number of NumPy as Python's own, which compares with any."""
    return value.item() if isinstance(value, np.generic) else value


def _refused(perturbation: Perturbation, method: str, expected: str, got: str) -> SpvmiaError:
    return SpvmiaError(
        f"mia_perturbation {perturbation.name}: {method}: expected {expected}, got {got}; correct the perturbation's "
        "plugin"
    )
