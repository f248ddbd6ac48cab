"""The base is the model before fine-tuning, whatever kind of adapter the target has and wherever it came from."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings

import pytest
import torch
from lm_eval.models.huggingface import HFLM

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.adapters import is_hostable, is_inert
from spvmia_plugin.models.hf_backend import HFBackend
from spvmia_plugin.signals import Role
from spvmia_plugin.util.libraries import isolated_rng, quiet_libraries
from tests.models.models import assert_same, fingerprint, inputs, plain_logprobs
from tests.tiny import save_tiny, tiny_llama, tiny_texts, tiny_tokenizer

TEXTS = tiny_texts(3, words=(5, 12))
QUICK = {"reference_epochs": 1.0, "reference_lr": 0.05, "reference_batch": 4, "lora_rank": 3}
ATTENTION = ["q_proj", "v_proj"]


def lora(**options):
    from peft import LoraConfig

    return LoraConfig(**{"r": 4, "target_modules": ATTENTION, "task_type": "CAUSAL_LM", **options})


def other(name, **options):
    import peft

    return getattr(peft, name)(task_type="CAUSAL_LM", **options)


def corda():
    from peft.tuners.lora.config import CordaConfig

    return lora(init_lora_weights="corda", corda_config=CordaConfig(corda_method="kpm"))


# name -> (config, whether the target's own weights, with the adapter off, are the base)
CASES = {
    "plain": (lora, True),
    "gaussian": (lambda: lora(init_lora_weights="gaussian"), True),
    "dora": (lambda: lora(use_dora=True), True),
    "rslora_patterns": (lambda: lora(use_rslora=True, rank_pattern={"q_proj": 2}, alpha_pattern={"q_proj": 3}), True),
    "lora_bias": (lambda: lora(lora_bias=True), True),
    "embeddings": (lambda: lora(target_modules=["embed_tokens", "q_proj"]), True),
    "orthogonal": (lambda: lora(init_lora_weights="orthogonal"), True),
    "eva": (lambda: lora(init_lora_weights="eva"), True),
    "modules_to_save": (lambda: lora(modules_to_save=["norm", "o_proj"]), True),
    "pissa": (lambda: lora(init_lora_weights="pissa"), False),
    "pissa_niter_4": (lambda: lora(init_lora_weights="pissa_niter_4"), False),
    "olora": (lambda: lora(init_lora_weights="olora"), False),
    "corda": (corda, False),
    "layer_replication": (lambda: lora(layer_replication=[[0, 2], [0, 2]]), False),
    "bias_all": (lambda: lora(bias="all"), False),
    "bias_lora_only": (lambda: lora(bias="lora_only"), False),
    "tokens": (lambda: lora(trainable_token_indices=[5, 6]), False),
    "ia3": (
        lambda: other("IA3Config", target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"]),
        False,
    ),
    "prefix": (lambda: other("PrefixTuningConfig", num_virtual_tokens=3), False),
    "prompt": (lambda: other("PromptTuningConfig", num_virtual_tokens=3), False),
    "loha": (lambda: other("LoHaConfig", r=2, target_modules=ATTENTION), False),
    "oft": (lambda: other("OFTConfig", r=2, oft_block_size=0, target_modules=ATTENTION), False),
    "vera": (lambda: other("VeraConfig", r=2, target_modules=["o_proj"]), False),
    "ln": (lambda: other("LNTuningConfig", target_modules=["input_layernorm"]), False),
}


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    save_tiny(folder / "base")
    save_tiny(folder / "elsewhere", seed=7)
    return folder


def load(path, dtype=torch.float32):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype)


def base_of(root, name):
    """The harness ties the embeddings of what it has loaded, and stumbles over single tokens that were trained."""
    if name != "tokens":
        return root / "base"
    if not (root / "untied").exists():
        model = load(shutil.copytree(root / "base", root / "untied"))
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() * 1.1)
        model.config.tie_word_embeddings = False
        model.save_pretrained(root / "untied")
    return root / "untied"


def adapted(root, name):
    """The base with an adapter that makes a difference."""
    from peft import get_peft_model

    with isolated_rng(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what peft has to say to whoever makes an adapter
        config = CASES[name][0]()
        model = load(base_of(root, name))
        if name == "corda":
            from peft.tuners.lora.corda import preprocess_corda

            preprocess_corda(model, config, run_model=lambda: model(torch.arange(200).view(1, -1)))
        model = get_peft_model(model, config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def saved(root, name):
    if not (root / name).exists():
        with quiet_libraries():
            adapted(root, name).save_pretrained(root / name)
    return root / name


def load_lm(root, name, **options):
    options = {"device": "cpu", "dtype": "float32", "batch_size": 3, **options}
    with isolated_rng(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the harness's own loading
        return HFLM(pretrained=str(base_of(root, name)), peft=str(saved(root, name)), **options)


def wrap(model, tokenizer):
    """A model object as a notebook hands it to the harness."""
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3)


def check(backend, lm, role, model, within=1e-5):
    """The role's scores are those of a plain forward pass of `model`."""
    signals = backend.score(role, inputs(backend, TEXTS), moments=False)
    for text, found in zip(TEXTS, signals, strict=True):
        assert found.logprob == pytest.approx(plain_logprobs(lm, model, text), abs=within)


@pytest.fixture
def loads(monkeypatch):
    """Names of the models that are loaded from here on."""
    from transformers import AutoModelForCausalLM

    calls, original = [], AutoModelForCausalLM.from_pretrained

    def noted(name, **options):
        calls.append(str(name))
        return original(name, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", noted)
    return calls


@pytest.mark.parametrize("name", CASES)
def test_target_and_base_equal_a_plain_forward(root, name, loads):
    in_memory = name == "corda"  # peft does not load it from its files
    lm = wrap(adapted(root, name), load_lm(root, "plain").tokenizer) if in_memory else load_lm(root, name)
    loads.clear()
    before = fingerprint(lm.model)
    backend = HFBackend(lm, AuditConfig())
    backend.require([Role.BASE])
    backend.identity(Role.BASE)
    assert len(loads) <= 1
    plain = load(base_of(root, name))
    check(backend, lm, Role.TARGET, lm.model)
    check(backend, lm, Role.BASE, plain)
    assert backend._roles.shared is CASES[name][1]
    assert not backend.is_same(Role.TARGET, Role.BASE)
    assert backend.identity(Role.TARGET)["function"] != backend.identity(Role.BASE)["function"]
    backend.close()
    assert_same(before, fingerprint(lm.model))


@pytest.mark.parametrize("name", ["plain", "dora", "gaussian", "lora_bias", "rslora_patterns"])
def test_ordinary_adapters_need_no_copy_of_the_base(root, name, loads):
    lm = load_lm(root, name)
    loads.clear()
    backend = HFBackend(lm, AuditConfig())
    backend.require([Role.BASE])
    backend.identity(Role.BASE)
    assert loads == []
    assert backend.notes == []


@pytest.mark.parametrize("name", ["pissa", "olora", "layer_replication"])
def test_the_plan_says_that_the_base_was_loaded(root, name, loads):
    lm = load_lm(root, name)
    loads.clear()
    backend = HFBackend(lm, AuditConfig())
    backend.require([Role.BASE])
    (note,) = backend.notes
    assert "second copy" in note
    backend.identity(Role.BASE), backend.is_same(Role.TARGET, Role.BASE)
    assert len(loads) == 1


def test_every_other_option_of_lora_is_looked_into():
    """Also those that a later peft brings: what is not known to be harmless isn't taken for it."""
    harmless = {
        "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
        "inference_mode", "r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out",
        "use_rslora", "use_dora", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern",
        "runtime_config", "lora_bias",
    }  # fmt: skip
    assert is_inert(lora())
    for field in dataclasses.fields(lora()):
        config = lora()
        setattr(config, field.name, object())
        assert is_inert(config) is (field.name in harmless), field.name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["eva", "modules_to_save", "pissa"])
def test_in_half_precision(root, name, dtype):
    lm = load_lm(root, name, dtype=dtype)
    backend = HFBackend(lm, AuditConfig())
    assert backend._roles.shared is CASES[name][1]
    check(backend, lm, Role.BASE, load(root / "base", getattr(torch, dtype)), within=2e-2)


def test_what_a_base_answers_is_asked_once(root, loads):
    kept = {}

    def found(name, **options):
        backend = HFBackend(load_lm(root, name, **options), AuditConfig())
        backend.remember_base(
            lambda base: kept.get(json.dumps(base)), lambda base, a: kept.update({json.dumps(base): a})
        )
        loads.clear()
        backend.require([Role.BASE])
        return backend._roles.shared, len(loads)

    assert found("eva") == (True, 1)
    assert found("eva") == found("orthogonal") == (True, 0)
    assert found("pissa") == (False, 1)  # kept or not, its base has to be there
    assert found("eva", dtype="bfloat16") == (True, 1)
    assert len(kept) == 2
    kept.update(dict.fromkeys(kept, "what another version of a library computed"))
    assert found("eva") == (True, 1)


@pytest.mark.parametrize("remembered", ["/gone/long/ago", "elsewhere"])
@pytest.mark.parametrize("name", ["plain", "pissa", "ia3", "prefix", "bias_all", "loha"])
def test_pretrained_names_the_base_whatever_the_adapter_remembers(root, tmp_path, name, remembered):
    folder = shutil.copytree(saved(root, name), tmp_path / name)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(root / remembered)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with isolated_rng(0), quiet_libraries():
        lm = HFLM(pretrained=str(root / "base"), peft=str(folder), device="cpu", dtype="float32", batch_size=3)
    backend = HFBackend(lm, AuditConfig())
    check(backend, lm, Role.BASE, load(root / "base"))
    wrapped = HFBackend(wrap(lm.model, lm.tokenizer), AuditConfig())
    check(wrapped, lm, Role.BASE, load(root / "base"))


@pytest.mark.parametrize("name", ["pissa", "plain", "ia3"])
def test_a_base_that_is_named_holds(root, name):
    lm = load_lm(root, name)
    for place in ("base", "elsewhere"):
        backend = HFBackend(lm, AuditConfig(base_model=str(root / place)))
        check(backend, lm, Role.BASE, load(root / place))


def test_a_merged_adapter_stays_merged(root):
    """Switching it off would take it out of the weights, in place and with rounding."""
    model = adapted(root, "plain")
    with quiet_libraries():
        model.merge_adapter()
    before = fingerprint(model)
    lm = wrap(model, load_lm(root, "plain").tokenizer)
    backend = HFBackend(lm, AuditConfig(base_model=str(root / "base"), **QUICK))
    assert not is_hostable(model)
    check(backend, lm, Role.BASE, load(root / "base"))
    check(backend, lm, Role.TARGET, model)
    backend.close()
    assert_same(before, fingerprint(model))


def test_a_model_that_was_tampered_with_does_not_carry_its_base(root):
    lm = load_lm(root, "plain")
    handle = lm.model.base_model.model.model.layers[0].register_forward_hook(lambda m, a, out: out + 0.1)
    backend = HFBackend(lm, AuditConfig())
    check(backend, lm, Role.BASE, load(root / "base"))
    check(backend, lm, Role.TARGET, lm.model)
    handle.remove()
    with torch.no_grad():
        model = adapted(root, "plain")
        model.get_input_embeddings().weight[17] += 1.0  # a token that the probe may not hold
    wrapped = HFBackend(wrap(model, lm.tokenizer), AuditConfig())
    assert not wrapped._roles.shared


def test_a_replaced_forward_pass_proves_nothing(root):
    lm = load_lm(root, "plain")
    layer = lm.model.base_model.model.model.layers[0].mlp
    own = layer.forward
    layer.forward = lambda x: own(x) * 1.5
    backend = HFBackend(lm, AuditConfig())
    check(backend, lm, Role.BASE, load(root / "base"))
    check(backend, lm, Role.TARGET, lm.model)


def test_the_base_of_a_delta_is_what_it_is_added_to(root):
    with isolated_rng(0), quiet_libraries():
        lm = HFLM(pretrained=str(root / "base"), delta=str(root / "elsewhere"), device="cpu", dtype="float32")
    backend = HFBackend(lm, AuditConfig())
    check(backend, lm, Role.BASE, load(root / "base"))
    check(backend, lm, Role.TARGET, lm.model)
    assert not backend.is_same(Role.TARGET, Role.BASE)


def test_embeddings_saved_with_an_adapter_are_not_the_bases(root, tmp_path):
    """peft saves them where tokens were added, and loading puts them into the base."""
    model = adapted(root, "plain")
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1.5)
    with quiet_libraries():
        model.save_pretrained(tmp_path / "lora", save_embedding_layers=True)
    with isolated_rng(0), quiet_libraries():
        lm = HFLM(
            pretrained=str(root / "base"), peft=str(tmp_path / "lora"), device="cpu", dtype="float32", batch_size=3
        )
    backend = HFBackend(lm, AuditConfig())
    check(backend, lm, Role.TARGET, lm.model)
    check(backend, lm, Role.BASE, load(root / "base"))
    assert not backend._roles.shared


@pytest.mark.parametrize("name", ["pissa", "modules_to_save", "plain"])
def test_a_reference_that_would_change_the_weights_gets_its_own(root, name):
    from peft import PeftModel

    lm = load_lm(root, "plain")
    before = fingerprint(lm.model)
    backend = HFBackend(lm, AuditConfig())
    backend.load_reference(Role.REFERENCE, str(saved(root, name)))
    with quiet_libraries():
        reference = PeftModel.from_pretrained(load(root / "base"), root / name).eval()
    check(backend, lm, Role.REFERENCE, reference)
    check(backend, lm, Role.BASE, load(root / "base"))
    assert backend.is_same(Role.REFERENCE, Role.TARGET) is (name == "plain")
    assert_same(before, fingerprint(lm.model))


def test_a_target_that_is_switched_off_has_references_that_are_not(root, tmp_path):
    lm = load_lm(root, "plain")
    lm.model.base_model.disable_adapter_layers()
    backend = HFBackend(lm, AuditConfig(**QUICK))
    assert backend.is_same(Role.TARGET, Role.BASE)
    backend.train_reference(TEXTS, tmp_path)
    backend.load_reference(Role.REFERENCE, str(tmp_path))
    assert not backend.is_same(Role.REFERENCE, Role.BASE)


def test_an_object_without_a_base_to_load(root, tmp_path):
    from peft import get_peft_model

    tokenizer = load_lm(root, "plain").tokenizer
    for options, inert in (({}, True), ({"init_lora_weights": "pissa"}, False)):
        with quiet_libraries():
            model = get_peft_model(tiny_llama(tokenizer), lora(**options)).eval()
        backend = HFBackend(wrap(model, tokenizer), AuditConfig())
        if inert:
            backend.require([Role.BASE])
            assert any("not compared" in note for note in backend.notes)
        else:
            with pytest.raises(SpvmiaError, match="mia_base_model"):
                backend.require([Role.BASE])
        model.base_model.model.config._name_or_path = str(tmp_path / "gone")
        backend = HFBackend(wrap(model, tokenizer), AuditConfig())
        if inert:
            backend.require([Role.BASE])
        else:
            with pytest.raises(SpvmiaError, match="mia_base_model"):
                backend.require([Role.BASE])


def test_adapters_that_transformers_put_on(root, tmp_path):
    """`model.load_adapter`, an adapter's folder as `pretrained`, and an adapter beside a whole model's files."""
    tokenizer = load_lm(root, "plain").tokenizer
    model = load(root / "base")
    with quiet_libraries():
        model.load_adapter(str(saved(root, "plain")))
        only_adapter = wrap(load(root / "plain"), tokenizer)
    beside = shutil.copytree(root / "elsewhere", tmp_path / "beside")
    for path in (root / "plain").glob("adapter_*"):
        shutil.copy(path, beside)
    with quiet_libraries():
        whole = HFLM(pretrained=str(beside), device="cpu", dtype="float32")
    targets = {}
    for lm, base in ((wrap(model.eval(), tokenizer), "base"), (only_adapter, "base"), (whole, "elsewhere")):
        before = fingerprint(lm.model)
        backend = HFBackend(lm, AuditConfig(**QUICK))
        backend.require([Role.BASE])
        backend.check_training()
        check(backend, lm, Role.TARGET, lm.model)
        check(backend, lm, Role.BASE, load(root / base))
        assert not backend.is_same(Role.TARGET, Role.BASE)
        backend.train_reference(TEXTS, tmp_path / "reference")
        backend.load_reference(Role.REFERENCE, str(tmp_path / "reference"))
        assert not backend.is_same(Role.REFERENCE, Role.BASE)
        shutil.rmtree(tmp_path / "reference")
        json.dumps(backend.identity(Role.TARGET))
        targets[backend.identity(Role.TARGET)["function"]] = base
        assert_same(before, fingerprint(lm.model))
    assert sorted(targets.values()) == ["base", "elsewhere"]  # the first two are one function
    named = HFBackend(whole, AuditConfig(base_model=str(root / "base")))
    check(named, whole, Role.BASE, load(root / "base"))


def test_a_base_with_an_adapter_on_it_trains_no_references(root):
    backend = HFBackend(load_lm(root, "ia3"), AuditConfig(base_model=str(saved(root, "plain"))))
    backend._roles._tokens.check_same = lambda *_: frozenset()  # the folder has no tokenizer
    with pytest.raises(SpvmiaError, match="merge_and_unload"):
        backend.check_training()


@pytest.mark.parametrize("rows", [416, 448])
def test_a_base_with_rows_to_spare_is_cut_as_the_harness_cuts_the_target(tmp_path, rows):
    from peft import get_peft_model

    tokenizer = tiny_tokenizer()
    model = tiny_llama(tokenizer)
    with isolated_rng(0), quiet_libraries():
        model.resize_token_embeddings(rows)
        model.save_pretrained(tmp_path / "base")
        tokenizer.save_pretrained(tmp_path / "base")
        for name in ("plain", "pissa", "ia3"):
            adapter = get_peft_model(load(tmp_path / "base"), CASES[name][0]())
            adapter.save_pretrained(tmp_path / name)
            lm = HFLM(pretrained=str(tmp_path / "base"), peft=str(tmp_path / name), device="cpu", dtype="float32")
            plain = load(tmp_path / "base")
            plain.resize_token_embeddings(len(tokenizer))
            backend = HFBackend(lm, AuditConfig())
            check(backend, lm, Role.BASE, plain)
            assert backend._roles.shared is CASES[name][1]
            assert not backend.unknown_ids(Role.BASE)
