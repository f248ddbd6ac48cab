"""Results and samples files changed at random places: whatever reads them works, or says in one line what is wrong."""

from __future__ import annotations

import copy
import functools
import json
import random
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from spvmia_plugin import plugins
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.export import FORMATS as EXPORTS
from spvmia_plugin.export import ExportOptions
from spvmia_plugin.leaderboard import FORMATS, Options, build_board
from spvmia_plugin.leaderboard.entrants import Source
from spvmia_plugin.report.facts import report_facts, streamed
from spvmia_plugin.report.html import render
from spvmia_plugin.report.tokens import token_views
from spvmia_plugin.results import read_latest
from tests.results.builders import fake_audit, fake_records, write_run

NUMBERS = (0, -1, 1, 2.5, 1e308, -1e308, 5e-324, 10**18, 10**19, 10**400, float("nan"), float("inf"), 2**63, True)
TEXTS = (
    "",
    "x",
    "\ud800",
    "a\udfffb",
    "\x00",
    "../../x",
    "a" * 5000,
    "=1+1",
    "@user #12",
    "<b>",
    "NaN",
    "1e999",
    "\u202e",
)


def deep(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


def anything(rng: random.Random) -> Any:
    kind = rng.randrange(8)
    if kind < 3:
        return rng.choice(NUMBERS)
    if kind < 5:
        return rng.choice(TEXTS)
    return rng.choice([None, [], {}, [None], {"": None}, ["x", 1], {"x": {"y": []}}, deep(150), deep(600), False])


def dumped(value: Any) -> str:
    """JSON of any depth; what reads it has the usual limit."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        return json.dumps(value)
    finally:
        sys.setrecursionlimit(limit)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container with every key of it."""
    found = []
    left = [value]
    while left:
        part = left.pop()
        for key in list(part) if isinstance(part, dict) else range(len(part)):
            found.append((part, key))
            if isinstance(part[key], (dict, list)):
                left.append(part[key])
    return found


def mutate(raw: Any, rng: random.Random) -> None:
    """Change up to three places: another value, none, a copy of another part, or another name."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        found = places(raw)
        if not found:
            return
        part, key = rng.choice(found)
        how = rng.randrange(5)
        if how < 3:
            part[key] = anything(rng)
        elif how == 3:
            del part[key]
        elif isinstance(part, dict):
            part[rng.choice(TEXTS) + rng.choice(("", key))] = part.pop(key)
        else:
            other, name = rng.choice(found)
            there = isinstance(other, list) or name in other
            part[key] = copy.deepcopy(other[name]) if there and not isinstance(other[name], (dict, list)) else None


def mutated_line(line: str, rng: random.Random) -> str:
    sample = json.loads(line)
    if rng.random() < 0.5:
        mutate(sample, rng)
    else:
        answer = json.loads(sample["resps"][0][0])
        mutate(answer, rng)
        sample["resps"][0][0] = dumped(answer)
    return dumped(sample)


def pages(path: Path) -> None:
    render(read_latest(path))


def facts(path: Path) -> None:
    run = read_latest(path)
    "".join(streamed(report_facts(run, one_by_one=True))).encode()
    for audit in run.audits:
        token_views(run, audit, list(audit.ids()[:1]))


def boards(path: Path) -> None:
    board = build_board([Source(path)], Options())
    for write in FORMATS.values():
        write(board).encode()


def exports(path: Path) -> None:
    run = read_latest(path)
    for write in EXPORTS.values():
        try:
            files = write(run, ExportOptions(benchmark="a/b", instances=True))
            for text in files.values():  # one of an attack without an AUROC has no instances
                "".join(text).encode()
        except SpvmiaError:
            continue


READERS = (pages, facts, boards, exports)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    audit = fake_audit(
        {"spv": 1.5, "loss": 0.3},
        records=fake_records(12, 13, blocks=2),
        findings=(),
        settings={"mia_cache_dir": "./nowhere"},
        unscored_every=9,
    )
    return write_run(tmp_path_factory.mktemp("fuzz"), [audit], capabilities={"arc_easy": {"acc": 0.5}})


def fuzz(written: Path, rounds: int, seed: int, *, each: int = len(READERS)) -> tuple[int, int]:
    """How many changed runs were read by `each` of the readers in turn, and how many refused."""
    rng = random.Random(seed)
    whole = written.read_text(encoding="utf-8")
    samples = sorted(written.parent.glob("samples_*"))
    lines = {path: path.read_text(encoding="utf-8").splitlines() for path in samples}
    read = refused = 0
    told: list[str] = []
    for number in range(rounds):
        raw = json.loads(whole)
        changed = dict(lines)
        if number % 3:
            mutate(raw, rng)
        else:
            path = rng.choice(samples)
            row = rng.randrange(len(lines[path]))
            changed[path] = [*lines[path][:row], mutated_line(lines[path][row], rng), *lines[path][row + 1 :]]
        written.write_text(dumped(raw), encoding="utf-8")
        for path, content in changed.items():
            path.write_text("".join(line + "\n" for line in content), encoding="utf-8")
        try:
            for reader in range(each):
                READERS[(number + reader) % len(READERS)](written)
            read += 1
        except SpvmiaError as error:
            refused += 1
            told.append(str(error))
        except Exception as error:
            error.add_note(f"round {number} of seed {seed}: {written}") if hasattr(error, "add_note") else None
            raise
    assert all("\n" not in line and line for line in told)
    return read, refused


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, undrawn: None) -> None:
    """Blank pictures; plugins are looked up once."""
    monkeypatch.setattr(plugins, "load_registry", functools.cache(plugins.load_registry))


def test_three_hundred_changes(written: Path, quick: None) -> None:
    read, refused = fuzz(written, 300, seed=1, each=1)
    assert read > 30
    assert refused > 60


@pytest.mark.slow
def test_three_thousand_changes(written: Path, quick: None) -> None:
    fuzz(written, 3000, seed=2)


@pytest.mark.slow
def test_a_hundred_changes_with_pictures(written: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fuzz(written, 100, seed=3)
