"""Progress bars for people: shown on a terminal, silent in logs and tests."""

from __future__ import annotations

import sys
from typing import Any


def progress_bar(*, total: int, desc: str, unit: str, initial: int = 0) -> Any:
    """Return a tqdm bar on stderr, disabled where that is no terminal."""
    from tqdm import tqdm

    return tqdm(
        total=total,
        initial=initial,
        desc=desc,
        unit=unit,
        dynamic_ncols=True,
        disable=not sys.stderr.isatty(),
    )
