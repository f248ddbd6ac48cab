"""How it was measured: what was checked and computed, with which settings, and where it comes from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from spvmia_plugin.checks import percent
from spvmia_plugin.metrics.names import BLIND, EPSILON
from spvmia_plugin.report.numbers import SMALL_P, Number, Text, audited, metric, ranked, small_p_values, title
from spvmia_plugin.results import Audit, TaskResult
from spvmia_plugin.util.console import shown, shown_lines
from spvmia_plugin.util.redact import without_secrets
from spvmia_plugin.util.strict_json import is_number, is_whole
from spvmia_plugin.web.text import NOT_RESOLVED, worded


def measured(audit: Audit) -> dict[str, Any]:
    """All of it, as the template lays it out."""
    told, notes = audit.told, [found.message for found in audit.mia_audit.preconditions if found.severity != "warning"]
    notes += [*_what_was_read(audit), *_what_references_say(audit), *audit.mia_audit.notes]
    provenance = {
        "data": {key: value for key, value in told["data"].items() if key != "clusters"},
        **{key: told[key] for key in ("scored", "self_prompts") if told.get(key)},
        **{key: told[key] for key in ("models", "stages", "seed", "versions")},
    }
    return {
        "blind": _blind(audit),
        "epsilon": epsilon(audit),
        "notes": [shown(worded(note)) for note in notes],
        "stages": _stages(audit.tasks[0]),
        "from_store": audit.from_store,
        "settings": _flat(without_secrets(told["settings"])),
        "provenance": _flat(without_secrets(provenance)),
    }


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
            f"{title(attack)} gives p-values: {percent(share)} of the non-members have one of at most {SMALL_P}; many "
            f"more than {percent(SMALL_P)} would say that the target differs from its references by more than they "
            "allow for"
        )
    return lines


def epsilon(audit: Audit) -> Text | None:
    """The bound on epsilon of a canary audit."""
    if not audit.tasks[0].is_canary_audit:
        return None
    task = audit.tasks[0]
    bound = metric(task, EPSILON.key, "share")
    if bound.value is None or math.isnan(bound.value):
        return (f"No bound on epsilon: {shown(worded(str(audit.mia_audit.epsilon_lb.get('reason'))))}.",)
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
        return (f"Without any model: not tested, {shown(worded(str(found.reason)))}.",)
    auroc, low, high = (audited(first, "blind", key, style="share") for key in ("auroc", "low", "high"))
    meaning = (
        "The data give membership away by themselves, so the attacks may have learned that."
        if found.low > BLIND.guess
        else "The words of the records alone do not give membership away, as far as this test sees."
    )
    return (
        "A classifier of words, style and length that sees no model reaches an AUROC of ",
        auroc,
        " (",
        low,
        " to ",
        high,
        f"). {meaning}",
    )


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
    if isinstance(value, float) and math.isnan(value):
        return [(shown(prefix), NOT_RESOLVED)]
    printed = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return [(shown(prefix), shown_lines(printed))]
