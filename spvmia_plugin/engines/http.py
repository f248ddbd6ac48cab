"""Requests to a server: several at a time, again where it is busy or gone for a moment, and told of without secrets.

What a server says is repeated in errors only where the request held nothing but our own words: else it may quote a
record. Addresses are shown without what may be a credential in them.
"""

from __future__ import annotations

import email.utils
import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any, TypeVar

from spvmia_plugin.engines.telling import (
    NO_CREDIT,
    elsewhere,
    hidden,
    is_about_length,
    is_without_credit,
    message_of,
    secrets_of,
    shown_url,
)
from spvmia_plugin.errors import MAX_REASON, SpvmiaError
from spvmia_plugin.util.console import show
from spvmia_plugin.util.strict_json import any_loads

PATIENCE = 600.0
"""Seconds that a request waits in all for a server that limits the rate."""
LONGEST_PAUSE = 10.0
"""Seconds between two tries, where the server says nothing of it."""
_AGAIN = (408, 409, 425)
"""What is asked again beside 5xx: a time that was up, a conflict, an early request."""
LONG = 15.0
"""Seconds of waiting for a server that limits the rate from which somebody is told, once a run."""
_ASKS_TO_WAIT = (429, 503)
"""What a server answers that may say in `Retry-After` when it should be asked again."""
COMPLETIONS = "/completions"

T = TypeVar("T")
R = TypeVar("R")


class Refused(SpvmiaError):
    """The server has answered, and not with what was asked for.

    Attributes:
        status: of the answer.
        words: what the server said, without secrets. May quote the request.
        how: the status in words: some servers tell of errors in answers of HTTP 200.
    """

    def __init__(self, message: str, status: int, words: str, how: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.words = words
        self.how = how or f"HTTP {status}"


class Unreadable(SpvmiaError):
    """The server answers, and each time a part is missing or makes no sense."""


class Halved(Exception):
    """An answer of which a part is missing or makes no sense: its words say what."""


class Connection:
    """One server.

    Args:
        url: of its completions, as the user gave it.
        headers: of each request; they may hold keys.
        timeout: seconds until an answer that is not all there is given up.
        attempts: how often a request is sent before the run ends.
        concurrent: how many are under way at once.
        verify: whether its certificate is checked, or the file of the authority that signed it.

    Attributes:
        renamed: models that were asked for, each with the other one that an answer said it was of.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        timeout: float,
        attempts: int,
        concurrent: int,
        verify: bool | str,
    ) -> None:
        self.url = url
        self.shown = shown_url(url)
        self.concurrent = max(1, concurrent)
        self.attempts = max(1, attempts)
        self._headers = dict(headers)
        self._secrets = secrets_of(url, headers)
        self._timeout = timeout
        self._verify = verify
        self._session: Any = None
        self._lock = threading.Lock()
        self._open_at = 0.0  # the server asked all of us to wait until then
        self._stopped = threading.Event()
        self._is_slow = False  # and somebody was told
        self.renamed: set[tuple[str, str]] = set()

    @property
    def root(self) -> str | None:
        """What the server's other paths begin with; None where the address is not the usual one."""
        path = self.url.partition("?")[0].rstrip("/")
        return path[: -len(COMPLETIONS)] if path.endswith(COMPLETIONS) else None

    def together(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[T, R]]:
        """What `work` makes of each item, as it gets ready. Where one fails, those that wait are given up."""
        stopped = self._stopped = threading.Event()
        pool = ThreadPoolExecutor(min(self.concurrent, max(len(items), 1)), thread_name_prefix="spvmia-request")
        try:
            futures = {pool.submit(work, item): item for item in items}
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)  # an answer that is on its way may take minutes
            self._stopped = threading.Event()

    def post(
        self,
        body: Mapping[str, Any],
        read: Callable[[Any], R],
        *,
        path: str | None = None,
        attempts: int | None = None,
        own_words: bool = False,
    ) -> R:
        """Send JSON, and read the answer.

        Args:
            body: of the request.
            read: makes sense of the answer's JSON; raises `Halved` where a part of it is missing.
            path: another than that of the completions.
            attempts: how often it is sent, if not as often as others.
            own_words: the request holds nothing of a record: the server's words may be repeated.

        Raises:
            Refused: the server has said no.
            Unreadable: it answers by halves, each time.
            SpvmiaError: it can't be reached, or is too slow or too busy.
        """
        left, waited, pause, stopped = attempts or self.attempts, 0.0, 0.5, self._stopped
        while True:
            delay = max(0.0, self._open_at - time.monotonic())
            waited += delay
            if delay and stopped.wait(delay):
                raise self._problem("a run that goes on", "one that was ended by another request")
            try:
                return self._send(path or self.url, body, read)
            except _Busy as busy:
                delay = max(pause, busy.delay or 0.0)
                if waited + delay > PATIENCE:
                    raise self._problem(
                        f"an answer within {PATIENCE:.0f} s of waiting",
                        f"a server that {busy.what} (HTTP {busy.status}) and is to be asked again in {delay:.0f} s",
                        "lower num_concurrent in --model_args, or run the same command again later, which continues",
                    ) from None
                self._tell_of_waiting(busy, waited + delay)
                self._open_at = max(self._open_at, time.monotonic() + delay)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            except Refused as refused:
                if refused.status < 500 and refused.status not in _AGAIN:
                    raise refused if own_words or not refused.words else self._without_words(refused) from None
                error: SpvmiaError = refused if own_words else self._without_words(refused)
            except _Lost as lost:
                error = self._problem(lost.expected, lost.got, lost.remedy)
                if lost.final:
                    raise error from None
            except Halved as halved:
                error = Unreadable(str(self._problem("a whole answer", str(halved), "see the server's own log")))
            left -= 1
            if left <= 0 or stopped.wait(pause):
                raise error
            pause = min(2 * pause, LONGEST_PAUSE)

    def _tell_of_waiting(self, busy: _Busy, seconds: float) -> None:
        """Say once why nothing moves."""
        with self._lock:
            is_new, self._is_slow = seconds >= LONG and not self._is_slow, self._is_slow or seconds >= LONG
        if is_new:
            show(
                f"spvmia: {self.shown} {busy.what} (HTTP {busy.status}): requests wait for it, up to {PATIENCE:.0f} s "
                "each"
            )

    def command(self, path: str, body: Mapping[str, Any]) -> None:
        """Send JSON of no record, once; of the answer nothing is read but whether it is a refusal.

        Raises:
            Refused: the server has said no.
        """
        try:
            self._send(path, body, lambda answer: None)
        except Halved:  # no JSON
            return
        except _Busy as busy:
            raise self._refused(busy.status, "", f": it {busy.what}") from None
        except _Lost as lost:
            raise self._problem(lost.expected, lost.got, lost.remedy) from None

    def get(self, path: str) -> Any:
        """The JSON at a path; None if there is none. For what a server may have, and need not."""
        import requests

        try:
            with self._opened() as session:
                found = session.get(path, **self._options)
                return found.json() if found.ok and not found.is_redirect else None
        except (requests.RequestException, ValueError):
            return None

    def close(self) -> None:
        """Close the connections that were kept open."""
        with self._lock:
            if self._session is not None:
                self._session.close()
            self._session = None

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """What keeps connections open, as many as requests are under way, for one request of this thread.

        Raises:
            requests.exceptions.ReadTimeout: the answer was not all there in time. The timeout that requests is given
                is that between two bytes.
        """
        from spvmia_plugin.engines.watched import session, within

        with self._lock:
            if self._session is None:
                self._session = session(self.concurrent)
        with within(self._timeout):
            yield self._session

    @property
    def _options(self) -> dict[str, Any]:
        """Of each request. Who follows a redirect sends its headers, and keys with them, to wherever it leads."""
        return {
            "headers": self._headers,
            "timeout": (min(10.0, self._timeout), self._timeout),
            "verify": self._verify,
            "allow_redirects": False,
        }

    def _send(self, url: str, body: Mapping[str, Any], read: Callable[[Any], R]) -> R:
        import requests

        try:
            with self._opened() as session:
                found = session.post(url, json=body, **self._options)
        except requests.exceptions.SSLError as error:
            raise _Lost(
                "a server with a certificate that can be checked",
                f"a TLS error ({_innermost(error)})",
                "give the authority's file as ca_cert_path=... in --model_args, or correct the address",
                final=True,
            ) from None
        except (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema):
            raise _Lost(
                "an address like http://host:port/v1/completions", "another", "correct it", final=True
            ) from None
        except requests.exceptions.ReadTimeout:
            raise _Lost(
                f"an answer within {self._timeout:g} s",
                "none",
                "raise timeout=... in --model_args, or lower num_concurrent",
            ) from None
        except requests.RequestException as error:
            raise _Lost(
                "a server at this address",
                f"none that answers ({_innermost(error)})",
                "start it, or correct base_url=... in --model_args; the same command then continues",
            ) from None
        status, delay = found.status_code, _seconds(found.headers.get("Retry-After"))
        is_final = status == 429 and is_without_credit(found.text)
        if not is_final and (status == 429 or (status in _ASKS_TO_WAIT and delay is not None)):
            raise _Busy(status, delay)
        if 300 <= status < 400:
            there = elsewhere(url, found.headers.get("Location", ""))
            raise Refused(f"base_url: expected an answer of {self.shown}, got HTTP {status}, {there}", status, "")
        if not found.ok:
            words = self._words_of(found.text)
            raise self._refused(status, words, f" ({words})" if words else "")
        try:
            answer = any_loads(found.content)
        except ValueError:
            raise Halved(f"{len(found.content)} bytes that are no JSON") from None
        self._refuse_if_error(answer)
        answered = answer.get("model") if isinstance(answer, Mapping) else None
        if isinstance(answered, str) and answered != body.get("model"):
            self.renamed.add((str(body.get("model")), answered))
        return read(answer)

    def _refuse_if_error(self, answer: Any) -> None:
        """Some gateways tell of an error in an answer of HTTP 200.

        Raises:
            Refused: this is one.
            _Busy: that limits the rate.
        """
        if not isinstance(answer, Mapping) or "choices" in answer:
            return
        error = answer.get("error") or (answer if answer.get("object") == "error" else None)
        if not error:
            return
        text = json.dumps(answer)
        code = str(error.get("code", answer.get("code")) if isinstance(error, Mapping) else answer.get("code"))
        status = int(code) if code.isdecimal() and 400 <= int(code) < 600 else 400
        if status == 429 and not is_without_credit(text):
            raise _Busy(status, None)
        words = self._words_of(text)
        how = f"an error in an answer of HTTP 200 (code {status})" if code == str(status) else ""
        raise self._refused(status, words, f" ({words})" if words else "", how or "an error in an answer of HTTP 200")

    def _words_of(self, text: str) -> str:
        """An error answer's words without what we sent in confidence: some servers repeat a key that they refuse."""
        words = hidden(message_of(text), self._secrets)[:MAX_REASON]
        is_lost = is_without_credit(text) and not is_without_credit(words)  # it stands beside the words, as a code
        return f"{words} [{NO_CREDIT}]" if is_lost else words

    def _without_words(self, refused: Refused) -> Refused:
        """The same, with the server's words kept for whoever catches it."""
        about = " that names the length of the context" if is_about_length(refused.words) else ""
        about = about or (" that names an insufficient quota" if is_without_credit(refused.words) else "")
        return self._refused(refused.status, refused.words, about, refused.how)

    def _refused(self, status: int, words: str, told: str, how: str = "") -> Refused:
        remedy = _TOO_LONG if is_about_length(words) else _PAY if is_without_credit(words) else _remedy(status)
        how = how or f"HTTP {status}"
        return Refused(f"base_url: expected an answer of {self.shown}, got {how}{told}; {remedy}", status, words, how)

    def _problem(self, expected: str, got: str, remedy: str = "run the same command again") -> SpvmiaError:
        return SpvmiaError(f"base_url: expected {expected}, got {got}, from {self.shown}; {remedy}")


class _Busy(Exception):
    """The server asks to wait: `delay` is for how many seconds, None if it does not say."""

    def __init__(self, status: int, delay: float | None) -> None:
        super().__init__()
        self.status, self.delay = status, delay
        self.what = "limits the rate" if status == 429 else "is not there for a moment"


class _Lost(Exception):
    """No answer. `final` where it would be no better the next time."""

    def __init__(self, expected: str, got: str, remedy: str, *, final: bool = False) -> None:
        super().__init__(got)
        self.expected, self.got, self.remedy, self.final = expected, got, remedy, final


_TOO_LONG = "pass the server's context as max_length=... in --model_args, or lower mia_max_length"
_PAY = "see to its credit (plan and billing), and run the same command again, which continues"


def _remedy(status: int) -> str:
    if status in (401, 403):
        return "give its key in the environment variable OPENAI_API_KEY, or correct header=... in --model_args"
    if status == 404:
        return "correct base_url=... (it ends in /v1/completions) or model=... in --model_args"
    return "the server's own log says more" if status < 500 else "restart it: the same command then continues"


def _innermost(error: BaseException) -> str:
    """The kind of the error under those that libraries wrap around it; their words hold the address."""
    seen: BaseException = error
    while True:
        inner = getattr(seen, "reason", None) or (seen.args[0] if seen.args else None) or seen.__cause__
        if isinstance(inner, BaseException) and inner is not seen:
            seen = inner
        else:
            return type(seen).__name__


def _seconds(said: str | None) -> float | None:
    """`Retry-After`, seconds or a date, as seconds from now; None where it says nothing that can be waited for."""
    if said is None:
        return None
    try:
        delay = float(said)
    except ValueError:
        try:
            delay = email.utils.parsedate_to_datetime(said).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return None if math.isnan(delay) or delay <= 0 else delay
