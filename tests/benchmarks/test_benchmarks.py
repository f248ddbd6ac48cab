"""The benchmarks run, say what they document, and compare with an algorithm that gives our own quantities."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from spvmia_plugin.attacks.paraphrased import Spv
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.models.hf_backend import HFBackend
from spvmia_plugin.plugins import load_registry
from spvmia_plugin.protocols import Frame, ScoreInput
from spvmia_plugin.records import Document
from spvmia_plugin.signals import RecordSignals, Role, View
from spvmia_plugin.util.libraries import quiet_libraries

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(FOLDER))  # as `python benchmarks/x.py` has it

import audits  # noqa: E402
import common  # noqa: E402
import conversations  # noqa: E402
import growth  # noqa: E402
import memory  # noqa: E402
import mixed_lengths  # noqa: E402
import reference_cost  # noqa: E402
import released  # noqa: E402
import released_algorithm  # noqa: E402
import repeated  # noqa: E402
import rolling  # noqa: E402
import token_signals  # noqa: E402

KEYS = {"benchmark", "command", "environment", "settings", "measured", "ratios"}
RATIO_KEYS = {"median", "rounds", "at_most", "at_least", "holds"}
ENVIRONMENT = {"machine", "processor", "cores", "memory_gb", "load_average", "threads", "device", "python", "versions"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return common.tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def adapter(model, tmp_path_factory):
    return common.lora_target(model, tmp_path_factory.mktemp("target"), rank=4)


@pytest.fixture
def backend(model, adapter):
    made = HFBackend(audits.load_lm(model, adapter, "float32", "cpu"), AuditConfig())
    yield made
    made.close()


def run(benchmark, model, tmp_path, *more):
    path = tmp_path / "result.json"
    with quiet_libraries():
        given = benchmark.main(["--small", "--model", str(model), "--json", str(path), *more])
    read = json.loads(path.read_text(encoding="utf-8"))
    assert read == json.loads(json.dumps(given))
    assert read.keys() == KEYS
    assert read["benchmark"] == benchmark.__name__
    assert read["environment"].keys() >= ENVIRONMENT
    assert {"torch", "transformers", "lm-eval", "spvmia-plugin"} <= read["environment"]["versions"].keys()
    for ratio in read["ratios"].values():
        assert ratio.keys() == RATIO_KEYS
        assert all(np.isfinite(ratio["rounds"]))
        assert ratio["median"] == pytest.approx(float(np.median(ratio["rounds"])))
    return read


@pytest.mark.parametrize(
    ("benchmark_", "measured"),
    [
        (token_signals, {token_signals.BARE, token_signals.PLAIN, token_signals.MOMENTS, token_signals.HARNESS}),
        (mixed_lengths, {mixed_lengths.SIGNALS, mixed_lengths.EQUAL, mixed_lengths.BEST}),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_scoring_benchmarks(benchmark_, measured, model, tmp_path):
    result = run(benchmark_, model, tmp_path, "--rounds", "2", "--n", "4")
    assert result["measured"].keys() == measured
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in result["measured"].values())
    assert result["settings"]["n"] == 4


def test_conversations(model, tmp_path):
    result = run(conversations, model, tmp_path, "--rounds", "2")
    assert result["measured"].keys() == {conversations.OWN, conversations.PLAIN}
    assert result["settings"]["equal_conversations"] == result["settings"]["n"] == 6
    assert result["settings"]["tokens_written"] > 6 * 3 * 4


def test_growth(model, tmp_path):
    result = run(growth, model, tmp_path, "--rounds", "1", "--records", "2", "--audited", "2")
    measured = {growth.ALONE, growth.TOGETHER, "2 records of 32 tokens", "8 records of 32 tokens"}
    measured |= {f"a causal paraphrase of {tokens} tokens" for tokens in (256, 1024)}
    assert measured <= result["measured"].keys()


def test_released_algorithm(model, tmp_path):
    measured = run(released_algorithm, model, tmp_path, "--members", "4")["measured"]
    for side, stages in (("ours", {"self-prompting", "training", "paraphrases", "scoring", "rest"}),
                         ("released", {"self-prompting", "training", "evaluation", "scoring"})):  # fmt: skip
        assert {name.partition(": ")[2] for name in measured if name.startswith(f"{side}: ")} == stages
        assert sum(measured[f"{side}: {stage}"][0] for stage in stages) == pytest.approx(measured[side][0])


def test_memory(model, tmp_path, monkeypatch):
    """In this process: the fresh one is for the figures, and for `test_memory_in_fresh_processes`."""

    def here(side, options, model, adapter, folder):
        folder.mkdir()
        memory._work(side, options, model, adapter, folder)
        return json.loads((folder / "measured.json").read_text(encoding="utf-8"))

    monkeypatch.setattr(memory, "in_fresh_process", here)
    monkeypatch.setattr(memory, "tensor_bytes", lambda: 1)  # looks at every object of the process: seconds in pytest
    result = run(memory, model, tmp_path)
    assert {
        f"{side}: {stage}" for side in ("ours", "released") for stage in ("self-prompting", "training", "scoring")
    } <= (result["measured"].keys())


def test_held_tensors_are_counted_by_storage():
    before = memory.tensor_bytes()
    made = torch.zeros(1000, 1000)
    views = [made[:10], made.T]
    assert memory.tensor_bytes() - before == 4_000_000, len(views)


@pytest.mark.slow
def test_memory_in_fresh_processes(model, tmp_path):
    result = run(memory, model, tmp_path)
    assert all(peaks[0] > 0 for peaks in result["measured"].values())


@pytest.mark.slow
def test_a_repeated_audit_asks_the_model_nothing(model, tmp_path):
    result = run(repeated, model, tmp_path, "--rounds", "1")
    assert result["ratios"]["tokens the repeated audit sent through the model"]["rounds"] == [0.0]
    assert result["measured"][repeated.FIRST][0] > 0


def told(training: float, scoring: float, auroc: float) -> dict[str, dict[str, float]]:
    stages = {"self-prompting": 1.0, "training": training, "paraphrases": 1.0, "scoring": scoring, "rest": 0.5}
    return {"seconds": stages, "auroc": {"spv_wbc": auroc, "loss": 0.6}}


def test_the_cost_of_references_is_held_to_its_limits(tmp_path):
    """Of 12 seconds two thirds are 8, and .005 of an AUROC is as much as `spv_wbc` may lose."""
    options = reference_cost.read_options([])
    assert (options.clock, options.before) == ("cpu", FOLDER.parent)
    before = [told(4.5, 5.0, 0.95)]
    for both, training, auroc, holds in ((9.5, 2.0, 0.946, [True, True, True]), (9.6, 2.1, 0.944, [False] * 3)):
        found = {
            reference_cost.BEFORE: before,
            reference_cost.ONE: [told(training, 3.5, auroc)],
            reference_cost.BOTH: [told(both, 0.0, auroc)],
        }
        ratios = {ratio.name: ratio for ratio in reference_cost.report(options, found).ratios}
        limited = [ratio.holds for ratio in ratios.values() if ratio.holds is not None]
        assert limited == holds
        assert ratios["quick / before, training"].rounds == (training / 4.5,)
        assert ratios["AUROC of loss, quick less before"].rounds == (0.0,)


@pytest.mark.slow
def test_the_cost_of_references(model, tmp_path):
    result = run(reference_cost, model, tmp_path, "--before", str(FOLDER.parent))
    stages = {"self-prompting", "training", "paraphrases", "scoring", "rest"}
    for side in (reference_cost.BEFORE, reference_cost.ONE, reference_cost.BOTH):
        assert {f"{side}: {stage}" for stage in stages} <= result["measured"].keys()
        (aurocs,) = result["measured"]["auroc"][side]
        assert {"spv_wbc", "spv", "loss"} <= aurocs.keys()
        assert ("both_wbc" in aurocs) == (side == reference_cost.BOTH)


def test_the_harness_is_run_at_its_best_batch_size(model):
    lm = audits.load_lm(model, None, "float32", "cpu")
    best, tried = rolling.best_batch_size(lm, common.made_up_texts(5, words=5), rounds=1)
    assert set(tried) == {"1", "2", "4"}
    assert tried[str(best)] == min(tried.values())


def test_limits_hold_or_not_and_tiny_sizes_have_none(tmp_path):
    assert common.Ratio.of("x", [2.0, 4.0, 9.0], [1.0, 1.0, 1.0], at_least=1.9, at_most=4.0).holds
    assert common.Ratio.of("x", [2.0, 4.1, 9.0], [1.0, 1.0, 1.0], at_least=1.9, at_most=4.0).holds is False
    assert common.Ratio("x", (1.0,), at_least=5.0).holds is False
    assert common.Ratio("x", (0.0,), at_most=0.0).holds
    assert common.Ratio("x", (1.0,)).holds is None
    options = common.parser("x").parse_args(["--small"])
    told = common.Report("x", {}, {}, [common.Ratio("x", (1.0,), at_least=5.0)]).tell(options)
    assert told["ratios"]["x"]["holds"] is None


def test_cut_texts_have_the_tokens_asked_for(backend):
    lengths = [8, 40, 9, 33]
    texts = common.cut_texts(backend.encode, backend.decode, lengths, None)
    assert [len(backend.encode(text)) for text in texts] == lengths
    assert len(set(texts)) == len(texts)


def test_cut_texts_may_span_documents_whose_seam_is_tokenized_otherwise():
    def encode(text):  # a blank line and what follows it are one token: at the end of a document they are two or more
        return re.findall(r"\n\n.|.", text, flags=re.DOTALL)

    texts = common.cut_texts(encode, "".join, [3000, 5, 2000], None)  # a made-up text has about 900 characters
    assert [len(encode(text)) for text in texts] == [3000, 5, 2000]


# The released algorithm is written independently of the package: what it computes text by text is what we compute.


@pytest.fixture
def sequences(backend):
    """Two records and three paraphrases of each, as tokens."""
    config = AuditConfig.from_metadata({"mia_perturbation": "causal", "mia_perturbations": 2})
    texts = [f"{text} " * 2 for text in common.made_up_texts(2, words=20)]
    records = [tuple(backend.encode(text)) for text in texts]
    documents = [Document(f"r:{i}", text) for i, text in enumerate(texts)]
    found = load_registry(entry_points=False).perturbation(config).neighbours(documents, backend)
    return texts, records, [[tuple(v.apply(r)) for v in n.variants] for r, n in zip(records, found, strict=True)]


def test_our_log_probabilities_are_the_released_loss(backend, sequences):
    """In the tokenizer's own context, which puts nothing before a text, to the last token."""
    _, records, _ = sequences
    found = backend.score(Role.TARGET, [ScoreInput(ids) for ids in records], moments=False)
    target = backend._roles.target
    for ids, signals in zip(records, found, strict=True):
        assert backend.frame("") == Frame()
        assert released.loss(target, ids) == pytest.approx(-signals.logprob.mean(), abs=1e-5)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_our_score_is_the_released_score(backend, sequences, variant):
    """The base as reference here: two models, one set of weights."""
    texts, records, paraphrases = sequences
    everything = [ScoreInput(ids) for ids in [*records, *(p for of in paraphrases for p in of)]]
    signals = {
        role: dict(zip(everything, backend.score(source, everything, moments=False), strict=True))
        for role, source in ((Role.TARGET, Role.TARGET), (Role.REFERENCE, Role.BASE))
    }
    ours = [
        Spv(variant=variant).score(
            RecordSignals(
                text,
                {(role, View.TEXT): found[ScoreInput(ids)] for role, found in signals.items()},
                {role: [found[ScoreInput(p)] for p in of] for role, found in signals.items()},
            )
        )
        for text, ids, of in zip(texts, records, paraphrases, strict=True)
    ]
    target = backend._roles.target
    with backend._roles.use(Role.BASE) as base:
        reference = _Frozen(base, [*records, *(p for of in paraphrases for p in of)])
    theirs = released.score(target, reference, records, paraphrases)
    assert len(set(ours)) == 2
    np.testing.assert_allclose(ours, theirs, atol=1e-7, rtol=1e-3)


class _Frozen:
    """The base's answers, taken while the adapter was off: the released code holds it as a second model."""

    device = torch.device("cpu")

    def __init__(self, model, sequences):
        with torch.no_grad():
            self._logits = {tuple(ids): model(torch.tensor([ids])).logits for ids in sequences}

    def __call__(self, input_ids, attention_mask, labels):
        logits = self._logits[tuple(input_ids[0].tolist())]
        loss = torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100)
        return type("Output", (), {"loss": loss})()


def test_greedy_self_prompts_are_the_same_with_and_without_a_cache(model, adapter):
    config = AuditConfig.from_metadata({"mia_top_k": 1})
    backend = HFBackend(audits.load_lm(model, adapter, "float32", "cpu"), config)
    prompts = [backend.encode(text)[:8] for text in common.made_up_texts(3, words=12)]
    ours = [backend.decode(ids) for ids in backend.generate(prompts, [20] * 3, [0, 1, 2])]
    tokenizer = backend._tokens.tokenizer
    theirs = released.self_prompt(backend._roles.target, tokenizer, prompts, 20, greedy=True)
    assert ours == [text.replace(tokenizer.eos_token, "") for text in theirs]


def test_both_train_for_as_many_steps(model, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = common.made_up_texts(8, words=10)
    tokenizer = AutoTokenizer.from_pretrained(model)
    with quiet_libraries():
        reference, seconds = released.train(
            AutoModelForCausalLM.from_pretrained(model), tokenizer, texts, texts[:1], 64, tmp_path, r=2
        )
    backend = HFBackend(audits.load_lm(model, None, "float32", "cpu"), AuditConfig(base_model=str(model), lora_rank=2))
    record = backend.train_reference(texts, tmp_path / "ours")
    assert record["steps"] == 2 * (len(texts) // 4) == 4
    trained = {n: p for n, p in reference.named_parameters() if "lora_B" in n}
    assert trained
    assert all(p.abs().sum() > 0 for p in trained.values())
    assert seconds["training"] > 0
