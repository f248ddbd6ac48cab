"""What report and export of a large audit take: memory, seconds, and the size of the page.

    python benchmarks/report_scale.py --records 100000

The audit is made up: its numbers but the AUROC are those of 500 + 500 records under every attack, its samples files
hold as many lines as are asked for, written as lm_eval writes them. Each command runs in a process of its own, and its
peak of the resident memory is what the system recorded of it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from spvmia_plugin.metrics.roc import auroc  # noqa: E402
from spvmia_plugin.plugins import load_registry  # noqa: E402
from tests.results.builders import fake_audit, fake_records, write_run  # noqa: E402

MAX_MEMORY = 1000
"""MB that a command may take."""
MAX_PAGE = 2.0
"""MB that the page may have."""
COMMANDS = {
    "report": ["report", "{results}", "--output", "{folder}/report.html", "--quiet"],
    "report --json": ["report", "{results}", "--json", "--quiet"],
    "export": ["export", "{results}", "--to", "every-eval-ever", "--instances", "--output", "{folder}/export"],
    "leaderboard": ["leaderboard", "{results}", "--output", "{folder}/board.html", "--quiet"],
}


def write_results(folder: Path, records: int, attacks: int | None) -> Path:
    """A results folder of `records` members and as many others.

    Args:
        folder: empty.
        records: of each class.
        attacks: how many; None for all that are registered.
    """
    names = sorted(load_registry().attacks)[:attacks]
    strengths = {name: 0.1 * number for number, name in enumerate(names)}
    tasks = fake_audit(strengths, records=fake_records(500, 500), findings=())
    for task in tasks:
        audit: Any = task.config["metadata"]["mia_audit"]  # type: ignore[index]
        audit["n"] |= {"records": 2 * records, "members": records, "nonmembers": records, "scored": 2 * records}
    results = write_run(folder, [tasks], with_samples=False)
    stamp = results.stem.removeprefix("results_")
    written = json.loads(results.read_text(encoding="utf-8"))
    order = list(range(2 * records))
    random.Random(0).shuffle(order)
    for number, (task, strength) in enumerate(zip(tasks, strengths.values(), strict=True)):
        rng = random.Random(number + 1)
        scores, is_member = [], []
        with (results.parent / f"samples_{task.name}_{stamp}.jsonl").open("w", encoding="utf-8") as lines:
            for place, row in enumerate(order):
                score, reference = rng.gauss(strength if row < records else 0.0, 1.0), rng.gauss(-3.5, 0.5)
                scores.append(score)
                is_member.append(row < records)
                answer = json.dumps(
                    f'{{"score": {score!r}, "reason": null, "n_tokens": {8 + row % 120}, '
                    f'"target": {reference + score / 10!r}, "reference": {reference!r}}}'
                )
                name = f"support-tickets.jsonl:{row + 1}"
                label = "true" if row < records else "false"
                digest = f"{row:064x}"
                lines.write(
                    f'{{"doc_id": {place}, "doc": {{"id": "{name}", "is_member": {label}}}, '
                    f'"target": "{"member" if row < records else "nonmember"}", '
                    f'"arguments": {{"gen_args_0": {{"arg_0": "{name}"}}}}, "resps": [[{answer}]], '
                    f'"filtered_resps": [{answer}], "filter": "none", "metrics": ["auroc", "asr"], '
                    f'"doc_hash": "{digest}", "prompt_hash": "{digest}", "target_hash": "{digest}"}}\n'
                )
        # The report holds the samples against it: those of another run would be told by it.
        written["results"][task.name]["auroc,none"] = auroc(np.array(scores), np.array(is_member))
    results.write_text(json.dumps(written), encoding="utf-8")
    return results


def measure(arguments: list[str]) -> dict[str, float]:
    """Run a command; its seconds, by the clock and of the processor, and its peak of memory in MB."""
    started = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    with subprocess.Popen(
        [sys.executable, "-m", "spvmia_plugin", *arguments], stdout=subprocess.DEVNULL, env=environment
    ) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)}: exit status {process.returncode}")
    unit = 1e6 if platform.system() == "Darwin" else 1e3
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "memory_mb": used.ru_maxrss / unit,
    }


def main() -> int:
    """Measure; exit status 1 where a limit is exceeded and `--small` is not given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000, help="of each class (100,000)")
    parser.add_argument("--attacks", type=int, help="how many (all that are registered)")
    parser.add_argument("--small", action="store_true", help="200 records of each class and 3 attacks, without limits")
    parser.add_argument("--only", choices=COMMANDS, action="append", help="measure this command alone; repeatable")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    options = parser.parse_args()
    if options.small:
        options.records, options.attacks = 200, 3
    found: dict[str, Any] = {"records": options.records, "attacks": options.attacks, "machine": platform.platform()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = write_results(folder / "results", options.records, options.attacks)
        samples = sum(path.stat().st_size for path in results.parent.glob("samples_*"))
        found["samples_mb"] = samples / 1e6
        for command in options.only or COMMANDS:
            words = [word.format(results=results.parent, folder=folder) for word in COMMANDS[command]]
            found[command] = measure(words)
            told = found[command]
            print(f"{command}: {told['memory_mb']:.0f} MB, {told['cpu_seconds']:.0f} s of the processor", flush=True)
        page = folder / "report.html"
        if page.exists():
            found["page_mb"] = page.stat().st_size / 1e6
            print(f"page: {found['page_mb']:.2f} MB of {found['samples_mb']:.0f} MB of samples")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    too_much = [name for name in COMMANDS if name in found and found[name]["memory_mb"] > MAX_MEMORY]
    return 0 if options.small else int(bool(too_much) or found.get("page_mb", 0) > MAX_PAGE)


if __name__ == "__main__":
    sys.exit(main())
