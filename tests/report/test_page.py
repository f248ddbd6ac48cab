"""The page as markup: it loads nothing, runs only what it names, and is built for keyboards and screen readers."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import re

import pytest

from spvmia_plugin.attacks import builtin_attacks
from spvmia_plugin.checks import Finding, percent
from spvmia_plugin.report.facts import report_facts
from spvmia_plugin.report.html import embedded, render
from spvmia_plugin.results import read_latest
from tests.hostile import ALERT, NAMES, NASTY, control_characters
from tests.report.conftest import reported
from tests.report.pages import Page
from tests.results.builders import WARNING, fake_audit, fake_records, write_run


@pytest.fixture(scope="module")
def page(plain_run) -> Page:
    return Page(plain_run.page)


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory) -> str:
    nasty = " ".join(NASTY)
    audit = fake_audit(
        {"spv": 1.0},
        records=fake_records(60, 60, files=NAMES, texts=NASTY),
        findings=[Finding("x", "warning", nasty), Finding("y", "note", nasty)],
        settings={"mia_log_text": True, "mia_cache_dir": nasty.replace("\0", "")},
        provenance={"manifest": nasty, NASTY[0]: {NASTY[1]: [nasty]}},
    )
    folder = tmp_path_factory.mktemp("hostile")
    return reported(folder, audit, model="a<script>b", capabilities={NASTY[0]: {NASTY[1]: 0.5}}).page


def test_it_loads_nothing(page):
    loading = [found for found in page.attributes if found[1] in ("src", "srcset", "action", "poster", "background")]
    assert loading == []
    references = {value for _, name, value in page.attributes if name in ("href", "xlink:href")}
    assert all(value.startswith("#") or value == "data:," for value in references)
    assert not re.search(r"@import|url\((?!#)", "".join(page.styles))
    assert [value for tag, name, value in page.attributes if name == "style" or name.startswith("on")] == []


def test_the_policy_names_its_script_and_style_and_nothing_else(page):
    policy = next(value for tag, name, value in page.attributes if name == "content" and "default-src" in value)
    directives = dict(part.split(" ", 1) for part in policy.split("; "))
    assert directives["default-src"] == "'none'"
    assert directives["img-src"] == "data:"
    for name, parts in (("script-src", page.scripts), ("style-src", page.styles)):
        [part] = parts
        digest = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        assert directives[name] == f"'sha256-{digest}'"


def test_headings_go_down_one_level_at_a_time(page):
    levels = [level for level, _ in page.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_ids_are_unique_and_every_reference_has_its_end(page):
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    wanted = {value for _, name, value in page.attributes if name in ("aria-labelledby", "for")}
    wanted |= {value[1:] for _, name, value in page.attributes if name == "href" and value.startswith("#")}
    wanted |= {found for _, _, value in page.attributes for found in re.findall(r"url\(#([^)]+)\)", value)}
    assert wanted <= set(ids)


def test_pictures_say_what_they_show(page):
    every = re.findall(r"<svg [^>]*>", page.html)
    pictures = [picture for picture in every if 'aria-hidden="true"' not in picture]
    beside = [picture for picture in every if picture not in pictures]
    # Bars in a row of numbers that say the same, and the line beside the name of the attack whose curve it is.
    assert all('class="row"' in picture or 'viewBox="0 0 28 10"' in picture for picture in beside)
    assert len(pictures) >= 7
    assert all('role="img"' in picture and re.search(r'aria-label="[^"]{20,}"', picture) for picture in pictures)


def test_tables_have_captions_and_heads(page):
    tables = re.findall(r"<table.*?</table>", page.html, re.S)
    assert len(tables) >= 5
    assert all("<caption>" in table and 'scope="col"' in table and 'scope="row"' in table for table in tables[:1])
    assert all("<caption>" in table and 'scope="col"' in table for table in tables)


def test_failed_preconditions_stand_before_the_verdict(page, plain_run):
    assert page.text.index(WARNING.message) < page.text.index(page.headings[1][1])
    assert "Provisional verdict" in page.text


def test_the_page_tells_what_the_run_had(page):
    for words in ("arc_easy", "mia_preset", "quick", "LiRA, candidate reference: 310 records", "Bag of words"):
        assert words in page.text
    assert "fewer than 8 tokens" in page.text


def test_the_same_run_gives_the_same_page(plain_run):
    assert render(plain_run.run) == plain_run.page


def test_hostile_words_stay_words(hostile_page):
    page = Page(hostile_page)
    assert len(page.scripts) == len(page.styles) == len(page.data) == 1
    assert ALERT not in page.scripts[0]
    assert all(ALERT not in name for _, name, _ in page.attributes)
    harmless = {"aria-label", "data-source", "value"}
    assert {name for _, name, value in page.attributes if ALERT in value} <= harmless
    assert control_characters(hostile_page) == []
    # Rows that stand in the page and those in its data are the same words.
    [data] = page.data
    assert data["texts"][0] in page.text
    assert data["texts"][0][: data["heads"][0]].strip()


def test_hostile_names_are_told_apart(hostile_page):
    [data] = Page(hostile_page).data
    assert len(set(data["ids"])) == 60
    assert any("\\x1b[31mred.jsonl" in record for record in data["ids"])


def test_embedded_json_ends_no_script():
    text = embedded({"a": "</script><!-- & \u2028\u2029\x00\ud800"})
    assert not set("<>&\u2028\u2029\x00") & set(text)
    assert text.isascii()


def test_texts_show_only_where_the_run_logged_them(plain_run, hostile_page):
    assert Page(plain_run.page).data[0]["texts"] is None
    assert "ticket " not in plain_run.page
    assert Page(hostile_page).data[0]["texts"]


def test_long_texts_are_cut_in_the_table(tmp_path, undrawn):
    records = fake_records(30, 30, texts=["x" * 100_000, "short"])
    audit = fake_audit({"spv": 1.0}, records=records, findings=(), settings={"mia_log_text": True})
    page = Page(reported(tmp_path, audit).page)
    assert {len(text) for text in page.data[0]["texts"]} == {5, 600 + len(" … (99,400 more characters)")}


def test_two_audits_are_two_sections(tmp_path, undrawn):
    first = fake_audit({"spv": 2.0}, findings=())
    second = fake_audit({"loss": 0.0}, dataset="xsum", fingerprint="other", findings=())
    page = Page(reported(tmp_path, first, second).page)
    assert [level for level, _ in page.headings].count(2) == 2
    assert len(page.data) == 2
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_a_run_without_samples_still_has_a_verdict(tmp_path, undrawn):
    write_run(tmp_path, [fake_audit({"spv": 2.0, "loss": 0.1}, findings=())], with_samples=False)
    page = Page(render(read_latest(tmp_path)))
    assert "An outsider can" in page.headings[1][1]
    assert page.data == []
    assert "Most exposed records" not in page.text
    assert "without --log_samples, so that nobody can say which" in page.text
    assert "--log_samples" in page.text


def test_a_run_in_which_nothing_was_scored_says_so(tmp_path, undrawn):
    page = Page(reported(tmp_path, fake_audit({"lira_candidate": None}, findings=())).page)
    assert "cannot say" in page.headings[1][1]
    assert "no attack has scores of both classes" in page.text


def test_what_each_attack_looks_at_is_told_of_those_in_the_table(plain_run):
    told = dict(re.findall(r"<dt>([^<]*)</dt><dd>((?:how|in what|at|a|whether|for|by) [^<]*)</dd>", plain_run.page))
    attacks = {attack.title: attack.about for attack in builtin_attacks()}
    names = {task.attack for task in plain_run.run.audits[0].tasks}
    assert told == {found.title: attacks[found.title] for found in builtin_attacks() if found.name in names}


def test_what_limits_single_numbers_is_told_once_for_all_that_have_it(tmp_path, undrawn):
    html = reported(tmp_path / "one", fake_audit({"spv": 2.0, "loss": -2.0, "zlib": -2.0})).page
    assert Page(html).text.count("which points at how the classes were chosen") == 1
    assert re.search(r"<li class=\"note\">Loss, Loss per zlib byte: the AUROC lies below 0.5: ", html)
    assert "What limits single numbers" not in reported(tmp_path / "none", fake_audit({"spv": 2.0})).page


def test_a_canary_audit_tells_its_bound(tmp_path, undrawn):
    audit = fake_audit({"spv": 2.0}, canary=True, findings=(), records=fake_records(100, 100))
    found = reported(tmp_path, audit)
    page = Page(found.page)
    bound = found.raw["results"]["canary_audit_custom"]["epsilon_lb,none"]
    assert not math.isnan(bound)
    assert f"not differentially private for any epsilon below {bound:.3f}" in page.text
    told = found.raw["configs"]["canary_audit_custom"]["metadata"]["mia_audit"]["epsilon_lb"]
    assert f"SPV-MIA guessed {told['n_correct']} of them right, from its 28 highest and 28 lowest scores" in page.text
    gaussian = told["gaussian_dp"]
    assert gaussian["epsilon_lb"] > bound
    within = f"the same guesses give {gaussian['epsilon_lb']:.3f} (mu at least {gaussian['mu_lb']:.3f})"
    assert f"as added Gaussian noise makes it, {within}; of other training this says nothing." in page.text


def test_a_canary_audit_of_earlier_versions_has_one_bound(tmp_path, undrawn):
    audit = fake_audit({"spv": 2.0}, canary=True, findings=(), records=fake_records(100, 100))
    del audit[0].config["metadata"]["mia_audit"]["epsilon_lb"]["gaussian_dp"]
    page = Page(reported(tmp_path, audit).page)
    assert "It is a lower bound: 0 does not mean private." in page.text
    assert "Gaussian" not in page.text


def test_what_was_scored_and_what_the_self_prompts_are_like_is_told(tmp_path, undrawn):
    scored = {"format": "messages", "loss_on": "completion", "tokens": 61838, "context_tokens": 85175}
    prompts = {"texts": 250, "distinct": 0.988, "tokens": 59.98, "ended_at_once": 0.044}
    found = reported(tmp_path / "chat", fake_audit({"spv": 1.0}, details={"scored": scored, "self_prompts": prompts}))
    of_scored = (
        "61,838 tokens of conversations were scored, 85,175 read as context: the mask of the audit is the answers"
    )
    of_prompts = "250 self-prompts: 98.8 % of them differ, they have 60 tokens in the mean, and the target ended 4.4 %"
    assert of_scored in found.page
    assert of_prompts in found.page
    (told,) = report_facts(found.run)["audits"]
    assert told["scored"] == scored
    assert told["self_prompts"] == prompts
    strange = {"scored": {"tokens": "x"}, "self_prompts": dict.fromkeys(prompts, "many")}
    path = found.run.path
    raw = json.loads(path.read_text())
    raw["configs"]["spv_mia_custom"]["metadata"]["mia_audit"] |= strange
    path.write_text(json.dumps(raw))
    page = render(read_latest(path.parent))
    assert "read as context" not in page
    assert "of them differ" not in page


@pytest.mark.parametrize(("weights", "told"), [("other", True), ("target's", False), (None, False)])
def test_a_base_that_nobody_audited_is_told(tmp_path, undrawn, weights, told):
    """Not of an audit of the base itself, nor where no attack asked it."""
    path = reported(tmp_path, fake_audit({"spv": 1.0})).run.path
    raw = json.loads(path.read_text())
    models = raw["configs"]["spv_mia_custom"]["metadata"]["mia_audit"]["models"]
    of_target = models["target"]["weights"]
    if weights is not None:
        models["base"] = {
            "weights": of_target if weights == "target's" else [{"files": {"model.safetensors": "b" * 64}}]
        }
    path.write_text(json.dumps(raw))
    said = "What the base gives away by itself, on the same records, is not known"
    assert (said in render(read_latest(path.parent))) == told


def test_what_several_references_say_is_told(tmp_path, undrawn):
    agreement = {"spv_wbc": {"share": 0.05, "single": 0.5, "halves": 0.75}}
    strengths = {"spv_wbc": 1.5, "loss": 0.3, "lira_offline": 1.0}
    details = {"references": {"count": 4, "agreement": agreement}}
    found = reported(tmp_path / "four", fake_audit(strengths, details=details, unscored_every=40))
    assert (
        "each reference was trained 4 times, on other texts (mia_references): under Windows, SPV reference the lists "
        "of the 5 % most exposed members have in common 50 % between two single ones and 75 % between the means of two "
        "halves; lists in random orders have 5 %"
    ) in found.page
    records = found.run.audits[0].tasks[-1].records
    others = [record.p_value for record in records if not record.is_member and record.p_value is not None]
    share = sum(p <= 0.05 for p in others) / len(others)
    assert f"LiRA, offline over the references gives p-values: {percent(share)} of the non-members" in found.page
    assert '<th scope="col" class="n" data-sort="p">p-value' in found.page
    (told,) = report_facts(found.run)["audits"]
    attacks = {each["attack"]["name"]: each for each in told["attacks"]}
    assert attacks["spv_wbc"]["references"] == {"count": 4, "agreement": agreement["spv_wbc"]}
    assert attacks["lira_offline"]["references"] == {"count": 4}
    assert attacks["lira_offline"]["nonmembers_with_p_at_most_5pct"] == share
    exposed = {member["id"]: member["attacks"] for member in told["exposure"]}
    for record in records:
        if record.is_member and record.p_value is not None:
            assert exposed[record.id]["lira_offline"]["p_value"] == record.p_value
            assert "p_value" not in exposed[record.id]["loss"]
    one = reported(tmp_path / "one", fake_audit({"spv_wbc": 1.5, "loss": 0.3})).page
    assert "p-value" not in one
    assert "(mia_references)" not in one


@pytest.mark.parametrize(
    "strange", [{"count": "x", "agreement": {"spv_wbc": {"share": 0.05, "single": 0.5}}}, {"count": 2, "agreement": {}}]
)
def test_strange_references_are_passed_over(tmp_path, undrawn, strange):
    page = reported(tmp_path, fake_audit({"spv_wbc": 1.5}, details={"references": strange})).page
    assert "most exposed members have in common" not in page
