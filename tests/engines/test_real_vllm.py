"""vLLM itself (`tox -e servers`): the backend against `--model hf`, and the engine of the other tests against vLLM."""

from __future__ import annotations

import itertools
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.models.hf_backend import HFBackend
from spvmia_plugin.protocols import ScoreInput
from spvmia_plugin.signals import Role
from tests.engines import fake_vllm
from tests.engines.test_vllm import TRAINING, close, save_lora
from tests.models.models import harness_lm, inputs
from tests.tiny import tiny_llama, tiny_texts, tiny_tokenizer

pytestmark = [
    pytest.mark.servers,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: `tox -e servers` installs it"),
    pytest.mark.filterwarnings("ignore"),  # vLLM's, as it is imported
]
TEXTS = tiny_texts(6, words=(4, 20))
TARGET, BASE, REFERENCE = Role.TARGET, Role.BASE, Role.REFERENCE


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A tiny base with heads that vLLM has a kernel for, and adapters."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = tiny_tokenizer()
    tiny_llama(tokenizer, hidden=128).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    for name, options in {"lora": {}, "reference": {"r": 8}}.items():
        save_lora(folder, name, **{"target_modules": ["q_proj", "down_proj"], **options})
    return folder


@pytest.fixture(scope="module")
def lm(models):
    from lm_eval.models.vllm_causallms import VLLM

    return VLLM(
        pretrained=str(models / "base"),
        lora_local_path=str(models / "lora"),
        dtype="float32",
        max_length=128,
        max_logprobs=-1,
        max_num_seqs=4,
        enforce_eager=True,
    )


@pytest.fixture(scope="module")
def pair(lm, models):
    from spvmia_plugin.engines.vllm import VLLMBackend

    assert VLLMBackend.accepts(lm)
    config = AuditConfig(**TRAINING, max_length=126)
    return VLLMBackend(lm, config), HFBackend(harness_lm(models, "lora"), config)


@pytest.mark.parametrize("moments", [False, True])
def test_the_same_signals_as_in_one_process(pair, moments):
    ours, theirs = pair
    long = ScoreInput(tuple(ours.encode(" ".join(tiny_texts(12)))))
    items = [*inputs(theirs, TEXTS), ScoreInput((7, 8, 9), (3, 4, 5)), ScoreInput((7,)), long]
    assert ours.identity(TARGET)["dtype"] == "float32"  # after the engine's self-check
    for role in (TARGET, BASE):
        close(ours.score(role, items, moments=moments), theirs.score(role, items, moments=moments), atol=5e-5)


def test_references_are_requests_and_follow_each_other(pair, models):
    items = inputs(pair[1], TEXTS)
    for name in ("reference", "lora", "reference"):
        for backend in pair:
            backend.load_reference(REFERENCE, str(models / name))
        ours, theirs = (backend.score(REFERENCE, items, moments=False) for backend in pair)
        close(ours, theirs, atol=5e-5)
    assert pair[0].is_remote(REFERENCE)
    assert not pair[0].is_same(REFERENCE, BASE)
    assert pair[0].is_same(REFERENCE, REFERENCE)


def test_a_reference_is_trained_beside_the_engine(pair, tmp_path):
    for backend, name in zip(pair, ("ours", "theirs"), strict=True):
        backend.require([BASE])
        backend.check_training()
        backend.train_reference(TEXTS, tmp_path / name, seed=7)
        backend.load_reference(Role.CANDIDATE, str(tmp_path / name))
    items = inputs(pair[1], TEXTS)
    close(*(backend.score(Role.CANDIDATE, items, moments=False) for backend in pair), atol=1e-4)


def test_what_is_written_depends_on_its_seed_alone(pair):
    ours = pair[0]
    prompts, seeds = [ours.encode(text)[:4] for text in TEXTS], [2**63 - 1, 5, 1, 2, 3, 4]
    found = ours.generate(prompts, [24] * 6, seeds)
    assert ours.generate(prompts[2:3], [24], [1]) == found[2:3]
    assert ours.generate(prompts[2:3], [24], [9]) != found[2:3]
    assert len({tuple(text) for text in found}) == 6
    end = found[2][10]
    assert ours.generate(prompts[2:3], [24], [1], ends=[end])[0] == found[2][: found[2].index(end, 4)]


def test_what_is_written_is_drawn_from_the_target(pair):
    """Of many draws of one token after a prompt, the shares are the model's probabilities."""
    ours, theirs = pair
    prompt, count = ours.encode(TEXTS[0])[:6], 400
    drawn = [text[-1] for text in ours.generate([prompt] * count, [7] * count, list(range(count)))]
    asked = sorted(set(drawn))
    (lead,) = {tuple(theirs.frame("a").context)}
    items = [ScoreInput((token,), (*lead, *prompt)) for token in asked]
    p = np.exp([float(each.logprob[0]) for each in theirs.score(TARGET, items, moments=False)])
    # Mean probability of what is drawn: of draws from p it is the sum of p squared, of uniform draws 1 / V.
    every = [ScoreInput((token,), (*lead, *prompt)) for token in range(ours.vocab)]
    whole = np.exp([float(each.logprob[0]) for each in theirs.score(TARGET, every, moments=False)])
    of_drawn = np.array([dict(zip(asked, p, strict=True))[token] for token in drawn])
    expected, deviation = (whole**2).sum(), np.sqrt(((whole**3).sum() - (whole**2).sum() ** 2) / count)
    assert abs(of_drawn.mean() - expected) < 4 * deviation


def test_the_engine_of_the_other_tests_answers_alike(pair, models):
    from vllm import SamplingParams

    real = pair[0]._engine
    fake = fake_vllm.LLM(str(models / "base"), max_logprobs=-1)
    prompt = list(range(20, 40))
    for asked in (1, -1):
        params = {
            "temperature": 0,
            "prompt_logprobs": asked,
            "flat_logprobs": True,
            "max_tokens": 1,
            "detokenize": False,
        }
        (one,) = real.generate([{"prompt_token_ids": prompt}], SamplingParams(**params), use_tqdm=False)
        (other,) = fake.generate(
            [{"prompt_token_ids": prompt}], sampling_params=fake_vllm.SamplingParams(**params), use_tqdm=False
        )
        ours, theirs = other.prompt_logprobs, one.prompt_logprobs
        assert set(vars(ours)) == set(vars(theirs))
        assert ours.start_indices == theirs.start_indices
        assert ours.end_indices == theirs.end_indices
        firsts = [slice(start, start + 2) for start in ours.start_indices[1:]]
        assert [ours.token_ids[at] for at in firsts] == [theirs.token_ids[at] for at in firsts]
        assert [ours.ranks[at] for at in firsts] == [theirs.ranks[at] for at in firsts]
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=5e-5)
        assert one.outputs[0].finish_reason == other.outputs[0].finish_reason == "length"
        assert list(one.outputs[0].token_ids) == other.outputs[0].token_ids
    config = real.llm_engine.vllm_config
    imitated = fake.llm_engine.vllm_config
    for name, part in vars(imitated).items():
        known = vars(part or SimpleNamespace())
        assert all(hasattr(getattr(config, name), attribute) for attribute in known), name


def test_the_harness_s_own_numbers_are_the_sums(lm, pair):
    """What `--model vllm` says of a text in any task is what the audit adds up."""
    from lm_eval.api.instance import Instance

    ours = pair[0]
    pairs = list(itertools.pairwise(TEXTS))[:3]
    requests = [Instance("loglikelihood", {}, pair_, idx=0, task_name="t", doc_id=i) for i, pair_ in enumerate(pairs)]
    lm.batch_size = 1  # a CPU engine with adapters dies of two prompts at once
    said = [value for value, _ in lm.loglikelihood(requests, disable_tqdm=True)]
    for (context, text), value in zip(pairs, said, strict=True):
        whole, before = ours.encode(context + text), ours.encode(context)
        (found,) = ours.score(TARGET, [ScoreInput(tuple(whole[len(before) :]), tuple(before))], moments=False)
        assert found.logprob.sum() == pytest.approx(value, abs=1e-3)
