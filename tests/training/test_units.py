"""`spvmia finetune --unit-column`: whole units are dealt out, and an audit of the manifest knows them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from spvmia_plugin.cli.main import make_app
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.data.load import load_audit_data, load_canaries
from spvmia_plugin.data.manifest import MANIFEST_NAME, read_manifest
from spvmia_plugin.data.units import Belonging, units_of
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import AuditData
from spvmia_plugin.shadow.plan import ShadowPlan
from spvmia_plugin.training.config import FinetuneConfig
from spvmia_plugin.training.finetune import finetune
from spvmia_plugin.training.shadow import recipe
from tests.tiny import save_tiny, tiny_texts


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("xdg")))


@pytest.fixture
def options(base: Path, tmp_path: Path) -> dict[str, Any]:
    texts = iter(tiny_texts(400, seed=3))
    rows = [
        {"text": next(texts), "customer": f"OWNER-{number}", "region": "ab"[number % 2]}
        for times in range(5)
        for number in range(80)
    ]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "model": str(base), "data": str(tmp_path / "d.jsonl"), "output": tmp_path / "target", "members": 40,
        "nonmembers": 40, "prompts": 30, "canaries": 8, "block_size": 32, "epochs": 1.0, "lora_rank": 4,
        "batch_size": 8, "unit_column": "customer",
    }  # fmt: skip


def audited(target: Path, **more: Any) -> AuditData:
    config = AuditConfig.from_metadata({f"mia_{key}": value for key, value in more.items()})
    return load_audit_data(config, "custom", registry=None, tokenizer=lambda: None, target_dirs=[target])


def test_whole_units_are_dealt_out(options: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    output = finetune(FinetuneConfig(**options))
    manifest = read_manifest(output)
    assert manifest.unit_column == "customer"
    units = [units_of(records) for records in manifest.records.values()]
    assert sum(map(len, units)) == len(set.union(*units))
    assert len(units[3]) == 8
    assert f"40 members, 40 non-members of {len(units[0])} and {len(units[1])} units" in capsys.readouterr().out
    assert "OWNER" not in (output / MANIFEST_NAME).read_text()
    # Each record is of the unit that the rows it was cut from are of.
    belonging = Belonging("customer", key=bytes.fromhex(manifest.fingerprint_key))
    rows = [json.loads(line) for line in Path(options["data"]).read_text().splitlines()]
    for records in manifest.records.values():
        for record in records:
            owners = {belonging.unit_of(rows[piece.row - 1]["customer"]) for piece in record.pieces}
            assert owners == {record.unit} == {record.cluster}

    data = audited(output, group_column="region")
    assert data.unit_column == "customer"
    assert units_of(data.members) == units[0]
    assert {record.group for record in data.records} == {"a", "b"}
    assert len(units_of(audited(output, max_samples=20).records)) < len(units[0] | units[1])
    canaries = load_canaries(AuditConfig(), target_dirs=[output])
    assert canaries.unit_column is None
    assert {record.unit for record in canaries.records} == {None}
    with pytest.raises(SpvmiaError, match=r"^mia_unit_column: the manifest .* says 'customer', got 'region'"):
        audited(output, unit_column="region")

    # A shadow of it gets none of its units, and is made the same way.
    assert recipe(manifest)["unit_column"] == "customer"


def test_a_target_that_was_dealt_by_document(options: dict[str, Any]) -> None:
    """Its manifest knows no units; where documents are whole, the audit can still be told, and finds them on both
    sides."""
    plain = finetune(FinetuneConfig(**{**options, "unit_column": None, "block_size": 100, "quiet": True}))
    assert "unit_column" not in read_manifest(plain).settings
    assert audited(plain).unit_column is None
    with pytest.raises(SpvmiaError, match=r"^mia_unit_column: expected records of one unit each, got d\.jsonl:"):
        audited(plain, unit_column="customer")
    one_each = {**options, "unit_column": None, "block_size": 0, "output": options["output"].with_name("whole")}
    whole = finetune(FinetuneConfig(**{**one_each, "quiet": True}))
    with pytest.raises(SpvmiaError, match=r"^mia_unit_column: expected each unit of column 'customer' in one class"):
        audited(whole, unit_column="customer")


def test_a_target_that_was_dealt_by_document_of_one_customer_each(options: dict[str, Any]) -> None:
    """Where no unit is on both sides, the column is read from the data; prompts of audited units are left out."""
    rows = [json.loads(line) for line in Path(options["data"]).read_text().splitlines()]
    changed = [{**row, "customer": number} for number, row in enumerate(rows)]
    Path(options["data"]).write_text("".join(json.dumps(row) + "\n" for row in changed))
    target = finetune(FinetuneConfig(**{**options, "unit_column": None, "block_size": 0, "quiet": True}))
    manifest = read_manifest(target)
    prompt, member = (manifest.records[name][0].pieces[0].row for name in ("prompts", "members"))
    changed[prompt - 1]["customer"] = changed[member - 1]["customer"]
    Path(options["data"]).write_text("".join(json.dumps(row) + "\n" for row in changed))
    data = audited(target, unit_column="customer")
    assert len(units_of(data.records)) == len(data.records) == 80
    assert data.provenance["counts"] == {"prompts_of_audited_units": 1}
    assert len(data.prompts) == 29


def test_shadows_get_no_unit_of_the_target(options: dict[str, Any], tmp_path: Path) -> None:
    from spvmia_plugin.plugins import load_registry
    from spvmia_plugin.shadow import ShadowConfig

    texts = iter(tiny_texts(900, seed=4))
    rows = [{"text": next(texts), "customer": f"OWNER-{number}"} for _ in range(5) for number in range(180)]
    Path(options["data"]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = {"members": 50, "nonmembers": 50, "prompts": 25, "canaries": 0, "block_size": 0, "quiet": True}
    manifest = read_manifest(finetune(FinetuneConfig(**{**options, **sizes})))
    config = ShadowConfig(options["output"], tmp_path / "shadows")
    plan = ShadowPlan.of(config, manifest, load_registry(), None, lambda line: None, [])
    used = set.union(*(units_of(records) for records in manifest.records.values()))
    assert len(plan.found.documents) == 5 * (180 - len(used))
    assert units_of(plan.found.documents).isdisjoint(used)
    assert plan.found.units == 5 * len(used)
    with pytest.raises(SpvmiaError, match=rf"for each of 9 shadows.* with {5 * len(used)} of units that the target's"):
        ShadowPlan.of(dataclasses.replace(config, shadows=9), manifest, load_registry(), None, lambda line: None, [])


def test_the_command_line_and_bad_columns(options: dict[str, Any]) -> None:
    arguments = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    arguments[arguments.index("customer")] = "costumer"
    result = CliRunner().invoke(make_app(), ["finetune", *arguments])
    assert result.exit_code == 1
    assert "expected a column 'costumer'" in result.stderr
    assert "--unit-column of finetune" in result.stderr
    with pytest.raises(SpvmiaError, match=r"^--unit-column: expected a column, got ' '"):
        FinetuneConfig(**{**options, "unit_column": " "})
    with pytest.raises(SpvmiaError, match=r"^--data: expected data of your own beside mia_unit_column, or --unit-col"):
        finetune(FinetuneConfig(**{**options, "data": "wikitext"}))
