"""The store answers for the function that a model computes: whatever adapters, scales, hooks and modes make of it."""

from __future__ import annotations

import copy
import itertools
import warnings

import pytest
import torch
from lm_eval.models.huggingface import HFLM

from spvmia_plugin.auditing.sheets import Request
from spvmia_plugin.auditing.stored import StoredSignals
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.models.hf_backend import HFBackend
from spvmia_plugin.models.identity import EQUAL, Answer, probe_rows
from spvmia_plugin.signals import Role
from spvmia_plugin.store.store import Store
from spvmia_plugin.util.libraries import isolated_rng, quiet_libraries
from tests.models.models import (
    KINDS,
    assert_same,
    fingerprint,
    harness_lm,
    inputs,
    plain_logprobs,
    rng_states,
    save_adapter,
)
from tests.tiny import save_tiny, tiny_texts

TEXTS = tiny_texts(3, words=(5, 12))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("functions")
    save_tiny(folder / "base")
    for name, seed in (("x", 1), ("y", 2)):
        save_lora(folder, name, seed)
    return folder


def save_lora(folder, name, seed, **options):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **options})
    with isolated_rng(seed), quiet_libraries():
        model = get_peft_model(plain(folder), config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(folder / name)
    return folder / name


def plain(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)


def adapted(folder, *names):
    """One base with several adapters, the first active, as a notebook has it."""
    from peft import PeftModel

    with isolated_rng(0), quiet_libraries():
        model = PeftModel.from_pretrained(plain(folder), folder / names[0], adapter_name=names[0])
        for name in names[1:]:
            model.load_adapter(str(folder / name), adapter_name=name)
    return model.eval()


def lm_of(model, folder):
    tokenizer = harness_lm(folder, "lora").tokenizer
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3)


def layers(model):
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def scaled(model):
    for layer in layers(model):
        layer.scaling["x"] *= 1.01


def part_scaled(model):
    layers(model)[-1].scaling["x"] *= 1.01


def hooked(model):
    model.base_model.model.model.norm.register_forward_hook(lambda module, given, out: out * 1.001)


def masked(model):
    layers(model)[0].lora_B["x"].weight.data[0] = 0


def last_row(model):
    """A single row of the embeddings, which no token of the probe need be."""
    model.get_input_embeddings().weight.data[399] += 0.1


STATES = {
    "x": lambda model: None,
    "y": lambda model: model.set_adapter("y"),
    "stacked": lambda model: model.base_model.set_adapter(["x", "y"]),
    "disabled": lambda model: model.base_model.disable_adapter_layers(),
    "scaled": scaled,
    "part_scaled": part_scaled,
    "merged": lambda model: model.merge_adapter(["x"]),
    "merged_both": lambda model: model.merge_adapter(["x", "y"]),
    "hooked": hooked,
    "masked": masked,
    "last_row": last_row,
}


def test_one_object_in_many_states_and_one_store(models, tmp_path):
    """Each answer is that function's own, and so are base and references."""
    found, kept = {}, {}
    with Store(tmp_path / "store") as store:
        for state, change in {**STATES, "x_again": STATES["x"]}.items():
            model = adapted(models, "x", "y") if state != "y" else model  # noqa: F821 - the object of `x`, swapped
            with quiet_libraries(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # peft speaks of what it merges
                change(model)
            before = fingerprint(model)
            lm = lm_of(model, models)
            backend = HFBackend(lm, AuditConfig(base_model=str(models / "base")))
            stored = StoredSignals(backend, store, quiet=True)
            for role, oracle in ((Role.TARGET, model), (Role.BASE, plain(models))):
                items = inputs(backend, TEXTS)
                signals = stored.of([Request(role, role, list(dict.fromkeys(items)), moments=False)])
                for item, text in zip(items, TEXTS, strict=True):
                    assert signals[item].logprob == pytest.approx(plain_logprobs(lm, oracle, text), abs=1e-5), state
            found[state] = backend.identity(Role.TARGET)
            kept[state] = backend.identity(Role.BASE)
            backend.close()
            assert_same(before, fingerprint(model))
    assert found["x"] == found.pop("x_again")
    keys = [store.key("k", model=identity) for identity in found.values()]
    assert len(set(keys)) == len(STATES)
    functions = {state: identity["function"] for state, identity in found.items()}
    assert len(set(functions.values())) == len(STATES)
    assert len({store.key("k", model=identity) for identity in kept.values()}) == 1, "they share the base's signals"


def test_modes_and_threads_do_not_change_the_name(models):
    model = adapted(models, "x")
    lm = lm_of(model, models)
    seen = set()
    model.base_model.model.model.norm.register_forward_hook(lambda *_: seen.add(torch.get_num_threads()))

    def identity():
        seen.clear()
        found = HFBackend(lm, AuditConfig()).identity(Role.TARGET)
        assert seen == {1}
        return found

    first, rng, threads = identity(), rng_states(), torch.get_num_threads()
    model.train()
    for layer in layers(model):
        layer.lora_dropout["x"] = torch.nn.Dropout(0.5)
    torch.set_num_threads(3)
    try:
        assert identity() == first
        assert torch.get_num_threads() == 3
        assert model.training
    finally:
        torch.set_num_threads(threads)
    assert rng_states() == rng


def test_the_same_weights_in_another_precision_are_another_function(models):
    identities = []
    for dtype, autocast in (("float32", None), ("bfloat16", None), ("float32", "bfloat16")):
        lm = harness_lm(models, "lora", dtype=dtype, **({"mixed_precision_dtype": autocast} if autocast else {}))
        identities.append(HFBackend(lm, AuditConfig()).identity(Role.TARGET)["function"])
    assert len(set(identities)) == 3


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "full"])
def test_targets_on_one_base_share_its_signals(models, kind):
    """Whether they carry it or it is loaded; adapters have no say in its name, nor in those of references."""
    first, other = (
        HFBackend(harness_lm(models, "lora"), AuditConfig()),
        HFBackend(harness_lm(models, kind), AuditConfig()),
    )
    assert first.identity(Role.BASE) == other.identity(Role.BASE)
    save_adapter(models, models / "base", "ia3")
    for reference in ("x", "ia3", "base"):
        for backend in (first, other):
            backend.load_reference(Role.REFERENCE, str(models / reference))
        assert first.identity(Role.REFERENCE) == other.identity(Role.REFERENCE)


def test_the_base_of_objects_under_other_names_is_one(models):
    """Nothing of the adapters gets into it, whatever they are called."""
    identities = []
    for names in (("x",), ("y", "x")):
        model = adapted(models, *names)
        model.base_model.model.name_or_path = ""
        for config in model.peft_config.values():
            config.base_model_name_or_path = None
        identities.append(HFBackend(lm_of(model, models), AuditConfig()).identity(Role.BASE))
    assert identities[0] == identities[1]
    assert "tensors" in identities[0]["weights"][0]


def test_a_probe_fits_every_vocabulary_and_context():
    for vocab in (2, 7, 400, 256_000):
        for context in (2, 16, 4096):
            spread, text = probe_rows(vocab, [5, 1, vocab - 1, vocab, 10**9], context)
            assert all(0 <= token_id < vocab for row in [*spread, *text] for token_id in row)
            assert {len(row) for row in spread} == {min(16, context // 2)}
            assert text[0]
    flat = sorted(token_id for row in probe_rows(256_000, [], 4096)[0] for token_id in row)
    assert flat[0] == 0
    assert flat[-1] == 255_999
    assert max(b - a for a, b in itertools.pairwise(flat)) < 2 * 256_000 / len(flat)


def test_distances():
    def answer(values, embeddings=(0.0,)):
        return Answer(1, (torch.tensor([values]),), torch.tensor(embeddings))

    inf, nan = float("inf"), float("nan")
    one = answer([0.0, -1.0, -inf])
    assert one.distance(copy.deepcopy(one)) == 0
    assert one.distance(answer([0.0, -1.5, -inf])) == 0.5
    assert one.distance(answer([0.0, -1.0, -2.0])) == inf
    assert one.distance(answer([0.0, -1.0, -inf], (3.0,))) == 3
    assert one.distance(answer([0.0, -1.0])) == inf
    assert answer([nan]).distance(answer([nan])) == inf > EQUAL
    assert len({one.digest(), answer([0.0, -1.5, -inf]).digest(), answer([0.0, -1.0, -inf], (3.0,)).digest()}) == 3
