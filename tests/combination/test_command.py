"""`spvmia combine` on result folders."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
from typer.testing import CliRunner

from spvmia_plugin.cli.main import make_app
from spvmia_plugin.combination import combine
from spvmia_plugin.errors import SpvmiaError
from tests.results.builders import WARNING, fake_audit, fake_records, write_run

TARGET = {"spv": 1.0, "ez": 1.0, "loss": 0.3, "bag_of_words": 3.0}
RECIPE = {"finetune": {"method": "lora", "epochs": 3.0, "seed": 0}}


def audited(
    folder,
    strengths=TARGET,
    *,
    number=0,
    weights=None,
    n=(150, 150),
    findings=(),
    provenance=RECIPE,
    every=0,
    units=False,
    **run,
):
    """A results folder of an audit of its own model and records, or of the model with these weights."""
    records = fake_records(*n, seed=number)
    if units:  # of three records each
        names = [f"u{record.is_member}{int(record.cluster.split(':')[1]) // 3}" for record in records]
        records = [dataclasses.replace(each, unit=u, cluster=u) for each, u in zip(records, names, strict=True)]
    audit = fake_audit(
        strengths,
        records=records,
        seed=100 * number,
        fingerprint=f"{number:064d}",
        findings=list(findings),
        provenance=provenance,
        unscored_every=every,
    )
    for task in audit:
        models = copy.deepcopy(task.config["metadata"]["mia_audit"]["models"])
        models["target"]["weights"] = [{"files": {"model": f"{number if weights is None else weights}"}}]
        task.config["metadata"]["mia_audit"]["models"] = models
    write_run(folder, [audit], **run)
    return folder


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A target and two shadows; the second was run without `ez`."""
    work = tmp_path_factory.mktemp("runs")
    without = {name: strength for name, strength in TARGET.items() if name != "ez"}
    return [
        audited(work / "target"),
        audited(work / "shadow", number=1),
        audited(work / "other", without, number=2),
    ]


def run(*arguments):
    return CliRunner().invoke(make_app(), ["combine", *map(str, arguments)])


def test_a_table_of_the_combination_and_its_attacks(places):
    target, shadow, _ = places
    result = run(target, "--shadow", shadow)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("150 members and 150 non-members of 300 documents; weights fitted on 300 records")
    assert lines[2].split()[0] == "combination"
    assert float(lines[2].split()[1]) > float(lines[3].split()[1]) > 0.7
    assert {line.split()[0] for line in lines[3:6]} == {
        "spv",
        "ez",
        "loss",
    }  # the blind baseline is no attack on the model
    assert lines[6].startswith("AUROC: +0.")
    assert not [line for line in lines if line.startswith("warning")]


def test_json_has_every_number_and_goes_alone_to_stdout(places):
    target, shadow, _ = places
    result = run(target, "--shadow", shadow, "--json")
    found = json.loads(result.stdout)
    assert found["shadow_records"] == 300
    assert set(found["singles"]) == {"spv", "ez", "loss"}
    assert found["gain"]["auroc"]["interval"][0] < found["gain"]["auroc"]["value"]
    assert "combination" in result.stderr
    quiet = run(target, "--shadow", shadow, "--json", "--quiet")
    assert json.loads(quiet.stdout) == found
    assert quiet.stderr == ""


def test_attacks_that_one_shadow_lacks_are_left_out_and_named(places):
    target, shadow, other = places
    result = run(target, "--shadow", shadow, "--shadow", other)
    assert "left out, without scores of the shadow: ez" in result.stdout
    assert "weights fitted on 600 records" in result.stdout
    asked = run(target, "--shadow", shadow, "--shadow", other, "--attacks", "spv,ez")
    assert asked.exit_code == 1
    assert asked.stderr.startswith("--attacks: expected attacks that all audits have scores of (spv, loss), got 'ez';")


def test_what_sets_a_shadow_apart_is_said(places, tmp_path):
    target = places[0]
    longer = {"finetune": {"method": "lora", "epochs": 6.0, "seed": 1}}
    shadow = audited(tmp_path, number=3, n=(200, 100), provenance=longer, findings=[WARNING])
    found = combine(target, [shadow])
    assert len(found.warnings) == 2
    assert found.warnings[0] == f"{tmp_path}: {WARNING.message}"
    assert "fine-tuning epochs (3 here, 6 there)" in found.warnings[1]
    assert "share of members (0.50 here, 0.67 there)" in found.warnings[1]
    assert "seed" not in found.warnings[1]


def test_unscored_records_are_counted(places, tmp_path):
    audited(tmp_path, number=3, every=10)
    result = run(tmp_path, "--shadow", places[1], "--attacks", "spv, loss")
    assert "\nrecords without a score, counted as that attack's median: spv 30, loss 30" in result.stdout
    result = run(places[0], "--shadow", tmp_path, "--attacks", "loss")
    assert "\nrecords of the shadow without a score, counted as that attack's median: loss 30" in result.stdout


def test_what_limits_the_numbers_is_said(places, tmp_path):
    result = run(audited(tmp_path, number=3, n=(10, 10)), "--shadow", places[1])
    assert "TPR at 1 % FPR: 10 non-members cannot resolve an FPR of 1 %: at least 100 are needed\n" in result.stdout
    assert "warning: one class has records of only 10 documents" in result.stdout
    assert "0.1 %" not in result.stdout


def test_units_are_called_units(places, tmp_path):
    target = audited(tmp_path / "target", number=3, n=(36, 36), units=True)
    result = run(target, "--shadow", places[1])
    assert result.stdout.startswith("36 members and 36 non-members of 26 units; weights fitted on 300 records of the")
    assert "warning: one class has records of only 13 units: intervals are checked for" in result.stdout
    assert "documents" not in result.stdout
    few = audited(tmp_path / "few", number=4, n=(9, 12), units=True)
    refused = run(target, "--shadow", few)
    assert refused.stderr == "--shadow: expected members of at least 5 units, got 4; audit a shadow of more\n"


@pytest.mark.parametrize(
    ("shared", "what"),
    [
        ({"number": 0, "weights": 9}, "the same records and prompts"),
        ({"number": 9, "weights": 0}, "the same model"),
        ({"number": 9, "provenance": {"manifest_fingerprint": "a"}}, "records of the same manifest"),
    ],
)
def test_the_labels_of_the_target_are_no_shadow(tmp_path, shared, what):
    target = audited(tmp_path / "target", provenance={"manifest_fingerprint": "a"})
    shadow = audited(tmp_path / "shadow", **shared)
    with pytest.raises(SpvmiaError, match=rf"--shadow: expected audits of different .* got {what} in RESULTS and "):
        combine(target, [shadow])


def with_weights_of(folder, place, told, **how):
    """An audit whose `spv` stands for an attack with weights of a shadow."""
    audited(folder / place, provenance={**RECIPE, "manifest_fingerprint": place}, **how)
    for path in (folder / place).rglob("results_*.json"):
        content = json.loads(path.read_text())
        for task in content["configs"].values():
            if (audit := task["metadata"]["mia_audit"])["attack"]["name"] == "spv":
                audit["learned"] = told
        path.write_text(json.dumps(content))
    return folder / place


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"weights": "shadow", "digest": "d", "fitted_on": ["shadow"]}, "were fitted on its records and labels"),
        ({"weights": "shadow", "digest": "d"}, "may have been fitted on its labels: results of an earlier version"),
        ({"weights": "shadow", "digest": "d", "fitted_on": ["another"]}, None),
        ({"weights": "shipped", "digest": "d"}, None),
    ],
)
def test_weights_that_know_the_labels_of_a_shadow_are_not_combined(tmp_path, told, why):
    target = with_weights_of(tmp_path, "target", {"weights": "shadow", "digest": "d", "fitted_on": ["another"]})
    shadow = with_weights_of(tmp_path, "shadow", told, number=1)
    found = combine(target, [shadow])
    warned = [line for line in found.warnings if line.startswith("left out: spv")]
    if why is None:
        assert "spv" in found.on_target.combination.attacks
        assert warned == []
        return
    assert found.on_target.combination.attacks == ("ez", "loss")
    assert found.left_out == ()
    assert len(warned) == 1
    assert warned[0].startswith(f"left out: spv, whose weights {why}")
    assert warned[0].endswith(f"in {shadow}")
    with pytest.raises(SpvmiaError, match=r"^--attacks: expected attacks whose weights know no label .* got 'spv'"):
        combine(target, [shadow], ["spv", "loss"])


def test_one_shadow_counts_once(places):
    with pytest.raises(SpvmiaError, match="--shadow: expected audits of different models"):
        combine(places[0], [places[1], places[1]])


def test_a_run_without_samples_is_an_error(places, tmp_path):
    audited(tmp_path, number=4, with_samples=False)
    with pytest.raises(SpvmiaError, match="--shadow: expected the scores of each record"):
        combine(places[0], [tmp_path])


def test_a_run_of_two_data_sets_is_an_error(places, tmp_path):
    two = [fake_audit({"spv": 1.0}, dataset=name, fingerprint=f"{k:064d}") for k, name in ((7, "custom"), (8, "xsum"))]
    write_run(tmp_path, two)
    with pytest.raises(SpvmiaError, match="RESULTS: expected a run that audits one set of records, got custom, xsum"):
        combine(tmp_path, [places[1]])


def test_canaries_beside_the_records_are_left_alone(places, tmp_path):
    both = [fake_audit({"spv": 1.0}, fingerprint="a" * 64), fake_audit({"spv": 1.0}, canary=True)]
    write_run(tmp_path, both)
    assert combine(tmp_path, [places[1]]).on_target.best["auroc"] == "spv"


def test_one_class_alone_is_an_error(places, tmp_path):
    audited(tmp_path, number=3, n=(20, 0))
    with pytest.raises(SpvmiaError, match="RESULTS: expected members and non-members, got 20 and 0"):
        combine(tmp_path, [places[1]])


def test_audits_with_nothing_in_common_are_an_error(places, tmp_path):
    audited(tmp_path, {"rmia": 1.0}, number=5)
    with pytest.raises(SpvmiaError, match=r"--shadow: expected attacks of RESULTS \(spv, ez, loss\), got none"):
        combine(places[0], [tmp_path])


def test_an_audit_that_scored_nothing_is_an_error(places, tmp_path):
    audited(tmp_path, {"lira_candidate": None, "bag_of_words": 0.5}, number=5)
    with pytest.raises(SpvmiaError, match="RESULTS: expected an attack on the model that scored a record, got none"):
        combine(tmp_path, [places[1]])


@pytest.mark.parametrize(("names", "got"), [("", "''"), ("loss,", "''"), ("los", "'los'")])
def test_attacks_that_are_none_are_an_error(places, names, got):
    result = run(places[0], "--shadow", places[1], "--attacks", names)
    assert result.exit_code == 1
    assert result.stderr.startswith(
        f"--attacks: expected attacks that all audits have scores of (spv, ez, loss), got {got};"
    )


def test_a_folder_that_is_not_there_is_one_line_with_the_option_that_named_it(places, tmp_path):
    result = run(tmp_path / "nothing", "--shadow", places[1])
    assert result.exit_code == 1
    assert result.stderr.startswith("RESULTS: expected lm_eval's output folder")
    assert run(places[0], "--shadow", tmp_path / "nothing").stderr.startswith("--shadow: expected lm_eval's output")
    assert run(places[0], "--shadow", tmp_path).stderr.startswith("--shadow: expected a folder with results_*.json")
