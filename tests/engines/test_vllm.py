"""The vLLM backend on an engine of transformers with vLLM's shapes: against `--model hf` on the same weights."""

from __future__ import annotations

import math
import re
import shutil

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.engines import in_process
from spvmia_plugin.engines import vllm as engine
from spvmia_plugin.engines.lora_requests import outside_of_layers
from spvmia_plugin.engines.prompt_logprobs import read_flat
from spvmia_plugin.engines.vllm import VLLMBackend
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models import local
from spvmia_plugin.models.hf_backend import HFBackend
from spvmia_plugin.protocols import Backend, BackendFeatures, ScoreInput
from spvmia_plugin.signals import Role
from tests.engines import fake_vllm
from tests.engines.fake_vllm import VLLM, FlatLogprobs
from tests.models.models import harness_lm, inputs, naive, save_adapter, save_lora
from tests.tiny import save_tiny, tiny_texts

TEXTS = tiny_texts(6, words=(4, 30))
TRAINING = {"reference_epochs": 1, "lora_rank": 4, "reference_lr": 1e-2}
TARGET, BASE, REFERENCE = Role.TARGET, Role.BASE, Role.REFERENCE


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    fake_vllm.install(monkeypatch)


@pytest.fixture(scope="module")
def hf_lm(models):
    return harness_lm(models, "lora")


@pytest.fixture
def loads(monkeypatch):
    """The models that torch read, by name."""
    found, load = [], local.LocalModels._load

    def counted(self, option, name, *args):
        found.append(name)
        return load(self, option, name, *args)

    monkeypatch.setattr(local.LocalModels, "_load", counted)
    return found


def lora(models, kind="lora", **args):
    if not (models / kind).exists():
        save_adapter(models, models / "base", kind)
    return VLLM(str(models / "base"), lora_local_path=str(models / kind), **args)


def made(lm, base=None, **options):
    backend = VLLMBackend(lm, AuditConfig(**{**TRAINING, **options}), base)
    assert isinstance(backend, Backend)
    return backend


def close(ours, theirs, *, atol=2e-5):
    for a, b in zip(ours, theirs, strict=True):
        assert (len(a), a.windows) == (len(b), b.windows)
        np.testing.assert_allclose(a.logprob, b.logprob, atol=atol)
        assert (a.top1 == b.top1).all()
        for x, y in ((a.mean, b.mean), (a.std, b.std)):
            assert (x is None) == (y is None)
            if x is not None:
                np.testing.assert_allclose(x, y, atol=10 * atol)


def test_it_takes_the_harness_s_vllm_and_no_other(models, hf_lm):
    class Sub(VLLM):
        pass

    class CachingLM:
        lm = lora(models)

    VLLM_VLM = type("VLLM_VLM", (VLLM,), {})
    assert VLLMBackend.accepts(Sub(str(models / "base")))
    assert VLLMBackend.accepts(CachingLM())
    assert not VLLMBackend.accepts(VLLM_VLM(str(models / "base")))
    assert not VLLMBackend.accepts(hf_lm)
    assert not HFBackend.accepts(lora(models))
    assert made(CachingLM()).name == "vllm"
    assert made(CachingLM()).notes == ["the target is read by vLLM 0.32.0, in float32"]


@pytest.mark.parametrize("moments", [False, True])
def test_target_and_base_are_read_by_the_engine(models, hf_lm, loads, moments):
    backend, hf = made(lora(models, max_logprobs=-1)), HFBackend(hf_lm, AuditConfig())
    items = [*inputs(hf, TEXTS), ScoreInput((7,)), ScoreInput(()), ScoreInput((7, 8, 9), (3, 4, 5)), *inputs(hf, TEXTS)]
    backend.require([BASE])
    for role in (TARGET, BASE):
        close(backend.score(role, items, moments=moments), hf.score(role, items, moments=moments))
    assert loads == []
    assert {name for name, *_ in backend._engine.calls} == {"finetuned", None}
    assert {count for _, count, _ in backend._engine.calls} == {1}  # a CPU engine with adapters dies of two
    distinct = [i for i in dict.fromkeys(items) if i.scored]
    read = sum(len(i.token_ids) + len(i.context_ids) for i in distinct)
    assert backend.cost(TARGET).forward_tokens == read
    assert backend.cost(TARGET).batches >= 1


def test_against_the_definitions(models):
    """Not against our own code: float64 log-softmax of the model itself."""
    backend = made(VLLM(str(models / "base"), max_logprobs=-1), str(models / "base"))
    model = AutoModelForCausalLM.from_pretrained(models / "base")
    item = inputs(backend, TEXTS)[3]
    (found,) = backend.score(TARGET, [item], moments=True)
    logprob, top1, mean, std = naive(model, item)
    np.testing.assert_allclose(found.logprob, logprob, atol=1e-5)
    assert found.top1.tolist() == top1
    np.testing.assert_allclose(found.mean, mean, atol=1e-4)
    np.testing.assert_allclose(found.std, std, atol=1e-4)


def test_merged_weights_leave_the_base_to_torch(models, loads):
    lm = harness_lm(models, "full")
    backend = made(VLLM(str(models / "full")), str(models / "base"))
    hf = HFBackend(lm, AuditConfig(), str(models / "base"))
    items = inputs(hf, TEXTS)
    backend.require([BASE])
    for role in (TARGET, BASE):
        close(backend.score(role, items, moments=False), hf.score(role, items, moments=False))
    assert loads.count(str(models / "base")) == 2  # by each of the two
    assert backend.identity(BASE) == hf.identity(BASE)
    assert backend.features_of(BASE) == backend.local.features
    assert [name for name, *_ in backend._engine.calls] == [None] * len(backend._engine.calls)


def test_another_base_that_the_user_names_is_read_by_torch(models, tmp_path, loads):
    other = save_tiny(tmp_path / "other", seed=9)
    backend = made(lora(models), base_model=str(other))
    backend.require([BASE])
    backend.score(BASE, inputs(backend, TEXTS), moments=False)
    assert loads == [str(other)]
    same = made(lora(models), base_model=str(models / "." / "base"))
    assert same.is_remote(BASE)


def test_references_are_requests_of_the_engine(models, hf_lm, loads, tmp_path):
    backend, hf = made(lora(models)), HFBackend(hf_lm, AuditConfig(**TRAINING))
    backend.require([BASE])
    backend.check_training()
    for each, name in ((backend, "ours"), (hf, "theirs")):
        each.train_reference(TEXTS, tmp_path / name, seed=7)
        each.load_reference(REFERENCE, str(tmp_path / name))
        each.load_reference(Role.CANDIDATE_2, str(tmp_path / name))
    items = inputs(hf, TEXTS)
    for role in (REFERENCE, Role.CANDIDATE_2):
        close(backend.score(role, items, moments=False), hf.score(role, items, moments=False))
    assert loads == [str(models / "base")]  # to train on; not to read
    assert {name for name, *_ in backend._engine.calls} == {"spvmia-reference", "spvmia-candidate_2"}
    assert not backend.is_same(REFERENCE, BASE)
    assert backend.is_same(REFERENCE, Role.CANDIDATE_2)
    first = backend._requests[REFERENCE].lora_int_id
    assert first != 1  # the harness's own
    backend.load_reference(REFERENCE, str(tmp_path / "theirs"))  # another adapter needs another number
    assert backend._requests[REFERENCE].lora_int_id != first
    backend.score(REFERENCE, items, moments=False)
    backend.close()
    assert set(backend._engine.adapters) == {1} & set(backend._engine.adapters)
    assert f"remove {first}" in backend._engine.events


@pytest.mark.parametrize(
    ("args", "kind", "why"),
    [
        ({"max_lora_rank": 4}, "wide", "one of rank 8: max_lora_rank is 4"),
        ({}, "lora_modules", "one with weights on norm, o_proj, which"),
        ({}, "lora_everywhere", r"one that is more than LoRA matrices in safetensors \(DoRA"),
        ({}, "ia3", "an adapter that is no LoRA"),
        ({}, "full", "no adapter of peft's"),
    ],
)
def test_references_that_the_engine_would_misread_are_read_by_torch(models, hf_lm, args, kind, why):
    if kind == "wide":
        save_lora(models, kind, r=8)
    elif kind == "full":
        harness_lm(models, "full")
    elif not (models / kind).exists():
        save_adapter(models, models / "base", kind)
    backend, hf = made(lora(models, **args)), HFBackend(hf_lm, AuditConfig())
    for each in (backend, hf):
        each.load_reference(REFERENCE, str(models / kind))
    items = inputs(hf, TEXTS)
    close(backend.score(REFERENCE, items, moments=False), hf.score(REFERENCE, items, moments=False))
    assert not backend.is_remote(REFERENCE)
    (note,) = [note for note in backend.notes if "does not take this adapter" in note]
    assert re.search(why, note)
    assert backend.identity(REFERENCE) == hf.identity(REFERENCE)


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("head", {"target_modules": ["q_proj", "lm_head"]}, "weights on lm_head, which vLLM leaves out"),
        ("embedded", {"target_modules": ["q_proj", "embed_tokens"]}, r"weights on model\.embed_tokens, which"),
        ("saved", {"modules_to_save": ["lm_head"]}, "weights on .*lm_head"),
        ("dora", {"use_dora": True}, "more than LoRA matrices"),
        ("pissa", {"init_lora_weights": "pissa"}, "more than LoRA matrices"),
    ],
)
def test_a_target_that_vllm_would_misread_is_refused_by_name(models, name, options, why):
    save_lora(models, name, **options)
    lm = lora(models, name)
    with pytest.raises(SpvmiaError, match=rf"^lora_local_path: expected an adapter .*{why}.*merge it into the base"):
        made(lm)
    assert lm.model.calls == []  # before any work


def test_ranks_by_module_need_a_vllm_that_knows_of_them(models, monkeypatch):
    save_lora(models, "patterned", r=4, rank_pattern={"q_proj": 8}, alpha_pattern={"q_proj": 3})
    assert made(lora(models, "patterned")).is_remote(BASE)
    with pytest.raises(SpvmiaError, match="max_lora_rank=8 in --model_args"):
        made(lora(models, "patterned", max_lora_rank=4))
    monkeypatch.delattr(fake_vllm.PEFTHelper, "get_rank_and_scaling")
    with pytest.raises(SpvmiaError, match="ranks or alphas differ from module to module"):
        made(lora(models, "patterned"))


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({"data_parallel_size": 2}, r"^data_parallel_size: expected 1, got 2: .*tensor_parallel_size"),
        ({"logprobs_mode": "processed_logits"}, "^logprobs_mode: expected raw_logprobs, got processed_logits"),
        ({"load_format": "dummy"}, "^load_format: expected the model's weights, got dummy"),
        ({"max_lora_rank": 2}, r"^lora_local_path: expected an adapter of rank 2 at most, got 4; pass max_lora_rank=4"),
    ],
)
def test_engines_that_cannot_serve_are_refused_by_name(models, args, error):
    with pytest.raises(SpvmiaError, match=error):
        made(lora(models, **args))


def test_an_adapter_that_is_not_there_and_an_old_vllm(models, tmp_path, monkeypatch):
    for path in (tmp_path / "none", models / "base"):
        with pytest.raises(SpvmiaError, match=r"lora_local_path: .*got no adapter of peft's"):
            made(VLLM(str(models / "base"), lora_local_path=str(path)))
    monkeypatch.delattr(fake_vllm.SamplingParams, "flat_logprobs")
    with pytest.raises(SpvmiaError, match="expected a vLLM that has flat_logprobs"):
        made(lora(models))


def test_moments_are_there_where_the_engine_may_give_all_log_probabilities(models):
    backend = made(lora(models))
    assert backend.features_of(TARGET) == BackendFeatures(moments=False, embeddings=False)
    assert backend.features_of(REFERENCE) == backend.features_of(TARGET)  # it may come into the engine
    assert made(lora(models, max_logprobs=-1)).features_of(TARGET).moments
    assert made(lora(models, max_logprobs=10**6)).features_of(TARGET).moments
    merged = made(VLLM(str(models / "base")), str(models / "base"))
    assert merged.features_of(REFERENCE) == merged.local.features


def test_the_context_leaves_room_for_the_token_that_is_written(models, hf_lm):
    backend = made(lora(models, max_model_len=34))
    assert backend.max_length == 32  # 33 tokens to score the last, and one written
    long = ScoreInput(tuple(backend.encode(" ".join(TEXTS))))
    (found,) = backend.score(TARGET, [long], moments=False)
    hf = HFBackend(hf_lm, AuditConfig(max_length=32))
    close([found], hf.score(TARGET, [long], moments=False))
    assert found.windows > 2
    with pytest.raises(SpvmiaError, match="mia_max_length: expected at most the model's own context of 32"):
        made(lora(models, max_model_len=34), max_length=33)
    with pytest.raises(SpvmiaError, match=r"ReCaLL prefix: expected prefix and text to fit the context of 32"):
        backend.score(TARGET, [ScoreInput(tuple(range(9)), tuple(range(25)))], moments=False)


def test_batches_are_those_of_a_run_that_was_never_interrupted(models, monkeypatch):
    monkeypatch.setitem(in_process.TOKENS_PER_CALL, "cpu", 100)
    lm = VLLM(str(models / "base"))
    backend = made(lm, str(models / "base"))
    items = inputs(backend, tiny_texts(9, words=(4, 30)))
    told = []
    whole = backend.score(TARGET, items, moments=False, on_done=told.append)
    calls = [count for _, count, _ in lm.model.calls]
    assert len(calls) == len(told) > 3
    assert max(calls) > 1
    assert sum(calls) == 9
    assert {i: whole[i] for i in range(9)} == {i: s for batch in told for i, s in batch.items()}
    lm.model.calls.clear()
    first, half = set(told[0]), next(batch for batch in told if len(batch) > 1)
    rest = backend.score(TARGET, items, moments=False, done=first | {min(half)})
    assert [count for _, count, _ in lm.model.calls] == calls[1:]
    assert {i for i, each in enumerate(rest) if each is None} == first
    close([each for each in rest if each], [whole[i] for i in range(9) if i not in first], atol=0)


def test_few_are_asked_for_their_moments_at_a_time(models, monkeypatch):
    monkeypatch.setattr(engine, "LOGPROBS_PER_CALL", 401 * 70)
    lm = VLLM(str(models / "base"), max_logprobs=-1)
    backend = made(lm, str(models / "base"))
    items = inputs(backend, TEXTS)
    backend.score(TARGET, items, moments=True)
    assert all(asked == -1 for *_, asked in lm.model.calls)
    lengths = sorted((len(i.token_ids) + len(i.context_ids) for i in items), reverse=True)
    assert len(lm.model.calls) > sum(lengths) / 70 - 1
    assert lm.model.calls[0][1] == max(1, 70 // lengths[0])


def test_generation_follows_seeds_lengths_and_ends(models):
    lm = lora(models)
    backend = made(lm)
    prompts = [backend.encode(text)[:4] for text in TEXTS]
    lengths, seeds = [12, 4, 9, 12, 2, 12], [2**63 - 1, 1, 2, 3, 4, 5]
    told = []
    found = backend.generate(prompts, lengths, seeds, on_done=told.append)
    assert [len(each) for each in found] == [12, 4, 9, 12, 4, 12]  # the end token is unlikely
    assert all(text[:4] == prompt for text, prompt in zip(found, prompts, strict=True))
    assert {i: text for batch in told for i, text in batch.items()} == dict(enumerate(found))
    assert backend.generate(prompts[3:4], [12], [3])[0] == found[3]  # whatever else was asked for
    assert backend.generate(prompts[3:4], [12], [6])[0] != found[3]
    assert {name for name, *_ in lm.model.calls} == {"finetuned"}
    ended = backend.generate(prompts[:1], [12], seeds[:1], ends=[found[0][7]])[0]
    assert ended == found[0][: found[0].index(found[0][7], 4)]
    assert backend.generate(prompts, lengths, seeds, done=range(6)) == [None] * 6
    assert backend.cost(TARGET).generated_tokens == 8 + 5 + 8 + 8 + 8 + 8 + len(ended) - 4


def test_sampling_is_as_the_config_says(models):
    backend = made(lora(models), temperature=0.7, top_k=5, top_p=0.9)
    asked = []
    real = backend._engine.generate
    backend._engine.generate = lambda prompts, **options: asked.append((prompts, options)) or real(prompts, **options)
    backend.generate([[5, 6]], [4], [11], complete=True)
    ((prompts, options),) = asked
    (params,) = options["sampling_params"]
    assert (params.temperature, params.top_k, params.top_p, params.seed, params.max_tokens) == (0.7, 5, 0.9, 11, 2)
    assert prompts == [{"prompt_token_ids": [5, 6]}]
    assert backend._tokens.tokenizer.eos_token_id in params.stop_token_ids


def test_identity_is_that_of_files_and_precision(models, tmp_path):
    backend = made(lora(models))
    target, base = backend.identity(TARGET), backend.identity(BASE)
    assert target["weights"][0] == base["weights"][0]
    assert len(target["weights"]) == 2
    assert len(base["weights"]) == 1
    assert target["dtype"] == "float32"
    assert str(models) not in repr(target)
    shutil.copytree(models / "base", tmp_path / "copy")
    copied = VLLM(str(tmp_path / "copy"), lora_local_path=str(models / "lora"))
    assert made(copied).identity(TARGET) == target  # the same weights elsewhere
    save_adapter(tmp_path, models / "base", "bias")
    save_lora(models, "another")
    assert made(lora(models, "another")).identity(TARGET) != target
    copied.model.llm_engine.vllm_config.model_config.dtype = "torch.bfloat16"
    assert made(copied).identity(TARGET)["dtype"] == "bfloat16"
    copied.model_args["model"] = str(tmp_path / "gone")
    with pytest.raises(SpvmiaError, match="expected weights in a local folder"):
        made(copied).identity(TARGET)


def test_tokens_that_the_engine_has_no_embedding_for(models):
    lm = VLLM(str(models / "base"))
    backend = made(lm, str(models / "base"))
    assert backend.unknown_ids(TARGET) == frozenset()
    size = lm.model.base.config.vocab_size
    lm.tokenizer.add_tokens(["<|new|>"])
    assert made(lm, str(models / "base")).unknown_ids(TARGET) == {size}


def test_an_engine_that_reads_otherwise_than_it_writes_is_refused(models):
    lm = lora(models)
    assert made(lm).identity(TARGET)
    count = len(lm.model.calls)
    assert count == 2  # what is written, and read again
    lm.model.moved = 0.01
    backend = made(lm)
    with pytest.raises(SpvmiaError, match=r"^--model: expected vLLM to say the same .*differ by up to 0\.01; use"):
        backend.identity(BASE)
    lm.model.llm_engine.vllm_config.model_config.dtype = "torch.bfloat16"  # where a batch rounds otherwise than a step
    assert made(lm).identity(TARGET)
    lm.model.moved = 0.6
    with pytest.raises(SpvmiaError, match=r"differ by up to 0\.6"):
        made(lm).identity(TARGET)


def test_the_engine_sleeps_while_torch_trains(models, tmp_path, loads):
    lm = lora(models, enable_sleep_mode=True, device="cuda")
    backend = made(lm)
    backend.check_training()
    assert lm.model.events == ["sleep 1", "wake"]
    assert backend.models.loaded is None  # the device's memory is the engine's again
    backend.train_reference(TEXTS[:3], tmp_path / "reference")
    backend.load_reference(REFERENCE, str(tmp_path / "reference"))
    assert lm.model.events == ["sleep 1", "wake"] * 2
    assert loads == [str(models / "base")] * 2
    backend.sample_replacements(BASE, [backend.encode(TEXTS[0])], [[np.array([2])]], [0])
    assert lm.model.events == ["sleep 1", "wake"] * 3
    backend.score(REFERENCE, inputs(backend, TEXTS), moments=False)
    assert max(count for _, count, _ in lm.model.calls) == len(TEXTS)  # all at once: this is no CPU


def test_an_engine_that_woke_up_as_another(models):
    lm = lora(models, enable_sleep_mode=True, device="cuda")
    backend = made(lm)

    def wake_up():
        lm.model.awake, lm.model.moved = True, 0.5

    lm.model.wake_up = wake_up
    with pytest.raises(SpvmiaError, match=r"^enable_sleep_mode: .*differ by up to 0\.5; leave it out"):
        backend.check_training()


def test_an_engine_that_stays_awake_beside_torch(models):
    backend = made(lora(models, device="cuda"))
    backend.check_training()
    assert any("pass enable_sleep_mode=True" in note for note in backend.notes)
    on_cpu = made(lora(models))
    on_cpu.check_training()
    assert not any("enable_sleep_mode" in note for note in on_cpu.notes)
    hung = made(lora(models, enable_sleep_mode=True))  # on a CPU vLLM ignores the command, and answers no more
    hung.check_training()
    assert on_cpu._engine.events == hung._engine.events == []


def test_an_engine_that_died_ends_in_one_line(models):
    lm = lora(models)
    backend = made(lm)
    lm.model.alive = False
    for ask in (
        lambda: backend.score(TARGET, inputs(backend, TEXTS), moments=False),
        lambda: backend.generate([[1, 2]], [5], [0]),
    ):
        with pytest.raises(SpvmiaError, match=r"^--model: expected answers from the vLLM engine for the target, got "):
            ask()


@pytest.mark.parametrize("reason", ["abort", "error", None])
def test_a_request_that_was_given_up_is_no_answer(models, monkeypatch, reason):
    lm = lora(models)
    backend = made(lm)
    answer = lm.model._continue
    monkeypatch.setattr(lm.model, "_continue", lambda *asked: (answer(*asked)[0], reason, answer(*asked)[2]))
    for ask in (
        lambda: backend.score(TARGET, inputs(backend, TEXTS), moments=False),
        lambda: backend.generate([[1, 2]], [5], [0]),
    ):
        with pytest.raises(SpvmiaError, match=f"^--model: expected answers from the vLLM engine .*, got {reason} "):
            ask()


def flat(rows):
    found = FlatLogprobs()
    found.add([])
    for row in rows:
        found.add(row)
    return found


IDS = [3, 1, 2]
ROWS = [[(1, -1.0, 2), (0, -0.5, 1)], [(2, -0.5, 2), (0, -0.5, 2)]]


def test_equal_logprobs_are_both_the_best():
    found = read_flat(flat(ROWS), IDS, 2, None)
    assert found.logprob.tolist() == [-1.0, -0.5]
    assert found.top1.tolist() == [False, True]  # rank 2 of two equals
    assert found.mean is None
    assert read_flat(flat(ROWS), IDS, 1, None).logprob.tolist() == [-0.5]


def test_moments_by_hand():
    half = [(1, math.log(0.5), 1), (1, math.log(0.5), 1), (0, math.log(0.25), 2), (2, math.log(0.25), 3)]
    sure = [(2, 0.0, 1), (2, 0.0, 1), (0, -math.inf, 2), (1, -math.inf, 3)]
    found = read_flat(flat([half, sure]), IDS, 2, 3)
    mean = 0.5 * math.log(0.5) + 0.5 * math.log(0.25)
    np.testing.assert_allclose(found.mean, [mean, 0], atol=1e-6)
    np.testing.assert_allclose(found.std, [math.log(2) / 2, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "ids", "vocab", "got"),
    [
        (ROWS[:1], IDS, None, "2 positions for 3 tokens"),
        (ROWS, [3, 2, 1], None, "those of other tokens"),
        ([[(1, math.nan, 1), (0, -0.5, 1)], ROWS[1]], IDS, None, "NaN"),
        (ROWS, IDS, 5, "1 of a vocabulary of 5"),
    ],
)
def test_answers_that_mean_something_else_are_refused(rows, ids, vocab, got):
    with pytest.raises(SpvmiaError, match=rf"^--model: expected vLLM to give a log-probability .*got {got}"):
        read_flat(flat(rows), ids, 2, vocab)


def test_modules_outside_of_the_layers():
    names = [
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.lm_head.lora_B.weight",
        "base_model.model.lm_head.base_layer.weight",
        "base_model.model.transformer.wte.lora_embedding_A",
        "base_model.model.transformer.h.11.attn.c_attn.lora_B.weight",
    ]
    assert outside_of_layers(names) == {"lm_head", "transformer.wte"}
