"""What a manifest says of how much of its data the training read."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from spvmia_plugin.checks.preconditions import check_preconditions
from spvmia_plugin.data.manifest import read_manifest
from spvmia_plugin.data.rows_read import RowsRead, read_by_trainer, read_in_steps, rows_read

from .test_manifest_sources import audited, written_of


@pytest.mark.parametrize(
    ("training", "seen", "words"),
    [
        ({"rows": 100, "rows_read": 16, "epochs": 3.0}, True, "about 16 of its 100 rows"),
        ({"rows": 100, "rows_read": 100, "epochs": 0.3}, True, None),
        ({"rows": None, "rows_read": None, "epochs": 0.3}, True, None),  # a stream
        ({"rows": 100, "rows_read": -1}, True, None),
        ({"rows": "many", "rows_read": 3}, True, None),
        ({"epochs": 0.15}, True, "about 15% of its rows"),
        ({"epochs": 0.15}, False, None),
        ({"epochs": 1.0}, True, None),
        ({"epochs": None}, True, None),
        ({"epochs": math.nan}, True, None),
        ({}, True, None),
    ],
)
def test_of_a_trainer(training, seen, words):
    found = read_by_trainer(training, seen=seen)
    assert (None if found is None else found.in_words()) == words


def test_of_finetune():
    assert read_in_steps({"steps": 2, "batch_size": 8}, 60) == RowsRead(16 / 60, 16, 60)
    assert read_in_steps({"steps": 8, "batch_size": 8}, 60) is None
    assert read_in_steps({"steps": 2}, 60) is None
    assert rows_read(0, 0) is None


def trained(folder, **training):
    settings = {"epochs": 1.0}
    return replace(written_of(folder), written_by="trainer", settings=settings, training=training)


def found_in(folder, **training):
    data = audited(trained(folder, **training), folder)
    return data, {each.code: each for each in check_preconditions(data)}


def test_members_that_were_never_read_are_told(tmp_path):
    data, findings = found_in(tmp_path, rows=100, rows_read=16, epochs=0.16)
    assert data.membership == "declared"
    assert findings["members_unread"].severity == "warning"
    assert "had read about 16 of its 100 rows" in findings["members_unread"].message
    assert data.provenance["finetune"]["epochs"] == 0.16  # what was made, not what was planned
    assert read_manifest(tmp_path).settings["epochs"] == 1.0
    _, findings = found_in(tmp_path, rows=1000, rows_read=992, epochs=1.0)  # a last batch that was dropped
    assert findings["members_unread"].severity == "note"
    data, findings = found_in(tmp_path, rows=100, rows_read=100, epochs=1.0)
    assert (data.membership, "members_unread" in findings) == ("manifest", False)


def test_passes_that_nobody_counted_are_those_that_were_planned(tmp_path):
    manifest = trained(tmp_path)
    assert replace(manifest, training={"epochs": 2.5}).epochs == 2.5
    assert replace(manifest, training={"epochs": None}).epochs == 1.0
    assert replace(manifest, settings={"epochs": "many"}).epochs is None
