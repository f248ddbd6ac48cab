"""Requests by themselves: how long a server is waited for, where keys go, and what is told of an address."""

from __future__ import annotations

import json
import socket
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from spvmia_plugin.engines import http
from spvmia_plugin.engines.http import Connection, Refused
from spvmia_plugin.engines.telling import is_about_length, shown_url
from spvmia_plugin.errors import SpvmiaError

SECRET = "horse-battery"
TOKEN = "s3cr3tPathToken99"


class Answers:
    """A server in a thread: what it answers, and the headers of what it was asked.

    Attributes:
        script: (status, headers, body) of each answer; the last one is that of all others.
    """

    def __init__(self, *script):
        self.script, self.asked = list(script), []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # half of an answer would wait 40 ms for the first half's receipt

            def log_message(self, *_):
                pass

            def do_POST(self):
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, headers, body = outer.script.pop(0) if len(outer.script) > 1 else outer.script[0]
                outer.asked.append((self.command, dict(self.headers)))
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1/completions"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def answering():
    running = []

    def start(*script):
        running.append(Answers(*script))
        return running[-1]

    yield start
    for each in running:
        each.server.shutdown()
        each.server.server_close()


def connection(url, *, headers=None, timeout=5.0, attempts=2):
    return Connection(url, headers or {}, timeout=timeout, attempts=attempts, concurrent=1, verify=True)


DONE = (200, {}, b'{"done": 1}')


class Pauses(list):
    """Stands in for the event that requests wait for: time passes at once, and here is how long it would have been."""

    def wait(self, seconds):
        self.append(seconds)
        return False


@pytest.fixture
def pauses(monkeypatch):
    waited = Pauses()
    monkeypatch.setattr(http, "time", SimpleNamespace(monotonic=lambda: 100.0 + sum(waited), time=time.time))
    monkeypatch.setattr(http, "threading", SimpleNamespace(Event=lambda: waited, Lock=threading.Lock))
    return waited


def retry_after(said):
    return {"Retry-After": formatdate(time.time() - 60, usegmt=True) if said == "a date that is past" else said}


@pytest.mark.parametrize("said", ["0", "-3", "nan", "a date that is past", "soon", "-inf", "0.01"])
def test_who_says_not_to_wait_is_waited_for_as_usual_and_not_for_ever(answering, pauses, said):
    server = answering((429, retry_after(said), b"{}"))
    with pytest.raises(SpvmiaError, match=r"limits the rate \(HTTP 429\).*lower num_concurrent"):
        connection(server.url).post({}, lambda answer: answer)
    assert pauses[:6] == pytest.approx([0.5, 1, 2, 4, 8, 10])
    assert sum(pauses) <= http.PATIENCE < sum(pauses) + http.LONGEST_PAUSE + 1
    assert len(server.asked) == len(pauses) + 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_is_waited_for_as_long_as_it_says(answering, pauses, status):
    """More often than there are tries: it has said when to come again."""
    server = answering(*[(status, {"Retry-After": "30"}, b"{}")] * 4, DONE)
    assert connection(server.url).post({}, lambda answer: answer) == {"done": 1}
    assert pauses == pytest.approx([30.0] * 4)


@pytest.mark.parametrize("status", [429, 503])
def test_who_asks_to_wait_for_too_long_is_not_waited_for(answering, pauses, status):
    what = {429: "limits the rate", 503: "is not there for a moment"}[status]
    for said in ("601", "inf"):
        server = answering((status, {"Retry-After": said}, b"{}"))
        with pytest.raises(SpvmiaError, match=rf"{what} \(HTTP {status}\) and is to be asked again in {said} s"):
            connection(server.url).post({}, lambda answer: answer)
        assert len(server.asked) == 1


@pytest.mark.parametrize(("status", "said"), [(503, None), (503, "0"), (503, "nan"), (500, "30"), (502, "30")])
def test_other_failures_take_a_try_each(answering, pauses, status, said):
    server = answering((status, {} if said is None else {"Retry-After": said}, b"{}"))
    with pytest.raises(Refused, match=f"got HTTP {status}"):
        connection(server.url, attempts=3).post({}, lambda answer: answer)
    assert pauses == [0.5, 1.0]
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [429, 503])
def test_a_command_is_not_waited_for(answering, status):
    server = answering((status, {"Retry-After": "5"}, b"{}"))
    with pytest.raises(Refused, match=f"got HTTP {status}") as error:
        connection(server.url).command(server.url, {})
    assert error.value.status == status


HEAD = b"HTTP/1.1 200 OK\r\n"
DRIPS = {
    "within its headers": (b"", b"H"),
    "of a stated length": (HEAD + b"Content-Length: 100000\r\n\r\n", b" "),
    "of no stated length": (HEAD + b"\r\n{}", b" "),
    "by chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
}


@pytest.mark.parametrize("drip", DRIPS)
@pytest.mark.parametrize("ask", ["post", "get", "command"])
def test_an_answer_that_drips_is_given_up(drip, ask):
    """Each byte in time, and no end: `timeout` is for all of it."""
    first, more = DRIPS[drip]
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            client, _ = server.accept()
            with client:
                client.recv(65536)
                client.sendall(first)
                ends = time.monotonic() + 20
                while time.monotonic() < ends:
                    try:
                        client.sendall(more)
                    except OSError:
                        return
                    time.sleep(0.05)

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1/completions"
        asked = connection(url, timeout=0.6, attempts=1)
        started = time.monotonic()
        if ask == "get":
            assert asked.get(url) is None
        else:
            with pytest.raises(SpvmiaError, match=r"expected an answer within 0.6 s, got none.*raise timeout="):
                asked.post({}, lambda answer: answer) if ask == "post" else asked.command(url, {})
        assert 0.5 < time.monotonic() - started < 8


def test_a_connection_is_kept_for_the_next_request_and_an_ended_one_is_not(answering):
    server = answering(DONE)
    asked = connection(server.url, timeout=1.0)
    for _ in range(3):
        assert asked.post({}, lambda answer: answer) == {"done": 1}
        time.sleep(0.7)  # the watch of the one before would be over now
    asked.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(answering, status):
    """Who follows one sends its keys to whoever is named there, and makes a GET of some POSTs."""
    other = answering(DONE)
    place = other.url.replace("127.0.0.1", f"user:{SECRET}@localhost") + f"?code={SECRET}"
    server = answering((status, {"Location": place}, b""))
    asked = connection(server.url, headers={"X-Api-Key": "topsecretkey"})
    shown = other.url.replace("127.0.0.1", "localhost")
    for ask in (asked.post, lambda body, read: asked.command(server.url, body)):
        with pytest.raises(
            Refused, match=rf"got HTTP {status}, which leads to {shown}; if that is the server"
        ) as error:
            ask({}, lambda answer: answer)
        assert SECRET not in str(error.value)
    assert asked.get(server.url) is None
    assert other.asked == []
    assert len(server.asked) == 3


@pytest.mark.parametrize("place", ["/v2/completions", ""])
def test_a_redirect_on_the_same_server(answering, place):
    server = answering((308, {"Location": place}, b""))
    shown = server.url.replace("/v1/", "/v2/") if place else server.url
    with pytest.raises(Refused, match=f"leads to {shown};"):
        connection(server.url).post({}, lambda answer: answer)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"http://u:{SECRET}@host:80/v1/completions?code={SECRET}&k=zzz-hidden", "http://host:80/v1/completions"),
        (f"https://host/gw/{TOKEN}/v1/completions", "https://host/gw/***/v1/completions"),
        ("https://host/gw/0b9d1c1e-7a35-4bb4-8a55-1f2e3d4c5b6a/completions", "https://host/gw/***/completions"),
        ("https://host/deployments/gpt-35-turbo/completions", "https://host/deployments/gpt-35-turbo/completions"),
    ],
)
def test_what_is_shown_of_an_address(url, shown):
    assert shown_url(url) == connection(url).shown == shown


@pytest.mark.parametrize("query", [f"?{SECRET}", f"?k={SECRET}", f"?k={SECRET.replace('-', '%2D')}", f"/{TOKEN}/x"])
def test_what_a_server_says_again_of_its_address(answering, query):
    words = json.dumps({"error": {"message": f"no such route: {SECRET} {TOKEN} {query}"}}).encode()
    server = answering((404, {}, words))
    with pytest.raises(Refused) as error:
        connection(server.url + query).post({}, lambda answer: answer, own_words=True)
    hidden = TOKEN if TOKEN in query else SECRET
    assert hidden not in str(error.value)
    assert "no such route" in str(error.value)


@pytest.mark.parametrize(
    "words",
    [
        "The decoder prompt (length 300) is longer than the maximum model length of 256.",
        "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4100",
        "This model's maximum context length is 256 tokens. However, you requested 300",
        "prompt is too long: 300 tokens > 256 maximum",
        "the request exceeds the available context size",
        "sequence length 300 is larger than max_seq_len",
    ],
)
def test_a_prompt_that_is_too_long_by_any_words(answering, words):
    assert is_about_length(words)
    server = answering((400, {}, json.dumps({"error": {"message": words}}).encode()))
    with pytest.raises(Refused, match=r"pass the server's context as max_length=... in --model_args") as error:
        connection(server.url).post({}, lambda answer: answer)
    assert words not in str(error.value)  # it may quote a record


@pytest.mark.parametrize(
    "words",
    [
        "Incorrect API key provided",
        "Unrecognized request argument supplied: prompt_logprobs",
        "prompt: input should be a valid string",
        "temperature must be <= 2",
        "You exceeded your current quota of tokens",
        "Requested prompt_logprobs of 20, which is greater than max allowed: 5",
    ],
)
def test_what_is_about_something_else(words):
    assert not is_about_length(words)
