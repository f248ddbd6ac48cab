"""Verdicts on a bound as continuous integration reads them: JUnit XML and SARIF."""

from __future__ import annotations

import json
from collections import Counter
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

_BOUND, _NO_BOUND = "bound", "a bound"
"""What is missing of an audit without one: the rule's name, and in words."""


def junit(verdicts: Sequence[BoundVerdict], model: str) -> str:
    """A test suite an audit, a test a metric. What is not shown fails too: it is no pass.

    Args:
        verdicts: of the audits; one without a bound is a test that has no outcome.
        model: whose.
    """
    root = ElementTree.Element("testsuites", name=f"spvmia gate: {shown(model)}")
    seen: Counter[str] = Counter()
    for verdict in verdicts:
        outcomes = [held.outcome for held in verdict.held] or [verdict.outcome]
        after = verdict.held and verdict.declared is None
        named = f"spvmia.{verdict.dataset}{'.given_after_the_run' if after else ''}"
        seen[named] += 1
        # Several audits of one data set: of two tests of one name, a reader may keep the one that passed.
        number = f", audit {seen[named]}" if seen[named] > 1 else ""
        named += f".audit_{seen[named]}" if number else ""
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=shown(verdict.dataset) + (", given after the run" if after else "") + number,
            tests=str(len(outcomes)),
            failures=str(outcomes.count("exceeded") + outcomes.count("not_shown")),
            errors=str(outcomes.count("not_evaluable")),
        )
        for held in verdict.held:
            case = ElementTree.SubElement(suite, "testcase", name=_title(held), classname=named)
            if held.outcome == "within":
                ElementTree.SubElement(case, "system-out").text = shown(held.in_words())
                continue
            kind = "error" if held.outcome == "not_evaluable" else "failure"
            told = ElementTree.SubElement(case, kind, type=held.outcome, message=shown(held.in_words()))
            told.text = f"{shown(held.in_words())}\n{verdict.when()}"
        if not verdict.held:
            case = ElementTree.SubElement(suite, "testcase", name=_NO_BOUND.capitalize(), classname=named)
            ElementTree.SubElement(case, "error", type=verdict.outcome, message=verdict.when())
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def sarif(verdicts: Sequence[BoundVerdict], results_file: Path) -> str:
    """A SARIF 2.1.0 log: a result a metric, of kind `pass` where it is within its limit.

    Args:
        verdicts: of the audits.
        results_file: what they were read from.
    """
    keys = list(dict.fromkeys(held.metric for verdict in verdicts for held in verdict.held))
    texts = {key: (METRICS[key].label, f"{METRICS[key].label} stays below its declared limit") for key in keys}
    if not all(verdict.held for verdict in verdicts):
        texts[_BOUND] = (_NO_BOUND.capitalize(), "Every audit of the run has a bound")
    rules = [
        {"id": f"spvmia/{key}", "name": name, "shortDescription": {"text": text}} for key, (name, text) in texts.items()
    ]
    found = [
        _sarif_result(verdict, held, list(texts), results_file)
        for verdict in verdicts
        for held in verdict.held or (None,)
    ]
    driver = {"name": "spvmia-plugin", "version": __version__, "rules": rules}
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": found}],
    }
    return json.dumps(log, indent=2, ensure_ascii=False) + "\n"


def _sarif_result(verdict: BoundVerdict, held: Held | None, keys: Sequence[str], results_file: Path) -> dict[str, Any]:
    """One metric of an audit; None of an audit without a bound."""
    key, outcome = (_BOUND, verdict.outcome) if held is None else (held.metric, held.outcome)
    words = [] if held is None else [shown(held.in_words())]
    return {
        "ruleId": f"spvmia/{key}",
        "ruleIndex": keys.index(key),
        "kind": "pass" if outcome == "within" else "fail",
        "level": _LEVELS[outcome],
        "message": {"text": f"{shown(verdict.dataset)}: {'; '.join([*words, verdict.when()])}"},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": results_file.name}}}],
        "properties": {"outcome": outcome, **({} if held is None else {"limit": held.limit})},
    }


def _title(held: Held) -> str:
    return f"{held.label} below {held.limit:g}"


MARKS = {"--junit": '<testsuites name="spvmia gate: ', "--sarif": '"spvmia-plugin"'}
"""What an earlier file is known again by."""


def write(path: Path, content: str, option: str, mark: str) -> None:
    """Write a file for its owner alone.

    Args:
        path: the file.
        content: of it.
        option: what named it, for errors.
        mark: what an earlier output is known again by, which may be replaced.

    Raises:
        SpvmiaError: it cannot be written.
    """
    check_file_to_write(path, option, mark)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path.resolve(), content.encode("utf-8"))
    except OSError as error:
        raise SpvmiaError(f"{option}: cannot write {path} ({error.strerror}); name another file") from error
