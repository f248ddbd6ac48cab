"""How large a page is, and what it leaves out: it opens on a phone, and says where the rest stands."""

from __future__ import annotations

import json

import numpy as np
import pytest

from spvmia_plugin.plugins import load_registry
from spvmia_plugin.report import records as table
from spvmia_plugin.report.facts import exposed, report_facts, streamed
from spvmia_plugin.report.figures import MAX_STEPS, Curve, steps
from spvmia_plugin.report.html import render
from spvmia_plugin.results import read_latest
from tests.report.pages import Page
from tests.results.builders import fake_audit, fake_records, write_run


def test_a_page_of_a_thousand_records_under_every_attack_is_small(tmp_path):
    strengths = {name: 0.1 * number for number, name in enumerate(sorted(load_registry().attacks))}
    texts = ["ticket of a customer " + "who waits and waits " * 40 + str(number) for number in range(97)]
    records = fake_records(1000, 1000, texts=texts)
    write_run(tmp_path, [fake_audit(strengths, records=records, findings=(), settings={"mia_log_text": True})])
    page = render(read_latest(tmp_path))
    assert len(page.encode()) < 2e6
    assert len(Page(page).data[0]["ids"]) == 1000


def test_the_most_exposed_stand_on_the_page_and_the_rest_is_named(tmp_path, undrawn, monkeypatch):
    monkeypatch.setattr(table, "MAX_ROWS", 30)
    write_run(tmp_path, [fake_audit({"spv": 1.0, "loss": 0.2}, records=fake_records(80, 40), findings=())])
    run = read_latest(tmp_path)
    page = Page(render(run))
    [data] = page.data
    everyone = exposed(run.audits[0])
    assert data["ids"] == [member.id for member in everyone[:30]]
    assert data["total"] == len(everyone) == 80
    assert "The 30 most exposed of 80 training records stand here" in page.text
    assert "samples_*.jsonl" in page.text
    assert len(report_facts(run)["audits"][0]["exposure"]) == 80


def test_a_page_with_everybody_says_nothing_of_a_rest(plain_run):
    assert "most exposed of" not in Page(plain_run.page).text


def test_texts_share_the_room(tmp_path, undrawn, monkeypatch):
    monkeypatch.setattr(table, "_ALL_TEXTS", 60 * 150)
    texts = ["x" * 1000]
    audit = fake_audit({"spv": 1.0}, records=fake_records(60, 20, texts=texts), settings={"mia_log_text": True})
    write_run(tmp_path, [audit])
    [data] = Page(render(read_latest(tmp_path))).data
    assert set(data["texts"]) == {"x" * 150 + " … (850 more characters)"}


@pytest.mark.parametrize(
    "value",
    [{}, [], {"a": []}, {"a": {"b": [1, 2.5, None, "x\ud800", True]}, "c": [{}, [[]], {"d": ()}]}, "x", 3, [[1], [2]]],
)
def test_streamed_json_is_what_the_library_writes(value):
    assert "".join(streamed(value)) == json.dumps(value, indent=2)


def test_iterators_are_streamed_as_lists():
    assert json.loads("".join(streamed({"a": iter([1, {"b": iter(())}]), "c": iter(())}))) == {
        "a": [1, {"b": []}],
        "c": [],
    }
    with pytest.raises(ValueError, match="not JSON compliant"):
        "".join(streamed([float("nan")]))


@pytest.mark.parametrize("floor", [0.0, 1e-5])
def test_a_thinned_curve_is_the_curve_on_a_screen(floor):
    rng = np.random.default_rng(0)
    others, members = np.sort(rng.normal(size=50_000))[::-1], np.sort(rng.normal(1, 1, size=50_000))[::-1]
    tpr = np.searchsorted(-members, -others, side="right") / len(members)
    fpr = np.arange(1, len(others) + 1) / len(others)
    whole = Curve(np.r_[0, fpr, 1], np.r_[0, tpr, 1], fpr[:0], fpr[:0], fpr[:0], len(members), len(others))
    x, y = steps(whole, floor)
    assert len(x) < 4 * MAX_STEPS
    assert (x[0], y[0], x[-1], y[-1]) == (floor, floor, 1.0, 1.0)
    shown = y[np.searchsorted(x, fpr, side="right") - 1]
    seen = (lambda v: np.log(np.maximum(v, floor)) / -np.log(floor)) if floor else (lambda v: v)
    assert np.abs(seen(shown) - seen(tpr)).max() < 4 / MAX_STEPS
