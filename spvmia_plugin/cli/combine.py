"""`spvmia combine`."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spvmia_plugin.cli.machine import Json, Quiet, line_printer, print_json

if TYPE_CHECKING:
    from spvmia_plugin.combination import Combined
    from spvmia_plugin.metrics.gain import Gain
    from spvmia_plugin.metrics.summary import Summary


class Normalise(str, Enum):
    """How the scores of two models are brought on one scale."""

    z = "z"
    rank = "rank"


def combine(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="Output folder of lm_eval (the newest audit in it), or a file.")
    ],
    shadow: Annotated[
        list[Path],
        typer.Option("--shadow", metavar="RESULTS", help="The same of a shadow model's audit; repeatable."),
    ],
    attacks: Annotated[
        str | None,
        typer.Option(
            "--attacks", metavar="NAMES", help="Comma-separated; default: all that the audits have in common."
        ),
    ] = None,
    normalise: Annotated[
        Normalise, typer.Option("--normalise", help="Scale of the scores: by median and quartiles, or by ranks.")
    ] = Normalise.z,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the bootstraps.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Combine the attacks of an audit, with weights fitted on a shadow model whose members are known.

    A shadow is the same base model, fine-tuned by the same recipe on other records of the same kind, and audited with
    the same tasks. Nothing is run: the scores are those that `--log_samples` wrote.

    ```
    spvmia combine results --shadow results-shadow
    spvmia combine results --shadow shadow/1 --shadow shadow/2 --attacks spv_ez,spv_wbc,loss,lira_base,wbc
    ```
    """
    from spvmia_plugin.combination import combine as combine_audits

    chosen = [name.strip() for name in attacks.split(",")] if attacks is not None else None
    found = combine_audits(results, shadow, chosen, normalise.value, seed)
    _tell(found, line_printer(quiet=quiet, as_json=as_json))
    if as_json:
        about = {
            "shadow_records": found.n_shadow_records,
            "shadow_unscored": dict(found.shadow_unscored),
            "left_out": found.left_out,
            "warnings": found.warnings,
        }
        print_json({**found.comparison.to_json(), **about})


def _tell(found: Combined, say: Callable[[str], None]) -> None:
    comparison = found.comparison
    numbers = comparison.combined
    say(
        f"{numbers.n_members} members and {numbers.n_nonmembers} non-members of {numbers.n_clusters} documents; "
        f"weights fitted on {found.n_shadow_records} records of the shadow"
    )
    weights = dict(zip(comparison.combination.attacks, comparison.combination.weights, strict=True))
    say(_line("", "AUROC", "TPR at 1 % FPR", "weight"))
    say(_row("combination", numbers, ""))
    for name, single in sorted(comparison.singles.items(), key=lambda item: -item[1].auroc):
        say(_row(name, single, f"{weights[name]:+#.2g}"))
    for metric, title in (("auroc", "AUROC"), ("tpr_at_1pct_fpr", "TPR at 1 % FPR")):
        say(f"{title}: {_gain(comparison.gain[metric], comparison.best[metric])}")
    for place, counts in (("", comparison.unscored), (" of the shadow", found.shadow_unscored)):
        told = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
        if told:
            say(f"records{place} without a score, counted as that attack's median: {told}")
    if found.left_out:
        say(f"left out, without scores of the shadow: {', '.join(found.left_out)}")
    for warning in found.warnings:
        say(f"warning: {warning}")


def _row(name: str, numbers: Summary, weight: str) -> str:
    tpr = numbers.tpr_at_1pct_fpr
    of_tpr = "not resolved" if tpr.reason else _interval(tpr.value, tpr.interval)
    return _line(name, _interval(numbers.auroc, numbers.auroc_interval), of_tpr, weight)


def _line(name: str, auroc: str, tpr: str, weight: str) -> str:
    return f"  {name:<14}  {auroc:<20}  {tpr:<20}  {weight:>8}".rstrip()


def _interval(value: float, interval: tuple[float, float]) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(value, *interval)


def _gain(gain: Gain, best: str) -> str:
    if gain.reason:
        return gain.reason
    low, high = gain.interval
    return f"{gain.value:+.3f} [{low:+.3f}, {high:+.3f}] against {best}, the best single attack here"
