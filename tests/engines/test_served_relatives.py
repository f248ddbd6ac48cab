"""What a server has beside the target: names that stand for nothing, adapters that it does not apply, other bases."""

from __future__ import annotations

import numpy as np
import pytest

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.engines import served_relatives as module
from spvmia_plugin.engines.served import Known
from spvmia_plugin.engines.server import ServerBackend
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.signals import Role
from tests.engines.servers import completions_lm
from tests.engines.test_adapters import ours
from tests.models.models import save_lora
from tests.tiny import tiny_llama, tiny_tokenizer


def backend_of(lm, models, base_served="base"):
    return ServerBackend(lm, AuditConfig(base_served=base_served), str(models / "base"))


@pytest.fixture(scope="module")
def reference(models):
    """An adapter that is neither the base nor the target."""
    save_lora(models, "another", target_modules=["v_proj", "o_proj", "down_proj"])
    return str(models / "another")


@pytest.mark.parametrize("answers", ["base", "target"])
def test_a_server_that_answers_for_any_name_has_no_served_base(serve, models, answers):
    """As gateways do that fall back, and servers that have one model and ignore its name."""
    _, lm = serve(falls_back=answers)
    with pytest.raises(SpvmiaError, match="mia_base_served: expected a server that knows its models by name, got one"):
        backend_of(lm, models).require([Role.BASE])
    one = completions_lm(lm.base_url, models / "base", model="whatever")
    assert backend_of(one, models, base_served=None).features_of(Role.TARGET).logprobs


@pytest.mark.parametrize("noise", [0.0, 0.002])
def test_an_adapter_that_is_not_applied_is_read_here(serve, models, reference, noise):
    server, lm = serve(applies_adapters=False, noise=noise)
    backend = backend_of(lm, models)
    backend.load_reference(Role.REFERENCE, reference)
    assert not backend.is_remote(Role.REFERENCE)
    assert ours(server) == set()
    (note,) = [note for note in backend.notes if note.startswith("reference: read in this process")]
    assert "the server answers for it as for the base (" in note
    assert not backend.is_same(Role.REFERENCE, Role.BASE)


@pytest.mark.parametrize("noise", [0.0, 2e-4])
def test_an_adapter_that_is_applied_is_served(serve, models, reference, noise):
    _, lm = serve(noise=noise)
    backend = backend_of(lm, models)
    backend.load_reference(Role.REFERENCE, reference)
    assert backend.is_remote(Role.REFERENCE)
    assert not [note for note in backend.notes if "answers for" in note]


def test_the_targets_own_adapter_is_told(serve, models):
    _, lm = serve()
    backend = backend_of(lm, models)
    backend.load_reference(Role.REFERENCE, str(models / "lora"))
    assert backend.is_remote(Role.REFERENCE)
    (note,) = [note for note in backend.notes if "answers for the reference as for the target" in note]
    assert "it is the target's own adapter, or is not applied" in note


def test_no_model_is_known_where_none_has_log_probabilities():
    assert module.applied({}, Role.REFERENCE) == (None, None)
    other = Known(np.zeros(3, np.float32), 1e-3, 0.0)
    assert module.applied({Role.BASE: other}, Role.REFERENCE) == (None, None)


def test_the_target_is_no_base(serve, models):
    server, lm = serve()
    with pytest.raises(SpvmiaError, match=r"mia_base_served: expected the name of the model before .*, got 'target'"):
        backend_of(lm, models, base_served="target")
    assert not server.served.requests


@pytest.fixture(scope="module")
def other_base():
    other = tiny_llama(tiny_tokenizer(), seed=5)
    for parameter in other.parameters():
        parameter.data *= 3  # random weights of the usual size make all tokens about as likely
    return other


def test_another_base_is_refused_before_any_work_where_nothing_is_trained(serve, models, other_base):
    _, lm = serve(more={"other": other_base})
    with pytest.raises(SpvmiaError, match="mia_base_served: expected the model that mia_base_model names, got 'other'"):
        backend_of(lm, models, base_served="other").require([Role.BASE])


def test_a_base_that_is_the_one_is_compared_and_let_go(serve, models):
    _, lm = serve()
    backend = backend_of(lm, models)
    backend.require([Role.BASE])
    assert [note for note in backend.notes if note.startswith("the served base and mia_base_model differ by ")]
    assert backend.models.loaded is None


def test_what_is_not_compared_is_told(serve, models, tmp_path, monkeypatch):
    def why(name):
        _, lm = serve()
        backend = ServerBackend(lm, AuditConfig(base_served="base"), name)
        backend.require([Role.BASE])
        begin = "the served base was not compared with the model before fine-tuning: "
        (note,) = [note.removeprefix(begin) for note in backend.notes if note.startswith(begin)]
        return note

    assert why(None) == "nobody names mia_base_model"
    assert why("nobody/has-this") == "the weights that mia_base_model names are not on this machine"
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    assert why(str(tmp_path)).startswith("mia_base_model: expected ")
    monkeypatch.setattr(module, "QUICKLY_READ", 10)
    assert why(str(models / "base")) == "mia_base_model has 0 GB of weights to read"


def test_a_difference_that_rounding_does_not_explain_is_told():
    assert module.told(0.05) == "the served base and mia_base_model differ by 0.05 nats a token"
    assert module.told(0.2).endswith("more than rounding in bfloat16 explains (about .05): they may be two models")
