"""What may be so although the audit did not show it: what a folder of evidence says of the risk that is left."""

from __future__ import annotations

import math
from collections.abc import Iterator

from spvmia_plugin.checks import Finding
from spvmia_plugin.metrics.leaders import Extremes, Leader, below_a_guess
from spvmia_plugin.metrics.names import AUROC, METRICS_WITH_INTERVAL, TPRS
from spvmia_plugin.report.verdict import CANNOT_SHOW
from spvmia_plugin.results import Audit
from spvmia_plugin.results.model import failed
from spvmia_plugin.util.console import shown
from spvmia_plugin.web.text import printed


def residual_risk(audit: Audit) -> Iterator[str]:
    """What may be so although the audit did not show it, each with its number."""
    found = audit.strongest
    if found is None or math.isnan(found.auroc.high):
        yield "The records do not tell how well members can be told from others: nothing is excluded."
    else:
        one = found.n_attacks == 1
        who = (
            "the attack that was tried has no"
            if one
            else f"none of the {found.n_attacks} attacks that were tried has an"
        )
        reach = _reach(audit, AUROC.key)
        upper = max(reach.high, 1 - reach.lowest)
        # Who knows that an attack points the wrong way says the opposite of it.
        turned = ", its answers turned round where that tells more," if upper > reach.high else ""
        yield (
            f"With {100 * found.confidence:g} % confidence {who} AUROC above {upper:.3f}{turned} on records like these."
        )
        if reach.reason is not None and not one:
            yield f"That leaves out at least one attack, which has no upper limit: {shown(reach.reason)}."
        low, high = METRICS_WITH_INTERVAL[found.low_end], _reach(audit, found.low_end).high
        if not math.isnan(high):
            yield (
                f"Up to {printed(high, 'per_hundred')} in 100 training records may be picked out by "
                f"{'it' if one else 'one of them'} while {100 * low.fpr:g} in 100 others are wrongly accused."
            )
            if found.turned_round.attack is not None:
                yield f"That is no upper limit: {shown(below_a_guess(found.turned_round))}."
    unresolved: dict[str, list[str]] = {}
    for metric in TPRS:
        reasons = {task.mia_audit.metrics.tprs[metric].reason for task in audit.model_attacks}
        if reasons and None not in reasons:
            unresolved.setdefault(sorted(map(str, reasons))[0], []).append(metric.label)
    for reason, labels in unresolved.items():
        yield f"{', '.join(labels)} {'is' if len(labels) == 1 else 'are'} not resolved: {shown(reason)}."
    for finding in failed(audit):
        yield did_not_hold(finding)
    yield CANNOT_SHOW


def did_not_hold(finding: Finding) -> str:
    """That a condition of the audit did not hold, as it stands among the risks."""
    return f"A condition did not hold: {finding.message}."


def _reach(audit: Audit, key: str) -> Extremes:
    """How far all attacks' simultaneous intervals of a metric reach; of an audit without samples, the strongest's."""
    if audit.compared is not None:
        return audit.compared.extremes(key)
    found = audit.strongest
    leader = Leader() if found is None else found.by_metric[key]
    lows = [leader.low, *([found.turned_round.low] if found is not None and key == AUROC.key else [])]
    lowest = min((low for low in lows if not math.isnan(low)), default=math.nan)
    return Extremes(key, leader.attack, leader.value, leader.low, leader.high, lowest, reason=leader.reason)
