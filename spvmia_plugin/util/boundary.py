"""The boundary that other people's code stands behind: what it raises, warns of or tells may quote a record.

Attacks, perturbations, hooks, backends and data sets of plugins, and what our own code calls on records: tokenizers,
models, libraries. All of a run that touches records is called through `behind`.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distributions, packages_distributions, version
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import TextIO, TypeVar

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.util.quotes import Quotes

T = TypeVar("T")

Texts = Callable[[], Iterable[tuple[str, str]]]
"""Gives (id, text) of what is private; asked only when something goes wrong."""

_OURS = "spvmia_plugin"
_CARRIERS = {_OURS, "pluggy", "lm_eval", "__main__", *sys.stdlib_module_names}
"""Top-level modules that call the code that is looked for, but are not it."""

_NO_FILE = "<no file>"


def behind(call: Callable[[], T], *, doing: str, texts: Texts = tuple, log_text: bool | None = None) -> T:
    """Call what may run other people's code on records.

    Our own errors come through as they are. Any other exception, whatever its base, becomes one line with its type, the
    distribution and place it comes from and the record's id; message, cause and context go. So does an error that a
    plugin made with our class, if it quotes a text. Warnings keep their category and place. An interrupt comes through.

    Args:
        call: does it.
        doing: words for the line: "the audit".
        texts: what is private.
        log_text: whether the user allows text in what is said (`mia_log_text`); None where there is no such option.

    Raises:
        SpvmiaError: as above, or as `call` raises it.
    """
    try:
        with _warnings_without_text(bool(log_text)):
            return call()
    except (KeyboardInterrupt, GeneratorExit) as error:
        error.__cause__ = error.__context__ = None
        error.args = ()
        raise
    except BaseException as error:  # a panic of a library in Rust is no `Exception`, and says the text that it met
        failure = _told(error, doing, texts, log_text=log_text)
    raise failure  # not in the handler: what it was made from is no context of it


def is_foreign(thing: object) -> bool:
    """Whether an object's class, or a class, was written by somebody else."""
    module = (thing if isinstance(thing, type) else type(thing)).__module__
    return str(module).partition(".")[0] != _OURS


def _told(error: BaseException, doing: str, texts: Texts, *, log_text: bool | None) -> BaseException:
    """What is raised instead of an exception."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    lines = [line for _, line in walk_tb(error.__traceback__)]
    quotes = Quotes(lambda: [*(text for _, text in texts()), *_strings_in(frames)])
    if isinstance(error, SpvmiaError):
        if log_text:
            return error
        if _top(frames[-1]) == _OURS or not quotes.in_line(str(error)):
            error.__cause__ = error.__context__ = None
            return error
    kind = _class_name(type(error), "an exception", quotes)
    if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        kind += f" ({os.strerror(error.errno)})"
    record = _record_in(frames, {text: record_id for record_id, text in texts()})
    hint = "" if log_text is None else ": mia_log_text shows it"
    told = SpvmiaError(
        f"{doing}: expected {_owner(frames)} to finish, got {kind}{f' with {record}' if record else ''} at "
        f"{_place(frames, lines)}; "
        + (str(error) if log_text else f"its message may quote a record and is left out{hint}")
    )
    if log_text:
        told.__cause__ = error
    return told


def _owner(frames: list[FrameType]) -> str:
    """The distribution whose code was called: the first on the way that is neither ours nor a carrier."""
    for frame in frames:
        top = _top(frame)
        if top not in _CARRIERS:
            names = packages_distributions().get(top, [])
            if not names and sys.version_info < (3, 11):
                names = _owners(top)
            try:
                return f"{names[0]} {version(names[0])}" if names else f"the code of {_safe(top)}"
            except PackageNotFoundError:
                return _safe(names[0])
    return "spvmia-plugin's own code"


def _owners(top: str) -> list[str]:
    """Distributions with a file in a module's folder, which Python 3.10's own search leaves out."""
    return [
        found.metadata["Name"]
        for found in distributions()
        if any(file.parts[0] in (top, f"{top}.py") for file in found.files or ())
    ]


def _place(frames: list[FrameType], lines: list[int]) -> str:
    """Files and lines of the last calls, the innermost first."""
    places = [
        f"{_safe('/'.join(Path(_source(frame.f_code.co_filename)).parts[-2:]))}:{line}"
        for frame, line in zip(frames, lines, strict=True)
    ]
    return ", called at ".join(reversed(places[-3:]))


def _record_in(frames: list[FrameType], ids: dict[str, str]) -> str | None:
    """The id of the record that the innermost call was about: one of its names means the text, or what carries it."""
    for frame in reversed(frames):
        for value in list(frame.f_locals.values()):
            text = _text_of(value)
            if text in ids:
                return ids[text]
    return None


def _strings_in(frames: list[FrameType]) -> Iterator[str]:
    """What other people's functions were called with: the texts, where nobody could say yet what is private."""
    for frame in frames:
        if _top(frame) != _OURS:
            code, values = frame.f_code, frame.f_locals
            for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
                value = values.get(name)
                for one in value if isinstance(value, (list, tuple)) else [value]:
                    if (text := _text_of(one)) is not None:
                        yield text


def _text_of(value: object) -> str | None:
    """A text, or that of a document, record or signals of ours."""
    carried = value if isinstance(value, str) or is_foreign(value) else getattr(value, "text", None)
    return carried if isinstance(carried, str) else None


def _top(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _safe(name: str) -> str:
    return re.sub(r"[^\w./<>-]", "_", name)[:100]


def _class_name(kind: type[BaseException], otherwise: str, quotes: Quotes | None = None) -> str:
    """The name of a class, unless it may hold a text: one that was made at run time is called as its maker likes.

    What its module knows by that name stands in a source. Of others `quotes` is asked; without it they have no name.
    """
    name = kind.__name__
    if getattr(sys.modules.get(kind.__module__), name, None) is kind:
        return _safe(name)
    plain = re.fullmatch(r"\w{1,60}", name) is not None
    return name if plain and quotes is not None and not quotes.in_line(name) else otherwise


def _source(filename: str) -> str:
    """A file's name, unless there is none: whoever compiles a text says what its file is called."""
    known = os.path.isfile(filename) or re.fullmatch(r"<(?:frozen [\w.]+|string|stdin|template)>", filename)
    return filename if known else _NO_FILE


@contextmanager
def _warnings_without_text(log_text: bool) -> Iterator[None]:
    """Show of warnings the category and where they were raised, once each."""
    if log_text:
        yield
        return
    seen = set[tuple[str, str, int]]()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_origin(
            message: Warning | str, category: type[Warning], filename: str, lineno: int,
            file: TextIO | None = None, line: str | None = None,
        ) -> None:  # fmt: skip
            # The file says nothing of who warned: `stacklevel` names a caller, ours for one. We warn of nothing.
            name, place = _class_name(category, "a warning"), _source(filename)
            if (name, place, lineno) not in seen:
                seen.add((name, place, lineno))
                said = f"{name}, whose message may quote a record and is left out"
                show(UserWarning(said), UserWarning, place, lineno, file, None)

        warnings.showwarning = show_origin
        yield
