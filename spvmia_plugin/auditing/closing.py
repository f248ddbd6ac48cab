"""What a run ends with on the terminal: every attack in one table, the strongest first."""

from __future__ import annotations

import math

from spvmia_plugin.metrics.names import AUROC, METRICS_WITH_INTERVAL
from spvmia_plugin.metrics.several import Compared, Leader
from spvmia_plugin.util.console import columns, shown

_FOR_A_PAGE = "  one page of it: spvmia report RESULTS, the folder of --output_path (with --log_samples)"


def closing(compared: Compared) -> str:
    """A line for each attack; the intervals hold for all of them at once.

    Args:
        compared: with the attacks' own names.
    """
    low_end = METRICS_WITH_INTERVAL[compared.low_end]
    aurocs, tprs = (compared.leaders[metric.key] for metric in (AUROC, low_end))
    names = [leader.attack for leader in aurocs.values()]  # one may be run twice, with other settings
    rows = [("attack", AUROC.label, low_end.label, "a guess is")]
    for task, auroc in sorted(aurocs.items(), key=lambda item: -item[1].value):
        name = str(auroc.attack) if names.count(auroc.attack) == 1 else task
        ruled_out = auroc.excludes(AUROC.guess) or tprs[task].excludes(low_end.guess)
        rows.append((shown(name), _number(auroc), _number(tprs[task]), "ruled out" if ruled_out else "not ruled out"))
    return "\n".join((*columns(rows, "<<<<"), _FOR_A_PAGE))


def _number(leader: Leader) -> str:
    if math.isnan(leader.value):
        return "-"
    interval = "" if math.isnan(leader.low) else f" ({leader.low:.3f} to {leader.high:.3f})"
    return f"{leader.value:.3f}{interval}"
