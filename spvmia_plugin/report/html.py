"""The page: one file that loads nothing, runs only its own script, and shows other people's text as text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from spvmia_plugin import __version__
from spvmia_plugin.page import MISSING, policy, resource, templates, trusted, with_theme
from spvmia_plugin.report import draw, repeat
from spvmia_plugin.report.figures import Picture, Pictures, pictures
from spvmia_plugin.report.inline import inline
from spvmia_plugin.report.numbers import Number, Text
from spvmia_plugin.report.tokens import TokenView
from spvmia_plugin.report.view import FIRST_ROWS, AuditView, view
from spvmia_plugin.results import HarnessRun
from spvmia_plugin.util.console import shown

if TYPE_CHECKING:
    from markupsafe import Markup

_ESCAPED = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def render(run: HarnessRun, tokens: Sequence[Sequence[TokenView]] = ()) -> str:
    """The report of a run as one HTML page.

    Args:
        run: the run.
        tokens: for each audit, records to show token by token.
    """
    environment = templates("spvmia_plugin.report", "page")
    environment.filters |= {"number": number_html, "sentence": sentence_html}
    style = resource("spvmia_plugin.report", "page/report.css")
    script = with_theme(resource("spvmia_plugin.report", "page/report.js"))
    page: str = environment.get_template("report.html").render(
        run=run,
        model=shown(run.model),
        date=datetime.fromtimestamp(run.date, tz=timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        versions={shown(key): shown(value) for key, value in run.versions.items()},
        spvmia_version=__version__,
        parts=[
            _part(view(audit, tokens[number] if tokens else ()), pictures(audit), number)
            for number, audit in enumerate(run.audits)
        ],
        results_file=shown(run.path.name),
        capabilities=[
            {
                "task": shown(found.task),
                "metric": shown(found.metric),
                "value": Number(found.value, "share", f"results/{found.task}/{found.metric}"),
                "stderr": Number(found.stderr, "share", f"results/{found.task}/{found.metric}_stderr"),
            }
            for found in run.capabilities
        ],
        command=shown_lines(repeat.typed(repeat.command(run))),
        style=trusted(style),
        script=trusted(script),
        policy=policy(style, script),
        first_rows=FIRST_ROWS,
    )
    return page


def _part(shown_audit: AuditView, drawn: Pictures, number: int) -> dict[str, Any]:
    """One audit's part of the page with its figures drawn."""

    def inlined(found: Sequence[Picture]) -> list[dict[str, Any]]:
        return [
            {
                "svg": trusted(inline(draw.svg(picture.draw), f"a{number}-{picture.name}-", picture.alt)),
                "caption": picture.caption,
                "attacks": picture.attacks,
            }
            for picture in found
        ]

    return {
        "view": shown_audit,
        "number": number,
        "dataset": shown(shown_audit.audit.dataset) + (", canaries" if shown_audit.epsilon else ""),
        "data": trusted(embedded(shown_audit.table)),
        "ranking": inlined([drawn.ranking]),
        "roc": inlined(drawn.roc),
        "scores": inlined(drawn.scores),
        "scatter": inlined(drawn.scatter),
        "cost": inlined([drawn.cost] if drawn.cost else []),
    }


def number_html(number: Number) -> Markup:
    """A number with its exact value and source as a `data` element, which tests and programs can read back."""
    from markupsafe import Markup

    printed = str(number)
    if printed == MISSING:
        return Markup('<span aria-hidden="true">{}</span><span class="sr">not resolved</span>').format(MISSING)
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


def shown_lines(text: str) -> str:
    """`shown`, but for the line ends."""
    return "\n".join(shown(line) for line in text.split("\n"))
