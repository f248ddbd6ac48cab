"""What stands in a folder of evidence: the facts of an audit in the order in which an auditor asks for them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from spvmia_plugin import __version__
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.evidence.attackers import asked_in_words, attacker_facts
from spvmia_plugin.evidence.clauses import CLAUSES
from spvmia_plugin.evidence.copies import copy_results, copy_samples
from spvmia_plugin.evidence.residual import did_not_hold, residual_risk
from spvmia_plugin.evidence.sealing import FACTS, SIGNED, Signed, seal, sign
from spvmia_plugin.evidence.subjects import by_unit_facts, group_facts, unit_facts
from spvmia_plugin.metrics.names import AUROC, TPRS
from spvmia_plugin.report.command import command
from spvmia_plugin.report.numbers import plain, ranked, title
from spvmia_plugin.report.saving import PAGE, write_page
from spvmia_plugin.report.verdict import judge
from spvmia_plugin.results import Audit, HarnessRun, TaskResult
from spvmia_plugin.results.bound import Bound, BoundVerdict, hold
from spvmia_plugin.results.estimate import of_blind
from spvmia_plugin.results.model import failed
from spvmia_plugin.util.console import shown
from spvmia_plugin.util.files import write_private
from spvmia_plugin.util.redact import without_secrets
from spvmia_plugin.util.strict_json import finite, utf8
from spvmia_plugin.web import page as web
from spvmia_plugin.web.text import day, interval, listed, printed, typed, worded

FORMAT = 1
"""Version of the JSON's layout."""
EVIDENCE = "evidence.html"
COLOURS = ("paper card ink soft line grey", "accent accent-ink wash", "warn warn-wash warn-line")


@dataclass(frozen=True)
class Signatory:
    """Who stands for it, as they say themselves.

    Attributes:
        auditor: who ran it.
        organisation: for whom.
        relation: to the model's developer: `first party`, ...
        statement: what else they say.
    """

    auditor: str | None = None
    organisation: str | None = None
    relation: str | None = None
    statement: str | None = None


def write_evidence(
    run: HarnessRun,
    folder: Path,
    signatory: Signatory,
    *,
    samples: bool = True,
    key: Path | None = None,
    minisign: bool = False,
) -> list[Path]:
    """Write the folder, its list of hashes and the signature: all of it, or nothing, so that it can be tried again.

    Credentials in the run's files are hidden in their copies; `hidden` of the facts counts them by file.

    Args:
        run: the audit.
        folder: that is made; it holds nothing yet.
        signatory: who stands for it.
        samples: whether the scores of single records are part of it. They name training records.
        key: a private key to sign the list with. The facts say so, for a signature that was taken away to be missed.
        minisign: whether the key is one of minisign, not of ssh.

    Returns:
        The files, the list and its signature last.

    Raises:
        SpvmiaError: samples of an attack are missing, the folder holds something already, or cannot be written, or the
            key does not sign.
    """
    for audit in run.audits:
        if audit.without_samples:
            raise SpvmiaError(
                f"RESULTS: expected the samples of every attack, got none of {', '.join(audit.without_samples)}; put "
                "their files back, or run again"
            )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SpvmiaError(f"--output: expected a new or empty folder, got {folder}, which is neither; name another")
    signed: Signed | None = None if key is None else "minisign" if minisign else "ssh"
    try:
        with _whole_or_not_at_all(folder):
            results = folder / "results"
            results.mkdir(mode=0o700)
            hidden = {run.path.name: copy_results(run.path, results / run.path.name)}
            for path in dict.fromkeys(_samples(run) if samples else []):
                hidden[path.name] = copy_samples(path, results / path.name)
            facts = {**evidence_facts(run, signatory, samples=samples), "hidden": hidden, SIGNED: signed}
            write_private(folder / FACTS, (json.dumps(facts, indent=1, allow_nan=False) + "\n").encode("utf-8"))
            write_private(folder / EVIDENCE, _page(run, facts).encode("utf-8"))
            if samples:  # it names records
                write_page(run, folder / PAGE)
            written = sorted(path for path in folder.rglob("*") if path.is_file())
            seals = [seal(folder), *([] if key is None else [sign(folder, key, minisign=minisign)])]
    except OSError as error:
        raise SpvmiaError(f"--output: cannot write to {folder} ({error.strerror}); name another folder") from error
    return [*written, *seals]


@contextmanager
def _whole_or_not_at_all(folder: Path) -> Iterator[None]:
    """An empty folder for its owner alone, which is as it was before if what is done in it does not end well."""
    was_there = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    mode = folder.stat().st_mode
    try:
        folder.chmod(0o700)
        yield
    except BaseException:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if was_there:
            folder.chmod(mode)
        else:
            folder.rmdir()
        raise


def _samples(run: HarnessRun) -> list[Path]:
    return [task.records.path for audit in run.audits for task in audit.tasks if task.records is not None]


def evidence_facts(run: HarnessRun, signatory: Signatory, *, samples: bool) -> dict[str, Any]:
    """All that the folder says, for programs; NaN is null."""
    facts = {
        "format": FORMAT,
        "generator": f"spvmia-plugin {__version__}",
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "signatory": asdict(signatory),
        "run": {
            "model": run.model,
            "date": datetime.fromtimestamp(run.date, tz=timezone.utc).isoformat(timespec="seconds"),
            "command": command(run),
            "versions": dict(run.versions),
            "results_file": run.path.name,
        },
        "samples": samples,
        "audits": [_audit_facts(audit) for audit in run.audits],
        "clauses": [asdict(clause) for clause in CLAUSES],
    }
    # A terminal of another encoding than ours gives half surrogates for what an auditor is called.
    clean: dict[str, Any] = utf8(finite(without_secrets(facts)))
    return clean


def _audit_facts(audit: Audit) -> dict[str, Any]:
    told, bound = audit.mia_audit, Bound.of(audit)
    verdict = judge(audit)
    return {
        "dataset": audit.dataset,
        "verdict": {
            "headline": verdict.headline,
            "sentences": [plain(sentence) for sentence in verdict.sentences],
            "provisional": verdict.provisional,
            "membership": verdict.membership,
        },
        "bound": None if bound is None else asdict(hold(audit, bound)),
        "data": {
            "source": told.data.source,
            "fingerprint": told.data.fingerprint,
            "members": told.n.members,
            "nonmembers": told.n.nonmembers,
            "prompts": told.n.prompts,
            "privacy_unit": unit_facts(audit),
            "documents": len(set(audit.clusters())),
            "block_size": told.data.block_size,
            "membership": told.membership,
            "drawn": dict(told.data.provenance),
        },
        "models": {role: dict(identity) for role, identity in told.models.items()},
        "by_unit": by_unit_facts(audit),
        "groups": group_facts(audit),
        "attackers": [attacker_facts(task) for task in [*ranked(audit), *_blind_tasks(audit)]],
        "blind": asdict(of_blind(audit)),
        "conditions": [asdict(finding) for finding in told.preconditions],
        "notes": list(told.notes),
        "cost": {stage: dict(spent) for stage, spent in told.cost.items()},
        "settings": dict(told.settings),
        "versions": dict(told.versions),
        "residual_risk": list(residual_risk(audit)),
    }


def _blind_tasks(audit: Audit) -> list[TaskResult]:
    return [task for task in audit.tasks if task not in audit.model_attacks]


def _page(run: HarnessRun, facts: Mapping[str, Any]) -> str:
    """The facts as one HTML file that loads nothing, and prints as it stands."""
    return web.render(
        web.templates("spvmia_plugin.evidence"),
        "spvmia_plugin.evidence",
        "evidence",
        web.theme(COLOURS),
        script=False,
        facts=facts,
        date=day(run.date),
        hidden=[(shown(name), number) for name, number in facts["hidden"].items() if number],
        written=facts["written"].partition("+")[0].replace("T", " ") + " UTC",
        model=shown(run.model),
        command="\n".join(shown(line) for line in typed(facts["run"]["command"]).split("\n")),
        audits=[_audit_view(audit, told) for audit, told in zip(run.audits, facts["audits"], strict=True)],
    )


def _audit_view(audit: Audit, told: Mapping[str, Any]) -> dict[str, Any]:
    bound, conditions = Bound.of(audit), {did_not_hold(finding) for finding in failed(audit)}
    return {
        "told": told,
        "bound": None if bound is None else _bound_view(hold(audit, bound)),
        "attackers": [
            {
                **each,
                "title": shown(each["title"]),
                "given": shown(each["given"]),
                "sees": shown(each["sees"]),
                "asked": [shown(words) for words in asked_in_words(each["asked_of_target"])],
                "numbers": [_cell(each[metric.key], each[metric.key].get("threshold")) for metric in (AUROC, *TPRS)],
                "parameters": listed(f"{shown(str(k))} {shown(str(v))}" for k, v in each["parameters"].items()),
            }
            for each in told["attackers"]
        ],
        "metrics": [metric.label for metric in (AUROC, *TPRS)],
        "not_resolved": _not_resolved(told["attackers"]),
        "by_unit": None if told["by_unit"] is None else _by_unit_view(told["by_unit"]),
        "groups": None if told["groups"] is None else _groups_view(told["groups"]),
        "conditions": [(finding["severity"], shown(worded(finding["message"]))) for finding in told["conditions"]],
        "residual_risk": [worded(sentence) for sentence in told["residual_risk"] if sentence not in conditions],
        "conditions_failed": sum(finding["severity"] == "warning" for finding in told["conditions"]),
        "models": [(shown(role), _pairs(identity)) for role, identity in told["models"].items()],
        "data": _pairs(told["data"]),
        "settings": _pairs(told["settings"]),
    }


def _bound_view(verdict: BoundVerdict) -> dict[str, Any]:
    return {
        "outcome": verdict.outcome.replace("_", " "),
        "when": verdict.when(),
        "held": [(held.outcome.replace("_", " "), shown(held.in_words())) for held in verdict.held],
    }


def _cell(told: Mapping[str, Any], threshold: float | None) -> tuple[str, list[str]]:
    """A number as it stands in a cell, and what stands below it: its interval, and its threshold."""
    below = [interval(told["low"], told["high"])]
    if threshold is not None and told["value"] is not None:
        below.append(f"from a score of {printed(threshold, 'score')}")
    return printed(told["value"]), [words for words in below if words]


def _not_resolved(attackers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why some numbers are not there, each reason once with the numbers and attacks that it is of."""
    whose: dict[tuple[str, str], list[str]] = {}
    for each in attackers:
        for metric in (AUROC, *TPRS):
            if each[metric.key]["value"] is None:
                # Without any score each metric has its own words for that.
                told = each[metric.key if each["scored"] else AUROC.key]
                reason = shown(worded(str(told["reason"] or "no reason was recorded")))
                whose.setdefault((metric.label, reason), []).append(shown(each["title"]))
    labels: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (label, reason), names in whose.items():
        labels.setdefault((reason, tuple(names)), []).append(label)
    every = len(attackers)
    return [
        f"{', '.join(of)} of {'all attacks' if len(names) == every else listed(names)}: {reason}"
        for (reason, names), of in labels.items()
    ]


def _by_unit_view(told: Mapping[str, Any]) -> dict[str, Any]:
    alone, attackers = told["records_of_a_unit_alone"], told["attackers"]
    strongest = told["strongest"] and told["strongest"][AUROC.key]
    return {
        "aggregate": told["aggregate"],
        "rows": [(shown(each["title"]), [_cell(each[m.key], None) for m in (AUROC, *TPRS)]) for each in attackers],
        "strongest": None if not strongest or strongest["value"] is None else _of_leader(strongest),
        "given": [(point["records"], _given_number(point)) for point in told["given_records"]],
        "alone": _number(alone[AUROC.key], alone["low"], alone["high"]),
        "not_resolved": _not_resolved(attackers),
    }


def _groups_view(told: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "worst": told["worst"] and shown(told["worst"]),
        "rows": [
            {
                "name": shown(each["group"]),
                "sizes": (each["members"], each["nonmembers"]),
                "auroc": _of_leader(each[AUROC.key]),
                "most_exposed": f"{each['low_end']}: {_of_leader(each['most_exposed'])}",
                "reason": each["reason"] and shown(each["reason"]),
            }
            for each in told["groups"]
        ],
    }


def _given_number(point: Mapping[str, Any]) -> str:
    number = _number(point[AUROC.key], *point["interval"])
    return f"{number} ({shown(worded(point['reason']))})" if point["reason"] else number


def _number(value: float | None, low: float | None, high: float | None) -> str:
    ends = interval(low, high)
    return f"{printed(value)} ({ends})" if ends else printed(value)


def _of_leader(told: Mapping[str, Any]) -> str:
    """The number of whichever attack has most of a metric, with that attack's name."""
    number = _number(told["value"], told["low"], told["high"])
    return f"{number} by {shown(title(told['attack']))}" if told["attack"] else number


def _pairs(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is recorded, a line for each value, those of mappings and lists behind the name of their whole."""
    return [
        (shown(" › ".join(path)), shown(value if isinstance(value, str) else json.dumps(value)))
        for path, value in _leaves(told, ())
    ]


def _leaves(told: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value with the names that lead to it. Short lists of values are one; of mappings each has its number."""
    if isinstance(told, Mapping):
        for name, inner in told.items():
            yield from _leaves(inner, (*path, str(name)))
    elif isinstance(told, (list, tuple)) and any(isinstance(inner, Mapping) for inner in told):
        for number, inner in enumerate(told, 1):
            yield from _leaves(inner, (*path, str(number)) if len(told) > 1 else path)
    elif told not in (None, [], {}):
        yield path, told
