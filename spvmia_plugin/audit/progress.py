"""Progress for people: bars on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

log = logging.getLogger("spvmia")


@contextmanager
def progress(stage: str, total: int, unit: str, *, done: int = 0) -> Iterator[tqdm]:
    """Show a stage's progress with its rate. Where stderr is no terminal one line marks its start.

    Args:
        stage: what is done, in words.
        total: how many units in all.
        unit: their name.
        done: how many the store held already.
    """
    interactive = sys.stderr.isatty()
    if not interactive:
        log.info("%s: %d %s, %d of them from the store", stage, total, unit, done)
    with tqdm(total=total, initial=done, desc=stage, unit=f" {unit}", disable=not interactive, leave=False) as bar:
        yield bar
