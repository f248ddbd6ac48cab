"""Files whose names are no text, and options of the harness that mean nothing to an audit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from lm_eval.tasks import TaskManager

from spvmia_plugin.errors import SpvmiaError
from tests.tiny import tiny_texts

from .conftest import TASKS

NAMES = {
    b"caf\xe9.jsonl": "caf\\xe9.jsonl",
    b"\xff\xfe<script>'\n\x1b[31m.jsonl": "\\xff\\xfe<script>'\n\x1b[31m.jsonl",
    "caf\u00e9.jsonl".encode(): "caf\u00e9.jsonl",
}
"""What the file system has, and what stands in ids: only bytes that are no UTF-8 are changed."""


def write(path, texts):
    with open(path, "w") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    return os.fsdecode(path)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_name_that_is_no_utf_8_ends_up_escaped_in_results(evaluate, options, tmp_path, name):
    members = write(os.path.join(os.fsencode(tmp_path), name), tiny_texts(30, seed=31))
    folder = tmp_path / "out"
    folder.mkdir()
    write(os.path.join(os.fsencode(folder), name), tiny_texts(30, seed=32))  # a shard behind a name of text
    files = {"mia_members": members, "mia_nonmembers": str(folder), "mia_cache_dir": str(tmp_path / "cache")}
    result = evaluate(["loss_mia_custom"], {**options, **files})
    written = json.dumps(result, default=str, ensure_ascii=False).encode("utf-8")  # as the harness does
    ids = {row["doc"]["id"] for row in json.loads(written)["samples"]["loss_mia_custom"]}
    assert f"{NAMES[name]}:1" in ids
    assert {identity.rpartition(":")[0] for identity in ids} == {NAMES[name], f"out/{NAMES[name]}"}
    metadata = result["configs"]["loss_mia_custom"]["metadata"]
    assert metadata["mia_members"].endswith(NAMES[name])
    assert metadata["mia_audit"]["settings"]["mia_members"].endswith(NAMES[name])
    assert metadata["mia_audit"]["data"]["source"].startswith(NAMES[name])


@pytest.mark.slow
def test_the_stock_command_writes_such_results(base, adapter, options, tmp_path):
    """With the file's name on the command line, to files and to the end."""
    name = os.path.join(os.fsencode(tmp_path), b"m\xe9.jsonl")
    write(name, tiny_texts(30, seed=31))
    metadata = json.dumps({**options, "mia_members": "PLACE", "mia_cache_dir": str(tmp_path / "cache")})
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu", "--batch_size", "8"]
    command += ["--model_args", f"pretrained={base},peft={adapter}", "--tasks", "loss_mia_custom", "--log_samples"]
    command += ["--include_path", str(TASKS), "--output_path", str(tmp_path / "out"), "--metadata"]
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [*map(os.fsencode, command), metadata.encode().replace(b"PLACE", name)], capture_output=True, env=env
    )
    said = done.stderr.decode("utf-8", "replace")
    assert done.returncode == 0, said[-2000:]
    assert "Traceback" not in said
    [samples] = (tmp_path / "out").rglob("samples_*.jsonl")
    assert "m\\\\xe9.jsonl:1" in samples.read_text(encoding="utf-8")
    [results] = (tmp_path / "out").rglob("results_*.json")
    page = tmp_path / os.fsdecode(b"p\xe9")
    report = [sys.executable, "-m", "spvmia_plugin", "report", str(results.parent), "--output", str(page)]
    for extra in ([], ["--json"]):
        done = subprocess.run([*report, *extra], capture_output=True, env=env)
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        assert b"p\\udce9" in done.stdout + done.stderr
    assert page.read_bytes().decode("utf-8")
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*report, "--json"], stdout=full, stderr=subprocess.PIPE, env=env)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1].startswith("stdout: expected to write what the command prints, got No")
    assert "Traceback" not in done.stderr.decode()


@pytest.mark.parametrize("argument", ["pretrained", "peft", "tokenizer", "gguf_file"])
def test_a_model_in_a_folder_that_is_no_utf_8_is_refused_before_the_work(options, argument):
    metadata = {**options, argument: os.fsdecode(b"/models/lora\xe9")}
    manager = TaskManager(metadata=metadata, include_path=str(TASKS), include_defaults=False)
    with pytest.raises(SpvmiaError, match=rf"^{argument}: expected a path in UTF-8, got .*xe9', which lm_eval cannot"):
        manager.load(["loss_mia_custom"])


# --- options of the harness that mean nothing to an audit ---


@pytest.fixture
def chatty(base, tmp_path):
    """The base with a chat template."""
    folder = tmp_path / "chatty"
    shutil.copytree(base, folder)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}")
    return folder


LINE = "spvmia: note: {} no audit: records are scored as they stand in the data, without a template"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"apply_chat_template": True}, "--apply_chat_template changes"),
        ({"system_instruction": "be brief"}, "--system_instruction changes"),
        (
            {"apply_chat_template": True, "system_instruction": "be brief", "fewshot_as_multiturn": True},
            "--apply_chat_template and --system_instruction change",
        ),
        ({}, None),
    ],
)
def test_options_for_prompts_are_not_ignored_in_silence(evaluate, options, tmp_path, capfd, chatty, arguments, told):
    tasks = ["loss_mia_custom", "zlib_mia_custom"]
    metadata = {**options, "mia_cache_dir": str(tmp_path / "cache")}
    result = evaluate(tasks, metadata, model_args={"pretrained": str(chatty)}, **arguments)
    said = capfd.readouterr().err
    assert said.count("no audit: records are scored as they stand") == (1 if told else 0)
    for task in tasks:
        notes = result["configs"][task]["metadata"]["mia_audit"]["notes"]
        assert notes == ([LINE.format(told).removeprefix("spvmia: note: ")] if told else [])
    if told:
        assert LINE.format(told) in said.splitlines()


@pytest.mark.slow
def test_the_stock_command_tells_them_too(adapter, options, tmp_path, chatty):
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu", "--batch_size", "8"]
    command += ["--model_args", f"pretrained={chatty},peft={adapter}", "--tasks", "loss_mia_custom"]
    command += ["--include_path", str(TASKS), "--apply_chat_template", "--system_instruction", "be brief"]
    command += ["--metadata", json.dumps({**options, "mia_cache_dir": str(tmp_path / "cache")})]
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    told = LINE.format("--apply_chat_template and --system_instruction change")
    assert done.stderr.splitlines().count(told) == 1
