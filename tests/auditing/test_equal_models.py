"""What two models of one function, or a model without some tokens, can't tell is unscored with a reason."""

from __future__ import annotations

import pytest
import torch
from lm_eval.models.huggingface import HFLM

from spvmia_plugin.auditing.run import Job, Run
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.hf_backend import HFBackend
from spvmia_plugin.plugins import load_registry
from spvmia_plugin.records import AuditData, Document, Record
from spvmia_plugin.signals import Role
from spvmia_plugin.store.store import Store
from spvmia_plugin.util.libraries import isolated_rng, quiet_libraries
from tests.models.models import plain_logprobs
from tests.tiny import save_tiny, tiny_texts

REGISTRY = load_registry(entry_points=False)
OPTIONS = {
    "mia_perturbation": "causal",
    "mia_perturbations": 1,
    "mia_self_prompts": 6,
    "mia_block_size": 0,
    "mia_reference_epochs": 1,
    "mia_reference_lr": 0.05,
    "mia_lora_rank": 2,
}
BASE, REFERENCE = "the target is the base", "the reference is the target"
TEXTS = tiny_texts(12, words=(6, 12))
PROMPTS = tiny_texts(8, seed=3, words=(6, 12))
ADDED = ["<|user|>", "<|bot|>"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base, a whole model trained from it, a fresh adapter, and whole models whose vocabulary grew."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    root = tmp_path_factory.mktemp("equal")
    save_tiny(root / "base")
    save_tiny(root / "whole", seed=5)
    with isolated_rng(0), quiet_libraries():
        for name, changed in (("fresh", False), ("trained", True)):
            model = get_peft_model(
                AutoModelForCausalLM.from_pretrained(root / "base"), LoraConfig(r=4, task_type="CAUSAL_LM")
            )
            for parameter in model.parameters():
                if changed and parameter.requires_grad:
                    parameter.data += 0.1
            model.save_pretrained(root / name)
        model, tokenizer = (kind.from_pretrained(root / "whole") for kind in (AutoModelForCausalLM, AutoTokenizer))
        tokenizer.add_special_tokens({"additional_special_tokens": ADDED[:1]})
        tokenizer.add_tokens(ADDED[1:])
        for name, rows in (("grown", len(tokenizer)), ("padded", 448)):
            model.resize_token_embeddings(rows)
            model.save_pretrained(root / name)
            tokenizer.save_pretrained(root / name)
    return root


def load_lm(folder, target, dtype="float32", **options):
    place = {"pretrained": str(folder / target)}
    if target in ("fresh", "trained"):
        place = {"pretrained": str(folder / "base"), "peft": str(folder / target)}
    with isolated_rng(0), quiet_libraries():
        return HFLM(**place, device="cpu", dtype=dtype, batch_size=4, **options)


def run(folder, target, attacks, store, *, texts=TEXTS, dtype="float32", quiet=True, candidate=(), lm=None, **options):
    config = AuditConfig.from_metadata({**OPTIONS, **options}, REGISTRY.attack_options)
    records = tuple(Record(f"f:{i}", text, i % 2 == 0, f"f:{i}") for i, text in enumerate(texts))
    documents = [
        tuple(Document(f"{k}:{i}", text) for i, text in enumerate(part))
        for k, part in (("p", PROMPTS), ("c", candidate))
    ]
    data = AuditData(records, *documents, "declared", "f" * 8, "made", 0)
    backend = HFBackend(lm or load_lm(folder, target, dtype), config, str(folder / "base"))
    names = {f"{name}_mia_custom": REGISTRY.attack(name, config) for name in attacks}
    with Store(store) as opened:
        return Run(Job(data, config, names, records, records), backend, REGISTRY, opened, quiet=quiet).execute()


def reasons(outcome, attack):
    return {result.reason for result in outcome.results[f"{attack}_mia_custom"].values()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("target", ["base", "fresh"])
def test_a_target_that_is_its_base(folder, tmp_path, target, dtype):
    """All weights or a fresh adapter. What compares it with its base is unscored; the reference is another model."""
    outcome = run(folder, target, ["loss", "lira_base", "spv"], tmp_path, dtype=dtype)
    assert reasons(outcome, "lira_base") == {BASE}
    assert reasons(outcome, "loss") == reasons(outcome, "spv") == {None}
    outcome = run(folder, target, ["ratio", "spv_wbc"], tmp_path, dtype=dtype, mia_reference="base")
    assert reasons(outcome, "ratio") == reasons(outcome, "spv_wbc") == {BASE}
    assert not any(name.startswith("scoring: reference") for name in outcome.stages)


def test_a_target_that_is_its_base_but_for_rounding(folder, tmp_path):
    """Scored, because a difference is there, and said to be next to none."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1 + 2e-5  # weights that were taken apart and put together again
    model.save_pretrained(tmp_path / "rounded")
    lm = load_lm(folder, "base")
    lm._model = model.eval()
    outcome = run(folder, "base", ["lira_base"], tmp_path / "store", lm=lm)
    assert reasons(outcome, "lira_base") == {None}
    (note,) = outcome.notes
    assert note.startswith("target and base hardly differ (log-probabilities by up to ")
    assert "hardly differ" not in str(run(folder, "whole", ["lira_base"], tmp_path / "store").notes)


def test_a_reference_that_diverged_is_told_as_that(folder, tmp_path):
    with pytest.raises(SpvmiaError, match=r"^reference: expected log-probabilities, got NaN .* lower mia_reference_lr"):
        run(folder, "trained", ["spv_wbc"], tmp_path, mia_lora_alpha=1e308)


def test_a_target_without_numbers_is_told_as_that(folder, tmp_path):
    lm = load_lm(folder, "base")
    with torch.no_grad():
        lm.model.model.norm.weight.fill_(float("inf"))
    with pytest.raises(SpvmiaError, match=r"^target: expected log-probabilities, got NaN .* load it in another dtype"):
        run(folder, "base", ["loss"], tmp_path, lm=lm)


def test_a_target_that_is_not_its_base_is_scored(folder, tmp_path):
    for target in ("whole", "trained"):
        assert reasons(run(folder, target, ["lira_base"], tmp_path), "lira_base") == {None}


@pytest.mark.parametrize(("target", "reference"), [("whole", "whole"), ("trained", "trained"), ("base", "fresh")])
def test_a_reference_that_is_the_target(folder, tmp_path, target, reference):
    outcome = run(folder, target, ["spv_wbc", "lira_base"], tmp_path, mia_reference=str(folder / reference))
    assert reasons(outcome, "spv_wbc") == {REFERENCE}
    assert reasons(outcome, "lira_base") == {BASE if target == "base" else None}
    assert reasons(run(folder, "whole", ["spv_wbc"], tmp_path, mia_reference=str(folder / "base")), "spv_wbc") == {None}


def test_references_that_learned_nothing(folder, tmp_path):
    """A rate of learning that moves no weight: said of it, and unscored where the target learned as little."""
    options = {"mia_reference_lr": 1e-12, "candidate": PROMPTS}
    outcome = run(folder, "trained", ["spv_wbc", "lira_candidate"], tmp_path, **options)
    assert [note for note in outcome.notes if "learned nothing" in note] == [
        "the reference equals the base: it learned nothing from its texts",
        "the candidate reference equals the base: it learned nothing from its texts",
    ]
    assert reasons(outcome, "spv_wbc") == {None}
    outcome = run(folder, "fresh", ["spv_wbc", "lira_candidate"], tmp_path, **options)
    assert reasons(outcome, "spv_wbc") == {REFERENCE}
    assert reasons(outcome, "lira_candidate") == {"the candidate reference is the target"}
    assert not any("learned nothing" in note for note in run(folder, "trained", ["spv_wbc"], tmp_path).notes)


def test_the_plan_leaves_out_what_is_not_scored(folder, tmp_path, capsys):
    run(folder, "fresh", ["loss", "lira_base"], tmp_path, quiet=False)
    shown = capsys.readouterr().err
    assert "scoring: target" in shown
    assert "scoring: base" not in shown


def test_the_plan_says_that_the_base_is_loaded(folder, tmp_path, capsys):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with isolated_rng(0), quiet_libraries():
        config = LoraConfig(r=4, task_type="CAUSAL_LM", init_lora_weights="pissa")
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder / "base"), config)
        model.save_pretrained(tmp_path / "pissa")
        lm = HFLM(pretrained=str(folder / "base"), peft=str(tmp_path / "pissa"), device="cpu", dtype="float32")
    outcome = run(folder, "", ["lira_base"], tmp_path / "store", quiet=False, lm=lm)
    assert "note: the base is loaded by itself" in capsys.readouterr().err
    (note,) = outcome.notes
    assert "second copy" in note


@pytest.mark.parametrize("target", ["grown", "padded"])
def test_records_that_use_no_added_token_are_scored_under_the_base(folder, tmp_path, target):
    from transformers import AutoModelForCausalLM

    texts = [*TEXTS[:8], *(f"{ADDED[i % 2]} {text}" for i, text in enumerate(TEXTS[8:]))]
    attacks = ["loss", "lira_base", "spv", "spv_wbc", "neighbour", "rmia", "lowercase"]
    lm = load_lm(folder, target)
    outcome = run(folder, target, attacks, tmp_path, texts=texts, lm=lm)
    why = "the record uses tokens that the {} does not have"
    for attack, expected in (("lira_base", "base"), ("spv", "base"), ("neighbour", "base"), ("spv_wbc", "reference")):
        found = list(outcome.results[f"{attack}_mia_custom"].values())
        assert {result.reason for result in found[:8]} == {None}, attack
        assert {result.reason for result in found[8:]} == {why.format(expected)}, attack
    assert reasons(outcome, "loss") == reasons(outcome, "lowercase") == {None}
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    for text, result in zip(texts[:8], outcome.results["lira_base_mia_custom"].values(), strict=False):
        logprobs = plain_logprobs(lm, base, text)
        assert result.reference == pytest.approx(sum(logprobs) / len(logprobs), abs=1e-5)


def test_texts_that_the_base_cannot_read_are_no_lessons(folder, tmp_path):
    lm = load_lm(folder, "grown")
    backend = HFBackend(lm, AuditConfig(lora_rank=2, reference_lr=0.05), str(folder / "base"))
    assert backend.unknown_ids(Role.BASE) == set(lm.tokenizer.convert_tokens_to_ids(ADDED))
    assert not backend.unknown_ids(Role.TARGET)
    foreign = [f"{ADDED[1]} {text}" for text in TEXTS[:3]]
    record = backend.train_reference([*TEXTS[:4], *foreign], tmp_path / "one")
    assert (record["texts"], record["left_out"]) == (4, 3)
    backend.load_reference(Role.REFERENCE, str(tmp_path / "one"))
    backend.load_reference(Role.CANDIDATE, str(folder / "padded"))
    assert backend.unknown_ids(Role.REFERENCE) == backend.unknown_ids(Role.BASE)
    assert not backend.unknown_ids(Role.CANDIDATE)
    with pytest.raises(SpvmiaError, match="got 3 that all hold tokens which only the target has"):
        backend.train_reference(foreign, tmp_path / "two")


def test_a_base_with_other_tokens_than_added_ones_is_refused(folder, tmp_path):
    """Tokens that lack in the middle, or the other way about, are another vocabulary."""
    backend = HFBackend(load_lm(folder, "base"), AuditConfig(base_model=str(folder / "grown")))
    with pytest.raises(SpvmiaError, match="another vocabulary"):
        backend.require([Role.BASE])
    save_tiny(tmp_path, texts=["completely different words for another vocabulary " * 9])
    backend = HFBackend(load_lm(folder, "grown"), AuditConfig(base_model=str(tmp_path)))
    with pytest.raises(SpvmiaError, match="another vocabulary"):
        backend.require([Role.BASE])


def test_an_adapter_whose_tokens_were_added(folder, tmp_path):
    """The harness gives the base rows for them, peft saves these with the adapter: neither is the base's."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "grown")
    with isolated_rng(0), quiet_libraries():
        model = AutoModelForCausalLM.from_pretrained(folder / "base")
        model.resize_token_embeddings(len(tokenizer))
        model = get_peft_model(model, LoraConfig(r=4, task_type="CAUSAL_LM"))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1
        model.save_pretrained(tmp_path / "lora", save_embedding_layers=True)
        tokenizer.save_pretrained(tmp_path / "lora")
        lm = HFLM(
            pretrained=str(folder / "base"),
            peft=str(tmp_path / "lora"),
            tokenizer=str(tmp_path / "lora"),
            device="cpu",
            dtype="float32",
        )
    texts = [*TEXTS[:8], *(f"{ADDED[i % 2]} {text}" for i, text in enumerate(TEXTS[8:]))]
    outcome = run(folder, "", ["loss", "lira_base"], tmp_path / "store", texts=texts, lm=lm)
    found = list(outcome.results["lira_base_mia_custom"].values())
    assert [result.score is None for result in found] == [False] * 8 + [True] * 4
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    for text, result in zip(texts[:8], found, strict=False):
        for model, value in ((base, result.reference), (lm.model, result.target)):
            logprobs = plain_logprobs(lm, model, text)
            assert value == pytest.approx(sum(logprobs) / len(logprobs), abs=1e-5)


def test_a_reference_that_is_ready_and_is_the_base(folder, tmp_path):
    def told(names, reference):
        outcome = run(folder, "trained", names, tmp_path, mia_reference=str(folder / reference))
        return [note for note in outcome.notes if "equals the base" in note]

    assert told(["spv_wbc", "lira_base"], "fresh") == [
        "the reference equals the base: what it calibrates, the base does"
    ]
    assert told(["spv_wbc", "lira_base"], "whole") == []
    assert told(["spv_wbc"], "fresh") == []  # no base is asked for
