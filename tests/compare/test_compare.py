"""`spvmia compare`: variants on the same records, checkpoints over training steps, training seeds."""

from __future__ import annotations

import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from spvmia_plugin.cli.main import make_app
from spvmia_plugin.compare.variants import _step, _welch, compare, over_seeds
from spvmia_plugin.compare.view import _signed, in_words, lines_of, text, to_html, to_json
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.leaderboard.entrants import Source
from spvmia_plugin.metrics.names import AUROC
from spvmia_plugin.metrics.paired import differences
from spvmia_plugin.metrics.summary import summarise
from spvmia_plugin.results import read_latest
from tests.results.builders import fake_audit, fake_records, write_run

RECORDS = fake_records(150, 150)


def variant(folder, strengths, *, seed=0, records=RECORDS, model="./adapter", **options):
    write_run(folder, [fake_audit(strengths, records=records, findings=[], seed=seed, **options)], model=model)
    return folder


def sources(**named):
    return [Source(folder, name.rstrip("_")) for name, folder in named.items()]


@pytest.fixture
def pair(tmp_path):
    one = variant(tmp_path / "one", {"loss": 0.3, "spv_wbc": 1.5})
    two = variant(tmp_path / "two", {"loss": 0.3, "spv_wbc": 0.2, "wbc": 0.1})
    return sources(plain=one, dp=two)


def test_differences_are_paired_and_those_of_the_scores(pair):
    (found,) = compare(pair)
    assert [each.name for each in found.variants] == ["plain", "dp"]
    (apart,) = found.apart
    assert apart.paired
    assert set(apart.gains["auroc"]) == {"loss", "spv_wbc"}
    plain, dp = (read_latest(source.place).audits[0] for source in pair)
    scores = [{task.attack: audit.scores(task) for task in audit.model_attacks} for audit in (dp, plain)]
    expected = differences(*scores, plain.labels(), plain.clusters(), seed=0)
    assert repr(apart.gains) == repr(expected)  # NaN is as good as NaN, which is no == on Python 3.13
    gain = apart.gains["auroc"]["spv_wbc"]
    assert gain.interval[1] < 0
    assert gain.value == pytest.approx(dp.tasks[1].metrics["auroc"] - plain.tasks[1].metrics["auroc"])


def test_an_attack_that_is_turned_round_speaks_where_it_tells_most(tmp_path, pair):
    weak = variant(tmp_path / "weak", {"loss": 0.3, "spv_wbc": -2.0})
    (found,) = compare([*pair, *sources(weak=weak)])
    strongest = [each.strongest(AUROC) for each in found.variants]
    assert [each.attack for each in strongest] == ["spv_wbc", "loss", "spv_wbc"]
    assert strongest[2].high < 0.2
    assert "by spv_wbc, turned round up to 0." in "\n".join(text([found]))
    assert "turned round" not in "\n".join(text(compare(pair)))
    assert "turned round" in to_html([found])
    assert "All intervals are 95 %: those of the differences hold for all attacks, both metrics" in to_html([found])
    assert next(text([found])).endswith(", intervals of 95 %:")


@pytest.mark.parametrize("swapped", [False, True])
def test_higher_is_not_leakier_under_an_attack_below_a_guess(tmp_path, swapped):
    """The one at .5 gives less away than the one at .003, and is no "higher"."""
    low = variant(tmp_path / "low", {"loss": -4.0, "spv_wbc": 0.2})
    guess = variant(tmp_path / "guess", {"loss": 0.0, "spv_wbc": 1.5})
    (found,) = compare(sources(guess=guess, low=low) if swapped else sources(low=low, guess=guess))
    name = "low" if swapped else "guess"
    words = in_words(found, name)
    aurocs = {each: read_latest(tmp_path / each).audits[0].tasks[0].metrics["auroc"] for each in ("low", "guess")}
    ours, theirs = aurocs[name], aurocs["guess" if swapped else "low"]
    assert words.startswith(
        f"{'lower' if swapped else 'higher'} AUROC than {'guess' if swapped else 'low'} under spv_wbc"
    )
    assert (
        f" under loss, which lies below a guess in low: AUROC {ours:.3f} against {theirs:.3f}, turned round "
        f"{1 - ours:.3f} against {1 - theirs:.3f}"
    ) in words
    lines = "\n".join(text([found]))
    assert "warning, low: loss has AUROC 0.00" in lines
    assert "turned round may pick out more members than any TPR tells" in to_html([found])


def test_seeds_below_a_guess(tmp_path):
    named = [
        Source(variant(tmp_path / f"{name}{seed}", {"loss": strength}, seed=seed), name)
        for name, strength in (("low", -3.0), ("guess", 0.0))
        for seed in range(3)
    ]
    (found,) = compare(named)
    assert "under loss, which lies below a guess in low: AUROC 0." in in_words(found, "guess")


def test_why_the_most_exposed_are_not_read_at_one_percent_is_told(tmp_path, pair):
    (found,) = compare(pair)
    why = "he most exposed few are read at 5 in 100 because only 150 others were audited: 1 in 100 takes 500"
    assert f"  of plain t{why}" in list(text([found]))
    assert f"Of plain t{why}." in to_html([found])
    records = fake_records(500, 500)
    more = {name: variant(tmp_path / name, {"loss": 2.0}, records=records) for name in ("a", "b")}
    assert not any("are read at" in line for line in text(compare(sources(**more))))


@pytest.mark.parametrize(
    ("difference", "printed"),
    [
        (0.0304, "+0.030"),
        (-0.0304, "-0.030"),
        (0.0003, "+0.0003"),
        (-0.0003, "-0.0003"),
        (0.0, "0.000"),
        (-0.0, "0.000"),
        (1e-17, "0.000"),
        (math.nan, "\N{EN DASH}"),
    ],
)
def test_a_difference_that_is_told_apart_is_not_printed_as_none(difference, printed):
    assert _signed(difference) == printed


def test_what_only_one_of_them_has_is_told(pair):
    (found,) = compare(pair)
    assert found.apart[0].alone == ["wbc"]
    assert "    not compared, without scores in both: wbc" in list(text([found]))
    assert to_json([found])["comparisons"][0]["differences"][0]["not_compared"] == ["wbc"]
    assert "Not compared, without scores in both: <bdi>wbc</bdi>." in to_html([found])


def test_one_run_twice_is_no_variant_and_no_second_seed(pair):
    first, second = pair
    for named in ("plain", "again"):
        with pytest.raises(SpvmiaError, match=r"expected each run once, got .* several times"):
            compare([first, Source(first.place, named), second])


def test_several_variants_have_wider_intervals(tmp_path, pair):
    three = [*pair, Source(variant(tmp_path / "three", {"loss": 0.3, "spv_wbc": 0.9}), "int8")]
    (two,), (more,) = compare(pair), compare(three)
    alone, among = (found.apart[0].gains["auroc"]["spv_wbc"].interval for found in (two, more))
    assert among[0] < alone[0] < alone[1] < among[1]


def test_other_records_are_told_and_not_compared(tmp_path, pair):
    other = variant(tmp_path / "other", {"loss": 0.3}, records=fake_records(140, 140))
    (found,) = compare([*pair, Source(other, "other")])
    assert found.apart[1].why_not.startswith("expected two audits of the same records, got 300 and 280")
    assert "not compared with plain" in in_words(found, "other")
    assert "Not compared" in to_html([found])


def test_equal_ids_of_other_texts_are_not_compared(tmp_path, pair):
    """`members.jsonl:1` is the first line of any file of that name."""
    other = variant(tmp_path / "other", {"loss": 0.3}, fingerprint="f" * 64)
    (found,) = compare([pair[0], *sources(other=other)])
    assert found.apart[0].why_not is not None
    assert "other fingerprints of records and prompts" in found.apart[0].why_not
    assert "--same-data ids" in in_words(found, "other")
    (found,) = compare([pair[0], *sources(other=other)], "ids")
    assert found.apart[0].why_not is None
    assert set(found.apart[0].gains["auroc"]) == {"loss"}


@pytest.mark.parametrize("seeds", [1, 2])
def test_what_the_audits_differ_in_stands_beside_what_the_variants_do(tmp_path, seeds):
    """The same weights behind a server that hides their numbers are no variant that gives less away."""
    open_ = [variant(tmp_path / f"o{n}", {"loss": 2.0}, seed=n) for n in range(seeds)]
    hidden = [
        variant(tmp_path / f"h{n}", {"loss": 0.1}, seed=n, settings={"mia_api_view": "noised:3"}) for n in range(seeds)
    ]
    named = [*(Source(folder, "open") for folder in open_), *(Source(folder, "hidden") for folder in hidden)]
    (found,) = compare(named)
    words = in_words(found, "hidden")
    assert "lower " in words
    assert "audited otherwise, which may be all there is to it: mia_api_view (noised:3 here, full there)" in words
    assert words in "\n".join(text([found]))
    assert "mia_api_view" in to_html([found])
    assert to_json([found])["comparisons"][0]["differences"][0]["audited_otherwise"].startswith("mia_api_view")


def test_the_words_name_what_is_told_apart(pair, tmp_path):
    (found,) = compare(pair)
    words = in_words(found, "dp")
    assert words.startswith("lower AUROC than plain under spv_wbc")
    assert "loss" not in words
    lines = lines_of(found, "dp", AUROC)
    assert [line.apart for line in lines] == [-1, 0]
    same = compare([pair[0], Source(shutil.copytree(pair[0].place, tmp_path / "copy"), "copy")])
    assert in_words(same[0], "copy") == "no attack tells it from plain"


@pytest.mark.parametrize(
    ("name", "model", "step"),
    [
        ("checkpoint-100", "m", 100),
        ("Checkpoint_7", "m", 7),
        ("global_step300", "m", 300),
        ("a", "out/checkpoint-25/", 25),
        ("step-100-merged", "m", None),
        ("step-100-merged", "out/step-100-merged", None),
        ("checkpoint-100-int8", "out/checkpoint-100", 100),
        ("run-of-step-2", "m", 2),
        ("misstep-3", "m", None),
        ("checkpoint-100/adapter", "m", None),
    ],
)
def test_a_step_is_what_a_name_or_a_path_ends_in(name, model, step):
    run = SimpleNamespace(config={"model_args": {"pretrained": "base", "peft": model}})
    assert _step(name, run) == step


def test_what_was_made_of_checkpoints_is_no_series(tmp_path):
    """In the order in which they were given, whatever steps their names begin with."""
    names = ["step-300-merged", "step-100-merged", "step-200-merged"]
    places = [variant(tmp_path / name, {"loss": 0.5}, model=f"out/{name}") for name in names]
    (found,) = compare([Source(place) for place in places])
    assert [each.step for each in found.variants] == [None] * 3
    assert [each.name for each in found.variants] == names
    assert not found.is_series


def test_checkpoints_are_a_series_in_the_order_of_their_steps(tmp_path):
    strengths = {100: 0.2, 200: 0.8, 1000: 1.6}
    folders = [
        variant(tmp_path / f"checkpoint-{step}", {"loss": strengths[step]}, model=f"out/checkpoint-{step}")
        for step in (1000, 100, 200)
    ]
    (found,) = compare([Source(folder) for folder in folders])
    assert found.is_series
    assert [each.step for each in found.variants] == [100, 200, 1000]
    page = to_html([found])
    assert "over the steps of the training" in page
    assert "training step" in page
    assert [line for line in text([found]) if line.startswith("  checkpoint")] == [
        "  checkpoint-100", "  checkpoint-200", "  checkpoint-1000",
    ]  # fmt: skip


def test_runs_that_share_a_name_are_seeds(tmp_path):
    plain = [variant(tmp_path / f"p{seed}", {"loss": 1.0}, seed=seed) for seed in range(3)]
    dp = [variant(tmp_path / f"d{seed}", {"loss": 0.1}, seed=seed + 10) for seed in range(3)]
    given = [*(Source(folder, "plain") for folder in plain), *(Source(folder, "dp") for folder in dp)]
    (found,) = compare(given)
    values = [[read_latest(folder).audits[0].tasks[0].metrics["auroc"] for folder in group] for group in (plain, dp)]
    mean = found.variants[0].strongest(AUROC)
    assert mean.value == pytest.approx(np.mean(values[0]))
    by_spread = stats.t.ppf(0.975, 2) * stats.sem(values[0])
    own = [read_latest(folder).audits[0].tasks[0].metrics["auroc_stderr"] for folder in plain]
    reach = max(by_spread, 1.96 * math.sqrt(np.sum(np.square(own))) / 3)
    assert (mean.low, mean.high) == pytest.approx((mean.value - reach, mean.value + reach), abs=1e-5)
    (apart,) = found.apart
    assert not apart.paired
    gain = apart.gains["auroc"]["loss"]
    assert gain.value == pytest.approx(np.mean(values[1]) - np.mean(values[0]))
    assert gain.interval[1] < 0
    assert "mean of 3 seeds" in "\n".join(text([found]))
    assert "By means over training seeds" in to_html([found])


def test_one_seed_beside_several_is_not_called_alike(tmp_path):
    plain = [variant(tmp_path / f"p{seed}", {"loss": 1.0}, seed=seed) for seed in range(2)]
    alone = variant(tmp_path / "alone", {"loss": 0.1}, seed=10)
    (found,) = compare([*(Source(folder, "plain") for folder in plain), Source(alone, "dp")])
    said = "no attack can say whether it differs from plain: one seed says nothing of others"
    assert in_words(found, "dp") == said
    assert f"dp: {said}." in to_html([found])
    assert "No attack tells" not in to_html([found])


def test_welchs_interval_is_that_of_scipy_where_the_audits_own_errors_are_small():
    ours, theirs = ([0.7, 0.75, 0.72], [1e-4] * 3), ([0.6, 0.66, 0.61, 0.7], [1e-4] * 4)
    expected = stats.ttest_ind(ours[0], theirs[0], equal_var=False).confidence_interval(0.95)
    theirs = over_seeds(*theirs)
    assert _welch(over_seeds(*ours), theirs, 0.95).interval == pytest.approx((expected.low, expected.high))
    assert _welch(over_seeds([0.7], [0.1]), theirs, 0.95).reason == "one seed says nothing of others"
    assert _welch(over_seeds([math.nan, 0.7], [0.1, 0.1]), theirs, 0.95).reason == "a seed has no number"
    unknown = _welch(over_seeds([0.8, 0.7], [0.1, math.nan]), theirs, 0.95)
    assert unknown.value == pytest.approx(0.75 - theirs.value)
    assert math.isnan(unknown.interval[0])
    assert unknown.reason == "an audit has no standard error"


def test_no_interval_over_seeds_is_narrower_than_the_audits_own_errors_make_it():
    """Two seeds that agree by chance had an interval of one point, and a difference that was told apart."""
    mean, other = over_seeds([0.7, 0.7], [0.03, 0.04]), over_seeds([0.6, 0.6], [0.05, 0.05])
    assert mean.stderr == 0
    assert (mean.low, mean.high) == pytest.approx((0.7 - 1.96 * 0.025, 0.7 + 1.96 * 0.025), abs=1e-4)
    low, high = _welch(mean, other, 0.95).interval
    assert (low, high) == pytest.approx((0.1 - 1.96 * 0.0433, 0.1 + 1.96 * 0.0433), abs=1e-4)
    assert _welch(mean, mean, 0.95).interval == pytest.approx((-1.96 * 0.03536, 1.96 * 0.03536), abs=1e-4)


def test_intervals_over_seeds_hold_what_can_be():
    wide, low = over_seeds([0.9, 0.95], [0.03, 0.03]), over_seeds([0.05, 0.1], [0.03, 0.03])
    assert (wide.high, low.low) == (1, 0)
    assert 0 < low.high < wide.low < 1
    assert _welch(wide, low, 0.9999).interval == (-1, 1)


@pytest.mark.parametrize("strength", [0.0, 4.0])
def test_of_variants_that_do_not_differ_few_are_told_apart_by_two_seeds(strength):
    """At the nominal .05 over five attacks; .09 and .17 of 20,000 were, by the spread over the seeds alone."""
    rng = np.random.default_rng(0)
    labels = np.arange(80) < 40
    drawn = []
    for _ in range(60):
        found = summarise(rng.standard_normal(80) + strength * labels, labels)
        drawn.append((found.auroc, found.auroc_stderr, found.tpr_at_5pct_fpr.value, found.tpr_at_5pct_fpr.stderr))
    told = 0
    for comparison in np.array(drawn)[rng.integers(len(drawn), size=(100, 5, 2, 2))]:  # attacks, variants, seeds
        for_both = comparison.transpose(0, 1, 3, 2).tolist()
        means = [[over_seeds(*of[at : at + 2]) for of in variants] for variants in for_both for at in (0, 2)]
        told += any(_apart(_welch(*pair, 1 - 0.05 / 10).interval) for pair in means)
    assert told <= stats.binom.ppf(0.99, 100, 0.05)


def _apart(interval):
    return interval[0] > 0 or interval[1] < 0


def test_a_data_set_that_a_variant_lacks(tmp_path, pair):
    wiki = variant(tmp_path / "wiki", {"loss": 0.3}, dataset="wikitext")
    (found,) = compare([*pair, Source(wiki, "wiki")])
    assert found.left_out == ["wiki"]
    assert any("left out, without an audit of these data: wiki" in line for line in text([found]))


def test_several_audits_of_one_data_set_are_refused_with_what_they_differ_in(tmp_path, pair):
    """None of them is *the* audit; they were told as "without an audit of these data", or not at all."""
    audits = [fake_audit({"loss": 0.3}), fake_audit({"min_k": 0.1}, settings={"mia_min_k": 0.5})]
    write_run(tmp_path / "several", audits)
    told = r"one audit of 'custom' in each run, got 2 in several, which differ in mia_min_k \(not given, 0\.5\)"
    for order in ([Source(tmp_path / "several"), pair[0]], [pair[0], Source(tmp_path / "several")]):
        with pytest.raises(SpvmiaError, match=told):
            compare(order)


def test_canaries_are_compared_with_canaries(tmp_path):
    """Beside an audit of records that has the same data set's name."""
    for number, name in enumerate(("one", "two")):
        audits = [fake_audit({"loss": 0.3}, seed=number), fake_audit({"loss": 1.0}, canary=True, seed=number)]
        write_run(tmp_path / name, audits)
    found = compare([Source(tmp_path / "one"), Source(tmp_path / "two")])
    assert [(each.dataset, len(each.variants)) for each in found] == [("custom", 2), ("custom, canaries", 2)]


def test_the_first_variant_is_not_left_out(tmp_path, pair):
    """The others would be compared with the second."""
    both = [fake_audit({"loss": 0.3}), fake_audit({"loss": 0.3}, dataset="wikitext", fingerprint="0" * 64)]
    write_run(tmp_path / "both", both)
    places = sources(plain=tmp_path / "both", plain_=pair[0].place, dp=pair[1].place)
    with pytest.raises(SpvmiaError, match="an audit of 'wikitext' in each run of plain, which the others are compared"):
        compare(places)


def test_json_is_strict_and_whole(pair):
    told = json.loads(json.dumps(to_json(compare(pair)), allow_nan=False))
    (comparison,) = told["comparisons"]
    gain = comparison["differences"][0]["gains"]["auroc"]["spv_wbc"]
    assert gain["interval"][0] < gain["value"] < gain["interval"][1] < 0
    assert comparison["variants"][0]["strongest"]["auroc"]["attack"] == "spv_wbc"


def test_the_page_loads_nothing_and_shows_names_as_text(tmp_path, pair):
    evil = variant(tmp_path / "evil", {"loss": 0.3, "spv_wbc": 1.5})
    page = to_html(compare([*pair, Source(evil, "<img src=x onerror=alert(1)>")]))
    assert "<img" not in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http-equiv", "")


# The command
def command(*arguments):
    return CliRunner().invoke(make_app("compare"), ["compare", *map(str, arguments)])


def test_the_command(tmp_path, pair):
    page = tmp_path / "compare.html"
    found = command(*(f"{source.name}={source.place}" for source in pair), "--output", page)
    assert found.exit_code == 0, found.output
    assert "lower AUROC than plain under spv_wbc" in found.stdout
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    as_json = command(*(source.place for source in pair), "--json", "--output", tmp_path / "c.json")
    assert json.loads(as_json.stdout) == json.loads((tmp_path / "c.json").read_text())
    for output in (page, tmp_path / "c.json"):
        assert command(*(source.place for source in pair), "--output", output).exit_code == 0  # an earlier output
        output.write_text('{"text": "a record"}')
        refused = command(*(source.place for source in pair), "--output", output)
        assert refused.exit_code == 1
        assert output.read_text() == '{"text": "a record"}'


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{one}"], "RESULTS: expected the results of two variants or more, got 1"),
        (["{one}", "nowhere"], "RESULTS: expected lm_eval's output folder or results file, got nowhere"),
        (["{one}", "{one}", "--output", "x.txt"], "--output: expected a file that ends in .html or .json"),
    ],
)
def test_bad_input(tmp_path, pair, arguments, message):
    found = command(*(argument.format(one=pair[0].place) for argument in arguments))
    assert found.exit_code == 1
    assert found.stderr.strip().startswith(message), found.stderr


def test_too_few_is_an_error_in_python_too(pair):
    with pytest.raises(SpvmiaError, match="two variants or more"):
        compare(pair[:1])
