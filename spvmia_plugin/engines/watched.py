"""Requests that end when their time is up: the timeouts of `requests` are those between two bytes of an answer.

A server that drips, or a gateway that sends blanks lest the connection be closed, would be waited for without end. So
each thread's request is watched from another one, which shuts its socket.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests
from requests.adapters import HTTPAdapter

_thread = threading.local()
"""`watch`: of the request that this thread has under way."""


class _Watch:
    """One request, and what it goes over as soon as that is known."""

    def __init__(self) -> None:
        self.is_over = False
        self.connection: _Watched | None = None
        self.sock: socket.socket | None = None

    def end(self) -> None:
        """Have whoever waits for the socket wait no longer."""
        self.is_over = True
        # The connection may be another request's by now.
        if self.sock is not None and self.connection is not None and self.connection.watch is self:
            with contextlib.suppress(OSError):  # it is closed already
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)  # below TLS, which is not for two threads


class _Watched:
    """A connection that says which request it is used for."""

    sock: Any
    watch: _Watch | None = None

    def request(self, *arguments: Any, **options: Any) -> None:
        self.watch = watch = getattr(_thread, "watch", None)
        super().request(*arguments, **options)  # type: ignore[misc]
        if watch is None:
            return
        # Now: of an answer without a length, the connection lets go of its socket before it is read.
        watch.connection, watch.sock = self, self.sock
        if watch.is_over:  # while it was connected and sent there was nothing to shut
            raise TimeoutError


class _Adapter(HTTPAdapter):  # type: ignore[misc]
    """Of connections that are watched, through a proxy too."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        _watch(self.poolmanager)

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*arguments, **options)
        _watch(manager)
        return manager


def _watch(manager: Any) -> None:
    """Have a manager of connections make those that are watched, of whatever classes it has."""

    def watched(pool: Any) -> Any:
        if issubclass(pool.ConnectionCls, _Watched):  # a proxy's manager is asked for again
            return pool
        connection = type(pool.ConnectionCls.__name__, (_Watched, pool.ConnectionCls), {})
        return type(pool.__name__, (pool,), {"ConnectionCls": connection})

    manager.pool_classes_by_scheme = {scheme: watched(pool) for scheme, pool in manager.pool_classes_by_scheme.items()}


def session(concurrent: int) -> requests.Session:
    """A session of so many connections, each request of which can be ended by `within`."""
    found = requests.Session()
    for scheme in ("http://", "https://"):
        found.mount(scheme, _Adapter(pool_maxsize=concurrent))
    return found


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """End this thread's request of a `session` when its answer is not all there after so many seconds.

    Raises:
        requests.exceptions.ReadTimeout: it was ended.
    """
    watch = _thread.watch = _Watch()
    timer = threading.Timer(seconds, watch.end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except requests.RequestException:
        if watch.is_over:  # whatever a socket that is shut looks like from here
            raise requests.exceptions.ReadTimeout(f"no whole answer within {seconds:g} s") from None
        raise
    finally:
        timer.cancel()
        _thread.watch = None
    if watch.is_over:  # an answer of no stated length ends where its socket does
        raise requests.exceptions.ReadTimeout(f"no whole answer within {seconds:g} s")
