"""What the blind baseline and a whole audit take at 2 x 100,000 records: memory and seconds of the processor.

    python benchmarks/scale.py --what blind --records 100000
    python benchmarks/scale.py --what audit --records 100000

No model is needed: the records are made-up sentences, and the audit's backend is arithmetic, so that what is measured
is the audit's own work. Each measurement runs in a process of its own, and its peak of the resident memory is what the
system recorded of it; what a record adds is the peak less that of the same work on a tenth of the records.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from subprocess import Popen
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(__file__).resolve()
WORDS, VOCABULARY = 96, 20_000
"""Of a record; different ones in all."""
MAX_MEMORY = {"blind": 500, "audit": 4000}
"""MB of the whole process at 2 x 100,000."""
MAX_SECONDS = {"audit": 900}
MAX_PER_RECORD = {"audit": 12.0}
"""KB that a record adds."""


def write_texts(path: Path, count: int, seed: int) -> Path:
    """A file of so many texts whose words are as unevenly frequent as those of a language."""
    rng = np.random.default_rng(seed)
    share = 1.0 / (np.arange(VOCABULARY) + 2.7)
    with path.open("w", encoding="utf-8") as lines:
        for start in range(0, count, 1000):
            drawn = rng.choice(VOCABULARY, size=(min(1000, count - start), WORDS), p=share / share.sum())
            for row in drawn.tolist():
                lines.write('{"text": "W' + " w".join(map(str, row)) + '"}\n')
    return path


def measure(tree: Path, arguments: list[str]) -> dict[str, Any]:
    """Run this file in a process of its own on the code of `tree`: its peak in MB, its seconds, and what it says."""
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    started = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        with Popen([sys.executable, str(HERE), "--child", *arguments], stdout=said, env=environment) as process:
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        last = said.read().decode().strip().rpartition("\n")[2]
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)}: exit status {process.returncode}")
    unit = 1e6 if platform.system() == "Darwin" else 1e3
    return {
        "memory_mb": used.ru_maxrss / unit,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "seconds": time.perf_counter() - started,
        **json.loads(last),
    }


def blind(folder: Path) -> dict[str, object]:
    """The blind baseline's AUROC and interval on the files of `folder`."""
    import resource

    from spvmia_plugin.attacks.bag_of_words import BagOfWords
    from spvmia_plugin.checks.blind import blind_interval

    texts, labels = [], []
    for name in ("members", "nonmembers"):
        with (folder / f"{name}.jsonl").open(encoding="utf-8") as lines:
            found = [json.loads(line)["text"] for line in lines]
        texts, labels = texts + found, labels + [name == "members"] * len(found)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clusters = [f"f:{i}" for i in range(len(texts))]
    interval = blind_interval(BagOfWords(), texts, np.array(labels), clusters, 0)
    return {"texts_alone": before / 1e3, "auroc": interval.auroc, "low": interval.low, "high": interval.high}


def audit(folder: Path, log_samples: bool) -> dict[str, object]:
    """`mia_custom`, all attacks, on the files of `folder` with a backend that is arithmetic."""
    from scale_backend import run_audit

    return run_audit(folder, log_samples=log_samples)


def child(options: argparse.Namespace) -> None:
    """Do the work of one measurement; the last line on stdout is its result."""
    sys.path.insert(0, str(HERE.parent))
    found = blind(options.folder) if options.what == "blind" else audit(options.folder, options.log_samples)
    print(json.dumps(found))


def main() -> int:
    """Measure; exit status 1 where a limit is exceeded and `--small` is not given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=("blind", "audit"), required=True)
    parser.add_argument("--records", type=int, default=100_000, help="of each class (100,000)")
    parser.add_argument(
        "--log-samples", action="store_true", help="as in lm_eval: the harness keeps them all in memory"
    )
    parser.add_argument("--small", action="store_true", help="300 records of each class, without limits")
    parser.add_argument("--tree", type=Path, default=ROOT, help="measure another checkout's code")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return 0
    records = 300 if options.small else options.records
    found: dict[str, Any] = {"what": options.what, "machine": platform.platform()}
    for count in (max(records // 10, 30), records):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for seed, (part, many) in enumerate(
                {"members": count, "nonmembers": count, "prompts": 500, "candidate": 100}.items()
            ):
                write_texts(folder / f"{part}.jsonl", many, seed)
            arguments = ["--what", options.what, "--folder", name, *(["--log-samples"] if options.log_samples else [])]
            told = measure(options.tree.resolve(), arguments)
        found[str(count)] = told
        print(
            f"{options.what}, 2 x {count:,}: {told['memory_mb']:.0f} MB, {told['cpu_seconds']:.0f} s of the processor"
        )
    few, many = (key for key in found if key.isdigit())
    grown = 1e3 * (found[many]["memory_mb"] - found[few]["memory_mb"]) / (2 * (int(many) - int(few)))
    found["kb_per_record"] = grown
    print(f"a record adds {grown:.1f} KB")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    exceeded = (
        told["memory_mb"] > MAX_MEMORY[options.what]
        or told["cpu_seconds"] > MAX_SECONDS.get(options.what, float("inf"))
        or grown > MAX_PER_RECORD.get(options.what, float("inf"))
    )
    return 0 if options.small else int(exceeded)


if __name__ == "__main__":
    sys.exit(main())
