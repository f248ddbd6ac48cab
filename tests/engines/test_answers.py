"""What servers say that looks like log-probabilities of what was sent, and is not quite that."""

from __future__ import annotations

import pytest

from spvmia_plugin.engines.completions import Fault, no_floor
from spvmia_plugin.engines.self_check import is_text_of
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import ScoreInput
from spvmia_plugin.signals import Role
from tests.engines.servers import completions_lm
from tests.engines.test_faults import RECORD, backend_of


@pytest.mark.parametrize("decimals", [1, 2])
def test_rounded_log_probabilities_are_told(serve, models, decimals):
    backend = backend_of(serve(decimals=decimals)[1], models)
    assert backend.checked("target").decimals == decimals
    assert backend.told["models"]["target"]["self_check"]["decimals"] == decimals
    (note,) = [note for note in backend.notes if "rounds to" in note]
    assert note.startswith(f"'target' is seen by log-probabilities that the server rounds to {decimals} decimal")


@pytest.mark.parametrize("first", [None, 0.0])
def test_what_is_no_log_probability_of_the_first_token(serve, models, first):
    backend = backend_of(serve(first=first, prompt_logprobs="ignored")[1], models)
    assert backend.checked("target").fault is None
    assert backend.checked("target").decimals is None
    assert not [note for note in backend.notes if "rounds to" in note]


def test_an_echo_of_another_text(serve, models):
    """As of a cache in front of a server that takes prompts for alike: here those of the same length."""
    server, lm = serve(prompt_logprobs="ignored")
    backend = backend_of(lm, models)
    backend.identity(Role.TARGET)
    server.faults.stale = True
    one, other = (backend.encode(text) for text in (RECORD, RECORD[::-1]))
    items = [ScoreInput(tuple(ids[: min(len(one), len(other))])) for ids in (one, other)]
    assert backend.score(Role.TARGET, items[:1], moments=False)[0] is not None
    with pytest.raises(SpvmiaError, match="answers for another text than was sent") as error:
        backend.score(Role.TARGET, items, moments=False)
    assert "Anna" not in str(error.value)


def test_text_is_compared_around_special_tokens(serve, models):
    tokens = backend_of(serve()[1], models)._tokens
    tokenizer = tokens.tokenizer
    one, other = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("Anna said", "in Oslo"))
    ids = [tokenizer.bos_token_id, *one, tokenizer.eos_token_id, *other]
    for theirs, same in (
        ("Anna said in Oslo", True),
        ("<s>Anna said</s>in Oslo and", True),
        ("in Oslo Anna said", False),
        ("Anna said", False),
        ("", True),
    ):
        assert is_text_of(tokens, theirs, ids) is same


@pytest.mark.parametrize(
    ("logprobs", "is_floor"),
    [
        ([-100.0, -100.0, -3.0], True),
        ([-12.0, -12.0, -12.0, -3.0], True),
        ([-100.0, -3.0, -2.0], False),
        ([-12.0, -12.0, -12.0, -11.5], False),
        ([-12.0, -12.0, -3.0], False),
        ([-7.0, -7.0, -7.0], False),
        ([], False),
    ],
)
def test_what_is_a_floor(logprobs, is_floor):
    if is_floor:
        with pytest.raises(Fault, match="a floor that stands for any token"):
            no_floor(logprobs)
    else:
        no_floor(logprobs)


def test_a_text_that_was_broken_off_is_asked_for_again(serve, models, monkeypatch):
    server, lm = serve(finish="abort", lm={"num_concurrent": 1})
    whole = backend_of(serve()[1], models).generate([[5, 6, 7]] * 4, [30] * 4, range(4))
    assert backend_of(lm, models).generate([[5, 6, 7]] * 4, [30] * 4, range(4)) == whole
    monkeypatch.setattr(server.served, "requests", type("Odd", (list,), {"__len__": lambda self: 1})())
    with pytest.raises(SpvmiaError, match=r"expected a whole answer, got a text that was broken off \('abort'\)"):
        backend_of(lm, models).generate([[5, 6, 7]], [30], [0])


@pytest.mark.parametrize(("answers_as", "is_told"), [("base", True), ("target", False), ("target-v2.gguf", False)])
def test_answers_in_the_name_of_another_model_that_is_served(serve, models, answers_as, is_told):
    backend = backend_of(serve(answers_as=answers_as)[1], models)
    backend.score(Role.TARGET, [ScoreInput((5, 6, 7, 8))], moments=False)
    notes = [note for note in backend.notes if "in the name of" in note]
    assert [note.startswith("the server answered for 'target' in the name of 'base', which") for note in notes] == (
        [True] if is_told else []
    )
    assert backend.notes == backend.notes


def test_where_prompt_logprobs_make_no_sense_echo_is_tried(serve, models):
    _, lm = serve(prompt_logprobs="senseless")
    assert backend_of(lm, models).checked("target").way.name == "echo"


@pytest.mark.parametrize("way", ["all", "ignored"])
def test_a_server_that_cuts_prompts_off_is_told_of_by_its_length(serve, models, way):
    server, lm = serve(reads=20, prompt_logprobs=way)
    fault = backend_of(lm, models).checked("target").fault
    assert "it may read 20 at most and cut the rest off without a word (then pass max_length=22)" in fault
    short = completions_lm(server.url, models / "base", max_length=22)
    assert backend_of(short, models).max_length == 20
