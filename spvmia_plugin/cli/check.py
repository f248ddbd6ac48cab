"""`spvmia check`: an lm_eval command, checked before it reads any weights."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spvmia_plugin.cli.output import Json, line_printer, print_json
from spvmia_plugin.config import PREFIX
from spvmia_plugin.metrics.names import BOUNDED_BY, EPSILON, METRICS_WITH_INTERVAL
from spvmia_plugin.util.console import shown

if TYPE_CHECKING:
    from spvmia_plugin.harness.checking import Checked

NOT_OURS = 2
"""Exit status for a command with no task of ours."""
OWN = SHOW_TEXT, JSON = "--show-text", "--json"
"""Its own options, which may stand among lm_eval's."""
EPSILON_OPTION = f"{PREFIX}{BOUNDED_BY[EPSILON.key]}"
READ = "documents"
"""Of the counts of what was read, the one that counts nothing that was left out."""
MARKED_TOKENS = 200
"""Tokens of the first record that are shown."""


def check(
    context: typer.Context,
    show_text: Annotated[
        bool, typer.Option(SHOW_TEXT, help="Show the first record's text; on a terminal only.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check an lm_eval command before it reads any weights: put `spvmia check` before it, or for `lm_eval`.

    Files, configuration, template, manifest and tokenizer are read as the run would read them. It tells how many
    records there are and why others are not, the first record as the model will see it with the scored tokens marked,
    what so many records can resolve, whether a bound that was declared can be shown by them, and the plan. Exit status
    1 for what the run would fail by, 2 without a task of ours.

        spvmia check --model hf --model_args pretrained=BASE,peft=adapter \\
                     --tasks spv_mia_custom,arc_easy \\
                     --metadata '{"mia_members": "trained_on.jsonl", "mia_nonmembers": "held_out.jsonl"}'

    The command may be launched in any way:

        spvmia check accelerate launch -m lm_eval --model hf --model_args pretrained=BASE --tasks mia_custom --json
    """
    from spvmia_plugin.errors import SpvmiaError
    from spvmia_plugin.harness.checking import check as check_command
    from spvmia_plugin.harness.command_line import Command

    # Before lm_eval's options the command line's parser finds its own; lm_eval has none of these names.
    show_text, as_json = show_text or SHOW_TEXT in context.args, as_json or JSON in context.args
    words = [word for word in context.args if word not in OWN]
    if show_text and not sys.stdout.isatty():
        raise SpvmiaError(
            "--show-text: expected a terminal to show a record's text on, got a file or a pipe; leave the option out"
        )
    found, others = check_command(Command.parse(words), show_text=show_text)
    say = line_printer(quiet=False, as_json=as_json)
    if others:
        say(f"not checked, the harness's own or somebody else's: {', '.join(map(shown, others))}")
    if not found:
        say("no task of spvmia-plugin among them; 'spvmia run ls tasks' lists what there is")
        raise typer.Exit(NOT_OURS)
    for each in found:
        _tell(each, say)
    if as_json:
        print_json({"audits": [each.to_json() for each in found], "not_checked": others})


def _tell(found: Checked, say: Callable[[str], None]) -> None:
    from spvmia_plugin.auditing.plan import Stage, render

    say(f"{shown(found.dataset)}: {shown(found.source)} ({found.kind}); attacks: {', '.join(found.attacks)}")
    _tell_counts(found.counts, say)
    for finding in found.findings:
        say(f"  {finding.severity}: {finding.message}")
    for note in found.notes:
        say(f"  note: {note}")
    _tell_first(found, say)
    _tell_resolution(found, say)
    _tell_bounds(found, say)
    stages = [Stage(**stage) for stage in found.plan]  # type: ignore[arg-type]
    title = "  plan, as if the store were empty; the times are rough"
    say(render(title, stages, found.rate, found.shorter_by, measured=False))


def _tell_counts(counts: Mapping[str, Any], say: Callable[[str], None]) -> None:
    for name, called in (("members", "members"), ("nonmembers", "non-members")):
        of_class = counts[name]
        fewer = "" if of_class["records"] == of_class["of"] else f" of {of_class['of']:,}"
        say(
            f"  {called}: {of_class['records']:,}{fewer} records of {of_class['documents']:,} {counts['documents_are']}"
        )
    taken = "" if counts["prompts_from"] is None else f" (taken from {counts['prompts_from']}: no prompts were named)"
    say(f"  held out: {counts['prompts']:,} prompts{taken}, {counts['candidate']:,} for a candidate reference")
    for reason, count in counts["unscored"].items():
        say(f"  not scored: {count:,} ({reason})")
    for name, value in counts["told"].items():
        if value and name != READ:
            say(f"  left out: {value:,} ({name.replace('_', ' ')})")


def _tell_first(found: Checked, say: Callable[[str], None]) -> None:
    from spvmia_plugin.harness.checking import marked

    first = found.first
    if "reason" in first:
        say(f"  first record, {shown(str(first['id']))}: not scored ({first['reason']})")
        return
    scored = sum(map(bool, first["scored"]))
    say(f"  first record, {shown(str(first['id']))}: {scored:,} tokens scored, in [ ], after those in ( )")
    say(f"    {shown(marked(first, MARKED_TOKENS))}")


def _tell_resolution(found: Checked, say: Callable[[str], None]) -> None:
    told = found.resolution
    called = found.counts["documents_are"]
    of = f"{told.attacks} attacks" if told.attacks > 1 else "one attack"
    say(f"  what {told.n_members:,} and {told.n_nonmembers:,} {called} can tell, with 95 % confidence over {of}:")
    say(f"    an AUROC of .5 to +- {told.half_width:.3f}")
    for key, value in told.smallest.items():
        metric = METRICS_WITH_INTERVAL[key]
        reason = told.reasons.get(key)
        least = f"told apart from guessing from {value:.3f} on" if reason is None else f"nothing ({reason})"
        say(f"    {metric.label}: {least}")


def _tell_bounds(found: Checked, say: Callable[[str], None]) -> None:
    from spvmia_plugin.metrics.power import MOST_DOCUMENTS

    called, fewest = found.counts["documents_are"], min(found.resolution.n_members, found.resolution.n_nonmembers)
    for bound in found.bounds:
        if bound.option == EPSILON_OPTION:
            told = "canaries bound epsilon from below, so it can be exceeded, and is never shown"
        elif bound.needed is None:
            told = f"not shown: that takes more than {MOST_DOCUMENTS:,} {called} of each class"
        else:
            told = "can be shown" if bound.shown else f"not shown by {fewest:,} {called} of a class, but by luck"
            told += f": about {bound.needed:,} {called} of each class show it of a target that gives nothing away"
        say(f"  {bound.option} {bound.limit:g}: {told}")
