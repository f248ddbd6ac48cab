"""The report as JSON, and the command to repeat a run."""

from __future__ import annotations

import json
import shlex
import stat
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from spvmia_plugin.attacks import builtin_attacks
from spvmia_plugin.auditing.continuations import COMPARING, STAGE
from spvmia_plugin.cli.main import make_app
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.tpr import tpr_interval
from spvmia_plugin.report.command import command
from spvmia_plugin.report.facts import report_facts
from spvmia_plugin.report.figures import band_rates, curve
from spvmia_plugin.report.html import render
from spvmia_plugin.report.numbers import knowledge, stages
from spvmia_plugin.report.saving import write_page
from spvmia_plugin.results import read_latest
from spvmia_plugin.results.estimate import of_attack
from spvmia_plugin.util.redact import without_secrets
from spvmia_plugin.web.text import typed
from tests.report.conftest import reported
from tests.report.pages import Page
from tests.results.builders import fake_audit, fake_records, write_run


def run_cli(*arguments: object):
    return CliRunner().invoke(make_app(), ["report", *map(str, arguments)])


@pytest.fixture(scope="module")
def facts(plain_run):
    result = run_cli(plain_run.folder, "--json")
    assert result.exit_code == 0, result.output

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(result.stdout, parse_constant=refuse)


def test_json_is_unrounded(plain_run, facts):
    [audit] = facts["audits"]
    for attack in audit["attacks"]:
        row = plain_run.raw["results"][attack["task"]]
        for name, value in attack["results"].items():
            written = row[f"{name},none"]
            resolved = isinstance(written, float) and not np.isnan(written)
            assert value == (written if resolved else None)
    assert audit["strongest"] == plain_run.raw["configs"]["spv_mia_custom"]["metadata"]["mia_audit"]["strongest"]


def test_json_has_everything(facts):
    [audit] = facts["audits"]
    assert audit["verdict"]["level"] == "evidence"
    assert [attack["attack"]["name"] for attack in audit["attacks"]] == ["spv", "lira_base", "loss", "lira_candidate"]
    assert audit["blind_baseline"]["task"] == "bag_of_words_mia_custom"
    assert len(audit["exposure"]) == 150
    assert set(audit["exposure"][0]["attacks"]) <= {"spv", "lira_base", "loss"}
    assert audit["cost"]["scoring: target"]["forward_tokens"] == 183013
    assert audit["attacks"][0]["rests_on"] == ["reference", "paraphrases", "scoring: target", "scoring: reference"]
    assert audit["settings"]["mia_preset"] == "quick"
    assert facts["capabilities"][0]["value"] == 0.5123456
    assert facts["command"][:2] == ["lm_eval", "run"]


def test_what_an_accusation_is_worth(plain_run, facts, tmp_path):
    [audit] = facts["audits"]
    few = audit["strongest"][audit["strongest"]["low_end"]]
    fpr = {"tpr_at_1pct_fpr": 0.01, "tpr_at_5pct_fpr": 0.05}[audit["strongest"]["low_end"]]
    assert [row["prior"] for row in audit["precision"]] == [0.5, 0.1, 0.001]
    for row in audit["precision"]:
        odds = row["prior"] / (1 - row["prior"])
        shares = [few[part] * odds / (few[part] * odds + fpr) for part in ("value", "low", "high")]
        assert [row["value"], *row["interval"]] == pytest.approx(shares)

    asked = run_cli(plain_run.folder, "--json", "--prior", "1/4", "--prior", "0.3", "--output", tmp_path / "page.html")
    assert [row["prior"] for row in json.loads(asked.stdout)["audits"][0]["precision"]] == [0.25, 0.3]
    least = run_cli(plain_run.folder, "--prior", "1e-320", "--output", tmp_path / "least.html")
    assert least.exit_code == 0, least.output
    assert "1e-318 %" in (tmp_path / "least.html").read_text()
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "1 in 4" in page.text
    assert "30 %" in page.text
    assert "1 in 1,000" in Page(plain_run.page).text


def test_what_cannot_be_told_has_no_table(tmp_path, undrawn):
    few = reported(tmp_path / "few", fake_audit({"spv": 1.0}, records=fake_records(15, 15), findings=()))
    assert report_facts(few.run)["audits"][0]["precision"] == []
    assert "What an accusation is worth" not in few.page
    nothing = reported(tmp_path / "nothing", fake_audit({"lira_candidate": None}, findings=()))
    assert report_facts(nothing.run)["audits"][0]["precision"] == []


def test_a_prior_that_is_none_is_named(plain_run):
    result = run_cli(plain_run.folder, "--prior", "1:10")
    assert result.exit_code != 0
    assert "--prior: expected the share of members" in result.output


def test_files_of_before_the_interval_of_the_asr_are_read(tmp_path, undrawn):
    path = write_run(tmp_path, [fake_audit({"spv": 1.0}, findings=())])
    raw = json.loads(path.read_text(encoding="utf-8"))
    raw["configs"]["spv_mia_custom"]["metadata"]["mia_audit"]["metrics"].pop("asr_interval")
    path.write_text(json.dumps(raw), encoding="utf-8")
    [audit] = (run := read_latest(tmp_path)).audits
    assert np.isnan(of_attack(audit.tasks[0], "asr").low)
    assert of_attack(audit.tasks[0], "asr").value > 0.5
    assert "What an accusation is worth" in render(run)


def test_the_asr_has_its_interval(plain_run, facts):
    task = next(task for task in plain_run.run.audits[0].tasks if task.attack == "spv")
    told = of_attack(task, "asr")
    assert told.low < told.value < told.high
    [row] = [attack for attack in facts["audits"][0]["attacks"] if attack["attack"]["name"] == "spv"]
    assert row["metrics"]["asr_interval"] == [told.low, told.high]
    assert f'data-source="mia_audit/{task.task}/metrics/asr_interval/0"' in plain_run.page


def test_json_alone_writes_no_page(plain_run, tmp_path, facts):
    assert not (plain_run.folder / "report.html").exists()
    both = run_cli(plain_run.folder, "--json", "--output", tmp_path / "new" / "page.html")
    assert json.loads(both.stdout) == facts
    assert (tmp_path / "new" / "page.html").read_text(encoding="utf-8") == plain_run.page


def test_the_page_lies_in_the_results_folder_and_is_private(tmp_path, undrawn):
    path = write_run(tmp_path, [fake_audit({"loss": 1.0}, findings=())])
    result = run_cli(tmp_path)
    page = tmp_path / "report.html"
    assert result.stdout.splitlines()[-1] == str(page)
    assert "An outsider can tell" in result.stdout
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert run_cli(path).stdout.splitlines()[-1] == str(path.parent / "report.html")


def test_a_page_replaces_an_earlier_page_and_nothing_else(tmp_path, undrawn):
    write_run(tmp_path, [fake_audit({"spv": 1.2}, findings=())])
    run = read_latest(tmp_path)
    members = tmp_path / "members.jsonl"
    members.write_text('{"text": "SECRET"}')
    for _ in range(2):
        write_page(run, tmp_path / "page.html")
    with pytest.raises(SpvmiaError, match=r"^--output: expected a file that may be replaced, got .*members.jsonl"):
        write_page(run, members)
    assert members.read_text() == '{"text": "SECRET"}'


def test_figures_are_written_as_png_and_svg(tmp_path):
    write_run(tmp_path, [fake_audit({"spv": 1.0}, findings=())])
    result = run_cli(tmp_path, "--json", "--figures", tmp_path / "figures")
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    kinds = ["cost", "ranking", "roc-linear", "roc-log", "scatter-spv", "scores-spv"]
    assert names == [f"custom-{kind}.{suffix}" for kind in kinds for suffix in ("png", "svg")]
    assert all((tmp_path / "figures" / name).read_bytes()[:4] == b"\x89PNG" for name in names if name.endswith("png"))
    svgs = [(tmp_path / "figures" / name).read_text() for name in names if name.endswith("svg")]
    assert all("<metadata>" not in svg or "date" not in svg for svg in svgs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda place: [place / "absent"], "RESULTS: expected"),
        (lambda place: [place, "--output", place], "--output: expected a file, got the folder"),
        (lambda place: [place, "--output", place / "file" / "x.html"], "--output: cannot write"),
        (lambda place: [place, "--figures", place / "file"], "--figures: cannot write"),
    ],
)
def test_errors_are_one_line(plain_run, tmp_path, arguments, message):
    write_run(tmp_path, [fake_audit({"loss": None}, findings=())])
    (tmp_path / "file").write_text("")
    result = run_cli(*arguments(tmp_path))
    assert result.exit_code == 1
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1


def test_the_command_repeats_the_run(tmp_path):
    settings = {"mia_preset": "quick", "mia_members": "a file's.jsonl"}
    audit = fake_audit({"spv": 1.0, "loss": 0.0}, findings=(), settings=settings)
    write_run(
        tmp_path,
        [audit],
        model_args={"pretrained": "./my base", "token": "hf_abcdefghijklmnopqrstuvw", "add_bos_token": True},
        config={"limit": 50.0, "device": "cuda:0", "random_seed": 3},
    )
    words = command(read_latest(tmp_path))
    options = dict(zip(words[2::2], words[3::2], strict=False))
    assert options["--model"] == "hf"
    assert options["--model_args"] == "pretrained=./my base,token=***,add_bos_token=True"
    assert options["--tasks"] == "spv_mia_custom,loss_mia_custom"
    assert json.loads(options["--metadata"]) == settings
    assert options["--limit"] == "50"
    assert "--device" not in options  # the harness's own, of which nothing is known to be there
    assert options["--seed"] == "3,1234,1234,1234"
    assert words[-1] == "--log_samples"
    assert shlex.split(typed(words).replace("\\\n", " ")) == words


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_a_device_that_somebody_named_stands_in_the_command(plain_run, device):
    words = command(replace(plain_run.run, config={"device": device}))
    assert words[words.index("--device") + 1] == device


def test_no_command_names_a_model_that_was_in_memory(plain_run):
    config = {"model_args": {"pretrained": "LlamaForCausalLM(\n  (layer): Linear()\n)", "tokenizer": "./base"}}
    words = command(replace(plain_run.run, config=config))
    assert words[words.index("--model_args") + 1] == "pretrained=IN_MEMORY,tokenizer=./base"


def test_lm_eval_reads_the_command_back(plain_run):
    from lm_eval.__main__ import HarnessCLI

    words = command(plain_run.run)
    options = HarnessCLI()._subparsers.choices["run"].parse_args(words[2:])
    assert options.model_args == {"pretrained": "./base", "peft": "./adapter"}
    assert options.metadata == {"mia_preset": "quick", "mia_cache_dir": "./a folder/cache"}


@pytest.mark.parametrize(
    ("value", "clean"),
    [
        ({"token": "abc"}, {"token": "***"}),
        ({"hf_token": "abc", "api_key": "x", "header": {"Authorization": "y"}}, None),
        ({"add_bos_token": True, "tokenizer": "t", "prefix_token_id": 3}, "same"),
        ("pretrained=a,token=b", "pretrained=a,token=***"),
        ("pretrained=a,b,hf_token=c,d", "pretrained=a,b,hf_token=***,d"),
        (["https://user:pass@host/x"], ["https://***host/x"]),
        ({"note": "use hf_abcdefghijklmnopqrstuvw here"}, {"note": "use *** here"}),
        ({"mia_prompt_tokens": 16, "pad_token": None}, "same"),
    ],
)
def test_credentials_are_left_out(value, clean):
    expected = value if clean == "same" else dict.fromkeys(value, "***") if clean is None else clean
    assert without_secrets(value) == expected


def test_the_band_at_one_percent_is_the_reported_interval(tmp_path):
    write_run(tmp_path, [fake_audit({"spv": 1.5}, records=fake_records(200, 200, blocks=2), findings=())])
    [audit] = read_latest(tmp_path).audits
    found = curve(audit, audit.tasks[0])
    place = int(np.flatnonzero(found.band_fpr == 0.01)[0])
    assert [found.low[place], found.high[place]] == audit.told["metrics"]["tpr_at_1pct_fpr"]["interval"]
    rate = float(found.band_fpr[-5])
    codes = np.unique(audit.clusters(), return_inverse=True)[1]
    expected = tpr_interval(audit.scores(audit.tasks[0]), audit.labels(), codes, rate, 0.95)
    assert (found.low[-5], found.high[-5]) == pytest.approx(expected)


def test_band_rates_can_be_attained_and_are_few():
    assert band_rates(1) == []
    for n in (2, 60, 100, 5000):
        rates = band_rates(n)
        assert rates == sorted(set(rates))
        assert len(rates) <= 30
        assert rates[0] == 1 / n
        assert all(0 < rate < 1 for rate in rates)
    assert 0.01 in band_rates(100)
    assert 0.001 in band_rates(1000)
    assert 0.01 not in band_rates(99)


def test_what_attackers_saw_of_the_target_is_told(tmp_path):
    """Through an interface, and of attacks that see text alone; results of before it was recorded saw everything."""
    audit = fake_audit({"loss": 0.5, "surrogate": 0.3}, settings={"mia_api_view": "top_k:5"})
    write_run(tmp_path, [audit])
    told = {task.attack: task for task in read_latest(tmp_path).audits[0].tasks}
    assert told["loss"].mia_audit.attacker.api_view == "top_k:5"
    assert knowledge(told["loss"]) == "of the target the 5 most probable tokens' log-probabilities"
    assert knowledge(told["surrogate"]).startswith("of the target text alone, the base")
    [found] = report_facts(read_latest(tmp_path))["audits"]
    seen = {each["attack"]["name"]: each["attacker"]["api_view"] for each in found["attacks"]}
    assert seen == {"loss": "top_k:5", "surrogate": "text"}
    results = next(tmp_path.rglob("results_*.json"))
    raw = json.loads(results.read_text())
    for config in raw["configs"].values():
        config["metadata"]["mia_audit"]["attacker"].pop("api_view")
    results.write_text(json.dumps(raw))
    assert {knowledge(task) for task in read_latest(tmp_path).audits[0].tasks} == {"nothing else", "the base"}


def test_views_of_other_peoples_results_are_shown_safely(tmp_path):
    write_run(tmp_path, [fake_audit({"loss": 0.5}, settings={"mia_api_view": "rounded:2"})])
    results = next(tmp_path.rglob("results_*.json"))
    results.write_text(results.read_text().replace('"api_view": "rounded:2"', '"api_view": "top_k:\\u202e\\u0007"'))
    [task] = read_latest(tmp_path).audits[0].tasks
    assert task.mia_audit.attacker.api_view == "top_k:\u202e\a"
    assert knowledge(task).isprintable()


def test_an_attack_on_what_is_written_rests_on_no_scoring_of_the_target(tmp_path):
    write_run(tmp_path, [fake_audit({"ngram": 0.5, "surrogate": 0.3})])
    classes = {attack.name: attack for attack in builtin_attacks()}
    for task in read_latest(tmp_path).audits[0].tasks:
        names = ("scoring: target", "scoring: base", "scoring: reference", "reference", STAGE, COMPARING)
        spent = {name: {"seconds": 1.0} for name in names}
        told = replace(task, mia_audit=replace(task.mia_audit, cost=spent))
        expected = {"ngram": [STAGE], "surrogate": ["scoring: base", "scoring: reference", "reference"]}
        assert stages(told, classes) == expected[task.attack]
