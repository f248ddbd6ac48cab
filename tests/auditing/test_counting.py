"""Every setting changed in turn: a kept result is found again only where the setting cannot have changed it."""

from __future__ import annotations

import dataclasses

import pytest

from spvmia_plugin import hookimpl
from spvmia_plugin.auditing import counting
from spvmia_plugin.auditing.calibrate import Calibration
from spvmia_plugin.auditing.stored import Decimals, paraphrase_keys, signals_key, signals_keys
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.plugins import load_registry
from spvmia_plugin.protocols import EmbeddingNoise, ScoreInput
from spvmia_plugin.store.store import Store
from tests.auditing.fakes import FakeBackend, make_data
from tests.perturb.fakes import save_t5, tiny_t5_tokenizer, transitions

REGISTRY = load_registry(entry_points=False)
DATA = make_data(6, prompts=4)
FIELDS = [field.name for field in dataclasses.fields(AuditConfig)]

# Another value than the default for every setting. A new setting needs one here, and a decision below.
OTHER = {
    "members": "m.jsonl", "nonmembers": "n.jsonl", "prompts": "p.jsonl", "candidate": "c.jsonl", "text_column": "body",
    "manifest": "m.json", "dataset_path": "d.jsonl", "split": "paper", "block_size": 64, "max_samples": 7,
    "prefix": "harness", "base_model": "org/base", "base_served": "b", "dtype": "float16", "reference": "base",
    "self_prompts": 9, "prompt_tokens": 5,
    "temperature": 0.7, "top_k": 50, "top_p": 0.9, "reference_epochs": 1.0, "reference_lr": 1e-4, "reference_batch": 2,
    "reference_parallel": True, "lora_rank": 8, "lora_alpha": 8.0, "lora_dropout": 0.0, "lora_targets": ("q_proj",),
    "perturbation": "causal", "perturbations": 3, "mask_rate": 0.4, "mask_model": "ELSEWHERE", "noise": 0.1,
    "unit_column": "customer", "group_column": "region",
    "max_auroc": 0.7, "max_tpr_at_1pct": 0.2, "max_epsilon": 3.0,
    "canary_attack": "wbc", "preset": "quick", "log_text": True, "seed": 1, "cache_dir": "elsewhere", "max_length": 77,
    "format": "messages", "loss_on": "all", "chat_template": "t.jinja", "record_tokens": 99, "self_prompt": "prefix",
    "allow_degenerate": True, "references": 3, "continuations": 4, "embedding_model": "org/embeds", "api_view": "text",
    "attack_options": {"mia_spv_variant": "released"}, "trust_remote_code": True, "gguf_file": "b.gguf",
    "given": frozenset({"seed"}),
}  # fmt: skip

# What counts, said a second time and by name: the package says what does not.
SAMPLING = {"self_prompts", "prompt_tokens", "temperature", "top_k", "top_p"}
TRAINING = {"reference_epochs", "reference_lr", "reference_batch"} | {f for f in FIELDS if f.startswith("lora_")}
COUNTS = {
    "self_prompts": SAMPLING | {"block_size", "seed"},
    "references": TRAINING | {"seed"},
    "causal": {"perturbations", "mask_rate", "prefix", "seed"},
    "embedding": {"perturbations", "noise", "seed"},
    "mask_fill": {"perturbations", "mask_rate", "mask_model", "attack_options", "seed"},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two mask models, by their value in `OTHER` and by the default's."""
    folder = tmp_path_factory.mktemp("mask")
    table = transitions(tiny_t5_tokenizer())
    return {"t5-base": str(save_t5(folder / "one", table)), "ELSEWHERE": str(save_t5(folder / "other", table, seed=1))}


def key_of(kind, config, store, registry=REGISTRY, maker="spvmia-plugin 1"):
    backend = FakeBackend()
    calibration = Calibration(DATA, config, backend, registry, store)
    if kind == "self_prompts":
        return calibration.corpus_key()
    if kind == "references":
        return calibration.reference_key(["a", "b"])
    made = REGISTRY.perturbations[kind](config)
    return paraphrase_keys(DATA.records[:1], made, backend, store, config, maker=maker)[DATA.records[0].id]


def test_every_setting_has_another_value() -> None:
    assert set(OTHER) == set(FIELDS)
    assert [name for name in FIELDS if getattr(AuditConfig(), name) == OTHER[name]] == []


def test_every_built_in_perturbation_is_looked_at() -> None:
    assert {*REGISTRY.perturbations, "self_prompts", "references"} == set(COUNTS)


@pytest.mark.parametrize("kind", COUNTS)
def test_each_setting_counts_or_cannot(kind, models, tmp_path) -> None:
    def key(**changed):
        values = {"mask_model": "t5-base", **changed}
        return key_of(kind, AuditConfig(**values | {"mask_model": models[values["mask_model"]]}), store)

    with Store(tmp_path) as store:
        usual = key()
        assert key() == usual
        assert {name for name in FIELDS if key(**{name: OTHER[name]}) != usual} == COUNTS[kind]


def test_the_version_of_a_perturbation_counts_unless_it_is_ours(tmp_path) -> None:
    makers = ("spvmia-plugin 1", "spvmia-plugin 2", "acme 1", "acme 2", "other 2")
    with Store(tmp_path) as store:
        keys = [key_of("embedding", AuditConfig(), store, maker=maker) for maker in makers]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


def test_what_cannot_count_is_a_setting() -> None:
    for names in (counting.NOT_IN_SELF_PROMPTS, counting.NOT_IN_CONVERSATIONS, counting.NOT_IN_REFERENCE):
        assert names <= set(FIELDS)


@pytest.mark.parametrize(("kind", "hook"), [("self_prompts", "self_prompt"), ("references", "train_reference")])
def test_a_plugin_that_makes_it_may_read_every_setting(kind, hook, tmp_path) -> None:
    """Its sampling gets the whole config: an option of an attack, or a file's name, may change what it makes."""
    registry = load_registry(entry_points=False)

    class Plugin:
        pass

    def spvmia_self_prompt(backend, prompts, config, on_done, done):
        return None

    def spvmia_train_reference(backend, texts, config, output_dir):
        return None

    function = {"self_prompt": spvmia_self_prompt, "train_reference": spvmia_train_reference}[hook]
    plugin = Plugin()
    setattr(plugin, f"spvmia_{hook}", hookimpl(function))
    registry.manager.register(plugin, name="other")
    with Store(tmp_path) as store:
        keys = {name: key_of(kind, AuditConfig(**{name: OTHER[name]}), store, registry) for name in FIELDS}
        usual = key_of(kind, AuditConfig(), store, registry)
    unchanged = {name for name in FIELDS if keys[name] == usual}
    bounds = {"max_auroc", "max_tpr_at_1pct", "max_epsilon", "unit_column", "group_column"}
    shown = {"cache_dir", "log_text", "preset", "given", "max_length", "allow_degenerate", "references"}
    told_later = {"continuations", "embedding_model", "api_view"}  # of what is made later, and by us alone
    engines = {"base_served", "dtype", "gguf_file"}  # keys hold the identities that follow
    assert unchanged == shown | bounds | told_later | engines


def test_every_part_of_a_sequence_counts_for_its_signals(tmp_path) -> None:
    noise = EmbeddingNoise(1, 1, 0.3)
    usual = ScoreInput((1, 2, 3), (4,), noise)
    parts = {"token_ids": (1, 2, 5), "context_ids": (), "noise": None}
    of_noise = {"seed": 2, "sign": -1, "scale": 0.4, "only": (1,)}
    assert set(parts) == {field.name for field in dataclasses.fields(ScoreInput)}
    assert set(of_noise) == {field.name for field in dataclasses.fields(EmbeddingNoise)}
    others = [dataclasses.replace(usual, **{name: value}) for name, value in parts.items()]
    for name, value in of_noise.items():
        others.append(dataclasses.replace(usual, noise=dataclasses.replace(noise, **{name: value})))
    with Store(tmp_path) as store:
        keys = [signals_key(store, {"w": 1}, 10, item) for item in [usual, *others]]
        keys += [signals_key(store, {"w": 2}, 10, usual), signals_key(store, {"w": 1}, 11, usual)]
        keys += [signals_keys(store, {"w": 1}, 10, Decimals(), kth)(usual) for kth in (1, 2)]
        assert signals_keys(store, {"w": 1}, 10, Decimals(), 0)(usual) == keys[0]
    assert len(set(keys)) == len(keys)


def test_the_name_of_signals_is_that_of_its_parts(tmp_path) -> None:
    """Written by hand, and found in stores of versions that wrote it otherwise."""
    whole, some = EmbeddingNoise(1, -1, 0.1), EmbeddingNoise(2, 1, 1e-7, (0, 5))
    with Store(tmp_path) as store:
        for item, noise in {
            ScoreInput(()): None,
            ScoreInput((7,), (151643, 0)): None,
            ScoreInput((1, 2), (), whole): [1, -1, 0.1],
            ScoreInput((1, 2), (3,), some): [2, 1, 1e-7, [0, 5]],
        }.items():
            parts = [list(item.token_ids), list(item.context_ids), noise]
            expected = store.key("signals", model={"b": "ü", "a": None}, max_length=10, input=parts)
            assert signals_key(store, {"b": "ü", "a": None}, 10, item) == expected
