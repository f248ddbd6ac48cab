"""benchmarks/paper: what is planned, what is computed from results, what is rendered; one tiny cell for real."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import statistics
from pathlib import Path

import numpy as np
import pytest

from benchmarks.paper import aggregate, claims, collect, import_cell, run, steps, tables
from benchmarks.paper.aggregate import Mean, Point, difference, mean, surviving
from benchmarks.paper.cells import (
    RESULTS,
    Cell,
    ablation_cells,
    canonical,
    missing_attacks,
    not_run,
    read_summaries,
    shard,
    summary_path,
    write_summary,
)
from benchmarks.paper.commands import Place, finetune_words
from benchmarks.paper.estimate import START_SECONDS, Rates, measured_rates, seconds_needed
from benchmarks.paper.settings import ABLATIONS, ATTACKS, PROTOCOLS
from benchmarks.paper.steps import Steps
from benchmarks.paper.summary import DERIVED, merge, summarise_audit, tokens_alone
from spvmia_plugin.combination import Scored, compare, fit
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.data.manifest import MANIFEST_NAME, Manifest, write_manifest
from spvmia_plugin.data.origin import DataOrigin
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import Piece
from spvmia_plugin.training.config import FinetuneConfig
from tests.results.builders import fake_audit, fake_records, write_run
from tests.tiny import save_tiny, tiny_texts

MEDIUM = Cell("ag_news", "base", "cpu", "lora", "medium")
RATES = {"score": 1e-3, "train": 4e-3, "generate": 1e-2}


def entry(value, *, stderr=0.02, tpr=0.1, n=250):
    """The numbers of one attack in a summary."""
    point = {"value": tpr, "stderr": 0.05, "interval": [max(tpr - 0.08, 0), tpr + 0.08]}
    unresolved = {"value": None, "stderr": None, "interval": [None, None]}
    return {
        "auroc": value,
        "auroc_stderr": stderr,
        "auroc_interval": [value - 0.04, value + 0.04],
        "tpr_at_1pct_fpr": point,
        "tpr_at_0.1pct_fpr": unresolved,
        "n_members": n,
        "n_nonmembers": n,
        "tokens_alone": {"scored": 32000, "written": 0, "trained": 0},
    }


def summary(attacks=ATTACKS, *, at=0.7, target="weights", settings=None):
    return {
        "target": target,
        "finetune": {"command": "spvmia finetune ...", "seconds": 480.0, "tokens": 48000, "settings": {}},
        "audits": [
            {
                "command": "spvmia run ...",
                "attacks": list(attacks),
                "settings": settings or {"mia_seed": 0},
                "versions": {"torch": "2.13.0"},
                "cost": {"scoring: target": {"seconds": 100.0, "forward_tokens": 1e5}},
                "rates": RATES,
            }
        ],
        "attacks": {name: entry(round(at + i / 100, 3)) for i, name in enumerate(attacks)},
        "derived": {name: entry(0.6) for name in DERIVED},
    }


@pytest.fixture
def place(tmp_path):
    data = {"ag_news": "ag_news.jsonl"}
    return Place(work=tmp_path / "work", models={"base": "./base"}, data=data, cache=tmp_path / "cache")


def make_target(place, cell):
    folder = place.work / "targets" / cell.target
    folder.mkdir(parents=True)
    (folder / MANIFEST_NAME).write_text("{}")


# The settings


@functools.cache
def every_cell():
    return tuple(_every_cell())


def _every_cell():
    for protocol, its in PROTOCOLS.items():
        for strength in its.strengths:
            main = Cell("ag_news", "base", protocol, "lora", strength)
            yield main
            for name in ABLATIONS:
                yield from ablation_cells(main, name)


def test_every_setting_is_accepted_by_the_commands_and_has_a_name_of_its_own():
    cells = every_cell()
    assert len({cell.name for cell in cells}) == len(cells)
    for cell in cells:
        assert re.fullmatch(r"[\w.-]+", cell.name)
        AuditConfig.from_metadata(cell.audit_options())
        options = {key.replace("-", "_"): value for key, value in cell.finetune_options().items()}
        FinetuneConfig(model="m", data="d", output="o", **options)


def test_cells_share_a_target_exactly_if_they_are_fine_tuned_alike():
    by_target = {}
    for cell in every_cell():
        how = json.dumps([cell.finetune_options(), cell.change.peft, cell.protocol], sort_keys=True)
        assert by_target.setdefault(cell.target, how) == how
    assert len(set(by_target.values())) == len(by_target)


SAME = {
    ("calibration", "self-prompt"): MEDIUM,
    ("self_prompts", "250"): MEDIUM,
    ("self_prompts_equal_steps", "250"): MEDIUM,
    ("prompt_length", "16"): MEDIUM,
    ("prompt_source", "same data"): MEDIUM,
    ("perturbation", "causal"): MEDIUM,
    ("pairs", "2"): MEDIUM,
    ("rate", "0.2"): MEDIUM,
    ("noise", "0.3"): dataclasses.replace(MEDIUM, ablation="perturbation", setting="embedding"),
    ("reference_epochs", "3"): MEDIUM,
    ("reference_lr", "1"): MEDIUM,
    ("reference_rank", "16"): MEDIUM,
    ("method", "lora"): MEDIUM,
    ("quantisation", "bfloat16"): MEDIUM,
    ("times_seen", "2"): dataclasses.replace(MEDIUM, strength="light"),
    ("times_seen", "3"): MEDIUM,
    ("times_seen", "6"): dataclasses.replace(MEDIUM, strength="heavy"),
}


def test_what_another_cell_does_is_read_from_there_and_not_run_again():
    cells = [
        dataclasses.replace(MEDIUM, ablation=name, setting=s) for name, its in ABLATIONS.items() for s in its.settings
    ]
    assert {(cell.ablation, cell.setting): canonical(cell) for cell in cells if canonical(cell) != cell} == SAME
    run_ = [cell for name in ABLATIONS for cell in ablation_cells(MEDIUM, name)]
    assert set(run_) == {cell for cell in cells if canonical(cell) == cell and cell.setting != "64"} | {
        dataclasses.replace(MEDIUM, ablation="reference_rank", setting="64")
    }


def test_a_prompt_as_long_as_a_record_is_not_run():
    cell = dataclasses.replace(MEDIUM, ablation="prompt_length", setting="64")
    assert "64 tokens, leaves nothing to write" in not_run(cell)
    assert not_run(dataclasses.replace(cell, setting="48")) == ""
    assert not_run(dataclasses.replace(cell, protocol="paper")) == ""  # its records have 128


def test_shards_take_every_cell_once_and_keep_targets_together():
    mains = [dataclasses.replace(MEDIUM, seed=seed) for seed in range(3)]
    cells = [cell for main in mains for cell in (main, *ablation_cells(main, "pairs"))]
    shares = [shard(cells, i, 2) for i in range(2)]
    assert sorted(cells) == sorted([*shares[0], *shares[1]])
    assert not {c.target for c in shares[0]} & {c.target for c in shares[1]}


# Plan, estimate, resuming


def test_finished_cells_are_skipped_and_missing_attacks_need_the_same_target(place):
    others = [dataclasses.replace(MEDIUM, seed=seed) for seed in (1, 2)]
    part = [name for name in ATTACKS if name not in ("recall", "rmia")]
    summaries = {MEDIUM: summary(), others[0]: summary(part), others[1]: summary(part)}
    make_target(place, others[1])
    tasks = run.plan([MEDIUM, *others], summaries, place)
    assert [(task.cell.seed, list(task.attacks)) for task in tasks] == [(1, list(ATTACKS)), (2, ["recall", "rmia"])]
    assert tasks[1].seconds < tasks[0].seconds


def test_the_estimate_is_tokens_times_measured_seconds():
    rates = measured_rates({MEDIUM: summary()}, "base", "cpu")
    assert rates == Rates(finetune=0.01, **RATES)
    need = seconds_needed(MEDIUM, ["loss"], rates, has_target=False, has_main=False)
    finetuning, scoring = 250 * 64 * 3 * 0.01, 500 * 64 * 1e-3
    assert need == pytest.approx(START_SECONDS + finetuning + scoring)
    assert seconds_needed(MEDIUM, ["loss"], rates, has_target=True, has_main=False) == pytest.approx(need - finetuning)
    assert measured_rates({MEDIUM: summary()}, "another", "cpu") == Rates(None, None, None, None)
    assert seconds_needed(MEDIUM, ["spv"], Rates(None, *RATES.values()), has_target=False, has_main=False) is None


def test_an_ablation_pays_for_what_it_changes():
    rates, text = Rates(0.01, **RATES), 500 * 64 * 1e-3
    writing, training = 250 * 48 * 1e-2, 250 * 3 * 64 * 4e-3

    def seconds(name, setting, *, has_main=True):
        cell = dataclasses.replace(MEDIUM, ablation=name, setting=setting)
        attacks = cell.attacks
        return seconds_needed(cell, attacks, rates, has_target=True, has_main=has_main) - START_SECONDS

    both_sides = (1 + 2 * 5) * text * 2 + text  # 5 pairs under target and reference, and the pass that draws them
    assert seconds("pairs", "5") == pytest.approx(both_sides)
    assert seconds("reference_rank", "8") == pytest.approx((1 + 4) * text + writing + training)
    assert seconds("pairs", "5", has_main=False) == pytest.approx(both_sides + writing + training)


def test_tokens_of_an_attack_alone():
    settings = {"mia_block_size": 64, "mia_preset": "quick", "mia_perturbations": 2}
    assert tokens_alone("loss", settings, 1000, 0) == {"scored": 1000, "written": 0, "trained": 0}
    spv = tokens_alone("spv", settings, 1000, 0)
    assert spv == {"scored": 2 * (1 + 4) * 1000 + 1000, "written": 250 * 48, "trained": 250 * 3 * 64}
    assert tokens_alone("lira_base", settings, 1000, 0)["scored"] == 2000


class Runs:
    """Stands in for `Steps`: remembers what it was asked for."""

    def __init__(self, monkeypatch, fails=()):
        monkeypatch.setattr(run, "Steps", self)
        monkeypatch.setattr(run, "environment", lambda place: {})
        self.done, self.fails = [], fails

    def __call__(self, cell, place):
        runs = self

        class Fake:
            def run(self, attacks):
                runs.done.append((cell, tuple(attacks)))
                if cell.seed in runs.fails:
                    raise SpvmiaError("finetune: failed")
                return summary(attacks)

        return Fake()


def options_for(tmp_path, *more):
    common = ["--model", "base", "--data", "ag_news=ag_news.jsonl", "--work", str(tmp_path / "work")]
    return [*common, "--results", str(tmp_path / "results"), *more]


def test_a_run_does_what_is_missing_and_a_failure_does_not_stop_the_rest(tmp_path, monkeypatch, capsys):
    runs = Runs(monkeypatch, fails=[1])
    arguments = options_for(tmp_path, "--seeds", "0,1,2")
    assert run.main(arguments) == 1
    assert [cell.seed for cell, _ in runs.done] == [0, 1, 2]
    assert "finetune: failed" in capsys.readouterr().err
    again = Runs(monkeypatch)
    assert run.main(arguments) == 0
    assert [(cell.seed, attacks) for cell, attacks in again.done] == [(1, ATTACKS)]
    assert set(read_summaries(tmp_path / "results")) == {dataclasses.replace(MEDIUM, seed=s) for s in range(3)}
    assert run.main(arguments) == 0
    assert len(again.done) == 1


def test_only_the_attacks_that_are_asked_for_are_run(tmp_path, monkeypatch, capsys):
    runs = Runs(monkeypatch)
    arguments = options_for(tmp_path, "--ablation", "pairs", "--only", "*pairs-5*")
    assert run.main([*arguments, "--attacks", "spv,loss"]) == 0
    assert [attacks for _, attacks in runs.done] == [("spv",)]
    assert run.main([*arguments, "--attacks", "spv,loss"]) == 0
    assert len(runs.done) == 1
    with pytest.raises(SystemExit):
        run.main([*arguments, "--attacks", "spw"])
    assert "expected names of spv" in capsys.readouterr().err


@pytest.mark.parametrize(("other", "pretrained_on"), [([], "ag_news"), (["--other", "wikitext=w.jsonl"], "wikitext")])
def test_the_small_base_is_pretrained_on_another_domain_where_one_is_given(tmp_path, monkeypatch, other, pretrained_on):
    seen = {}

    def fake(model, data, files):
        seen.update(data)
        return {name: f"unseen half of {name}" for name in data}

    monkeypatch.setattr("benchmarks.paper.pretrain.pretrain", fake)
    arguments = ["--pretrain", "--data", "ag_news=a.jsonl", "--work", str(tmp_path), *other]
    place = run.make_place(run.read_options(arguments))
    assert list(seen) == [pretrained_on]
    assert place.data == {"ag_news": "a.jsonl", **dict(o.split("=") for o in other[1:])} | {
        pretrained_on: f"unseen half of {pretrained_on}"
    }


def test_the_budget_ends_before_a_cell_that_would_not_fit(tmp_path, monkeypatch, capsys):
    runs = Runs(monkeypatch)
    run.main(options_for(tmp_path, "--seeds", "0,1", "--budget", "5"))
    assert [cell.seed for cell, _ in runs.done] == [0]  # nothing was measured before it, so it was tried
    out = capsys.readouterr().out
    assert "2 cells to run, about 0 s and 2 not known yet" in out
    assert re.search(r"stopped before \S+seed1: \d+ min needed", out)


def test_what_cannot_run_here_is_listed_with_the_reason(tmp_path, monkeypatch, capsys):
    Runs(monkeypatch)
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    run.main(options_for(tmp_path, "--plan", "--ablation", "perturbation", "quantisation", "calibration"))
    out = capsys.readouterr().out
    assert "perturbation-mask_fill__seed0: 3 attacks, needs --mask-model" in out
    assert "quantisation-8-bits__seed0: 8 attacks, needs bitsandbytes" in out
    assert "calibration-candidate__seed0: 3 attacks, needs --other" in out
    assert "calibration-oracle__seed0: 3 attacks, not known yet" in out


def test_commands_are_shown_without_the_folders_of_this_machine(place, tmp_path):
    words = finetune_words("./base", "ag_news.jsonl", place.work.absolute() / "targets" / "t", {"lr": 2e-4, "seed": 0})
    assert words[-4:] == ["--lr", "0.0002", "--seed", "0"]
    model = str(Path("./base").absolute())
    shown = place.shown([*words, f"pretrained={model},peft={place.work.absolute()}/t"])
    assert str(tmp_path) not in shown
    assert "--output $WORK/targets/t" in shown
    assert "pretrained=$MODEL_BASE,peft=$WORK/t" in shown


# From results to a summary


@pytest.fixture
def audited(tmp_path):
    """A results folder of an audit of 300 records in documents of 2, and a target with their manifest."""
    records = fake_records(150, 150, blocks=2)
    settings = {"mia_block_size": 64, **{k: v for k, v in MEDIUM.audit_options().items() if k != "mia_seed"}}
    strengths = {"spv": 1.6, "loss": 0.3, "lira_base": 1.0, "lira_candidate": None}
    write_run(tmp_path / "results", [fake_audit(strengths, records=records, settings=settings)])
    by_class = {name: tuple(dataclasses.replace(r, pieces=(Piece(0, 0, 1),)) for r in records if r.is_member is member)
                for name, member in (("members", True), ("nonmembers", False))}  # fmt: skip
    finetuned = {key.replace("-", "_"): value for key, value in MEDIUM.finetune_options().items()}
    (tmp_path / "target").mkdir()
    write_manifest(
        Manifest(
            base_model="base",
            method="lora",
            data=DataOrigin("/private/records.jsonl", "text", 64, "random", 0),
            settings=finetuned,
            versions={},
            records={**by_class, "prompts": (), "canaries": ()},
            fingerprint_key="00" * 32,
            fingerprint="x",
            training={"seconds": 10.0, "tokens": 1000, "losses": [4.0], "steps": 3},
        ),
        tmp_path / "target" / MANIFEST_NAME,
    )
    (tmp_path / "target" / "adapter_model.safetensors").write_bytes(b"weights")
    return tmp_path


def test_an_audit_of_another_target_is_not_taken_for_this_one(audited, monkeypatch):
    """A cell's results folder outlives a change of its recipe: what lies there may be of other weights."""
    cell = dataclasses.replace(MEDIUM, strength="heavy")
    work = audited / "work"
    (work / "targets").mkdir(parents=True)
    target = (audited / "target").rename(work / "targets" / cell.target)
    manifest = json.loads((target / MANIFEST_NAME).read_text())
    manifest["settings"]["epochs"] = 6
    (target / MANIFEST_NAME).write_text(json.dumps(manifest))
    place = Place(work, {"base": str(audited)}, {"ag_news": "x"}, audited / "cache")
    _, output = Steps(cell, place).audit_command(["spv", "loss"])
    output.parent.mkdir(parents=True)
    (audited / "results").rename(output)
    ran = []
    monkeypatch.setattr(steps, "execute", lambda words, *_: ran.append(words))
    Steps(cell, place, ran.append).run(["spv", "loss"])
    assert [words[:2] for words in ran if isinstance(words, list)] == [["spvmia", "run"]]


def test_a_target_of_another_recipe_is_an_error(audited):
    options = MEDIUM.finetune_options() | {"lora-rank": 4}
    place = Place(audited, {}, {}, audited / "cache")
    with pytest.raises(SpvmiaError, match=r"--work: expected a target fine-tuned with --lora-rank 4, got one with 16"):
        steps.make_target([], audited / "target", options, place, audited / "log")
    steps.make_target([], audited / "target", MEDIUM.finetune_options(), place, audited / "log")


def samples(folder, attack):
    path = next(folder.rglob(f"samples_{attack}_mia_custom_*.jsonl"))
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_summary_holds_the_numbers_of_the_results_and_names_no_record(audited):
    found = summarise_audit(audited / "results", audited / "target", "spvmia run ...")
    raw = json.loads(next((audited / "results").rglob("results_*.json")).read_text())
    for attack in ("spv", "loss", "lira_base"):
        row = raw["results"][f"{attack}_mia_custom"]
        assert found["attacks"][attack]["auroc"] == row["auroc,none"]
        assert found["attacks"][attack]["tpr_at_1pct_fpr"]["value"] == row["tpr_at_1pct_fpr,none"]
        assert found["attacks"][attack]["n_members"] == 150
    assert found["attacks"]["lira_candidate"]["auroc"] is None
    assert sum(found["attacks"]["lira_candidate"]["unscored"].values()) == 300
    assert found["audits"][0]["rates"]["score"] == pytest.approx((513.7867665 + 261.519236) / (183013 + 140800))
    text = json.dumps(found)
    assert "records.jsonl:" not in text
    assert str(audited) not in text


def test_the_difference_without_variation_is_that_of_the_two_means(audited):
    found = summarise_audit(audited / "results", audited / "target", "")["derived"]
    rows = [(json.loads(s["resps"][0][0]), s["doc"]["is_member"]) for s in samples(audited / "results", "spv")]
    scores = {
        "spv without variation": lambda r: math.exp(r["target"]) - math.exp(r["reference"]),
        "spv without variation, logarithms": lambda r: r["target"] - r["reference"],
        "spv without variation, ratio": lambda r: r["reference"] / r["target"],
    }
    assert set(scores) == set(found)
    for name, score in scores.items():
        members = [score(row) for row, member in rows if member]
        others = [score(row) for row, member in rows if not member]
        wins = sum((a > b) + (a == b) / 2 for a in members for b in others)
        assert found[name]["auroc"] == pytest.approx(wins / (len(members) * len(others)))
        assert found[name]["n_clusters"] == 150


def test_any_attack_with_the_self_prompted_reference_gives_the_difference(audited, tmp_path):
    records = fake_records(150, 150, blocks=2)
    settings = {"mia_block_size": 64, **{k: v for k, v in MEDIUM.audit_options().items() if k != "mia_seed"}}
    write_run(tmp_path / "another", [fake_audit({"spv_ez": 1.6}, records=records, settings=settings)])
    found = summarise_audit(tmp_path / "another", audited / "target", "")["derived"]
    assert set(found) == set(DERIVED)
    write_run(tmp_path / "none", [fake_audit({"loss": 1.6}, records=records, settings=settings)])
    assert summarise_audit(tmp_path / "none", audited / "target", "")["derived"] == {}


def import_arguments(audited, *more):
    named = ["--data", "ag_news", "--base-name", "base", "--target", str(audited / "target")]
    return [*named, "--output-path", str(audited / "results"), "--results", str(audited / "summaries"), *more]


def test_an_imported_cell_says_what_it_lacks_and_its_target_is_found_again(audited, capsys, place):
    import_cell.main(import_arguments(audited, "--work", str(place.work)))
    assert "missing: spv_ez, spv_wbc, neighbour" in capsys.readouterr().out
    summaries = read_summaries(audited / "summaries")
    assert set(ATTACKS) - set(missing_attacks(MEDIUM, summaries[MEDIUM])) == {
        *("spv", "loss", "lira_base", "lira_candidate")
    }
    tasks = run.plan([MEDIUM], summaries, place)
    assert list(tasks[0].attacks) == missing_attacks(MEDIUM, summaries[MEDIUM])
    assert list((place.work / "results" / MEDIUM.name).glob("imported/samples_spv_*"))
    import_cell.main(import_arguments(audited))
    assert "nothing new" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "complaint"),
    [(["--strength", "heavy"], "--epochs 6"), (["--seed", "3"], "--seed 3"), (["--method", "full"], "--method full")],
)
def test_a_target_of_another_recipe_is_not_imported(audited, more, complaint):
    with pytest.raises(SpvmiaError, match=re.escape(f"--target: expected {complaint}")):
        import_cell.main(import_arguments(audited, *more))


def test_an_audit_with_other_options_is_not_imported(audited):
    wrong = ["--ablation", "perturbation", "--setting", "embedding"]
    with pytest.raises(SpvmiaError, match=r"expected mia_perturbation 'embedding'.*got 'causal'"):
        import_cell.main(import_arguments(audited, *wrong))


def test_later_attacks_join_a_summary_of_the_same_target_and_settings():
    old, new = summary(["spv", "loss"], at=0.6), summary(["loss", "rmia"], at=0.8)
    both = merge(old, new)
    assert {name: numbers["auroc"] for name, numbers in both["attacks"].items()} == {
        "spv": 0.6,
        "loss": 0.8,
        "rmia": 0.81,
    }
    assert len(both["audits"]) == 2
    with pytest.raises(SpvmiaError, match="the same weights"):
        merge(old, summary(["rmia"], target="other"))
    with pytest.raises(SpvmiaError, match="mia_seed"):
        merge(old, summary(["rmia"], settings={"mia_seed": 1}))


def test_committed_summaries_are_of_their_cells_and_hold_no_ids_or_places():
    paths = sorted(RESULTS.glob("*.json"))
    assert paths
    for path in paths:
        text = path.read_text(encoding="utf-8")
        cell = Cell(**json.loads(text)["cell"])
        assert summary_path(cell) == path
        assert not re.search(r"/tmp/|/home/|\.(jsonl|csv|json|txt):\d", text)


# Means and tables


def test_one_seed_has_its_own_interval_and_equal_seeds_none_narrower_than_the_records_allow():
    assert mean([Point(0.7, 0.02, 0.66, 0.73)]) == aggregate.Mean(0.7, 0.66, 0.73, (0.7,))
    equal = mean([Point(0.7, 0.02, 0, 1)] * 4)
    assert (equal.low, equal.high) == pytest.approx((0.7 - 1.96 * 0.01, 0.7 + 1.96 * 0.01), abs=1e-4)
    apart = mean([Point(value, 0.001, 0, 1) for value in (0.6, 0.7, 0.8)])
    assert apart.high - apart.value == pytest.approx(4.302653 * 0.1 / math.sqrt(3), abs=1e-5)
    assert math.isnan(mean([]).value)
    assert math.isnan(mean([Point(math.nan, math.nan, math.nan, math.nan)]).value)


@pytest.mark.parametrize("between", [0.0, 1.0, 3.0])
def test_intervals_over_three_seeds_cover(between):
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(1000):
        values = 0.7 + 0.01 * (between * rng.standard_normal(3) + rng.standard_normal(3))
        found = mean([Point(value, 0.01, 0, 1) for value in values])
        covered += found.low <= 0.7 <= found.high
    assert covered / 1000 >= 0.915


def test_differences_are_paired_by_seed():
    found = difference([0.8, 0.9, 0.7], [0.7, 0.8, 0.6])
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert math.isnan(difference([0.8], [0.7]).low)


@pytest.fixture
def summaries():
    """Three seeds on two data sets, one of which lacks two attacks, and an ablation with one seed."""
    found = {}
    for data, base in (("ag_news", 0.6), ("wikitext", 0.62)):
        attacks = ATTACKS if data == "ag_news" else [name for name in ATTACKS if name not in ("recall", "rmia")]
        for seed in range(3):
            cell = dataclasses.replace(MEDIUM, data=data, seed=seed)
            found[cell] = summary(attacks, at=base + seed / 1000)
            found[cell]["attacks"]["spv"] = entry(0.85 + seed / 100, tpr=0.3)
            found[cell]["attacks"]["spv_wbc"] = entry(0.94 + seed / 100, tpr=0.5)
    found[dataclasses.replace(MEDIUM, ablation="pairs", setting="5")] = summary(("spv", "neighbour", "detectgpt"))
    return found


def cells_of(line):
    return [part.strip() for part in line.strip("|").split("|")]


def test_the_table_prints_the_numbers_of_the_summaries(summaries):
    text = tables.main_tables(summaries)
    part = text[text.index("### ag_news, medium") : text.index("### wikitext, medium")]
    rows = {cells_of(line)[0].strip("`"): cells_of(line) for line in part.splitlines() if line.startswith("| `")}
    assert set(rows) == set(ATTACKS)
    for attack, row in rows.items():
        numbers = [summaries[dataclasses.replace(MEDIUM, seed=seed)]["attacks"][attack] for seed in range(3)]
        aurocs = [n["auroc"] for n in numbers]
        tprs = [n["tpr_at_1pct_fpr"]["value"] for n in numbers]
        assert row[1].startswith(f"{statistics.fmean(aurocs):.3f} [")
        assert row[2] == ", ".join(f"{value:.3f}" for value in aurocs)
        assert row[3].startswith(f"{statistics.fmean(tprs):.3f} [")
        assert row[4] == "not resolved"
        assert row[5] == "3 x 250+250"
        assert row[6] == "32"  # 32,000 tokens at a millisecond
    assert "Not run yet: recall, rmia." in text[text.index("### wikitext") :]
    loss = statistics.fmean(
        summaries[dataclasses.replace(MEDIUM, seed=s)]["attacks"]["loss"]["auroc"] for s in range(3)
    )
    assert f"the loss attack is at AUROC {loss:.3f}" in part


def test_claims_say_what_holds_by_the_numbers(summaries):
    rows = {cells_of(line)[0]: cells_of(line)[1:] for line in claims.claims(summaries).splitlines() if "|" in line}
    gain = statistics.fmean(
        summaries[dataclasses.replace(MEDIUM, seed=s)]["attacks"]["spv"]["auroc"]
        - summaries[dataclasses.replace(MEDIUM, seed=s)]["attacks"]["loss"]["auroc"]
        for s in range(3)
    )
    measured, holds = rows["ag_news: `spv` above `loss` in mean AUROC"]
    assert measured.startswith(f"{gain:+.3f} [")
    assert holds == "yes"
    assert rows["the mean AUROC over the data sets of the best attack that is no paper baseline is at least 0.92"] == [
        # 1.96 * sqrt(0.02**2 / 2 / 3): two data sets, three seeds that differ by less than their records explain
        "`spv_wbc` 0.950 [0.934, 0.966], 2 data sets, 3 seeds, n 250+250",
        "yes",
    ]
    assert rows["its TPR at 1 % FPR is at least twice the best paper baseline's"][1] == "yes"
    assert rows["the same, of the baselines that are given no true records"][1] == "yes"
    for seed in range(3):
        for data in ("ag_news", "wikitext"):
            oracle = summaries[dataclasses.replace(MEDIUM, data=data, seed=seed)]["attacks"]
            oracle["lira_candidate"] = entry(0.99, tpr=0.9)
    rows = {cells_of(line)[0]: cells_of(line)[1:] for line in claims.claims(summaries).splitlines() if "|" in line}
    assert rows["its TPR at 1 % FPR is at least twice the best paper baseline's"][1] == "no"
    assert rows["the same, of the baselines that are given no true records"][1] == "yes"
    for cell_summary in summaries.values():
        for name in cell_summary["attacks"]:
            cell_summary["attacks"][name] = entry(0.55, tpr=0.2)
    worse = claims.claims(summaries)
    assert "| yes |" not in worse


def test_a_claim_of_twice_as_much_has_the_error_of_both(summaries):
    """The baseline is measured on the same records: twice of it is taken away seed by seed, and is no exact bound."""
    for seed, (ours, theirs) in enumerate([(0.30, 0.02), (0.32, 0.13), (0.34, 0.03)]):
        for data in ("ag_news", "wikitext"):
            attacks = summaries[dataclasses.replace(MEDIUM, data=data, seed=seed)]["attacks"]
            for name in attacks:
                attacks[name] = entry(attacks[name]["auroc"], tpr=0.0)
            attacks["spv_wbc"], attacks["lira_base"] = entry(0.95, tpr=ours), entry(0.7, tpr=theirs)
    rows = {cells_of(line)[0]: cells_of(line)[1:] for line in claims.claims(summaries).splitlines() if "|" in line}
    measured, holds = rows["the same, of the baselines that are given no true records"]
    # 0.26, 0.06 and 0.28: their mean 0.2, and 4.303 * 0.1217 / sqrt(3)
    assert "less twice of it +0.200 [-0.102, +0.502]" in measured
    assert holds == "in the mean, not the whole interval"


def test_what_survives_is_benjamini_and_hochbergs_own_count():
    """The k smallest p values are kept, k the largest with p_(k) <= 0.05 k / m."""
    rng = np.random.default_rng(0)
    found = {i: difference(rng.normal(0.5 * (i % 4 == 0), 0.1, 3), np.zeros(3)) for i in range(60)}
    found |= {"one value": difference([3.0], [0.0]), "equal": difference([0.2, 0.2], [0.0, 0.0])}
    found["nothing"] = difference([0.1, 0.1], [0.1, 0.1])
    p = {"equal": 0.0, "nothing": 1.0}
    for i in range(60):
        values = found[i].values
        t = abs(statistics.fmean(values)) / (statistics.stdev(values) / math.sqrt(3))
        p[i] = 1 - t / math.sqrt(t * t + 2)  # Student's t with 2 degrees of freedom in closed form
    order = sorted(p, key=p.__getitem__)
    count = max(k for k, name in enumerate(order, 1) if p[name] <= 0.05 * k / len(p))
    assert surviving(found) == set(order[:count])
    assert 1 < count < 20
    assert surviving({"one value": Mean(1.0, math.nan, math.nan, (1.0,))}) == set()


def test_an_ablation_shows_the_main_cell_as_one_of_its_settings(summaries):
    text = tables.ablation_tables(summaries)
    part = text[text.index(ABLATIONS["pairs"].question) :]
    part = part[: part.index("###", 5)]
    rows = {cells_of(line)[0]: cells_of(line) for line in part.splitlines() if line.startswith("| ")}
    assert rows["2 (the main cell)"][1].startswith("0.860 [")
    assert rows["5"][1].startswith("0.700 [0.660, 0.740]")
    assert rows["5"][-2:] == ["1", "250+250"]
    assert "Not run yet: 1, 3, 10, 20." in part
    assert "Not run yet: `--ablation rate`." in text


def test_an_ablation_shows_what_it_changes_seed_by_seed(summaries):
    for seed, gain in enumerate((0.01, 0.02, 0.03)):
        cell = dataclasses.replace(MEDIUM, ablation="pairs", setting="5", seed=seed)
        summaries[cell] = summary(("spv",))
        summaries[cell]["attacks"]["spv"] = entry(0.85 + seed / 100 + gain)
    text = tables.ablation_tables(summaries)
    part = text[text.index(ABLATIONS["pairs"].question) :]
    rows = {cells_of(line)[0]: cells_of(line) for line in part.splitlines() if line.startswith("| ")}
    assert rows["5"][1].endswith("; Δ +0.020 [-0.005, +0.045]")  # 4.303 * 0.01 / sqrt(3)
    assert "Δ" not in rows["2 (the main cell)"][1]
    assert "Below stand 1 with an interval, and 0 of these do not hold 0" in text


def test_what_survives_the_count_of_all_differences_is_marked(summaries):
    """p = .007 and, of 12 and 100 times the spread, nothing: one of three is marked."""
    for setting, gains in (("5", (0.019, 0.02, 0.021)), ("10", (0.01, 0.02, 0.09)), ("20", (-0.01, 0.0, 0.01))):
        for seed, gain in enumerate(gains):
            cell = dataclasses.replace(MEDIUM, ablation="pairs", setting=setting, seed=seed)
            summaries[cell] = summary(("spv",))
            summaries[cell]["attacks"]["spv"] = entry(0.85 + seed / 100 + gain)
    text = tables.ablation_tables(summaries)
    part = text[text.index(ABLATIONS["pairs"].question) :]
    rows = {cells_of(line)[0]: cells_of(line)[1] for line in part.splitlines() if line.startswith("| ")}
    assert rows["5"].endswith("; Δ +0.020 [+0.018, +0.022]*")
    assert [setting for setting, told in rows.items() if told.endswith("*")] == ["5"]
    assert "`*` marks the 1 that survive Benjamini and Hochberg's procedure over all 3" in text


def test_gains_are_of_the_same_records(summaries):
    rows = {cells_of(line)[0]: cells_of(line)[1:] for line in tables.gain_table(summaries).splitlines() if "|" in line}
    apart = [
        summaries[dataclasses.replace(MEDIUM, seed=s)]["attacks"]["spv_ez"]["auroc"]
        - summaries[dataclasses.replace(MEDIUM, seed=s)]["attacks"]["ez"]["auroc"]
        for s in range(3)
    ]
    assert rows["base, ag_news, medium"][0].startswith(tables.signed(difference(apart, [0.0] * 3)))
    assert rows["base, ag_news, medium"][-1] == "3"


INTERVAL = re.compile(r"(\d\.\d{3}) \[(-?\d\.\d{3}), (-?\d\.\d{3})\](\*?)")


def test_the_page_is_what_the_results_give_and_its_prose_says_nothing_else():
    """What is made is made from the results that lie here; each interval of the prose stands in what is made."""
    page = (collect.ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    summaries, made, prose = read_summaries(RESULTS), "", page
    for name, section in collect.SECTIONS.items():
        content = section(summaries)
        assert collect.filled(page, name, content) == page, name
        made, prose = f"{made}\n{content}", collect.filled(prose, name, "")
    content = tables.combination_table(collect.read_combinations(RESULTS), summaries)
    assert collect.filled(page, "combination", content) == page
    made, prose = f"{made}\n{content}".replace("+", ""), collect.filled(prose, "combination", "")
    prose = prose[prose.index("## What is there") :]  # before it stands another context, whose summary is not here
    known = set(re.findall(r"(-?\d\.\d{3}) \[(-?\d\.\d{3}), (-?\d\.\d{3})\](\*?)", made))

    def turned(number):
        return number.removeprefix("-") if number.startswith("-") else f"-{number}"

    known |= {(turned(value), turned(high), turned(low), mark) for value, low, high, mark in known}
    known = {tuple("0.000" if part == "-0.000" else part for part in each) for each in known}
    told = INTERVAL.findall(prose)
    assert len(told) > 50
    assert [each for each in told if each not in known] == []


def test_an_ablation_shows_nothing_of_cells_that_are_not_there(summaries):
    assert "Below stand 0 with an interval" in tables.ablation_tables(summaries)


def test_the_page_is_rendered_whatever_cells_there_are(tmp_path, summaries):
    page, results = tmp_path / "page.md", tmp_path / "results"
    sections = [*collect.SECTIONS, "combination"]
    page.write_text(
        "kept\n" + "".join(f"<!-- begin: {name} -->\nstale text\n<!-- end: {name} -->\n" for name in sections)
    )
    arguments = ["--results", str(results), "--page", str(page), "--no-figures"]
    collect.main(arguments)
    empty = page.read_text()
    assert empty.startswith("kept\n")
    assert "stale text" not in empty
    assert "No main cell has run yet." in empty
    for cell, content in summaries.items():
        write_summary(cell, content, results)
    collect.main(arguments)
    full = page.read_text()
    assert "| base, ag_news, medium | complete | complete | complete |" in full
    assert "| base, wikitext, medium | 16 of 18 attacks | 16 of 18 attacks | 16 of 18 attacks |" in full
    assert "| base, ag_news, heavy | missing | missing | missing |" in full
    collect.main(arguments)
    assert page.read_text() == full


def test_a_page_without_markers_is_an_error():
    with pytest.raises(SpvmiaError, match="begin: claims"):
        collect.filled("<!-- begin: main -->", "claims", "x")


def test_figures_are_the_same_file_for_the_same_numbers(tmp_path, summaries):
    pytest.importorskip("matplotlib")
    from benchmarks.paper.figures import draw

    paths = draw(summaries, tmp_path / "one")
    again = draw(summaries, tmp_path / "two")
    assert [path.name for path in paths] == ["auroc_by_strength.svg", "auroc_by_cost.svg"]
    for one, two in zip(paths, again, strict=True):
        assert one.read_bytes() == two.read_bytes()
        assert "spv_wbc" in one.read_text()


# The combination


def combined(seed, *, n=200, shadow="held_out"):
    """What combine.py writes of one cell, of two attacks that know different things."""
    known, audited = (scored(k, n=n) for k in (seed + 100, seed))
    cell = dataclasses.asdict(dataclasses.replace(MEDIUM, seed=seed))
    return {"cell": cell, "shadow": shadow, **compare(fit([known], ("spv", "ez")), audited).to_json()}


def scored(seed, n=200):
    rng = np.random.default_rng(seed)
    labels = np.arange(2 * n) % 4 < 2
    scores = {name: rng.standard_normal(2 * n) + labels for name in ("spv", "ez")}
    return Scored(scores, labels, [f"document {i // 2}" for i in range(2 * n)])


def test_the_table_of_combinations_has_a_row_for_each_cell_and_shadow():
    found = [combined(0), combined(1), combined(0, shadow="self_prompts")]
    summaries = {dataclasses.replace(MEDIUM, seed=seed): {"attacks": {"lira_candidate": entry(0.8)}} for seed in (0, 1)}
    lines = tables.combination_table(found, summaries).splitlines()
    rows = [cells_of(line) for line in lines[2:4]]
    assert [row[0] for row in rows] == ["base, ag_news, medium, held_out", "base, ag_news, medium, self_prompts"]
    aurocs = [one["combination"]["metrics"]["auroc"] for one in found[:2]]
    assert rows[0][1].startswith(f"{statistics.fmean(aurocs):.3f} [")
    gains = [one["gain"]["auroc"]["value"] for one in found[:2]]
    assert rows[0][3].startswith(f"{statistics.fmean(gains):+.3f} [")
    assert rows[0][5].startswith("0.800 [")
    assert [row[6] for row in rows] == ["2", "1"]
    assert rows[0][7] == "200+200"
    above = sum(gain > 0 for gain in gains)
    told = "Over the one cell, so without an interval over cells, with the shadow held_out (2 targets): AUROC "
    assert lines[5].startswith(f"{told}{statistics.fmean(gains):+.3f}, above the best single attack in {above} of 2")


def test_targets_of_one_cell_are_one_observation():
    """Three seeds that gain alike say no more than one; two cells that differ say how much cells differ."""
    found = []
    for data, gains in (("ag_news", (0.10, 0.11, 0.12)), ("wikitext", (0.02, 0.03, 0.04))):
        for seed, gain in enumerate(gains):
            one = combined(seed)
            one["cell"]["data"] = data
            for metric in ("auroc", "tpr_at_1pct_fpr"):
                one["gain"][metric]["value"] = gain
            found.append(one)
    told = tables.combination_table(found, {}).splitlines()[-1]
    # 0.11 and 0.03: 0.07, and 12.706 * 0.0566 / sqrt(2)
    assert told.startswith("Over the 2 cells with the shadow held_out (6 targets): AUROC +0.070 [-0.438, +0.578]")
    assert told.count("in 6 of 6 targets") == 2


def test_what_the_records_of_a_combination_do_not_resolve_is_not_printed():
    row = cells_of(tables.combination_table([combined(0, n=40)], {}).splitlines()[2])
    assert row[1].endswith("; not resolved")
    assert row[4] == "not resolved"
    assert row[5] == ""


# For real


@pytest.mark.slow
def test_a_tiny_cell_from_files_to_tables(tmp_path):
    """Fine-tune, audit with all attacks, ablate, combine, render: a minute on an idle core."""
    from benchmarks.paper import combine

    for name, seed in (("one", 1), ("two", 2)):
        rows = (json.dumps({"text": text}) for text in tiny_texts(400, seed=seed, words=(30, 31)))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    model = save_tiny(tmp_path / "model")
    common = ["--model", str(model), "--protocol", "tiny", "--work", str(tmp_path / "work"), "--threads", "1"]
    common += ["--data", f"one={tmp_path / 'one.jsonl'}", "--results", str(tmp_path / "results")]
    assert run.main(common) == 0
    cell = Cell("one", "model", "tiny", "lora", "medium")
    found = read_summaries(tmp_path / "results")
    assert missing_attacks(cell, found[cell]) == []
    assert all(numbers["auroc"] is not None for numbers in found[cell]["attacks"].values())
    ablation = [*common, "--other", f"two={tmp_path / 'two.jsonl'}", "--ablation", "calibration", "prompt_source"]
    for setting in ("oracle", "none"):
        assert run.main([*ablation, "--only", f"*-{setting}__*"]) == 0
    found = read_summaries(tmp_path / "results")
    assert len(found) == 3
    oracle = found[dataclasses.replace(cell, ablation="calibration", setting="oracle")]
    assert oracle["audits"][0]["settings"]["mia_reference"] == "fine-tuned on true data"
    assert str(tmp_path) not in json.dumps(list(found.values()))
    assert combine.main([*common, "--shadow", "held_out"]) == 0
    one = collect.read_combinations(tmp_path / "results")[0]
    assert set(one["combination"]["weights"]) == set(combine.USED)
    assert "held_out" in tables.combination_table([one], found)
    assert "all of 18" not in tables.coverage(found)


@pytest.mark.slow
def test_a_base_is_pretrained_on_the_half_that_is_not_audited(tmp_path):
    from benchmarks.paper.pretrain import DONE, Size, pretrain

    texts = tiny_texts(60, seed=3)
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    size = Size(vocabulary=300, hidden=32, layers=1, block=32, epochs=4)
    audited = pretrain(tmp_path / "base", {"data": str(tmp_path / "data.jsonl")}, tmp_path / "files", size)
    losses = json.loads((tmp_path / "base" / DONE).read_text())["losses"]
    assert losses[-1] < losses[0] - 0.5
    kept = [json.loads(line)["text"] for line in Path(audited["data"]).read_text().splitlines()]
    assert kept == texts[1::2]
    place = Place(tmp_path / "work", {"base": str(tmp_path / "base")}, audited, tmp_path / "cache")
    cell = Cell("data", "base", "tiny", "lora", "light")
    assert Steps(cell, dataclasses.replace(place, overrides={"members": 20, "nonmembers": 20})).finetune()["steps"] == 6
