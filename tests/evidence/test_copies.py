"""What the folder's copies of a run's files are: without credentials, still readable, and else byte for byte."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from spvmia_plugin.cli.main import make_app
from spvmia_plugin.evidence.sealing import verify
from spvmia_plugin.results import read_latest
from tests.results.builders import fake_audit, fake_records, write_run

SECRET = "Zq9xKw7LmT3vRb8nYc"
OPENING = {
    "base_url": f"http://h/v1?api_key={SECRET}",
    "api_key": SECRET,
    "header": {"Authorization": f"Bearer {SECRET}"},
    "pretrained": "org/model",
    "max_tokens": 64,
}
HIDDEN = 3


def written(tmp_path, **given):
    audit = fake_audit({"spv": 1.0, "loss": 0.1}, records=fake_records(40, 40), **given)
    return write_run(tmp_path / "results", [audit], model_args=OPENING if given else None)


def evidence(tmp_path, *options):
    folder = tmp_path / "evidence"
    found = CliRunner().invoke(
        make_app("evidence"), ["evidence", str(tmp_path / "results"), "--output", str(folder), *options]
    )
    assert found.exit_code == 0, found.output
    return folder


def files(folder):
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("options", [(), ("--no-samples",)])
def test_no_file_of_the_folder_holds_a_credential(tmp_path, options):
    path = written(tmp_path, settings={"mia_mask_model": f"s3://AKIAIOSFODNN7EXAMPLE:{SECRET}@bucket/t5"})
    raw = json.loads(path.read_text())
    raw["configs"]["spv_mia_custom"]["metadata"] |= OPENING  # where lm_eval puts model_args, too
    path.write_text(json.dumps(raw))
    folder = evidence(tmp_path, *options)
    found = files(folder)
    assert [name for name, each in found.items() if SECRET in each.read_text() or "AKIA" in each.read_text()] == []
    assert all(each.stat().st_mode & 0o077 == 0 for each in found.values())
    assert verify(folder).holds
    facts = json.loads(found["evidence.json"].read_text())
    in_settings = len(raw["configs"])
    assert facts["hidden"][path.name] == 2 * HIDDEN + in_settings
    assert sum(facts["hidden"].values()) == 2 * HIDDEN + in_settings
    assert f"{2 * HIDDEN + in_settings} credentials of the run are hidden in it" in found["evidence.html"].read_text()


def test_the_copy_has_all_else_and_the_same_numbers(tmp_path):
    path = written(tmp_path, findings=())
    folder = evidence(tmp_path)
    before, after = json.loads(path.read_text()), json.loads((folder / "results" / path.name).read_text())
    told = after["config"].pop("model_args")
    assert told == {
        "base_url": "http://h/v1?***", "api_key": "***", "header": "***", "pretrained": "org/model", "max_tokens": 64,
    }  # fmt: skip
    del before["config"]["model_args"]
    assert after == before
    [audit], [copied] = read_latest(tmp_path / "results").audits, read_latest(folder / "results").audits
    assert [task.metrics for task in copied.tasks] == [task.metrics for task in audit.tasks]
    assert copied.without_samples == audit.without_samples == []


def test_what_holds_none_is_copied_byte_for_byte(tmp_path):
    path = written(tmp_path)
    folder = evidence(tmp_path)
    for name, each in files(path.parent).items():
        assert (folder / "results" / name).read_bytes() == each.read_bytes()
    assert set(json.loads((folder / "evidence.json").read_text())["hidden"].values()) == {0}
    assert "no exact copy" not in (folder / "evidence.html").read_text()


def test_reasons_of_records_are_read_too(tmp_path):
    path = written(tmp_path)
    [samples] = path.parent.glob("samples_loss*")
    lines = samples.read_text().splitlines()
    first = json.loads(lines[0])
    answer = {**json.loads(first["resps"][0][0]), "reason": f"http://h/v1?api_key={SECRET} did not answer"}
    first |= {"resps": [[json.dumps(answer)]], "filtered_resps": [json.dumps(answer), f"token={SECRET}", 3]}
    lines[0] = json.dumps(first)
    samples.write_text("\n".join(lines) + "\n")
    folder = evidence(tmp_path)
    copy = (folder / "results" / samples.name).read_text().splitlines()
    assert copy[1:] == lines[1:]
    told = json.loads(copy[0])
    assert json.loads(told.pop("resps")[0][0]) == {**answer, "reason": "http://h/v1?*** did not answer"}
    assert told.pop("filtered_resps")[1:] == ["token=***", 3]
    assert told == {key: value for key, value in first.items() if "resps" not in key}
    assert json.loads((folder / "evidence.json").read_text())["hidden"][samples.name] == 3
