"""What may be so although the audit did not show it: what a folder of evidence says of the risk that is left."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from spvmia_plugin.checks import Finding
from spvmia_plugin.evidence.gaps import Gap, grouped
from spvmia_plugin.metrics.leaders import Extremes, Strongest, below_a_guess
from spvmia_plugin.metrics.names import AUROC, METRICS_WITH_INTERVAL, TPRS
from spvmia_plugin.report.verdict import CANNOT_SHOW
from spvmia_plugin.results import Audit, TaskResult
from spvmia_plugin.results.estimate import of_attack
from spvmia_plugin.results.model import mostly_unscored
from spvmia_plugin.util.console import shown
from spvmia_plugin.web.text import listed, printed

_UNKNOWN = "how far they reach at once is not known without the scores of the records: run lm_eval with --log_samples"


def residual_risk(audit: Audit) -> Iterator[str]:
    """What may be so although the audit did not show it, each with its number."""
    found = audit.strongest
    if found is None or math.isnan(found.auroc.high):
        yield "The records do not tell how well members can be told from others: nothing is excluded."
        yield from _unresolved(audit, [metric.key for metric in TPRS])
    else:
        yield from _of_all_records(audit, found)
        yield from _of_the_most_exposed(audit, found)
        # Whom the sentence on the most exposed leaves out is told beside it.
        told = found.low_end if audit.compared is not None and not math.isnan(found.most_exposed.high) else None
        yield from _unresolved(audit, [metric.key for metric in TPRS if metric.key != told])
    for finding in conditions(audit):
        if finding.severity == "warning":
            yield did_not_hold(finding)
    yield CANNOT_SHOW


def conditions(audit: Audit) -> list[Finding]:
    """What limits the numbers: what the run found, and of each attack that it left too many records out.

    Of every such attack, not of the strongest alone: the residual risk is of all that were tried.
    """
    return [*audit.mia_audit.preconditions, *mostly_unscored(audit).values()]


def did_not_hold(finding: Finding) -> str:
    """That a condition of the audit did not hold, as it stands among the risks."""
    return f"A condition did not hold: {finding.message}."


def _of_all_records(audit: Audit, found: Strongest) -> Iterator[str]:
    """Above which AUROC no attack lies. Without the scores of the records only the strongest's own end is known."""
    reach, sure = _reach(audit, found, AUROC.key), f"With {100 * found.confidence:g} % confidence"
    upper = max(reach.high, 1 - reach.lowest)
    # Who knows that an attack points the wrong way says the opposite of it.
    turned = ", its answers turned round where that tells more," if upper > reach.high else ""
    above = f"AUROC above {upper:.3f}{turned} on records like these"
    if found.n_attacks == 1:
        yield f"{sure} the attack that was tried has no {above}."
    elif audit.compared is not None:
        yield f"{sure} none of the {found.n_attacks} attacks that were tried has an {above}."
    else:
        below, strongest = found.turned_round, f"{_named(reach)}, the strongest of {found.n_attacks} attacks, has no"
        other = f", and {shown(str(below.attack))}, turned round, none above {1 - below.low:.3f}"
        yield f"{sure} {strongest} {above}{'' if below.attack in (None, reach.attack) else other}."
        yield f"The others may have one: {_UNKNOWN}."
    yield from _left_out(audit, AUROC.key)


def _of_the_most_exposed(audit: Audit, found: Strongest) -> Iterator[str]:
    """How many may be picked out; nothing where no attack has that number, which is told as not resolved."""
    low, reach = METRICS_WITH_INTERVAL[found.low_end], _reach(audit, found, found.low_end)
    if math.isnan(reach.high):
        return
    alone, known = found.n_attacks == 1, audit.compared is not None
    who = "it" if alone else "one of them" if known else _named(reach)
    yield (
        f"Up to {printed(reach.high, 'per_hundred')} in 100 training records may be picked out by {who} while "
        f"{100 * low.fpr:g} in 100 others are wrongly accused."
    )
    if not alone and not known:
        yield f"The other attacks may pick out more: {_UNKNOWN}."
    yield from _left_out(audit, found.low_end)
    if found.turned_round.attack is not None:
        yield f"That is no upper limit: {shown(below_a_guess(found.turned_round))}."


def _named(reach: Extremes) -> str:
    return shown(str(reach.attack))


def _reach(audit: Audit, found: Strongest, key: str) -> Extremes:
    """How far all attacks' simultaneous intervals of a metric reach; of an audit without samples, the strongest's."""
    if audit.compared is not None:
        return audit.compared.extremes(key)
    leader = found.by_metric[key]
    return Extremes(key, leader.attack, leader.value, leader.low, leader.high, leader.low)


def _left_out(audit: Audit, key: str) -> Iterator[str]:
    """The attacks that have scores and no upper limit in a metric, of which a sentence on all others says nothing."""
    if audit.compared is None:
        return
    leaders = audit.compared.leaders[key]
    gaps = []
    for task in _scored(audit):
        leader = leaders.get(task.attack)
        if leader is None:  # without scores of both classes it is compared with nothing
            gaps.append(Gap(key, task.attack, of_attack(task, key).reason))
        elif math.isnan(leader.high):
            gaps.append(Gap(key, task.attack, leader.reason))
    for _, attacks, reason in grouped(gaps):
        verb = "has" if len(attacks) == 1 else "have"
        yield f"That leaves out {shown(listed(attacks))}, which {verb} no upper limit: {shown(reason)}."


def _unresolved(audit: Audit, keys: Sequence[str]) -> Iterator[str]:
    """The TPRs that some attack with scores has not, each reason once."""
    tasks = _scored(audit)
    reasons = ((key, task, of_attack(task, key).reason) for key in keys for task in tasks)
    gaps = [Gap(METRICS_WITH_INTERVAL[key].label, task.attack, reason) for key, task, reason in reasons if reason]
    for labels, attacks, reason in grouped(gaps):
        whose = "" if len(attacks) == len(tasks) else f" of {shown(listed(attacks))}"
        yield f"{', '.join(labels)}{whose} {'is' if len(labels) == 1 else 'are'} not resolved: {shown(reason)}."


def _scored(audit: Audit) -> list[TaskResult]:
    """The attacks on the model that were made: one without any score was not."""
    return [task for task in audit.model_attacks if task.mia_audit.n.scored]
