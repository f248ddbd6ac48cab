"""Several references (`mia_references`): each its own, for attacks their mean, and the first as if it were alone."""

from __future__ import annotations

import numpy as np
import pytest

from spvmia_plugin.attacks.calibrated import LiraBase
from spvmia_plugin.auditing.calibrate import Calibration
from spvmia_plugin.auditing.masks import other_than
from spvmia_plugin.auditing.roles import cast
from spvmia_plugin.auditing.sequences import counted
from spvmia_plugin.auditing.several import Several
from spvmia_plugin.auditing.stability import Stability
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import Document, Rendered
from spvmia_plugin.signals import RecordSignals, Role, View
from spvmia_plugin.store.store import Store
from tests.attacks.test_over_references import signals
from tests.auditing.fakes import FakeBackend, make_data
from tests.auditing.test_plan import planned
from tests.auditing.test_run import OPTIONS, REGISTRY, run

TARGET, REFERENCE, CANDIDATE = Role.TARGET, Role.REFERENCE, Role.CANDIDATE
THREE = (REFERENCE, Role.REFERENCE_2, Role.REFERENCE_3)
DATA = make_data(6, prompts=4, candidate=2)


def signals_under(backend, role, text):
    return next(
        backend._signals(role, item, False)
        for scored, item, _ in backend.scored
        if scored is role and backend.decode(item.token_ids) == text
    )


def test_attacks_see_the_mean_token_by_token(tmp_path):
    outcome, backend = run(tmp_path, ["spv_ez", "lira_candidate"], data=DATA, mia_references=3)
    for name, kind in (("spv_ez", REFERENCE), ("lira_candidate", CANDIDATE)):
        for record in DATA.records:
            several = [signals_under(backend, role, record.text).logprob for role in kind.siblings(3)]
            means = [
                float(np.float32(np.float64(sum(map(float, of_token))) / 3)) for of_token in zip(*several, strict=True)
            ]
            found = outcome.results[f"{name}_mia_custom"][record.id]
            assert found.reference == pytest.approx(sum(means) / len(means), rel=1e-6)
    target = signals_under(backend, TARGET, DATA.records[0].text)
    d = [t - m for t, m in zip(target.logprob.astype(float), reference_mean(backend), strict=True)]
    wrong = [x for x, top in zip(d, target.top1, strict=True) if not top]
    up, down = sum(max(x, 0) for x in wrong), sum(max(-x, 0) for x in wrong)
    assert outcome.results["spv_ez_mia_custom"][DATA.records[0].id].score == pytest.approx(up / (up + down), rel=1e-5)


def reference_mean(backend):
    several = [signals_under(backend, role, DATA.records[0].text).logprob for role in THREE]
    return np.mean(several, axis=0, dtype=np.float64).astype(np.float32)


def test_each_reference_has_a_seed_texts_and_a_draw_of_its_own(tmp_path):
    outcome, backend = run(tmp_path, ["spv_ez", "lira_candidate"], data=DATA, mia_references=3)
    assert len(backend.trained) == 6
    assert len(set(backend.seeds)) == 3, "the nth reference and the nth candidate share a seed"
    assert backend.seeds[0] == backend.seeds[3] == 0
    prompted = [tuple(texts) for texts in backend.trained[:3]]
    assert len(set(prompted)) == 3
    assert {tuple(sorted(texts)) for texts in backend.trained[3:]} == {tuple(sorted(d.text for d in DATA.candidate))}
    assert set(outcome.models) == {"target", *(role.value for role in (*THREE, *CANDIDATE.siblings(3)))}
    loaded = [outcome.models[role.value]["loaded"] for role in (*THREE, *CANDIDATE.siblings(3))]
    assert len(set(loaded)) == 6, "identities differ, and so the store's keys of their signals"
    assert [outcome.details[role.value]["trained"] for role in THREE] == [True] * 3
    assert {"reference", "reference 2", "reference 3", "candidate reference 3", "scoring: reference_3"} <= set(
        outcome.stages
    )


class Writing(FakeBackend):
    """Writes by the seeds that it is given."""

    def generate(self, prompts, lengths, seeds, *, on_done=None, done=()):
        texts = [
            None if i in done else [*p, *np.random.default_rng(seed).integers(97, 120, n - len(p)).tolist()]
            for i, (p, n, seed) in enumerate(zip(prompts, lengths, seeds, strict=True))
        ]
        if on_done:
            on_done({i: text for i, text in enumerate(texts) if text is not None})
        return texts


def test_the_first_of_several_is_the_only_one_of_one(tmp_path):
    """One store: the run with three trains two more, and its first is found."""
    names = ["spv_wbc", "candidate_wbc"]
    one, first = run(tmp_path, names, data=DATA, backend=Writing())
    three, further = run(tmp_path, names, data=DATA, backend=Writing(), mia_references=3)
    assert (len(first.trained), len(further.trained)) == (2, 4)
    assert three.models["reference"] == one.models["reference"]
    assert three.models["candidate"] == one.models["candidate"]
    assert not any(role in (TARGET, REFERENCE, CANDIDATE) for role, _, _ in further.scored), "scored before"
    again, none = run(tmp_path, names, data=DATA, backend=Writing())
    assert again.results == one.results
    assert not none.trained
    assert not none.scored


@pytest.mark.parametrize("references", [1, 3])
def test_keys_of_the_first_do_not_know_of_the_others(tmp_path, references):
    config = AuditConfig(**{key.removeprefix("mia_"): value for key, value in OPTIONS.items()})
    with Store(tmp_path) as store:

        def keys(count, nth):
            made = Calibration(
                DATA, AuditConfig(**{**vars(config), "references": count}), FakeBackend(), REGISTRY, store
            )
            return made.corpus_key(nth), made.reference_key(["a", "b"], nth)

        assert keys(references, 1) == keys(1, 1)
        assert len({key for nth in range(1, 9) for key in keys(8, nth)}) == 16


def test_candidates_draw_from_more_held_out_documents(tmp_path):
    documents = tuple(Document(f"h:{i}", f"held out {i:02d} " + "x" * 20) for i in range(18))
    data = make_data(6, prompts=4)
    data = type(data)(**{**vars(data), "held_out": documents})
    _, backend = run(tmp_path, ["lira_candidate"], data=data, mia_references=3)  # six self-prompts, so six documents
    one, *others = backend.trained
    assert one == [each.text for each in documents[:6]]
    assert all(len(set(texts)) == 6 and set(texts) != set(one) for texts in others)
    assert set(others[0]) != set(others[1])


class Killed(Exception):
    pass


def test_a_run_that_is_killed_in_the_second_of_three_goes_on_there(tmp_path):
    class Dying(Writing):
        def train_reference(self, texts, output_dir, *, seed=None):
            if len(self.trained) == 1:
                raise Killed
            return super().train_reference(texts, output_dir, seed=seed)

    options = {"data": DATA, "mia_references": 3}
    whole, _ = run(tmp_path / "whole", ["spv_wbc"], backend=Writing(), **options)
    with pytest.raises(Killed):
        run(tmp_path / "killed", ["spv_wbc"], backend=Dying(), **options)
    resumed, backend = run(tmp_path / "killed", ["spv_wbc"], backend=Writing(), **options)
    assert len(backend.trained) == 2
    assert resumed.results == whole.results
    assert [resumed.details[role.value]["trained"] for role in THREE] == [False, True, True]


def test_the_plan_has_a_line_for_each(tmp_path, capsys):
    run(tmp_path, ["spv_ez", "lira_candidate"], data=DATA, quiet=False, mia_references=2)
    stages = planned(capsys.readouterr().err)
    assert (
        stages["self-prompting the target"][:3] == stages["self-prompting the target (2)"][:3] == (6, 0, 6 * (40 - 16))
    )
    assert stages["training the reference"] == stages["training the reference 2"]
    assert stages["training the candidate reference 2"][0] == 2
    assert stages["scoring: candidate_2"][0] == len(DATA.records)
    run(tmp_path, ["spv_ez", "lira_candidate"], data=DATA, quiet=False, mia_references=2)
    stages = planned(capsys.readouterr().err)
    assert all(stage.kept == stage.count and not stage.tokens for stage in stages.values())


def test_a_record_that_one_of_them_cannot_read_has_no_mean(tmp_path):
    class Lacking(FakeBackend):
        def unknown_ids(self, role):
            return frozenset({ord("C")}) if role is Role.REFERENCE_2 else frozenset()

    names = ["spv_wbc", "lira_offline", "info_rmia"]
    data = make_data(6, prompts=40, candidate=2, tokens=24)
    outcome, _ = run(tmp_path, names, data=data, backend=Lacking(), mia_references=2, mia_block_size=24)
    unread = {record.id for record in data.records if "C" in record.text}
    assert 0 < len(unread) < len(data.records)
    for name in ("spv_wbc", "info_rmia"):
        found = outcome.results[f"{name}_mia_custom"]
        reasons = {found[record_id].reason for record_id in unread}
        assert reasons == {"the record uses tokens that the reference 2 does not have"}
        assert all(found[record.id].score is not None for record in data.records if record.id not in unread)
    assert all(each.score is not None for each in outcome.results["lira_offline_mia_custom"].values()), "by candidates"


def test_a_reference_that_is_the_target_takes_all_of_its_kind_away(tmp_path):
    class Same(FakeBackend):
        def is_same(self, one, other):
            return {one, other} == {TARGET, Role.REFERENCE_2}

    outcome, _ = run(tmp_path, ["spv_wbc", "lira_offline"], data=DATA, backend=Same(), mia_references=2)
    reasons = {each.reason for each in outcome.results["spv_wbc_mia_custom"].values()}
    assert reasons == {"the reference 2 is the target"}
    assert all(each.score is not None for each in outcome.results["lira_offline_mia_custom"].values())


def test_a_reference_that_learned_nothing_is_named(tmp_path):
    class Untaught(FakeBackend):
        def is_same(self, one, other):
            return {one, other} == {Role.BASE, Role.CANDIDATE_2}

    outcome, _ = run(tmp_path, ["lira_candidate"], data=DATA, backend=Untaught(), mia_references=2)
    assert "the candidate reference 2 equals the base: it learned nothing from its texts" in outcome.notes


@pytest.mark.parametrize(("option", "count"), [({}, 3), ({"reference": "base"}, 1), ({"reference": "/theirs"}, 1)])
def test_only_what_is_trained_is_several(option, count):
    attacks = [REGISTRY.attacks[name]() for name in ("spv", "lira_candidate", "lira_base")]
    players = cast(attacks, AuditConfig(references=3, **option), DATA)
    assert [role.kind for role in players].count(REFERENCE) == count
    assert [role.kind for role in players].count(CANDIDATE) == 3
    assert {players[role].views == players[REFERENCE].views for role in players if role.kind is REFERENCE} == {True}
    without = cast(attacks, AuditConfig(references=3), make_data(2))
    assert [role.kind for role in without].count(CANDIDATE) == 1


def test_a_backend_that_knows_no_seeds_is_refused_by_name(tmp_path):
    class Early(FakeBackend):
        def train_reference(self, texts, output_dir):
            return super().train_reference(texts, output_dir)

    run(tmp_path / "one", ["spv_wbc"], data=DATA, backend=Early())
    with pytest.raises(
        SpvmiaError, match=r"^mia_references: expected a backend .* got 'fake', whose train_reference .*'seed'"
    ):
        run(tmp_path / "two", ["spv_wbc"], data=DATA, backend=Early(), mia_references=2)


def test_with_one_reference_a_backend_meets_the_roles_of_before(tmp_path):
    class Early(FakeBackend):
        def cost(self, role):
            assert role in (TARGET, REFERENCE, Role.BASE, CANDIDATE)
            return super().cost(role)

    outcome, _ = run(tmp_path, ["spv_wbc", "both_wbc"], data=DATA, backend=Early())
    assert outcome.stages["scoring: reference"].forward_tokens > 0


@pytest.mark.parametrize("wrong", [0, 9, -1, "two", True, 2.5, [2], None])
def test_how_many_there_may_be(wrong):
    if wrong is None:
        assert AuditConfig.from_metadata({"mia_references": None}).references == 1
        return
    with pytest.raises(SpvmiaError, match=r"^mia_references: expected a whole number >= 1 and <= 8, got "):
        AuditConfig.from_metadata({"mia_references": wrong})


def test_the_tokens_that_count_are_averaged(tmp_path):
    """Under a mask, and under the other one."""
    backend = FakeBackend()
    rendered = Rendered(
        tuple(map(ord, "abcdef")), (False, False, True, True, False, True), (False, True, True, False, False, True)
    )
    of = counted(rendered, "completion", (1,))
    several = Several([TARGET, *THREE])
    for other in (False, True):
        seen = {
            (role, View.TEXT): of.seen(backend._signals(role, of.item, False), other=other) for role in (TARGET, *THREE)
        }
        united = several.united({"a": RecordSignals("abc", seen)})["a"]
        alone = np.mean([backend._signals(role, of.item, False).logprob for role in THREE], axis=0, dtype=np.float64)
        mask = of.other if other else of.mask
        assert list(united.of(REFERENCE).logprob) == list(alone.astype(np.float32)[mask])
        assert len(united.each_of(REFERENCE)) == 3
    assert other_than("completion") == "all"


def test_probes_are_united_and_gradients_are_kept():
    rng = np.random.default_rng(0)
    one, other = signals(*-rng.random(5)), signals(*-rng.random(5))
    probed = {TARGET: [one], REFERENCE: [one, other], Role.REFERENCE_2: [other, other]}
    record = RecordSignals("a", probed=probed, gradients={TARGET: 2.0})
    united = Several([TARGET, REFERENCE, Role.REFERENCE_2]).united({"a": record})["a"]
    assert united.gradient_of(TARGET) == 2.0
    assert united.probed_of(TARGET) == [one]
    mean = np.mean([one.logprob, other.logprob], axis=0, dtype=np.float64).astype(np.float32)
    for found, expected in zip(united.probed_of(REFERENCE), [mean, other.logprob], strict=True):
        assert list(found.logprob) == pytest.approx(list(expected), rel=1e-6)
    assert Role.REFERENCE_2 not in united.probed


def test_the_population_is_united_once_for_all_records(tmp_path):
    backend = FakeBackend()
    outcome, backend = run(tmp_path, ["info_rmia", "rmia"], data=DATA, backend=backend, mia_references=2)
    assert all(each.score is not None for each in outcome.results["info_rmia_mia_custom"].values())
    several = Several([TARGET, REFERENCE, Role.REFERENCE_2])
    scored = {
        role: [signals_under(backend, role, DATA.records[0].text)] for role in (TARGET, REFERENCE, Role.REFERENCE_2)
    }
    records = {name: RecordSignals(name, population=scored) for name in "ab"}
    united = several.united(records)
    assert united["a"].population[REFERENCE] is united["b"].population[REFERENCE]
    assert set(united["a"].population) == {TARGET, REFERENCE}
    assert several.united(records)["a"].population[REFERENCE] is united["a"].population[REFERENCE]
    lacking = {TARGET: scored[TARGET], REFERENCE: scored[REFERENCE]}
    assert set(several.united({"a": RecordSignals("a", population=lacking)})["a"].population) == {TARGET}


def test_paraphrases_are_averaged_one_by_one(tmp_path):
    backend = FakeBackend()
    _, backend = run(tmp_path, ["spv"], data=DATA, backend=backend, mia_references=2)
    one, other = (signals_under(backend, role, DATA.records[0].text) for role in (REFERENCE, Role.REFERENCE_2))
    record = RecordSignals("a", neighbours={TARGET: [one], REFERENCE: [one, other], Role.REFERENCE_2: [other, other]})
    several = Several([REFERENCE, Role.REFERENCE_2])
    first, second = several.united({"a": record})["a"].neighbours_of(REFERENCE)
    assert list(second.logprob) == list(other.logprob)
    assert list(first.logprob) == list(
        np.mean([one.logprob, other.logprob], axis=0, dtype=np.float64).astype(np.float32)
    )
    gone = RecordSignals("a", neighbours={REFERENCE: [one]}, missing={(Role.REFERENCE_2, View.NEIGHBOURS): "why"})
    united = several.united({"a": gone})["a"]
    assert REFERENCE not in united.neighbours
    assert united.missing == {(REFERENCE, View.NEIGHBOURS): "why"}


def test_without_siblings_records_are_the_very_same():
    record = RecordSignals("a")
    several = Several([TARGET, Role.BASE, REFERENCE])
    assert several.united({"a": record})["a"] is record
    assert (several.count, several.kinds) == (1, frozenset())


@pytest.mark.parametrize(("count", "kinds"), [(2, {"single"}), (4, {"single", "halves"})])
def test_lists_of_exposed_members_are_compared(tmp_path, count, kinds):
    names = ["spv_wbc", "both_wbc", "loss", "bag_of_words", "lira_offline"]
    data = make_data(40, prompts=4, candidate=2)
    outcome, _ = run(tmp_path, names, data=data, backend=Writing(), mia_references=count)
    told = outcome.details["references"]
    assert told["count"] == count
    assert set(told["agreement"]) == {"spv_wbc", "both_wbc"}, "attacks whose reference it is"
    for agreed in told["agreement"].values():
        assert set(agreed) == {"share", *kinds}
        assert all(0 <= agreed[kind] <= 1 for kind in kinds)
    one, _ = run(tmp_path, names, data=data, backend=Writing())
    assert "references" not in one.details


def test_agreement_by_hand():
    """Two references that name other members first, of forty: the lists of two have one in common."""

    def scored(first):
        rng = np.random.default_rng(0)
        return {f"f:{i}": -1.0 if i in first else -5.0 - rng.random() for i in range(1, 81)}

    data = make_data(40)
    members = [record for record in data.records if record.is_member]
    chosen = [int(record.id[2:]) for record in members[:3]]
    by_role = {REFERENCE: scored(chosen[:2]), Role.REFERENCE_2: scored(chosen[1:])}

    class Plain(LiraBase):
        reference = REFERENCE

        def score_record(self, signals):
            return float(signals.of(REFERENCE).logprob[0])

    records = {
        record.id: RecordSignals(
            "a",
            {(role, View.TEXT): signals(of[record.id]) for role, of in by_role.items()}
            | {(TARGET, View.TEXT): signals(-1.0)},
        )
        for record in data.records
    }
    stability = Stability([Plain()], Several([TARGET, *by_role]))
    for part in (data.records[:30], data.records[30:]):
        stability.add({record.id: records[record.id] for record in part}, part)
    assert stability.to_json() == {"lira_base": {"share": 0.05, "single": 0.5}}
    assert Stability([Plain()], Several([TARGET, *by_role])).to_json() == {}
