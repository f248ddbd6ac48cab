"""Renders docs/results.md and its figures from the summaries, whichever there are.

    python benchmarks/paper/collect.py

What stands between a pair of markers in the page is replaced; everything else on it is written by people.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.paper import claims, tables
from benchmarks.paper.cells import RESULTS, Cell, read_summaries
from benchmarks.paper.figures import draw
from spvmia_plugin.errors import SpvmiaError

ROOT = Path(__file__).resolve().parents[2]
Summaries = Mapping[Cell, Mapping[str, Any]]

SECTIONS: Mapping[str, Callable[[Summaries], str]] = {
    "coverage": tables.coverage,
    "claims": claims.claims,
    "main": tables.main_tables,
    "gains": tables.gain_table,
    "ablations": tables.ablation_tables,
    "commands": tables.commands,
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = read_options(arguments)
    summaries = read_summaries(options.results)
    page = options.page.read_text(encoding="utf-8")
    for name, section in SECTIONS.items():
        page = filled(page, name, section(summaries))
    page = filled(page, "combination", tables.combination_table(read_combinations(options.results), summaries))
    if not options.no_figures:
        draw(summaries, options.figures)
    options.page.write_text(page, encoding="utf-8")
    print(f"{options.page}: {len(summaries)} cells")


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "results.md")
    parser.add_argument("--figures", type=Path, default=ROOT / "docs" / "figures")
    parser.add_argument("--no-figures", action="store_true")
    return parser.parse_args(arguments)


def read_combinations(results: Path) -> list[dict[str, Any]]:
    """What combine.py wrote, in the order of their names."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((results / "combination").glob("*.json"))]


def filled(page: str, name: str, content: str) -> str:
    """The page with the content between the markers of that name.

    Raises:
        SpvmiaError: the page does not have them exactly once.
    """
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.S)
    if len(pattern.findall(page)) != 1:
        raise SpvmiaError(f"--page: expected the markers {begin} and {end} once; put them where the tables belong")
    return pattern.sub(lambda _: f"{begin}\n\n{content}\n\n{end}", page)


if __name__ == "__main__":
    try:
        main()
    except SpvmiaError as problem:
        sys.exit(str(problem))
