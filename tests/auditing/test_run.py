"""The run: one pass for all attacks, nothing computed twice, everything unscored with a reason."""

from __future__ import annotations

import math

import pytest

from spvmia_plugin.attacks import SAMPLED
from spvmia_plugin.auditing.run import Job, Run
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.roc import auroc
from spvmia_plugin.plugins import load_registry
from spvmia_plugin.protocols import BackendFeatures
from spvmia_plugin.signals import Role
from spvmia_plugin.store.store import Store

from .fakes import FakeBackend, make_data

REGISTRY = load_registry(entry_points=False)
EVERY = [name for name in REGISTRY.attacks if name != "semantic"]  # which needs an embedding model
CANDIDATES = {"lira_candidate", "candidate_ez", "candidate_wbc", "both_wbc"}
OPTIONS = {"mia_perturbation": "embedding", "mia_perturbations": 2, "mia_self_prompts": 6, "mia_block_size": 40}


def run(tmp_path, names, *, data=None, backend=None, quiet=True, records=None, registry=REGISTRY, **options):
    data = data or make_data()
    config = AuditConfig.from_metadata({**OPTIONS, **options}, registry.attack_options)
    attacks = {f"{name}_mia_custom": registry.attack(name, config) for name in names}
    backend = backend or FakeBackend()
    audit = Job(data, config, attacks, records or data.records, data.records)
    with Store(tmp_path / "store") as store:
        return Run(audit, backend, registry, store, quiet=quiet).execute(), backend


def forward_tokens(outcome):
    return sum(cost.forward_tokens for cost in outcome.stages.values())


def test_every_attack_scores_every_record_or_says_why(tmp_path):
    data = make_data(candidate=3)
    outcome, _ = run(tmp_path, EVERY, data=data)
    assert set(outcome.results) == {f"{name}_mia_custom" for name in EVERY}
    for results in outcome.results.values():
        assert set(results) == {record.id for record in data.records}
        assert all((r.score is None) == (r.reason is not None) for r in results.values())
        assert all(r.score is None or math.isfinite(r.score) for r in results.values())


def test_each_model_and_text_is_computed_once_over_all_attacks(tmp_path):
    _, backend = run(tmp_path, EVERY, data=make_data(candidate=3))
    sequences = [(role, item) for role, item, _ in backend.scored]
    assert len(sequences) == len(set(sequences)), "a sequence was scored both with and without moments"
    assert set(backend.scored.values()) == {1}


def test_all_attacks_cost_little_more_than_spv_alone(tmp_path):
    """Counted tokens, N = 5 pairs, half as many held-out documents as records, ReCaLL's prefix left out."""
    data = make_data(100, prompts=100, tokens=64)
    names = [name for name in EVERY if name not in CANDIDATES | SAMPLED]
    alone, _ = run(tmp_path / "a", ["spv"], data=data, mia_perturbations=5)
    together, backend = run(tmp_path / "b", names, data=data, mia_perturbations=5)
    prefix = sum(len(item.context_ids) for _, item, _ in backend.scored)  # a backend reads it once, this one each time
    assert forward_tokens(together) - prefix < 1.35 * forward_tokens(alone)


def test_scores_do_not_depend_on_the_other_attacks(tmp_path):
    alone, _ = run(tmp_path / "a", ["spv"])
    together, _ = run(tmp_path / "b", EVERY)
    assert alone.results["spv_mia_custom"] == together.results["spv_mia_custom"]


def test_a_second_run_asks_the_model_nothing(tmp_path):
    names = [name for name in EVERY if name not in CANDIDATES | SAMPLED]
    first, _ = run(tmp_path, names)
    second, backend = run(tmp_path, names)
    assert not backend.scored
    assert not backend.trained
    assert first.results == second.results
    assert forward_tokens(second) == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [({}, "no document is held out for a candidate reference"), ({"mia_candidate": "none"}, "mia_candidate is none")],
)
def test_without_candidate_data_lira_candidate_is_unscored_and_the_run_goes_on(tmp_path, options, reason):
    outcome, backend = run(tmp_path, ["lira_candidate", "loss"], **options)
    assert {r.reason for r in outcome.results["lira_candidate_mia_custom"].values()} == {reason}
    assert all(r.score is not None for r in outcome.results["loss_mia_custom"].values())
    assert not backend.trained


def test_reference_base_uses_the_base_and_trains_nothing(tmp_path):
    outcome, backend = run(tmp_path, ["spv_ez", "ez"], mia_reference="base")
    assert outcome.results["spv_ez_mia_custom"] == outcome.results["ez_mia_custom"]
    assert not backend.trained
    assert Role.REFERENCE not in {role for role, _, _ in backend.scored}


def test_a_named_reference_is_loaded(tmp_path):
    _, backend = run(tmp_path, ["spv_ez"], mia_reference="/models/reference")
    assert backend.loaded[Role.REFERENCE] == "eference"
    assert not backend.trained


def test_the_reference_learns_from_the_targets_texts_only(tmp_path):
    data = make_data()
    _, backend = run(tmp_path, ["spv"], data=data)
    (texts,) = backend.trained
    assert len(texts) == OPTIONS["mia_self_prompts"]
    assert not {record.text for record in data.records} & set(texts)


@pytest.mark.parametrize(
    ("features", "unable", "able"),
    [
        (
            BackendFeatures(logprobs=False, moments=False, train=False, generate=False),
            ["loss", "spv"],
            ["bag_of_words"],
        ),
        (BackendFeatures(moments=False), ["min_k_pp"], ["loss", "spv"]),
        (BackendFeatures(train=False), ["spv", "spv_ez"], ["loss", "min_k_pp", "ez"]),
        (BackendFeatures(embeddings=False), ["neighbour"], ["loss"]),
    ],
)
def test_a_backend_that_cannot_says_which_attacks_cant_run(tmp_path, features, unable, able):
    backend = FakeBackend(features=features)
    with pytest.raises(SpvmiaError) as error:
        run(tmp_path, [*unable, *able], backend=backend)
    for name in unable:
        assert f"{name}_mia_custom" in str(error.value).split("these can run")[0]
    for name in able:
        assert f"{name}_mia_custom" in str(error.value).split("these can run")[1]
    assert not backend.scored


def test_long_records_are_left_out_of_recall_with_a_reason(tmp_path):
    outcome, _ = run(tmp_path, ["recall"], backend=FakeBackend(max_length=60))
    reasons = {r.reason for r in outcome.results["recall_mia_custom"].values()}
    assert reasons == {"no held-out document fits the context as a ReCaLL prefix"}


def test_population_and_prefix_do_not_depend_on_the_share_of_records(tmp_path):
    data = make_data()
    whole, _ = run(tmp_path / "a", ["rmia", "recall", "bag_of_words"], data=data)
    half, _ = run(tmp_path / "b", ["rmia", "recall", "bag_of_words"], data=data, records=data.records[::2])
    for key, results in half.results.items():
        assert all(whole.results[key][record_id] == result for record_id, result in results.items()), key


def test_the_plan_comes_first_and_names_what_shrinks_it(tmp_path, capsys):
    run(tmp_path, ["spv"], quiet=False)
    plan = capsys.readouterr().err
    for words in (
        "self-prompting the target",
        "training the reference",
        "scoring: target",
        "total",
        "mia_preset=quick",
    ):
        assert words in plan


def test_members_that_the_target_knows_come_out_on_top(tmp_path):
    data = make_data()
    backend = FakeBackend(boosted=[record.text for record in data.members])
    outcome, _ = run(tmp_path, ["spv", "lira_base", "loss"], data=data, backend=backend, mia_perturbation="causal")
    labels = [record.is_member for record in data.records]
    for results in outcome.results.values():
        assert auroc([results[record.id].score for record in data.records], labels) > 0.95
