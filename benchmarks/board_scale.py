"""What a leaderboard of many models takes: seconds of our own, beside those of the imports, and the size of the page.

    python benchmarks/board_scale.py --models 200

The models are made up: each has a results file of its own, with weights of its own, under 12 attacks, and no samples: a
board reads none where the strongest attack was recorded. Seconds of the processor tell more than those of the clock
where the machine is shared; the smallest of the rounds counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jinja2  # noqa: E402, F401 - imported here, as scipy is, so that it is not counted
import scipy.stats  # noqa: E402, F401

from spvmia_plugin.leaderboard import Options, build_board, write_board  # noqa: E402
from spvmia_plugin.leaderboard.entrants import Source  # noqa: E402
from tests.leaderboard.models import audit_of, audited, file_of, model  # noqa: E402

ATTACKS = ["spv", "loss", "zlib", "lira_base", "ratio", "min_k", "min_k_pp", "ez", "wbc", "spv_ez", "spv_wbc", "rmia"]
MAX_PAGE = 1.0
"""MB that the page may have."""
_KINDS, _BASES = 20, 4


def make(folder: Path, models: int) -> None:
    """Write the results files: 20 audits of different strength, and as many models of each as are needed."""
    kinds = [audited({name: 0.1 + 0.1 * kind + 0.02 * k for k, name in enumerate(ATTACKS)}) for kind in range(_KINDS)]
    for number in range(models):
        base = f"org/base-{number % _BASES}"
        name = base if number < _BASES else f"org-{number % 17}/a-model-{number}"
        tasks = kinds[number % _KINDS]
        for task in tasks:
            loaded = audit_of(task)["models"]
            loaded["base"]["weights"] = [file_of(base)]
            loaded["target"]["weights"] = [file_of(base), *([] if name == base else [file_of(name)])]
        model(folder / str(number), name, tasks, acc=0.3 + number * 37 % 200 / 500, with_samples=False)


def main() -> int:
    """Print the figures; 1 where the page is larger than it may be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=200, help="results files (200)")
    parser.add_argument("--rounds", type=int, default=5, help="of reading and writing (5)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    clock, processor = [], []
    with tempfile.TemporaryDirectory() as name:
        folder, page = Path(name) / "results", Path(name) / "board.html"
        make(folder, options.models)
        for _ in range(options.rounds):
            before = time.perf_counter(), time.process_time()
            write_board(build_board([Source(folder)], Options()), page)
            clock.append(time.perf_counter() - before[0])
            processor.append(time.process_time() - before[1])
        size = page.stat().st_size / 1e6
    found = {"models": options.models, "seconds": min(clock), "processor_seconds": min(processor), "page_mb": size}
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        print(
            f"{options.models} models: {min(clock):.2f} s (processor {min(processor):.2f} s, "
            f"{1000 * min(processor) / options.models:.1f} ms a results file), a page of {size:.2f} MB"
        )
    return int(size > MAX_PAGE)


if __name__ == "__main__":
    raise SystemExit(main())
