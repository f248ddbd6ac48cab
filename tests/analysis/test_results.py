"""Results as data frames, against the files they were read from."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from spvmia_plugin.analysis import load
from spvmia_plugin.errors import SpvmiaError
from tests.results.builders import fake_audit, fake_records, write_run

STRENGTHS = {"loss": 0.3, "spv_wbc": 1.2, "bag_of_words": 0.0}
RECORDS = fake_records(150, 150, blocks=2)


@pytest.fixture
def run(tmp_path):
    """A run, as a folder and as lm_eval returns it."""
    path = write_run(tmp_path / "run", [fake_audit(STRENGTHS, records=RECORDS, unscored_every=10)])
    raw = json.loads(path.read_text(encoding="utf-8"))
    samples = {}
    for task in raw["results"]:
        (file,) = path.parent.glob(f"samples_{task}_*.jsonl")
        samples[task] = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return tmp_path / "run", {**raw, "samples": samples}


def test_records_are_those_of_the_samples_files(run):
    folder, returned = run
    records = load(folder).records
    assert list(records.columns[:4]) == ["id", "unit", "group", "member"]
    assert set(records.columns[4:]) == set(STRENGTHS)
    assert records["group"].isna().all()  # nobody named a column
    by_id = records.set_index("id")
    for task, samples in returned["samples"].items():
        attack = task.removesuffix("_mia_custom")
        for sample in samples:
            row, told = by_id.loc[sample["doc"]["id"]], json.loads(sample["resps"][0][0])
            assert row["member"] == sample["doc"]["is_member"]
            assert row["unit"] == sample["doc"]["id"].partition("#")[0]
            assert row[attack] == told["score"] or (told["score"] is None and math.isnan(row[attack]))
    assert records["loss"].isna().sum() == 30


def test_groups_and_units_stand_beside_the_records(tmp_path):
    owned = {
        each.id: replace(each, unit=f"u{k // 2}", cluster=f"u{k // 2}", group=("de", "en", None)[k % 3])
        for k, each in enumerate(sorted(fake_records(60, 60), key=lambda each: each.is_member))
    }
    write_run(tmp_path / "run", [fake_audit({"loss": 0.3}, records=list(owned.values()))])
    records = load(tmp_path / "run").records
    for _, row in records.iterrows():
        told = owned[row["id"]]
        assert (row["unit"], row["group"], row["member"]) == (told.unit, told.group, told.is_member)
    assert records.groupby("group")["loss"].count().to_dict() == {"de": 40, "en": 40}


def test_attacks_are_the_rows_of_the_results_file(run):
    folder, returned = run
    attacks = load(folder).attacks
    assert list(attacks.index) == ["spv_wbc", "loss", "bag_of_words"]  # strongest first, the blind baseline last
    for name, row in attacks.iterrows():
        task = f"{name}_mia_custom"
        audit = returned["configs"][task]["metadata"]["mia_audit"]
        assert row["auroc"] == returned["results"][task]["auroc,none"]
        assert [row["auroc_low"], row["auroc_high"]] == audit["metrics"]["auroc_interval"]
        assert row["tpr_at_5pct_fpr"] == audit["metrics"]["tpr_at_5pct_fpr"]["value"]
        assert [row["unscored"], row["task"]] == [audit["n"]["records"] - audit["n"]["scored"], task]
    assert attacks.loc["loss", "unscored"] == 30


def test_what_simple_evaluate_returned_says_the_same(run):
    folder, returned = run
    as_files, as_dict = load(folder), load(returned)
    assert as_dict.records.equals(as_files.records)
    assert as_dict.attacks.equals(as_files.attacks)
    assert repr(as_dict.strongest()) == repr(as_files.strongest())  # NaN is as good as NaN, which is no == on 3.13
    assert as_dict.verdict == as_files.verdict
    without = load({name: value for name, value in returned.items() if name != "samples"})
    assert len(without.records) == 0
    assert without.attacks.equals(as_files.attacks)


def test_the_strongest_is_what_the_run_recorded(run):
    folder, returned = run
    told = returned["configs"]["loss_mia_custom"]["metadata"]["mia_audit"]["strongest"]
    found = load(folder).strongest()
    assert (found.attack, found.value, found.low, found.high) == (
        told["auroc"]["attack"],
        *(told["auroc"][end] for end in ("value", "low", "high")),
    )
    assert load(folder).strongest("tpr_at_5pct_fpr").value == told["tpr_at_5pct_fpr"]["value"]
    with pytest.raises(
        SpvmiaError, match=r"metric: expected one of auroc, .*, got 'tpr_at_5pct' .did you mean 'tpr_at_5pct_fpr'"
    ):
        load(folder).strongest("tpr_at_5pct")


def test_the_report_is_the_page_of_the_command(run, tmp_path, monkeypatch):
    from spvmia_plugin.report.html import render

    folder, _ = run
    found = load(folder)
    page = found.report(tmp_path / "page.html")
    assert page.read_text(encoding="utf-8") == render(found.run)
    assert page.stat().st_mode & 0o777 == 0o600
    with pytest.raises(SpvmiaError, match="path: expected a file, got the folder"):
        found.report(tmp_path)


def test_in_a_notebook_it_shows_the_verdict_and_the_attacks(run):
    folder, _ = run
    found = load(folder)
    shown = found._repr_html_()
    assert found.verdict.headline in shown
    assert f"{found.attacks.loc['spv_wbc', 'auroc']:.3f}" in shown
    assert "<script" not in shown
    assert repr(found).startswith("<Results of ")
    assert f"AUROC {found.strongest().value:.3f} by spv_wbc" in repr(found)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"pretrained": "org/base", "peft": "./tuned"}, "./tuned"),
        ({"pretrained": SimpleNamespace(name_or_path="org/base")}, "org/base"),
        ({"model": "served", "base_url": "http://x"}, "served"),
        ("pretrained=org/base", "hf"),
        (None, "hf"),
    ],
)
def test_what_simple_evaluate_returned_is_called_by_its_model(run, arguments, name):
    """It has no `model_name`, and the folder it is read through is nobody's name."""
    _, returned = run
    of_python = {key: value for key, value in returned.items() if not key.startswith("model_")}
    of_python["config"] = {**returned["config"], "model_args": arguments}
    found = load({**of_python, "model_source": "hf"})
    assert repr(found).startswith(f"<Results of {name} on custom: ")
    assert f"{name}, custom</h4>" in found._repr_html_()


def test_names_of_other_people_are_no_markup(tmp_path):
    path = write_run(tmp_path / "run", [fake_audit({"loss": 0.5})])
    raw = json.loads(path.read_text(encoding="utf-8"))
    raw["model_name"] = "<img src=x onerror=alert(1)>"
    path.write_text(json.dumps(raw), encoding="utf-8")
    assert "<img" not in load(tmp_path / "run")._repr_html_()


def test_several_audits_need_a_name(tmp_path):
    audits = [fake_audit({"loss": 0.5}), fake_audit({"loss": 0.1}, dataset="wikitext", fingerprint="0" * 64)]
    write_run(tmp_path / "run", audits)
    with pytest.raises(SpvmiaError, match="dataset: expected one of 'custom', 'wikitext', got nothing"):
        load(tmp_path / "run")
    assert load(tmp_path / "run", "wikitext").audit.dataset == "wikitext"
    with pytest.raises(SpvmiaError, match=r"dataset: expected one of 'custom', 'wikitext', got 'wikitxt'.*wikitext"):
        load(tmp_path / "run", "wikitxt")


@pytest.mark.parametrize("dataset", [None, "custom"])
def test_audits_of_one_data_set_are_named_by_a_task(tmp_path, dataset):
    """Tasks of other settings make another audit: what names each, and what they differ in, is told at once."""
    other = fake_audit({"min_k": 0.1}, settings={"mia_min_k": 0.5})
    third = fake_audit({"loss": 0.1}, dataset="wikitext", fingerprint="0" * 64)
    write_run(tmp_path / "run", [fake_audit({"loss": 0.5, "spv": 1.0}), other, third])
    names, differ = "'loss_mia_custom', 'min_k_mia_custom', 'wikitext'", r"mia_min_k \(not given, 0\.5\)"
    with pytest.raises(SpvmiaError, match=f"{names}, got .*; 2 of them are of 'custom' and differ in {differ}; name"):
        load(tmp_path / "run", dataset)
    assert list(load(tmp_path / "run", "min_k_mia_custom").attacks.index) == ["min_k"]
    assert load(tmp_path / "run", "spv_mia_custom").audit.dataset == "custom"
    assert load(tmp_path / "run", "wikitext").audit.dataset == "wikitext"


@pytest.mark.parametrize("bad", ["nowhere", 3, None, {}, {"results": {}, "configs": {}}])
def test_what_is_no_results_is_refused(bad):
    with pytest.raises(SpvmiaError, match=r"(?i)results"):
        load(bad)


def test_two_audits_of_the_same_records_are_compared(tmp_path):
    write_run(tmp_path / "one", [fake_audit({"loss": 0.3, "spv_wbc": 1.5}, records=RECORDS)])
    shuffled = [RECORDS[i] for i in np.random.default_rng(1).permutation(len(RECORDS))]
    write_run(tmp_path / "two", [fake_audit({"loss": 0.3, "spv_wbc": 0.2, "lira_base": 0.1}, records=shuffled, seed=5)])
    one, two = load(tmp_path / "one"), load(tmp_path / "two")
    found = one.compare(two)
    assert found.index.names == ["attack", "metric"]
    assert set(found.index.get_level_values("attack")) == {"loss", "spv_wbc"}
    row = found.loc[("spv_wbc", "auroc")]
    assert row["difference"] == pytest.approx(one.attacks.loc["spv_wbc", "auroc"] - two.attacks.loc["spv_wbc", "auroc"])
    assert 0 < row["low"] < row["difference"] < row["high"]
    assert found.loc[("loss", "auroc"), "low"] < 0 < found.loc[("loss", "auroc"), "high"]
    back = two.compare(tmp_path / "one")
    assert back.loc[("spv_wbc", "auroc"), "difference"] == pytest.approx(-row["difference"])
    same = one.compare(one)
    assert (same["difference"].dropna() == 0).all()


def test_audits_of_other_records_are_not_compared(tmp_path):
    write_run(tmp_path / "one", [fake_audit({"loss": 0.3}, records=RECORDS)])
    other = fake_records(150, 150)
    write_run(tmp_path / "two", [fake_audit({"loss": 0.3}, records=other)])
    with pytest.raises(SpvmiaError, match="results: expected two audits of the same records, got 300 and 300"):
        load(tmp_path / "one").compare(tmp_path / "two")
    write_run(tmp_path / "bare", [fake_audit({"loss": 0.3}, records=RECORDS)])
    for file in (tmp_path / "bare").rglob("samples_*.jsonl"):
        file.unlink()
    with pytest.raises(SpvmiaError, match="results: expected scores of records, got none of the other"):
        load(tmp_path / "one").compare(tmp_path / "bare")
