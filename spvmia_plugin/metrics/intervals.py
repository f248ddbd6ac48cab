"""Standard errors and intervals of AUROC and of shares, with the document as the unit of resampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from spvmia_plugin.metrics.arrays import NAN_INTERVAL, Bools, Codes, Floats, Interval, effective_number
from spvmia_plugin.metrics.roc import placements, share_of_pairs


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
        classes: of each class the effective number of documents, and how much of an error of its mean is one of the
            number (all of it for the AUROC).
        reason: why stderr is NaN, or None.
    """

    auroc: float
    stderr: float
    df: float
    n_effective: float
    influence: Floats
    classes: Sequence[tuple[float, float]]
    reason: str | None = None

    def interval(self, confidence: float) -> Interval:
        """The two-sided interval at `confidence`, by Student's t on the logit scale."""
        return self.interval_at(float(scipy.special.stdtrit(self.df, 0.5 + confidence / 2)))

    def interval_at(self, critical: float) -> Interval:
        """The interval of `critical` standard errors on the logit scale; the estimate always lies inside.

        The logit is not finite at 0 and 1, so what reaches away from the nearer of them starts no closer to it than
        1/(4 n_effective). What reaches towards it starts at the estimate: next to 1 the truth may still lie above.

        The standard error is that of what the sample shows. Of a class of which n documents are there, up to
        1 - tail**(1/n) of all may lie at the far end without one of them among these (Clopper and Pearson's limit after
        none; 3.7 in n at 95 %): training rows that were never read, below all others, or a few that stand out in a
        class of 20. Each end lies at least so far from the estimate.
        """
        if self.reason:
            return NAN_INTERVAL
        margin = 1 / (4 * self.n_effective)
        centre = min(max(self.auroc, margin), 1 - margin)
        low, high = self._end(min(self.auroc, centre), -critical), self._end(max(self.auroc, centre), critical)
        tail = float(scipy.special.stdtr(self.df, -critical))
        unseen = max(share * (1 - tail ** (1 / documents)) for documents, share in self.classes)
        return min(low, self.auroc * (1 - unseen)), max(high, self.auroc + (1 - self.auroc) * unseen)

    def _end(self, start: float, errors: float) -> float:
        """From `start`, as many standard errors on the logit scale."""
        slope = start * (1 - start)
        return float(scipy.special.expit(scipy.special.logit(start) + errors * self.stderr / slope)) if slope else start


def estimate_auroc(scores: Floats, is_member: Bools, codes: Codes) -> AurocEstimate:
    """AUROC and its standard error by DeLong's structural components, summed within documents.

    DeLong, DeLong and Clarke-Pearson (1988) in the O(n log n) form of Sun and Xu (2014); for several records per
    document Obuchowski (1997), where a document may hold one class or both. Where the components do not vary (perfect
    separation, a constant score) the error is not 0: it has the floor of `estimate_means`.

    Args:
        scores: (n,) finite.
        is_member: (n,) bool, with both classes present.
        codes: (n,) document of each record, 0..C-1.
    """
    members, others = scores[is_member], scores[~is_member]
    of_members = placements(members, others)
    of_others = 1 - placements(others, members)
    auroc = share_of_pairs(members, others)
    return estimate_means(auroc, of_members - auroc, of_others - auroc, is_member, codes)


def estimate_means(
    value: float,
    of_members: Floats,
    of_others: Floats,
    is_member: Bools,
    codes: Codes,
    grain: float = 1.0,
    felt: tuple[float, float] = (1.0, 1.0),
) -> AurocEstimate:
    """A number whose error is that of a mean over members and of one over non-members, as the AUROC's is.

    The error is at least sqrt(1/32) / n_effective, which perfect separation and a constant score have.

    Args:
        value: the number, between 0 and 1.
        of_members: (m,) the deviation of each member.
        of_others: (n,) the deviation of each non-member.
        is_member: (m + n,) bool, with both classes present.
        codes: (m + n,) document of each record, 0..C-1.
        grain: how many times further from 0 and 1 than an AUROC the number may be where the sample does not show it.
        felt: how much of an error of each class's mean is one of the number.
    """
    sizes_m, sizes_n = (np.bincount(codes[side], minlength=int(codes.max()) + 1) for side in (is_member, ~is_member))
    documents = effective_number(sizes_m), effective_number(sizes_n)
    n_effective = 2 / (1 / documents[0] + 1 / documents[1]) / grain
    classes = tuple(zip(documents, felt, strict=True))
    if min(np.count_nonzero(sizes_m), np.count_nonzero(sizes_n)) < 2:
        reason = "fewer than two documents in a class: no standard error"
        return AurocEstimate(value, math.nan, math.nan, n_effective, np.full(len(sizes_m), np.nan), classes, reason)
    sums_m, df_m = _document_sums(of_members, codes[is_member], sizes_m)
    sums_n, df_n = _document_sums(of_others, codes[~is_member], sizes_n)
    influence = sums_m + sums_n
    variance = float(np.sum(influence**2))
    floor = 1 / (32 * n_effective**2)
    df = _satterthwaite(float(np.sum(sums_m**2)), df_m, float(np.sum(sums_n**2)), df_n)
    return AurocEstimate(value, math.sqrt(max(variance, floor)), df, n_effective, influence, classes)


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


def design_effect(indicator: Bools, codes: Codes, *, unseen: bool = False) -> float:
    """How many times the variance of a share exceeds that of as many independent records; at least 1.

    The variance is that of any mean over records in documents (`_document_sums`). Where the indicator does not vary
    there is nothing to estimate from: as if the records of a document were copies, that is by the effective number of
    documents.

    Args:
        indicator: (n,) bool.
        codes: (n,) document of each record.
        unseen: as if one more document were there that has it in all records: what a limit above has to allow for. In
            few documents none may be of the kind that has it as a whole (one that was memorised), and what a guess
            finds here and there in the others does not tell. At most as if records of a document were copies.
    """
    _, positions, sizes = np.unique(codes, return_inverse=True, return_counts=True)
    if len(sizes) == len(indicator):  # a record a document, as in most audits: these are independent
        return 1.0
    copies = len(indicator) / effective_number(sizes)
    if unseen:
        more = round(copies)
        indicator = np.append(indicator, np.ones(more, dtype=np.bool_))
        positions, sizes = np.append(positions, np.full(more, len(sizes))), np.append(sizes, more)
    n = len(indicator)
    deviations = indicator - np.mean(indicator)
    total = float(np.sum(deviations**2))
    if total == 0 or len(sizes) < 2:
        return copies
    sums, _ = _document_sums(deviations, positions, sizes)
    found = max(1.0, float(np.sum(sums**2)) * n * (n - 1) / total)
    return min(found, copies) if unseen else found


def clopper_pearson(successes: float, trials: float, confidence: float) -> Interval:
    """Clopper and Pearson's interval of a share; `trials` may be an effective size (Korn and Graubard 1998)."""
    tail = (1 - confidence) / 2
    failures = trials - successes
    lower = float(scipy.special.betaincinv(successes, failures + 1, tail)) if successes > 0 else 0.0
    upper = float(scipy.special.betaincinv(successes + 1, failures, 1 - tail)) if failures > 0 else 1.0
    return lower, upper
