from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spvmia_plugin.cli.upkeep import cache, readable
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.store.store import KINDS, Store
from tests.store.samples import build, paraphrases, signals


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with Store(tmp_path / "store") as store:
        store.signals.put({store.key("signals", i=i): signals(i) for i in range(7)})
        store.neighbours.put({store.key("neighbours", i=1): paraphrases(1)})
        build(store, store.key("references", i=1))
        store.corpus(store.key("corpus", i=1)).append({0: "secret generation"})
    return store.root


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cache, arguments)
    if isinstance(result.exception, SpvmiaError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_show(root: Path) -> None:
    shown = json.loads(run("show", "--json", "--cache-dir", str(root)))
    assert shown["place"] == str(root)
    assert {kind: numbers["count"] for kind, numbers in shown["kinds"].items()} == {
        "signals": 7,
        "neighbours": 1,
        "json": 0,
        "references": 1,
        "self_prompts": 1,
    }
    assert shown["total_bytes"] >= sum(numbers["bytes"] for numbers in shown["kinds"].values())
    lines = run("show", "--cache-dir", str(root)).splitlines()
    assert lines[0] == str(root)
    assert [line.split()[:2] for line in lines[1:6]] == [[kind, str(shown["kinds"][kind]["count"])] for kind in KINDS]
    assert "limit 20.0 GiB" in lines[6]


def test_verify_says_what_was_removed(root: Path) -> None:
    assert "everything is sound" in run("verify", "--cache-dir", str(root))
    (weights,) = root.glob("references/*/adapter_model.safetensors")
    weights.write_bytes(b"other")
    (batch,) = root.glob("self_prompts/*/*.json")
    batch.write_bytes(batch.read_bytes()[:-2])
    output = run("verify", "--cache-dir", str(root))
    assert "'adapter_model.safetensors' is missing or cut" in output
    assert "one batch is damaged" in output
    assert "secret" not in output
    assert "everything is sound" in run("verify", "--cache-dir", str(root))


def test_clear_one_kind_and_all(root: Path) -> None:
    output = run("clear", "--kind", "self_prompts", "--yes", "--cache-dir", str(root))
    assert output.splitlines()[0].split()[:2] == ["self_prompts", "1"]
    assert "freed" in output
    assert list((root / "self_prompts").iterdir()) == []
    shown = json.loads(run("show", "--json", "--cache-dir", str(root)))
    assert shown["kinds"]["signals"]["count"] == 7
    run("clear", "--yes", "--cache-dir", str(root))
    shown = json.loads(run("show", "--json", "--cache-dir", str(root)))
    assert all(numbers == {"count": 0, "bytes": 0} for numbers in shown["kinds"].values())


def test_clear_asks_and_refuses_where_it_cannot(root: Path) -> None:
    with pytest.raises(SpvmiaError, match="--yes: expected"):
        run("clear", "--cache-dir", str(root))
    with pytest.raises(SpvmiaError, match="did you mean 'references'"):
        run("clear", "--kind", "reference", "--cache-dir", str(root))
    assert len(list((root / "references").iterdir())) == 1


def test_other_versions_are_cleared_alone_and_not_by_kind(root: Path) -> None:
    with pytest.raises(SpvmiaError, match="--other-versions: expected without --kind"):
        run("clear", "--other-versions", "--kind", "signals", "--yes", "--cache-dir", str(root))
    (root / "entries-v2-000001.sqlite").write_bytes(b"SQLite format 3\0" + bytes(44) + b"\0\0\0\2" + bytes(36))
    (root / "references-v3").mkdir()
    output = run("show", "--cache-dir", str(root))
    assert "entries-v2-000001.sqlite: 100 B of version 2, left alone" in output
    assert "references-v3: 0 B of version 3, left alone" in output
    assert "of version 2, left alone" in run("verify", "--cache-dir", str(root))
    assert "freed 100 B, of other versions" in run("clear", "--other-versions", "--yes", "--cache-dir", str(root))
    shown = json.loads(run("show", "--json", "--cache-dir", str(root)))
    assert shown["foreign"] == []
    assert shown["kinds"]["signals"]["count"] == 7


def test_a_place_without_a_store(tmp_path: Path) -> None:
    for command in ("show", "verify"):
        run(command, "--cache-dir", str(tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("size", "words"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 * 2**20, "5.0 MiB"), (2**42, "4096.0 GiB")]
)
def test_sizes_are_readable(size: int, words: str) -> None:
    assert readable(size) == words
