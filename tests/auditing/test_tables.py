"""Attacks that score all records at once, through a run: parts, processes, reasons, and what plugins get wrong."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, replace

import numpy as np
import pytest

from spvmia_plugin.attacks.base import SCORED_TOGETHER, AuditAttack
from spvmia_plugin.attacks.learned import TOO_FEW
from spvmia_plugin.auditing import run as run_module
from spvmia_plugin.auditing.run import Job, Run
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.roc import auroc
from spvmia_plugin.signals import MissingSignal, Need, Role, Unscored
from spvmia_plugin.store.store import Store
from tests.auditing.fakes import FakeBackend, make_data
from tests.auditing.test_run import OPTIONS, REGISTRY, run

TASK = "learned_mia_custom"


@dataclass(frozen=True)
class Ranked(AuditAttack):
    """Each record's rank among all by its mean log-probability; the lowest is left out."""

    name = "ranked"

    @property
    def needs(self):
        return frozenset({Need(Role.TARGET)})

    @property
    def feature_names(self):
        return ("mean", "length")

    def features(self, signals):
        if signals.text.startswith("a"):
            raise MissingSignal("begins with an a")
        return np.array([signals.of(Role.TARGET).mean_logprob, len(signals.text)])

    def score_audit(self, table):
        ranks = np.argsort(np.argsort(table[:, 0]))
        return [Unscored("the lowest") if rank == 0 else float(rank) for rank in ranks]


def run_attack(tmp_path, attack, *, data=None, records=None, backend=None, **options):
    data = data or make_data()
    config = AuditConfig.from_metadata({**OPTIONS, **options}, REGISTRY.attack_options)
    audit = Job(data, config, {"task": attack}, data.records if records is None else records, data.records)
    with Store(tmp_path / "store") as store:
        return Run(audit, backend or FakeBackend(), REGISTRY, store, quiet=True).execute()


def test_records_are_scored_together_however_many_parts(tmp_path, monkeypatch):
    data = make_data(20)
    whole = run_attack(tmp_path / "one", Ranked(), data=data)
    monkeypatch.setattr(run_module, "RECORDS_AT_A_TIME", 7)
    parts = run_attack(tmp_path / "parts", Ranked(), data=data)
    assert dict(whole.results["task"]) == dict(parts.results["task"])
    results = whole.results["task"]
    with_a = {record.id for record in data.records if record.text.startswith("a")}
    assert {key for key, result in results.items() if result.reason == "begins with an a"} == with_a
    ranks = sorted(result.score for result in results.values() if result.score is not None)
    assert ranks == list(range(1, 40 - len(with_a)))
    assert [result.reason for result in results.values()].count("the lowest") == 1
    assert whole.results["task"].unscored_by_reason() == {"begins with an a": len(with_a), "the lowest": 1}
    assert all(result.n_tokens == 40 and result.target is not None for result in results.values())
    features = whole.features["task"]
    assert sorted(features.ids) == sorted(record.id for record in data.records if record.id not in with_a)
    assert features.names == ("mean", "length")
    assert (features.table.shape, features.table.dtype) == ((40 - len(with_a), 2), np.float32)
    assert features.table[:, 0] == pytest.approx([results[key].target for key in features.ids])
    assert whole.told == {"ranked": {}}


class Launched(FakeBackend):
    """One of several processes, as threads that wait for each other."""

    def __init__(self, meeting, shares, rank):
        super().__init__()
        self._meeting, self._shares, self._rank = meeting, shares, rank

    def gather(self, value):
        self._shares[self._rank] = value
        self._meeting.wait(60)
        return [self._shares[rank] for rank in sorted(self._shares)]


def in_processes(tmp_path, count, attack, data, shares):
    """The outcome of each of `count` processes that score these shares of the records."""
    meeting, told, found = threading.Barrier(count), {}, {}

    def work(rank):
        backend = Launched(meeting, told, rank)
        found[rank] = run_attack(tmp_path / str(rank), attack, data=data, records=shares[rank], backend=backend)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return [found[rank] for rank in range(count)]


@pytest.mark.parametrize("name", ["learned", "ranked"])
@pytest.mark.parametrize("count", [2, 3])
def test_every_number_of_processes_gives_the_same_bits(tmp_path, name, count):
    """Also where one of them has no record."""
    attack = Ranked() if name == "ranked" else REGISTRY.attacks[name]()
    data = make_data(20, candidate=3)
    alone = run_attack(tmp_path / "alone", attack, data=data)
    shares = [data.records[rank::2] if rank < 2 else () for rank in range(count)]
    outcomes = in_processes(tmp_path, count, attack, data, shares)
    together = {key: value for outcome in outcomes for key, value in outcome.results["task"].items()}
    assert together == dict(alone.results["task"])
    for outcome, share in zip(outcomes, shares, strict=True):
        assert set(outcome.results["task"]) == {record.id for record in share}
        assert outcome.features["task"].ids == alone.features["task"].ids
        assert np.array_equal(outcome.features["task"].table, alone.features["task"].table, equal_nan=True)
        assert outcome.told == alone.told


def test_a_backend_that_brings_nobody_together_gives_no_score_of_a_share(tmp_path):
    data = make_data(20)
    outcome = run_attack(tmp_path, Ranked(), data=data, records=data.records[::2])
    reasons = {result.reason for result in outcome.results["task"].values()}
    assert reasons - {"begins with an a"} == {"the backend 'fake' does not bring the records of all processes together"}


def test_learned_through_a_run(tmp_path):
    data = make_data(24, candidate=3)
    outcome, _ = run(tmp_path, ["learned", "loss"], data=data)
    assert all(result.score is not None for result in outcome.results[TASK].values())
    assert outcome.told["learned"]["variant"] == "both"
    assert outcome.told["learned"]["weights"] == "shipped"
    assert len(outcome.features[TASK].ids) == 48
    again, second = run(tmp_path, ["learned"], data=data)
    assert dict(again.results[TASK]) == dict(outcome.results[TASK])
    assert not second.scored  # features come from what the store has
    without, _ = run(tmp_path / "without", ["learned"], data=make_data(24))
    assert without.told["learned"]["variant"] == "reference"
    base, _ = run(tmp_path / "base", ["learned"], data=make_data(24), mia_reference="base")
    assert base.told["learned"]["variant"] == "base"
    few, _ = run(tmp_path / "few", ["learned"], data=make_data(9))
    assert {result.reason for result in few.results[TASK].values()} == {TOO_FEW}


def test_a_bad_shadow_is_refused_before_any_work(tmp_path):
    with pytest.raises(SpvmiaError, match=r"^mia_shadow: expected weights .* \(No such file"):
        run(tmp_path, ["learned"], mia_shadow=str(tmp_path))


class Wrong(Ranked):
    """Returns what it was made to return."""

    row: object = None
    answer: object = None

    def features(self, signals):
        return super().features(signals) if self.row is None else self.row

    def score_audit(self, table):
        return self.answer


@pytest.mark.parametrize(
    ("row", "answer", "told"),
    [
        ([1.0, 2.0], None, "ranked: expected an array of 2 numbers from features, got list"),
        (np.array(["a", "b"]), None, "ranked: expected an array of 2 numbers from features, got ndarray"),
        (np.zeros(3), None, r"ranked: expected an array of 2 numbers from features, got one of shape \(3,\)"),
        (None, None, "ranked: expected a list of 48 scores from score_audit, got NoneType"),
        (None, [1.0], "ranked: expected a list of 48 scores from score_audit, got 1"),
        (None, [1.0] * 47 + ["a"], "ranked: expected a number from score_audit, got str"),
    ],
)
def test_what_a_plugin_returns_is_checked(tmp_path, row, answer, told):
    attack = Wrong()
    object.__setattr__(attack, "row", row)
    object.__setattr__(attack, "answer", answer)
    data = make_data()
    data = type(data)(**{**vars(data), "records": tuple(r for r in make_data(40).records if r.text[0] != "a")[:48]})
    with pytest.raises(SpvmiaError, match=f"^{told}; correct the attack's plugin$"):
        run_attack(tmp_path, attack, data=data)


def test_scores_that_are_not_finite_are_none(tmp_path):
    attack = Wrong()
    data = make_data(3)
    count = sum(record.text[0] != "a" for record in data.records)
    object.__setattr__(attack, "answer", [float("nan")] + [1] * (count - 1))
    results = run_attack(tmp_path, attack, data=data).results["task"]
    assert [result.reason for result in results.values()].count("score is not finite") == 1
    object.__setattr__(attack, "row", np.array([np.inf, 0]))
    object.__setattr__(attack, "answer", [])
    results = run_attack(tmp_path, attack, data=data).results["task"]
    assert {result.reason for result in results.values()} == {"a feature is infinite"}


@pytest.mark.parametrize("log_text", [False, True])
def test_a_plugin_quotes_no_record(tmp_path, log_text):
    data = make_data(12)

    @dataclass(frozen=True)
    class Quoting(Ranked):
        def score_audit(self, table):
            return [Unscored(f"found {data.records[0].text}")] * len(table)

        def told(self, table):
            return {"said": data.records[0].text}

    outcome = run_attack(tmp_path, Quoting(), data=data, mia_log_text=log_text)
    told = {result.reason for result in outcome.results["task"].values()} | {outcome.told["ranked"]["said"]}
    assert any(data.records[0].text in each for each in told) == log_text


def test_the_contract_leaves_everything_to_the_attack():
    attack = AuditAttack()
    for call in (lambda: attack.feature_names, lambda: attack.features(None), lambda: attack.score_audit(np.zeros(0))):
        with pytest.raises(NotImplementedError):
            call()
    with pytest.raises(MissingSignal, match=SCORED_TOGETHER):
        attack.score_record(None)
    assert attack.told(np.zeros((0, 0))) == {}


@dataclass(frozen=True)
class Surprised(Ranked):
    """The mean as a score, and the p-values that it is made with."""

    said: object = None

    def features(self, signals):
        return np.array([signals.of(Role.TARGET).mean_logprob, 0.0])

    def score_audit(self, table):
        return table[:, 0].tolist()

    def p_values(self, table):
        return self.said


@pytest.mark.parametrize(
    ("said", "got"),
    [
        (np.full(6, 2.0), "2"),
        (np.array([0.5] * 5 + [-0.1]), "-0.1"),
        (np.full(5, 0.5), r"one of shape \(5,\)"),
        (np.full((6, 1), 0.5), r"one of shape \(6, 1\)"),
        ([0.5] * 6, "list"),
        (np.array(["a"] * 6), "ndarray"),
    ],
)
def test_p_values_that_are_none_are_told_and_cost_no_score(tmp_path, said, got):
    outcome = run_attack(tmp_path, Surprised(said=said), data=make_data(3))
    results = outcome.results["task"].values()
    assert all(result.score is not None and result.p_value is None for result in results)
    (note,) = outcome.notes
    assert re.fullmatch(
        rf"the attack 'ranked' has no p-values: expected an array of 6 numbers from 0 to 1 \(NaN for none\) from "
        rf"p_values, got {got}; correct the attack's plugin",
        note,
    )


def test_a_record_may_be_without_a_p_value(tmp_path):
    """And what rounding alone puts beyond 1 is 1."""
    said = np.array([np.nan, 0.0, 0.5, 1.0, 1 + 1e-12, np.nan], dtype=np.float64)
    outcome = run_attack(tmp_path, Surprised(said=said), data=make_data(3))
    found = [result.p_value for result in outcome.results["task"].values()]
    assert sorted(p for p in found if p is not None) == [0.0, 0.5, 1.0, 1.0]
    assert outcome.notes == []


def scored_by(tmp_path, score_audit, count=40):
    """The outcome of an attack that scores so, of records whose ids are in the order of their labels."""

    @dataclass(frozen=True)
    class Scoring(Surprised):
        def features(self, signals):
            return np.array([1.0, signals.of(Role.TARGET).mean_logprob])

        def score_audit(self, table):
            return score_audit(table)

    made = make_data(count)
    labels = [record.is_member for record in made.records]
    ordered = sorted(made.records, key=lambda record: record.id)
    ranked = sorted(labels, reverse=True)
    records = tuple(replace(record, is_member=label) for record, label in zip(ordered, ranked, strict=True))
    outcome = run_attack(tmp_path, Scoring(), data=replace(made, records=records))
    scores = [outcome.results["task"][record.id].score for record in records]
    return outcome, auroc(np.array([0.0 if score is None else score for score in scores]), np.array(ranked))


@pytest.mark.parametrize("descending", [False, True])
def test_the_order_of_the_rows_knows_no_label(tmp_path, descending):
    """Places by a sort whose values are all equal: they told members from others."""

    def places(table):
        ranks = np.argsort(np.argsort(-table[:, 0] if descending else table[:, 0], kind="stable"), kind="stable")
        return [float(rank) for rank in ranks]

    outcome, found = scored_by(tmp_path, places)
    assert 0.3 < found < 0.7
    (note,) = outcome.notes
    assert note.startswith("the attack 'ranked' gives other scores when the same records come in another order: ")


def test_an_order_that_changes_roundings_or_reasons_alike_is_not_told(tmp_path):
    def centred(table):
        scores = (table[:, 1] - table[:, 1].mean()).tolist()
        return [Unscored("low") if score == min(scores) else score for score in scores]

    assert scored_by(tmp_path, centred)[0].notes == []
    assert scored_by(tmp_path / "none", lambda table: [Unscored("no")] * len(table))[0].notes == []


def test_the_table_cannot_be_changed(tmp_path):
    with pytest.raises(ValueError, match="read-only"):
        scored_by(tmp_path, lambda table: table.sort(axis=0))


def test_our_own_attacks_get_the_rows_in_the_order_of_the_ids(tmp_path):
    outcome, _ = run(tmp_path, ["learned"], data=make_data(24))
    assert list(outcome.features[TASK].ids) == sorted(outcome.features[TASK].ids)


def test_an_attack_that_tells_no_mapping_keeps_its_scores(tmp_path):
    @dataclass(frozen=True)
    class Silent(Surprised):
        def told(self, table):
            return None

    outcome = run_attack(tmp_path, Silent(), data=make_data(3))
    assert all(result.score is not None for result in outcome.results["task"].values())
    assert outcome.told == {"ranked": {}}
    assert outcome.notes == [
        "the attack 'ranked' says nothing of how it scored: expected a mapping from told, got NoneType; correct the "
        "attack's plugin"
    ]
