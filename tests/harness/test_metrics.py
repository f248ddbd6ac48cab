"""What the harness gathers of a record: a number for its loggers, and a record for the aggregation."""

from __future__ import annotations

import json
import math
import pickle
from typing import Any

import pytest

from spvmia_plugin.harness.metrics import Item

ITEMS = [Item("a.jsonl:1", True, 0.25, None), Item("a.jsonl:2", False, None, "no paraphrase")]


@pytest.mark.parametrize("item", ITEMS)
def test_it_travels_between_ranks(item: Item) -> None:
    again = pickle.loads(pickle.dumps(item))
    assert type(again) is Item
    assert (again.record_id, again.is_member, again.score, again.reason) == (
        item.record_id,
        item.is_member,
        item.score,
        item.reason,
    )


def test_it_is_a_number_and_nan_where_there_is_no_score() -> None:
    scored, unscored = ITEMS
    assert scored == scored.score == 0.25
    assert type(scored.score) is float
    assert json.dumps(scored) == "0.25"
    assert math.isnan(unscored)
    assert unscored.score is None


def test_the_tables_of_weights_and_biases_have_a_number_column_for_each_metric() -> None:
    """The harness's own logger makes a data frame of the samples; W&B refuses columns of mixed types."""
    from lm_eval.loggers.wandb_logger import WandbLogger

    samples = [
        {"doc_id": number, "target": "member", "arguments": [["id"]], "resps": [["{}"]], "auroc": item}
        for number, item in enumerate(ITEMS)
    ]
    config: dict[str, Any] = {"metric_list": [{"metric": "auroc"}], "output_type": "spvmia_audit"}
    table = object.__new__(WandbLogger)._generate_dataset(samples, config)
    assert str(table["auroc"].dtype) == "float64"
