"""Every number of the page is the results file's, to the last printed digit."""

from __future__ import annotations

import json
import re
from decimal import Decimal

import pytest

from spvmia_plugin.report.facts import report_facts
from tests.report.pages import Page


@pytest.fixture(scope="module")
def page(plain_run) -> Page:
    return Page(plain_run.page)


def agrees(printed: str, value: float) -> bool:
    """Whether `printed` is `value`, or 100 times it, rounded to the digits that are printed."""
    text = printed.replace(",", "").removesuffix(" %")
    digits = Decimal(text).as_tuple().exponent
    half = Decimal(5).scaleb(int(digits) - 1)
    return any(abs(Decimal(text) - Decimal(value) * scale) <= half * Decimal("1.0000001") for scale in (1, 100))


def looked_up(raw: dict, source: str) -> float:
    """The number of the results file that a source names."""
    kind, task, rest = source.split("/", 2)
    if kind == "results":
        row = raw["results"][task]
        return row[f"{rest},none"]
    value = raw["configs"][task]["metadata"][kind]
    while rest:
        if isinstance(value, list):
            step, _, rest = rest.partition("/")
            value = value[int(step)]
        else:
            step = next(key for key in value if rest == key or rest.startswith(f"{key}/"))
            value, rest = value[step], rest[len(step) + 1 :]
    return value


def test_every_number_agrees_with_the_results_file(plain_run, page):
    facts = report_facts(plain_run.run)
    seconds = {attack["task"]: attack["seconds_of_what_it_rests_on"] for attack in facts["audits"][0]["attacks"]}
    checked = {"results": 0, "mia_audit": 0, "computed": 0, "precision": 0}
    for value, source, printed in page.numbers:
        kind, task, name = source.split("/", 2)
        if task == "precision":
            kind, expected = task, facts["audits"][0][task]
            for step in name.split("/"):
                expected = expected[int(step) if step.isdigit() else step]
        elif task == "picked_out":
            expected = facts["audits"][0][task][name]
        elif kind == "computed":
            assert name == "seconds_of_what_it_rests_on"
            expected = seconds.get(task, 0.0)  # the blind baseline rests on no stage
        else:
            expected = looked_up(plain_run.raw, source)
        assert float(value) == expected, source
        assert agrees(printed, expected), (printed, expected)
        checked[kind] += 1
    assert checked["results"] > 12
    assert checked["mia_audit"] > 50
    assert checked["computed"] >= 4
    assert checked["precision"] == 9


def test_every_number_in_a_cell_for_numbers_names_its_source(plain_run):
    tables = re.findall(r"<table.*?</table>", plain_run.page, re.S)
    of_records = next(table for table in tables if 'data-sort="id"' in table)
    cells = [cell for table in tables if table != of_records for cell in re.findall(r'<td class="n">(.*?)</td>', table)]
    assert len(cells) > 50
    for cell in cells:
        without = re.sub(r"<data .*?</data>", "", cell)
        assert not re.search(r"\d", re.sub(r"<[^>]*>", "", without)), cell


def test_the_sentences_hold_no_other_results(plain_run):
    """Every other digit of the verdict is a confidence, a count of attacks, or one of the wording."""
    html = plain_run.page
    top = html[html.index("Shown a training record") : html.index('id="limits-0"')]
    verdict = re.sub(r"<svg .*?</svg>", "", top, flags=re.DOTALL)
    words = re.sub(r"<data .*?</data>|<[^>]*>|records\.jsonl:\d+", "", verdict)
    assert "<data" in verdict
    assert set(re.findall(r"\d+(?:\.\d+)?", words)) <= {"0", "100", "1", "5", "50", "95", "3", "500"}


def test_the_table_of_records_agrees_with_the_samples(plain_run, page):
    [table], facts = page.data, report_facts(plain_run.run)
    samples = {}
    for path in plain_run.folder.rglob("samples_*.jsonl"):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        task = path.name.removeprefix("samples_").rpartition("_")[0]
        samples[task] = {
            line["doc"]["id"]: (line["doc"]["is_member"], json.loads(line["resps"][0][0])["score"]) for line in lines
        }
    members = {record for record, (is_member, _) in samples["spv_mia_custom"].items() if is_member}
    assert set(table["ids"]) == members
    assert [attack["name"] for attack in table["attacks"]] == ["spv", "lira_base", "loss"]
    shares = {record: {} for record in members}
    for attack in table["attacks"]:
        scores = samples[f"{attack['name']}_mia_custom"]
        known = [score for _, score in scores.values() if score is not None]
        others = [score for is_member, score in scores.values() if not is_member and score is not None]
        assert (attack["scored"], attack["others"]) == (len(known), len(others))
        for row, record in enumerate(table["ids"]):
            score = scores[record][1]
            if score is None:
                assert attack["score"][row] is attack["rank"][row] is attack["higher"][row] is None
                continue
            assert agrees(attack["score"][row], score)
            assert attack["rank"][row] == sum(other >= score for other in known)
            assert attack["higher"][row] == sum(other >= score for other in others)
            shares[record][attack["name"]] = attack["higher"][row] / len(others)
    for row, record in enumerate(table["ids"]):
        if not shares[record]:
            assert table["lowest"][row] is table["best"][row] is None
            continue
        best = table["attacks"][table["best"][row]]
        assert table["lowest"][row] == best["higher"][row]
        assert shares[record][best["name"]] == min(shares[record].values())
    picked = facts["audits"][0]["picked_out"]["records"]
    lowest = [min(shares[record].values(), default=2.0) for record in table["ids"][picked:]]
    assert lowest == sorted(lowest)
