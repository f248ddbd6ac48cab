"""Copies of a run's files that hold no credential: what is handed on and signed is read by others."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from spvmia_plugin.results.files import MAX_SAMPLES, lines_of, load_results, open_regular
from spvmia_plugin.util.files import write_private
from spvmia_plugin.util.redact import count_hidden, without_secrets

_HAS_REASON = re.compile(rb'\\"reason\\":\s*\\"')
"""In a line of samples, whose answers are JSON inside of JSON."""


def copy_results(path: Path, copy: Path) -> int:
    """Copy a results file without the credentials in it; one that has none stays what it is, byte for byte.

    Args:
        path: lm_eval's results file, with the arguments of its model and the options of its tasks.
        copy: where it is written, for its owner alone.

    Returns:
        How many values are hidden.

    Raises:
        SpvmiaError: it cannot be read.
        OSError: the copy cannot be written.
    """
    raw = load_results(path)
    shown = without_secrets(raw)
    hidden = count_hidden(raw, shown)
    if hidden:
        write_private(copy, json.dumps(shown, indent=2, ensure_ascii=False).encode("utf-8"))
    else:
        shutil.copyfile(path, copy)
        os.chmod(copy, 0o600)
    return hidden


def copy_samples(path: Path, copy: Path) -> int:
    """The same of a samples file. Only reasons are words of somebody else, a server's for one; ids stay as they are.

    Args:
        path: lm_eval's samples file of one attack.
        copy: where it is written, for its owner alone.

    Returns:
        How many values are hidden.

    Raises:
        SpvmiaError: it cannot be read.
        OSError: the copy cannot be written.
    """
    copy.touch(mode=0o600)
    hidden = 0
    with open_regular(path, MAX_SAMPLES) as file, copy.open("wb") as written:
        for _, line in lines_of(file):
            found = 0
            if _HAS_REASON.search(line):  # parsing all of 200,000 lines would take minutes
                line, found = _clean_line(line)
            written.write(line)
            hidden += found
    return hidden


def _clean_line(line: bytes) -> tuple[bytes, int]:
    """The line without credentials in its reasons, and how many there were; one without stays what it is."""
    raw = json.loads(line)
    shown = {key: _clean_answers(value) if key in ("resps", "filtered_resps") else value for key, value in raw.items()}
    hidden = count_hidden(raw, shown)
    return (json.dumps(shown) + "\n").encode("ascii") if hidden else line, hidden


def _clean_answers(answers: Any) -> Any:
    """Lists of answers, each a record's score and reason as JSON; only the first is read, and checked, elsewhere."""
    if isinstance(answers, list):
        return [_clean_answers(each) for each in answers]
    try:
        told = json.loads(answers)
        reason = told["reason"]
    except (LookupError, TypeError, ValueError):
        return without_secrets(answers)
    shown = without_secrets(reason)
    return answers if shown == reason else json.dumps({**told, "reason": shown})
