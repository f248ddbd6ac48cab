"""The SGLang backend on an engine of transformers with SGLang's shapes: against `--model hf` on the same weights."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.engines import in_process
from spvmia_plugin.engines.prompt_logprobs import read_meta_info
from spvmia_plugin.engines.sglang import SGLangBackend
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.hf_backend import HFBackend
from spvmia_plugin.protocols import Backend, BackendFeatures, ScoreInput
from spvmia_plugin.signals import Role
from tests.engines import fake_sglang
from tests.models.models import harness_lm, inputs, naive
from tests.tiny import tiny_texts

TEXTS = tiny_texts(6, words=(4, 30))
TARGET, BASE, REFERENCE = Role.TARGET, Role.BASE, Role.REFERENCE
SEEDED = {"enable_deterministic_inference": True}


@pytest.fixture(autouse=True)
def lm_class(monkeypatch):
    return fake_sglang.install(monkeypatch)


@pytest.fixture
def full_hf(models):
    return harness_lm(models, "full")


@pytest.fixture
def load(models, full_hf, lm_class):
    """The harness's LM for the merged target, as `--model sglang` makes it."""

    def make(folder=None, **args):
        return lm_class(pretrained=str(folder or models / "full"), **args)

    return make


@pytest.fixture
def made(models):
    def make(lm, **options):
        backend = SGLangBackend(lm, AuditConfig(**options), str(models / "base"))
        assert isinstance(backend, Backend)
        return backend

    return make


def close(ours, theirs, *, atol=2e-5):
    for a, b in zip(ours, theirs, strict=True):
        assert (len(a), a.windows) == (len(b), b.windows)
        np.testing.assert_allclose(a.logprob, b.logprob, atol=atol)
        assert (a.top1 == b.top1).all()
        assert a.mean is None
        assert b.mean is None


def test_it_takes_the_harness_s_sglang_and_no_other(load, made, full_hf):
    class CachingLM:
        lm = load()

    assert SGLangBackend.accepts(load())
    assert SGLangBackend.accepts(CachingLM())
    assert not SGLangBackend.accepts(full_hf)
    assert not SGLangBackend.accepts(type("SGLANGGENERATEAPI", (), {})())
    backend = made(CachingLM())
    assert backend.name == "sglang"
    (note,) = backend.notes
    assert note.startswith(
        "the target is read by SGLang 0.5.23, in float32, by a backend that was never tried on a real"
    )


def test_the_target_is_read_by_the_engine_and_the_base_by_torch(models, load, made, full_hf):
    lm = load()
    backend, hf = made(lm), HFBackend(full_hf, AuditConfig(), str(models / "base"))
    items = [*inputs(hf, TEXTS), ScoreInput((7,)), ScoreInput(()), ScoreInput((7, 8, 9), (3, 4, 5)), *inputs(hf, TEXTS)]
    backend.require([BASE])
    for role in (TARGET, BASE):
        close(backend.score(role, items, moments=False), hf.score(role, items, moments=False))
    assert backend.identity(BASE) == hf.identity(BASE)
    assert backend.features_of(BASE) == backend.local.features
    distinct = [i for i in dict.fromkeys(items) if i.scored]
    assert backend.cost(TARGET).forward_tokens == sum(len(i.token_ids) + len(i.context_ids) for i in distinct)
    ((count, asked),) = lm.model.calls
    assert count == len(distinct)  # all at once
    assert (asked["logprob_start_len"], asked["top"]) == (0, 1)


def test_against_the_definitions(models, load, made):
    """Not against our own code: float64 log-softmax of the model itself."""
    backend = made(load())
    item = inputs(backend, TEXTS)[3]
    (found,) = backend.score(TARGET, [item], moments=False)
    logprob, top1, _, _ = naive(AutoModelForCausalLM.from_pretrained(models / "full"), item)
    np.testing.assert_allclose(found.logprob, logprob, atol=1e-5)
    assert found.top1.tolist() == top1


def test_what_it_has_read_before_comes_with_log_probabilities_all_the_same(load, made):
    lm = load()
    backend = made(lm)
    items = inputs(backend, TEXTS)
    first, again = (backend.score(TARGET, items, moments=False) for _ in range(2))
    close(again, first, atol=0)
    lm.model.swallows = True
    with pytest.raises(SpvmiaError, match=r"^--model: expected SGLang to give .*got 1 positions for \d+ tokens; use"):
        backend.score(TARGET, items, moments=False)


def test_it_has_no_moments_and_no_references(load, made):
    backend = made(load())
    assert backend.features_of(TARGET) == BackendFeatures(moments=False, embeddings=False)
    assert backend.features_of(REFERENCE) == backend.local.features
    assert not backend.is_remote(BASE)
    assert not backend.is_remote(REFERENCE)


def test_the_context_leaves_what_the_engine_keeps(load, made, full_hf):
    lm = load(max_model_len=1000)  # which the harness tells nobody
    assert lm.max_length == 1000
    backend = made(lm)
    assert backend.max_length == 256 - 8
    lm.model.max_req_input_len = 34
    backend = made(lm)
    assert backend.max_length == 32
    long = ScoreInput(tuple(backend.encode(" ".join(TEXTS))))
    (found,) = backend.score(TARGET, [long], moments=False)
    close([found], HFBackend(full_hf, AuditConfig(max_length=32)).score(TARGET, [long], moments=False))
    assert found.windows > 2
    assert made(load(max_model_len=30)).max_length == 28
    with pytest.raises(SpvmiaError, match="mia_max_length: expected at most the model's own context of 32"):
        made(lm, max_length=33)


def test_batches_are_those_of_a_run_that_was_never_interrupted(load, made, monkeypatch):
    monkeypatch.setitem(in_process.TOKENS_PER_CALL, "cuda", 100)
    lm = load()
    backend = made(lm)
    items = inputs(backend, tiny_texts(9, words=(4, 30)))
    told = []
    whole = backend.score(TARGET, items, moments=False, on_done=told.append)
    calls = [count for count, _ in lm.model.calls]
    assert len(calls) == len(told) > 3
    assert sum(calls) == 9
    lm.model.calls.clear()
    rest = backend.score(TARGET, items, moments=False, done=set(told[0]))
    assert [count for count, _ in lm.model.calls] == calls[1:]
    close([each for each in rest if each], [whole[i] for i in range(9) if i not in told[0]], atol=0)


def test_generation_follows_seeds_lengths_and_ends(load, made):
    backend = made(load(**SEEDED))
    prompts = [backend.encode(text)[:4] for text in TEXTS]
    lengths, seeds = [12, 4, 9, 12, 2, 12], [2**63 - 1, 1, 2, 3, 4, 5]
    told = []
    found = backend.generate(prompts, lengths, seeds, on_done=told.append)
    assert [len(each) for each in found] == [12, 4, 9, 12, 4, 12]  # the end token is unlikely
    assert all(text[:4] == prompt for text, prompt in zip(found, prompts, strict=True))
    assert {i: text for batch in told for i, text in batch.items()} == dict(enumerate(found))
    assert backend.generate(prompts[3:4], [12], [3])[0] == found[3]  # whatever else was asked for
    assert backend.generate(prompts[3:4], [12], [6])[0] != found[3]
    ended = backend.generate(prompts[:1], [12], seeds[:1], ends=[found[0][7]])[0]
    assert ended == found[0][: found[0].index(found[0][7], 4)]
    assert backend.generate(prompts, lengths, seeds, done=range(6)) == [None] * 6
    assert not any("seed" in note for note in backend.notes)


def test_without_deterministic_inference_a_seed_means_nothing_and_a_note_says_so(load, made):
    lm = load()
    backend = made(lm)
    (first,), (second,) = (backend.generate([[5, 6]], [20], [11]) for _ in range(2))
    assert first != second
    assert "sampling_seed" not in lm.model.calls[0][1]["params"][0]
    (note,) = [note for note in backend.notes if "mia_seed" in note]
    assert "enable_deterministic_inference=True" in note


def test_sampling_is_as_the_config_says_and_not_as_the_server_prefers(load, made):
    preferred = {"repetition_penalty": 1.3, "min_p": 0.1, "top_k": 3}
    lm = load(**SEEDED, preferred_sampling_params=preferred)
    made(lm, temperature=0.7, top_k=5, top_p=0.9).generate([[5, 6]], [4], [11], complete=True)
    made(lm).generate([[5, 6]], [4], [11])
    first, second = (asked["params"][0] for _, asked in lm.model.calls)
    assert {key: first[key] for key in ("temperature", "top_k", "top_p", "sampling_seed", "max_new_tokens")} == {
        "temperature": 0.7,
        "top_k": 5,
        "top_p": 0.9,
        "sampling_seed": 11,
        "max_new_tokens": 2,
    }
    assert lm.tokenizer.eos_token_id in first["stop_token_ids"]
    assert (second["top_k"], second["top_p"], second["temperature"]) == (-1, 1.0, 1.0)
    assert preferred.keys() <= second.keys()
    assert (second["repetition_penalty"], second["min_p"]) == (1.0, 0.0)


def test_texts_that_end_of_another_reason_are_refused(load, made):
    lm = load()
    backend = made(lm)
    lm.model.cap = 3
    with pytest.raises(SpvmiaError, match=r"expected SGLang to write 8 tokens .*got 3 and 'length'; unset SGLANG_MAX"):
        backend.generate([[5, 6]], [10], [0])
    lm.model.cap, lm.model.broken = None, True
    with pytest.raises(SpvmiaError, match="got 1 and 'NaN happened'"):
        backend.generate([[5, 6]], [10], [0])
    lm.model.broken = False
    lm.model.answers = lambda told: told.update(finish_reason={"type": "abort", "message": "no room"})
    for ask in (
        lambda: backend.generate([[1, 2]], [5], [0]),
        lambda: backend.score(TARGET, inputs(backend, TEXTS), moments=False),
    ):
        with pytest.raises(SpvmiaError, match=r"expected answers from the SGLang engine .*got abort \(no room\)"):
            ask()


def test_identity_is_that_of_files_and_precision(models, load, made, tmp_path):
    target = made(load()).identity(TARGET)
    assert (target["backend"], target["dtype"], target["cache"]) == ("sglang", "float32", "auto")
    assert str(models) not in repr(target)
    shutil.copytree(models / "full", tmp_path / "copy")
    copied = load(tmp_path / "copy")
    assert made(copied).identity(TARGET) == target  # the same weights elsewhere
    short = load(context_length=100)
    short.model.tokenizer_manager.model_config.hf_config.context_len = 100
    assert made(short).identity(TARGET) == target  # reads less at a time
    assert made(load(models / "base")).identity(TARGET) != target
    assert made(load(kv_cache_dtype="fp8_e4m3")).identity(TARGET) != target
    copied.model.tokenizer_manager.model_config.dtype = "torch.bfloat16"
    assert made(copied).identity(TARGET)["dtype"] == "bfloat16"
    copied.model_args["model_path"] = str(tmp_path / "gone")
    with pytest.raises(SpvmiaError, match="expected weights in a local folder"):
        made(copied).identity(TARGET)


def test_a_cache_that_rounds_is_told(load, made):
    assert not any("kv_cache_dtype" in note for note in made(load()).notes)
    for cache, told in (("fp8_e5m2", "fp8_e5m2"), ("bf16", "bfloat16")):  # the model is in float32
        (note,) = [note for note in made(load(kv_cache_dtype=cache)).notes if "kv_cache_dtype" in note]
        assert f"kv_cache_dtype={told}:" in note


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({"dp_size": 2}, r"^dp_size: expected 1, got 2: .*tp_size"),
        (
            {"lora_paths": ["a=./adapter"]},
            r"^lora_paths: expected none, got an adapter: the harness's sglang asks for no",
        ),
        ({"load_format": "dummy"}, "^load_format: expected the model's weights, got dummy"),
        ({"speculative_algorithm": "EAGLE"}, "^speculative_algorithm: expected none, got EAGLE"),
    ],
)
def test_engines_that_cannot_serve_are_refused_by_name(load, made, args, error):
    lm = load(**args)
    with pytest.raises(SpvmiaError, match=error):
        made(lm)
    assert lm.model.calls == []


def test_an_sglang_that_tells_no_lengths(load, made):
    lm = load()
    lm.model.max_req_input_len = None
    with pytest.raises(SpvmiaError, match="expected an SGLang that tells max_req_input_len, got None; update"):
        made(lm)


def test_tokens_that_the_engine_has_no_embedding_for(load, made):
    lm = load()
    assert made(lm).unknown_ids(TARGET) == frozenset()
    lm.tokenizer.add_tokens(["<|new|>"])
    assert made(lm).unknown_ids(TARGET) == {lm.model.model.config.vocab_size}


def test_the_last_token_of_the_vocabulary_is_named_by_another_number(load, made, full_hf):
    backend = made(load())
    item = ScoreInput((5, backend.vocab - 1, 7, backend.vocab - 1))
    (found,) = backend.score(TARGET, [item], moments=False)
    close([found], HFBackend(full_hf, AuditConfig()).score(TARGET, [item], moments=False))


def test_an_engine_that_reads_otherwise_than_it_writes_is_refused(load, made):
    lm = load()
    backend = made(lm)
    assert backend.identity(TARGET) == backend.identity(TARGET)
    assert len(lm.model.calls) == 2  # what is written, and read again; once
    lm.model.moved = -0.01
    with pytest.raises(SpvmiaError, match=r"^--model: expected SGLang to say the same .*differ by up to 0\.01; use"):
        made(lm).identity(TARGET)
    lm.model.tokenizer_manager.model_config.dtype = "torch.bfloat16"  # where a batch rounds otherwise than a step
    assert made(lm).identity(TARGET)
    lm.model.moved = -0.6
    with pytest.raises(SpvmiaError, match=r"differ by up to 0\.6"):
        made(lm).identity(TARGET)


def test_log_probabilities_of_the_place_beside_are_found_out(load, made):
    """The ids beside them are those that were sent, and the best ones move along: only what was written tells."""
    lm = load()
    lm.model.shifted = True
    with pytest.raises(SpvmiaError, match=r"^--model: expected SGLang to say the same .*differ by up to"):
        made(lm).identity(TARGET)


def test_an_engine_that_writes_too_little_is_refused(load, made):
    lm = load()
    lm.model.cap = 3
    with pytest.raises(SpvmiaError, match="expected SGLang to write 6 tokens"):
        made(lm).identity(TARGET)
    lm.model.cap = None
    lm.model.answers = lambda told: told["output_token_logprobs"].pop()
    with pytest.raises(SpvmiaError, match="differ by up to inf"):
        made(lm).identity(TARGET)


def test_an_engine_that_died_ends_in_one_line(load, made):
    lm = load()
    backend = made(lm)
    lm.model.alive = False
    for ask in (
        lambda: backend.score(TARGET, inputs(backend, TEXTS), moments=False),
        lambda: backend.generate([[1, 2]], [5], [0]),
        lambda: made(lm),
    ):
        with pytest.raises(
            SpvmiaError, match=r"^--model: expected answers from the SGLang engine for the target, got "
        ):
            ask()


IDS, VOCAB = [3, 1, 2], 10


def told(tokens=((None, 3), (-1.0, 1), (-0.5, 2)), best=(None, (-0.5, 0), (-0.5, 0))):
    return {
        "input_token_logprobs": [(value, token, None) for value, token in tokens],
        "input_top_logprobs": [each and [(*each, None)] for each in best],
    }


def test_equal_logprobs_are_both_the_best():
    found = read_meta_info(told(), IDS, 2, VOCAB)
    assert found.logprob.tolist() == [-1.0, -0.5]
    assert found.top1.tolist() == [False, True]  # the other one is named
    assert found.mean is None
    assert read_meta_info(told(), IDS, 1, VOCAB).logprob.tolist() == [-0.5]
    rounded = told(((None, 3), (-1.0, 1), (-0.50001, 2)), (None, (-0.5, 0), (-0.5, 2)))
    assert read_meta_info(rounded, IDS, 2, VOCAB).top1.tolist() == [False, True]  # named, and rounded another way


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        ({}, "0 positions for 3 tokens"),
        (told(((None, 3), (-1.0, 1))), "2 positions for 3 tokens"),
        (told(best=(None, (-0.5, 0))), "2 positions for 3 tokens"),
        (told(((-2.0, 3), (-1.0, 1), (-0.5, 2))), "one for the first token"),
        (told(best=((-0.5, 0),) * 3), "one for the first token"),
        (told(((None, 3), (-1.0, 2), (-0.5, 1))), "those of other tokens"),
        (told(((None, 3), (-1.0, 1), (None, 2))), "none for some"),
        (told(best=(None, None, (-0.5, 0))), "none for some"),
        (told(((None, 3), (float("nan"), 1), (-0.5, 2))), "NaN"),
        (told(((None, 3), (-0.4, 1), (-0.5, 2))), "some above the most probable token's"),
    ],
)
def test_answers_that_mean_something_else_are_refused(answer, got):
    with pytest.raises(SpvmiaError, match=rf"^--model: expected SGLang to give a log-probability .*got {got}"):
        read_meta_info(answer, IDS, 2, VOCAB)


@pytest.mark.parametrize("named", [9, 0])
def test_a_token_that_is_clipped_or_not(named):
    answer = told(((None, 3), (-1.0, named), (-0.5, 2)), (None, (-0.5, 9), (-0.5, 2)))
    assert read_meta_info(answer, [3, 9, 2], 2, VOCAB).logprob.tolist() == [-1.0, -0.5]
