"""Whatever somebody else's code raises or warns of while it holds a record, the record is not in what is said."""

from __future__ import annotations

import asyncio
import errno
import re
import sys
import traceback
import warnings
from functools import partial
from pathlib import Path

import pytest

import spvmia_plugin.attacks.base
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import Document
from spvmia_plugin.util.boundary import behind
from spvmia_plugin.util.quotes import LEFT_OUT, Quotes

TEXT = "Jane Roe of 12 Elm Street owes Dr. Müller\n\tnine thousand euros since May"
OTHER = "the second record is about something else entirely, and as private"


def texts() -> list[tuple[str, str]]:
    return [("private.jsonl:7", TEXT), ("private.jsonl:8", OTHER)]


def chained(text: str) -> None:
    try:
        {}[text]
    except KeyError as error:
        raise ValueError(f"cannot read {text}") from error


def in_a_context(text: str) -> None:
    try:
        raise ValueError(text)
    finally:
        raise LookupError("while handling")


def noted(text: str) -> None:
    error = ValueError("noted")
    error.__notes__ = [text]
    raise error


def as_type(text: str) -> None:
    raise type(text, (Exception,), {})


def unicode_error(text: str) -> None:
    raise UnicodeEncodeError("ascii", text, 0, 1, text)


def system_exit(text: str) -> None:
    raise SystemExit(text)


def ours(text: str) -> None:
    raise SpvmiaError(f"mia_x: expected words, got {text!r}")


def ours_in_capitals(text: str) -> None:
    raise SpvmiaError(f"mia_x: got {text.upper()}")


def ours_joined(text: str) -> None:
    raise SpvmiaError(f"mia_x: got {' | '.join(text.split())}")


def ours_as_words(text: str) -> None:
    raise SpvmiaError(f"mia_x: odd tokens {text.split()}")


def out_of_memory(text: str) -> None:
    raise MemoryError(text)


def panics(text: str) -> None:
    """As pyo3 tells a panic of Rust: by a class whose module nobody can import, and which is no `Exception`."""
    panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})
    raise panic(f"byte index 5 is not a char boundary; it is inside 'x' of `{text}`")


def cancelled(text: str) -> None:
    raise asyncio.CancelledError(text)


def grouped(text: str) -> None:
    if sys.version_info < (3, 11):
        panics(text)
    raise BaseExceptionGroup(text, [KeyboardInterrupt(text), ValueError(text)])  # noqa: F821 - checked above


def as_name_of_a_class(text: str) -> None:
    raise type(re.sub(r"\W", "_", text)[:50], (Exception,), {})


def as_name_of_a_file(text: str) -> None:
    exec(compile("raise ValueError", text, "exec"), {"__name__": __name__})


def from_a_document(text: str) -> None:
    def read(document: Document) -> None:
        raise ValueError(document.text)

    read(Document("private.jsonl:7", text))


WAYS = [chained, in_a_context, noted, as_type, unicode_error, system_exit, ours, ours_in_capitals, ours_joined]
WAYS += [ours_as_words, out_of_memory, panics, cancelled, grouped, as_name_of_a_class, as_name_of_a_file]


@pytest.mark.parametrize("way", [*WAYS, from_a_document])
def test_the_text_is_in_nothing_that_is_said(way) -> None:
    with pytest.raises(SpvmiaError) as caught:
        behind(lambda: way(TEXT), doing="the audit", texts=texts, log_text=False)
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    said = "".join(traceback.format_exception(error)) + str(error.code) + repr(error)
    assert "Elm" not in said
    assert "ELM" not in said
    assert "Roe" not in said
    assert str(error).startswith("the audit: expected ")
    assert " with private.jsonl:7 at " in str(error)
    assert "util/test_boundary.py:" in str(error)
    assert "mia_log_text" in str(error)


@pytest.mark.parametrize("way", WAYS)
def test_where_no_texts_are_known_yet(way) -> None:
    """While data are read: what the calls were made with is taken to be private."""
    with pytest.raises(SpvmiaError) as caught:
        behind(lambda: way(TEXT), doing="reading the data")
    assert "elm" not in str(caught.value).casefold()
    assert "mia_log_text" not in str(caught.value)


@pytest.mark.parametrize("way", [chained, noted, system_exit, ours])
def test_whoever_allows_text_sees_it(way) -> None:
    with pytest.raises(SpvmiaError) as caught:
        behind(lambda: way(TEXT), doing="the audit", texts=texts, log_text=True)
    assert "Elm" in "".join(traceback.format_exception(caught.value))


def test_a_plugins_own_error_that_quotes_nothing_is_kept() -> None:
    def refuse(text: str) -> None:
        raise SpvmiaError("mia_level: expected a number >= 0, got -1; correct it")

    with pytest.raises(SpvmiaError, match=r"^mia_level: expected a number >= 0, got -1; correct it$"):
        behind(lambda: refuse(TEXT), doing="the audit", texts=texts)


def test_ours_come_through_as_they_are() -> None:
    from spvmia_plugin.plugins import Registry

    with pytest.raises(SpvmiaError, match=r"^data set: expected one of known, got 'unknown'"):
        behind(lambda: Registry._known("data set", "unknown", {"known": 1}), doing="the audit", texts=texts)


def test_what_the_system_says_is_kept() -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, TEXT, TEXT)

    with pytest.raises(SpvmiaError, match=r"got OSError \(No space left on device\) at") as caught:
        behind(full, doing="the audit", texts=texts)
    assert "Elm" not in str(caught.value)


def test_the_distribution_is_named() -> None:
    import numpy as np

    with pytest.raises(SpvmiaError, match=r"expected numpy \d\S* to finish, got AxisError at "):
        behind(partial(np.mean, np.zeros(3), axis=7), doing="the audit", texts=texts)


def test_the_class_of_a_panic_is_named() -> None:
    with pytest.raises(SpvmiaError, match="got PanicException with private"):
        behind(lambda: panics(TEXT), doing="the audit", texts=texts)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, GeneratorExit])
def test_what_stops_a_program_is_not_told_as_a_failure(kind: type[BaseException]) -> None:
    def stop(text: str) -> None:
        raise kind(text)

    with pytest.raises(kind) as caught:
        behind(lambda: stop(TEXT), doing="the audit", texts=texts)
    assert "Elm" not in "".join(traceback.format_exception(caught.value))


def test_an_interrupt_comes_through_without_what_was_being_handled() -> None:
    def interrupted(text: str) -> None:
        try:
            raise ValueError(text)
        except ValueError:
            raise KeyboardInterrupt  # noqa: B904 - as a user does

    with pytest.raises(KeyboardInterrupt) as caught:
        behind(lambda: interrupted(TEXT), doing="the audit", texts=texts)
    assert caught.value.__context__ is None


def test_an_answer_comes_through() -> None:
    assert behind(lambda: 3, doing="the audit") == 3


def test_warnings_keep_category_and_place() -> None:
    def warn(text: str) -> None:
        for _ in range(3):
            warnings.warn(f"odd text: {text}", RuntimeWarning, stacklevel=1)

    before = warnings.showwarning
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        behind(lambda: warn(TEXT), doing="the audit", texts=texts)
    assert [str(each.message) for each in seen] == ["RuntimeWarning, whose message may quote a record and is left out"]
    assert seen[0].filename == __file__
    assert warnings.showwarning is before
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        behind(lambda: warn(TEXT), doing="the audit", texts=texts, log_text=True)
    assert "Elm" in str(seen[0].message)


def caller_of_ours(text: str) -> None:
    warnings.warn(f"odd text: {text}", stacklevel=2)


def far_caller(text: str) -> None:
    warnings.warn(f"odd text: {text}", stacklevel=9)


def class_named_by_text(text: str) -> None:
    warnings.warn("odd", type(re.sub(r"\W", "_", text), (UserWarning,), {}), stacklevel=1)


def file_named_by_text(text: str) -> None:
    warnings.warn_explicit("odd", UserWarning, text, 3)


def line_of_text(text: str) -> None:
    """Asks for the line to be printed below, as `warnings` reads it from what it takes to be the source."""
    warnings.showwarning(UserWarning(text), UserWarning, __file__, 3, None, text)


@pytest.mark.parametrize("warn", [caller_of_ours, far_caller, class_named_by_text, file_named_by_text, line_of_text])
def test_whomever_a_warning_names_as_its_place(warn) -> None:
    lines: list[str] = []

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        lines.append(warnings.formatwarning(message, category, filename, lineno, line))

    ours = {"__name__": "spvmia_plugin.attacks.base", "warn": warn, "TEXT": TEXT}
    place = str(Path(spvmia_plugin.attacks.base.__file__))
    call = compile("def call():\n    warn(TEXT)", place, "exec")
    exec(call, ours)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        behind(ours["call"], doing="the audit", texts=texts)
    [said] = lines
    assert "whose message may quote a record and is left out" in said
    assert "Elm" not in said
    if warn is caller_of_ours:
        assert said.startswith(f"{place}:2: UserWarning: UserWarning, whose message")


@pytest.mark.parametrize(
    ("line", "quoted"),
    [
        (TEXT, True),
        ("x " + TEXT[12:40], True),
        (f"got {TEXT!r}", True),
        (f"got {TEXT!a}", True),
        ("JANE ROE OF 12 ELM STREET", True),
        ("Jane   Roe of\n12 Elm Street", True),
        ("no scored tokens", False),
        ("expected a number, got a short word", False),
        ("Jane Roe of 12 Elm", False),  # 18 characters: names of files may be as alike
        ("secret pin 0000 here", True),  # a short record as a whole
        ("", False),
    ],
)
def test_what_counts_as_a_quotation(line: str, quoted: bool) -> None:
    quotes = Quotes(lambda: [OTHER, TEXT, "pin 0000", "no"])
    assert quotes.in_line(line) is quoted
    assert quotes.without(line) == (LEFT_OUT if quoted else line)


def test_a_reason_for_every_record_is_no_reason() -> None:
    """Pieces of a text, each too short to be told from other words."""
    quotes = Quotes(lambda: [OTHER])
    assert quotes.without("the first") == "the first"
    told = [quotes.without(f"piece {i}") for i in range(200)]
    assert told.count(LEFT_OUT) > 90
    assert quotes.without("the first") == "the first"
    assert len(quotes.without("x" * 400) or "") <= 300


def test_json_is_cleaned_of_quotations() -> None:
    quotes = Quotes(lambda: [TEXT])
    value = {"note": TEXT, "steps": 3, "list": ["fine", TEXT, None], TEXT: 1}
    assert quotes.without_any(value) == {"note": LEFT_OUT, "steps": 3, "list": ["fine", LEFT_OUT, None], LEFT_OUT: 1}
