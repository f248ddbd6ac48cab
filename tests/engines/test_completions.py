"""Answers that make no sense are the server's fault, by name: whatever stands where, and never an error of ours."""

from __future__ import annotations

import copy
import math

import pytest

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.engines.completions import Echo, Fault, PromptLogprobs, written
from spvmia_plugin.engines.http import Halved
from spvmia_plugin.engines.server import ServerBackend
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import ScoreInput
from spvmia_plugin.signals import Role

IDS = [3, 4, 5, 6]
ROWS = [
    None,
    *(
        {
            str(i): {"logprob": -1.5, "rank": 2, "decoded_token": "a"},
            "9": {"logprob": -0.5, "rank": 1, "decoded_token": "b"},
        }
        for i in IDS[1:]
    ),
]
OF_TEXT = {
    "tokens": list("abcde"),
    "token_logprobs": [None, -1, -1, -1, -1],
    "top_logprobs": [None, *[{"q": -0.2}] * 4],
}
ANSWERS = {
    "prompt_logprobs": {"choices": [{"text": "x", "prompt_logprobs": ROWS}]},
    "echo": {"choices": [{"text": "abcd", "logprobs": OF_TEXT, "token_ids": [1]}]},
    "written": {
        "choices": [
            {
                "text": "abcd",
                "finish_reason": "length",
                "logprobs": {"tokens": list("abcd"), "token_logprobs": [-1, -1, -1, -1], "content": None},
                "token_ids": [1, 2, 3, 4],
            }
        ]
    },
    "written as in chats": {
        "choices": [{"text": "ab", "logprobs": {"content": [{"id": 1, "logprob": -1}, {"id": 2, "logprob": -2}]}}]
    },
}
JUNK = [None, "x", "7", {}, [], [None], {"a": None}, math.nan, math.inf, -math.inf, -1, 2.5, True]


def read(kind, answer):
    if kind.startswith("written"):
        return written(answer)
    way = PromptLogprobs() if kind == "prompt_logprobs" else Echo()
    found = way.read(answer, IDS)
    return found, way.text(answer, IDS)


def places(value, place=()):
    yield place
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*place, key))


def put(answer, place, value):
    if not place:
        return value
    found = inner = copy.deepcopy(answer)
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return found


@pytest.mark.parametrize("kind", ANSWERS)
def test_junk_in_any_place_is_a_fault_with_a_name(kind):
    read(kind, ANSWERS[kind])
    faults = []
    for place in places(ANSWERS[kind]):
        for junk in JUNK:
            try:
                read(kind, put(ANSWERS[kind], place, junk))
            except (Fault, Halved) as fault:
                faults.append(str(fault))
    assert len(faults) > 20
    assert all(faults)


@pytest.mark.parametrize(
    "entry", [{"rank": 1}, {"logprob": None}, {"logprob": "x"}, {"logprob": math.nan}, None, "x", 3]
)
def test_a_neighbour_without_a_number(serve, models, entry):
    """Beside a token that is as it should be."""
    server, lm = serve()
    backend = ServerBackend(lm, AuditConfig(), str(models / "base"))
    backend.identity(Role.TARGET)
    complete = server.served.complete

    def spoilt(body):
        status, answer = complete(body)
        for row in answer["choices"][0].get("prompt_logprobs") or []:
            if row is not None:
                row["99999"] = entry
        return status, answer

    server.served.complete = spoilt
    with pytest.raises(SpvmiaError) as error:
        backend.score(Role.TARGET, [ScoreInput((5, 6, 7, 8))], moments=False)
    assert str(error.value).startswith("base_url: expected a finite log-probability of each of")
    assert f"({server.url}) that names tokens without a number as their log-probability beside token 2" in str(
        error.value
    )


@pytest.mark.parametrize("best", [None, {}, {"q": None}, {"q": "x"}])
def test_an_echo_that_does_not_name_the_likeliest_token(best):
    answer = put(ANSWERS["echo"], ("choices", 0, "logprobs", "top_logprobs", 2), best)
    with pytest.raises(Fault, match=r"does not name the likeliest token beside token 3 of 4"):
        Echo().read(answer, IDS)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("token_ids", ["a"] * 6, "token_ids of what it wrote that are no whole numbers"),
        ("token_ids", [1.5], "token_ids of what it wrote that are no whole numbers"),
        ("token_ids", [-1], "token_ids of what it wrote that are no whole numbers"),
    ],
)
def test_ids_that_are_none(serve, models, field, value, words):
    server, lm = serve(lm={"max_retries": 1})
    backend = ServerBackend(lm, AuditConfig(), str(models / "base"))
    backend.identity(Role.TARGET)
    complete = server.served.complete

    def spoilt(body):
        status, answer = complete(body)
        answer["choices"][0][field] = value
        return status, answer

    server.served.complete = spoilt
    with pytest.raises(SpvmiaError, match=f"base_url: expected a whole answer, got {words}, from {server.url}; see"):
        backend.generate([[5, 6, 7]], [9], [1])
    fresh = ServerBackend(lm, AuditConfig(), str(models / "base"))
    with pytest.raises(SpvmiaError, match=f"got {words}"):
        fresh.features_of(Role.TARGET)


def test_what_is_impossible_has_no_weight_in_moments():
    """Minus infinity times nothing is no number."""
    rows = [None, {"4": {"logprob": math.log(0.75)}, "5": {"logprob": math.log(0.25)}, "6": {"logprob": -math.inf}}]
    found = PromptLogprobs().read({"choices": [{"prompt_logprobs": rows}]}, [3, 4], moments=True)
    mean = 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    assert found.mean == pytest.approx([mean])
    deviation = math.sqrt(0.75 * (math.log(0.75) - mean) ** 2 + 0.25 * (math.log(0.25) - mean) ** 2)
    assert found.std == pytest.approx([deviation])
