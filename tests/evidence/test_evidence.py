"""`spvmia evidence`: what stands in the folder, and what is said of one that is not what it was."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest
from typer.testing import CliRunner

from spvmia_plugin.cli.main import make_app
from spvmia_plugin.evidence.folder import _pairs
from spvmia_plugin.evidence.sealing import LIST, seal, verify
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


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_in_a_browser(browser, written, width, scheme):
    path = written / "evidence.html"
    found = opened(browser, path, width=width, scheme=scheme)
    assert (found.complaints, found.requests) == ([], [path.as_uri()])
    unfold(found.page)
    assert spilled(found.page) == []
    assert serious(found.page) == []


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


def test_what_sees_no_model_sees_nothing(written):
    (audit,) = json.loads((written / "evidence.json").read_text())["audits"]
    sees = {each["attack"]: (each["sees"], each["tokens_asked_of_target"]) for each in audit["attackers"]}
    assert sees["bag_of_words"] == ("nothing", None)
    assert sees["loss"][0] == "log-probabilities of each token"


def test_records_of_records_are_told_line_by_line():
    told = {"a": {"b_c": [{"d": 1}, {"d": 2}], "e": [1, 2]}, "f": [{"g": "x"}], "h": None, "i": []}
    assert _pairs(told) == [("a › b c › 1 › d", "1"), ("a › b c › 2 › d", "2"), ("a › e", "[1, 2]"), ("f › g", "x")]


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
    assert "NOT SIGNED, where a signature was asked for" in found.stdout


@pytest.mark.parametrize("content", ["[]", "{", '{"signed": null}', "\xff"])
def test_a_folder_that_says_nothing_of_a_signature(tmp_path, content):
    (tmp_path / "evidence.json").write_bytes(content.encode("latin-1"))
    seal(tmp_path)
    assert verify(tmp_path).holds


def test_minisign_is_asked_as_it_wants_to_be(results, tmp_path, monkeypatch):
    """A program of that name that keeps what it is called with: minisign itself may not be installed."""
    program = tmp_path / "bin" / "minisign"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\necho "$@" >> "$(dirname "$0")/asked"\n'
        'while [ $# -gt 0 ]; do [ "$1" = -S ] && made=1; [ "$1" = -x ] && out="$2"; shift; done\n'
        '[ -n "$made" ] && echo signature > "$out"\nexit 0\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    (tmp_path / "key").write_text("secret")
    folder = tmp_path / "signed"
    assert spvmia(results, "--output", folder, "--sign", tmp_path / "key", "--minisign").exit_code == 0
    assert "and not checked" in spvmia("--verify", folder).stdout
    assert spvmia("--verify", folder, "--public-key", tmp_path / "key").exit_code == 0
    asked = (program.parent / "asked").read_text().splitlines()
    assert asked[0].startswith("-S -s ")
    assert asked[1].startswith("-V -p ")


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
        (["--verify", "{written}", "--output", "{tmp}/x"], "--verify: expected to be alone, got"),
        (["--verify", "{written}", "--allowed-signers", "x"], "--identity: expected who is said to have signed, got"),
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
