"""`spvmia evidence`: what stands in the folder, and what is said of one that is not what it was."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from spvmia_plugin.cli.main import make_app
from spvmia_plugin.evidence.folder import _pairs
from spvmia_plugin.evidence.sealing import FACTS, LIST, seal, sign, verify
from spvmia_plugin.results import read_latest
from tests.browser import SCHEMES, WIDTHS, opened, serious, shifted, spilled, unfold
from tests.results.builders import fake_audit, fake_records, write_run

STRENGTHS = {"loss": 0.3, "spv_wbc": 1.4, "bag_of_words": 0.0}


def spvmia(*arguments):
    return CliRunner().invoke(make_app("evidence"), ["evidence", *map(str, arguments)])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    settings = {"mia_max_auroc": 0.65}
    audit = fake_audit(STRENGTHS, records=fake_records(150, 150), settings=settings)
    write_run(folder, [audit], capabilities={"arc_easy": {"acc": 0.5}})
    return folder


@pytest.fixture(scope="module")
def written(results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "evidence"
    who = ("--auditor", "A. Auditor", "--organisation", "Acme <b>", "--relation", "third party")
    found = spvmia(results, "--output", folder, *who)
    assert found.exit_code == 0, found.output
    return folder


@pytest.fixture
def evidence(written, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(written, tmp_path / "evidence")


def test_who_stands_for_it_may_be_called_as_another_encoding_has_it(results, tmp_path):
    """Arguments of a Latin-1 terminal come as half surrogates; and half a pair is no name of anybody."""
    who = ("--auditor", "Andr\udce9", "--organisation", "\ud83d", "--statement", "na\udcefve", "--relation", "\udcff")
    found = spvmia(results, "--output", tmp_path / "evidence", *who)
    assert found.exit_code == 0, found.output
    told = json.loads((tmp_path / "evidence" / FACTS).read_text(encoding="utf-8"))["signatory"]
    assert told["auditor"] == "Andr\\xe9"
    assert told["statement"] == "na\\xefve"
    assert "Andr\\xe9" in (tmp_path / "evidence" / "evidence.html").read_text(encoding="utf-8")
    verify(tmp_path / "evidence")


def test_nothing_is_signed_for_an_attack_whose_samples_are_gone(results, tmp_path):
    copy = shutil.copytree(results, tmp_path / "results")
    (path,) = copy.rglob("samples_spv_wbc*")
    path.unlink()
    found = spvmia(copy, "--output", tmp_path / "evidence")
    assert found.exit_code == 1
    assert "expected the samples of every attack, got none of spv_wbc" in found.output
    assert not (tmp_path / "evidence").exists()


def test_the_folder_holds_what_was_found(written, results):
    facts = json.loads((written / "evidence.json").read_text())
    run = read_latest(results)
    (audit,) = facts["audits"]
    assert audit["bound"]["outcome"] == "exceeded"
    assert audit["data"]["members"] == 150
    by_name = {each["attack"]: each for each in audit["attackers"]}
    assert set(by_name) == set(STRENGTHS)
    for task in run.audits[0].tasks:
        told = by_name[task.attack]
        assert told["auroc"]["value"] == task.metrics["auroc"]
        assert told["tpr_at_5pct_fpr"]["threshold"] == task.mia_audit.metrics.tpr_at_5pct_fpr.threshold
    assert by_name["spv_wbc"]["given"] == "the base"
    assert by_name["bag_of_words"]["given"] == "labelled records"
    assert facts["signatory"]["auditor"] == "A. Auditor"
    assert any("none of the 2 attacks" in sentence for sentence in audit["residual_risk"])
    names = sorted(path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file())
    copies = [name for name in names if name.startswith("results/")]
    assert len(copies) == 1 + len(STRENGTHS)
    assert {"SHA256SUMS", "evidence.html", "evidence.json", "report.html"} == set(names) - set(copies)
    assert all((written / name).stat().st_mode & 0o077 == 0 for name in names)


def test_the_page_says_it_and_loads_nothing(written):
    page = (written / "evidence.html").read_text()
    for words in ("exceeded", "Windows, SPV reference", "11.2.5", "Residual risk", "Acme &lt;b&gt;", "third party"):
        assert words in page
    assert "<img" not in page
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize("folder", ["written", "owned"])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_in_a_browser(browser, request, folder, width, scheme):
    path = request.getfixturevalue(folder) / "evidence.html"
    found = opened(browser, path, width=width, scheme=scheme)
    assert (found.complaints, found.requests) == ([], [path.as_uri()])
    unfold(found.page)
    assert spilled(found.page) == []
    assert serious(found.page) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_no_button_lies_over_a_command(browser, written, width):
    page = opened(browser, written / "evidence.html", width=width).page
    found = page.evaluate(
        """() => [...document.querySelectorAll('.copied')].map(box => {
          const words = document.createRange(), pre = box.querySelector('pre');
          words.selectNodeContents(pre.querySelector('code'));
          const button = box.querySelector('.copy').getBoundingClientRect();
          const over = one => one.right > button.left && one.left < button.right
            && one.bottom > button.top && one.top < button.bottom;
          return {shown: button.width > 0, scrolls: pre.scrollWidth > pre.clientWidth,
            over: [...words.getClientRects()].some(over)};
        })"""
    )
    assert found
    assert all(each == {"shown": True, "scrolls": False, "over": False} for each in found)


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_moves_while_the_page_comes_in(browser, written, width):
    assert shifted(browser, written / "evidence.html", width=width) == []


def test_numbers_of_the_page_are_those_of_the_facts(written):
    facts, page = json.loads((written / "evidence.json").read_text()), (written / "evidence.html").read_text()
    (audit,) = facts["audits"]
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', page.partition('class="cards"')[2], re.S)
    cells = {re.sub("<.*", "", name): re.findall(r"<span>([^<]*)</span>", cells) for name, cells in rows}
    for attacker in audit["attackers"]:
        told = [attacker[key]["value"] for key in ("auroc", "tpr_at_5pct_fpr", "tpr_at_1pct_fpr", "tpr_at_0.1pct_fpr")]
        printed = sorted(cells[attacker["title"]][:4])
        assert printed == sorted("–" if value is None else f"{value:.3f}" for value in told)
    assert page.count("150 non-members cannot resolve an FPR of 0.1 %: at least 1000 are needed</li>") == 1


def facts_of(tmp_path, *audits):
    """What `evidence.json` says of the only audit, and the page."""
    write_run(tmp_path / "results", list(audits))
    found = spvmia(tmp_path / "results", "--output", tmp_path / "evidence")
    assert found.exit_code == 0, found.output
    (audit,) = json.loads((tmp_path / "evidence" / "evidence.json").read_text())["audits"]
    return audit, (tmp_path / "evidence" / "evidence.html").read_text()


def test_each_attacker_sees_what_it_asks_for_itself(tmp_path):
    """All four in one run: what the run asked of the target is not what each of them did."""
    strengths = dict.fromkeys(("loss", "lowercase", "grad_norm", "ngram", "surrogate", "bag_of_words"), 0.5)
    audit, page = facts_of(tmp_path, fake_audit(strengths))
    told = {each["attack"]: each for each in audit["attackers"]}
    assert {name: each["sees"] for name, each in told.items()} == {
        "loss": "all log-probabilities",
        "lowercase": "all log-probabilities",
        "grad_norm": "all log-probabilities, gradients of the loss",
        "ngram": "texts that it writes",
        "surrogate": "nothing",  # these results say nothing of self-prompts
        "bag_of_words": "nothing",
    }
    amount = {"texts": 300, "tokens": 9600}
    record, gradients = {"what": "the record", **amount}, {"what": "gradients for the record", **amount}
    written = {"what": "texts written where the record goes on", **amount}
    assert told["loss"]["asked_of_target"] == [record]
    assert told["lowercase"]["asked_of_target"] == [record, {"what": "the record in lower case", **amount}]
    assert told["grad_norm"]["asked_of_target"] == [record, gradients]
    assert told["ngram"]["asked_of_target"] == [written]
    assert told["bag_of_words"]["asked_of_target"] == []
    assert told["grad_norm"]["given"] == "the target's weights"
    assert told["loss"]["given"] == "nothing else"
    assert page.count("texts written where the record goes on: 300 texts, 9,600 tokens") == 1


@pytest.mark.parametrize(
    ("view", "words"),
    [("top_k:5", "the 5 most probable tokens' log-probabilities"), ("rounded:2", "log-probabilities of 2 decimals")],
)
def test_less_than_all_log_probabilities_is_told_as_that(tmp_path, view, words):
    audit, page = facts_of(tmp_path, fake_audit({"loss": 0.5}, settings={"mia_api_view": view}))
    assert audit["attackers"][0]["sees"] == words
    assert words.replace("'", "&#39;") in page


def test_texts_that_the_target_writes_for_a_reference_are_counted(tmp_path):
    told = {"texts": 40, "tokens": 12.0, "distinct": 1.0, "ended_at_once": 0.0}
    audit, _ = facts_of(tmp_path, fake_audit({"surrogate": 0.5, "loss": 0.5}, details={"self_prompts": told}))
    by_name = {each["attack"]: each for each in audit["attackers"]}
    assert by_name["surrogate"]["sees"] == "texts that it writes"
    written = {"what": "texts written to train a reference on", "texts": 40, "tokens": 480}
    assert by_name["surrogate"]["asked_of_target"] == [written]
    assert written not in by_name["loss"]["asked_of_target"]


@pytest.mark.parametrize(
    ("attacker", "sees"),
    [
        ({"given": [], "api_view": "full"}, "all log-probabilities"),
        ({"given": ["weights"], "api_view": "full"}, "all log-probabilities, gradients of the loss"),
        ({"given": ["sampling"], "api_view": "text"}, "texts that it writes"),
        ({"given": ["labels"], "api_view": "nothing"}, "nothing"),
        (None, "not recorded"),
    ],
)
def test_older_results_say_what_they_know_and_count_nothing(tmp_path, attacker, sees):
    tasks = fake_audit({"loss": 0.5})
    told = tasks[0].config["metadata"]["mia_audit"]
    del told["attacker"]
    told |= {} if attacker is None else {"attacker": attacker}
    audit, page = facts_of(tmp_path, tasks)
    (one,) = audit["attackers"]
    assert (one["sees"], one["asked_of_target"]) == (sees, None)
    assert "how much was not recorded" in page


def test_an_attack_without_a_score_was_not_made_and_says_why_once(tmp_path):
    audit, page = facts_of(tmp_path, fake_audit({"loss": 0.5, "lira_candidate": None}))
    (made,) = (each for each in audit["attackers"] if each["attack"] == "lira_candidate")
    assert made["given"].startswith("not made: lira_candidate: expected other data of the same domain")
    assert made["given"] in page.replace("&#39;", "'")
    items = re.findall(r"<li>([^<]*)</li>", page.partition("A dash stands for")[2].partition("</ul>")[0])
    assert len([words for words in items if "LiRA" in words]) == 1
    assert [words for words in items if words.startswith("AUROC, TPR at 5 % FPR, TPR at 1 % FPR, TPR at 0.1 % FPR of")]


def test_one_reason_for_several_numbers_is_one_sentence(tmp_path):
    audit, _ = facts_of(tmp_path, fake_audit({"loss": 0.5}, records=fake_records(15, 15)))
    unresolved = [words for words in audit["residual_risk"] if "not resolved" in words]
    reasons = [words.partition(": ")[2] for words in unresolved]
    assert len(set(reasons)) == len(reasons)


@pytest.mark.parametrize("strengths", [{"loss": -1.2}, {"loss": -1.2, "spv_wbc": 0.8}])
def test_an_attack_below_guessing_is_a_risk_when_turned_round(tmp_path, strengths):
    audit, _ = facts_of(tmp_path, fake_audit(strengths, records=fake_records(600, 600), findings=()))
    lowest = read_latest(tmp_path / "results").audits[0].strongest.turned_round.low
    (told,) = (words for words in audit["residual_risk"] if "AUROC above" in words)
    assert f"AUROC above {1 - lowest:.3f}, its answers turned round where that tells more, on records" in told
    after = audit["residual_risk"][2]
    assert after.startswith("That is no upper limit: loss has AUROC 0.")
    assert "turned round may pick out more members than any TPR tells" in after


def test_no_more_is_said_of_an_attack_that_may_guess(tmp_path):
    audit, _ = facts_of(tmp_path, fake_audit({"loss": -0.05}, records=fake_records(300, 300), findings=()))
    assert not any("turned round may pick out" in words for words in audit["residual_risk"])


def test_an_upper_limit_is_not_rounded_to_nobody(tmp_path):
    audit, _ = facts_of(tmp_path, fake_audit({"loss": -1.2}, records=fake_records(2000, 2000), findings=()))
    high = read_latest(tmp_path / "results").audits[0].strongest.most_exposed.high
    assert 0 < high < 0.005
    (told,) = (words for words in audit["residual_risk"] if "may be picked out" in words)
    assert told.startswith(f"Up to {100 * high:.2g} in 100 training records may be picked out by it while 1 in 100")


def test_an_attack_without_an_upper_limit_is_not_spoken_for(tmp_path):
    def two(records, rng):
        """Scores of one member and one other."""
        members = np.array([record.is_member for record in records])
        scores = np.full(len(records), np.nan)
        scores[[np.flatnonzero(members)[0], np.flatnonzero(~members)[0]]] = [1.0, 0.0]
        return scores

    audit, _ = facts_of(tmp_path, fake_audit({"loss": 0.2, "min_k": two}, records=fake_records(300, 300)))
    assert any(words.startswith("That leaves out at least one attack") for words in audit["residual_risk"])


# Whom the records belong to
def owned_audit(n=60, each=3, groups=("north", "south")):
    records = [
        replace(
            record, unit=f"u{record.cluster}", cluster=f"u{record.cluster}", group=groups[i % 2] if groups else None
        )
        for i, record in enumerate(fake_records(n * each, n * each, blocks=each))
    ]
    return fake_audit(STRENGTHS, records=records, settings={"mia_max_auroc": 0.65})


@pytest.fixture(scope="module")
def owned(tmp_path_factory):
    """A folder of evidence of records that belong to somebody, in two groups."""
    place = tmp_path_factory.mktemp("owned")
    write_run(place / "results", [owned_audit()])
    assert spvmia(place / "results", "--output", place / "evidence").exit_code == 0
    return place / "evidence"


@pytest.mark.parametrize(("n", "each"), [(60, 3), (40, 5)])
def test_the_unit_is_stated_with_its_numbers(tmp_path, n, each):
    audit, page = facts_of(tmp_path, owned_audit(n, each))
    told = audit["data"]["privacy_unit"]
    assert told == {
        "unit": "unit of column 'customer'",
        "column": "customer",
        "members": n,
        "nonmembers": n,
        "median_records": each,
        "most_records": each,
    }
    run = read_latest(tmp_path / "results")
    by_name = {each["attack"]: each for each in audit["by_unit"]["attackers"]}
    for task in run.audits[0].model_attacks:
        assert by_name[task.attack]["auroc"]["value"] == task.mia_audit.unit.metrics.auroc
    strongest = run.audits[0].mia_audit.unit.together.strongest.auroc
    assert audit["by_unit"]["strongest"]["auroc"]["high"] == strongest.high
    assert f"{strongest.value:.3f}" in page
    assert f"{n} units of members and {n} of others" in page
    assert f"with a median of {each} records" in page
    assert {group["group"] for group in audit["groups"]["groups"]} == {"north", "south"}
    for group in run.audits[0].mia_audit.groups.groups:
        assert f"{group.auroc.value:.3f}" in page


@pytest.mark.parametrize(("block_size", "unit"), [(0, "row"), (128, "document")])
def test_without_a_column_the_unit_is_the_document(tmp_path, block_size, unit):
    tasks = fake_audit(STRENGTHS, records=fake_records(150, 150, blocks=3))
    for task in tasks:
        task.config["metadata"]["mia_audit"]["data"]["block_size"] = block_size
    audit, page = facts_of(tmp_path, tasks)
    told = audit["data"]["privacy_unit"]
    assert (told["unit"], told["column"], told["members"], told["most_records"]) == (unit, None, 50, 3)
    assert (audit["by_unit"], audit["groups"]) == (None, None)
    assert "By unit" not in page
    assert "<h3>Groups</h3>" not in page


def test_units_that_some_records_lack_are_told_as_that(tmp_path):
    first, *records = (replace(record, unit=f"u{record.id}") for record in fake_records(150, 150))
    audit, _ = facts_of(tmp_path, fake_audit(STRENGTHS, records=[*records, replace(first, unit=None)]))
    assert "1 of 300 records belong to no unit" in audit["data"]["privacy_unit"]["why_no_other"]


def test_records_of_records_are_told_line_by_line():
    told = {"a": {"b_c": [{"d": 1}, {"d": 2}], "e": [1, 2]}, "f": [{"g": "x"}], "h": None, "i": []}
    assert _pairs(told) == [("a › b_c › 1 › d", "1"), ("a › b_c › 2 › d", "2"), ("a › e", "[1, 2]"), ("f › g", "x")]


def test_sha256sum_reads_the_list(written):
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum")
    done = subprocess.run(["sha256sum", "-c", LIST], cwd=written, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_folder_that_is_what_it_was(evidence):
    found = spvmia("--verify", evidence)
    assert found.exit_code == 0
    assert found.stdout.splitlines() == [
        "NOT SIGNED: whoever changed a file could have made the list anew",
        "every file is what it was",
    ]


def test_what_is_not_what_it_was_is_named(evidence):
    page = evidence / "report.html"
    content = bytearray(page.read_bytes())
    content[len(content) // 2] ^= 1
    page.write_bytes(content)
    (evidence / "results" / "more.json").write_text("{}")
    (evidence / "evidence.json").unlink()
    found = spvmia("--verify", evidence, "--json")
    assert found.exit_code == 1
    told = json.loads(found.stdout)
    assert (told["changed"], told["missing"], told["added"]) == (
        ["report.html"],
        ["evidence.json"],
        ["results/more.json"],
    )
    assert not told["holds"]
    said = spvmia("--verify", evidence).stdout.splitlines()
    assert said[:3] == ["changed: report.html", "missing: evidence.json", "added: results/more.json"]


def test_a_link_in_the_place_of_a_file_is_a_change(evidence, tmp_path):
    moved = shutil.move(evidence / "evidence.json", tmp_path / "elsewhere.json")
    (evidence / "evidence.json").symlink_to(moved)
    assert verify(evidence).changed == ["evidence.json"]


def test_names_with_spaces_and_other_letters(tmp_path):
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a folder" / "née Ü.txt").write_text("x")
    seal(tmp_path)
    assert verify(tmp_path).holds


# Signatures
@pytest.fixture
def key(tmp_path):
    if shutil.which("ssh-keygen") is None:
        pytest.skip("no ssh-keygen")
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "auditor", "-f", tmp_path / "key"],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return tmp_path / "key"


def test_a_signature_by_ssh(results, key, tmp_path):
    folder = tmp_path / "signed"
    assert spvmia(results, "--output", folder, "--sign", key).exit_code == 0
    signers = tmp_path / "signers"
    signers.write_text(f"a@acme.example {key.with_suffix('.pub').read_text()}")
    known = spvmia("--verify", folder, "--allowed-signers", signers, "--identity", "a@acme.example")
    assert known.exit_code == 0
    assert "the ssh signature holds, and is that of a@acme.example" in known.stdout
    alone = spvmia("--verify", folder)
    assert alone.exit_code == 0
    assert "the ssh signature holds; by whom" in alone.stdout
    other = spvmia("--verify", folder, "--allowed-signers", signers, "--identity", "b@acme.example")
    assert other.exit_code == 1
    assert "the signature does not hold" in other.stdout


def test_a_list_that_was_made_anew_is_not_the_signed_one(results, key, tmp_path):
    folder = tmp_path / "signed"
    spvmia(results, "--output", folder, "--sign", key)
    (folder / "evidence.json").write_text("{}")
    seal(folder)
    found = spvmia("--verify", folder)
    assert found.exit_code == 1
    assert "the signature does not hold" in found.stdout


def test_a_signature_that_was_taken_away(results, key, tmp_path):
    folder = tmp_path / "signed"
    spvmia(results, "--output", folder, "--sign", key)
    (folder / "SHA256SUMS.sig").unlink()
    signers = tmp_path / "signers"
    signers.write_text(f"a@acme.example {key.with_suffix('.pub').read_text()}")
    found = spvmia("--verify", folder, "--allowed-signers", signers, "--identity", "a@acme.example")
    assert found.exit_code == 1
    assert "NOT SIGNED: evidence.json says that it was, with ssh: the signature was taken away" in found.stdout
    unasked = spvmia("--verify", folder)
    assert unasked.exit_code == 1
    assert unasked.stdout == found.stdout


def test_a_signature_that_never_was_is_missed_where_one_is_asked_for(evidence, key):
    found = spvmia("--verify", evidence, "--public-key", key)
    assert found.exit_code == 1
    assert "NOT SIGNED with minisign, where --public-key asks for such a signature" in found.stdout


@pytest.mark.parametrize("content", ["[]", "{", '{"signed": null}', "\xff"])
def test_a_folder_that_says_nothing_of_a_signature(tmp_path, content):
    (tmp_path / "evidence.json").write_bytes(content.encode("latin-1"))
    seal(tmp_path)
    assert verify(tmp_path).holds


def made_by(tmp_path, name):
    """A private key of ssh, and the file that lets its owner sign as `a@acme.example`."""
    path = tmp_path / name
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True, stdin=subprocess.DEVNULL)
    signers = tmp_path / f"{name}.signers"
    signers.write_text(f"a@acme.example {path.with_suffix('.pub').read_text()}")
    return path, signers


@pytest.fixture
def forged(results, key, tmp_path):
    """A folder that was signed, changed, and given a list that fits; and who may sign."""
    folder, signers = tmp_path / "forged", tmp_path / "signers"
    assert spvmia(results, "--output", folder, "--sign", key).exit_code == 0
    signers.write_text(f"a@acme.example {key.with_suffix('.pub').read_text()}")
    page = folder / "report.html"
    page.write_text(page.read_text() + "AUROC .5")
    seal(folder)
    return folder, ("--allowed-signers", signers, "--identity", "a@acme.example")


@pytest.mark.parametrize("left", [True, False], ids=["beside the old signature", "in its place"])
def test_a_signature_that_nobody_checks_hides_no_forgery(forged, left):
    folder, asked = forged
    (folder / "SHA256SUMS.minisig").write_text("junk")
    if not left:
        (folder / "SHA256SUMS.sig").unlink()
    found = spvmia("--verify", folder, *asked)
    assert found.exit_code == 1
    assert "added: SHA256SUMS.minisig" in found.stdout
    assert ("does not hold" if left else "the signature was taken away") in found.stdout
    assert spvmia("--verify", folder).exit_code == 1


def test_nor_does_one_of_somebody_else_where_minisigns_key_is_given(forged, minisign, tmp_path):
    """An ssh signature by anybody says nothing to who asks for one by minisign."""
    folder, _ = forged
    other, signers = made_by(tmp_path, "other")
    sign(folder, other)
    found = spvmia("--verify", folder, "--public-key", minisign("good"))
    assert found.exit_code == 1
    assert "NOT SIGNED with minisign, where --public-key asks for such a signature" in found.stdout
    both = spvmia(
        "--verify",
        folder,
        "--public-key",
        minisign("good"),
        "--allowed-signers",
        signers,
        "--identity",
        "a@acme.example",
    )
    assert both.exit_code == 1  # one of the two holds


def test_a_second_signature_counts_for_who_has_its_key(results, key, minisign, tmp_path):
    folder = tmp_path / "signed"
    spvmia(results, "--output", folder, "--sign", key)
    sign(folder, minisign("good"), minisign=True)
    assert "added: SHA256SUMS.minisig" in spvmia("--verify", folder).stdout
    assert spvmia("--verify", folder, "--public-key", minisign("good")).exit_code == 0
    wrong = spvmia("--verify", folder, "--public-key", minisign("wrong"))
    assert wrong.exit_code == 1
    assert "the signature does not hold" in wrong.stdout


@pytest.fixture
def minisign(tmp_path, monkeypatch):
    """A program of that name which signs with the key itself: minisign may not be installed. Gives keys by name."""
    program = tmp_path / "bin" / "minisign"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\necho "$@" >> "$(dirname "$0")/asked"\n'
        "while [ $# -gt 0 ]; do\n"
        'case "$1" in -S) made=1;; -x) out="$2";; -s|-p) key="$2";; -m) of="$2";; esac; shift; done\n'
        'wanted="$(cat "$key" "$of" | sha256sum)"\n'
        '[ -n "$made" ] && { echo "$wanted" > "$out"; exit 0; }\n'
        '[ "$wanted" = "$(cat "$out")" ]\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")

    def named(name):
        (tmp_path / name).write_text(name)
        return tmp_path / name

    return named


def test_minisign_is_asked_as_it_wants_to_be(results, tmp_path, minisign):
    folder = tmp_path / "signed"
    assert spvmia(results, "--output", folder, "--sign", minisign("key"), "--minisign").exit_code == 0
    unchecked = spvmia("--verify", folder)
    assert (unchecked.exit_code, "was NOT CHECKED" in unchecked.stdout) == (0, True)
    assert verify(folder).signed is None
    assert spvmia("--verify", folder, "--public-key", minisign("key")).exit_code == 0
    asked = (tmp_path / "bin" / "asked").read_text().splitlines()
    assert asked[0].startswith("-S -s ")
    assert asked[1].startswith("-V -p ")
    (folder / "SHA256SUMS.minisig").unlink()
    assert "evidence.json says that it was, with minisign" in spvmia("--verify", folder).stdout


@pytest.mark.parametrize("was_there", [False, True])
def test_a_key_that_does_not_sign_leaves_nothing_and_the_next_one_is_tried(results, key, tmp_path, was_there):
    (tmp_path / "bad").write_text("no key")
    folder = tmp_path / "signed"
    if was_there:
        folder.mkdir(mode=0o750)
    assert spvmia(results, "--output", folder, "--sign", tmp_path / "bad").exit_code == 1
    assert folder.exists() is was_there
    assert not was_there or (list(folder.iterdir()), folder.stat().st_mode & 0o777) == ([], 0o750)
    again = spvmia(results, "--output", folder, "--sign", key)
    assert again.exit_code == 0, again.output


def test_what_is_no_file_is_told_as_added(evidence, tmp_path):
    os.mkfifo(evidence / "pipe")
    (evidence / "a" / "empty").mkdir(parents=True)
    (evidence / "link").symlink_to(tmp_path)
    with socket.socket(socket.AF_UNIX) as bound, inside(evidence):
        bound.bind("socket")
    found = verify(evidence)
    assert sorted(found.added) == ["a/empty/", "link", "pipe", "socket"]
    assert not found.holds


@contextlib.contextmanager
def inside(folder):
    """Inside a folder, whose whole name may be too long for a socket's."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.mark.parametrize("name", ["report.html", "evidence.json"])
def test_a_pipe_in_the_place_of_a_file_is_a_change_and_is_not_waited_for(evidence, name):
    (evidence / name).unlink()
    os.mkfifo(evidence / name)
    assert verify(evidence).changed == [name]


def test_a_pipe_in_the_place_of_the_list_is_none(evidence):
    (evidence / LIST).unlink()
    os.mkfifo(evidence / LIST)
    assert "--verify: expected SHA256SUMS in" in spvmia("--verify", evidence).stderr


# What is left out, and bad input
def test_without_samples_nobody_is_named(results, tmp_path):
    folder = tmp_path / "bare"
    assert spvmia(results, "--output", folder, "--no-samples").exit_code == 0
    content = "".join(path.read_text() for path in folder.rglob("*") if path.is_file())
    ids = [task.records.roster.ids for task in read_latest(results).audits[0].tasks]
    assert not any(f'"{record_id}"' in content for record_id in ids[0])
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "RESULTS: expected results and a folder to write, got none"),
        (["{results}"], "--output: expected results and a folder to write, got none"),
        (["{results}", "--output", "{results}"], "--output: expected a new or empty folder, got"),
        (["nowhere", "--output", "{tmp}/x"], "RESULTS: expected lm_eval's output folder or results file, got nowhere"),
        (["{results}", "--output", "{tmp}/x", "--sign", "{tmp}/none"], "--sign: expected a private key, got"),
        (["--verify", "{tmp}/none"], "--verify: expected a folder of evidence, got"),
        (["--verify", "{results}"], "--verify: expected SHA256SUMS in"),
        (["--verify", "{written}", "--output", "{tmp}/x"], "--verify: expected only what checks a folder beside it"),
        (["--verify", "{written}", "--no-samples"], "--verify: expected only what checks a folder beside it"),
        (["--verify", "{written}", "--minisign"], "--verify: expected only what checks a folder beside it"),
        (["--verify", "{written}", "--allowed-signers", "x"], "--identity: expected who is said to have signed beside"),
        (["--verify", "{written}", "--identity", "a"], "--allowed-signers: expected a file that says who may sign"),
        (
            ["--verify", "{written}", "--identity", "a", "--allowed-signers", "{tmp}/none"],
            "--allowed-signers: expected a file with public keys, got",
        ),
        (["--verify", "{written}", "--public-key", "{tmp}"], "--public-key: expected a file with public keys, got"),
        (["{results}", "--output", "{tmp}/x", "--minisign"], "--minisign: expected --sign KEY beside it"),
        (["{results}", "--output", "{tmp}/x", "--identity", "a"], "--identity: expected --verify DIR beside it, got"),
        (["{results}", "--output", "{tmp}/x", "--public-key", "k"], "--public-key: expected --verify DIR beside it"),
    ],
)
def test_bad_input(results, written, tmp_path, arguments, message):
    known = {"results": results, "written": written, "tmp": tmp_path}
    found = spvmia(*(argument.format(**known) for argument in arguments))
    assert found.exit_code == 1
    assert found.stderr.strip().startswith(message), found.stderr
    assert not (tmp_path / "x").exists()


def test_a_list_that_is_none(evidence):
    (evidence / LIST).write_text("what is this\n")
    found = spvmia("--verify", evidence)
    assert found.exit_code == 1
    assert "expected lines of sha256sum, got another" in found.stderr


def test_a_key_that_is_none(results, tmp_path):
    if shutil.which("ssh-keygen") is None:
        pytest.skip("no ssh-keygen")
    (tmp_path / "key").write_text("no key")
    found = spvmia(results, "--output", tmp_path / "x", "--sign", tmp_path / "key")
    assert found.exit_code == 1
    assert found.stderr.strip().startswith("--sign: expected a key that ssh-keygen can sign with")
