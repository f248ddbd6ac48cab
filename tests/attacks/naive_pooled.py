"""The pooled features of one record a second time, in plain Python, one number at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from spvmia_plugin.signals import RecordSignals, Role, View

WINDOWS = (2, 3, 4, 6, 9, 13, 18, 25, 32, 40)


def average(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def quantile(values: Sequence[float], q: float) -> float:
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] * (1 - (place - low)) + ordered[high] * (place - low)


def pooled(d: Sequence[float], wrong: Sequence[bool], base: Sequence[float]) -> dict[str, float]:
    size = len(d)
    found = {
        "mean": average(d),
        "clipped": average([max(-1.0, min(1.0, x)) for x in d]),
        "tanh": average([math.tanh(3 * x) for x in d]),
        "positive": average([float(x > 0) for x in d]),
    }
    found["sd"] = math.sqrt(average([(x - found["mean"]) ** 2 for x in d]))
    found["snr"] = found["mean"] / max(found["sd"], 0.001)
    for name, q in (("05", 0.05), ("10", 0.1), ("25", 0.25), ("50", 0.5), ("75", 0.75), ("90", 0.9), ("95", 0.95)):
        found[f"q{name}"] = quantile(d, q)
    windows = {f"window_{w}": min(w, size) for w in WINDOWS}
    windows |= {"window_1_4": max(1, size // 4), "window_1_2": max(1, size // 2)}
    for name, w in windows.items():
        sums = [math.fsum(d[start : start + w]) for start in range(size - w + 1)]
        found[name] = average([float(x > 0) for x in sums])
    first = max(1, size // 4)
    found["first"] = average(d[:first])
    found["last"] = average(d[first:] or d)
    up = math.fsum(x for x, is_wrong in zip(d, wrong, strict=True) if is_wrong and x > 0)
    down = math.fsum(-x for x, is_wrong in zip(d, wrong, strict=True) if is_wrong and x < 0)
    found["errors"] = up / (up + down) if up + down else 0.5
    for number, (low, high) in enumerate(((-math.inf, -6), (-6, -3), (-3, -1), (-1, math.inf))):
        inside = [low <= b < high for b in base]
        of_band = [x for x, is_in in zip(d, inside, strict=True) if is_in]
        found[f"band_{number}"] = average(of_band) if of_band else 0.0
        found[f"band_{number}_positive"] = average(
            [float(x > 0) if is_in else 0.5 for x, is_in in zip(d, inside, strict=True)]
        )
    return found


def features(record: RecordSignals) -> dict[str, float]:
    """By name, of the models that there are."""
    tokens = {role.value: record.tokens[role, View.TEXT] for role in Role if (role, View.TEXT) in record.tokens}
    logprob = {name: [float(x) for x in each.logprob] for name, each in tokens.items()}
    top1 = {name: average([float(x) for x in each.top1]) for name, each in tokens.items()}
    mean = {name: average(values) for name, values in logprob.items()}
    z = [
        (x - float(mu)) / max(float(sigma), 0.001)
        for x, mu, sigma in zip(logprob["target"], tokens["target"].mean, tokens["target"].std, strict=True)
    ]
    low = max(1, int(0.2 * len(z)))
    found = {
        "target.mean": mean["target"],
        "target.top1": top1["target"],
        "target.z": average(z),
        "target.z_low": average(sorted(z)[:low]),
        "target.low": average(sorted(logprob["target"])[:low]),
        "base.mean": mean["base"],
        "base.ratio": max(-mean["base"], 1e-6) / max(-mean["target"], 1e-6),
        "base.top1": top1["target"] - top1["base"],
    }
    for name in {"reference", "candidate"} & tokens.keys():
        found[f"{name}.mean"] = mean[name]
        found[f"{name}.p"] = math.exp(mean["target"]) - math.exp(mean[name])
        found[f"{name}.top1"] = top1["target"] - top1[name]
    if {"reference", "candidate"} <= tokens.keys():
        logprob["both"] = [(r + c) / 2 for r, c in zip(logprob["reference"], logprob["candidate"], strict=True)]
        found["both.p"] = math.exp(mean["target"]) - math.exp(average(logprob["both"]))
    wrong = [not is_top for is_top in tokens["target"].top1]
    for one, other in (
        ("target", "base"),
        ("target", "reference"),
        ("reference", "base"),
        ("target", "candidate"),
        ("candidate", "base"),
        ("target", "both"),
    ):
        if {one, other} <= logprob.keys():
            d = [x - y for x, y in zip(logprob[one], logprob[other], strict=True)]
            found |= {f"{one}_{other}.{name}": value for name, value in pooled(d, wrong, logprob["base"]).items()}
    return found
