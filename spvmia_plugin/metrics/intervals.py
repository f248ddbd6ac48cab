"""Standard errors and intervals of AUROC and of TPR at a low FPR, with the document as the unit of resampling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import betainc, betaincinv, expit, logit, stdtrit

from spvmia_plugin.metrics.arrays import NAN_INTERVAL, Bools, Codes, Floats, Interval, effective_number
from spvmia_plugin.metrics.roc import allowed_false_positives, placements

_RESAMPLES = 400
"""Bootstrap replicates for the standard error of a TPR: its own Monte-Carlo error is then 3.5 %."""
_CHUNK = 4_000_000
"""Most weights held at once in a bootstrap."""


@dataclass(frozen=True, slots=True, eq=False)
class AurocEstimate:
    """AUROC with what its uncertainty is computed from.

    Attributes:
        auroc: the estimate.
        stderr: its standard error.
        df: Satterthwaite's degrees of freedom of that error.
        n_effective: harmonic mean of the effective numbers of documents of the two classes.
        influence: (C,) contribution of each document to the estimate's deviation; stderr**2 is the sum of their
            squares, unless that is below the floor.
        reason: why stderr is NaN, or None.
    """

    auroc: float
    stderr: float
    df: float
    n_effective: float
    influence: Floats
    reason: str | None = None

    def interval(self, confidence: float) -> Interval:
        """The two-sided interval at `confidence`, by Student's t on the logit scale."""
        return self.interval_at(float(stdtrit(self.df, 0.5 + confidence / 2)))

    def interval_at(self, critical: float) -> Interval:
        """The interval of `critical` standard errors on the logit scale; the estimate always lies inside.

        The logit is not finite at 0 and 1, so what reaches away from the nearer of them starts no closer to it than
        1/(4 n_effective). What reaches towards it starts at the estimate: next to 1 the truth may still lie above.
        """
        if self.reason:
            return NAN_INTERVAL
        margin = 1 / (4 * self.n_effective)
        centre = min(max(self.auroc, margin), 1 - margin)
        return self._end(min(self.auroc, centre), -critical), self._end(max(self.auroc, centre), critical)

    def _end(self, start: float, errors: float) -> float:
        """From `start`, as many standard errors on the logit scale."""
        slope = start * (1 - start)
        return float(expit(logit(start) + errors * self.stderr / slope)) if slope else start


def estimate_auroc(scores: Floats, is_member: Bools, codes: Codes) -> AurocEstimate:
    """AUROC and its standard error by DeLong's structural components, summed within documents.

    DeLong, DeLong and Clarke-Pearson (1988) in the O(n log n) form of Sun and Xu (2014); for several records per
    document Obuchowski (1997), where a document may hold one class or both. Where the components do not vary (perfect
    separation, a constant score) the error is not 0: it is floored at sqrt(1/32) / n_effective, so that perfect
    separation of n documents a class gives a lower limit near 1 - 1/n.

    Args:
        scores: (n,) finite.
        is_member: (n,) bool, with both classes present.
        codes: (n,) document of each record, 0..C-1.
    """
    members, others = scores[is_member], scores[~is_member]
    of_members = placements(members, others)
    of_others = 1 - placements(others, members)
    auroc = float(np.mean(of_members))
    return estimate_means(auroc, of_members - auroc, of_others - auroc, is_member, codes)


def estimate_means(
    value: float, of_members: Floats, of_others: Floats, is_member: Bools, codes: Codes, grain: float = 1.0
) -> AurocEstimate:
    """A number whose error is that of a mean over members and of one over non-members, as the AUROC's is.

    Args:
        value: the number, between 0 and 1.
        of_members: (m,) the deviation of each member.
        of_others: (n,) the deviation of each non-member.
        is_member: (m + n,) bool, with both classes present.
        codes: (m + n,) document of each record, 0..C-1.
        grain: how many times further from 0 and 1 than an AUROC the number may be where the sample does not show it.
    """
    sizes_m, sizes_n = (np.bincount(codes[side], minlength=int(codes.max()) + 1) for side in (is_member, ~is_member))
    n_effective = 2 / (1 / effective_number(sizes_m) + 1 / effective_number(sizes_n)) / grain
    if min(np.count_nonzero(sizes_m), np.count_nonzero(sizes_n)) < 2:
        reason = "fewer than two documents in a class: no standard error"
        return AurocEstimate(value, math.nan, math.nan, n_effective, np.full(len(sizes_m), np.nan), reason)
    sums_m, df_m = _document_sums(of_members, codes[is_member], sizes_m)
    sums_n, df_n = _document_sums(of_others, codes[~is_member], sizes_n)
    influence = sums_m + sums_n
    variance = float(np.sum(influence**2))
    floor = 1 / (32 * n_effective**2)
    df = _satterthwaite(float(np.sum(sums_m**2)), df_m, float(np.sum(sums_n**2)), df_n)
    return AurocEstimate(value, math.sqrt(max(variance, floor)), df, n_effective, influence)


def _document_sums(deviations: Floats, codes: Codes, sizes: Codes) -> tuple[Floats, float]:
    """(C,) what each document adds to a mean's deviation, and the degrees of freedom of the sum of their squares.

    The sum of the squares is the variance of the mean, the larger of two estimates of it that are one where all
    documents have one size:

    - From the documents' own sums. A large document draws the mean to itself and so deviates less from it than from the
      truth: of documents whose means vary alike, the square for one with a share w of the records is expected to be
      (1 - w)**2 + the sum of the others' squared shares of what it would be, and is divided by that. As many degrees of
      freedom as documents count for (`effective_number`), less 1.
    - From the variances between and within documents (analysis of variance, random effects: Searle, Casella and
      McCulloch 1992), which hold for large documents what all of them have shown. The first estimate rests on a few
      squares where few documents are large, and is too small too often; this one takes documents of all sizes to be
      alike, which the first one does not. As many degrees of freedom as documents, less 1.

    Args:
        deviations: (n,) from the mean over all n records.
        codes: (n,) document of each record.
        sizes: (C,) records of each document, two of them not 0.
    """
    n, documents, squares = len(deviations), np.count_nonzero(sizes), float(np.sum(sizes**2))
    totals = np.bincount(codes, weights=deviations, minlength=len(sizes))
    sums: Floats = totals / np.sqrt((n - sizes) ** 2 + squares - sizes**2)
    variance = float(np.sum(sums**2))
    if n > documents:
        of_documents = float(np.sum(totals**2 / np.maximum(sizes, 1)))
        within = (float(np.sum(deviations**2)) - of_documents) / (n - documents)
        between = (of_documents - (documents - 1) * within) / (n - squares / n)
        alike = between * squares / n**2 + within / n
        if alike > variance > 0:
            return sums * math.sqrt(alike / variance), documents - 1
    return sums, max(effective_number(sizes) - 1, 1.0)


def _satterthwaite(var_a: float, df_a: float, var_b: float, df_b: float) -> float:
    """Degrees of freedom of a sum of two variances."""
    if var_a + var_b == 0:
        return df_a + df_b
    return (var_a + var_b) ** 2 / (var_a**2 / df_a + var_b**2 / df_b)


def design_effect(indicator: Bools, codes: Codes) -> float:
    """How many times the variance of a share exceeds that of as many independent records; at least 1.

    Where the indicator does not vary there is nothing to estimate from: the number of records per document, which
    is right if the records of a document are copies.
    """
    n = len(indicator)
    deviations = indicator - np.mean(indicator)
    total = float(np.sum(deviations**2))
    documents, positions = np.unique(codes, return_inverse=True)
    k = len(documents)
    if total == 0 or k < 2:
        return n / k
    sums = np.bincount(positions, weights=deviations)
    return max(1.0, float(np.sum(sums**2)) * k / (k - 1) / (total * n / (n - 1)))


def clopper_pearson(successes: float, trials: float, confidence: float) -> Interval:
    """Clopper and Pearson's interval of a share; `trials` may be an effective size (Korn and Graubard 1998)."""
    tail = (1 - confidence) / 2
    failures = trials - successes
    lower = float(betaincinv(successes, failures + 1, tail)) if successes > 0 else 0.0
    upper = float(betaincinv(successes + 1, failures, 1 - tail)) if failures > 0 else 1.0
    return lower, upper


def tpr_interval(scores: Floats, is_member: Bools, codes: Codes, fpr: float, confidence: float) -> Interval:
    """Interval of the TPR at FPR `fpr`, the threshold being estimated as well.

    Two sources of error are bounded and then combined. The share of members above the threshold: Clopper-Pearson.
    The threshold: order statistics of the non-members: the j-th largest of n has an exceedance share distributed as
    Beta(j, n - j + 1), so some order statistics lie above and below the true threshold with known probability, and the
    TPR at them bounds the TPR. The distances from the estimate are added as the root of the sum of squares
    (MOVER: Zou and Donner 2008). Several records per document shrink both sample sizes by `design_effect`.
    Where no order statistic lies surely above the true threshold (n < 3.7/fpr at 95 %), the lower limit is that of
    TPR 0.

    Args:
        scores: (n,) finite.
        is_member: (n,) bool, members and at least 1/fpr non-members.
        codes: (n,) document of each record.
        fpr: the bound on the FPR.
        confidence: two-sided.
    """
    members, others = scores[is_member], scores[~is_member]
    first_excluded = np.sort(others)[::-1][allowed_false_positives(len(others), fpr)]
    hits = members > first_excluded
    tpr = float(np.mean(hits))
    trials = len(members) / design_effect(hits, codes[is_member])
    low_share, high_share = clopper_pearson(tpr * trials, trials, confidence)
    effect = design_effect(others > first_excluded, codes[~is_member])
    above, below = _threshold_limits(others, fpr, len(others) / effect, confidence)
    low_threshold, high_threshold = float(np.mean(members > above)), float(np.mean(members > below))
    lower = tpr - math.hypot(tpr - low_share, tpr - low_threshold)
    upper = tpr + math.hypot(high_share - tpr, high_threshold - tpr)
    return max(lower, 0.0), min(upper, 1.0)


def _threshold_limits(others: Floats, fpr: float, n_effective: float, confidence: float) -> Interval:
    """Scores that lie above and below the true threshold of FPR `fpr`, each with probability 1 - (1-confidence)/2."""
    tail = (1 - confidence) / 2
    descending = np.sort(others)[::-1]
    ranks = np.arange(1, len(others) + 1) * (n_effective / len(others))
    exceedance_below_fpr = betainc(ranks, n_effective - ranks + 1, fpr)
    surely_above = np.flatnonzero(exceedance_below_fpr >= 1 - tail)
    surely_below = np.flatnonzero(exceedance_below_fpr <= tail)
    above = float(descending[surely_above[-1]]) if len(surely_above) else math.inf
    below = float(descending[surely_below[0]]) if len(surely_below) else -math.inf
    return above, below


def tpr_stderrs(scores: Floats, is_member: Bools, codes: Codes, fprs: tuple[float, ...], seed: int) -> list[float]:
    """Standard error of the TPR at each FPR, by bootstrap over documents, the threshold estimated anew each time.

    Documents are drawn within strata (members only, non-members only, both). A TPR of 0 or 1 does not vary in the
    bootstrap; the error is at least the binomial one at a share half a record away from 0 and 1.

    Args:
        scores: (n,) finite.
        is_member: (n,) bool, with both classes present.
        codes: (n,) document of each record.
        fprs: bounds on the FPR.
        seed: of the local generator.
    """
    spread = np.std(tpr_replicates(scores, is_member, codes, fprs, seed), axis=1, ddof=1)
    return [max(float(sd), _floor(scores, is_member, codes, fpr)) for sd, fpr in zip(spread, fprs, strict=True)]


def tpr_replicates(scores: Floats, is_member: Bools, codes: Codes, fprs: tuple[float, ...], seed: int) -> Floats:
    """(len(fprs), 400) TPRs of resampled documents, the threshold estimated anew each time.

    The draws depend on labels, documents and seed alone: replicates of several attacks on the same records belong
    together one by one.

    Args:
        scores: (n,) finite, or NaN for records that have none; both classes have some.
        is_member: (n,) bool.
        codes: (n,) document of each record.
        fprs: bounds on the FPR.
        seed: of the local generator.
    """
    rng = np.random.default_rng(seed)
    scored = np.isfinite(scores)
    members, others = _descending(scores, is_member & scored), _descending(scores, ~is_member & scored)
    strata = _strata(is_member, codes)
    members_above = len(members) - np.searchsorted(scores[members][::-1], scores[others], side="right")
    batch = max(1, min(_RESAMPLES, _CHUNK // len(scores)))
    draws: list[Floats] = []
    for start in range(0, _RESAMPLES, batch):
        weights = _draw(strata, min(batch, _RESAMPLES - start), rng)
        draws.append(_bootstrap_tprs(weights[:, codes[members]], weights[:, codes[others]], members_above, fprs))
    return np.concatenate(draws, axis=1)


def _descending(scores: Floats, chosen: Bools) -> Codes:
    """Indices of the chosen records, highest score first."""
    rows = np.flatnonzero(chosen)
    return rows[np.argsort(-scores[rows], kind="stable")]


def _strata(is_member: Bools, codes: Codes) -> list[Codes]:
    """The documents by which classes they hold, one array for each combination that occurs."""
    size = int(codes.max()) + 1
    kind = (np.bincount(codes[is_member], minlength=size) > 0) + 2 * (
        np.bincount(codes[~is_member], minlength=size) > 0
    )
    return [np.flatnonzero(kind == value) for value in np.unique(kind)]


def _draw(strata: list[Codes], times: int, rng: np.random.Generator) -> Floats:
    """(times, C) how often each document is drawn when every stratum is resampled with replacement."""
    weights = np.zeros((times, sum(len(stratum) for stratum in strata)))
    for stratum in strata:
        k = len(stratum)
        picks = rng.integers(k, size=(times, k)) + k * np.arange(times)[:, None]
        weights[:, stratum] = np.bincount(picks.ravel(), minlength=times * k).reshape(times, k)
    return weights


def _bootstrap_tprs(member_w: Floats, other_w: Floats, members_above: Codes, fprs: tuple[float, ...]) -> Floats:
    """(len(fprs), B) TPRs of B weighted samples; the columns of both weights are in descending order of score."""
    other_sum = np.cumsum(other_w, axis=1)
    member_sum = np.concatenate([np.zeros((len(member_w), 1)), np.cumsum(member_w, axis=1)], axis=1)
    rows = np.arange(len(member_w))
    tprs = []
    for fpr in fprs:
        limit = np.floor(fpr * other_sum[:, -1:] + 1e-9)
        # At the end of the row only where no non-member with a score was drawn: then any threshold will do.
        first_excluded = np.minimum(np.sum(other_sum <= limit, axis=1), other_sum.shape[1] - 1)
        tprs.append(member_sum[rows, members_above[first_excluded]] / np.maximum(member_sum[:, -1], 1.0))
    return np.array(tprs)


def _floor(scores: Floats, is_member: Bools, codes: Codes, fpr: float) -> float:
    """Binomial standard error of the TPR with half a record added to either side."""
    members, others = scores[is_member], scores[~is_member]
    hits = members > np.sort(others)[::-1][allowed_false_positives(len(others), fpr)]
    share, trials = smoothed_share(hits, codes[is_member])
    return math.sqrt(share * (1 - share) / (trials + 1))


def smoothed_share(indicator: Bools, codes: Codes) -> tuple[float, float]:
    """The share of records an indicator holds for, half a record added to either side, and their effective number."""
    trials = len(indicator) / design_effect(indicator, codes)
    return (float(np.mean(indicator)) * trials + 0.5) / (trials + 1), trials
