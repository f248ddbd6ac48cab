"""The harness's own `loglikelihood_rolling`, at a batch size or at its best one."""

from __future__ import annotations

import contextlib
import io
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from common import in_turn
from lm_eval.api.instance import Instance

CANDIDATES = (1, 2, 4, 8, 16, 32, 64)


def rolling(lm: Any, texts: Sequence[str], batch_size: int) -> Callable[[], list[float]]:
    """A call that scores all texts, in the order given, silently."""
    requests = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in texts]

    def run() -> list[float]:
        lm.batch_size_per_gpu = batch_size
        with contextlib.redirect_stderr(io.StringIO()):
            return lm.loglikelihood_rolling(requests, disable_tqdm=True)

    return run


def best_batch_size(
    lm: Any, texts: Sequence[str], *, rounds: int = 2, clock: str = "wall"
) -> tuple[int, dict[str, float]]:
    """The batch size at which the harness is fastest on these texts, and its seconds at each that was tried."""
    tried = {str(size): rolling(lm, texts, size) for size in CANDIDATES if size <= len(texts)}
    seconds = in_turn(tried, rounds, warm_up=False).seconds(clock)
    medians = {size: statistics.median(rounds_) for size, rounds_ in seconds.items()}
    return int(min(medians, key=lambda size: medians[size])), medians
