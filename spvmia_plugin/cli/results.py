"""Commands that read results: `spvmia report`, `combine`, `leaderboard` and `export`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spvmia_plugin.cli.output import Json, Quiet, line_printer, newest, print_json
from spvmia_plugin.metrics.names import AUROC, DECIMALS, TPR_01PCT, TPR_1PCT
from spvmia_plugin.util.console import shown

if TYPE_CHECKING:
    from spvmia_plugin.combination import Combined
    from spvmia_plugin.metrics.paired import Gain
    from spvmia_plugin.metrics.summary import Summary
    from spvmia_plugin.report.tokens import TokenView
    from spvmia_plugin.results import HarnessRun


class Normalise(str, Enum):
    """How the scores of two models are brought on one scale."""

    z = "z"
    rank = "rank"


class Metric(str, Enum):
    """What models are ranked by."""

    auroc = AUROC.key
    tpr_at_1pct_fpr = TPR_1PCT.key
    tpr_at_0_1pct_fpr = TPR_01PCT.key


class Compare(str, Enum):
    """What differs between the rows of a table."""

    models = "models"
    recipes = "recipes"


class SameData(str, Enum):
    """How data are recognised."""

    fingerprint = "fingerprint"
    ids = "ids"


SameDataOption = Annotated[
    SameData, typer.Option("--same-data", help="ids: trust record ids where the audits' fingerprints have other keys.")
]


class Format(str, Enum):
    """What to export to."""

    every_eval_ever = "every-eval-ever"
    hf_eval_results = "hf-eval-results"
    model_index = "model-index"


class Evaluator(str, Enum):
    """Who ran the audit, seen from the model's developer."""

    first_party = "first_party"
    third_party = "third_party"
    collaborative = "collaborative"
    other = "other"


def report(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="lm_eval's --output_path, or one results_*.json in it.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The page; default: report.html in RESULTS.")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option("--figures", metavar="DIR", help="Also write every figure as PNG and SVG.")
    ] = None,
    record: Annotated[
        list[str] | None,
        typer.Option("--record", metavar="ID", help="Show this record token by token, its TEXT included; repeatable."),
    ] = None,
    prior: Annotated[
        list[str] | None,
        typer.Option(
            "--prior", metavar="P", help="Share of members among those asked about, 0.001 or 1/1000; repeatable."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything unrounded as JSON; a page only with --output.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Write a page that says what an outsider can and cannot tell: one HTML file that loads nothing.

    The newest run with a privacy task is reported. It needs nothing but the results and samples files that
    `lm_eval --output_path results --log_samples` wrote.

    ```
    spvmia report results
    spvmia report results --output audit.html --figures figures
    spvmia report results --record support.jsonl:214
    spvmia report results --prior 1/500
    spvmia report results --json
    ```
    """
    from spvmia_plugin.metrics.precision import PRIORS, as_prior
    from spvmia_plugin.report.saving import PAGE, write_figures, write_page
    from spvmia_plugin.report.verdict import judge
    from spvmia_plugin.results import read_latest

    priors = [as_prior(given) for given in prior] if prior else PRIORS
    run = read_latest(results)
    tokens = _tokens(run, record or [])
    page = output or (None if as_json else (results if results.is_dir() else results.parent) / PAGE)
    written = [write_page(run, page, tokens, priors)] if page else []
    if figures:
        written.append(write_figures(run, figures))
    say = line_printer(quiet=quiet, as_json=as_json)

    for audit in run.audits:
        verdict = judge(audit)
        doubt = " Provisional: see the failed conditions in the report." if verdict.provisional else ""
        say(f"{shown(audit.dataset)}: {verdict.headline}{doubt}")
        if not audit.has_samples:
            say(f"{shown(audit.dataset)}: no scores of single records; run lm_eval with --log_samples to have them")
    for path in written:
        say(shown(str(path)))
    for problem in run.left_out:
        say(f"left out: {shown(problem)}")
    if as_json:
        from spvmia_plugin.report.facts import report_facts, streamed

        for part in streamed(report_facts(run, tokens, priors=priors, one_by_one=True)):
            sys.stdout.write(part)
        sys.stdout.write("\n")


def _tokens(run: HarnessRun, record_ids: list[str]) -> list[list[TokenView]]:
    """For each audit those of the chosen records that it has, token by token; its error for what no audit has."""
    from spvmia_plugin.report.tokens import token_views

    known: list[Collection[str]] = [audit.records.roster.rows if audit.records else () for audit in run.audits]
    unknown = [record_id for record_id in record_ids if not any(record_id in ids for ids in known)]
    return [
        token_views(run, audit, [record_id for record_id in record_ids if record_id in ids] + unknown)
        for audit, ids in zip(run.audits, known, strict=True)
    ]


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
    _tell_combined(found, line_printer(quiet=quiet, as_json=as_json))
    if as_json:
        about = {
            "shadow_records": found.n_shadow_records,
            "shadow_unscored": dict(found.shadow_unscored),
            "left_out": found.left_out,
            "warnings": found.warnings,
        }
        print_json({**found.on_target.to_json(), **about})


def _tell_combined(found: Combined, say: Callable[[str], None]) -> None:
    on_target = found.on_target
    numbers = on_target.combined
    say(
        f"{numbers.n_members} members and {numbers.n_nonmembers} non-members of {numbers.n_clusters} "
        f"{on_target.called}; weights fitted on {found.n_shadow_records} records of the shadow"
    )
    weights = dict(zip(on_target.combination.attacks, on_target.combination.weights, strict=True))
    say(_line("", AUROC.label, TPR_1PCT.label, "weight"))
    say(_row("combination", numbers, ""))
    for name, single in sorted(on_target.singles.items(), key=lambda item: -item[1].auroc):
        say(_row(name, single, f"{weights[name]:+#.2g}"))
    for metric in (AUROC, TPR_1PCT):
        say(f"{metric.label}: {_gain(on_target.gain[metric.key], on_target.best[metric.key])}")
    for place, counts in (("", on_target.unscored), (" of the shadow", found.shadow_unscored)):
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
    printed, low, high = (f"{number:.{DECIMALS}f}" for number in (value, *interval))
    return f"{printed} [{low}, {high}]"


def _gain(gain: Gain, best: str) -> str:
    if gain.reason:
        return gain.reason
    low, high = gain.interval
    return f"{gain.value:+.3f} [{low:+.3f}, {high:+.3f}] against {best}, the best single attack here"


def leaderboard(
    results: Annotated[
        list[str],
        typer.Argument(metavar="RESULTS...", help="Output folders of lm_eval, or NAME=FOLDER to name the model."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", help="File to write; its ending says how: .html .md .csv .json. Default: print."),
    ] = None,
    attack: Annotated[str, typer.Option("--attack", help="The attack that counts, or 'strongest'.")] = "strongest",
    metric: Annotated[Metric, typer.Option("--metric", help="What models are ranked by.")] = Metric.auroc,
    compare: Annotated[
        Compare,
        typer.Option("--compare", help="models: tuned by one recipe. recipes: of one base model, side by side."),
    ] = Compare.models,
    same_data: SameDataOption = SameData.fingerprint,
    capability: Annotated[
        str | None, typer.Option("--capability", help="Task of the picture's capability axis, for example arc_easy.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the board as JSON, unrounded.")] = False,
    quiet: Quiet = False,
) -> None:
    """Set models side by side: what they can do, and how much they give away of their training data.

    Only audits that can be compared share a table; models whose audit failed a precondition are marked, not ranked.

    ```
    spvmia leaderboard results/light results/heavy --output board.html
    spvmia leaderboard light=results/a heavy=results/b --compare recipes
    ```
    """
    from spvmia_plugin.leaderboard import Options, build_board, write_board
    from spvmia_plugin.leaderboard.entrants import Source
    from spvmia_plugin.leaderboard.formats import check_output, to_json
    from spvmia_plugin.leaderboard.plain import show_board, to_markdown

    if output is not None:
        check_output(output)
    options = Options(attack, metric.value, compare.value, same_data.value, capability)
    board = build_board([Source.parse(argument) for argument in results], options)
    for problem in board.left_out if not quiet else ():
        typer.echo(f"left out: {problem}", err=True)
    if as_json:
        typer.echo(to_json(board), nl=False)
    if output is None:
        if not (as_json or quiet):
            if sys.stdout.isatty():
                from rich.console import Console

                show_board(board, Console())
            else:  # Markdown goes anywhere
                typer.echo(to_markdown(board), nl=False)
        return
    write_board(board, output)
    rows = sum(len(table.rows) for table in board.tables)
    said = f"{rows} row{'s' * (rows != 1)} in {len(board.tables)} table{'s' * (len(board.tables) != 1)}"
    line_printer(quiet=quiet, as_json=as_json)(f"{output}: {said}")


def export(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="Output folder of lm_eval (the newest audit in it), or a file.")
    ],
    to: Annotated[Format, typer.Option("--to", help="The format.")],
    output: Annotated[Path, typer.Option("--output", help="Folder to write into.")],
    model_id: Annotated[
        str | None, typer.Option("--model-id", metavar="ORG/NAME", help="The model on the Hub; else the folder's name.")
    ] = None,
    organization: Annotated[str, typer.Option("--organization", help="Who ran the audit.")] = "unknown",
    evaluator: Annotated[
        Evaluator, typer.Option("--evaluator", help="Their relation to the model's developer.")
    ] = Evaluator.first_party,
    benchmark: Annotated[
        str | None,
        typer.Option("--benchmark", metavar="ORG/NAME", help="hf-eval-results: data set that hosts the leaderboard."),
    ] = None,
    instances: Annotated[
        bool,
        typer.Option("--instances", help="every-eval-ever: also ids, labels and scores. They NAME training records."),
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the newest audit of a results folder in a format that others read.

    ```
    spvmia export results --to every-eval-ever --output eee --model-id acme/support-7b --organization Acme
    spvmia export results --to hf-eval-results --output model --benchmark acme/privacy
    spvmia export results --to model-index --output card
    ```
    """
    from spvmia_plugin.export import ExportOptions, export_run

    options = ExportOptions(model_id, organization, evaluator.value, benchmark, instances)
    say = line_printer(quiet=quiet, as_json=as_json)
    run = newest(results, say)
    files = export_run(run, to.value, output, options)
    for problem in run.left_out if not quiet else ():
        typer.echo(f"left out: {problem}", err=True)
    for path in files:
        say(str(path))
    if as_json:
        print_json({"format": to.value, "files": [str(path) for path in files]})
