"""How much of an attack's numbers is the seed of its reference: audits of one target that differ in `mia_seed` alone.

    python benchmarks/reference_seeds.py results/seed0 results/seed1 results/seed2

Another seed draws other self-prompts and trains another reference; target and records stay. The spread over seeds is
the noise of the reference, the standard error that of the records. Prints, for each attack that all audits have:

- AUROC and the TPRs at 5 % and 1 % FPR: mean, standard deviation over the seeds (the 95 % interval of that too, for it
  comes from few), and the mean standard error over records;
- how much two seeds agree on the order of the members: rank correlation of their scores, and the share that the tops
  of their lists of the most exposed members have in common (1 % and 5 % of the members, as much as two random lists).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import chi2, spearmanr

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.arrays import Floats
from spvmia_plugin.metrics.exposure import agreement
from spvmia_plugin.metrics.names import AUROC, TPR_1PCT, TPR_5PCT
from spvmia_plugin.metrics.summary import summarise
from spvmia_plugin.report.facts import exposed
from spvmia_plugin.results import Audit, read_latest
from spvmia_plugin.results.estimate import task_of

METRICS = (AUROC, TPR_5PCT, TPR_1PCT)
NUMBERS = [metric.label for metric in METRICS]
TOPS = (0.01, 0.05)


def numbers(audit: Audit, scores: Floats) -> list[tuple[float, float]]:
    """AUROC and TPRs of one attack, each with its standard error over records; NaN where it is not resolved."""
    kept = np.isfinite(scores)
    found = summarise(scores[kept], audit.labels()[kept], np.array(audit.clusters())[kept])
    tprs = [(found.tprs[metric].value, found.tprs[metric].stderr) for metric in METRICS[1:]]
    return [(found.auroc, found.auroc_stderr), *tprs]


def compare(audits: Sequence[Audit]) -> dict[str, Any]:
    """What the audits of several seeds have in common, by attack; `every attack` is the report's own list.

    Raises:
        SpvmiaError: the audits are not of the same records.
    """
    ids = audits[0].ids()
    if not ids or any(sorted(audit.ids()) != sorted(ids) for audit in audits):
        raise SpvmiaError("results: expected audits of the same records with --log_samples; give seeds of one target")
    shared = [t.attack for t in audits[0].model_attacks if all(task_of(audit, t.attack) for audit in audits)]
    found = {attack: _of_attack(audits, attack) for attack in shared}
    # Of the same attacks: with others besides, two lists differ by more than the seed.
    alike = [Audit([task.apart() for task in audit.tasks if task.attack in shared]) for audit in audits]
    # The report's list has no score of its own: its places stand in for one.
    places = [{record: -place for place, record in enumerate(exposed(audit).ids)} for audit in alike]
    by_list = [[place[record] for record in places[0]] for place in places]
    return {**found, "every attack": {"in_common": in_common(by_list)}}


def _of_attack(audits: Sequence[Audit], attack: str) -> dict[str, Any]:
    tasks = [task_of(audit, attack) for audit in audits]
    scores = [audit.scores(task) for audit, task in zip(audits, tasks, strict=True) if task]
    drawn = np.array([numbers(*pair) for pair in zip(audits, scores, strict=True)])  # (seeds, numbers, 2)
    free = len(audits) - 1
    ends = [math.sqrt(free / chi2.ppf(tail, free)) for tail in (0.975, 0.025)]
    told: dict[str, Any] = {}
    for place, name in enumerate(NUMBERS):
        spread = float(np.std(drawn[:, place, 0], ddof=1))
        told[name] = {
            "values": drawn[:, place, 0].tolist(),
            "sd_over_seeds": spread,
            "sd_interval": [spread * end for end in ends],
            "stderr_over_records": float(np.mean(drawn[:, place, 1])),
        }
    members = [record for record, is_member in zip(audits[0].ids(), audits[0].labels(), strict=True) if is_member]
    of_members = []
    for audit, of_all in zip(audits, scores, strict=True):
        by_id = dict(zip(audit.ids(), of_all.tolist(), strict=True))
        of_members.append(np.nan_to_num([by_id[record] for record in members], nan=-np.inf))
    told["rank_correlation"] = float(np.mean([spearmanr(*pair).statistic for pair in combinations(of_members, 2)]))
    told["in_common"] = in_common(of_members)
    return told


def in_common(scores: Sequence[Sequence[float]]) -> dict[str, float]:
    """What the tops of two lists have in common, on average over all pairs of scores of the same members."""
    pairs = list(combinations(scores, 2))
    return {f"{top:.0%}": float(np.mean([agreement(*pair, top) for pair in pairs])) for top in TOPS}


def main() -> None:
    """Print the tables, or all of it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="output folders of lm_eval, one a seed; two or more")
    parser.add_argument("--json", action="store_true", help="print everything unrounded as JSON")
    options = parser.parse_args()
    if len(options.results) < 2:
        parser.error("expected the results of two seeds or more")
    audits = [read_latest(folder).audits[0] for folder in options.results]
    found = compare(audits)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    labels = audits[0].labels()
    print(f"{len(audits)} seeds, {labels.sum()} members, {(~labels).sum()} non-members")
    for attack, told in found.items():
        for name in NUMBERS if "rank_correlation" in told else ():
            number = told[name]
            values = ", ".join(f"{value:.3f}" for value in number["values"])
            sd, (low, high) = number["sd_over_seeds"], number["sd_interval"]
            print(
                f"{attack:14} {name:16} {values}; over seeds {sd:.4f} ({low:.4f} to {high:.4f}), over records "
                f"{number['stderr_over_records']:.4f}"
            )
        common = ", ".join(f"{value:.2f} of the top {top}" for top, value in told["in_common"].items())
        print(f"{attack:14} in common {common}; rank correlation {told.get('rank_correlation', math.nan):.3f}")


if __name__ == "__main__":
    main()
