"""One call of a harness's LM that writes: what it logs tells of no record and no key, and it follows no redirect.

The harness's own API classes log the headers of each request that failed, and the bodies of answers, which may quote
what was asked. Their requests go wherever a redirect leads.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from spvmia_plugin.engines.telling import elsewhere, hidden, secrets_of
from spvmia_plugin.util.libraries import isolated_rng

LOGGERS = "lm_eval.models"
"""What the harness's LMs log by, each module by a name below it."""

T = TypeVar("T")


class Unanswered(Exception):
    """An LM raised something: the status of an answer, if it was one, and what may be told of it."""

    def __init__(self, status: int | None, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Calls:
    """Calls of one LM.

    Args:
        lm: the harness's LM.
        log_text: whether what it logs may quote a record (`mia_log_text`). Keys are hidden all the same.
    """

    def __init__(self, lm: Any, *, log_text: bool) -> None:
        self._lm = lm
        self._told = _WithoutWords(type(lm).__name__) if not log_text else _WithoutSecrets(partial(_secrets_of_lm, lm))

    def generate(self, asked: Sequence[Any], seed: int) -> list[Any]:
        """What the LM writes, one answer a request.

        Args:
            asked: requests of `generate_until`.
            seed: of the global generators meanwhile: LMs in this process draw from their state.

        Raises:
            Unanswered: it raised something.
        """
        with self._careful():
            try:
                with isolated_rng(seed), _unredirected(self._lm):
                    return list(self._lm.generate_until(asked))
            except Exception as error:  # whatever its libraries raise
                # Not its words: they may hold an address with a key, or a text.
                raise Unanswered(_status_of(error), _reason(error, self._lm)) from None

    @contextmanager
    def _careful(self) -> Iterator[None]:
        """Loggers of the LM go through a filter, and are as before in the end."""
        modules = {cls.__module__ for cls in type(self._lm).__mro__} - {"builtins"}
        names = {name for name in logging.root.manager.loggerDict if f"{name}.".startswith(f"{LOGGERS}.")}
        loggers = [logging.getLogger(name) for name in sorted(names | modules)]
        for logger in loggers:
            logger.addFilter(self._told)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(self._told)


class _WithoutWords(logging.Filter):
    """Of what an LM warns of leaves the kind, once: one line of each is enough for a run."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return False
        words = record.getMessage()
        found = _STATUS.search(words), _ERROR.search(words)
        kind = f"HTTP status {found[0][1]}" if found[0] else found[1][1] if found[1] else f"line {record.lineno}"
        is_new = kind not in self._seen
        self._seen.add(kind)
        words = f"{self._name} warns ({kind}) in words that may quote a record, left out (mia_log_text shows them)"
        _say(record, words)
        return is_new


class _WithoutSecrets(logging.Filter):
    """Leaves out keys, and what looks like one."""

    def __init__(self, secrets: Callable[[], Sequence[str]]) -> None:
        super().__init__()
        self._secrets = secrets

    def filter(self, record: logging.LogRecord) -> bool:
        _say(record, hidden(record.getMessage(), self._secrets()))
        return True


_STATUS = re.compile(r"\bstatus(?:[ _]code)?\W{1,3}([1-5]\d\d)\b", re.IGNORECASE)
"""As aiohttp's errors and the harness's own lines have it."""
_ERROR = re.compile(r"\bException:\s*(\w{1,60}(?:Error|Exception|Timeout))\b")
"""As the harness's own lines have it."""


def _say(record: logging.LogRecord, words: str) -> None:
    record.msg, record.args = words, ()
    record.exc_info = record.exc_text = record.stack_info = None


def _headers_of(lm: Any) -> Mapping[str, str]:
    try:
        return dict(getattr(lm, "header", None) or {})
    except ValueError:  # of OpenAI's classes, without a key
        return {}


def _secrets_of_lm(lm: Any) -> Sequence[str]:
    return secrets_of(str(getattr(lm, "base_url", None) or ""), _headers_of(lm))


@contextmanager
def silent_tasks() -> Iterator[None]:
    """Where one of several requests fails, asyncio prints a traceback of each other one that fails: whenever Python
    happens to throw it away, which may be after the line that says what went wrong."""
    logger = logging.getLogger("asyncio")
    was, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = was


@contextmanager
def _unredirected(lm: Any) -> Iterator[None]:
    """The requests of the harness's API classes, by `requests` and by aiohttp, end where a redirect begins.

    Both then raise their own `TooManyRedirects`, before anything is sent to where it leads.
    """
    if not callable(getattr(lm, "amodel_call", None)):  # no class over the harness's `TemplateAPI`
        yield
        return
    import requests

    ask, own = lm.amodel_call, vars(lm).get("amodel_call")
    follow, here = requests.Session.resolve_redirects, threading.get_ident()

    async def amodel_call(session: Any, *arguments: Any, **options: Any) -> Any:
        return await ask(_Unredirected(session), *arguments, **options)

    def resolve_redirects(session: Any, answer: Any, *arguments: Any, **options: Any) -> Any:
        if answer.is_redirect and threading.get_ident() == here:
            answer.close()
            raise requests.TooManyRedirects(response=answer)
        return follow(session, answer, *arguments, **options)

    lm.amodel_call, requests.Session.resolve_redirects = amodel_call, resolve_redirects
    try:
        yield
    finally:
        requests.Session.resolve_redirects = follow
        if own is None:
            del lm.amodel_call
        else:
            lm.amodel_call = own


class _Unredirected:
    """A session of aiohttp that raises at the first redirect."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def post(self, *arguments: Any, **options: Any) -> Any:
        return self._session.post(*arguments, **{**options, "max_redirects": 1})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def _cause_of(error: BaseException) -> BaseException:
    """The error itself: tenacity wraps what it gave up on."""
    last = getattr(error, "last_attempt", None)
    inner = last.exception() if last is not None and hasattr(last, "exception") else None
    return inner if isinstance(inner, BaseException) else error


def _answer_of(error: BaseException) -> Any:
    """The answer that was an error, if it was one, or what says of it what `requests` and aiohttp say."""
    cause = _cause_of(error)
    answer = getattr(cause, "response", None)
    redirects = getattr(cause, "history", None) or ()  # of aiohttp, which gives its `TooManyRedirects` no status
    return answer if answer is not None else redirects[-1] if redirects else cause


def _status_of(error: BaseException) -> int | None:
    """The status of an answer that was an error, if it was one."""
    answer = _answer_of(error)
    status = getattr(answer, "status_code", None) or getattr(answer, "status", None)
    return status if isinstance(status, int) else None


def _reason(error: BaseException, lm: Any) -> str:
    """An error without what may be private in it: its class, or the status of an answer and where that leads."""
    status, headers = _status_of(error), getattr(_answer_of(error), "headers", None)
    if status is None:
        return type(_cause_of(error)).__name__
    if not 300 <= status < 400 or headers is None:
        return f"HTTP status {status}"
    return f"HTTP status {status}, {elsewhere(str(getattr(lm, 'base_url', '')), headers.get('Location', ''))}"
