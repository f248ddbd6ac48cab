"""Whether a model may be ranked by its number, and what else limits that number."""

from __future__ import annotations

import math

from spvmia_plugin.checks import Finding
from spvmia_plugin.leaderboard.order import Bounds, surely_less
from spvmia_plugin.metrics.leaders import Leader, below_a_guess
from spvmia_plugin.metrics.names import AUROC, METRICS
from spvmia_plugin.results.estimate import Estimate, of_attack, of_strongest, of_turned_round, task_of
from spvmia_plugin.results.model import MOSTLY_UNSCORED, Audit, failed, mostly_unscored, touches


def bounds(number: Estimate) -> Bounds:
    """A number with its interval, as all pairs of a board are looked at."""
    return Bounds(number.value, number.low, number.high, number.confidence)


_SWAPPED = "members score lower than non-members: that points at how the classes were chosen, or at swapped labels"


def reasons_not_ranked(audit: Audit, number: Estimate, metric: str, among: int = 1) -> list[str]:
    """Why the audit is not ranked by this number; empty if it is.

    Every finding of severity "warning" disqualifies, those of later versions and of plugins too, but for findings
    that touch another metric or another attack than the one that counts.

    Args:
        audit: the audit.
        number: what it would be ranked by.
        metric: of the number.
        among: models of the table: with 20 that give nothing away, two tables in five hold an interval below chance.
    """
    warnings = [*failed(audit), *_unscored(audit, number)]
    found = list(dict.fromkeys(each.message for each in warnings if _disqualifies(each, audit, number, metric)))
    if math.isnan(number.value):
        found.append(f"{METRICS[metric].label}: {number.reason}")
    elif math.isnan(number.low):
        found.append(f"{METRICS[metric].label} has no interval")
    # A TPR has no distance by which an attack that is turned round could count.
    own = _turned_by(audit, number) if metric != AUROC.key else None
    if own is not None and surely_less(bounds(own), AUROC.guess, among):
        return [*found, below_a_guess(Leader(own.attack, own.value, own.low, own.high))]
    # Swapped labels turn every attack round: beside one that tells members the right way, one that is turned round is
    # no sign of them, and counts by its distance. An attack that was named stands for itself.
    tells = audit.strongest is not None and audit.strongest.tells_members
    turned = None if tells else of_turned_round(audit)
    below = metric == AUROC.key and surely_less(bounds(number), AUROC.guess, among)
    if below and not (tells and number.chosen_among > 1):
        found.append(_SWAPPED)
    elif turned is not None and not below and surely_less(bounds(turned), AUROC.guess, among):
        found.append(f"under {turned.attack} {_SWAPPED}")
    return found


def _unscored(audit: Audit, number: Estimate) -> list[Finding]:
    """That the attack a number is of left many records out: of one that was named, too, by which no audit speaks."""
    found = mostly_unscored(audit).get(str(number.attack))
    return [] if found is None else [found]


def _disqualifies(finding: Finding, audit: Audit, number: Estimate, metric: str) -> bool:
    """Whether a failed precondition says something about what a model is ranked by.

    Of an attack that shows nothing, and counts by how far it may lie below .5, few scored records make that further:
    no reason against the model. What touches the strongest attack, in whose place it stands, remains one.
    """
    if metric != AUROC.key or number.chosen_among == 1 or not number.value < AUROC.guess <= number.high:
        return touches(finding, number.attack, metric)
    of_strongest_one = touches(finding, of_strongest(audit, metric).attack, metric)
    return of_strongest_one or (finding.code != MOSTLY_UNSCORED and touches(finding, number.attack, metric))


def _turned_by(audit: Audit, number: Estimate) -> Estimate | None:
    """The lowest AUROC of the attacks that a number speaks for: its own, or of all among which it was chosen."""
    if number.chosen_among > 1:
        return of_turned_round(audit)
    return of_attack(task_of(audit, str(number.attack)), AUROC.key)


def remarks(audit: Audit, number: Estimate, metric: str) -> list[str]:
    """What limits the row's numbers without keeping it from being ranked."""
    others = [finding for finding in audit.mia_audit.preconditions if finding.severity != "warning"]
    warnings = [*failed(audit), *_unscored(audit, number)]
    elsewhere = [finding for finding in warnings if not _disqualifies(finding, audit, number, metric)]
    return list(dict.fromkeys(finding.message for finding in (*elsewhere, *others)))
