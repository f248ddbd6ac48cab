"""What a harness's LM logs while we ask it tells of no record and no key; and it follows no redirect."""

# ruff: noqa: F811 - the fixture `server` is that of the tests of text

from __future__ import annotations

import logging

import pytest
import requests

from spvmia_plugin.engines.harness_calls import Calls, Unanswered
from spvmia_plugin.errors import SpvmiaError
from tests.engines.test_text import TEXTS, Writer, audited, chat_lm, server  # noqa: F401
from tests.leaks import Spans

KEY = "sk-horse-battery-staple-correct"
LOGGER = logging.getLogger("lm_eval.models.api_models")


def state():
    return (
        [name for name, each in logging.root.manager.loggerDict.items() if getattr(each, "filters", None)],
        requests.Session.resolve_redirects,
    )


@pytest.fixture
def said(caplog, capfd):
    """All that was logged or printed."""

    def read():
        out, err = capfd.readouterr()
        return out + err + caplog.text

    return read


@pytest.mark.parametrize("concurrent", [1, 4])
def test_requests_that_fail_on_the_way_show_no_key_and_no_half_of_a_record(
    tmp_path, server, monkeypatch, said, concurrent
):
    """A 503 that is asked again, a 422 that quotes the request, and a server that dies in the end."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    lm = chat_lm(server, num_concurrent=concurrent)
    before = state()
    server.unknown = (422, ("repeat_penalty",))
    server.faults += [None, 503, *[None] * 200]
    server.faults[90:] = [500] * 99
    with pytest.raises(SpvmiaError, match="got HTTP status 500"):
        audited(tmp_path, lm)
    told = said()
    assert KEY not in told
    assert "Bearer" not in told
    assert Spans(TEXTS).in_text(told) == []
    assert "LocalChatCompletion warns (HTTP status" in told or concurrent == 1
    assert told.count("in words that may quote a record") < 20
    assert state() == before
    assert "amodel_call" not in vars(lm)


def test_who_allows_texts_sees_them_without_keys(tmp_path, server, monkeypatch, said):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.faults += [500] * 99
    with pytest.raises(SpvmiaError):
        audited(tmp_path, chat_lm(server, num_concurrent=2), mia_log_text=True)
    told = said()
    assert KEY not in told
    assert Spans(TEXTS).in_text(told)


class Talker(Writer):
    """Somebody's LM, which logs by the name of its own module."""

    def generate_until(self, requests, disable_tqdm=False):
        for request in requests:
            logging.getLogger(__name__).warning("Exception:TimeoutError(), %s", request.args[0])
            logging.getLogger(__name__).info(request.args[0])
            LOGGER.error("Could not parse generations: %s", request.args[0], exc_info=ValueError(request.args[0]))
        return super().generate_until(requests)


def test_each_kind_of_warning_is_told_once(tmp_path, said):
    lm = Talker()
    audited(tmp_path, lm)
    told = said()
    assert Spans(TEXTS).in_text(told) == []
    assert told.count("Talker warns (TimeoutError) in words that may quote") == 1
    assert told.count("Talker warns (line ") == 1
    LOGGER.warning("of somebody else")
    assert "of somebody else" in said()


@pytest.mark.parametrize(("concurrent", "status"), [(1, 307), (4, 302)])
def test_a_redirect_is_not_followed(tmp_path, server, monkeypatch, concurrent, status):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.faults += [status] * 99
    there = f"http://127.0.0.1:{server.server_port}/elsewhere"
    server.leads_to = f"{there}?key=horse"
    with pytest.raises(SpvmiaError) as caught:
        audited(tmp_path, chat_lm(server, num_concurrent=concurrent))
    assert f"got HTTP status {status}, which leads to {there}; if that is the server, give" in str(caught.value)
    assert "horse" not in str(caught.value)
    assert {path for _, _, path in server.asked} == {"/v1/chat/completions"}


def test_a_method_that_somebody_put_on_the_object_is_there_again(server):
    lm = chat_lm(server)
    own = lm.amodel_call = lm.amodel_call
    with pytest.raises(Unanswered):  # of no requests
        Calls(lm, log_text=False).generate([], 0)
    assert lm.amodel_call is own
