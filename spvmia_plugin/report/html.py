"""The page: one file that loads nothing, runs only its own script, and shows other people's text as text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from spvmia_plugin.checks import Finding
from spvmia_plugin.metrics.precision import PRIORS
from spvmia_plugin.report import subjects
from spvmia_plugin.report.advice import advice
from spvmia_plugin.report.claims import claims
from spvmia_plugin.report.command import command
from spvmia_plugin.report.facts import exposed, picked_by_verdict
from spvmia_plugin.report.figures import Picture, pictures
from spvmia_plugin.report.measured import measured
from spvmia_plugin.report.numbers import Number, Text, audited, counted
from spvmia_plugin.report.records import FIRST_ROWS, exposure_table, picked_in_words
from spvmia_plugin.report.table import attacks, precision
from spvmia_plugin.report.tokens import LINE_END, TokenView
from spvmia_plugin.report.verdict import CANNOT_SHOW, Verdict, casts_doubt, judge, ranges, why_read_at
from spvmia_plugin.results import Audit, HarnessRun
from spvmia_plugin.results.model import failed
from spvmia_plugin.util.console import shown
from spvmia_plugin.web import drawing
from spvmia_plugin.web import page as web
from spvmia_plugin.web.text import MISSING, NOT_RESOLVED, typed, worded

if TYPE_CHECKING:
    from markupsafe import Markup

MOST_SCORES = 6
"""Scores of ordinary tasks at the top of the page; all of them stand at its end too where there are more."""
COLOURS = (
    "paper card ink soft line grey",
    "accent accent-ink wash",
    "first second third chosen member other",
    "warn warn-wash warn-line",
)
"""Of `web.page.theme`."""
_KNOWN_BY = {
    "manifest": "from the manifest of the training",
    "declared": "as the given files declare it",
    "assumed": "only assumed",
}
_ESCAPED = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def render(run: HarnessRun, tokens: Sequence[Sequence[TokenView]] = (), priors: Sequence[float] = PRIORS) -> str:
    """The report of a run as one HTML page.

    Args:
        run: the run.
        tokens: for each audit, records to show token by token.
        priors: shares of members to tell the precision for.
    """
    parts = [
        _part(run, audit, run.base_of(audit), tokens[number] if tokens else (), number, priors)
        for number, audit in enumerate(run.audits)
    ]
    return web.render(
        web.templates("spvmia_plugin.report", number=number_html, sentence=sentence_html, shown=shown),
        "spvmia_plugin.report",
        "report",
        web.theme(COLOURS),
        of_tables=False,
        run=run,
        model=shown(run.model),
        date=datetime.fromtimestamp(run.date, tz=timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        versions={shown(key): shown(value) for key, value in run.versions.items()},
        parts=parts,
        results_file=shown(run.path.name),
        capabilities=_capabilities(run),
        has_base=bool(run.of_base),
        has_texts=any(part["table"]["texts"] for part in parts),
        most_scores=MOST_SCORES,
        command="\n".join(shown(line) for line in typed(command(run)).split("\n")),
        first_rows=FIRST_ROWS,
        line_end=LINE_END,
    )


def _capabilities(run: HarnessRun) -> list[dict[str, Any]]:
    """Scores of the ordinary tasks, each with that of the base where it is known."""
    rows = []
    for found in run.capabilities:
        name, _, filtered = found.metric.partition(",")
        base = run.of_base.get(found.key)
        rows.append(
            {
                "task": shown(found.task),
                "metric": shown(f"{name} ({filtered})" if filtered else name),
                "value": Number(found.value, "share", f"results/{found.task}/{found.metric}"),
                "stderr": Number(found.stderr, "share", f"results/{found.task}/{found.metric}_stderr"),
                "base": Number(base.value if base else None, "share", f"base/{found.task}/{found.metric}"),
            }
        )
    return rows


def _part(
    run: HarnessRun, audit: Audit, base: Audit | None, tokens: Sequence[TokenView], number: int, priors: Sequence[float]
) -> dict[str, Any]:
    """What the page shows of one audit, in the order of the page. The template only lays it out."""

    def inlined(found: Sequence[Picture]) -> list[dict[str, Any]]:
        return [
            {
                "svg": web.trusted(
                    drawing.inline(drawing.svg(picture.draw), f"a{number}-{picture.name}-", picture.alt)
                ),
                "caption": picture.caption,
                "attacks": picture.attacks,
            }
            for picture in found
        ]

    members, figures, verdict = exposed(audit), pictures(audit), judge(audit)
    picked = picked_by_verdict(audit, members)
    table = exposure_table(audit, members, picked)
    # Those that the verdict depends on before those that touch other numbers.
    warnings = sorted(failed(audit), key=lambda found: not casts_doubt(found, audit))
    return {
        "number": number,
        "dataset": shown(audit.dataset) + (", canaries" if audit.tasks[0].is_canary_audit else ""),
        "source": shown(audit.mia_audit.data.source or audit.dataset),
        **_warnings(warnings, verdict.provisional),
        "verdict": verdict,
        "claims": claims(audit, verdict, base),
        "sizes": _sizes(audit),
        "advice": advice(run, audit, verdict),
        "limits": [*_limits(audit, verdict, base), (verdict.membership,), (ranges(audit),), (CANNOT_SHOW,)],
        "precision": precision(audit, priors),
        "attacks": attacks(audit),
        **{name: inlined(getattr(figures, name)) for name in ("roc", "scores", "scatter", "cost")},
        "units": subjects.units(audit),
        "groups": subjects.groups(audit),
        "members": members,
        "table": table,
        "picked": picked_in_words(picked) if picked else None,
        "data": web.trusted(embedded(table)),
        "tokens": tokens,
        "measured": measured(audit),
    }


def _warnings(found: Sequence[Finding], doubts: int) -> dict[str, list[str]]:
    """Those that the verdict depends on, in short and in full, and the others.

    Args:
        found: those first that the verdict depends on.
        doubts: how many that are.
    """
    messages = [shown(worded(finding.message)) for finding in found]
    first = messages[:doubts]
    return {"doubts": [message.partition(": ")[0] for message in first], "in_full": first, "minor": messages[doubts:]}


def _sizes(audit: Audit) -> Text:
    """How many records the verdict rests on."""
    first = audit.tasks[0]
    members, others = (audited(first, "n", key, style="count") for key in ("members", "nonmembers"))
    known = _KNOWN_BY.get(audit.mia_audit.membership, "not recorded how it is known")
    return (*counted(members, "member"), " and ", *counted(others, "other"), " audited; membership: ", known)


def _limits(audit: Audit, verdict: Verdict, base: Audit | None) -> list[Text]:
    """What the few were read at, where that is not the usual, and what nobody looked at."""
    return [*_read_at(audit, verdict), *([(_NO_BASE,)] if base is None and _is_fine_tuned(audit) else [])]


_NO_BASE = (
    "What the base gives away by itself, on the same records, is not known: audit it with the same options, and let "
    "the results lie in the same folder."
)


def _is_fine_tuned(audit: Audit) -> bool:
    """Whether the audit knows a base, and that the target is another model."""
    target, before = (audit.mia_audit.models.get(role) for role in ("target", "base"))
    return (
        isinstance(target, Mapping) and isinstance(before, Mapping) and target.get("weights") != before.get("weights")
    )


def _read_at(audit: Audit, verdict: Verdict) -> list[Text]:
    found = audit.strongest
    if found is None or verdict.most_exposed == "unresolved" or not (why := why_read_at(audit, found)):
        return []
    return [("The most exposed few are read, by false accusations,", *why, ".")]


def number_html(number: Number) -> Markup:
    """A number with its exact value and source as a `data` element, which tests and programs can read back."""
    from markupsafe import Markup

    printed = str(number)
    if printed == MISSING:
        return Markup('<span aria-hidden="true">{}</span><span class="hidden">{}</span>').format(MISSING, NOT_RESOLVED)
    return Markup('<data value="{}" data-source="{}">{}</data>').format(
        repr(number.value), shown(number.source), printed
    )


def sentence_html(text: Text) -> Markup:
    """A sentence with the numbers in it marked up."""
    from markupsafe import Markup, escape

    return Markup("").join(number_html(part) if isinstance(part, Number) else escape(part) for part in text)


def embedded(value: Any) -> str:
    """JSON that no parser takes for anything else, whatever its strings hold, inside a script element."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).translate(_ESCAPED)
