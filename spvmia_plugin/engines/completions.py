"""What a completions server says of tokens: the log-probabilities of a prompt, and what it writes after one.

There are two ways to have a prompt's log-probabilities. vLLM's `prompt_logprobs` names each token by its id, with the
likeliest beside it, and with -1 the whole distribution. The API's own `echo` gives them as those of a text that begins
with the prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.engines.http import Halved

LOWEST = -9000.0
"""Below it a log-probability stands for minus infinity: vLLM writes -9999 for that."""

APART, DEEP = 1.0, -50.0
"""Nats: so far below all others lies a floor, or below this one."""

NEUTRAL: Mapping[str, float] = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""Settings of sampling that leave a distribution as it is, beside `top_p`, which every server knows.

Where a request leaves one out, vLLM takes that of the served model's generation_config.json. OpenAI's own API has none
of them, and refuses requests that name one.
"""
WORDINGS: Sequence[Mapping[str, float]] = (
    {**NEUTRAL, "repeat_penalty": 1.0},
    {**NEUTRAL, "repeat_penalty": 1.0, "top_k": 0},
    NEUTRAL,
)
"""The same in the words of several servers, in the order in which they are tried.

`repeat_penalty` is llama.cpp's name: llama-cpp-python's server takes 1.1 where nothing is said, ignores vLLM's name for
it, and answers HTTP 500 to a `top_k` below 0. One that knows vLLM's names alone may refuse another.
"""
UNKNOWN_FIELD = (400, 422)
"""What servers answer to a field of a request that they do not know."""
_WHOLE = frozenset({"stop", "length", "eos", "eos_token", "stop_sequence", "end_turn", "max_tokens"})
"""Reasons that servers give for the end of a text that is whole, or as long as was asked for."""
Ids = Sequence[int]


def untold(who: str, names: Sequence[str], status: int) -> str:
    """A note on who writes by some settings of sampling that are not ours."""
    return (
        f"{who} refuses to be told {', '.join(names)} (HTTP {status}): what the target writes is sampled by its own "
        "defaults of these (a served model's generation_config.json may cut its distribution; vLLM: serve with "
        "--generation-config vllm)"
    )


class Fault(Exception):
    """What a server gets wrong, in words that go on after "got a server that"."""


@dataclass(frozen=True)
class Read:
    """What a server says of a prompt's tokens but the first, n - 1 of them.

    Attributes:
        logprob: (n - 1,) float32, in nats.
        top1: (n - 1,), whether no token was more likely.
        mean: (n - 1,) float32 mean over the vocabulary, None where it was not asked for.
        std: likewise the standard deviation.
    """

    logprob: NDArray[np.float32]
    top1: NDArray[np.bool_]
    mean: NDArray[np.float32] | None = None
    std: NDArray[np.float32] | None = None


class Way:
    """A way to have a prompt's log-probabilities."""

    name = ""
    names_ids = False
    """Whether an answer names the tokens that it is about by their ids."""

    def body(self, ids: Ids, *, moments: bool = False) -> dict[str, Any]:
        """What to send. One token is always written: some servers know no less."""
        return {"prompt": list(ids), "max_tokens": 1, "temperature": 0}

    def read(self, answer: Any, ids: Ids, *, moments: bool = False) -> Read:
        """What a server has answered.

        Raises:
            Fault: it did not score what was sent.
            Halved: a part of the answer is missing.
        """
        raise NotImplementedError

    def text(self, answer: Any, ids: Ids) -> str:
        """What the server took the tokens but the first for, as far as it says; more may stand around it."""
        return ""


class PromptLogprobs(Way):
    """vLLM's `prompt_logprobs`: the tokens by id, and the likeliest beside each."""

    name = "prompt_logprobs"
    names_ids = True

    def body(self, ids: Ids, *, moments: bool = False) -> dict[str, Any]:
        return {**super().body(ids), "prompt_logprobs": -1 if moments else 1}

    def read(self, answer: Any, ids: Ids, *, moments: bool = False) -> Read:
        choice = only_choice(answer)
        rows = choice.get("prompt_logprobs", answer.get("prompt_logprobs"))
        if not isinstance(rows, list):
            raise Fault("gives no prompt_logprobs")
        if len(rows) != len(ids):
            raise Fault(f"gives {len(rows)} prompt_logprobs for {len(ids)} tokens{_shorter(len(rows), ids)}")
        first = rows[0].get(str(ids[0])) if ids and isinstance(rows[0], Mapping) else None
        nothing_before(first.get("logprob") if isinstance(first, Mapping) else None)
        logprob, top1, of_all = [], [], []
        for place, (token_id, row) in enumerate(zip(ids[1:], rows[1:], strict=True), start=1):
            if not isinstance(row, Mapping):
                raise Fault(f"has a gap in its prompt_logprobs, at token {place + 1} of {len(ids)}")
            own = row.get(str(token_id))
            if not isinstance(own, Mapping):
                raise Fault("gives prompt_logprobs of other tokens than were sent")
            value = finite(own.get("logprob"), place, ids)
            logprob.append(value)
            beside = [_number(entry.get("logprob")) if isinstance(entry, Mapping) else None for entry in row.values()]
            known = [each for each in beside if each is not None]
            if len(known) < len(beside):
                raise Fault(
                    f"names tokens without a number as their log-probability beside token {place + 1} of {len(ids)}"
                )
            # Not by its rank: of two tokens that are equally likely, as bfloat16 makes often, both have rank 2.
            top1.append(value >= max(known))
            if moments:
                of_all.append(_moments(known))
        no_floor(logprob)
        mean, std = np.array(of_all, np.float32).reshape(-1, 2).T if moments else (None, None)
        return Read(np.array(logprob, np.float32), np.array(top1, bool), mean, std)

    def text(self, answer: Any, ids: Ids) -> str:
        rows = only_choice(answer).get("prompt_logprobs", answer.get("prompt_logprobs"))
        told = [row[str(i)].get("decoded_token") for i, row in zip(ids[1:], rows[1:], strict=True)]
        return "".join(told) if all(isinstance(token, str) for token in told) else ""


class Echo(Way):
    """`echo`: the answer's text begins with the prompt, and has log-probabilities from its first token on."""

    name = "echo"

    def body(self, ids: Ids, *, moments: bool = False) -> dict[str, Any]:
        return {**super().body(ids), "echo": True, "logprobs": 1}

    def read(self, answer: Any, ids: Ids, *, moments: bool = False) -> Read:
        found = only_choice(answer).get("logprobs")
        found = found if isinstance(found, Mapping) else {}
        given = found.get("token_logprobs")
        if not isinstance(given, list) or len(given) <= 1 < len(ids):
            raise Fault("scores only what it writes, and ignores 'echo' in silence")
        if not len(ids) <= len(given) <= len(ids) + 1:  # the last one was written
            raise Fault(
                f"echoes {len(given)} log-probabilities for {len(ids)} tokens and one that it writes"
                f"{_shorter(len(given) - 1, ids)}"
            )
        best = found.get("top_logprobs")
        if not isinstance(best, list) or len(best) != len(given):
            raise Fault("echoes log-probabilities without 'top_logprobs', so nobody knows which token was likeliest")
        nothing_before(given[0])
        logprob, top1 = [], []
        for place in range(1, len(ids)):
            value = finite(given[place], place, ids)
            logprob.append(value)
            beside = _values(best[place])
            if not beside:
                raise Fault(f"does not name the likeliest token beside token {place + 1} of {len(ids)}")
            top1.append(value >= max(beside))
        no_floor(logprob)
        return Read(np.array(logprob, np.float32), np.array(top1, bool))

    def text(self, answer: Any, ids: Ids) -> str:
        found = only_choice(answer).get("text")
        return found if isinstance(found, str) else ""


def only_choice(answer: Any) -> Mapping[str, Any]:
    """The one choice of an answer.

    Raises:
        Halved: it is not there.
    """
    choices = answer.get("choices") if isinstance(answer, Mapping) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], Mapping):
        raise Halved("an answer without its choice")
    found: Mapping[str, Any] = choices[0]
    return found


def finite(value: object, place: int, ids: Ids) -> float:
    """A log-probability.

    Raises:
        Fault: null, infinite, or more than 0.
    """
    where = f"of token {place + 1} of {len(ids)}"
    if value is None:
        raise Fault(f"has a gap in its log-probabilities: null as that {where}")
    number = _number(value)
    if number is None:
        raise Fault(f"gives no number as the log-probability {where}")
    if number <= LOWEST:
        raise Fault(f"says that what was sent can't be: minus infinity as the log-probability {where}")
    if number > 1e-3:
        raise Fault(f"gives {number:.3g} as the log-probability {where}")
    return min(number, 0.0)


def _shorter(count: int, ids: Ids) -> str:
    """What may be wrong where a server says something of too few tokens."""
    if not 0 < count < len(ids):
        return ""
    return f": it may read {count} at most and cut the rest off without a word (then pass max_length={count + 2})"


def nothing_before(value: object) -> None:
    """Make sure that a prompt's first token has no log-probability: nothing stands before it.

    Raises:
        Fault: it has one. Some servers write 0 for none.
    """
    number = _number(value)
    if number is not None and number < 0:
        raise Fault(
            f"puts something before the prompt, for it gives {number:.3g} as the log-probability of the first token: "
            "have it add no token of its own (add_special_tokens=false)"
        )


def no_floor(logprobs: Sequence[float]) -> None:
    """Make sure that no one value stands for whatever was not among the likeliest tokens.

    Raises:
        Fault: several log-probabilities are the lowest one to the last digit, and it is far below all others, or below
            what a model says of a text.
    """
    lowest = min(logprobs, default=0.0)
    others = [value for value in logprobs if value > lowest]
    count = len(logprobs) - len(others)
    is_apart = count >= 3 and bool(others) and min(others) - lowest >= APART
    if is_apart or (count >= 2 and lowest <= DEEP):
        raise Fault(
            f"gives {lowest:.4g} as the log-probability of {count} of {len(logprobs)} tokens: a floor that stands for "
            "any token that is not among the likeliest"
        )


def decimals_of(logprobs: Sequence[float]) -> int | None:
    """To how many decimals log-probabilities were rounded, two at most; None where they were not."""
    values = np.array([value for value in logprobs if value], np.float64)
    if len(values) < 3:
        return None
    return next((d for d in range(3) if np.abs(values * 10**d - np.round(values * 10**d)).max() < 1e-3), None)


def _number(value: object) -> float | None:
    """A number of JSON, which may be infinite; None where it is none."""
    is_one = isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
    return float(value) if is_one else None  # type: ignore[arg-type]


def _values(entry: object) -> list[float]:
    """The log-probabilities of one position's `top_logprobs`."""
    values = map(_number, entry.values() if isinstance(entry, Mapping) else ())
    return [value for value in values if value is not None]


def _moments(logprobs: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation of log p(v) under p, over a whole distribution.

    Raises:
        Fault: it is not whole.
    """
    values = np.maximum(np.array(logprobs, np.float64), LOWEST)  # times its probability, minus infinity is no number
    p = np.exp(values)
    if abs(p.sum() - 1) > 1e-3:
        raise Fault(f"gives prompt_logprobs that sum up to {p.sum():.3g}")
    mean = float((p * values).sum())
    return mean, math.sqrt(max(float((p * (values - mean) ** 2).sum()), 0.0))


@dataclass(frozen=True)
class Written:
    """What a server wrote.

    Attributes:
        text: of it.
        logprobs: of its tokens, None where it says nothing of them.
        ids: its tokens, where the server names them.
        tokens: their texts, as the server has them.
        ended: whether an end token ended it.
    """

    text: str
    logprobs: tuple[float | None, ...] | None
    ids: tuple[int, ...] | None
    tokens: tuple[str, ...] | None
    ended: bool


def written(answer: Any) -> Written:
    """Read what a server wrote.

    Raises:
        Halved: the text is missing or was broken off (`abort`, `content_filter`), or what is said of its tokens makes
            no sense.
    """
    choice = only_choice(answer)
    finish, text = choice.get("finish_reason"), choice.get("text")
    if isinstance(finish, str) and finish.lower() not in _WHOLE:
        raise Halved(f"a text that was broken off ({finish[:30]!r})" if finish.isidentifier() else "a broken-off text")
    if not isinstance(text, str):
        raise Halved("an answer without a text")
    told = choice.get("logprobs")
    told = told if isinstance(told, Mapping) else {}
    tokens, logprobs, ids = told.get("tokens"), told.get("token_logprobs"), choice.get("token_ids")
    if isinstance(rows := told.get("content"), list) and all(isinstance(row, Mapping) for row in rows):
        # As chat completions have it: llama.cpp's server.
        logprobs = [row.get("logprob") for row in rows]
        named_ids = [row["id"] for row in rows if isinstance(row.get("id"), int)]
        ids = named_ids if len(named_ids) == len(rows) else ids
    if not isinstance(ids, list) and isinstance(tokens, list):
        named = [str(token).removeprefix("token_id:") for token in tokens if str(token).startswith("token_id:")]
        ids = [int(digits) for digits in named if digits.isdigit()]
        ids = ids if len(ids) == len(tokens) else None
    is_text = isinstance(tokens, list) and not any(str(token).startswith("token_id:") for token in tokens)
    return Written(
        text,
        tuple(_said(each) for each in logprobs) if isinstance(logprobs, list) else None,
        tuple(_token_id(each) for each in ids) if isinstance(ids, list) else None,
        tuple(map(str, tokens)) if isinstance(tokens, list) and is_text else None,
        finish == "stop",
    )


def _said(value: object) -> float | None:
    """The log-probability of a token that a server wrote; null stands for one of which it says nothing.

    Raises:
        Halved: it is something else.
    """
    number = _number(value)
    if value is not None and (number is None or math.isinf(number)):
        raise Halved("log-probabilities of what it wrote that are no numbers")
    return number


def _token_id(value: object) -> int:
    """A token that a server names by its id.

    Raises:
        Halved: it is no whole number.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise Halved("token_ids of what it wrote that are no whole numbers")
    return value
