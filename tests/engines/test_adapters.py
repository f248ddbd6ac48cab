"""References on a server: which adapters it gets, under whose names, and what happens when they are gone."""

from __future__ import annotations

import re
import shutil

import pytest

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.engines.server import ServerBackend
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.signals import Role
from tests.models.models import inputs, save_adapter, save_lora
from tests.tiny import tiny_texts

TEXTS = tiny_texts(6, words=(4, 40))


def backend_of(lm, models, **options):
    return ServerBackend(lm, AuditConfig(base_served="base", **options), str(models / "base"))


def ours(server):
    return set(server.served.models) - {"target", "base"}


def test_a_reference_is_loaded_before_anything_was_asked_of_the_base(serve, models):
    """As of an audit that names its reference and has no attack on the base."""
    server, lm = serve()
    backend = backend_of(lm, models)
    backend.load_reference(Role.REFERENCE, str(models / "lora"))
    assert backend.is_remote(Role.REFERENCE)
    assert backend.features_of(Role.REFERENCE).logprobs
    backend.score(Role.REFERENCE, inputs(backend, TEXTS[:2]), moments=False)
    backend.close()
    assert ours(server) == set()


def test_a_candidate_is_loaded_so_too(serve, models):
    _, lm = serve(prompt_logprobs="ignored")
    backend = backend_of(lm, models)
    backend.load_reference(Role.CANDIDATE, str(models / "lora"))
    assert backend.told["models"]["candidate"]["logprobs_by"] == "echo"


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed", "ignore:Adapter .* LoRA tensor")
@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("head", {"target_modules": ["q_proj", "lm_head"]}, "weights on lm_head, which vLLM leaves out"),
        ("by pattern", {"target_modules": r".*\.(q_proj|lm_head)|lm_head"}, "weights on lm_head, which vLLM"),
        ("embedded", {"target_modules": ["q_proj", "embed_tokens"]}, r"weights on model\.embed_tokens, which"),
        ("saved", {"modules_to_save": ["lm_head"]}, "weights on .*lm_head"),
        ("dora", {"use_dora": True}, "more than LoRA matrices"),
        ("pissa", {"init_lora_weights": "pissa"}, "more than LoRA matrices"),
        ("biased", {"bias": "lora_only"}, "more than LoRA matrices"),
        ("lora_bias", {"lora_bias": True}, "more than LoRA matrices"),
        ("activated", {"alora_invocation_tokens": [5, 6]}, "more than LoRA matrices"),
        ("tokens", {"trainable_token_indices": [5, 6]}, "which vLLM leaves out|more than LoRA matrices"),
        ("parameters", {"target_parameters": ["q_proj.weight"], "target_modules": []}, "more than LoRA matrices"),
        ("replicated", {"layer_replication": [[0, 2], [0, 2]]}, "more than LoRA matrices"),
        ("ranks", {"rank_pattern": {"q_proj": 8}}, "ranks or alphas differ from module to module"),
        ("ia3", None, "an adapter that is no LoRA"),
    ],
)
def test_an_adapter_that_vllm_would_misread_is_none_for_a_server(serve, models, tmp_path, name, options, why):
    (tmp_path / "base").symlink_to(models / "base")
    folder = save_adapter(tmp_path, models / "base", name) if options is None else save_lora(tmp_path, name, **options)
    server, lm = serve()
    backend = backend_of(lm, models)
    read_here = []
    backend.local.load_reference = lambda role, path: read_here.append(path)
    backend.load_reference(Role.REFERENCE, str(folder))
    assert not backend.is_remote(Role.REFERENCE)
    assert read_here == [str(folder)]
    (note,) = [note for note in backend.notes if note.startswith("reference: read in this process beside a copy")]
    assert re.search(rf"vLLM does not take this adapter \(.*({why})", note)
    assert ours(server) == set()


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"target_modules": r".*\.layers\.0\..*(q|v)_proj"}])
def test_what_vllm_reads_as_peft_does_is_served(serve, models, tmp_path, options):
    (tmp_path / "base").symlink_to(models / "base")
    _, lm = serve()
    backend = backend_of(lm, models)
    backend.load_reference(Role.REFERENCE, str(save_lora(tmp_path, "plain", **options)))
    assert backend.is_remote(Role.REFERENCE)


def test_two_audits_on_one_server_leave_each_other_their_adapters(serve, models):
    server, lm = serve()
    one, other = backend_of(lm, models), backend_of(lm, models)
    for backend in (one, other):
        backend.load_reference(Role.REFERENCE, str(models / "lora"))
    assert len(ours(server)) == 2
    # What is kept of them has one name: a second audit finds what the first has computed.
    assert one.identity(Role.REFERENCE) == other.identity(Role.REFERENCE)
    assert one.told["models"]["reference"]["model"] == other.told["models"]["reference"]["model"]
    one.close()
    assert len(ours(server)) == 1
    items = inputs(other, TEXTS[:3])
    assert all(other.score(Role.REFERENCE, items, moments=False))
    other.close()
    assert ours(server) == set()


def test_one_adapter_for_two_roles_is_loaded_once(serve, models):
    server, lm = serve()
    backend = backend_of(lm, models)
    backend.load_reference(Role.REFERENCE, str(models / "lora"))
    backend.load_reference(Role.CANDIDATE, str(models / "lora"))
    assert len(ours(server)) == 1


@pytest.mark.parametrize("when", ["before a record", "in the middle", "before a look"])
def test_an_adapter_that_the_server_has_lost_is_loaded_again(serve, models, when):
    """As after a restart."""
    server, lm = serve()
    backend = backend_of(lm, models)
    backend.load_reference(Role.REFERENCE, str(models / "lora"))
    items = inputs(backend, tiny_texts(12, words=(20, 40)))
    expected = backend.score(Role.REFERENCE, items, moments=False)
    (name,) = ours(server)
    complete, before = server.served.complete, len(server.served.requests)

    def lose(body):
        nth = {"before a record": 1, "in the middle": 6, "before a look": len(items) + 1}[when]
        if len(server.served.requests) - before == nth:
            server.served.models.pop(name)
        return complete(body)

    server.served.complete = lose
    found = backend.score(Role.REFERENCE, items, moments=False)
    for a, b in zip(found, expected, strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-6)
    assert [note for note in backend.notes if "was loaded again" in note]
    backend.close()
    assert ours(server) == set()


def test_a_server_that_does_not_load_it_again(serve, models):
    server, lm = serve()
    backend = backend_of(lm, models)
    backend.load_reference(Role.REFERENCE, str(models / "lora"))
    for name in ours(server):
        del server.served.models[name]
    server.faults.loads_adapters = False
    with pytest.raises(
        SpvmiaError, match=r"base_url: expected the server at .* to have the adapter .* got HTTP 404, and"
    ):
        backend.score(Role.REFERENCE, inputs(backend, TEXTS[:2]), moments=False)


def test_a_model_that_is_gone_and_was_none_of_ours(serve, models):
    server, lm = serve()
    backend = backend_of(lm, models)
    backend.identity(Role.TARGET)
    del server.served.models["target"]
    with pytest.raises(SpvmiaError, match=r"got HTTP 404.*correct base_url=... .* or model=..."):
        backend.score(Role.TARGET, inputs(backend, TEXTS[:2]), moments=False)


def test_a_base_that_is_served_wrongly_is_named_for_what_is_wrong_with_it(serve, models):
    """Not for what the target lacks."""
    server, lm = serve()
    backend = backend_of(lm, models)
    backend.identity(Role.TARGET)
    complete = server.served.complete

    def without(body):
        status, answer = complete(body)
        if body["model"] == "base" and status == 200:
            answer["choices"][0].pop("logprobs", None)
        return status, answer

    server.served.complete = without
    with pytest.raises(SpvmiaError, match="gives no log-probabilities, not even of what it writes"):
        backend.score(Role.BASE, inputs(backend, TEXTS[:1]), moments=False)


def test_a_folder_that_is_no_adapter(serve, models, tmp_path):
    shutil.copytree(models / "lora", tmp_path / "broken")
    (tmp_path / "broken" / "adapter_config.json").write_text("{")
    _, lm = serve()
    backend = backend_of(lm, models)
    backend.local.load_reference = lambda role, path: None
    for name in ("broken", "nothing"):
        backend.load_reference(Role.REFERENCE, str(tmp_path / name))
        assert not backend.is_remote(Role.REFERENCE)
    assert any("no adapter of peft's" in note for note in backend.notes)
    assert any("it is no folder with an adapter" in note for note in backend.notes)
