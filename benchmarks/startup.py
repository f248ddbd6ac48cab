"""How long the commands take that only list, `spvmia --help` and `spvmia plugins`, against three imports.

    python benchmarks/startup.py --rounds 20

Each is a fresh process; the smallest of the rounds counts, since other work on the machine only adds. Seconds of the
processor (user and system, all threads) tell more than those of the clock where the machine is shared. Modules are read
from their bytecode, as installed ones are.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time

_RUN = "import sys; sys.argv = ['spvmia', *{arguments!r}]; from spvmia_plugin.cli.main import main; main()"
IMPORTS = "import numpy, scipy, rich"
COMMANDS = {
    IMPORTS: IMPORTS,
    "spvmia --help": _RUN.format(arguments=["--help"]),
    "spvmia plugins": _RUN.format(arguments=["plugins"]),
}


def once(code: str) -> tuple[float, float]:
    """Seconds of the clock and of the processor that a fresh Python takes for `code`."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, env=environment)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print one line a command: seconds, and how many times the imports'."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="processes a command, in turn (10)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    for code in COMMANDS.values():  # the first one reads from the disk
        once(code)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(options.rounds):
        for name, code in COMMANDS.items():
            taken[name].append(once(code))
    best = {name: [min(column) for column in zip(*rounds, strict=True)] for name, rounds in taken.items()}
    if options.json:
        print(json.dumps(best, indent=2))
        return
    for name, (wall, cpu) in best.items():
        times = wall / best[IMPORTS][0], cpu / best[IMPORTS][1]
        print(f"{name:28} {wall:6.3f} s ({times[0]:5.2f} times)   processor {cpu:6.3f} s ({times[1]:5.2f} times)")


if __name__ == "__main__":
    main()
