"""A target that lies elsewhere: what is asked of it goes there, and what is asked of the base and references stays."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from spvmia_plugin.auditing.roles import cast, check_features
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.engines.remote import RemoteTarget
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models import local, precision
from spvmia_plugin.models.hf_backend import HFBackend
from spvmia_plugin.protocols import Backend, BackendFeatures, ScoreInput
from spvmia_plugin.signals import Role, TokenSignals
from tests.auditing.fakes import FakeBackend, make_data
from tests.auditing.test_run import REGISTRY
from tests.models.models import harness_lm, inputs
from tests.tiny import save_tiny, tiny_texts

TEXTS = tiny_texts(5, words=(4, 30))
TRAINING = {"reference_epochs": 1, "lora_rank": 4, "reference_lr": 1e-2}


class Elsewhere(RemoteTarget):
    """The target of a harness's own model, moved by some nats, as if another engine ran it."""

    name = "elsewhere"

    def __init__(self, lm, config, base_model=None, *, moved=0.0, max_length=None, remote=(Role.TARGET,)):
        super().__init__(lm.tokenizer, max_length or lm.max_length, config, base_model, prefix_token_id=0)
        self.hf, self.moved, self.remote, self.asked = HFBackend(lm, AuditConfig()), moved, remote, []

    def is_remote(self, role):
        return role in self.remote

    def remote_features(self, role):
        return BackendFeatures(moments=False, gradients=True)

    def remote_identity(self, role):
        return {"elsewhere": role.value}

    def remote_score(self, role, inputs, *, moments, on_done=None, done=()):
        self.asked.append(role)
        self._spent[role].forward_tokens += 1
        found = self.hf.score(role, inputs, moments=moments, on_done=on_done, done=done)
        return [each and TokenSignals(each.logprob + np.float32(self.moved), each.top1) for each in found]


@pytest.fixture(scope="module")
def lm(models):
    return harness_lm(models, "lora")


@pytest.fixture
def loads(monkeypatch):
    """The models that were loaded, by name."""
    found, load = [], local.LocalModels._load

    def counted(self, option, name, revision=None):
        found.append(name)
        return load(self, option, name, revision)

    monkeypatch.setattr(local.LocalModels, "_load", counted)
    return found


def made(lm, models, **options):
    settings = {key: options.pop(key) for key in ("moved", "max_length", "remote") if key in options}
    backend = Elsewhere(lm, AuditConfig(**{**TRAINING, **options}), str(models / "base"), **settings)
    assert isinstance(backend, Backend)
    return backend


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", None])
def test_a_base_that_this_cpu_is_slow_in_is_told_before_it_is_read(lm, models, loads, monkeypatch, dtype):
    monkeypatch.setattr(precision, "is_slow_in", lambda dtype: dtype.itemsize == 2)
    backend = made(lm, models, dtype=dtype)
    assert backend.slow is None  # nobody asks for it yet: attacks on texts alone do not
    backend.require([Role.TARGET, Role.BASE])
    if dtype == "bfloat16" and backend.device.type == "cpu":
        assert backend.slow.startswith("this CPU has no instructions for bfloat16")
    else:
        assert backend.slow is None
    assert loads == []


def test_the_base_here_is_that_of_an_audit_in_one_process(lm, models, loads):
    backend, hf = made(lm, models), HFBackend(lm, AuditConfig(**TRAINING))
    backend.require([Role.BASE])
    assert loads == []
    assert backend.identity(Role.BASE) == hf.identity(Role.BASE)  # so what one has computed is there for the other
    items = inputs(hf, TEXTS)
    ours, theirs = (each.score(Role.BASE, items, moments=True) for each in (backend, hf))
    assert all(
        np.array_equal(a.logprob, b.logprob) and np.array_equal(a.std, b.std) for a, b in zip(ours, theirs, strict=True)
    )
    backend.score(Role.TARGET, items, moments=False)
    assert backend.asked == [Role.TARGET]
    assert loads == [str(models / "base")]
    assert backend.notes == [f"the base is read in this process, by torch in float32 on {backend.device.type}"]
    assert backend.cost(Role.TARGET).forward_tokens == 1
    assert backend.cost(Role.BASE).forward_tokens == hf.cost(Role.BASE).forward_tokens > 0
    backend.close()


def test_no_base_is_read_before_something_needs_it(lm, models, loads):
    backend = made(lm, models)
    items = inputs(backend, TEXTS)
    backend.score(Role.TARGET, items, moments=False)
    assert backend.unknown_ids(Role.TARGET) == frozenset()
    assert backend.frame("a") == HFBackend(lm, AuditConfig()).frame("a")
    assert list(backend.notes) == loads == []
    assert backend.decode(backend.encode("a b")) == "a b"
    assert backend.survives(backend.encode("a b"))


def test_references_are_trained_and_read_here_on_one_base(lm, models, loads, tmp_path):
    backend, hf = made(lm, models), HFBackend(lm, AuditConfig(**TRAINING))
    backend.check_training()
    told = [each.train_reference(TEXTS, tmp_path / name, seed=7) for each, name in ((backend, "ours"), (hf, "theirs"))]
    assert told[0]["losses"] == told[1]["losses"] if "losses" in told[0] else told[0]["loss"] == told[1]["loss"]
    for each, name in ((backend, "ours"), (hf, "theirs")):
        each.load_reference(Role.REFERENCE, str(tmp_path / name))
        each.load_reference(Role.CANDIDATE_2, str(tmp_path / name))
    items = inputs(hf, TEXTS)
    for role in (Role.REFERENCE, Role.CANDIDATE_2):
        ours, theirs = (each.score(role, items, moments=False) for each in (backend, hf))
        assert all(np.array_equal(a.logprob, b.logprob) for a, b in zip(ours, theirs, strict=True))
        assert backend.identity(role) == hf.identity(role)
    assert loads == [str(models / "base")]
    assert not backend.is_same(Role.REFERENCE, Role.BASE)
    assert backend.is_same(Role.REFERENCE, Role.CANDIDATE_2)


@pytest.mark.parametrize(("moved", "same", "noted"), [(0.0, True, False), (0.05, False, True), (0.2, False, False)])
def test_one_model_by_two_engines(lm, models, moved, same, noted, tmp_path):
    """`elsewhere` runs the base: what compares the target with it scores nothing but round-off."""
    backend = made(lm, models, moved=moved)
    backend.hf.score = lambda role, *args, **options: HFBackend.score(backend.hf, Role.BASE, *args, **options)
    assert backend.is_same(Role.TARGET, Role.BASE) is same
    assert sum("hardly differ" in note for note in backend.notes) == noted
    assert backend.asked == [Role.TARGET]  # once


def test_what_an_engine_serves_is_asked_there(lm, models, loads):
    backend = made(lm, models, remote=(Role.TARGET, Role.BASE))
    backend.require([Role.BASE])
    backend.score(Role.BASE, inputs(backend, TEXTS), moments=False)
    assert backend.asked == [Role.BASE]
    assert backend.identity(Role.BASE) == {"elsewhere": "base"}
    assert loads == []
    with pytest.raises(SpvmiaError, match="elsewhere gives no token"):
        backend.gradient_norms(Role.BASE, [], [])
    backend.check_gradients(Role.BASE)
    drawn = backend.sample_replacements(Role.BASE, [backend.encode(TEXTS[0])], [[np.array([2])]], [0])
    assert len(drawn[0][0]) == 1
    assert loads == [str(models / "base")]
    with pytest.raises(SpvmiaError, match=r"mia_perturbation: .*'elsewhere'.*choose causal or mask_fill"):
        backend.sample_replacements(Role.TARGET, [], [], [])


def test_the_shorter_context_holds(lm, models):
    backend = made(lm, models, max_length=4000)
    assert backend.max_length == 4000
    backend.require([Role.BASE])
    assert backend.max_length == lm.max_length == 256
    assert any("256 tokens at a time: mia_base_model" in note for note in backend.notes)
    long = ScoreInput(tuple(backend.encode(" ".join(tiny_texts(12)))))
    (found,) = backend.score(Role.BASE, [long], moments=False)
    assert found.windows > 1
    with pytest.raises(SpvmiaError, match="mia_max_length: expected at most 256, which is what mia_base_model"):
        Elsewhere(lm, AuditConfig(max_length=300), str(models / "base"), max_length=4000).require([Role.BASE])
    with pytest.raises(SpvmiaError, match="mia_max_length: expected at most the model's own context of 256"):
        Elsewhere(lm, AuditConfig(max_length=300), str(models / "base"))


def test_a_base_that_nobody_names_or_that_is_another(lm, models, tmp_path):
    backend = Elsewhere(lm, AuditConfig())
    for asked in (lambda: backend.require([Role.BASE]), backend.check_training):
        with pytest.raises(SpvmiaError, match=r"mia_base_model: expected the model before fine-tuning.*got nothing"):
            asked()
    save_tiny(tmp_path / "other", ["quite another language"] * 9)
    with pytest.raises(SpvmiaError, match=r"mia_base_model: expected a model with the target's tokenizer"):
        Elsewhere(lm, AuditConfig(base_model=str(tmp_path / "other"))).require([Role.BASE])
    with pytest.raises(SpvmiaError, match=r"mia_base_model: .*cannot be loaded"):
        Elsewhere(lm, AuditConfig(base_model=str(tmp_path / "nothing"))).require([Role.BASE])


def test_features_are_told_by_role(lm, models):
    backend = made(lm, models)
    target, base = backend.features_of(Role.TARGET), backend.features_of(Role.BASE)
    # No engine has embeddings, or a way back; the base writes nothing.
    assert target == BackendFeatures(moments=False, embeddings=False)
    assert base == BackendFeatures(generate=False, gradients=True, kth=True)
    assert made(lm, models, remote=(Role.TARGET, Role.BASE)).features_of(Role.BASE) == target


class ByRole(FakeBackend):
    """A backend whose roles differ."""

    name = "mixed"

    def __init__(self, **by_role):
        super().__init__()
        self.by_role = by_role

    def features_of(self, role):
        lacks = self.by_role.get(role.value, ())
        return dataclasses.replace(BackendFeatures(gradients=True), **dict.fromkeys(lacks, False))


@pytest.mark.parametrize(
    ("lacks", "unable"),
    [
        ({}, []),
        ({"base": ["logprobs"]}, ["ez", "lira_base"]),
        ({"base": ["moments", "gradients"]}, []),
        ({"target": ["moments"]}, ["min_k_pp"]),
        ({"target": ["generate"]}, ["spv_ez"]),
        ({"target": ["train"], "base": ["train", "generate"]}, []),
        ({"reference": ["train"]}, ["spv_ez"]),
        ({"candidate": ["train"]}, ["lira_candidate"]),
        ({"target": ["gradients"]}, ["grad_norm"]),
        ({"target": ["embeddings"]}, ["neighbour"]),
    ],
)
def test_an_attack_is_refused_for_what_the_model_it_asks_lacks(lacks, unable):
    names = ("ez", "lira_base", "lira_candidate", "min_k_pp", "spv_ez", "grad_norm", "neighbour", "bag_of_words")
    attacks = {name: REGISTRY.attacks[name]() for name in names}
    players = cast(attacks.values(), AuditConfig(), make_data(2, candidate=2))
    check = (attacks, players, "embedding", ByRole(**lacks))
    if not unable:
        check_features(*check)
        return
    with pytest.raises(SpvmiaError) as error:
        check_features(*check)
    refused, can_run = str(error.value).split("these can run: ")
    assert refused == f"--model: 'mixed' lacks what these attacks need, so they can't run: {', '.join(unable)}; "
    assert can_run.partition(";")[0] == ", ".join(sorted(set(names) - set(unable)))


def test_the_base_that_stands_in_for_a_reference_is_asked():
    attacks = {"spv_ez": REGISTRY.attacks["spv_ez"]()}
    players = cast(attacks.values(), AuditConfig(reference="base"), make_data(2))
    check_features(attacks, players, "causal", ByRole(reference=["logprobs"]))
    with pytest.raises(SpvmiaError, match="can't run: spv_ez"):
        check_features(attacks, players, "causal", ByRole(base=["logprobs"]))
