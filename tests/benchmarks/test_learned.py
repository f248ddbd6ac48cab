"""benchmarks/learned: cells are kept whole, nothing of a held-out base or data set is fitted on, and the tables."""

from __future__ import annotations

import dataclasses
import math
import stat
from itertools import product

import numpy as np
import pytest
from scipy import stats

from benchmarks.learned import collect, fit, judge
from benchmarks.learned.cells import KEPT, MOMENTS, Cell, Collector, Kept, cell_path, read_cell, read_cells, write_cell
from benchmarks.learned.judge import Judged, Row, auroc_in_folds, folds_of_families, gain, markdown, others
from spvmia_plugin.attacks.weights import read_weights
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.signals import RecordSignals, Role, View
from tests.attacks.simulated import EVERY, simulate
from tests.data.builders import write_texts
from tests.tiny import save_tiny, tiny_texts


def kept(base="narrow", data="leads", seed=0, *, n=60, roles=EVERY, epochs=3.0, **how):
    signals, labels = simulate(n, (16, 30), seed=seed * 100 + len(base) * 7 + len(data), roles=roles, **how)
    rng = np.random.default_rng(seed)
    scores = {"spv_wbc": labels + rng.normal(0, 1, n), "loss": rng.normal(0, 1, n)}
    return Kept(
        cell=Cell(base, data, epochs, 24, seed, "small"),
        ids=[f"{data}:{row}" for row in range(n)],
        labels=labels,
        documents=[f"{data}:{row}" for row in range(n)],
        signals=signals,
        scores=scores,
        about={"seconds": 40.0, "audit": {"mia_seed": seed}},
    )


@pytest.fixture(scope="module")
def cells():
    kinds = product(("narrow", "wide"), ("leads", "tales"), (0, 1))
    return [Judged.of(kept(base, data, seed)) for base, data, seed in kinds]


# Cells


def test_a_cell_is_read_back_as_it_was_written(tmp_path):
    written = kept()
    lacking = dict(written.signals[3].tokens)
    del lacking[Role.CANDIDATE, View.TEXT]
    signals = [*written.signals[:3], RecordSignals("", lacking), *written.signals[4:]]
    path = write_cell(tmp_path, Kept(**{**vars(written), "signals": signals}))
    assert path == cell_path(tmp_path, written.cell)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (found,) = read_cells(tmp_path)
    assert (found.cell, found.ids, found.documents) == (written.cell, written.ids, written.documents)
    assert (found.about["seconds"], found.about["audit"]) == (40.0, {"mia_seed": 0})
    assert found.labels.tolist() == written.labels.tolist()
    assert all(np.array_equal(found.scores[name], values) for name, values in written.scores.items())
    assert (Role.CANDIDATE, View.TEXT) not in found.signals[3].tokens
    for before, after in zip(signals, found.signals, strict=True):
        assert before.tokens.keys() == after.tokens.keys()
        for key, one in before.tokens.items():
            other = after.tokens[key]
            for name in ("logprob", "top1", *(("mean", "std") if key[0] in MOMENTS else ())):
                assert np.array_equal(getattr(one, name), getattr(other, name))
            assert one.windows == other.windows
            assert other.mean is not None or key[0] not in MOMENTS


def test_features_of_a_cell_that_was_read_are_those_of_the_audit(tmp_path):
    written = kept()
    again = read_cell(write_cell(tmp_path, written))
    assert np.array_equal(Judged.of(written).seen.table, Judged.of(again).seen.table)


def test_a_model_that_was_not_there_is_not_there_afterwards(tmp_path):
    bare = kept(roles=(Role.TARGET, Role.BASE))
    again = read_cell(write_cell(tmp_path, bare))
    assert all(signals.tokens.keys() == {(Role.TARGET, View.TEXT), (Role.BASE, View.TEXT)} for signals in again.signals)
    assert Judged.of(again).variants == ["base"]


def test_the_collector_keeps_what_attacks_are_given_without_the_text():
    signals, _ = simulate(5, 16)
    collector = Collector()
    assert collector.score_many(signals) == [0.0] * 5
    assert [each.tokens for each in collector.kept] == [dict(each.tokens) for each in signals]
    assert {each.text for each in collector.kept} == {""}
    assert {(need.role, need.moments) for need in collector.needs} == {(role, role in MOMENTS) for role in KEPT}


# Leaving out


def test_nothing_of_a_base_or_of_a_data_set_is_fitted_on_where_it_is_judged(cells, monkeypatch):
    asked = []
    real = judge.fitted_on

    def spied(some, *arguments, **options):
        asked.append({each.families for each in some})
        return real(some, *arguments, **options)

    monkeypatch.setattr(judge, "fitted_on", spied)
    rows = judge.judge(cells, "both", controls=2)
    assert len(rows) == len(cells)
    # Two bases and two data sets: what shares neither is one kind, the opposite one.
    opposite = {("narrow", "leads"): ("wide", "tales"), ("narrow", "tales"): ("wide", "leads")}
    opposite |= {there: here for here, there in opposite.items()}
    assert asked == [{opposite[families]} for families in sorted(opposite) for _ in range(3)]


def test_names_of_one_family_are_not_on_both_sides():
    of = [
        Judged.of(kept(base, data, n=24))
        for base, data in (("wide", "wiki-articles"), ("deep", "wiki"), ("deep", "leads"), ("wide-long", "leads"))
    ]
    assert [each.cell.data for each in others(of, of[0])] == ["leads"]
    assert others(of, of[0])[0].cell.base == "deep"


def test_folds_inside_hold_out_whole_kinds(cells):
    folds = folds_of_families(cells)
    assert sorted(k for fold in folds for k in fold) == list(range(len(cells)))
    kinds = [{cells[k].families for k in fold} for fold in folds]
    assert not any(a & b for k, a in enumerate(kinds) for b in kinds[:k])


def test_what_weights_are_worth_on_other_kinds_of_cells(cells):
    assert auroc_in_folds(cells, "both") > 0.7
    assert math.isnan(auroc_in_folds(cells[:2], "both"))


def test_weights_travel_between_drawn_audits_and_permuted_labels_do_not(cells):
    rows = judge.judge(cells, "both", controls=20)
    assert np.mean([row.numbers["learned"]["AUROC"] for row in rows]) > 0.7
    control = np.array([value for row in rows for value in row.control])
    assert abs(control.mean() - 0.5) < 0.1


def test_one_kind_of_cells_says_nothing_of_others():
    with pytest.raises(SpvmiaError, match="cells: expected cells of at least two bases and two data sets"):
        judge.judge([Judged.of(kept(n=24))], "both")


def test_a_cell_without_the_models_of_a_variant_is_left_out(cells):
    bare = Judged.of(kept("wide", "leads", 5, roles=(Role.TARGET, Role.BASE)))
    rows = judge.judge([*cells, bare], "both", controls=1)
    assert bare.cell not in [row.cell for row in rows]
    assert bare.cell in [row.cell for row in judge.judge([*cells, bare], "base", controls=1)]


# Numbers


def row(seed, **aurocs):
    numbers = {
        name: {"AUROC": value, "TPR at 5 %": value / 2, "TPR at 1 %": value / 4} for name, value in aurocs.items()
    }
    return Row(Cell("b", "d", 3.0, 64, seed, "small"), 2, numbers, [0.5, 0.52])


def test_a_gain_has_the_interval_of_a_paired_t_test():
    ours, theirs = [0.9, 0.8, 0.85, 0.7], [0.8, 0.82, 0.75, 0.6]
    rows = [row(k, learned=a, spv_wbc=b) for k, (a, b) in enumerate(zip(ours, theirs, strict=True))]
    found = gain(rows, "spv_wbc", "AUROC")
    interval = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high))
    assert (found["cells"], found["above"]) == (4, 3)
    assert found["ratio"] == pytest.approx(sum(ours) / sum(theirs))
    assert math.isnan(gain(rows[:1], "spv_wbc", "AUROC")["low"])


def test_records_without_a_score_count_as_a_coin_toss():
    labels = np.array([True] * 50 + [False] * 50)
    none = judge.numbers(np.full(100, np.nan), labels)
    assert all(math.isnan(value) for value in none.values())
    half = np.where(np.arange(100) % 2 == 0, labels.astype(float), np.nan)
    assert 0.5 < judge.numbers(half, labels)["AUROC"] < 1


def test_tables_tell_means_over_seeds_hard_cells_and_the_control():
    rows = [row(0, learned=0.9, spv_wbc=0.8, loss=0.6), row(1, learned=0.8, spv_wbc=0.9, loss=0.6)]
    text = markdown(rows, "both")
    assert "| b | d | 3 | 64 | 2 | **0.850** | **0.850** | 0.600 |" in text
    assert "below 0.85" in text
    assert "| `loss` | +0.250" in text
    # Two fits, each judged by both cells: .50 and .52.
    assert "Weights fitted on permuted labels: mean AUROC 0.510, standard error 0.010, deviation from fit" in text
    assert "2 fits" in text
    assert "permuted" not in markdown([dataclasses.replace(each, control=()) for each in rows], "both")


def test_the_command_prints_and_writes_its_tables(tmp_path, capsys):
    folder = tmp_path / "cells"
    folder.mkdir()
    for base in ("narrow", "wide"):
        for data in ("leads", "tales"):
            write_cell(folder, kept(base, data))
    out, numbers = tmp_path / "tables.md", tmp_path / "cells.json"
    assert judge.main([str(folder), "--variants", "both,base", "--output", str(out), "--json", str(numbers)]) == 0
    assert out.read_text() == capsys.readouterr().out[:-1]
    assert "Variant `base`" in out.read_text()
    assert '"fitted_on": 1' in numbers.read_text()


# The shipped weights


def test_weights_are_written_with_their_card(tmp_path, capsys):
    folder = tmp_path / "cells"
    folder.mkdir()
    for base, data, roles in (("narrow", "leads", EVERY), ("wide", "tales", EVERY), ("deep", "tales", EVERY[:2])):
        write_cell(folder, kept(base, data, roles=roles))
    assert fit.main([str(folder), "--output", str(tmp_path / "w.json")]) == 0
    weights = read_weights(tmp_path / "w.json")
    assert set(weights.variants) == {"both", "candidate", "reference", "base"}
    card = weights.card
    assert card.summary == "3 audits: bases deep, narrow, wide; data tales, leads"
    assert card.records == 180
    assert {(each["base"], each["members"], each["nonmembers"]) for each in card.audits} == {
        (base, 30, 30) for base in ("narrow", "wide", "deep")
    }
    assert set(card.control) == set(card.settings["auroc_in_folds"]) == set(weights.variants)
    assert "permuted labels" in capsys.readouterr().out


def test_cells_that_are_left_out_are_not_fitted_on(monkeypatch):
    cell = Cell("narrow", "leads", 3.0, 24, 0, "small")
    assert fit.is_chosen(cell)
    monkeypatch.setattr(fit, "LEFT_OUT", ("*leads*",))
    assert not fit.is_chosen(cell)
    with pytest.raises(SpvmiaError, match="cells: expected cells that CHOSEN names, got none"):
        fit.fit_all([])


# Collecting


def options(tmp_path, *more):
    return collect.read_options(["--work", str(tmp_path), "--data", "leads=l.jsonl", "--data", "tales=t.jsonl", *more])


def planned(tmp_path, *more):
    given = options(tmp_path, *more)
    data = dict(collect.named(spec, "--data") for spec in given.data)
    return collect.wanted_cells(given, collect.wanted_bases(given, data), data)


def test_small_bases_come_first_and_cells_of_all_kinds_before_another_seed(tmp_path):
    cells = planned(tmp_path, "--base", "smollm2=m", "--pretrain", "narrow=leads", "--seeds", "0,1", "--epochs", "1,3")
    assert [cell.protocol for cell in cells] == ["small"] * 8 + ["cpu"] * 8
    assert [cell.seed for cell in cells[:8]] == [0] * 4 + [1] * 4
    assert len({cell.name for cell in cells}) == 16
    only = planned(tmp_path, "--base", "smollm2=m", "--only", "smollm2__tales*")
    assert [cell.data for cell in only] == ["tales"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "--base: expected at least one base model"),
        (["--pretrain", "narrow=news"], "--pretrain: expected names that --data gives, got news"),
        (["--base", "smollm2"], "--base: expected NAME=VALUE with a plain name, got 'smollm2'"),
        (["--base", "a__b=x"], "--base: expected NAME=VALUE with a plain name"),
    ],
)
def test_options_that_name_nothing_are_refused(tmp_path, more, message):
    with pytest.raises(SpvmiaError, match=message):
        planned(tmp_path, *more)


def test_a_plan_says_what_is_there_and_about_how_long_the_rest_takes(tmp_path, capsys):
    folder = tmp_path / "cells"
    folder.mkdir()
    write_cell(folder, Kept(**{**vars(kept()), "cell": Cell("narrow", "leads", 3.0, 64, 0, "small")}))
    arguments = [
        "--work",
        str(tmp_path),
        "--data",
        "leads=l",
        "--data",
        "tales=t",
        "--pretrain",
        "narrow=leads",
        "--plan",
    ]
    assert collect.main([*arguments, "--base", "smollm2=m"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("1 of 4 cells are there; 3 to run, about 40 s and 2 not known yet:")
    assert "narrow__tales__small__epochs3__block64__seed0: 40 s" in told


@pytest.mark.slow
def test_a_cell_is_collected_for_real_and_not_a_second_time(tmp_path, capsys):
    base = save_tiny(tmp_path / "tiny")
    data = write_texts(tmp_path / "d.jsonl", tiny_texts(300))
    work = tmp_path / "work"
    arguments = ["--work", str(work), "--data", f"texts={data}", "--base", f"tiny={base}", "--protocol", "tiny"]
    arguments += ["--blocks", "24", "--epochs", "6", "--threads", "1"]
    assert collect.main(arguments) == 0
    (found,) = read_cells(work / "cells")
    assert (len(found.ids), int(found.labels.sum())) == (48, 24)
    means = np.array([signals.of(Role.TARGET).mean_logprob for signals in found.signals])
    assert np.array_equal(means, found.scores["loss"])  # row by row the same records
    assert set(found.scores) == set(collect.BESIDE)
    assert Judged.of(found).variants == ["both", "candidate", "reference", "base"]
    assert found.about["audit"]["mia_seed"] == 0
    before = (work / "cells" / f"{found.cell.name}.npz").read_bytes()
    assert collect.main(arguments) == 0
    assert capsys.readouterr().out.count("1 of 1 cells are there; 0 to run") == 1
    assert (work / "cells" / f"{found.cell.name}.npz").read_bytes() == before


@pytest.mark.slow
def test_a_cell_that_fails_is_told_and_the_others_go_on(tmp_path, capsys):
    base = save_tiny(tmp_path / "tiny")
    data = write_texts(tmp_path / "d.jsonl", tiny_texts(300))
    few = write_texts(tmp_path / "few.jsonl", tiny_texts(5))
    arguments = ["--work", str(tmp_path / "work"), "--data", f"few={few}", "--data", f"texts={data}"]
    arguments += ["--base", f"tiny={base}", "--protocol", "tiny", "--blocks", "24", "--epochs", "1", "--threads", "1"]
    assert collect.main(arguments) == 1
    assert [kept.cell.data for kept in read_cells(tmp_path / "work" / "cells")] == ["texts"]
    assert "few__tiny" in capsys.readouterr().err
