"""Reading what the harness wrote."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.results import Audit, read_latest, read_runs
from spvmia_plugin.results.model import failed
from tests.results.builders import STRENGTHS, fake_audit, fake_records, write_run


@pytest.fixture(scope="module")
def audit():
    return fake_audit(unscored_every=50)


def test_a_run_is_read_as_it_was_written(tmp_path, audit):
    path = write_run(tmp_path, [audit], capabilities={"arc_easy": {"acc": 0.6, "acc_norm": 0.7}})
    run = read_latest(tmp_path)
    assert run.path == path
    assert run.model == "./adapter"
    assert run.config["model_args"] == {"pretrained": "./base", "peft": "./adapter"}
    [found] = run.audits
    assert [task.attack for task in found.tasks] == list(STRENGTHS)
    assert found.dataset == "custom"
    for task, fake in zip(found.tasks, audit, strict=True):
        for name, value in task.metrics.items():
            written = fake.row[f"{name},none"]
            assert value == written or (math.isnan(value) and (written == "N/A" or math.isnan(written)))
        scores = [json.loads(sample["resps"][0][0])["score"] for sample in fake.samples]
        assert task.scores().tolist() == pytest.approx([math.nan if s is None else s for s in scores], nan_ok=True)
    assert [(c.task, c.metric, c.value, c.stderr, c.higher_is_better, c.n) for c in run.capabilities] == [
        ("arc_easy", "acc", 0.6, 0.01, True, 100),
        ("arc_easy", "acc_norm", 0.7, 0.01, True, 100),
    ]


def test_the_strongest_attack_is_the_one_the_run_recorded(tmp_path, audit):
    write_run(tmp_path, [audit])
    [found] = read_latest(tmp_path).audits
    recorded = found.told["strongest"]
    leader = found.strongest.auroc
    assert (
        (leader.attack, leader.task)
        == (recorded["auroc"]["attack"], recorded["auroc"]["task"])
        == ("spv", "spv_mia_custom")
    )
    assert (leader.low, leader.high) == (recorded["auroc"]["low"], recorded["auroc"]["high"])
    recomputed = Audit([task.apart() for task in found.tasks]).strongest  # as runs of before it was recorded
    # The run compared records sorted by id, and so does the reader: resamples depend on the order.
    assert recomputed.auroc.attack == "spv"
    assert [recomputed.auroc.low, recomputed.auroc.high] == pytest.approx([leader.low, leader.high], abs=1e-9)


def as_written_before(path):
    """The results file as versions wrote it that compared AUROCs alone."""
    raw = json.loads(path.read_text())
    for config in raw["configs"].values():
        audit = config["metadata"]["mia_audit"]
        found = audit["strongest"]["auroc"]
        told = {"name": found["attack"], "auroc": found["value"], "interval": [found["low"], found["high"]]}
        rest = {key: audit["strongest"][key] for key in ("critical", "n_attacks", "confidence")}
        audit["strongest"] = {**told, **rest, "reason": None, "task": found["task"]}
        del audit["metrics"]["tpr_at_5pct_fpr"]
        for metric in ("tpr_at_1pct_fpr", "tpr_at_0.1pct_fpr"):
            del audit["metrics"][metric]["largest"]
    path.write_text(json.dumps(raw))


@pytest.mark.parametrize("with_samples", [True, False])
def test_results_of_before_the_strongest_spoke_of_tprs_are_read(tmp_path, audit, with_samples):
    path = write_run(tmp_path, [audit], with_samples=with_samples)
    before = read_latest(tmp_path).audits[0].strongest
    as_written_before(path)
    [found] = read_latest(tmp_path).audits
    assert found.strongest.auroc.value == pytest.approx(before.auroc.value)
    assert found.strongest.auroc.low == pytest.approx(before.auroc.low)
    if with_samples:
        assert found.strongest.most_exposed.low == pytest.approx(before.most_exposed.low)
    else:
        assert "compared AUROCs alone; run the audit again" in found.strongest.most_exposed.reason
    assert "run the audit again" in found.tasks[0].mia_audit.metrics.tpr_at_5pct_fpr.reason


@pytest.mark.parametrize("part", ["auroc", "tpr_at_1pct_fpr", "turned_round"])
def test_what_was_chosen_among_attacks_of_another_audit_is_computed_anew(tmp_path, part):
    """Also where only the attack furthest below guessing is none of this audit's."""
    path = write_run(tmp_path, [fake_audit({"spv": 1.0, "loss": -2.0}, findings=())])
    before = read_latest(tmp_path).audits[0].strongest
    assert before.turned_round.attack == "loss"
    raw = json.loads(path.read_text())
    for config in raw["configs"].values():
        config["metadata"]["mia_audit"]["strongest"][part].update(attack="min_k", value=0.25, low=0.2, high=0.3)
    path.write_text(json.dumps(raw))
    found = read_latest(tmp_path).audits[0].strongest
    assert {leader.attack for leader in found.every_leader.values()} <= {None, "spv", "loss"}
    assert found.every_leader[part].value == pytest.approx(before.every_leader[part].value)


def under_a_second_name(tasks, name, **numbers):
    """The first task once more, as a YAML of the user's own that includes it and changes nothing has it."""
    return dataclasses.replace(tasks[0], name=name, row={**tasks[0].row, **numbers})


def test_an_attack_of_the_same_name_under_other_settings_is_not_the_one_that_was_chosen(tmp_path):
    """The run compares all attacks on its data: its leader may be `loss` of another audit."""
    weak = fake_audit({"loss": 0.0, "spv": 0.1}, findings=())
    strong = [under_a_second_name(fake_audit({"loss": 2.0}, findings=(), settings={"mia_seed": 1}, seed=1), "loss_1")]
    recorded = strong[0].config["metadata"]["mia_audit"]["strongest"]
    for metric in ("auroc", "tpr_at_5pct_fpr", "tpr_at_1pct_fpr", "tpr_at_0.1pct_fpr"):
        recorded[metric]["task"] = "loss_1"
    for task in weak:
        task.config["metadata"]["mia_audit"]["strongest"] = recorded
    write_run(tmp_path, [weak, strong])
    first, second = read_latest(tmp_path).audits
    assert first.strongest.auroc.value == max(task.metrics["auroc"] for task in first.tasks) < 0.6
    assert second.strongest.auroc.value == recorded["auroc"]["value"] > 0.8


@pytest.mark.parametrize("lost", [None, "loss_mia_custom", "loss_other"])
def test_an_attack_under_two_names_stands_in_its_audit_once(tmp_path, lost):
    """Of two, the one that has samples; numbers of other records are those of another audit."""
    tasks = fake_audit({"loss": 0.5, "spv": 1.0}, findings=())
    path = write_run(tmp_path, [[*tasks, under_a_second_name(tasks, "loss_other")]])
    if lost is not None:
        next(path.parent.glob(f"samples_{lost}_*")).unlink()
    [found] = read_latest(tmp_path).audits
    kept = "loss_other" if lost == "loss_mia_custom" else "loss_mia_custom"
    assert [task.task for task in found.tasks] == [kept, "spv_mia_custom"]
    assert found.strongest.n_attacks == 2


def test_an_attack_on_other_records_is_another_audit(tmp_path):
    tasks = fake_audit({"loss": 0.5, "spv": 1.0}, findings=())
    others = [under_a_second_name(tasks, f"loss_{n}", **{"auroc,none": 0.6}) for n in range(2)]
    write_run(tmp_path, [[*tasks, *others]], with_samples=False)
    named = [[task.task for task in audit.tasks] for audit in read_latest(tmp_path).audits]
    assert named == [["loss_mia_custom", "spv_mia_custom"], ["loss_0"]]


@pytest.mark.parametrize(("every", "told"), [(10, True), (30, False)])
def test_records_that_were_left_out_are_a_condition_of_the_attack_itself(tmp_path, every, told):
    write_run(tmp_path, [fake_audit({"loss": 0.5, "spv_wbc": 0.4}, findings=(), unscored_every=every)])
    for task in read_latest(tmp_path).audits[0].tasks:
        assert [finding.details["attack"] for finding in failed(task)] == ([task.attack] if told else [])


def test_documents_are_the_clusters(tmp_path):
    records = fake_records(40, 40, blocks=2)
    write_run(tmp_path, [fake_audit({"loss": 1.0}, records=records, findings=())])
    [found] = read_latest(tmp_path).audits
    assert found.clusters() == [record.cluster for record in records]
    assert found.labels().tolist() == [record.is_member for record in records]


def test_audits_of_other_data_stand_apart(tmp_path, audit):
    other = fake_audit({"spv": 0.0}, dataset="xsum", fingerprint="other")
    write_run(tmp_path, [audit, other])
    assert [found.dataset for found in read_latest(tmp_path).audits] == ["custom", "xsum"]


def test_a_run_without_samples_has_numbers_and_no_scores(tmp_path, audit):
    write_run(tmp_path, [audit], with_samples=False)
    [found] = read_latest(tmp_path).audits
    assert not found.has_samples
    assert found.strongest.auroc.attack == "spv"
    assert Audit([task.apart() for task in found.tasks]).strongest is None
    assert 0.8 < found.tasks[0].metrics["auroc"] < 1


def test_the_latest_run_with_an_audit_is_taken(tmp_path, audit):
    first = write_run(tmp_path, [audit], date=datetime(2026, 1, 1, tzinfo=timezone.utc))
    second = write_run(tmp_path, [audit], date=datetime(2026, 1, 2, tzinfo=timezone.utc))
    write_run(tmp_path, [], capabilities={"arc_easy": {"acc": 0.5}}, date=datetime(2026, 1, 3, tzinfo=timezone.utc))
    assert read_latest(tmp_path).path == second
    assert read_latest(first).path == first
    assert len(read_runs(tmp_path)) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda place: place / "absent", "which is not there"),
        (lambda place: place, r"without one; run lm_eval with --output_path"),
        (lambda place: _file(place, "no json"), "cannot be read as one"),
        (lambda place: _file(place, "[]"), "without 'results' and 'configs'"),
        (lambda place: _file(place, '{"results": {}, "configs": {}}'), "got none in"),
    ],
)
def test_what_is_no_result_is_told_in_one_line(tmp_path, make, message):
    with pytest.raises(SpvmiaError, match=message):
        read_latest(make(tmp_path))


def test_a_foreign_samples_file_is_named_without_its_text(tmp_path, audit):
    path = write_run(tmp_path, [audit])
    samples = next(path.parent.glob("samples_spv_mia_custom*"))
    samples.write_text('{"doc": {"id": "secret text of a record"}, "resps": [["nothing"]]}\n')
    with pytest.raises(SpvmiaError, match=rf"{samples.name}, line 1: expected a sample") as caught:
        read_latest(tmp_path)
    assert "secret" not in str(caught.value)


def test_groups_are_those_of_the_samples(tmp_path):
    """One string for each; a record of none has none, and so has every record of a run without groups."""
    names = ("Nord & Ost", "süd", None)
    records = [dataclasses.replace(each, group=names[k % 3]) for k, each in enumerate(fake_records(60, 60))]
    write_run(tmp_path / "run", [fake_audit({"loss": 1.0, "spv": 0.5}, records=records)])
    (audit,) = read_latest(tmp_path / "run").audits
    assert dict(zip(audit.ids(), audit.groups(), strict=True)) == {each.id: each.group for each in records}
    assert len({id(name) for name in audit.groups()}) == 3
    write_run(tmp_path / "other", [fake_audit({"loss": 1.0}, records=fake_records(30, 30))])
    assert set(read_latest(tmp_path / "other").audits[0].groups()) == {None}
    write_run(tmp_path / "bare", [fake_audit({"loss": 1.0}, records=records)], with_samples=False)
    assert read_latest(tmp_path / "bare").audits[0].groups() == ()


@pytest.mark.parametrize("wrong", [7, True, ["north"], {"name": "north"}])
def test_a_group_is_a_name(tmp_path, audit, wrong):
    path = write_run(tmp_path, [audit])
    samples = next(path.parent.glob("samples_spv_mia_custom*"))
    first, *rest = samples.read_text().splitlines()
    sample = json.loads(first)
    sample["doc"]["group"] = wrong
    samples.write_text("\n".join([json.dumps(sample), *rest]) + "\n")
    with pytest.raises(SpvmiaError, match="line 1: expected a sample of a privacy task"):
        read_latest(tmp_path)


@pytest.mark.parametrize("wrong", [-0.1, 1.5, "a", True, [0.5]])
def test_a_p_value_is_a_share(tmp_path, wrong):
    path = write_run(tmp_path, [fake_audit({"lira_offline": 1.0}, unscored_every=40)])
    (audit,) = read_latest(tmp_path).audits
    (given,) = audit.p_values().values()
    assert np.isnan(given).any()
    assert np.nanmax(given) <= 1
    samples = next(path.parent.glob("samples_lira_offline*"))
    first, *rest = samples.read_text().splitlines()
    sample = json.loads(first)
    sample["resps"][0][0] = json.dumps({**json.loads(sample["resps"][0][0]), "p_value": wrong})
    samples.write_text("\n".join([json.dumps(sample), *rest]) + "\n")
    with pytest.raises(SpvmiaError, match=r"line 1: expected a sample"):
        read_latest(tmp_path)


def _file(place: Path, content: str) -> Path:
    path = place / "results_x.json"
    path.write_text(content)
    return path


def test_labels_are_booleans(tmp_path, audit):
    write_run(tmp_path, [audit])
    assert read_latest(tmp_path).audits[0].labels().dtype == np.bool_


def test_a_base_whose_audit_cannot_be_read_stops_nobody_elses_report(tmp_path, audit):
    """It is an older run as any: left out, and told."""
    base = write_run(tmp_path, [fake_audit()], model="./base", model_args={"pretrained": "./base"},
                     date=datetime(2026, 11, 1, tzinfo=timezone.utc))  # fmt: skip
    raw = json.loads(base.read_text(encoding="utf-8"))
    next(iter(raw["configs"].values()))["metadata"]["mia_audit"]["n"] = "many"
    write_run(tmp_path, [audit])
    assert len(read_latest(tmp_path).audits_of_base) == 1
    base.write_text(json.dumps(raw), encoding="utf-8")
    run = read_latest(tmp_path)
    assert len(run.audits) == 1
    assert run.audits_of_base == []
    assert len(run.left_out) == 1
