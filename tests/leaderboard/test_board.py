"""Which audits share a table, who is ranked, and how runs of one model find each other."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spvmia_plugin.checks import Finding
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.leaderboard import Board, Options, build_board
from spvmia_plugin.leaderboard.board import limit
from spvmia_plugin.leaderboard.entrants import Source
from spvmia_plugin.leaderboard.page import to_html
from spvmia_plugin.leaderboard.plain import to_markdown
from spvmia_plugin.leaderboard.view import table_view
from spvmia_plugin.results import read_runs
from spvmia_plugin.results.comparable import recipe_words
from spvmia_plugin.results.samples import read_samples
from tests.leaderboard.models import ATTACKS, DUPLICATES, RECIPE, TOO_FEW, audit_of, audited, model, three_models
from tests.results.builders import fake_records


def board_of(*places: Path | str, **options: str) -> Board:
    return build_board([Source.parse(str(place)) for place in places], Options(**options))  # type: ignore[arg-type]


def names(board: Board) -> list[list[str]]:
    return [[row.entrant.name for row in table.rows] for table in board.tables]


def test_models_are_ranked_by_the_strongest_attack(tmp_path: Path) -> None:
    (table,) = board_of(three_models(tmp_path)).tables
    assert [(row.rank, row.entrant.name) for row in table.rows] == [
        (1, "org/private"),
        (2, "org/neither"),
        (3, "org/capable"),
    ]
    assert [row.number.attack for row in table.rows] == ["spv"] * 3
    assert [row.number.chosen_among for row in table.rows] == [2] * 3
    limits = [row.number.high for row in table.rows]
    assert limits == sorted(limits)
    assert all(row.number.low < row.number.value < row.number.high for row in table.rows)


def test_the_interval_of_the_strongest_allows_for_the_choice(tmp_path: Path) -> None:
    model(tmp_path, "org/one", audited())
    row = board_of(tmp_path).tables[0].rows[0]
    pointwise = row.audit.tasks[0].told["metrics"]["auroc_interval"]
    assert row.number.low < pointwise[0]
    assert row.number.high > pointwise[1]


def test_one_attack_can_be_named(tmp_path: Path) -> None:
    model(tmp_path, "org/one", audited())
    row = board_of(tmp_path, attack="loss", metric="tpr_at_1pct_fpr").tables[0].rows[0]
    task = next(task for task in row.audit.tasks if task.attack == "loss")
    assert (row.number.attack, row.number.value) == ("loss", task.metrics["tpr_at_1pct_fpr"])
    assert [row.number.low, row.number.high] == task.told["metrics"]["tpr_at_1pct_fpr"]["interval"]


@pytest.mark.parametrize(
    ("finding", "metric", "is_ranked"),
    [
        (DUPLICATES, "auroc", False),
        (TOO_FEW, "auroc", True),
        (TOO_FEW, "tpr_at_0.1pct_fpr", False),
        (Finding("too_few_nonmembers_1pct", "warning", "too few", {}), "tpr_at_1pct_fpr", False),
        (Finding("candidate_overlaps_audited", "warning", "overlap", {}), "auroc", True),
        (Finding("of_a_later_version", "warning", "something new", {}), "auroc", False),
        (Finding("of_a_later_version", "note", "something new", {}), "auroc", True),
    ],
)
def test_failed_preconditions_are_marked_and_not_ranked(
    tmp_path: Path, finding: Finding, metric: str, is_ranked: bool
) -> None:
    model(tmp_path / "good", "org/good", audited(weights="good"))
    model(tmp_path / "other", "org/other", audited(weights="other", findings=[finding]))
    rows = {row.entrant.name: row for row in board_of(tmp_path, metric=metric).tables[0].rows}
    assert (rows["org/other"].rank is not None) is is_ranked
    told = rows["org/other"].remarks if is_ranked else rows["org/other"].why_not_ranked
    assert finding.message in told


def test_an_overlap_of_candidates_counts_where_their_attack_counts(tmp_path: Path) -> None:
    overlap = Finding("candidate_overlaps_audited", "warning", "the candidates overlap", {})
    model(tmp_path, "org/one", audited({"lira_candidate": 2.0, "loss": 0.1}, findings=[overlap]))
    assert board_of(tmp_path).tables[0].rows[0].why_not_ranked == ["the candidates overlap"]
    assert board_of(tmp_path, attack="loss").tables[0].rows[0].rank == 1


def test_many_records_without_a_score_are_marked(tmp_path: Path) -> None:
    model(tmp_path, "org/one", audited(unscored_every=10))
    (row,) = board_of(tmp_path).tables[0].rows
    assert row.rank is None
    assert row.why_not_ranked == ["spv has no score for 16 of 160 records, which may be the exposed ones"]


def test_records_without_a_score_count_against_a_named_attack_by_which_no_audit_speaks(tmp_path: Path) -> None:
    def half_of_them(records: Any, rng: Any) -> Any:
        return np.where(rng.random(len(records)) < 0.5, rng.normal(size=len(records)), np.nan)

    model(tmp_path, "org/one", audited({"spv": 2.0, "loss": half_of_them}))
    (row,) = board_of(tmp_path).tables[0].rows
    assert row.rank == 1
    (row,) = board_of(tmp_path, attack="loss").tables[0].rows
    assert [why.partition(" for ")[0] for why in row.why_not_ranked] == ["loss has no score"]


def test_records_without_a_score_bar_no_model_whose_attack_counts_by_its_reach_alone(tmp_path: Path) -> None:
    """Few records make the widest interval: it is the limit then, and says nothing that could be wrong of the model."""

    def a_fifth_of_them(records: Any, rng: Any) -> Any:
        members = np.array([record.is_member for record in records])
        scored = np.arange(len(records)) % 5 == 0
        return np.where(scored, rng.normal(size=len(records)) - 0.2 * members, np.nan)

    records = fake_records(300, 300)
    model(tmp_path, "org/one", audited({"spv": 0.0, "loss": a_fifth_of_them}, records=records, findings=()))
    (row,) = board_of(tmp_path).tables[0].rows
    assert (row.rank, row.number.attack) == (1, "loss")
    assert row.number.value < 0.5 < row.number.high
    assert any(remark.startswith("loss has no score for 480 of 600 records") for remark in row.remarks)


def test_what_touches_the_strongest_bars_a_model_whose_other_attack_reaches_further(tmp_path: Path) -> None:
    def most_of_them(records: Any, rng: Any) -> Any:
        return np.where(np.arange(len(records)) % 10 == 0, np.nan, rng.normal(size=len(records)))

    records = fake_records(300, 300)
    model(tmp_path, "org/one", audited({"spv": most_of_them, "loss": -0.12}, records=records, findings=()))
    (row,) = board_of(tmp_path).tables[0].rows
    assert row.audit.strongest is not None
    assert (row.audit.strongest.auroc.attack, row.number.attack) == ("spv", "loss")
    assert [why.partition(" for ")[0] for why in row.why_not_ranked] == ["spv has no score"]


def test_members_that_score_lower_are_no_privacy(tmp_path: Path) -> None:
    model(tmp_path, "org/swapped", audited({"loss": -2.0}))
    (row,) = board_of(tmp_path).tables[0].rows
    assert row.rank is None
    assert "swapped labels" in row.why_not_ranked[0]


def test_an_attack_that_finds_nothing_does_not_hide_swapped_labels(tmp_path: Path) -> None:
    model(tmp_path, "org/swapped", audited({"wbc": -2.0, "loss": 0.0}))
    (row,) = board_of(tmp_path).tables[0].rows
    assert row.rank is None
    assert row.number.attack == "wbc"
    assert row.why_not_ranked[0].startswith("members score lower than non-members")
    (row,) = board_of(tmp_path, attack="loss").tables[0].rows
    assert row.why_not_ranked[0].startswith("under wbc members score lower than non-members")


@pytest.mark.parametrize("reversed_by", [-0.6, -3.0])
def test_one_the_wrong_way_round_beside_one_that_finds_members_is_ranked_by_the_further(
    tmp_path: Path, reversed_by: float
) -> None:
    """Who says the opposite of the second finds members, so "at most" must reach that far."""
    model(tmp_path, "org/leaks", audited({"wbc": reversed_by, "spv": 1.0}))
    (row,) = board_of(tmp_path).tables[0].rows
    found = row.audit.strongest
    assert found is not None
    assert (row.rank, found.turned_round.attack, found.auroc.attack) == (1, "wbc", "spv")
    assert row.number.attack == ("wbc" if reversed_by < -1 else "spv")
    assert limit(row.number, "auroc") == pytest.approx(max(found.auroc.high, 1 - found.turned_round.low), abs=1e-12)
    assert row.number.chosen_among == found.n_attacks
    (row,) = board_of(tmp_path, attack="wbc").tables[0].rows
    assert row.rank is None
    (row,) = board_of(tmp_path, attack="spv").tables[0].rows
    assert row.rank == 1


def test_the_attack_furthest_from_a_guess_counts_although_its_interval_holds_it(tmp_path: Path) -> None:
    """A model was ahead of another by the attack that tells least of it."""
    records = fake_records(150, 150)
    model(tmp_path, "org/below", audited({"wbc": -0.45, "loss": 0.0}, weights="a", records=records, findings=()))
    model(tmp_path, "org/above", audited({"wbc": -0.1, "loss": 0.0}, weights="b", records=records, findings=()))
    first, second = board_of(tmp_path).tables[0].rows
    assert (first.entrant.name, second.entrant.name) == ("org/above", "org/below")
    assert second.number.attack == "wbc"
    assert second.number.high > 0.5 > second.number.value
    assert limit(second.number, "auroc") == 1 - second.number.low > limit(first.number, "auroc")


@pytest.mark.parametrize(("strength", "reads"), [(-0.4, True), (0.6, False)])
def test_runs_that_did_not_record_the_lowest_attack_are_read_whole(
    tmp_path: Path, strength: float, reads: bool
) -> None:
    tasks = audited({"wbc": strength, "loss": 0.5}, records=fake_records(150, 150), findings=())
    for task in tasks:
        audit_of(task)["strongest"].pop("lowest", None)
    model(tmp_path, "org/one", tasks)
    (row,) = board_of(tmp_path).tables[0].rows
    assert row.audit.has_samples == reads
    assert row.audit.strongest is not None
    assert (row.audit.strongest.lowest.attack == "wbc") == reads


def test_a_tpr_does_not_rank_a_model_of_which_an_attack_lies_below_a_guess(tmp_path: Path) -> None:
    """Turned round it may pick out anybody, whatever another attack tells the right way."""
    model(tmp_path, "org/leaks", audited({"wbc": -3.0, "spv": 1.0}, records=fake_records(500, 500)))
    (row,) = board_of(tmp_path, metric="tpr_at_1pct_fpr").tables[0].rows
    assert row.rank is None
    (why,) = row.why_not_ranked
    assert why.startswith("wbc has AUROC 0.")
    assert "turned round may pick out more members than any TPR tells" in why
    assert board_of(tmp_path).tables[0].rows[0].rank == 1
    # One that was named stands for itself.
    assert board_of(tmp_path, metric="tpr_at_1pct_fpr", attack="spv").tables[0].rows[0].rank == 1
    (row,) = board_of(tmp_path, metric="tpr_at_1pct_fpr", attack="wbc").tables[0].rows
    assert row.why_not_ranked[0].startswith("wbc has AUROC 0.")


def test_the_most_exposed_are_read_as_the_audits_read_them(tmp_path: Path) -> None:
    """Two of 500 others have no score, so that each audit is read at 5 %, and the board as well."""
    model(tmp_path, "org/one", audited({"spv": 1.6}, records=fake_records(500, 500), unscored_every=333))
    board = board_of(tmp_path)
    (row,) = board.tables[0].rows
    assert row.audit.strongest is not None
    assert row.audit.strongest.low_end == "tpr_at_5pct_fpr"
    assert row.further[0].title == "TPR at 5 % FPR"


@pytest.mark.parametrize("few", [True, False])
def test_why_the_tpr_of_all_rows_stands_where_one_audit_reads_it_is_told(tmp_path: Path, few: bool) -> None:
    records = fake_records(500, 500)
    model(tmp_path / "a", "org/one", audited({"spv": 1.6}, weights="a", records=records, findings=()))
    other = audited({"spv": 0.0}, weights="b", records=records, findings=(), unscored_every=300 if few else 0)
    for task in other:
        audit_of(task)["strongest"]["low_end"] = "tpr_at_5pct_fpr"
    model(tmp_path / "b", "org/two", other)
    board = board_of(tmp_path)
    (table,) = board.tables
    why = "all with fewer than 500 others scored" if few else "where alone a guess is ruled out"
    said = f"The TPR stands at 5 % FPR in all rows, as it is read there of org/two: {why}."
    caption = [sentence.replace("\N{NO-BREAK SPACE}", " ") for sentence in table_view(table, board.options).caption]
    assert said in caption
    alone = board_of(tmp_path / "b")
    assert not any("The TPR stands" in said for said in table_view(alone.tables[0], alone.options).caption)


def test_intervals_have_a_level(tmp_path: Path) -> None:
    board = board_of(three_models(tmp_path))
    for text in (to_html(board), to_markdown(board)):
        assert "the upper limit of the 95 % interval of its AUROC" in text.replace("&nbsp;", " ")
        assert "All intervals of privacy numbers are of 95 %" in text


def test_without_samples_a_recorded_strongest_attack_is_enough(tmp_path: Path) -> None:
    model(tmp_path, "org/one", audited(), with_samples=False)
    (row,) = board_of(tmp_path).tables[0].rows
    assert (row.rank, row.number.attack, row.number.chosen_among) == (1, "spv", 3)


def test_without_samples_and_record_there_is_no_interval(tmp_path: Path) -> None:
    tasks = audited()
    for task in tasks:
        del audit_of(task)["strongest"]
    model(tmp_path, "org/one", tasks, with_samples=False)
    (row,) = board_of(tmp_path).tables[0].rows
    assert row.rank is None
    assert "--log_samples" in row.why_not_ranked[0]
    assert board_of(tmp_path, attack="spv").tables[0].rows[0].rank == 1


DIFFERENT = {
    "the data": ({"fingerprint": "b" * 64}, "data ("),
    "a setting": ({"settings": {"mia_self_prompts": 7}}, "mia_self_prompts (7 here, 10000 there)"),
    "an attack's setting": ({"settings": {"mia_spv_variant": "released"}}, "attack spv"),
    "the recipe": ({"recipe": {**RECIPE, "epochs": 9.0}}, "fine-tuning epochs (9 here, 3 there)"),
    "the attacks": ({"strengths": {**ATTACKS, "zlib": 0.1}}, "attack zlib (only here)"),
    "the records": ({"records": fake_records(50, 100)}, "members and non-members"),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_audits_that_differ_do_not_share_a_table(tmp_path: Path, what: str) -> None:
    options, words = DIFFERENT[what]
    model(tmp_path / "1", "org/one", audited(weights="one"))
    model(tmp_path / "2", "org/two", audited(weights="two"))
    model(tmp_path / "3", "org/three", audited(weights="three", **options))  # type: ignore[arg-type]
    board = board_of(tmp_path)
    assert names(board)[1] == ["org/three"]
    assert sorted(names(board)[0]) == ["org/one", "org/two"]
    assert words in board.tables[1].differs
    assert board.tables[0].differs == ""


def test_another_version_of_the_plugin_does_not_share_a_table(tmp_path: Path) -> None:
    old = audited(weights="old")
    for task in old:
        audit_of(task)["versions"]["spvmia-plugin"] = "0.0.9"
    model(tmp_path / "1", "org/one", audited(weights="one"))
    model(tmp_path / "2", "org/old", old)
    board = board_of(tmp_path)
    assert len(board.tables) == 2
    assert "spvmia-plugin (0.0.9 here" in board.tables[1].differs


@pytest.mark.parametrize("setting", [{"mia_seed": 3}, {"mia_preset": "paper"}, {"mia_cache_dir": "/elsewhere"}])
def test_what_does_not_change_the_protocol_may_differ(tmp_path: Path, setting: dict[str, object]) -> None:
    model(tmp_path / "1", "org/one", audited(weights="one"))
    model(tmp_path / "2", "org/two", audited(weights="two", settings=setting))
    assert len(board_of(tmp_path).tables) == 1


def test_one_attack_alone_asks_nothing_of_the_others(tmp_path: Path) -> None:
    model(tmp_path / "1", "org/one", audited(weights="one"))
    model(tmp_path / "2", "org/two", audited({"spv": 1.0}, weights="two"))
    assert len(board_of(tmp_path).tables) == 2
    assert len(board_of(tmp_path, attack="spv").tables) == 1


def test_recipes_of_one_base_can_be_set_side_by_side(tmp_path: Path) -> None:
    model(tmp_path / "1", "org/light", audited(weights="light"))
    model(tmp_path / "2", "org/heavy", audited(weights="heavy", recipe={**RECIPE, "epochs": 30.0}))
    model(tmp_path / "3", "org/base", audited({"spv": 0.0, "loss": 0.0, "lira_base": 0.1}, weights="base"))
    model(tmp_path / "4", "org/of-another-base", audited(weights="x", base="another"))
    board = board_of(tmp_path, compare="recipes")
    assert [len(table.rows) for table in board.tables] == [3, 1]
    recipes = {row.entrant.name: row.recipe for row in board.tables[0].rows}
    assert recipe_words(recipes["org/heavy"]) == "lora, epochs 30, lr 0.0002, lora rank 16"
    assert recipe_words(recipes["org/base"]) == "none: the model before fine-tuning"
    view = table_view(board.tables[0], board.options)
    told = {row.name: row.cells[2].text for row in view.rows}
    assert told["org/heavy"] == "lora, epochs 30"  # what all have in common is told once, below the table
    assert ("fine-tuning lr", "0.0002") in view.conditions
    assert names(board_of(tmp_path)) == [["org/base", "org/light", "org/of-another-base"], ["org/base", "org/heavy"]]


def test_data_of_another_key_can_be_recognised_by_ids(tmp_path: Path) -> None:
    model(tmp_path / "1", "org/one", audited(weights="one"))
    model(tmp_path / "2", "org/two", audited(weights="two", fingerprint="c" * 64))
    model(tmp_path / "3", "org/three", audited(weights="three", records=fake_records(60, 100, files=["other.jsonl"])))
    assert [len(table.rows) for table in board_of(tmp_path, same_data="ids").tables] == [2, 1]


def test_where_the_candidates_lie_is_no_condition(tmp_path: Path) -> None:
    for name, place in (("one", "/here/c.jsonl"), ("two", "there/c.jsonl"), ("three", "d.jsonl")):
        model(tmp_path / name, f"org/{name}", audited(weights=name, settings={"mia_candidate": place}))
    (table,) = board_of(tmp_path).tables  # the fingerprint covers what they hold
    assert not any("/here" in value for value in table.conditions.values())
    assert [len(table.rows) for table in board_of(tmp_path, same_data="ids").tables] == [2, 1]


def test_ids_are_told_apart_by_whichever_attack_has_samples(tmp_path: Path) -> None:
    for name in ("one", "other"):
        records = fake_records(60, 100, files=[f"{name}.jsonl"])
        results = model(tmp_path / name, f"org/{name}", audited(weights=name, records=records))
        next(results.parent.glob("samples_spv_mia*")).unlink()
    assert [len(table.rows) for table in board_of(tmp_path, same_data="ids").tables] == [1, 1]


def test_runs_of_the_same_weights_are_one_model(tmp_path: Path) -> None:
    model(tmp_path / "1", "./runs/a", audited({"spv": 1.0}), acc=None, model_args={"pretrained": "x"})
    model(tmp_path / "2", "./elsewhere/b", audited({"loss": 0.3}), acc=None, day=1)
    model(tmp_path / "3", "./elsewhere/b", acc=0.6, day=2)
    (table,) = board_of(tmp_path).tables
    (row,) = table.rows
    assert [task.attack for task in row.audit.tasks] == ["spv", "loss"]
    assert row.number.chosen_among == 2
    assert [score.value for score in row.capabilities.values()] == [0.6]


def test_a_strongest_attack_over_two_runs_is_chosen_anew(tmp_path: Path) -> None:
    model(tmp_path / "apart", "org/a", audited({"loss": 0.3}), acc=None)
    model(tmp_path / "apart", "org/a", audited({"spv": 1.0}), acc=None, day=1)
    (row,) = board_of(tmp_path / "apart").tables[0].rows
    assert (row.number.attack, row.number.chosen_among, row.rank) == ("spv", 2, 1)


def test_capability_runs_find_their_model_by_its_arguments(tmp_path: Path) -> None:
    model(tmp_path / "1", "org/a", audited(weights="a"), acc=None)
    model(tmp_path / "2", "org/a", acc=0.6, day=1)
    model(tmp_path / "3", "org/never-audited", acc=0.9)
    board = board_of(tmp_path)
    assert names(board) == [["org/a"]]
    assert [score.value for score in board.tables[0].rows[0].capabilities.values()] == [0.6]
    assert [entrant.name for entrant in board.not_audited] == ["org/never-audited"]


def test_the_same_file_named_twice_counts_once(tmp_path: Path) -> None:
    path = model(tmp_path, "org/a", audited())
    assert names(board_of(tmp_path, path)) == [["org/a"]]


def test_results_that_contradict_each_other_are_an_error(tmp_path: Path) -> None:
    one = model(tmp_path / "1", "org/a", audited({"spv": 1.0}))
    two = model(tmp_path / "2", "org/a", audited({"spv": 1.5}), day=1)
    with pytest.raises(SpvmiaError, match="one result of spv_mia_custom") as raised:
        board_of(tmp_path)
    assert str(one) in str(raised.value)
    assert str(two) in str(raised.value)


def test_capability_scores_that_contradict_each_other_are_an_error(tmp_path: Path) -> None:
    model(tmp_path / "1", "org/a", audited(), acc=0.5)
    model(tmp_path / "2", "org/a", acc=0.6)
    with pytest.raises(SpvmiaError, match=r"one result of arc_easy \(acc\)"):
        board_of(tmp_path)


def test_an_overwritten_folder_is_an_error(tmp_path: Path) -> None:
    model(tmp_path / "1", "org/a", audited(weights="first"))
    model(tmp_path / "2", "org/a", audited(weights="second"), day=1)
    with pytest.raises(SpvmiaError, match="one model behind the same model_args"):
        board_of(tmp_path)


def test_capability_scores_over_other_samples_have_their_own_column(tmp_path: Path) -> None:
    model(tmp_path / "1", "org/a", audited(weights="a"))
    limited = model(tmp_path / "2", "org/b", audited(weights="b"))
    raw = json.loads(limited.read_text())
    raw["n-samples"]["arc_easy"]["effective"] = 10
    limited.write_text(json.dumps(raw))
    (table,) = board_of(tmp_path).tables
    titles = sorted(column.title for column in table.columns)
    assert titles == [f"arc_easy, acc ({n} samples, 0 examples, version 1.0)" for n in (10, 100)]
    assert table.picture is None


def test_names_are_as_short_as_they_can_be(tmp_path: Path) -> None:
    model(tmp_path / "1", "/home/me/runs/light/adapter", audited(weights="a"))
    model(tmp_path / "2", "/home/me/runs/heavy/adapter", audited(weights="b"))
    model(tmp_path / "3", "org/hub-id", audited(weights="c"))
    (found,) = names(board_of(tmp_path))
    assert sorted(found) == ["heavy/adapter", "light/adapter", "org/hub-id"]


def test_a_model_can_be_given_a_name(tmp_path: Path) -> None:
    model(tmp_path / "a=b", "org/a", audited(weights="a"))
    model(tmp_path / "two", "org/b", audited(weights="b"))
    (found,) = names(board_of(f"mine={tmp_path / 'two'}", tmp_path / "a=b"))
    assert sorted(found) == ["mine", "org/a"]
    with pytest.raises(SpvmiaError, match="one name for one model"):
        board_of(f"mine={tmp_path / 'two'}", f"yours={tmp_path / 'two'}".replace("two", "./two"), tmp_path / "a=b")


def test_two_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    model(tmp_path / "1", "org/a", audited(weights="a"))
    model(tmp_path / "2", "org/b", audited(weights="b"))
    (found,) = names(board_of(f"same={tmp_path / '1'}", f"same={tmp_path / '2'}"))
    assert len(set(found)) == 2
    assert all(name.startswith("same #") for name in found)
    model(tmp_path / "3", "org/c")
    model(tmp_path / "4", "org/d")
    board = board_of(tmp_path / "1", f"never={tmp_path / '3'}", f"never={tmp_path / '4'}")
    assert len({entrant.name for entrant in board.not_audited}) == 2


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    model(tmp_path / "1", "org/a", acc=0.5)
    with pytest.raises(SpvmiaError, match="expected lm_eval runs with a privacy task"):
        board_of(tmp_path)
    with pytest.raises(SpvmiaError, match="name both"):
        board_of("=x")
    model(tmp_path / "2", "org/b", audited())
    with pytest.raises(SpvmiaError, match="did you mean 'loss'"):
        board_of(tmp_path, attack="los")
    with pytest.raises(SpvmiaError, match="arc_easy, acc"):
        board_of(tmp_path, capability="mmlu")


def test_the_blind_baseline_is_no_attack_on_the_model(tmp_path: Path) -> None:
    model(tmp_path, "org/a", audited({"bag_of_words": 3.0, "loss": 0.3}))
    (row,) = board_of(tmp_path).tables[0].rows
    assert (row.number.attack, row.number.chosen_among) == ("loss", 1)
    with pytest.raises(SpvmiaError, match="--attack"):
        board_of(tmp_path, attack="bag_of_words")


def test_a_canary_audit_has_a_table_of_its_own(tmp_path: Path) -> None:
    canary = audited({"spv": 1.0}, canary=True)
    model(tmp_path, "org/a", audited({"spv": 1.0}), canary)
    board = board_of(tmp_path)
    assert len(board.tables) == 2
    assert "audit (canaries here, records there)" in board.tables[1].differs


def test_nothing_of_a_result_is_changed(tmp_path: Path) -> None:
    path = model(tmp_path, "org/a", audited())
    before = path.read_bytes()
    row = board_of(tmp_path).tables[0].rows[0]
    (run,) = read_runs(path)
    assert dataclasses.astuple(row.audit.tasks[0])[:3] == dataclasses.astuple(run.audits[0].tasks[0])[:3]
    assert path.read_bytes() == before


def test_a_base_stands_beside_its_fine_tunes_in_every_table_of_theirs(tmp_path: Path) -> None:
    null: dict[str, float | None] = {"spv": 0.0, "loss": 0.0, "lira_base": 0.1}
    model(tmp_path / "1", "org/light", audited(weights="light"))
    model(tmp_path / "2", "org/heavy", audited(weights="heavy", recipe={**RECIPE, "epochs": 30.0}))
    model(tmp_path / "3", "org/base", audited(null, weights="base"))
    model(tmp_path / "4", "org/other-base", audited(null, weights="other", base="other"))  # nothing was made of it
    board = board_of(tmp_path)
    assert sorted(map(sorted, names(board))) == [
        ["org/base", "org/heavy"],
        ["org/base", "org/light"],
        ["org/other-base"],
    ]
    bases = {row.entrant.name: row.base for table in board.tables for row in table.rows}
    assert bases == {"org/light": "org/base", "org/heavy": "org/base", "org/base": None, "org/other-base": None}
    assert all("base" in str(table.points) for table in board.tables[:2])


def test_a_base_that_was_audited_otherwise_stands_alone(tmp_path: Path) -> None:
    model(tmp_path / "1", "org/light", audited(weights="light"))
    model(tmp_path / "2", "org/base", audited(weights="base", fingerprint="b" * 64))
    assert names(board_of(tmp_path)) == [["org/light"], ["org/base"]]


def test_a_base_that_nobody_audited_has_the_name_that_the_audit_was_told(tmp_path: Path) -> None:
    model(tmp_path, "org/light", audited(weights="light"))
    assert board_of(tmp_path).tables[0].rows[0].base == "./base"


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([{"hub": "org/base", "commit": "c0"}, {"hub": "org/adapter", "commit": "c1"}], "org/adapter"),
        ([{"hub": "org/base", "commit": "c0"}, {"files": {"adapter.safetensors": "7e"}}], None),
        ([{"hub": "../../etc/passwd", "commit": "c0"}], None),
        ([{"hub": "org/base?x=<script>", "commit": "c0"}], None),
        ([{"hub": 3}], None),
    ],
)
def test_a_card_is_that_of_the_hub_and_of_no_folder(
    tmp_path: Path, weights: list[object], expected: str | None
) -> None:
    tasks = audited(weights="light")
    for task in tasks:
        audit_of(task)["models"]["target"]["weights"] = weights
    model(tmp_path, "org/adapter", tasks)  # a folder's name may look like a hub id
    board = board_of(tmp_path)
    assert board.tables[0].rows[0].entrant.hub_id == expected
    page = to_html(board)
    assert ("huggingface.co" in page) is (expected is not None)
    if expected:
        assert f'<a href="https://huggingface.co/{expected}" rel="noreferrer">model card</a>' in page


def test_samples_are_read_where_a_number_needs_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def spy(path: Path, *rest: object) -> object:
        read.append(path.parent.parent.name)
        return read_samples(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("spvmia_plugin.results.read.read_samples", spy)
    without = audited(weights="c")
    for task in without:
        del audit_of(task)["strongest"]
    for folder, tasks in (("1", audited(weights="a")), ("2", audited(weights="b")), ("3", without)):
        model(tmp_path / folder, f"org/{folder}", tasks)
    assert len(board_of(tmp_path / "1", tmp_path / "2").tables[0].rows) == 2
    assert read == []
    (table,) = board_of(tmp_path).tables
    assert set(read) == {"3"}
    assert all(row.rank for row in table.rows)
    assert board_of(tmp_path, attack="loss").tables
    assert set(read) == {"3"}
    board_of(tmp_path, same_data="ids")
    assert set(read) == {"1", "2", "3"}


def test_columns_that_say_nothing_are_left_out(tmp_path: Path) -> None:
    model(tmp_path, "org/one", audited({"loss": 0.3}))
    board = board_of(tmp_path)
    view = table_view(board.tables[0], board.options)
    titles = [heading.title for heading in view.headings]
    assert not any("SPV-MIA" in title or "blind" in title or title == "base" for title in titles)
    assert "The blind baseline, AUROC, which sees no model, is 0.510 (0.440 to 0.580) in all rows." in [
        sentence.replace("\N{NO-BREAK SPACE}", " ") for sentence in view.caption
    ]
    model(tmp_path / "2", "org/two", audited({"loss": 0.3}, weights="two", blind=None))
    board = board_of(tmp_path)
    assert "blind baseline, AUROC" in [heading.title for heading in table_view(board.tables[0], board.options).headings]


def test_a_limit_is_told_once_with_the_names_of_its_rows(tmp_path: Path) -> None:
    model(tmp_path / "1", "org/one", audited(weights="one"))
    model(tmp_path / "2", "org/two", audited(weights="two", findings=[TOO_FEW, Finding("a_note", "note", "why", {})]))
    board = board_of(tmp_path)
    assert table_view(board.tables[0], board.options).limits == [("", TOO_FEW.message), ("org/two", "why")]
