"""A model behind a completions server gives what it gives in this process; and what is kept is of one model."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.engines.server import ServerBackend
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.hf_backend import HFBackend
from spvmia_plugin.protocols import Backend, EmbeddingNoise, ScoreInput
from spvmia_plugin.signals import Role
from tests.models.models import harness_lm, inputs
from tests.tiny import tiny_llama, tiny_texts, tiny_tokenizer

TEXTS = [*tiny_texts(6, words=(4, 40)), "a", ""]


@pytest.fixture(scope="module")
def hf(models):
    return HFBackend(harness_lm(models, "lora"), AuditConfig())


def backend_of(lm, models, **options):
    backend = ServerBackend(lm, AuditConfig(**options), str(models / "base"))
    assert isinstance(backend, Backend)
    return backend


WAYS = [
    ({}, "prompt_logprobs"),
    ({"prompt_logprobs": "some"}, "prompt_logprobs"),
    ({"prompt_logprobs": "ignored"}, "echo"),
    ({"prompt_logprobs": "refused"}, "echo"),
    ({"prompt_logprobs": "refused", "names_ids": "refused"}, "echo"),
    ({"prompt_logprobs": "ignored", "names_ids": "tokens"}, "echo"),
    ({"prompt_logprobs": "ignored", "names_ids": "no", "says_context": False}, "echo"),
]


@pytest.mark.parametrize(("faults", "way"), WAYS)
def test_the_log_probabilities_are_those_of_the_model(serve, models, hf, faults, way):
    server, lm = serve(**faults)
    backend = backend_of(lm, models)
    assert ServerBackend.accepts(lm)
    features = backend.features_of(Role.TARGET)
    assert features.logprobs
    assert features.moments is (faults == {})
    assert backend.told["models"]["target"]["logprobs_by"] == way
    items = [*inputs(backend, TEXTS), ScoreInput(tuple(backend.encode(TEXTS[1])), tuple(backend.encode(TEXTS[0])))]
    for moments in {False, features.moments}:
        ours = backend.score(Role.TARGET, items, moments=moments)
        for a, b in zip(ours, hf.score(Role.TARGET, items, moments=moments), strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=1e-5)
            assert np.array_equal(a.top1, b.top1)
            assert (a.mean is None) is (not moments)
            if moments:
                assert a.mean == pytest.approx(b.mean, abs=1e-4)
                assert a.std == pytest.approx(b.std, abs=1e-4)
    assert backend.cost(Role.TARGET).forward_tokens > sum(len(item.token_ids) for item in items)
    assert 1 < server.served.most_under_way <= 4
    backend.close()


def test_long_sequences_are_read_in_the_windows_of_an_audit_in_one_process(serve, models):
    server, lm = serve(context=100)
    backend = backend_of(lm, models)
    assert backend.features_of(Role.TARGET).logprobs
    assert backend.max_length == 98  # one token is written, and the last one read is not an input elsewhere
    assert any("98 tokens at a time: the server" in note for note in backend.notes)
    hf = HFBackend(harness_lm(models, "lora"), AuditConfig(max_length=98))
    long = ScoreInput(tuple(backend.encode(" ".join(tiny_texts(6)))))
    (ours,), (theirs,) = (each.score(Role.TARGET, [long], moments=True) for each in (backend, hf))
    assert ours.windows == theirs.windows > 2
    for name in ("logprob", "mean", "std"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), abs=1e-4)
    assert max(map(len, server.served.scored)) == 99
    with pytest.raises(SpvmiaError, match="ReCaLL prefix: expected prefix and text to fit the context of 98"):
        backend.score(Role.TARGET, [ScoreInput(long.token_ids[:90], long.token_ids[:30])], moments=False)
    with pytest.raises(SpvmiaError, match="mia_max_length: expected at most 98, which is what the server can read"):
        backend_of(lm, models, max_length=200).features_of(Role.TARGET)


def test_a_sequence_of_embeddings_is_refused(serve, models):
    backend = backend_of(serve()[1], models)
    with pytest.raises(SpvmiaError, match="mia_perturbation: expected a kind that a server can score"):
        backend.score(Role.TARGET, [ScoreInput((5, 6, 7), (), EmbeddingNoise(1, 1, 0.1))], moments=False)
    assert not backend.features_of(Role.TARGET).embeddings


@pytest.mark.parametrize("names_ids", ["yes", "no"])
def test_it_writes_what_the_model_writes(serve, models, names_ids):
    """The likeliest tokens. Of a server that names no ids, its text is cut into tokens, which may be others."""
    _, lm = serve(names_ids=names_ids)
    options = {"top_k": 1}
    backend, hf = backend_of(lm, models, **options), HFBackend(harness_lm(models, "lora"), AuditConfig(**options))
    prompts = [backend.encode(text)[:9] for text in TEXTS[:5]]
    lengths = [20, 30, 9, 12, 25]
    done = {}
    ours = backend.generate(prompts, lengths, range(5), on_done=done.update, done={3})
    theirs = hf.generate(prompts, lengths, range(5))
    assert ours[3] is None
    assert done == {i: ids for i, ids in enumerate(ours) if ids is not None}
    assert ours[2] == prompts[2]
    for i in (0, 1, 4):
        assert ours[i][:9] == prompts[i]
        assert len(theirs[i]) == lengths[i]
        new = theirs[i][9:]
        cut = new if names_ids == "yes" else backend.encode(backend.decode(new))
        assert ours[i][9:] == cut[: lengths[i] - 9]
    assert backend.cost(Role.TARGET).generated_tokens == sum(len(ours[i]) - 9 for i in (0, 1, 4))


def test_what_it_writes_depends_on_its_seed_alone(serve, models):
    _, lm = serve()
    backend = backend_of(lm, models, temperature=1.0, top_k=50)
    prompts = [backend.encode(text)[:9] for text in TEXTS[:4]]
    first = backend.generate(prompts, [40] * 4, [1, 2, 3, 4])
    assert first[::-1] == backend.generate(prompts[::-1], [40] * 4, [4, 3, 2, 1])
    other = backend.generate(prompts, [40] * 4, [5, 6, 7, 8])
    assert all(a != b for a, b in zip(first, other, strict=True))
    # Any token may end a text.
    ends = {ids[12] for ids in first if len(ids) > 12}
    cut = backend.generate(prompts, [40] * 4, [1, 2, 3, 4], ends=ends)
    assert all(len(ids) <= 12 and not ends & set(ids[9:]) for ids in cut)
    assert [ids == whole[: len(ids)] for ids, whole in zip(cut, first, strict=True)] == [True] * 4


class Memory:
    """What `Backend.remember_base` is given, over runs."""

    def __init__(self):
        self.kept = {}

    def of(self, backend):
        def keep(what, answers):
            self.kept[repr(what)] = answers

        backend.remember_base(lambda what: self.kept.get(repr(what)), keep)
        return backend


def test_weights_are_known_by_what_they_answer(serve, models, served):
    memory = Memory()
    found = []
    for faults in ({}, {"prompt_logprobs": "ignored"}, {"swap_after": 0, "swap_to": "base"}, {}):
        backend = memory.of(backend_of(serve(**faults)[1], models))
        found.append((backend.identity(Role.TARGET), [note for note in backend.notes if "other weights" in note]))
    identities = [identity for identity, _ in found]
    assert identities[0] == identities[1] == identities[3] != identities[2]
    assert [bool(notes) for _, notes in found] == [False, False, True, False]
    assert found[2][1] == ["'target' has other weights than in 1 earlier audits: all is scored anew"]
    # Two names are two models, though one's weights answer behind both.
    _, lm = serve(lm={"model": "base"})
    assert memory.of(backend_of(lm, models)).identity(Role.TARGET)["function"] == identities[2]["function"]
    assert memory.of(backend_of(lm, models)).identity(Role.TARGET) != identities[2]


def test_a_server_that_answers_otherwise_each_time_is_given_so_much(serve, models):
    memory = Memory()
    names = []
    for _ in range(2):
        backend = memory.of(backend_of(serve(noise=0.002)[1], models))
        names.append(backend.identity(Role.TARGET)["function"])
        backend.score(Role.TARGET, inputs(backend, TEXTS), moments=False)
        weights = backend.told["models"]["target"]["weights"]
        assert 0.002 < weights["spread"] < 0.02
        assert weights["tolerance"] == 5 * weights["spread"]
    assert names[0] == names[1]


@pytest.mark.parametrize("part", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_weights_that_change_in_the_middle_are_noticed_and_nothing_of_theirs_is_kept(serve, models, hf, part):
    server, lm = serve(lm={"num_concurrent": 1})
    backend = backend_of(lm, models)
    items = inputs(backend, tiny_texts(70, words=(60, 70)))
    sizes = []
    backend.score(Role.TARGET, items, moments=False, on_done=lambda batch: sizes.append(len(batch)))
    assert len(sizes) > 2
    looks = 2  # requests of a look at the weights, after each part
    server.faults.swap_after = len(server.served.requests) + sum(sizes[:part]) + looks * part + 3
    server.faults.swap_to = "base"
    kept = {}
    with pytest.raises(SpvmiaError) as error:
        backend.score(Role.TARGET, items, moments=False, on_done=kept.update)
    assert "to have the same weights from start to end" in str(error.value)
    assert "was not kept" in str(error.value)
    assert len(kept) == sum(sizes[:part])
    for i, right in enumerate(hf.score(Role.TARGET, items, moments=False)):
        if i in kept:
            assert kept[i].logprob == pytest.approx(right.logprob, abs=1e-5)


def test_a_change_while_texts_are_written_is_noticed_too(serve, models):
    server, lm = serve(lm={"num_concurrent": 1})
    backend = backend_of(lm, models)
    backend.identity(Role.TARGET)
    server.faults.swap_after, server.faults.swap_to = len(server.served.requests) + 3, "base"
    kept = {}
    with pytest.raises(SpvmiaError, match="to have the same weights from start to end"):
        backend.generate([[5, 6, 7]] * 6, [20] * 6, range(6), on_done=kept.update)
    assert kept == {}


def test_a_served_base_and_served_references(serve, models, hf, tmp_path):
    server, lm = serve()
    settings = {"base_served": "base", "reference_epochs": 1, "lora_rank": 4, "reference_lr": 1e-2}
    backend = backend_of(lm, models, **settings)
    backend.require([Role.BASE])
    items = inputs(backend, TEXTS)
    for a, b in zip(*(each.score(Role.BASE, items, moments=False) for each in (backend, hf)), strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-5)
    assert backend.models.loaded is None  # no base in this process
    assert not backend.is_same(Role.TARGET, Role.BASE)
    backend.check_training()
    backend.train_reference(TEXTS[:5], tmp_path / "reference", seed=3)
    assert backend.models.loaded == "float32"
    backend.load_reference(Role.REFERENCE, str(tmp_path / "reference"))
    assert backend.models.loaded is None
    assert backend.is_remote(Role.REFERENCE)
    (name,) = set(server.served.models) - {"target", "base"}
    assert name.startswith("spvmia-")
    hf.load_reference(Role.REFERENCE, str(tmp_path / "reference"))
    for a, b in zip(*(each.score(Role.REFERENCE, items, moments=True) for each in (backend, hf)), strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-5)
    assert not backend.is_same(Role.REFERENCE, Role.BASE)
    assert backend.told["not_served"] == ["candidate"]
    assert name.startswith(backend.identity(Role.REFERENCE)["served"])
    backend.close()
    assert set(server.served.models) == {"target", "base"}


def test_where_a_server_loads_no_adapters_references_are_read_here(serve, models):
    server, lm = serve(loads_adapters=False)
    backend = backend_of(lm, models, base_served="base")
    backend.load_reference(Role.REFERENCE, str(models / "lora"))
    assert not backend.is_remote(Role.REFERENCE)
    why = r"the server loads no adapter at run time \(HTTP 404\)"
    assert any(re.search(f"^reference: read in this process.*{why}", note) for note in backend.notes)
    assert set(server.served.models) == {"target", "base"}


def test_without_a_served_base_references_are_read_beside_the_base_here(serve, models):
    server, lm = serve()
    backend = backend_of(lm, models)
    backend.load_reference(Role.REFERENCE, str(models / "lora"))
    backend.score(Role.REFERENCE, inputs(backend, TEXTS[:2]), moments=False)
    assert server.served.requests == []
    assert backend.told["not_served"] == ["base", "reference", "candidate"]


def test_a_served_base_that_is_another_than_the_one_references_are_trained_on(serve, models):
    other = tiny_llama(tiny_tokenizer(), seed=5)
    for parameter in other.parameters():
        parameter.data *= 3  # random weights of the usual size make all tokens about as likely
    _, lm = serve(more={"other": other})
    backend = backend_of(lm, models, base_served="other")
    with pytest.raises(SpvmiaError, match="mia_base_served: expected the model that mia_base_model names, got 'other'"):
        backend.check_training()
    backend = ServerBackend(lm, AuditConfig(base_served="base"))  # nobody names what references are trained on
    backend.require([Role.BASE])
    with pytest.raises(SpvmiaError, match="mia_base_model: expected the model before fine-tuning"):
        backend.check_training()


def test_what_is_told_of_it(serve, models):
    _, lm = serve()
    backend = backend_of(lm, models)
    assert backend.told["models"] == {}
    backend.identity(Role.TARGET)
    told = backend.told["models"]["target"]
    assert told["self_check"]["largest_difference"] < 1e-4
    assert told["weights"] == {"spread": pytest.approx(0, abs=1e-6), "tolerance": 1e-3}
    assert any("by the server's prompt_logprobs" in note for note in backend.notes)
    assert dataclasses.asdict(backend.checked("target"))["fault"] is None
