"""What servers get wrong ends the run before any work, by name, with what else can be done; and in one line."""

from __future__ import annotations

import math
import re
import socket
import time
from email.utils import formatdate

import pytest
import requests
from lm_eval.models.openai_completions import LocalChatCompletion, OpenAICompletionsAPI

from spvmia_plugin.auditing.roles import cast, check_features
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.engines import http
from spvmia_plugin.engines.harness_lm import is_completions, why_not_tokens
from spvmia_plugin.engines.server import ServerBackend
from spvmia_plugin.engines.text import TextTarget
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import ScoreInput
from spvmia_plugin.signals import Role
from tests.auditing.fakes import make_data
from tests.auditing.test_run import REGISTRY
from tests.engines.servers import completions_lm
from tests.models.models import inputs
from tests.tiny import save_tiny, tiny_texts

SECRET = "horse-battery-staple"
RECORD = "Anna Boris lost ticket"


def backend_of(lm, models, **options):
    return ServerBackend(lm, AuditConfig(**options), str(models / "base"))


def fault_of(lm, models, *, writes=True):
    """What the self-check says, in the words of the error; no sequence of the audit was sent."""
    backend = backend_of(lm, models)
    assert not backend.features_of(Role.TARGET).logprobs
    assert backend.features_of(Role.TARGET).generate == writes
    with pytest.raises(SpvmiaError) as error:
        backend.score(Role.TARGET, [ScoreInput((5, 6, 7, 8))], moments=False)
    assert str(error.value) == backend.lacks(Role.TARGET)
    assert str(error.value).startswith("base_url: expected a server that says of tokens which it reads what it said")
    assert str(error.value).endswith(
        "audit it by what it writes alone (ngram_mia, surrogate_mia), serve the model with vLLM, or load it with "
        "'--model hf'"
    )
    return str(error.value)


ECHO = {"prompt_logprobs": "ignored"}


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        ({**ECHO, "echo": False}, "scores only what it writes, and ignores 'echo' in silence"),
        ({**ECHO, "logprobs": False}, "gives no log-probabilities, not even of what it writes"),
        ({**ECHO, "shift": -1}, "shifts log-probabilities by 1 token: what it says of a token that it reads is what "
         "it said of the one after it"),
        ({**ECHO, "shift": 1}, "shifts log-probabilities by 1 token: what .* of the one before it"),
        ({**ECHO, "shift": 2}, "shifts log-probabilities by 2 tokens"),
        ({**ECHO, "shift": 5}, "says of tokens that it reads something else than when it wrote them: .* differ by"),
        ({**ECHO, "missing": 2}, r"echoes \d+ log-probabilities for \d+ tokens and one that it writes"),
        ({**ECHO, "top_logprobs": False}, "without 'top_logprobs', so nobody knows which token was likeliest"),
        ({**ECHO, "text_only": 500}, "takes prompts as text alone, and answers token ids by HTTP 500; with "
         "tokenized_requests=False in --model_args audit it by what it writes alone"),
        ({"text_only": 500, "no_logprobs": 500}, "takes prompts as text alone, and answers token ids by HTTP 500"),
        ({"no_logprobs": 500}, "gives no log-probabilities: it answers a request for them by HTTP 500"),
        ({"text_only": 422}, "takes prompts as text alone, and answers token ids by HTTP 422"),
        ({**ECHO, "names_ids": "no", "shift": -1}, "shifts log-probabilities by 1 token"),
        ({"shift": -1, "echo": False}, "scores only what it writes"),
        ({"floor": 20}, r"gives -100 as the log-probability of \d+ of \d+ tokens: a floor"),
        ({**ECHO, "floor": 20}, r"gives -100 as the log-probability of \d+ of \d+ tokens: a floor"),
        ({"first": -3.5}, "puts something before the prompt, .* -3.5 .* the first token: .*add_special_tokens=false"),
        ({**ECHO, "first": -3.5}, "puts something before the prompt, "),
        ({"decimals": 0}, "rounds log-probabilities to whole nats"),
    ],
)  # fmt: skip
def test_a_server_that_is_wrong_is_refused_before_any_work(serve, models, faults, words):
    server, lm = serve(**faults)
    assert re.search(words, fault_of(lm, models, writes="text_only" not in faults))
    assert all(prompt[:3] != (5, 6, 7) for prompt in server.served.scored)


def test_both_ways_have_to_be_wrong(serve, models):
    """A shift is in what the model says, whichever way it is asked: then neither helps."""
    assert "shifts log-probabilities by 1 token" in fault_of(serve(shift=-1)[1], models)


@pytest.mark.parametrize("names_ids", ["yes", "tokens", "no"])
@pytest.mark.parametrize("way", ["all", "ignored"])
def test_another_tokenizer(serve, models, tmp_path, names_ids, way):
    """The same number of tokens, and other words to them."""
    other = save_tiny(tmp_path / "other", [text[::-1] for text in tiny_texts(200, seed=1)])
    _, lm = serve(names_ids=names_ids, prompt_logprobs=way, other_tokenizer=str(other))
    assert "tokenizer" in fault_of(lm, models)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "has a gap in its (prompt_)?log(-probabilities|probs)"),
        (-math.inf, "minus infinity as the log-probability of token"),
        (-9999.0, "minus infinity as the log-probability of token"),
        (math.nan, "gives no number as the log-probability of token"),
        (2.0, "gives 2 as the log-probability of token"),
        ("-1", "gives no number as the log-probability of token"),
    ],
)
@pytest.mark.parametrize("way", ["all", "ignored"])
def test_a_log_probability_that_is_none(serve, models, value, words, way):
    """In the middle of a run, of one token of one record."""
    server, lm = serve(prompt_logprobs=way)
    backend = backend_of(lm, models)
    backend.identity(Role.TARGET)
    server.faults.value, server.faults.value_at = value, 7
    item = inputs(backend, [f"{RECORD} " * 16])[0]
    with pytest.raises(SpvmiaError, match=words) as error:
        backend.score(Role.TARGET, [item], moments=False)
    assert f"of {len(item.token_ids)}" in str(error.value)
    assert "Anna" not in str(error.value)


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_no_server_at_the_address(models):
    lm = completions_lm(f"http://127.0.0.1:{closed_port()}/v1/completions", models / "base")
    with pytest.raises(SpvmiaError, match=r"base_url: expected a server at this address, got none that answers \("):
        backend_of(lm, models).features_of(Role.TARGET)


def test_a_certificate_that_cannot_be_checked(serve, models, monkeypatch):
    server, _ = serve()
    lm = completions_lm(server.url.replace("http:", "https:"), models / "base", max_retries=9)
    tried, send = [], requests.Session.send
    monkeypatch.setattr(
        requests.Session, "send", lambda self, asked, **options: tried.append(asked.url) or send(self, asked, **options)
    )
    with pytest.raises(SpvmiaError, match=r"with a certificate that can be checked, got a TLS error .*ca_cert_path"):
        backend_of(lm, models).features_of(Role.TARGET)
    assert len(tried) == len(set(tried)) > 0  # once each


def test_a_key_that_is_wrong_is_not_told(serve, models, monkeypatch):
    server, _ = serve(key=SECRET)
    monkeypatch.setenv("OPENAI_API_KEY", f"{SECRET}-typo")
    lm = completions_lm(server.url, models / "base")
    with pytest.raises(SpvmiaError) as error:
        backend_of(lm, models).features_of(Role.TARGET)
    assert "got HTTP 401" in str(error.value)
    assert "OPENAI_API_KEY" in str(error.value)
    assert f"{SECRET}-typo" not in str(error.value)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    backend = backend_of(completions_lm(server.url, models / "base"), models)
    assert backend.features_of(Role.TARGET).logprobs
    assert server.served.keys[-1] == f"Bearer {SECRET}"


def test_no_secret_of_an_address_or_header_is_told(serve, models):
    server, _ = serve()
    address = server.url.replace("://", f"://user:{SECRET}@") + f"?api_key={SECRET}&x=1"
    lm = completions_lm(address, models / "base", header={"X-Key": SECRET})
    backend = backend_of(lm, models)
    told = [backend.told, backend.identity(Role.TARGET), list(backend.notes)]
    server.faults.statuses = [418] * 9
    with pytest.raises(SpvmiaError) as error:
        backend.score(Role.TARGET, [ScoreInput((5, 6, 7))], moments=False)
    assert SECRET not in f"{told}{error.value}{backend.told}"
    assert server.url in str(error.value)
    assert server.url in str(told)


def test_a_model_that_the_server_does_not_have(serve, models):
    _, lm = serve(lm={"model": "tarjet"})
    with pytest.raises(SpvmiaError, match=r"^model: expected a model that .*, got 'tarjet'; it has 'target', 'base'"):
        backend_of(lm, models).features_of(Role.TARGET)
    backend = backend_of(serve()[1], models, base_served="bass")
    assert backend.features_of(Role.TARGET).logprobs
    with pytest.raises(SpvmiaError, match=r"^mia_base_served: expected a model that .* has, got 'bass'"):
        backend.features_of(Role.BASE)


def test_a_path_that_is_no_completions(serve, models):
    server, _ = serve()
    lm = completions_lm(server.root + "/other", models / "base")
    assert backend_of(lm, models).features_of(Role.TARGET).logprobs  # the tests' server takes any
    for url in ("ftp://host/v1/completions", "host:8000/v1", None):
        with pytest.raises(SpvmiaError, match="base_url: expected the address of a completions server"):
            backend_of(completions_lm(url, models / "base"), models)


def test_a_context_that_is_shorter_than_a_record_does_not_quote_it(serve, models):
    _, lm = serve(says_context=False, context=110)
    backend = backend_of(lm, models)
    items = inputs(backend, [f"{RECORD} " * 30])
    with pytest.raises(SpvmiaError) as error:
        backend.score(Role.TARGET, items, moments=False)
    assert "HTTP 400 that names the length of the context; pass the server's context as max_length=" in str(error.value)
    assert "Anna" not in str(error.value)


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_server_that_is_busy_for_a_moment_is_asked_again(serve, models, status, monkeypatch):
    monkeypatch.setattr(http, "LONGEST_PAUSE", 0.01)
    server, lm = serve(lm={"max_retries": 3})
    backend = backend_of(lm, models)
    expected = backend.score(Role.TARGET, inputs(backend, tiny_texts(6)), moments=False)
    server.faults.statuses = [status] * 2
    found = backend.score(Role.TARGET, inputs(backend, tiny_texts(6)), moments=False)
    assert [each.logprob.tolist() for each in found] == [each.logprob.tolist() for each in expected]
    assert server.faults.statuses == []


@pytest.mark.parametrize("said", ["0.7", "date"])
def test_it_waits_as_long_as_it_is_asked_to(serve, models, said):
    server, lm = serve(lm={"max_retries": 1})
    backend = backend_of(lm, models)
    backend.identity(Role.TARGET)
    server.faults.statuses = [429, 429]  # more often than there are retries: limits are no errors
    started = time.time()
    server.faults.retry_after = said if said != "date" else formatdate(started + 2, usegmt=True)
    backend.score(Role.TARGET, [ScoreInput((5, 6, 7))], moments=False)
    assert time.time() - started >= (1.4 if said != "date" else 0.9)


def test_a_limit_that_does_not_end(serve, models, monkeypatch):
    monkeypatch.setattr(http, "PATIENCE", 0.5)
    server, lm = serve()
    backend = backend_of(lm, models)
    backend.identity(Role.TARGET)
    server.faults.statuses, server.faults.retry_after = [429] * 99, "0.2"
    with pytest.raises(SpvmiaError, match=r"limits the rate \(HTTP 429\).*lower num_concurrent"):
        backend.score(Role.TARGET, [ScoreInput((5, 6, 7))], moments=False)


@pytest.mark.parametrize(("status", "words"), [(500, "HTTP 500"), (403, "OPENAI_API_KEY"), (400, "HTTP 400")])
def test_a_server_that_goes_on_refusing(serve, models, status, words, monkeypatch):
    monkeypatch.setattr(http, "LONGEST_PAUSE", 0.01)
    server, lm = serve()
    backend = backend_of(lm, models)
    backend.identity(Role.TARGET)
    server.faults.statuses = [status] * 99
    with pytest.raises(SpvmiaError, match=words):
        backend.score(Role.TARGET, [ScoreInput((5, 6, 7))], moments=False)
    assert len(server.faults.statuses) == (97 if status == 500 else 98)


@pytest.mark.parametrize("halves", [1, 99])
def test_half_an_answer(serve, models, halves, monkeypatch):
    monkeypatch.setattr(http, "LONGEST_PAUSE", 0.01)
    server, lm = serve()
    backend = backend_of(lm, models)
    expected = backend.score(Role.TARGET, [ScoreInput((5, 6, 7))], moments=False)
    server.faults.half = halves
    if halves == 1:
        found = backend.score(Role.TARGET, [ScoreInput((5, 6, 7))], moments=False)
        assert found[0].logprob.tolist() == expected[0].logprob.tolist()
        return
    with pytest.raises(SpvmiaError, match=r"expected a whole answer, got .* bytes that are no JSON"):
        backend.score(Role.TARGET, [ScoreInput((5, 6, 7))], moments=False)


def test_a_server_that_is_too_slow(serve, models, monkeypatch):
    monkeypatch.setattr(http, "LONGEST_PAUSE", 0.01)
    server, lm = serve(lm={"timeout": 3, "max_retries": 1})  # what is in time may take a moment, on a busy machine
    backend = backend_of(lm, models)
    backend.identity(Role.TARGET)
    server.faults.slow = 3.6
    with pytest.raises(SpvmiaError, match=r"expected an answer within 3 s, got none.*raise timeout="):
        backend.score(Role.TARGET, [ScoreInput((5, 6, 7))], moments=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tokenizer_backend": "none"}, r"got none \(tokenizer_backend=none\)"),
        ({"tokenized_requests": False}, r"prompts as text \(tokenized_requests=False\)"),
    ],
)
def test_settings_of_the_harness_that_send_no_token_ids(serve, models, options, words):
    _, lm = serve(lm=options)
    assert is_completions(lm)
    assert not ServerBackend.accepts(lm)
    attacks = {"loss": REGISTRY.attacks["loss"]()}
    players = cast(attacks.values(), AuditConfig(), make_data(2))
    with pytest.raises(SpvmiaError, match=rf"can't run: loss; tokenizer: expected a tokenizer.*{words}.*huggingface"):
        check_features(attacks, players, "causal", TextTarget(lm, AuditConfig()))


@pytest.mark.parametrize("kind", ["tiktoken", "remote"])
def test_tokenizers_of_other_kinds(serve, models, kind):
    _, lm = serve()
    lm.tokenizer_backend, lm.tokenizer = kind, object()
    assert not ServerBackend.accepts(lm)
    assert f"got that of tokenizer_backend={kind}" in why_not_tokens(lm)


def test_other_protocols_are_none_of_ours(models):
    chat = LocalChatCompletion(base_url="http://127.0.0.1:1/v1/chat/completions", model="m", tokenizer_backend=None)
    assert not is_completions(chat)
    assert not is_completions(object())
    sglang = type("SGLANGGENERATEAPI", (OpenAICompletionsAPI,), {})
    assert not is_completions(object.__new__(sglang))
    assert is_completions(object.__new__(OpenAICompletionsAPI))
    assert is_completions(type("CachingLM", (), {"lm": object.__new__(OpenAICompletionsAPI)})())


def test_openai_without_a_key(models, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    lm = OpenAICompletionsAPI(model="davinci-002", tokenizer=str(models / "base"), tokenizer_backend="huggingface")
    with pytest.raises(SpvmiaError, match="OPENAI_API_KEY: expected a key, got none"):
        backend_of(lm, models)


def test_what_was_answered_before_a_fault_is_kept(serve, models):
    """One request of a part goes wrong: the others are not asked for again."""
    server, lm = serve(lm={"num_concurrent": 1})
    backend = backend_of(lm, models)
    backend.identity(Role.TARGET)
    items = [ScoreInput(item.token_ids[:120]) for item in inputs(backend, tiny_texts(6, words=(60, 70)))]
    server.faults.value_at, server.faults.value_after = 7, len(server.served.requests) + 3
    kept = {}
    with pytest.raises(SpvmiaError, match="gap in its"):
        backend.score(Role.TARGET, items, moments=False, on_done=kept.update)
    assert len(kept) == 3
