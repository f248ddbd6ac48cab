"""Servers that were tried and are wrong, played by the form of their answers.

The forms are those that llama-cpp-python 0.3.36 and llama.cpp's own server (xllamacpp) gave in the prototypes: the
first takes no token ids (HTTP 500), echoes texts, and has each token's log-probability at the place before it where no
BOS is added; the second ignores `echo`, and has log-probabilities as chat completions have them.
"""

from __future__ import annotations

import pytest

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.engines.server import ServerBackend
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import ScoreInput
from spvmia_plugin.signals import Role


def llama_cpp_python(served, *, takes_ids):
    def complete(body):
        prompt = body["prompt"]
        if not isinstance(prompt, str) and not takes_ids:
            error = {"message": "argument of type 'int' is not iterable", "type": "internal_server_error", "code": None}
            return 500, {"error": error}
        ids = list(prompt) if not isinstance(prompt, str) else served.tokenizer(prompt)["input_ids"]
        new, said, _ = served.write(body, ids)
        every = [*ids, *new]
        rows = served.logprobs(body["model"], every)
        # Row k - 1 is of token k; here stands row k of it, which is what is said of the token after it.
        echoed = [
            None,
            *(float(rows[k].max() if k + 1 == len(every) else rows[k, every[k + 1]]) for k in range(1, len(ids))),
        ]
        shown = every if body.get("echo") else new
        texts = [served.text([token_id]) for token_id in shown]
        values = [*(echoed if body.get("echo") else []), *said]
        logprobs = {
            "text_offset": [sum(map(len, texts[:k])) for k in range(len(texts))],
            "token_logprobs": values,
            "tokens": texts,
            "top_logprobs": [None if value is None else {"x": max(value, -0.5)} for value in values],
        }
        choice = {"text": served.text(shown), "index": 0, "logprobs": logprobs, "finish_reason": "length"}
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(new), "total_tokens": len(every)}
        return 200, {"id": "cmpl-7", "object": "text_completion", "created": 1, "choices": [choice], "usage": usage}

    return complete


def llama_cpp(served):
    def complete(body):
        ids = list(body["prompt"])
        new, said, _ = served.write(body, ids)
        content = [
            {
                "id": token_id,
                "token": served.text([token_id]),
                "bytes": list(served.text([token_id]).encode()),
                "logprob": value,
                "top_logprobs": [{"id": token_id, "token": served.text([token_id]), "bytes": [], "logprob": value}],
            }
            for token_id, value in zip(new, said, strict=True)
        ]
        logprobs = {"content": content} if body.get("logprobs") else None
        choice = {"text": served.text(new), "index": 0, "logprobs": logprobs, "finish_reason": "length"}
        timings = {"prompt_n": len(ids), "predicted_n": len(new)}
        return 200, {"choices": [choice], "object": "text_completion", "model": body["model"], "timings": timings}

    return complete


@pytest.mark.parametrize(
    ("play", "fault"),
    [
        (lambda served: llama_cpp_python(served, takes_ids=False), "takes prompts as text alone .* by HTTP 500"),
        (lambda served: llama_cpp_python(served, takes_ids=True), "shifts log-probabilities by 1 token: .* after it"),
        (llama_cpp, "scores only what it writes, and ignores 'echo' in silence"),
    ],
    ids=["llama-cpp-python", "llama-cpp-python, were it to take ids", "llama.cpp"],
)  # fmt: skip
def test_they_are_refused_by_the_self_check(serve, models, play, fault):
    server, lm = serve(says_context=False)
    server.served.complete = play(server.served)
    backend = ServerBackend(lm, AuditConfig(), str(models / "base"))
    assert not backend.features_of(Role.TARGET).logprobs
    with pytest.raises(SpvmiaError, match=fault):
        backend.score(Role.TARGET, [ScoreInput((5, 6, 7))], moments=False)
    assert (5, 6, 7) not in server.served.scored
