"""Attacks that compare the target with a reference, token by token or as a whole; which one is a class attribute."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.attacks.base import Attack, as_score, is_count, mean_logprob, nll, target_and, token_differences
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.signals import MissingSignal, Need, RecordSignals, Role, Unscored


@dataclass(frozen=True)
class Calibrated(Attack):
    """An attack on a record under the target and under one other model.

    Attributes:
        reference: the model that the target is compared with.
    """

    reference: ClassVar[Role] = Role.BASE

    @property
    def needs(self) -> frozenset[Need]:
        """The record under target and reference."""
        return frozenset({Need(Role.TARGET), Need(self.reference)})


@dataclass(frozen=True)
class LiraBase(Calibrated):
    """score = L_theta - L_base: the log-likelihood ratio of the target and the model before fine-tuning.

    The baseline LiRA-Base of Fu et al. 2024, arXiv 2311.06062; the test is that of Mireshghallah et al. 2022,
    arXiv 2203.03929, and, without its shadow models, of Carlini et al. 2022, arXiv 2112.03570.

    Which one this is: the difference of mean log-probabilities (`ratio` divides them). One reference and no
    variance of shadow models: not the full LiRA, whatever its name says. MIMIR's `reference_based` and the
    `ref` of mink-plus-plus are the same difference, but there the reference is another, smaller model.
    """

    name = "lira_base"
    title = "LiRA, base reference"
    about = "how much more probable the text is under the model than under its base"

    def score_record(self, signals: RecordSignals) -> float:
        """The difference of the means."""
        target, other = target_and(self.reference, signals)
        return mean_logprob(target) - mean_logprob(other)


@dataclass(frozen=True)
class LiraCandidate(LiraBase):
    """score = L_theta - L_candidate, the candidate being the base fine-tuned on held-out documents.

    The baseline LiRA-Candidate of Fu et al. 2024, arXiv 2311.06062: what an attacker does who has other data of the
    same domain. These are the held-out documents that the prompts are taken from, or what `mia_candidate` names.

    Which one this is: `lira_base` with another reference, trained by the settings of the self-prompt
    reference; the paper's code trains it by a separate script with settings of its own.
    """

    name = "lira_candidate"
    title = "LiRA, candidate reference"
    about = "how much more probable the text is than under a model fine-tuned on held-out documents"
    reference = Role.CANDIDATE


@dataclass(frozen=True)
class Ratio(Calibrated):
    """score = NLL_base / NLL_theta: how much the fine-tuning lowered the loss, relatively.

    Carlini et al. 2021, arXiv 2012.07805, section 5, who compare with a smaller model of the same family.

    Which one this is: the ratio of log-perplexities (lira_base is their difference), with the model before
    fine-tuning as reference. Code that divides perplexities themselves gives the order of lira_base. -NLL_theta /
    NLL_base, also seen, is the same order.
    """

    name = "ratio"
    title = "Loss ratio, base reference"
    about = "the loss under the base, divided by the loss under the model"

    def score_record(self, signals: RecordSignals) -> float:
        """The ratio of both NLLs."""
        target, base = target_and(self.reference, signals)
        return nll(base) / nll(target)


@dataclass(frozen=True)
class Ez(Calibrated):
    """score = P / (P + M) over the tokens where theta's top-1 is wrong; P = sum max(d, 0), M = sum max(-d, 0).

    EZ-MIA, Ilic et al. 2026, arXiv 2601.12104, code JetBrains-Research/ez-mia; d_t = l_t(theta) - l_t(base).

    Which one this is: the paper's statistic is P / M, which has the same order and no finite value at M = 0. A text
    without a wrong token (theta predicts all of it) scores 1, as does one with M = 0 < P; with P = M = 0 it scores
    0.5. The authors' code drops the first token that has a log-probability, and gives its lowest score, 0, where no
    wrong token moved down (M = 0) and for fewer than two wrong tokens: that is, to the texts memorised best.
    """

    name = "ez"
    title = "Error zone, base reference"
    about = "at tokens that the model itself would not choose: how much of the change is a rise, against the base"

    def score_record(self, signals: RecordSignals) -> float:
        """The share of upward shifts among all shifts at wrong tokens."""
        difference = token_differences(self.reference, signals)[~signals.of(Role.TARGET).top1]
        if len(difference) == 0:
            return 1.0
        up, down = float(difference.clip(min=0).sum()), float((-difference).clip(min=0).sum())
        return up / (up + down) if up + down else 0.5


@dataclass(frozen=True)
class SpvEz(Ez):
    """score = P / (P + M) as in `ez`, with the self-prompt reference phi in place of the base model.

    No paper: `ez` (Ilic et al. 2026, arXiv 2601.12104) under the calibration of Fu et al. 2024, arXiv 2311.06062.

    Which one this is: the `distillation` option of ez-mia comes close (a reference tuned on generations of the
    target); there the prompts are longer and the sampling is truncated (temperature 0.9, top_p 0.9).
    """

    name = "spv_ez"
    title = "Error zone, SPV reference"
    about = (
        "at tokens that the model itself would not choose: how much of the change is a rise, against a model "
        "fine-tuned on what this one writes when prompted"
    )
    reference = Role.REFERENCE


@dataclass(frozen=True)
class CandidateEz(Ez):
    """score = P / (P + M) as in `ez`, with the candidate reference in place of the base model.

    No paper: `ez` (Ilic et al. 2026, arXiv 2601.12104) under the reference of `lira_candidate`.

    Which one this is: `ez` in all but the reference.
    """

    name = "candidate_ez"
    title = "Error zone, candidate reference"
    about = (
        "at tokens that the model itself would not choose: how much of the change is a rise, against a model "
        "fine-tuned on held-out documents"
    )
    reference = Role.CANDIDATE


WINDOWS = (2, 3, 4, 6, 9, 13, 18, 25, 32, 40)


@dataclass(frozen=True)
class Wbc(Calibrated):
    """score = mean over the windows w of the share of positions with sum of d over w tokens > 0.

    WBC, Chen et al. 2026, arXiv 2601.02751; d_t = l_t(theta) - l_t(base), windows of w tokens at every position.

    Which one this is: the ten window sizes of the authors' code. A window longer than the text is clamped to it, as in
    their code, so that every size counts once for every record, with one position then: short texts keep a score on
    the same scale. A sum of exactly 0 counts as a vote against membership. All scored tokens count.

    Attributes:
        windows: window sizes in tokens.
    """

    name = "wbc"
    title = "Windows, base reference"
    about = "in what share of short windows of tokens the text is more probable than under the base"
    options = {"windows": "mia_wbc_windows"}  # noqa: RUF012 - ClassVar in the base

    windows: tuple[int, ...] = WINDOWS

    def __post_init__(self) -> None:
        if not isinstance(self.windows, (list, tuple)) or not self.windows or not all(map(is_count, self.windows)):
            raise SpvmiaError(
                f"mia_wbc_windows: expected a list of whole numbers >= 1, got {self.windows!r}; "
                f"the default is {list(WINDOWS)}"
            )
        object.__setattr__(self, "windows", tuple(self.windows))  # JSON and YAML give lists

    def score_record(self, signals: RecordSignals) -> float:
        """The mean share of windows in which the target beats the reference."""
        return float(self._shares(self.differences(signals)[np.newaxis])[0])

    def score_many(self, records: Sequence[RecordSignals]) -> list[float | Unscored]:
        """Score records; those of equal length at once, each as by itself."""
        if type(self).score_record is not Wbc.score_record:
            return super().score_many(records)
        found: list[float | Unscored] = []
        of_length: dict[int, list[tuple[int, NDArray[np.float64]]]] = defaultdict(list)
        with np.errstate(all="ignore"):  # as in `score`
            for i, signals in enumerate(records):
                try:
                    difference = self.differences(signals)
                    of_length[len(difference)].append((i, difference))
                    found.append(Unscored(""))
                except MissingSignal as missing:
                    found.append(Unscored(missing.reason))
            for alike in of_length.values():
                shares = self._shares(np.stack([difference for _, difference in alike]))
                for (i, _), share in zip(alike, shares.tolist(), strict=True):
                    found[i] = as_score(share, self.name, "score_record")
        return found

    def _shares(self, differences: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean share of windows whose sum exceeds 0, shape (m,), of d_t of m records (m, T)."""
        length = differences.shape[1]
        times = Counter(min(window, length) for window in self.windows)
        shares = np.zeros(len(differences))
        # Each window is summed by itself, token by token: differences of running sums would leave rounding where a sum
        # is exactly 0.
        sums = differences
        for size in range(1, max(times) + 1):
            if size > 1:
                sums = sums[:, :-1] + differences[:, size - 1 :]
            if size in times:
                shares += times[size] * (np.count_nonzero(sums > 0, axis=1) / sums.shape[1])
        return shares / len(self.windows)

    def differences(self, signals: RecordSignals) -> NDArray[np.float64]:
        """d_t, shape (T,): what windows are summed over."""
        return token_differences(self.reference, signals)


@dataclass(frozen=True)
class SpvWbc(Wbc):
    """score = the share of windows as in `wbc`, with the self-prompt reference phi in place of the base model.

    No paper: `wbc` (Chen et al. 2026, arXiv 2601.02751) under the calibration of Fu et al. 2024, arXiv 2311.06062.

    Which one this is: `wbc` in all but the reference, with the same option for the windows.
    """

    name = "spv_wbc"
    title = "Windows, SPV reference"
    about = (
        "in what share of short windows of tokens the text is more probable than under a model fine-tuned on "
        "what this one writes when prompted"
    )
    reference = Role.REFERENCE


@dataclass(frozen=True)
class CandidateWbc(Wbc):
    """score = the share of windows as in `wbc`, with the candidate reference in place of the base model.

    No paper: `wbc` (Chen et al. 2026, arXiv 2601.02751) under the reference of `lira_candidate`.

    Which one this is: `wbc` in all but the reference, with the same option for the windows.
    """

    name = "candidate_wbc"
    title = "Windows, candidate reference"
    about = (
        "in what share of short windows of tokens the text is more probable than under a model fine-tuned on "
        "held-out documents"
    )
    reference = Role.CANDIDATE


@dataclass(frozen=True)
class BothWbc(Wbc):
    """score = the share of windows as in `wbc`, d_t = l_t(theta) - [l_t(phi) + l_t(candidate)] / 2.

    No paper: `wbc` (Chen et al. 2026, arXiv 2601.02751) over the difference to the mean of both references, the
    self-prompted phi (Fu et al. 2024, arXiv 2311.06062) and the one trained on held-out documents. What the two learnt
    of the domain is the same, and what one of them learnt by chance counts half.

    Which one this is: the mean of log-probabilities, not of probabilities.
    """

    name = "both_wbc"
    title = "Windows, both references"
    about = "in what share of short windows of tokens the text is more probable than under two references on average"
    reference = Role.REFERENCE

    @property
    def needs(self) -> frozenset[Need]:
        """The record under the target and both references."""
        return super().needs | {Need(Role.CANDIDATE)}

    def differences(self, signals: RecordSignals) -> NDArray[np.float64]:
        """d_t to the mean of both references, shape (T,)."""
        return (token_differences(Role.REFERENCE, signals) + token_differences(Role.CANDIDATE, signals)) / 2
