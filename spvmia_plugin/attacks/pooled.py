"""A record as a row of numbers: what its tokens say under the target, the base and both references, pooled.

Every number is a mean, a share, a quantile or a spread over the record's T tokens, so that records of any length, and
the answers of a conversation, have the same ones; sums are left out, for they grow with T. Windows longer than the
record are clamped to it, and positions are told in parts of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.attacks.base import DIFFERENT_TOKENS, NLL_FLOOR, NO_MOMENTS
from spvmia_plugin.attacks.calibrated import WINDOWS
from spvmia_plugin.signals import MissingSignal, RecordSignals, Role, TokenSignals, Unscored

VERSION = 2
"""Of the definitions below and of how they are standardised (`learned.standardised`): weights that were fitted on
others mean nothing here. In version 1 features counted by their deviations, since 2 by their ranks."""

Floats = NDArray[np.float64]

QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
PARTS = (4, 2)
"""Windows of a quarter and of half of the record."""
BANDS = ((-np.inf, -6.0), (-6.0, -3.0), (-3.0, -1.0), (-1.0, np.inf))
"""Tokens by their log-probability under the base: from those it finds surprising to those it knows."""
LOW = 0.2
"""The share of least probable tokens that is looked at by itself, as in `min_k`."""
LEAST_SD = 1e-3
"""Standard deviations that are divided by are at least so much."""

POOLED = (
    *("mean", "clipped", "tanh", "positive", "sd", "snr"),
    *(f"q{round(100 * q):02d}" for q in QUANTILES),
    *(f"window_{w}" for w in WINDOWS),
    *(f"window_1_{part}" for part in PARTS),
    *("first", "last", "errors"),
    *(f"band_{k}" for k in range(len(BANDS))),
    *(f"band_{k}_positive" for k in range(len(BANDS))),
)
"""What is pooled of the differences d of two models' log-probabilities, (T,)."""

PAIRS: Mapping[str, tuple[str, str]] = {
    "target_base": ("target", "base"),
    "target_reference": ("target", "reference"),
    "target_candidate": ("target", "candidate"),
    "target_both": ("target", "both"),
}
"""The models whose differences are pooled; `both` is the mean of both references, token by token. The target is in all:
how two others differ is of the text alone, and so are weights of it."""

LEVELS: Mapping[str, tuple[str, ...]] = {
    "target": ("mean", "top1", "z", "z_low", "low"),
    "base": ("mean", "ratio", "top1"),
    "reference": ("mean", "p", "top1"),
    "candidate": ("mean", "p", "top1"),
    "both": ("p",),
}
"""What is pooled of each model by itself, and beside the target."""

NAMES: Mapping[str, tuple[str, ...]] = {
    block: (
        *(f"{block}.{name}" for name in LEVELS[block]),
        *(f"{pair}.{name}" for pair, models in PAIRS.items() if models[1] == block for name in POOLED),
    )
    for block in LEVELS
}
"""The features of each block: of the target alone, and those that need the base, a reference, or both of these."""

FEATURE_NAMES: tuple[str, ...] = tuple(name for names in NAMES.values() for name in names)
COLUMN: Mapping[str, int] = {name: column for column, name in enumerate(FEATURE_NAMES)}

NOT_FINITE = "a log-probability is not finite"

TOKENS_AT_A_TIME = 2**15
"""Tokens of equally long records that are pooled in one go: what fits into a processor's cache."""

_REFERENCES = (Role.REFERENCE, Role.CANDIDATE)


def features_of(records: Sequence[RecordSignals]) -> list[Floats | Unscored]:
    """The (F,) features of each record, NaN where a reference is not there, or why there are none.

    A record that target or base cannot read has none. Records of one length are pooled together: a record's features
    are the same, to the bit, whatever others there are.
    """
    found: list[Floats | Unscored] = [Unscored(NOT_FINITE)] * len(records)
    alike: dict[tuple[int, tuple[Role, ...]], list[int]] = {}
    for number, signals in enumerate(records):
        try:
            alike.setdefault(_shape(signals), []).append(number)
        except MissingSignal as missing:
            found[number] = Unscored(missing.reason)
    for (length, roles), numbers in alike.items():
        at_a_time = max(1, TOKENS_AT_A_TIME // length)
        for start in range(0, len(numbers), at_a_time):
            part = numbers[start : start + at_a_time]
            with np.errstate(all="ignore"):  # what is not finite is told below
                rows = _features([records[number] for number in part], roles)
            known = np.isfinite(rows).sum(axis=1) == sum(len(NAMES[block]) for block in blocks_of(roles))
            for number, row, is_known in zip(part, rows, known, strict=True):
                if is_known:
                    found[number] = row
    return found


def blocks_of(roles: Sequence[Role]) -> list[str]:
    """The blocks of features that the models of these roles give."""
    return [*(role.value for role in roles), *(["both"] if set(_REFERENCES) <= set(roles) else [])]


def blocks_there(table: NDArray[np.floating], names: Sequence[str] = FEATURE_NAMES) -> set[str]:
    """The blocks of features that records of an audit have.

    A base that stands in for a reference (`mia_reference=base`) is none.

    Args:
        table: (n, F) features of its records.
        names: of the columns.
    """
    found = {"target", "base"}
    base = table[:, list(names).index("base.mean")]
    for role in _REFERENCES:
        distance = np.abs(table[:, list(names).index(f"{role.value}.mean")] - base)
        if np.any(distance > 0):  # NaN where it is not there
            found.add(role.value)
    return found | {"both"} if found.issuperset(role.value for role in _REFERENCES) else found


def _shape(signals: RecordSignals) -> tuple[int, tuple[Role, ...]]:
    """T, and which models are there.

    Raises:
        MissingSignal: nothing can be said of the record.
    """
    target, base = signals.of(Role.TARGET), signals.of(Role.BASE)
    if target.mean is None or target.std is None:
        raise MissingSignal(NO_MOMENTS)
    references = {role: found for role in _REFERENCES if (found := _of(signals, role)) is not None}
    if any(len(each) != len(target) for each in (base, *references.values())):
        raise MissingSignal(DIFFERENT_TOKENS)
    return len(target), (Role.TARGET, Role.BASE, *references)


def _of(signals: RecordSignals, role: Role) -> TokenSignals | None:
    try:
        return signals.of(role)
    except MissingSignal:
        return None


def _features(records: Sequence[RecordSignals], roles: Sequence[Role]) -> Floats:
    """(n, F) features of records of one length under the same models."""
    logprob = {
        role.value: np.array([signals.of(role).logprob for signals in records], dtype=np.float64) for role in roles
    }
    if "both" in blocks_of(roles):
        logprob["both"] = (logprob["reference"] + logprob["candidate"]) / 2
    top1 = {role.value: np.array([signals.of(role).top1 for signals in records]).mean(axis=1) for role in roles}
    mean = {name: values.mean(axis=1) for name, values in logprob.items()}
    target = [signals.of(Role.TARGET) for signals in records]
    centre = np.array([each.mean for each in target], dtype=np.float64)
    spread = np.array([each.std for each in target], dtype=np.float64)
    z = (logprob["target"] - centre) / np.maximum(spread, LEAST_SD)
    low = max(1, int(LOW * z.shape[1]))
    wrong = ~np.array([each.top1 for each in target])

    found: dict[str, Floats] = {
        "target.mean": mean["target"],
        "target.top1": top1["target"],
        "target.z": z.mean(axis=1),
        "target.z_low": np.sort(z, axis=1)[:, :low].mean(axis=1),
        "target.low": np.sort(logprob["target"], axis=1)[:, :low].mean(axis=1),
        "base.ratio": np.minimum(mean["base"], -NLL_FLOOR) / np.minimum(mean["target"], -NLL_FLOOR),
    }
    for name in logprob.keys() - {"target"}:
        if name != "both":
            found |= {f"{name}.mean": mean[name], f"{name}.top1": top1["target"] - top1[name]}
        if name != "base":
            found[f"{name}.p"] = np.exp(mean["target"]) - np.exp(mean[name])

    pairs = [pair for pair, models in PAIRS.items() if logprob.keys() >= set(models)]
    differences = np.stack([logprob[one] - logprob[other] for one, other in map(PAIRS.__getitem__, pairs)])
    pooled = _pool(differences, wrong, logprob["base"])
    for pair, of_pair in zip(pairs, pooled, strict=True):
        found |= {f"{pair}.{name}": of_pair[:, column] for column, name in enumerate(POOLED)}

    table = np.full((len(records), len(FEATURE_NAMES)), np.nan)
    for name, values in found.items():
        table[:, COLUMN[name]] = values
    return table


def _pool(d: Floats, wrong: NDArray[np.bool_], base: Floats) -> Floats:
    """(S, n, P) what `POOLED` names of differences (S, n, T).

    Args:
        d: of S pairs of models, n records, T tokens.
        wrong: (n, T) where the target's most probable token is another.
        base: (n, T) log-probabilities under the base.
    """
    length = d.shape[-1]
    positive = (d > 0).astype(np.float64)
    mean = d.mean(axis=-1)
    sd = np.sqrt(((d - mean[..., None]) ** 2).mean(axis=-1))
    columns = [mean, np.clip(d, -1, 1).mean(axis=-1), np.tanh(3 * d).mean(axis=-1), positive.mean(axis=-1), sd]
    columns.append(mean / np.maximum(sd, LEAST_SD))

    ascending = np.sort(d, axis=-1)
    for quantile in QUANTILES:  # linear between the two nearest, as np.quantile
        place = quantile * (length - 1)
        left, right = ascending[..., int(place)], ascending[..., min(int(place) + 1, length - 1)]
        columns.append(left + (right - left) * (place - int(place)))

    running = np.zeros((*d.shape[:-1], length + 1))
    np.cumsum(d, axis=-1, out=running[..., 1:])
    for size in (*(min(window, length) for window in WINDOWS), *(max(1, length // part) for part in PARTS)):
        columns.append((running[..., size:] > running[..., :-size]).mean(axis=-1))  # in which the first model is ahead

    first = max(1, length // 4)
    columns.append(d[..., :first].mean(axis=-1))
    columns.append(d[..., first:].mean(axis=-1) if first < length else mean)

    up, down = np.maximum(d, 0), np.maximum(-d, 0)
    up, down = (up * wrong).sum(axis=-1), (down * wrong).sum(axis=-1)
    moved = up + down
    columns.append(np.where(moved > 0, up / np.where(moved > 0, moved, 1.0), 0.5))

    bands = [((base >= low) & (base < high)).astype(np.float64) for low, high in BANDS]
    counts = [band.sum(axis=-1) for band in bands]
    columns += [(d * band).sum(axis=-1) / np.maximum(n, 1) for band, n in zip(bands, counts, strict=True)]
    # A token outside of the band counts half: neither for nor against.
    columns += [
        ((positive * band).sum(axis=-1) + 0.5 * (length - n)) / length for band, n in zip(bands, counts, strict=True)
    ]
    return np.stack(columns, axis=-1)
