"""Refusals in every guise: what is asked again, what never will be answered, and errors in answers of HTTP 200."""

from __future__ import annotations

import json

import pytest

from spvmia_plugin.engines.http import Refused, Unreadable
from spvmia_plugin.errors import SpvmiaError
from tests.engines.test_http import DONE, answering, connection, pauses  # noqa: F401

# ruff: noqa: F811 - fixtures of the tests of requests


def said(http_status, **error):
    return http_status, {}, json.dumps({"error": {"message": "some words", **error}}).encode()


@pytest.mark.parametrize("status", [408, 409, 425])
def test_what_is_over_the_next_moment_is_asked_again(answering, pauses, status):
    server = answering(said(status), DONE)
    assert connection(server.url).post({}, lambda answer: answer) == {"done": 1}
    assert pauses == [0.5]
    server = answering(said(status))
    with pytest.raises(Refused, match=f"got HTTP {status}"):
        connection(server.url).post({}, lambda answer: answer)
    assert len(server.asked) == 2


@pytest.mark.parametrize("own_words", [True, False])
@pytest.mark.parametrize("status", [429, 200])
def test_an_account_without_credit_is_not_waited_for(answering, pauses, own_words, status):
    server = answering(said(status, type="insufficient_quota", code="insufficient_quota"))
    with pytest.raises(
        Refused, match="see to its credit \\(plan and billing\\), and run the same command again"
    ) as error:
        connection(server.url).post({}, lambda answer: answer, own_words=own_words)
    assert pauses == []
    assert len(server.asked) == 1
    assert ("some words" in str(error.value)) == own_words
    assert "insufficient" in str(error.value)


def test_a_quota_by_the_minute_is_waited_for(answering, pauses):
    limit = said(429, message="You exceeded your current quota", status="RESOURCE_EXHAUSTED")
    assert connection(answering(limit, DONE).url).post({}, lambda answer: answer) == {"done": 1}


def test_who_waits_for_long_is_told_why_once(answering, pauses, capsys):
    server = answering(*[(429, {"Retry-After": "5"}, b"{}")] * 8, DONE)
    asked = connection(server.url)
    asked.post({}, lambda answer: answer)
    assert (
        capsys.readouterr().err
        == f"spvmia: {server.url} limits the rate (HTTP 429): requests wait for it, up to 600 s each\n"
    )
    server.script[:] = [(429, {"Retry-After": "5"}, b"{}"), DONE]
    asked.post({}, lambda answer: answer)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"error": {"message": "not deployed", "code": 404}}, "HTTP 200 (code 404) (not deployed); correct"),
        ({"error": "not deployed"}, "got an error in an answer of HTTP 200 (not deployed); the server's own log"),
        ({"object": "error", "message": "not deployed", "code": 400}, "HTTP 200 (code 400) (not deployed);"),
        ({"error": {"message": "not deployed", "code": "model_not_found"}}, "HTTP 200 (not deployed);"),
    ],
)  # fmt: skip
def test_an_error_in_an_answer_of_http_200(answering, pauses, answer, told):
    server = answering((200, {}, json.dumps(answer).encode()))
    with pytest.raises(Refused) as error:
        connection(server.url).post({}, lambda answer: answer, own_words=True)
    assert told in str(error.value)
    with pytest.raises(Refused) as error:
        connection(server.url).post({}, lambda answer: answer)
    assert "not deployed" not in str(error.value)
    assert len(server.asked) == 2


@pytest.mark.parametrize("code", [429, 500, 529])
def test_one_that_is_over_the_next_moment_is_asked_again(answering, pauses, code):
    server = answering((200, {}, json.dumps({"error": {"message": "busy", "code": code}}).encode()), DONE)
    assert connection(server.url).post({}, lambda answer: answer) == {"done": 1}


@pytest.mark.parametrize("answer", [{"error": None, "done": 1}, {"error": {"code": 500}, "choices": []}, ["error"]])
def test_answers_that_are_no_errors(answering, answer):
    asked = connection(answering((200, {}, json.dumps(answer).encode())).url)
    assert asked.post({}, lambda answer: answer) == answer


def test_halves_to_the_end_have_a_class_of_their_own(answering, pauses):
    with pytest.raises(Unreadable, match="expected a whole answer, got 5 bytes that are no JSON") as error:
        connection(answering((200, {}, b"{half")).url).post({}, lambda answer: answer)
    assert isinstance(error.value, SpvmiaError)


def test_answers_in_another_models_name_are_kept_in_mind(answering):
    asked = connection(answering((200, {}, b'{"model": "b"}')).url)
    for model in ("a", "b"):
        asked.post({"model": model}, lambda answer: answer)
    assert asked.renamed == {("a", "b")}
