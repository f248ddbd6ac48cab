"""The page: one file that loads nothing, runs only its own script, and shows other people's text as text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from spvmia_plugin.checks import percent
from spvmia_plugin.metrics.exposure import Exposures
from spvmia_plugin.metrics.names import ASR, AUROC, BLIND, EPSILON, TPR_1PCT, TPRS, Metric
from spvmia_plugin.metrics.precision import PRIORS
from spvmia_plugin.report import subjects
from spvmia_plugin.report.advice import advice, bound_sentence
from spvmia_plugin.report.facts import accusations, command, exposed
from spvmia_plugin.report.figures import Picture, pictures
from spvmia_plugin.report.numbers import (
    SMALL_P,
    Number,
    Text,
    attack_classes,
    audited,
    blind_task,
    knowledge,
    leading,
    metric,
    ranked,
    small_p_values,
    stage_seconds,
    stages,
    strongest_task,
    title,
    with_interval,
)
from spvmia_plugin.report.tokens import LINE_END, TokenView
from spvmia_plugin.report.verdict import CANNOT_SHOW, casts_doubt, judge, ranges
from spvmia_plugin.results import Audit, HarnessRun, TaskResult
from spvmia_plugin.results.model import failed
from spvmia_plugin.util.console import shown
from spvmia_plugin.util.redact import without_secrets
from spvmia_plugin.util.strict_json import is_number, is_whole
from spvmia_plugin.web import drawing
from spvmia_plugin.web import page as web
from spvmia_plugin.web.text import MISSING, STYLES, typed

if TYPE_CHECKING:
    from markupsafe import Markup

FIRST_ROWS = 25
"""Rows of the exposure table that stand in the page itself, for readers without scripts and for print."""
MAX_ROWS = 2000
"""Records in the table. The others are in the samples files, and in `spvmia report --json`."""
MAX_TEXT = 600
"""Characters of a record in the table."""
_ALL_TEXTS = 400_000
"""Characters of all records in the table together, so that the page stays one that opens."""
_LEAST_TEXT = 100
COLOURS = (
    "paper card ink soft line grey",
    "accent accent-ink wash",
    "first second third chosen member other",
    "warn warn-wash warn-line",
)
"""Of `web.page.theme`."""
_ESCAPED = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def render(run: HarnessRun, tokens: Sequence[Sequence[TokenView]] = (), priors: Sequence[float] = PRIORS) -> str:
    """The report of a run as one HTML page.

    Args:
        run: the run.
        tokens: for each audit, records to show token by token.
        priors: shares of members to tell the precision for.
    """
    environment = web.templates("spvmia_plugin.report")
    environment.filters |= {"number": number_html, "sentence": sentence_html, "shown": shown}
    return web.render(
        environment,
        "spvmia_plugin.report",
        "report",
        web.theme(COLOURS, screen_only=True),
        base=False,
        run=run,
        model=shown(run.model),
        date=datetime.fromtimestamp(run.date, tz=timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        versions={shown(key): shown(value) for key, value in run.versions.items()},
        parts=[
            _part(audit, tokens[number] if tokens else (), number, priors) for number, audit in enumerate(run.audits)
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
        command="\n".join(shown(line) for line in typed(command(run)).split("\n")),
        first_rows=FIRST_ROWS,
        line_end=LINE_END,
    )


def _what_was_read(audit: Audit) -> list[str]:
    """Of conversations, which tokens were scored; of self-prompts, whether they differ."""
    scored, prompts = audit.mia_audit.scored or {}, audit.mia_audit.self_prompts or {}
    lines = []
    if is_whole(scored.get("tokens")) and is_whole(scored.get("context_tokens")):
        mask = "the answers" if scored.get("loss_on") == "completion" else "all tokens"
        lines.append(
            f"{scored['tokens']:,} tokens of conversations were scored, {scored['context_tokens']:,} read as context: "
            f"the mask of the audit is {mask}"
        )
    if all(is_number(prompts.get(name)) for name in ("texts", "distinct", "tokens", "ended_at_once")):
        lines.append(
            f"the reference was trained on {prompts['texts']:,} self-prompts: {percent(prompts['distinct'])} of them "
            f"differ, they have {prompts['tokens']:,.0f} tokens in the mean, and the target ended "
            f"{percent(prompts['ended_at_once'])} at once"
        )
    return lines


def _what_references_say(audit: Audit) -> list[str]:
    """Of several references, how far the lists of the most exposed agree; of p-values, whether they mean what they
    say."""
    lines = []
    for task in ranked(audit):
        told = task.mia_audit.references or {}
        agreed = told.get("agreement")
        if not isinstance(agreed, Mapping) or not is_whole(told.get("count")):
            continue
        kinds = {"single": "between two single ones", "halves": "between the means of two halves"}
        shares = [f"{percent(agreed[key])} {words}" for key, words in kinds.items() if is_number(agreed.get(key))]
        if shares and is_number(agreed.get("share")):
            lines.append(
                f"each reference was trained {told['count']} times, on other texts (mia_references): under "
                f"{title(task.attack)} the lists of the {percent(agreed['share'])} most exposed members have in common "
                f"{' and '.join(shares)}; lists in random orders have {percent(agreed['share'])}"
            )
            break  # of the strongest attack that they make a difference to
    for attack, share in small_p_values(audit).items():
        lines.append(
            f"{title(attack)} gives p-values: {percent(share)} of the non-members have one of at most {SMALL_P}; more "
            f"than {percent(SMALL_P)} says that the target differs from its references by more than they allow for"
        )
    return lines


def _part(audit: Audit, tokens: Sequence[TokenView], number: int, priors: Sequence[float]) -> dict[str, Any]:
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

    told, members, figures, epsilon = audit.told, exposed(audit), pictures(audit), _epsilon(audit)
    few, verdict = audit.strongest.low_end_metric if audit.strongest else TPR_1PCT, judge(audit)
    table = _exposure_table(audit, members)
    provenance = {
        "data": {key: value for key, value in told["data"].items() if key != "clusters"},
        **{key: told[key] for key in ("scored", "self_prompts") if told.get(key)},
        **{key: told[key] for key in ("models", "stages", "seed", "versions")},
    }
    notes = [found.message for found in audit.mia_audit.preconditions if found.severity != "warning"]
    notes += [*_what_was_read(audit), *_what_references_say(audit)]
    # Those that the verdict depends on before those that touch other numbers.
    warnings = sorted(failed(audit), key=lambda found: not casts_doubt(found, audit))
    return {
        "number": number,
        "dataset": shown(audit.dataset) + (", canaries" if epsilon else ""),
        "source": shown(audit.mia_audit.data.source or audit.dataset),
        "warnings": [shown(found.message) for found in warnings],
        "verdict": verdict,
        "bound": bound_sentence(audit),
        "advice": advice(audit, verdict),
        "epsilon": epsilon,
        "ranges": ranges(audit),
        "cannot_show": CANNOT_SHOW,
        "hundred": _hundred(audit, few),
        "facts": _facts(audit, few),
        "precision": _precision(audit, priors),
        "rows": _rows(audit),
        "tprs": TPRS,
        **{name: inlined(getattr(figures, name)) for name in ("ranking", "roc", "scores", "scatter", "cost")},
        "units": subjects.units(audit),
        "groups": subjects.groups(audit),
        "members": members,
        "table": table,
        "data": web.trusted(embedded(table)),
        "tokens": tokens,
        "stages": _stages(audit.tasks[0]),
        "blind": _blind(audit),
        "notes": [shown(note) for note in (*notes, *audit.mia_audit.notes)],
        "settings": _flat(without_secrets(told["settings"])),
        "provenance": _flat(without_secrets(provenance)),
    }


def _hundred(audit: Audit, metric: Metric) -> dict[str, Any] | None:
    """Of 100 training records, how sure it is of each that it can be picked out at so many false accusations."""
    numbers = leading(audit, metric.key, "per_hundred")
    tpr, low, high = (number.value for number in numbers)
    if tpr is None or low is None or high is None or not math.isfinite(tpr + low + high):
        return None
    ends = {"sure": round(100 * low), "likely": round(100 * tpr), "maybe": round(100 * high)}
    kinds = [next((kind for kind, end in ends.items() if place < end), "rest") for place in range(100)]
    alt = "Of 100 training records about {} can be picked out, at least {}, at most {}.".format(*numbers)
    return {"kinds": kinds, "alt": alt, "accused": f"{100 * metric.fpr:g}"}


def _facts(audit: Audit, few: Metric) -> list[tuple[str, Text, Text]]:
    """The tiles below the verdict: what, the number, and its range."""
    first = audit.tasks[0]
    tiles: list[tuple[str, Text, Text]] = []
    for which in (AUROC, few) if strongest_task(audit) else ():
        best = strongest_task(audit, which.key)
        value, low, high = leading(audit, which.key, "share")
        whose = f" of {title(best.attack)}" if best else ""
        tiles.append((f"{which.label}{whose}", (value,), (low, " to ", high)))
    members, others = (audited(first, "n", key, style="count") for key in ("members", "nonmembers"))
    tiles.append(("audited", (members, " members"), (others, " others")))
    tiles.append(("membership", (audit.mia_audit.membership,), ()))
    return tiles


def _rows(audit: Audit) -> list[dict[str, Any]]:
    """The table of all attacks, the blind one last."""
    classes = attack_classes()
    best, blind = strongest_task(audit), blind_task(audit)
    return [
        {
            "title": title(task.attack),
            "task": shown(task.task),
            "given": knowledge(task),
            "is_strongest": task is best,
            "is_blind": task is blind,
            "auroc": with_interval(task, AUROC.key, "share"),
            "tprs": [with_interval(task, metric.key, "share") for metric in TPRS],
            "asr": with_interval(task, ASR.key, "share"),
            "scored": audited(task, "n", "scored", style="count"),
            "seconds": Number(
                stage_seconds(task, stages(task, classes)),
                "seconds",
                f"computed/{task.task}/seconds_of_what_it_rests_on",
            ),
            "unscored": [
                (audited(task, "unscored", reason, style="count"), shown(reason)) for reason in task.mia_audit.unscored
            ],
        }
        for task in (*ranked(audit), *([blind] if blind else []))
    ]


def _precision(audit: Audit, priors: Sequence[float]) -> dict[str, Any] | None:
    """Of a hundred records that are accused, how many are members, by how many of those asked about are."""
    found, rows = audit.strongest, []
    for place, row in enumerate(accusations(audit, priors)):
        ends = (("value", row.value), ("interval/0", row.interval[0]), ("interval/1", row.interval[1]))
        numbers = [
            Number(None if math.isnan(value) else value, "percent", f"computed/precision/{place}/{name}")
            for name, value in ends
        ]
        odds = 1 / row.prior
        rows.append((f"1 in {odds:,.0f}" if math.isclose(odds, round(odds)) else f"{100 * row.prior:.3g} %", numbers))
    if found is None or not rows:
        return None
    fpr = found.low_end_metric.fpr
    return {"rows": rows, "attack": title(str(found.most_exposed.attack)), "accused": f"{100 * fpr:g}"}


def _epsilon(audit: Audit) -> Text | None:
    """The bound on epsilon of a canary audit."""
    if not audit.tasks[0].is_canary_audit:
        return None
    task = audit.tasks[0]
    bound = metric(task, EPSILON.key, "share")
    if bound.value is None or math.isnan(bound.value):
        return (f"No bound on epsilon: {shown(str(audit.mia_audit.epsilon_lb.get('reason')))}.",)
    confidence = audited(task, "epsilon_lb", "confidence", style="percent")
    keys = ("n_canaries", "n_correct", "guesses_in", "guesses_out")
    canaries, right, ins, outs = (audited(task, "epsilon_lb", key, style="count") for key in keys)
    guessed = (
        title(task.attack),
        " guessed ",
        right,
        " of them right, from its ",
        ins,
        " highest and ",
        outs,
        " lowest",
    )
    told = (
        *("Coins decided which of ", canaries, " canaries were trained on. ", *guessed, " scores. With ", confidence),
        *(" confidence the training is not differentially private for any epsilon below ", bound),
        ". It is a lower bound: 0 does not mean private.",
    )
    gaussian, mu = (audited(task, "epsilon_lb", "gaussian_dp", key, style="share") for key in ("epsilon_lb", "mu_lb"))
    if gaussian.value is None:  # earlier versions had none
        return told
    return (
        *(*told, " For training that is Gaussian-differentially private for some mu, as added Gaussian noise makes "),
        *("it, the same guesses give ", gaussian, " (mu at least ", mu, "); of other training this says nothing."),
    )


def _blind(audit: Audit) -> Text:
    """What words alone tell: whether the data give membership away by themselves."""
    found, first = audit.mia_audit.blind, audit.tasks[0]
    if math.isnan(found.auroc):
        return (f"Without any model: not tested, {shown(str(found.reason))}.",)
    auroc, low, high = (audited(first, "blind", key, style="share") for key in ("auroc", "low", "high"))
    meaning = (
        "The data give membership away by themselves, so the attacks may have learned that."
        if found.low > BLIND.guess
        else "The words of the records alone do not give membership away, as far as this test sees."
    )
    return ("A classifier that sees no model reaches an AUROC of ", auroc, " (", low, " to ", high, f"). {meaning}")


def _stages(task: TaskResult) -> list[tuple[str, Sequence[Number]]]:
    """Each stage's tokens and seconds."""
    kinds = (
        ("forward_tokens", "count"),
        ("generated_tokens", "count"),
        ("training_tokens", "count"),
        ("seconds", "seconds"),
    )
    return [
        (shown(stage), [audited(task, "cost", stage, key, style=style) for key, style in kinds])
        for stage in task.mia_audit.cost
    ]


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """A nested JSON value as (path, printed) pairs."""
    if isinstance(value, Mapping) and value:
        return [
            pair for key, inner in value.items() for pair in _flat(inner, f"{prefix} › {key}" if prefix else str(key))
        ]
    if isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        return [pair for number, inner in enumerate(value, 1) for pair in _flat(inner, f"{prefix} › {number}")]
    if value is None:
        return [(shown(prefix), "not given")]
    printed = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return [(shown(prefix), shown(printed))]


def _exposure_table(audit: Audit, members: Exposures) -> dict[str, Any]:
    """The table of the most exposed members by column, with numbers as they are printed.

    Args:
        audit: the audit.
        members: all of them, the most exposed first.
    """
    total, members = len(members), members[:MAX_ROWS]
    texts = audit.records.texts(members.ids) if audit.records else {}
    limit = max(_LEAST_TEXT, min(MAX_TEXT, _ALL_TEXTS // max(len(members), 1)))
    tasks = [task for task in ranked(audit) if (members.rank[members.names.index(task.attack)] > 0).any()]
    attacks = [_columns(task, members) for task in tasks]
    places = {task.attack: place for place, task in enumerate(tasks)}
    best = [places.get(member.lowest_share_attack or "") for member in members]
    lowest = [None if place is None else attacks[place]["higher"][row] for row, place in enumerate(best)]
    return {
        "total": total,
        "ids": [shown(record_id) for record_id in members.ids],
        "texts": [_excerpt(texts.get(record_id, ""), limit) for record_id in members.ids] if texts else None,
        "lowest": lowest,
        "zero": [int(count == 0) for count in lowest],
        "best": best,
        "attacks": attacks,
        **_p_values(members),
    }


def _p_values(members: Exposures) -> dict[str, Any]:
    """The column of p-values as it is printed, of the attack that gives them; nothing where none does."""
    name = next(iter(members.p_value), None)
    if name is None:
        return {}
    values = [None if math.isnan(p) else STYLES["score"](p) for p in members.p_value[name].tolist()]
    return {"p": {"title": title(name), "values": values}}


def _excerpt(text: str, limit: int) -> str:
    """A text safe to show, and short enough for a cell."""
    limit = limit if text.isascii() else limit // 3  # the page's data are ASCII: six characters for any other one
    rest = len(text) - limit
    return shown(text) if rest <= 0 else f"{shown(text[:limit])} … ({rest:,} more characters)"


def _columns(task: TaskResult, members: Exposures) -> dict[str, Any]:
    """One attack's columns: score as it is printed, rank among all scored, and how many others score as high."""
    number = members.names.index(task.attack)
    ranks, counts = members.rank[number].tolist(), members.at_least[number].tolist()
    scores = members.score[number].tolist()
    return {
        "name": task.attack,
        "title": title(task.attack),
        "scored": members.scored[number],
        "others": members.others[number],
        "score": [STYLES["score"](score) if rank else None for score, rank in zip(scores, ranks, strict=True)],
        "rank": [rank or None for rank in ranks],
        "higher": [None if count < 0 else count for count in counts],
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
