"""Progress bars for people: shown on a terminal, silent in logs and tests."""

from __future__ import annotations

import sys
from typing import Any


def progress_bar(*, total: int, desc: str, unit: str, initial: int = 0, quiet: bool = False) -> Any:
    """Return a tqdm bar on stderr, disabled where that is no terminal, or where another process shows its own."""
    from tqdm import tqdm

    return tqdm(
        total=total,
        initial=initial,
        desc=desc,
        unit=unit,
        dynamic_ncols=True,
        disable=quiet or not sys.stderr.isatty(),
    )
