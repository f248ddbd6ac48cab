"""Units and groups in whole runs of the harness: what is printed, what is written, and that no name is in clear."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from spvmia_plugin.metrics.summary import summarise
from spvmia_plugin.metrics.units import unit_scores
from tests.tiny import tiny_texts

TASKS = ["loss_mia_custom", "bag_of_words_mia_custom", "ratio_mia_custom"]
NEW = ("unit_auroc", "unit_tpr_at_1pct_fpr")


@pytest.fixture(scope="module")
def owned(tmp_path_factory):
    """Files of three records of each of 24 customers a class, in two regions."""
    folder = tmp_path_factory.mktemp("owned")
    texts = iter(tiny_texts(200, seed=9))
    found = {}
    for name, start, count in (("members", 0, 24), ("nonmembers", 100, 24), ("prompts", 95, 10)):
        rows = [
            {"text": next(texts), "customer": f"OWNER-{number}", "region": ("nord\u200bost", "south")[number % 2]}
            for _ in range(3)
            for number in range(start, start + count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        found[f"mia_{name}"] = str(folder / f"{name}.jsonl")
    return found


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


def audit_of(result, task):
    return result["configs"][task]["metadata"]["mia_audit"]


def test_units_have_metrics_of_their_own(evaluate, options, owned, cache, capsys):
    given = {**options, **owned, "mia_unit_column": "customer", "mia_group_column": "region", "mia_cache_dir": cache}
    result = evaluate(TASKS, given)
    by_id = {}
    for row in result["samples"]["ratio_mia_custom"]:
        by_id[row["doc"]["id"]] = json.loads(row["resps"][0][0])["score"]
    customers = {}
    for name in ("members", "nonmembers"):
        with open(owned[f"mia_{name}"]) as file:
            customers |= {f"{name}.jsonl:{row}": json.loads(line)["customer"] for row, line in enumerate(file, 1)}
    ids = list(by_id)
    units = list(dict.fromkeys(customers[i] for i in ids))
    codes = np.array([units.index(customers[i]) for i in ids])
    member = np.array([int(unit.removeprefix("OWNER-")) < 50 for unit in units])
    expected = summarise(unit_scores([by_id[i] for i in ids], codes), member)
    row = result["results"]["ratio_mia_custom"]
    assert row["unit_auroc,none"] == pytest.approx(expected.auroc)
    assert row["unit_auroc_stderr,none"] == pytest.approx(expected.auroc_stderr)
    assert math.isnan(row["unit_tpr_at_1pct_fpr,none"])  # of 24 units
    assert result["higher_is_better"]["ratio_mia_custom"]["unit_auroc"] is False

    told = audit_of(result, "ratio_mia_custom")
    assert (told["unit"]["members"], told["unit"]["nonmembers"]) == (24, 24)
    assert told["data"]["counts"]["prompts_of_audited_units"] == 15
    assert told["unit"]["together"] == audit_of(result, "loss_mia_custom")["unit"]["together"]
    assert told["unit"]["together"]["strongest"]["n_attacks"] == 2
    assert [point["members"] for point in told["unit"]["together"]["given"]] == [24, 24, 24, 0]
    clusters = set(told["data"]["clusters"].values())
    assert {unit["unit"] for unit in told["unit"]["together"]["exposed"]} <= clusters
    assert len(clusters) <= 48
    groups = {group["name"]: group for group in told["groups"]["groups"]}
    assert groups.keys() == {"nord\u200bost", "south"}
    assert groups["south"]["reason"].startswith("its records are of 12 members'")
    regions = {row["doc"]["id"]: row["doc"]["group"] for row in result["samples"]["ratio_mia_custom"]}
    of_rows = {}
    for name in ("members", "nonmembers"):
        with open(owned[f"mia_{name}"]) as file:
            of_rows |= {f"{name}.jsonl:{row}": json.loads(line)["region"] for row, line in enumerate(file, 1)}
    assert regions == {record_id: of_rows[record_id] for record_id in regions}
    # Nobody's name stands anywhere: not in results, not in samples, not in what is printed.
    printed = capsys.readouterr()
    assert "spvmia: custom, each unit an observation: the strongest of 2 attacks: AUROC" in printed.err
    for text in (json.dumps(result, default=str), printed.out, printed.err):
        assert "OWNER" not in text


def test_a_group_row_and_a_limit(evaluate, options, owned, cache):
    given = {**options, **owned, "mia_unit_column": "customer", "mia_cache_dir": cache}
    result = evaluate(TASKS[:2], given, limit=20)
    told = audit_of(result, TASKS[0])
    assert told["n"]["records"] == 20
    assert told["unit"]["members"] + told["unit"]["nonmembers"] <= 20
    for few in (told["metrics"]["warnings"], told["unit"]["metrics"]["warnings"]):
        assert [line for line in few if "records of only" in line and " units: intervals" in line]
    assert "groups" not in told


def test_without_units_there_is_nothing_new(evaluate, options, cache):
    result = evaluate(TASKS[:2], {**options, "mia_cache_dir": cache}, limit=40)
    assert not [key for key in result["results"][TASKS[0]] if key.startswith(NEW)]
    assert audit_of(result, TASKS[0]).keys().isdisjoint({"unit", "groups"})
