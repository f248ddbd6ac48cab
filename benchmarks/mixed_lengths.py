"""Texts of 8 to 512 tokens in no order: token signals against the harness, at equal batch size and at its best.

    python benchmarks/mixed_lengths.py [--model DIR] [--n 64]

Lengths are drawn log-uniformly: many short texts, a few long ones. We batch by tokens; the harness's equal batch size
is the one with as many batches as ours.
"""

from __future__ import annotations

import math
import random
import tempfile
from pathlib import Path
from typing import Any

import common
from audits import load_lm
from common import Ratio, Report, in_turn
from rolling import best_batch_size, rolling

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.models.batching import plan_passes, token_budget
from spvmia_plugin.models.hf_backend import HFBackend
from spvmia_plugin.protocols import ScoreInput
from spvmia_plugin.signals import Role

SIGNALS, EQUAL, BEST = "signals", "loglikelihood_rolling, equal batch size", "loglikelihood_rolling, best batch size"


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    options = read_options(arguments)
    with tempfile.TemporaryDirectory() as folder:
        lm = load_lm(common.prepared(options, Path(folder)), None, options.dtype, options.device)
        backend = HFBackend(lm, AuditConfig())
        texts = common.cut_texts(backend.encode, backend.decode, draw_lengths(options), options.texts)
        inputs = [ScoreInput(tuple(backend.encode(text))) for text in texts]
        planned = plan_passes([len(item.token_ids) for item in inputs], token_budget(lm.device.type))
        equal = max(1, round(len(texts) / len(planned)))
        best, tried = best_batch_size(lm, texts, rounds=1, clock=options.clock)
        contestants = {
            SIGNALS: lambda: backend.score(Role.TARGET, inputs, moments=options.moments),
            EQUAL: rolling(lm, texts, equal),
            BEST: rolling(lm, texts, best),
        }
        seconds = in_turn(contestants, options.rounds).seconds(options.clock)
    return report(options, sum(len(i.token_ids) for i in inputs), (equal, best), tried, seconds).tell(options)


def read_options(arguments: list[str] | None) -> Any:
    parser = common.parser(__doc__)
    parser.add_argument("--n", type=int, help="texts (64)")
    parser.add_argument("--shortest", type=int, default=8)
    parser.add_argument("--longest", type=int, help="tokens (512)")
    parser.add_argument("--moments", action="store_true", help="compute mean and spread over the vocabulary too")
    options = parser.parse_args(arguments)
    options.n = options.n or (12 if options.small else 64)
    options.longest = options.longest or (64 if options.small else 512)
    return options


def draw_lengths(options: Any) -> list[int]:
    """Log-uniform between the shortest and the longest, both included."""
    rng = random.Random(0)
    low, high = math.log(options.shortest), math.log(options.longest)
    drawn = [round(math.exp(rng.uniform(low, high))) for _ in range(options.n - 2)]
    return [*drawn, options.shortest, options.longest]


def report(
    options: Any, tokens: int, sizes: tuple[int, int], tried: dict[str, float], seconds: dict[str, list[float]]
) -> Report:
    settings = {
        "n": options.n,
        "tokens": tokens,
        "shortest": options.shortest,
        "longest": options.longest,
        "moments": options.moments,
        "dtype": options.dtype,
        "clock": options.clock,
        "equal_batch_size": sizes[0],
        "harness_batch_size": sizes[1],
        "harness_seconds_tried": tried,
    }
    ratios = [
        Ratio.of("signals / harness at equal batch size", seconds[SIGNALS], seconds[EQUAL], at_most=0.6),
        Ratio.of("signals / harness at its best batch size", seconds[SIGNALS], seconds[BEST], at_most=0.9),
    ]
    return Report("mixed_lengths", settings, seconds, ratios)


if __name__ == "__main__":
    main()
