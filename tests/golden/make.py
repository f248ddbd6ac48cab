"""What whole audits and everything made from them look like: a name and a text for each file and each command's output.

python -m tests.golden.make            # says what differs from golden.json.gz
python -m tests.golden.make --write    # writes it there, after a change that is meant
"""

from __future__ import annotations

import contextlib
import difflib
import gzip
import hashlib
import io
import json
import logging
import re
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import Any

from spvmia_plugin.export import FORMATS
from spvmia_plugin.harness.enable import tasks_folder
from tests.golden.arithmetic import Memory, Plugin

GOLDEN = Path(__file__).with_name("golden.json.gz")
SECRET = "5b" * 32
"""The store's key, so that what is named by it has the same name each time."""
CLASS = 110
DAY = "2026-11-01T12-00-00.000000"

MODELS = {"memorised": 0.08, "aside": 0.03, "shadow": 0.05}
"""Names of the audited models, and by how much a record they have learnt is likelier."""


def texts(step: int) -> dict[str, list[str]]:
    """By part of the data, its records: sentences of unlike length, one empty, one of a single word."""
    count = {"members": CLASS, "nonmembers": CLASS, "prompts": 50, "candidate": 30}
    found: dict[str, list[str]] = {}
    for part, many in count.items():
        found[part] = []
        for _ in range(many):
            step += 1
            words = [(step * 6007 + 7919 * k * k) % 997 for k in range(12 + step % 23)]
            found[part].append(" ".join(f"W{word}" if word % 5 == 0 else f"w{word}" for word in words))
    found["members"][9] = ""
    found["members"][11] = "w1"  # nothing to score
    return found


def audited(folder: Path, name: str, **options: object) -> Path:
    """A folder of results as `lm_eval --output_path --log_samples` writes it, less what differs from run to run."""
    import lm_eval
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    from spvmia_plugin.harness import task
    from spvmia_plugin.plugins import load_registry

    parts, metadata = texts(10_000 if name == "shadow" else 0), {"mia_cache_dir": str(folder / "cache"), **options}
    for part, rows in parts.items():
        path = folder / f"{part}.jsonl"
        path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
        metadata[f"mia_{part}"] = str(path)
    registry = load_registry()
    registry.manager.register(Plugin(), name="golden")
    before = task.load_registry
    task.load_registry = lambda: registry
    try:
        learnt = {row: MODELS[name] * (1 + i % 3) for i, row in enumerate(parts["members"])}
        result = lm_eval.simple_evaluate(
            model=Memory(name, learnt),
            tasks=["mia_custom"],
            task_manager=TaskManager(metadata=metadata, include_path=[str(tasks_folder())], include_defaults=False),
            metadata=metadata,
            log_samples=True,
        )
    finally:
        task.load_registry = before
    tracker = EvaluationTracker(output_path=str(folder / "results" / name))
    tracker.general_config_tracker.model_name = name
    tracker.general_config_tracker.model_name_sanitized = name
    samples = result.pop("samples")
    steady(result, folder)
    tracker.save_results_aggregated(result, samples)
    for task_name in result["configs"]:
        tracker.save_results_samples(task_name, samples[task_name])
    written = folder / "results" / name / name
    for path in sorted(written.iterdir()):
        path.write_text(as_text(path.read_text(encoding="utf-8"), folder), encoding="utf-8")
        path.rename(written / re.sub(r"\d{4}-\d\d-\d\dT[\d.-]+(?=\.jsonl?$)", DAY, path.name))
    tidy(written / f"results_{DAY}.json")
    return written


def steady(result: dict[str, Any], folder: Path) -> None:
    """Put fixed values where a run's clock, machine and libraries stand."""
    for key in ("git_hash", "date", "pretty_env_info", "transformers_version", "lm_eval_version", "upper_git_hash"):
        result.pop(key, None)
    for config in result["configs"].values():
        audit = config["metadata"]["mia_audit"]
        for cost in audit["cost"].values():
            cost["seconds"] = 1.0
        audit["versions"] = dict.fromkeys(sorted(audit["versions"]), "1.0")
        if audit.get("plan"):
            steady_plan(audit["plan"])


def steady_plan(plan: Any) -> None:
    """Times of a plan are measured; what is planned is not."""
    for row in plan if isinstance(plan, list) else [plan]:
        for key in [key for key in row if "second" in key or "rate" in key]:
            row[key] = 1.0


def tidy(path: Path) -> None:
    """Drop what the tracker adds of the clock to a results file."""
    found = json.loads(path.read_text(encoding="utf-8"))
    for key in ("start_time", "end_time", "total_evaluation_time_seconds"):
        found[key] = "0"
    found["date"] = 1_793_000_000.0
    path.write_text(json.dumps(found, indent=1, sort_keys=True), encoding="utf-8")


def as_text(text: str, folder: Path) -> str:
    """A text as it would be in another folder and on a processor whose last digits differ."""
    for place, name in ((folder.resolve(), "/audit"), (folder, "/audit"), (tasks_folder(), "/tasks")):
        text = text.replace(str(place), name)
    text = re.sub(r'("retrieved_timestamp": )"[\d.]+"', r'\1"0"', text)
    # What matplotlib draws differs by its version; that it is drawn, and how large, does not.
    text = re.sub(r'(<svg viewBox="[\d. ]+" role="img" [^>]*class="figure"[^>]*>).*?</svg>', r"\1</svg>", text)
    return re.sub(r"-?\d+\.\d{7,}(?:e-?\d+)?", lambda number: f"{float(number[0]):.6g}", text)


def store(folder: Path) -> str:
    """Kinds, names and sizes of what is in the store, and its folders."""
    lines = []
    for path in sorted((folder / "cache").glob("entries-*.sqlite")):
        with contextlib.closing(sqlite3.connect(path)) as database:
            rows = database.execute("SELECT kind, hex(key), size FROM entries ORDER BY kind, key")
            lines += [f"{kind} {key} {size}" for kind, key, size in rows]
    areas = [path for path in (folder / "cache").iterdir() if path.is_dir() and path.name != "locks"]
    lines += sorted(f"{path.parent.name}/{path.name}" for area in areas for path in area.iterdir())
    return "\n".join(lines)


def command(*arguments: object) -> str:
    """What a command prints."""
    from typer.testing import CliRunner

    from spvmia_plugin.cli.main import make_app

    found = CliRunner(env={"COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb"}).invoke(
        make_app(), [str(argument) for argument in arguments]
    )
    return f"exit {found.exit_code}\n{found.stdout}\n{found.stderr}"


def everything(folder: Path) -> dict[str, str]:
    """All texts, by name."""
    cache = folder / "cache"
    cache.mkdir(mode=0o700)
    (cache / "key").write_text(f"{SECRET} {_check(SECRET)}\n")
    (cache / "fingerprint.key").write_bytes(bytes.fromhex(SECRET))
    for path in cache.iterdir():
        path.chmod(0o600)
    found: dict[str, str] = {}
    said = io.StringIO()
    common = {
        "mia_self_prompts": 30, "mia_prompt_tokens": 4, "mia_perturbation": "causal", "mia_perturbations": 2,
        "mia_block_size": 0, "mia_seed": 3,
    }  # fmt: skip
    # A log handler whose stream another test has closed would say so there.
    told, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        with contextlib.redirect_stderr(said):
            one, two, shadow = (audited(folder, name, **common, mia_log_text=name == "aside") for name in MODELS)
    finally:
        logging.raiseExceptions = told
    found["stderr"] = re.sub(r"[\d,.]+ (tokens/s|s|min)\b", "0 s", re.sub(r" {2,}", "  ", said.getvalue()))
    found["store"] = store(folder)
    out = folder / "out"
    out.mkdir()
    for name, path in {"memorised": one, "aside": two}.items():
        found |= {f"{name}/{file.name}": file.read_text(encoding="utf-8") for file in sorted(path.iterdir())}
        found[f"{name}: report"] = command("report", path, "--output", out / f"{name}.html")
        found[f"{name}: report --json"] = command("report", path, "--json")
        for to in FORMATS:
            target = out / name / to
            found[f"{name}: export --to {to}"] = command(
                "export", path, "--to", to, "--output", target, "--benchmark", "acme/privacy"
            )
    id_ = json.loads((two / f"samples_loss_mia_custom_{DAY}.jsonl").read_text().splitlines()[0])["doc"]["id"]
    found["report --record"] = command("report", two, "--record", id_, "--output", out / "record.html")
    for ending in ("html", "md", "csv", "json"):
        found[f"board {ending}"] = command("leaderboard", one, two, "--output", out / f"board.{ending}")
    found["board"] = command("leaderboard", one, two)
    found["combine"] = command("combine", one, "--shadow", shadow)
    for file in sorted(path for path in out.rglob("*") if path.is_file()):
        found[f"out/{file.relative_to(out)}"] = file.read_text(encoding="utf-8")
    return {name: shortened(name, as_text(text, folder)) for name, text in sorted(found.items())}


def shortened(name: str, text: str) -> str:
    """A text; of what has a line a record the beginning, and a digest of the whole."""
    if not name.endswith(".jsonl") and name != "store":
        return text
    return f"{text[:3000]}\n{hashlib.sha256(text.encode()).hexdigest()}"


def _check(secret: str) -> str:
    return hashlib.sha256(bytes.fromhex(secret)).hexdigest()[:16]


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """A line for each text that is missing, new, or another one: with the first lines that differ."""
    told = [f"{name}: only {'expected' if name in expected else 'found'}" for name in found.keys() ^ expected.keys()]
    for name in sorted(found.keys() & expected.keys()):
        if found[name] != expected[name]:
            lines = difflib.unified_diff(expected[name].splitlines(), found[name].splitlines(), lineterm="", n=0)
            told.append("\n".join([f"{name}:", *(line[:300] for line in list(lines)[2:12])]))
    return told


def read() -> dict[str, str]:
    """The texts as they were written last."""
    golden: dict[str, str] = json.loads(gzip.decompress(GOLDEN.read_bytes()))
    return golden


def main() -> int:
    """Compare, or write."""
    with tempfile.TemporaryDirectory() as folder:
        found = everything(Path(folder))
    if "--write" in sys.argv:
        GOLDEN.write_bytes(gzip.compress(json.dumps(found, indent=0).encode(), 9, mtime=0))
        return 0
    told = differences(found, read())
    print("\n".join(told) or "all the same")
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
