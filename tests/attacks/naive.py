"""Every attack a second time: plain Python floats and loops, written from the formulas and nothing else.

A function returns None where the formula is not defined.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable

from spvmia_plugin.signals import RecordSignals, Role, TokenSignals, View

FLOOR = 1e-6


def logprobs(tokens: TokenSignals | None) -> list[float]:
    return [] if tokens is None else [float(value) for value in tokens.logprob]


def text_of(record: RecordSignals, role: Role, view: View = View.TEXT) -> list[float]:
    return logprobs(record.tokens.get((role, view)))


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def nll(values: list[float]) -> float:
    return max(-mean(values), FLOOR)


def loss(record: RecordSignals) -> float | None:
    values = text_of(record, Role.TARGET)
    return mean(values) if values else None


def zlib_(record: RecordSignals) -> float | None:
    value = loss(record)
    return None if value is None else value / len(zlib.compress(record.text.encode()))


def nll_ratio(record: RecordSignals, above: tuple[Role, View], below: tuple[Role, View]) -> float | None:
    top, bottom = text_of(record, *above), text_of(record, *below)
    return nll(top) / nll(bottom) if top and bottom else None


def lowercase(record: RecordSignals) -> float | None:
    return nll_ratio(record, (Role.TARGET, View.LOWERCASE), (Role.TARGET, View.TEXT))


def premia(record: RecordSignals) -> float | None:
    moved = []
    for view in (View.TEXT, View.REJECTED):
        target, base = text_of(record, Role.TARGET, view), text_of(record, Role.BASE, view)
        if not target or len(target) != len(base):
            return None
        moved.append(math.fsum(target) - math.fsum(base))
    return moved[0] - moved[1]


def recall(record: RecordSignals) -> float | None:
    return nll_ratio(record, (Role.TARGET, View.PREFIXED), (Role.TARGET, View.TEXT))


def ratio(record: RecordSignals) -> float | None:
    if len(text_of(record, Role.BASE)) != len(text_of(record, Role.TARGET)):
        return None
    return nll_ratio(record, (Role.BASE, View.TEXT), (Role.TARGET, View.TEXT))


def lowest_mean(values: list[float], share: float) -> float | None:
    count = max(1, int(share * len(values)))
    return mean(sorted(values)[:count]) if values else None


def min_k(record: RecordSignals, share: float) -> float | None:
    return lowest_mean(text_of(record, Role.TARGET), share)


def min_k_pp(record: RecordSignals, share: float) -> float | None:
    tokens = record.tokens.get((Role.TARGET, View.TEXT))
    if tokens is None or tokens.mean is None or tokens.std is None:
        return None
    standardised = [
        (float(lp) - float(mu)) / float(sigma)
        for lp, mu, sigma in zip(tokens.logprob, tokens.mean, tokens.std, strict=True)
        if sigma != 0
    ]
    return lowest_mean(standardised, share)


def around(record: RecordSignals, role: Role) -> list[list[float]]:
    return [logprobs(tokens) for tokens in record.neighbours.get(role, ())]


def neighbour(record: RecordSignals) -> float | None:
    centre, ring = loss(record), around(record, Role.TARGET)
    if centre is None or not ring or not all(ring):
        return None
    return centre - mean([mean(values) for values in ring])


def detectgpt(record: RecordSignals) -> float | None:
    difference, ring = neighbour(record), around(record, Role.TARGET)
    if difference is None or len(ring) < 2:
        return None
    means = [mean(values) for values in ring]
    if len(set(means)) == 1:
        return None
    middle = mean(means)
    return difference / math.sqrt(math.fsum((value - middle) ** 2 for value in means) / (len(means) - 1))


def differences(record: RecordSignals, reference: Role) -> list[float] | None:
    target, other = text_of(record, Role.TARGET), text_of(record, reference)
    if not target or len(target) != len(other):
        return None
    return [left - right for left, right in zip(target, other, strict=True)]


def lira(record: RecordSignals, reference: Role) -> float | None:
    if differences(record, reference) is None:
        return None
    return mean(text_of(record, Role.TARGET)) - mean(text_of(record, reference))


def ez(record: RecordSignals, reference: Role) -> float | None:
    values = differences(record, reference)
    if values is None:
        return None
    right = record.tokens[Role.TARGET, View.TEXT].top1
    wrong = [value for value, is_right in zip(values, right, strict=True) if not is_right]
    if not wrong:
        return 1.0
    up, down = 0.0, 0.0
    for value in wrong:
        if value > 0:
            up += value
        else:
            down -= value
    if up == 0 and down == 0:
        return 0.5
    return up / (up + down)


def wbc(record: RecordSignals, reference: Role, windows: tuple[int, ...]) -> float | None:
    values = differences(record, reference)
    if values is None:
        return None
    shares = []
    for window in windows:
        size = min(window, len(values))
        votes = [math.fsum(values[i : i + size]) > 0 for i in range(len(values) - size + 1)]
        shares.append(sum(votes) / len(votes))
    return sum(shares) / len(shares)


def both_wbc(record: RecordSignals, windows: tuple[int, ...]) -> float | None:
    left, right = differences(record, Role.REFERENCE), differences(record, Role.CANDIDATE)
    if left is None or right is None:
        return None
    shares = []
    for window in windows:
        size = min(window, len(left))
        sums = [math.fsum(left[i : i + size]) + math.fsum(right[i : i + size]) for i in range(len(left) - size + 1)]
        shares.append(sum(value > 0 for value in sums) / len(sums))
    return sum(shares) / len(shares)


def spv(record: RecordSignals, variant: str) -> float | None:
    if variant == "released" and record.text.count(" ") + 1 < 14:
        return None
    total = 0.0
    lengths = []
    for role, sign in ((Role.TARGET, 1), (Role.REFERENCE, -1)):
        texts = [text_of(record, role), *around(record, role)]
        if len(texts) < 2 or not all(texts):
            return None
        lengths.append([len(values) for values in texts])
        p = [math.exp(mean(values)) for values in texts]
        total += sign * (p[0] - math.fsum(p[1:]) / len(p[1:]))
    return total if lengths[0] == lengths[1] else None


def rmia(record: RecordSignals, a: float) -> float | None:
    def r(target: list[float], base: list[float]) -> float:
        return math.exp(mean(target)) / ((1 + a) / 2 * math.exp(mean(base)) + (1 - a) / 2)

    target, base = text_of(record, Role.TARGET), text_of(record, Role.BASE)
    if differences(record, Role.BASE) is None:
        return None
    others_target = [logprobs(tokens) for tokens in record.population.get(Role.TARGET, ())]
    others_base = [logprobs(tokens) for tokens in record.population.get(Role.BASE, ())]
    if [len(values) for values in others_target] != [len(values) for values in others_base]:
        return None
    population = [r(left, right) for left, right in zip(others_target, others_base, strict=True) if left]
    if not population:
        return None
    return sum(r(target, base) / other > 1 for other in population) / len(population)


def info_rmia(record: RecordSignals) -> float | None:
    """By one reference alone; test_over_references.py has several."""
    target, reference = text_of(record, Role.TARGET), text_of(record, Role.REFERENCE)
    texts = [[logprobs(each) for each in record.population.get(role, [])] for role in (Role.TARGET, Role.REFERENCE)]
    if not target or len(target) != len(reference) or len(texts[0]) != len(texts[1]):
        return None
    if any(len(one) != len(other) for one, other in zip(*texts, strict=True)):
        return None
    pairs = [(a - b, b) for one, other in zip(*texts, strict=True) for a, b in zip(one, other, strict=True)]
    if not pairs:
        return None
    return informia([a - b for a, b in zip(target, reference, strict=True)], reference, pairs)


def informia(ratios: list[float], references: list[float], population: list[tuple[float, float]]) -> float:
    """Mean over tokens of the log ratio less the mean one of the population's tokens in the same bin."""
    bins = min(20, max(1, len(population) // 100))
    ordered = sorted(reference for _, reference in population)
    edges = []
    for number in range(1, bins):
        place = number / bins * (len(ordered) - 1)
        low = math.floor(place)
        edges.append(ordered[low] + (place - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low]))

    def bin_of(value: float) -> int:
        return sum(value >= edge for edge in edges)

    found: dict[int, list[float]] = {}
    for ratio_, reference in population:
        found.setdefault(bin_of(reference), []).append(ratio_)
    overall = mean([ratio_ for ratio_, _ in population])
    usual = {number: mean(values) for number, values in found.items()}
    return mean([r - usual.get(bin_of(p), overall) for r, p in zip(ratios, references, strict=True)])


def icp(record: RecordSignals, probes: int) -> float | None:
    alone = text_of(record, Role.TARGET)
    after = [logprobs(tokens) for tokens in record.probed.get(Role.TARGET, ())]
    if not alone or not after or not all(after):
        return None
    best = max(after[:probes], key=mean)
    return mean(alone[-len(best) :]) - mean(best) if len(best) <= len(alone) else None


def ngram(record: RecordSignals, length: int, aggregate: Callable[[list[float]], float]) -> float | None:
    """Word by word: is there any run of words, of any length from `length` on, that holds it and stands in both?"""
    continued = record.continued.get(Role.TARGET)
    if continued is None or not continued.texts:
        return None
    truth = continued.truth.replace(".", " .").split()  # what the records of the table are made of
    if len(truth) < length:
        return None
    shares = []
    for text in continued.texts:
        other = f" {' '.join(text.replace('.', ' .').split())} "
        covered = sum(
            any(
                f" {' '.join(truth[start:end])} " in other
                for start in range(place + 1)
                for end in range(max(place + 1, start + length), len(truth) + 1)
            )
            for place in range(len(truth))
        )
        shares.append(covered / len(truth))
    return aggregate(shares)


def semantic(record: RecordSignals, aggregate: Callable[[list[float]], float]) -> float | None:
    values = list(record.similarities.get(Role.TARGET, ()))
    continued = record.continued.get(Role.TARGET)
    return aggregate(values) if values and continued is not None and continued.texts else None


def surrogate(record: RecordSignals) -> float | None:
    one, base = text_of(record, Role.REFERENCE), text_of(record, Role.BASE)
    return mean(one) - mean(base) if one and len(one) == len(base) and one != base else None


def grad_norm(record: RecordSignals) -> float | None:
    norm = record.gradients.get(Role.TARGET)
    return -math.log(norm) if norm and text_of(record, Role.TARGET) else None
