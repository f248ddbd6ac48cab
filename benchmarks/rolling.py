"""The harness's own `loglikelihood_rolling`, at a batch size or at its best one."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from common import in_turn
from lm_eval.api.instance import Instance

CANDIDATES = (1, 2, 4, 8, 16, 32, 64)
CLEARLY_LONGER = 1.2


def rolling(lm: Any, texts: Sequence[str], batch_size: int) -> Callable[[], list[float]]:
    """A call that scores all texts, in the order given, silently."""
    nothing = ("",) if importlib.util.find_spec("lm_eval.scorers") else ()  # pairs since 0.5
    requests = [
        Instance("loglikelihood_rolling", {}, (*nothing, text), idx=0, task_name="rolling", doc_id=0) for text in texts
    ]

    def run() -> list[float]:
        lm.batch_size_per_gpu = batch_size
        with contextlib.redirect_stderr(io.StringIO()):
            found = lm.loglikelihood_rolling(requests, disable_tqdm=True)
        return [each[0] if isinstance(each, tuple) else each for each in found]

    return run


def best_batch_size(
    lm: Any, texts: Sequence[str], *, rounds: int = 2, clock: str = "wall"
) -> tuple[int, dict[str, float]]:
    """The batch size at which the harness is fastest on these texts, and its seconds at each that was tried.

    Larger ones are not tried once two in a row took clearly longer than the best: on texts of mixed lengths the harness
    pads to the longest, and a batch of 64 then takes minutes and many gigabytes.
    """
    medians: dict[str, float] = {}
    for size in (size for size in CANDIDATES if size <= len(texts)):
        call = {str(size): rolling(lm, texts, size)}
        medians[str(size)] = statistics.median(in_turn(call, rounds, warm_up=False).seconds(clock)[str(size)])
        if all(seconds > CLEARLY_LONGER * min(medians.values()) for seconds in list(medians.values())[-2:]):
            break
    return int(min(medians, key=lambda size: medians[size])), medians
