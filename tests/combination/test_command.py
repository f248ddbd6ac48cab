"""`spvmia combine` on result folders."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from spvmia_plugin.cli.main import make_app
from spvmia_plugin.combination import combine
from spvmia_plugin.errors import SpvmiaError
from tests.results.builders import WARNING, fake_audit, fake_records, write_run

TARGET = {"spv": 1.0, "ez": 1.0, "loss": 0.3, "bag_of_words": 3.0}
RECIPE = {"finetune": {"method": "lora", "epochs": 3.0, "seed": 0}}


def audited(folder, strengths=TARGET, *, number=0, n=(150, 150), findings=(), provenance=RECIPE, **run):
    """A results folder of an audit of its own records."""
    audit = fake_audit(
        strengths,
        records=fake_records(*n, seed=number),
        seed=100 * number,
        fingerprint=f"{number:064d}",
        findings=list(findings),
        provenance=provenance,
    )
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
    assert "left out, not run on the shadow: ez" in result.stdout
    assert "weights fitted on 600 records" in result.stdout
    asked = run(target, "--shadow", shadow, "--shadow", other, "--attacks", "spv,ez")
    assert asked.exit_code == 1
    assert asked.stderr.startswith("--attacks: expected attacks that all audits have (spv, loss), got ez;")


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
    audit = fake_audit({"spv": 1.0, "loss": 0.3}, unscored_every=10, findings=[])
    write_run(tmp_path, [audit])
    result = run(tmp_path, "--shadow", places[1], "--attacks", "spv, loss")
    assert "without a score, counted as that attack's median: spv 30, loss 30" in result.stdout


def test_the_target_itself_is_no_shadow(places):
    with pytest.raises(SpvmiaError, match="--shadow: expected an audit of other records"):
        combine(places[0], [places[0]])


def test_a_run_without_samples_is_an_error(places, tmp_path):
    audited(tmp_path, number=4, with_samples=False)
    with pytest.raises(SpvmiaError, match="--shadow: expected the scores of each record"):
        combine(places[0], [tmp_path])


def test_a_run_of_two_data_sets_is_an_error(places, tmp_path):
    two = [fake_audit({"spv": 1.0}, dataset=name, fingerprint=f"{k:064d}") for k, name in ((7, "custom"), (8, "xsum"))]
    write_run(tmp_path, two)
    with pytest.raises(SpvmiaError, match="RESULTS: expected a run that audits one data set, got custom, xsum"):
        combine(tmp_path, [places[1]])


def test_audits_with_nothing_in_common_are_an_error(places, tmp_path):
    audited(tmp_path, {"rmia": 1.0}, number=5)
    with pytest.raises(SpvmiaError, match=r"--shadow: expected attacks of RESULTS \(spv, ez, loss\), got none"):
        combine(places[0], [tmp_path])


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    result = run(tmp_path / "nothing", "--shadow", tmp_path)
    assert result.exit_code == 1
    assert result.stderr.startswith("RESULTS: expected lm_eval's output folder")
