"""`--json`, `--quiet` and completion: JSON alone on stdout, lines for people elsewhere or nowhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from spvmia_plugin.cli.audit import _read_options
from spvmia_plugin.cli.main import make_app
from spvmia_plugin.cli.output import line_printer, print_json
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.training.config import DTYPES, METHODS
from tests.tiny import save_tiny


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(make_app(), list(arguments), catch_exceptions=False)


@pytest.mark.parametrize(
    ("quiet", "as_json", "out", "err"),
    [(False, False, "a\n", ""), (False, True, "", "a\n"), (True, False, "", ""), (True, True, "", "")],
)
def test_lines_for_people_stay_out_of_the_json(
    capsys: pytest.CaptureFixture[str], quiet: bool, as_json: bool, out: str, err: str
) -> None:
    line_printer(quiet=quiet, as_json=as_json)("a")
    assert capsys.readouterr() == (out, err)


def test_json_is_standard_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": ("é", None)}})
    text = capsys.readouterr().out
    assert "é" in text
    assert json.loads(text, parse_constant=pytest.fail) == {"a": None, "b": [1.5, None], "c": {"d": ["é", None]}}


def test_plugins_as_json_say_what_the_table_says() -> None:
    hooks = json.loads(invoke("plugins", "--json").stdout)["hooks"]
    (datasets,) = [line for line in hooks if line["hook"] == "spvmia_register_datasets"]
    assert datasets["registered"] == ["wikitext", "ag_news", "xsum"]
    table = " ".join(invoke("plugins").stdout.replace("│", " ").split())
    assert all(line["hook"] in table for line in hooks)


def test_names_of_plugins_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = SimpleNamespace(hook="spvmia_register_attacks", distribution="[red]x[/red] 1.0", names=("[bold]y",))
    registry = SimpleNamespace(listing=lambda: [listed])
    monkeypatch.setattr("spvmia_plugin.plugins.load_registry", lambda: registry)
    output = invoke("plugins").stdout
    assert "[red]x[/red] 1.0" in output
    assert "[bold]y" in output


def test_finetune_prints_one_json_object_and_no_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from spvmia_plugin.data.manifest import MANIFEST_NAME, Manifest, write_manifest
    from spvmia_plugin.data.origin import DataOrigin
    from spvmia_plugin.records import Piece, Record
    from spvmia_plugin.training.config import FinetuneConfig

    def trained(config: FinetuneConfig, say: Any) -> Path:
        say("plan: one record")
        record = Record("secret.jsonl:7", "", True, "secret.jsonl:7", (Piece(7, 0, 9),))
        records = dict.fromkeys(("members", "nonmembers", "prompts"), (record,))
        records["canaries"] = (Record("secret.jsonl:8", "", True, "secret.jsonl:8"),)
        origin = DataOrigin("/d.jsonl", "text", 0, "random", 0)
        manifest = Manifest("/base", "lora", origin, config.settings(), {}, records, "00", "f", {"losses": [1.0]})
        write_manifest(manifest, tmp_path / MANIFEST_NAME)
        return tmp_path

    monkeypatch.setattr("spvmia_plugin.training.finetune.finetune", trained)
    base = save_tiny(tmp_path / "base")
    options = ["--model", str(base), "--data", "d.jsonl", "--output", str(tmp_path)]
    result = invoke("finetune", *options, "--json")
    assert result.exit_code == 0, result.stderr
    outcome = json.loads(result.stdout)
    assert outcome["records"] == {"members": 1, "nonmembers": 1, "prompts": 1, "canaries": 1}
    assert outcome["training"] == {"losses": [1.0]}
    assert outcome["audit"].startswith(f"lm_eval --model hf --model_args pretrained={base},peft={tmp_path} ")
    assert "secret.jsonl" not in result.stdout
    assert result.stderr == "plan: one record\n"
    assert invoke("finetune", *options, "--quiet").output == ""


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    seen: dict[str, Any] = {}

    def build(model: str, model_args: str, tasks: str, options: Any, device: str) -> Any:
        seen["options"] = options
        reference = {"trained": True, "self_prompts": 40}
        return SimpleNamespace(details={"reference": reference}, cost_json=lambda: {"reference": {}})

    monkeypatch.setattr("spvmia_plugin.harness.prepare.prepare", build)
    return seen


def test_prepare_says_it_in_words_or_as_json(prepared: dict[str, Any]) -> None:
    assert invoke("prepare", "--model_args", "pretrained=x").stdout.startswith("reference ready: trained now, on 40 ")
    result = invoke("prepare", "--model_args", "pretrained=x", "--json", "--quiet")
    assert json.loads(result.stdout) == {"reference": {"trained": True, "self_prompts": 40}, "cost": {"reference": {}}}
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("trained", "said"),
    [
        ([True, True], "2 references ready: all trained now, on 40 self-prompts; lm_eval finds them"),
        ([False, False], "2 references ready: all found in the store, trained before, on 40 "),
        ([False, True], "2 references ready: 1 trained now, 1 found in the store, on 40 "),
    ],
)
def test_prepare_says_it_of_several_references(monkeypatch: pytest.MonkeyPatch, trained: list[bool], said: str) -> None:
    made = [{"trained": each, "self_prompts": 40} for each in trained]
    details = {"reference": made[0], "reference_2": made[1], "self_prompts": {"texts": 40}}
    outcome = SimpleNamespace(details=details, cost_json=dict)
    monkeypatch.setattr("spvmia_plugin.harness.prepare.prepare", lambda *_, **__: outcome)
    assert invoke("prepare", "--model_args", "pretrained=x").stdout.startswith(said)
    result = invoke("prepare", "--model_args", "pretrained=x", "--json", "--quiet")
    assert json.loads(result.stdout) == {"reference": made[0], "references": made, "cost": {}}


@pytest.mark.parametrize(
    ("text", "options"),
    [('{"mia_seed": 1}', {"mia_seed": 1}), ("mia_preset=quick,mia_seed=1", "mia_preset=quick,mia_seed=1")],
)
def test_prepare_takes_metadata_as_lm_eval_does(prepared: dict[str, Any], text: str, options: object) -> None:
    assert invoke("prepare", "--model_args", "pretrained=x", "--metadata", text).exit_code == 0
    assert prepared["options"] == options


@pytest.mark.parametrize("text", ["mia_preset", "[1]", '{"a=1"', "[" * 50_000, '{"a":' * 50_000])
def test_prepare_refuses_other_metadata(text: str) -> None:
    with pytest.raises(SpvmiaError, match="--metadata: expected a JSON object, got"):
        _read_options(text)


def test_a_number_that_python_does_not_read_is_refused_by_its_option() -> None:
    """Its 5,000 digits stop the reading of the JSON; the option says what it wants."""
    options = _read_options('{"mia_seed": ' + "9" * 5000 + "}")
    assert isinstance(options, dict)
    with pytest.raises(SpvmiaError, match=r"^mia_seed: expected a whole number .* got inf; correct it"):
        AuditConfig.from_metadata(options)


@pytest.mark.parametrize(
    ("words", "expected"),
    [("spvmia finetune --method ", METHODS), ("spvmia finetune --dtype ", DTYPES), ("spvmia demo --size ", None)],
)
def test_the_shell_completes_values(words: str, expected: tuple[str, ...] | None) -> None:
    from spvmia_plugin.demo.kinds import TICKETS

    command = Path(sys.executable).with_name("spvmia")
    question = {"_SPVMIA_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "3"}
    result = subprocess.run([command], capture_output=True, text=True, check=True, env={**os.environ, **question})
    assert result.stdout.split() == list(expected or TICKETS.sizes)
