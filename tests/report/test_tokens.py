"""One record token by token: what the store holds is shown, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from spvmia_plugin.auditing.stored import signals_key
from spvmia_plugin.cli.main import make_app
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.data.load import load_audit_data
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import ScoreInput
from spvmia_plugin.report.tokens import LINE_END, Token, TokenView, token_views
from spvmia_plugin.results import read_latest
from spvmia_plugin.signals import TokenSignals
from spvmia_plugin.store.store import Store
from tests.report.pages import Page
from tests.results.builders import fake_audit, write_run
from tests.tiny import tiny_texts, tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture
def audited(tmp_path, tokenizer):
    """A run on files that are still there, and the store it would have left for its first record."""
    tokenizer.save_pretrained(tmp_path / "base")
    for name, seed in (("in", 3), ("out", 4)):
        lines = (json.dumps({"text": text}) + "\n" for text in tiny_texts(30, seed=seed))
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    settings = {
        "mia_members": str(tmp_path / "in.jsonl"),
        "mia_nonmembers": str(tmp_path / "out.jsonl"),
        "mia_block_size": 0,
        "mia_cache_dir": str(tmp_path / "cache"),
    }
    data = load_audit_data(
        AuditConfig.from_metadata(settings), "custom", registry=None, tokenizer=lambda: tokenizer, target_dirs=[]
    )
    audit = fake_audit({"spv": 1.0}, records=data.records, fingerprint=data.fingerprint, settings=settings, findings=())
    write_run(tmp_path / "results", [audit], model_args={"pretrained": str(tmp_path / "base")})
    run = read_latest(tmp_path / "results")
    record = data.records[0]
    return run, record, fill_store(tmp_path / "cache", run, tuple(tokenizer.encode(record.text)))


def fill_store(folder: Path, run, token_ids: tuple[int, ...]) -> dict[str, TokenSignals]:
    draw = np.random.default_rng(0)
    made = {}
    with Store(folder) as store:
        for role in ("target", "reference"):
            item = ScoreInput(token_ids)
            logprob = -draw.exponential(2, item.scored).astype(np.float32)
            made[role] = TokenSignals(logprob, np.zeros(item.scored, dtype=bool))
            identity = run.audits[0].told["models"][role]
            store.signals.put({signals_key(store, identity, 8192, item): made[role]})
    return made


def test_of_several_references_their_mean_is_shown(audited):
    """As attacks saw it; where the store lacks one of them, none."""
    run, record, made = audited
    models = {**run.audits[0].told["models"], "reference_2": {"weights": [{"files": {"second": "2"}}]}}
    first = run.audits[0].tasks[0]
    told = replace(first, mia_audit=replace(first.mia_audit, models=models))
    audit = replace(run.audits[0], tasks=[told])
    [without] = token_views(run, audit, [record.id])
    assert without.reference is None
    folder = audit.mia_audit.settings["mia_cache_dir"]
    target, reference = made["target"], made["reference"]
    with Store(folder) as store:
        item = ScoreInput(tuple(tiny_tokenizer().encode(record.text)))
        other = replace(reference, logprob=target.logprob)
        store.signals.put({signals_key(store, models["reference_2"], 8192, item): other})
    [view] = token_views(run, audit, [record.id])
    assert view.reference == "reference"
    expected = [(float(a) + float(b)) / 2 for a, b in zip(target.logprob, reference.logprob, strict=True)]
    assert [token.reference for token in view.tokens][1:] == pytest.approx(expected, rel=1e-6)


def test_tokens_come_from_the_store_with_their_own_text(audited):
    run, record, made = audited
    [view] = token_views(run, run.audits[0], [record.id])
    assert view.reason is None
    assert "".join(token.text for token in view.tokens) == record.text
    # Nothing stands before the first token: it has no score, and is shown all the same.
    assert [token.target for token in view.tokens] == [None, *made["target"].logprob.tolist()]
    assert [token.reference for token in view.tokens] == [None, *made["reference"].logprob.tolist()]
    assert view.tokens[0].difference is None
    assert view.reference == "reference"
    assert view.tokens[3].difference == view.tokens[3].target - view.tokens[3].reference


def test_the_page_and_the_json_show_them_only_when_asked(audited, tmp_path, undrawn):
    _, record, _ = audited
    page, results = tmp_path / "page.html", tmp_path / "results"
    arguments = ["report", str(results), "--output", str(page)]
    assert CliRunner().invoke(make_app(), arguments).exit_code == 0
    assert record.text not in Page(page.read_text(encoding="utf-8")).text
    result = CliRunner().invoke(make_app(), [*arguments, "--record", record.id, "--json"])
    assert result.exit_code == 0, result.output
    assert record.text in Page(page.read_text(encoding="utf-8")).text
    [view] = json.loads(result.stdout)["audits"][0]["tokens"]
    assert "".join(row[0] for row in view["tokens"]) == record.text


def test_what_is_not_in_the_store_is_said(audited):
    run, record, _ = audited
    other = next(found.id for found in run.audits[0].records if found.id != record.id)
    [view] = token_views(run, run.audits[0], [other])
    assert view.tokens == ()
    assert "no longer has its token signals" in view.reason


def test_data_that_changed_are_not_shown(audited, tmp_path):
    run, record, _ = audited
    (tmp_path / "in.jsonl").write_text('{"text": "another text altogether"}\n' * 3)
    [view] = token_views(run, run.audits[0], [record.id])
    assert view.tokens == ()
    assert view.reason


def test_a_results_file_runs_no_code(audited, tmp_path):
    """Its model arguments may name a tokenizer with code of its own, and say that it is to be trusted."""
    run, record, _ = audited
    base = tmp_path / "base"
    config = json.loads((base / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    (base / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    trusting = replace(run, config={"model_args": {"pretrained": str(base), "trust_remote_code": True}})
    [view] = token_views(trusting, run.audits[0], [record.id])
    assert not (tmp_path / "ran").exists()
    assert view.tokens == ()
    assert "no tokenizer could be loaded" in view.reason


def test_a_model_in_memory_has_no_place(audited, tokenizer, tmp_path):
    """Its description is no path. A tokenizer that was named is found."""
    run, record, _ = audited
    described = "\n".join(["LlamaForCausalLM(", *("  (layer): Linear()" for _ in range(99)), ")"])
    for arguments, option in (
        ({"pretrained": described}, "pretrained"),
        ({"pretrained": described, "tokenizer": "Fast(\n)"}, "pretrained"),
        ({"pretrained": "x", "tokenizer": "Fast(\n)"}, None),
    ):
        [view] = token_views(replace(run, config={"model_args": arguments}), run.audits[0], [record.id])
        assert not view.tokens
        if option:
            assert view.reason.startswith(f"{option}: expected the name of a model in the results file, got one that")
    named = {"pretrained": described, "tokenizer": str(tmp_path / "base")}
    [view] = token_views(replace(run, config={"model_args": named}), run.audits[0], [record.id])
    assert len(view.tokens) == len(tokenizer.encode(record.text))


def test_a_damaged_tokenizer_is_said(audited, tmp_path):
    run, record, _ = audited
    (tmp_path / "base" / "tokenizer.json").write_text('{"truncated": ')
    [view] = token_views(run, run.audits[0], [record.id])
    assert "no tokenizer could be loaded" in view.reason


def test_no_store_is_made_for_the_question(audited, tmp_path):
    run, record, _ = audited
    (tmp_path / "cache").rename(tmp_path / "elsewhere")
    [view] = token_views(run, run.audits[0], [record.id])
    assert "the audit's store is not at" in view.reason
    assert not (tmp_path / "cache").exists()


def test_unknown_records_are_named(audited):
    run, record, _ = audited
    with pytest.raises(SpvmiaError, match=r"--record: expected the id of an audited record, got '.*x'.*did you mean"):
        token_views(run, run.audits[0], [f"{record.id}x"])


def test_what_was_read_as_context_has_no_numbers_and_is_grey():
    def token(target):
        return Token("a" + LINE_END, target, None)

    plain = TokenView("r:1", True, tokens=(token(None), token(-1.0)))
    assert plain.context == frozenset()  # nothing stands before the first token
    chat = TokenView("r:1", True, tokens=(token(None), token(None), token(-1.0), token(None)))
    assert chat.context == {0, 1, 3}
    assert [row[1].value for row in chat.rows()] == [None, None, -1.0, None]
