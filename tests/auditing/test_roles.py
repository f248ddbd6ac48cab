"""What attacks need is asked of the models that play the roles: no more, and each cost where it is spent."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest

from spvmia_plugin.attacks.base import Attack
from spvmia_plugin.auditing.roles import cast, given
from spvmia_plugin.auditing.run import Job, Run
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.protocols import Cost
from spvmia_plugin.signals import Need, Role, View
from spvmia_plugin.store.store import Store
from tests.auditing.fakes import FakeBackend, make_data
from tests.auditing.test_run import REGISTRY, run


@dataclass(frozen=True)
class FewShot(Attack):
    """A plugin's attack: its shots are no ReCaLL prefix's."""

    name = "few_shot"
    shots: int = 1
    view: View = View.TEXT

    @property
    def needs(self):
        return frozenset({Need(Role.TARGET, self.view, shots=self.shots)})

    def score_record(self, signals):
        return float(signals.of(Role.TARGET, self.view).logprob.sum())


def outcome_of(tmp_path, *attacks, data=None):
    data = data or make_data(4)
    audit = Job(data, AuditConfig(), {each.name: each for each in attacks}, data.records, data.records)
    with Store(tmp_path) as store:
        return Run(audit, FakeBackend(), REGISTRY, store, quiet=True).execute()


@pytest.mark.parametrize(("view", "shots"), [(View.TEXT, 2), (View.PREFIXED, 5)])
def test_an_attack_changes_the_recall_prefix_only_if_it_asks_for_one(tmp_path, view, shots):
    recall = REGISTRY.attacks["recall"](shots=2)
    alone = outcome_of(tmp_path / "alone", recall)
    together = outcome_of(tmp_path / "together", recall, FewShot(shots=5, view=view))
    assert alone.details["recall"]["shots"] == 2
    assert together.details["recall"]["shots"] == shots
    assert (together.results["recall"] == alone.results["recall"]) is (shots == 2)
    assert all(result.score is not None for result in together.results["few_shot"].values())


def test_a_plugin_that_asks_for_a_prefix_gets_one(tmp_path):
    @dataclass(frozen=True)
    class Prefixed(FewShot):
        @property
        def needs(self):
            return frozenset({Need(Role.TARGET, View.PREFIXED)})

    assert outcome_of(tmp_path, Prefixed()).details["recall"]["shots"] == 7


class Listening(FakeBackend):
    def __init__(self):
        super().__init__()
        self.encoded = []

    def encode(self, text):
        self.encoded.append(text)
        return super().encode(text)


@pytest.mark.parametrize("quiet", [True, False])
def test_only_the_views_that_are_asked_for_are_tokenised_and_each_once(tmp_path, quiet):
    data = make_data(4)
    _, backend = run(tmp_path, ["loss"], data=data, backend=Listening(), quiet=quiet)
    assert sorted(backend.encoded) == sorted(record.text for record in data.records)
    _, backend = run(tmp_path / "more", ["loss", "lowercase"], data=data, backend=Listening(), quiet=quiet)
    lowered = [record.text.lower() for record in data.records]
    assert sorted(backend.encoded) == sorted([*(record.text for record in data.records), *lowered])


class Charging(FakeBackend):
    """Says what training took, of the reference: a backend is not told whose model it trains."""

    def train_reference(self, texts, output_dir, *, seed=None):
        self._cost.setdefault(Role.REFERENCE, Cost()).training_tokens += sum(map(len, texts))
        return super().train_reference(texts, output_dir, seed=seed)


def test_each_training_is_charged_to_its_own_stage(tmp_path):
    data = make_data(4, candidate=3, tokens=24)
    outcome, backend = run(tmp_path, ["spv_ez", "lira_candidate"], data=data, backend=Charging(), mia_block_size=24)
    prompted, candidate = backend.trained
    assert candidate == [document.text for document in data.candidate]
    assert outcome.stages["candidate reference"].training_tokens == 3 * 24
    assert outcome.stages["reference"].training_tokens == sum(map(len, prompted)) > 0
    others = {name: cost for name, cost in outcome.stages.items() if not name.endswith("reference")}
    assert all(cost.training_tokens == 0 for cost in others.values())


@pytest.mark.parametrize(
    ("name", "options", "way", "expected"),
    [
        ("loss", {}, None, ()),
        ("bag_of_words", {}, None, ("labels",)),
        ("icp", {}, None, ()),
        ("grad_norm", {}, None, ("weights",)),
        ("ngram", {}, None, ("sampling",)),
        ("semantic", {}, None, ("sampling", "embedding")),
        ("surrogate", {}, "prefix", ("base", "prompts")),
        ("surrogate", {}, "whole", ("base",)),
        ("lira_base", {}, None, ("base",)),
        ("rmia", {}, None, ("base", "held_out")),
        ("recall", {}, None, ("held_out",)),
        ("spv", {}, "prefix", ("base", "paraphraser", "prompts")),
        ("spv", {"perturbation": "causal"}, "reply", ("base", "prompts")),
        ("spv", {"perturbation": "embedding"}, "whole", ("base", "weights")),
        ("neighbour", {"perturbation": "causal"}, None, ("base",)),
        ("detectgpt", {"perturbation": "embedding"}, None, ("weights",)),
        ("neighbour", {}, None, ("paraphraser",)),
        ("spv_ez", {"reference": "base"}, None, ("base",)),
        ("spv_ez", {"reference": "/theirs"}, None, ("reference",)),
        ("lira_candidate", {}, None, ("base", "held_out")),
        ("both_wbc", {"reference": "/theirs"}, None, ("base", "reference", "held_out")),
        ("learned", {}, "prefix", ("base", "prompts", "held_out", "fitted")),
    ],
)
def test_what_an_attacker_is_given(name, options, way, expected):
    assert given(REGISTRY.attacks[name](), AuditConfig(**options), way) == expected


def test_without_a_candidate_nobody_was_given_held_out_records():
    found = given(REGISTRY.attacks["learned"](), AuditConfig(), "prefix", candidate=False)
    assert found == ("base", "prompts", "fitted")


def test_the_held_out_documents_are_the_candidates_own_where_no_other_data_are_named(tmp_path):
    data = make_data(4, candidate=3, tokens=24)
    held_out = dataclasses.replace(data, candidate=(), held_out=data.prompts[:2])
    for used, expected in ((data, data.candidate), (held_out, data.prompts[:2])):
        outcome, backend = run(tmp_path, ["lira_candidate"], data=used, mia_block_size=24)
        assert backend.trained == [[document.text for document in expected]]
        assert outcome.details["candidate"]["documents"] == len(expected)


@pytest.mark.parametrize(
    ("options", "candidate", "models", "trained"),
    [
        ({}, 1, [Role.BASE, Role.CANDIDATE, Role.REFERENCE, Role.TARGET], {Role.CANDIDATE, Role.REFERENCE}),
        ({"reference": "base"}, 0, [Role.BASE, None, Role.BASE, Role.TARGET], set()),
        ({"reference": "/theirs"}, 0, [Role.BASE, None, Role.REFERENCE, Role.TARGET], set()),
    ],
)
def test_who_plays_which_role(options, candidate, models, trained):
    attacks = [REGISTRY.attacks[name]() for name in ("lira_base", "lira_candidate", "spv", "min_k_pp")]
    players = cast(attacks, AuditConfig(**options), make_data(1, candidate=candidate))
    assert [player.model for player in players.values()] == models  # base, candidate, reference, target
    assert {role for role, player in players.items() if player.trained} == trained
    assert players[Role.TARGET].views == {View.TEXT: True, View.NEIGHBOURS: False}
    assert list(players[Role.TARGET].views) == [View.TEXT, View.NEIGHBOURS]
