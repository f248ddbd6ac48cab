"""Verdicts on a bound as continuous integration reads them: JUnit XML and SARIF."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from spvmia_plugin import __version__
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.names import METRICS
from spvmia_plugin.results.bound import BoundVerdict, Held
from spvmia_plugin.util.console import shown
from spvmia_plugin.util.files import check_file_to_write, write_private

_LEVELS: Mapping[str, str] = {"exceeded": "error", "not_shown": "warning", "not_evaluable": "warning", "within": "none"}


def junit(verdicts: Sequence[BoundVerdict], model: str) -> str:
    """A test suite an audit, a test a metric. What is not shown fails too: it is no pass.

    Args:
        verdicts: of the audits.
        model: whose.
    """
    root = ElementTree.Element("testsuites", name=f"spvmia gate: {shown(model)}")
    for verdict in verdicts:
        outcomes = [held.outcome for held in verdict.held]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=shown(verdict.dataset),
            tests=str(len(outcomes)),
            failures=str(outcomes.count("exceeded") + outcomes.count("not_shown")),
            errors=str(outcomes.count("not_evaluable")),
        )
        for held in verdict.held:
            case = ElementTree.SubElement(suite, "testcase", name=_title(held), classname=f"spvmia.{verdict.dataset}")
            if held.outcome == "within":
                ElementTree.SubElement(case, "system-out").text = shown(held.in_words())
                continue
            kind = "error" if held.outcome == "not_evaluable" else "failure"
            told = ElementTree.SubElement(case, kind, type=held.outcome, message=shown(held.in_words()))
            told.text = f"{shown(held.in_words())}\n{verdict.when()}"
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def sarif(verdicts: Sequence[BoundVerdict], results_file: Path) -> str:
    """A SARIF 2.1.0 log: a result a metric, of kind `pass` where it is within its limit.

    Args:
        verdicts: of the audits.
        results_file: what they were read from.
    """
    keys = list(dict.fromkeys(held.metric for verdict in verdicts for held in verdict.held))
    rules = [
        {
            "id": f"spvmia/{key}",
            "name": METRICS[key].label,
            "shortDescription": {"text": f"{METRICS[key].label} stays below its declared limit"},
        }
        for key in keys
    ]
    found = [_sarif_result(verdict, held, keys, results_file) for verdict in verdicts for held in verdict.held]
    driver = {"name": "spvmia-plugin", "version": __version__, "rules": rules}
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": found}],
    }
    return json.dumps(log, indent=2, ensure_ascii=False) + "\n"


def _sarif_result(verdict: BoundVerdict, held: Held, keys: Sequence[str], results_file: Path) -> dict[str, Any]:
    passed = held.outcome == "within"
    return {
        "ruleId": f"spvmia/{held.metric}",
        "ruleIndex": keys.index(held.metric),
        "kind": "pass" if passed else "fail",
        "level": _LEVELS[held.outcome],
        "message": {"text": f"{shown(verdict.dataset)}: {shown(held.in_words())}; {verdict.when()}"},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": results_file.name}}}],
        "properties": {"outcome": held.outcome, "limit": held.limit},
    }


def _title(held: Held) -> str:
    return f"{held.label} below {held.limit:g}"


def write(path: Path, content: str, option: str) -> None:
    """Write a file for its owner alone.

    Raises:
        SpvmiaError: it cannot be written.
    """
    check_file_to_write(path, option)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path.resolve(), content.encode("utf-8"))
    except OSError as error:
        raise SpvmiaError(f"{option}: cannot write {path} ({error.strerror}); name another file") from error
