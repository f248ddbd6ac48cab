"""Servers that were tried and are wrong, played back from what they answered (`recorded/`, made by `record.py`).

llama.cpp's own server ignores `echo` in silence, and has log-probabilities as chat completions have them.
llama-cpp-python's takes no token ids: HTTP 500. It echoes texts, and `llama_cpp_python_by_text` has what it said when
it was handed the self-check's token ids as the text that they are: of each token the log-probability of reading it once
more, after itself, which is no number of another token; each answer is real, and nothing here is made by form.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from spvmia_plugin.auditing.roles import cast, check_features
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.engines.completions import Echo
from spvmia_plugin.engines.server import ServerBackend
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import ScoreInput
from spvmia_plugin.signals import Role
from tests.auditing.fakes import make_data
from tests.auditing.test_run import REGISTRY
from tests.engines.record import Playback
from tests.engines.servers import completions_lm

RECORDED = Path(__file__).parent / "recorded"
NO_ECHO = "that scores only what it writes, and ignores 'echo' in silence; audit it by what it writes alone"
NO_IDS = (
    "that takes prompts as text alone, and answers token ids by HTTP 500; with tokenized_requests=False in "
    "--model_args audit it by what it writes alone (ngram_mia, surrogate_mia)"
)
OTHERS = "that says of tokens that it reads something else than when it wrote them: log-probabilities differ by up to "


def recording(name):
    return json.loads((RECORDED / f"{name}.json").read_text())


@pytest.fixture
def played(tmp_path):
    """Play a recording back, and give what plays it and the harness's LM for it."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    playing = []

    def play(name):
        found = recording(name)
        tokenizer = Tokenizer.from_str(json.dumps(found["tokenizer"]))
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **found["special_tokens"]).save_pretrained(tmp_path)
        playback = Playback(found)
        playing.append(playback)
        playback.__enter__()
        return playback, completions_lm(f"{playback.root}/v1/completions", tmp_path, model=found["model"])

    yield play
    for playback in playing:
        playback.__exit__()


@pytest.mark.parametrize(
    ("name", "fault", "writes"),
    [
        ("llama_cpp", NO_ECHO, True),
        ("llama_cpp_python", NO_IDS, False),
        ("llama_cpp_python_by_text", OTHERS, True),
    ],
)
def test_they_are_refused_by_the_self_check(played, name, fault, writes):
    playback, lm = played(name)
    backend = ServerBackend(lm, AuditConfig())
    features = backend.features_of(Role.TARGET)
    assert (features.logprobs, features.generate) == (False, writes)
    asked = backend.lacks(Role.TARGET)
    assert fault in asked
    with pytest.raises(SpvmiaError) as error:
        backend.score(Role.TARGET, [ScoreInput((5, 6, 7))], moments=False)
    assert str(error.value) == asked
    assert playback.unknown == []  # the self-check asks what it asked then, and nothing of the audit was sent


@pytest.mark.parametrize("attack", ["loss", "ngram"])
def test_a_server_that_takes_text_alone_is_no_use_by_token_ids(played, attack):
    """Not even for what it writes: who follows the advice is not sent into the same HTTP 500 once more."""
    _, lm = played("llama_cpp_python")
    attacks = {attack: REGISTRY.attacks[attack]()}
    players = cast(attacks.values(), AuditConfig(), make_data(2))
    with pytest.raises(SpvmiaError, match=rf"can't run: {attack}; .*; with tokenized_requests=False in --model_args"):
        check_features(attacks, players, "causal", ServerBackend(lm, AuditConfig()))


def test_what_llama_cpp_python_echoes_is_no_shift(played):
    """Its numbers are not those of the token beside: no shift would give them back."""
    answers = [each for each in recording("llama_cpp_python_by_text")["exchanges"] if each["method"] == "POST"]
    wrote = [each["answer"] for each in answers if each["request"]["max_tokens"] > 1]
    echo = next(each for each in answers if each["request"].get("echo"))  # asked once more where it took too long
    read = Echo().read(echo["answer"], echo["request"]["prompt"]).logprob
    said = max((np.array(each["choices"][0]["logprobs"]["token_logprobs"]) for each in wrote), key=np.ptp)
    for shift in (-2, -1, 0, 1, 2):
        beside = read[len(read) - len(said) + min(shift, 0) : len(read) + min(shift, 0)]
        assert np.abs(beside[max(shift, 0) :] - said[: len(said) - max(shift, 0)]).max() > 2
