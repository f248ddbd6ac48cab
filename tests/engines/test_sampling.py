"""What a server writes is drawn from the target's own distribution, by our settings and by no others."""

from __future__ import annotations

import pytest
from lm_eval.models.openai_completions import OpenAICompletionsAPI

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.engines.completions import NEUTRAL
from spvmia_plugin.engines.server import ServerBackend
from spvmia_plugin.errors import SpvmiaError
from tests.engines.tiny_server import SAMPLING

PROMPTS, LENGTHS, SEEDS = [[5, 6, 7]] * 4, [14] * 4, [1, 2, 3, 4]


def backend_of(lm, models, **options):
    return ServerBackend(lm, AuditConfig(**{"temperature": 1.0, **options}), str(models / "base"))


def sampling(server):
    """Settings of the requests that write, without those of the self-check."""
    asked = [each for each in server.served.requests if "logprobs" not in each and "prompt_logprobs" not in each]
    return [{name: each[name] for name in SAMPLING if name in each} for each in asked if not each.get("echo")]


@pytest.mark.parametrize(
    "samples_by", [{"top_k": 1}, {"repetition_penalty": 40.0}, {"temperature": 0.01, "top_k": 2}, {"top_p": 0.5}]
)
def test_the_defaults_of_the_served_model_have_no_say(serve, models, samples_by):
    """vLLM takes what a request leaves out from the model's generation_config.json."""
    server, lm = serve()
    backend = backend_of(lm, models)
    plain = backend.generate(PROMPTS, LENGTHS, SEEDS)
    server.faults.samples_by = samples_by
    assert backend.generate(PROMPTS, LENGTHS, SEEDS) == plain
    assert {tuple(each.items()) for each in sampling(server)} == {
        (("temperature", 1.0), ("top_p", 1.0), *NEUTRAL.items())
    }
    assert not [note for note in backend.notes if "refuses" in note]


def test_what_the_user_asks_for_is_sent(serve, models):
    server, lm = serve()
    backend_of(lm, models, top_k=3, top_p=0.9, temperature=0.7).generate(PROMPTS, LENGTHS, SEEDS)
    wanted = {**NEUTRAL, "temperature": 0.7, "top_p": 0.9, "top_k": 3}
    assert sampling(server) == [wanted] * 4


@pytest.mark.parametrize(
    ("knows", "options", "untold"),
    [
        (("temperature", "top_p"), {}, "top_k, min_p, repetition_penalty"),
        (("temperature", "top_p", "top_k"), {"top_k": 5}, "min_p, repetition_penalty"),
    ],
)
def test_a_server_that_does_not_know_them_is_told_less_and_the_results_say_so(serve, models, knows, options, untold):
    server, lm = serve(knows=knows, lm={"num_concurrent": 1})
    backend = backend_of(lm, models, **options)
    written = backend.generate(PROMPTS, LENGTHS, SEEDS)
    assert all(len(ids) == 14 for ids in written)
    wanted = {"temperature": 1.0, "top_p": 1.0, **options}
    assert sampling(server) == [{**NEUTRAL, **wanted}, *[wanted] * 4]  # one request too many, and no more
    (note,) = [note for note in backend.notes if "refuses to be told" in note]
    assert f"the server refuses to be told {untold} (HTTP 400)" in note


def test_a_server_that_does_not_know_what_the_user_asks_for(serve, models):
    _, lm = serve(knows=("temperature", "top_p"))
    with pytest.raises(SpvmiaError, match=r"mia_top_k: expected a server that knows 'top_k', got HTTP 400"):
        backend_of(lm, models, top_k=5).generate(PROMPTS, LENGTHS, SEEDS)


def test_another_fault_is_not_taken_for_a_setting_that_is_unknown(serve, models):
    server, lm = serve(says_context=False, context=110, lm={"num_concurrent": 1})
    backend = backend_of(lm, models)
    with pytest.raises(SpvmiaError, match=r"HTTP 400 that names the length of the context"):
        backend.generate([[5] * 100], [140], [1])
    backend.generate(PROMPTS[:1], LENGTHS[:1], SEEDS[:1])
    assert set(NEUTRAL) <= set(sampling(server)[-1])
    assert not [note for note in backend.notes if "refuses" in note]


def test_openai_is_told_nothing_that_it_does_not_know(serve, models, monkeypatch):
    """Its defaults are neutral, as it says itself."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-a-test")
    server, _ = serve(knows=("temperature", "top_p"), lm={"num_concurrent": 1})
    lm = OpenAICompletionsAPI(
        base_url=server.url,
        model="target",
        tokenizer=str(models / "base"),
        tokenizer_backend="huggingface",
        max_length=256,
    )
    backend = backend_of(lm, models)
    backend.generate(PROMPTS, LENGTHS, SEEDS)
    assert sampling(server) == [{"temperature": 1.0, "top_p": 1.0}] * 4
    assert not [note for note in backend.notes if "refuses" in note]
