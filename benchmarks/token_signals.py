"""Token signals against the bare forward pass and the harness's own `loglikelihood_rolling`, in alternation.

    python benchmarks/token_signals.py [--model DIR] [--n 256] [--tokens 128]

The bare forward pass runs on the very batches that we score. The harness runs at the batch size that is its best on a
share of the texts, found first.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import torch
from audits import load_lm
from common import Ratio, Report, in_turn
from rolling import best_batch_size, rolling

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.models.batching import plan_batches, token_budget
from spvmia_plugin.models.hf_backend import HFBackend
from spvmia_plugin.protocols import ScoreInput
from spvmia_plugin.signals import Role

BARE, PLAIN, MOMENTS, HARNESS = (
    "bare forward",
    "signals without moments",
    "signals with moments",
    "loglikelihood_rolling",
)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    options = read_options(arguments)
    with tempfile.TemporaryDirectory() as folder:
        model = common.prepared(options, Path(folder))
        lm = load_lm(model, None, options.dtype, options.device)
        backend = HFBackend(lm, AuditConfig())
        texts = common.cut_texts(backend.encode, backend.decode, [options.tokens] * options.n, options.texts)
        best, tried = best_batch_size(lm, texts[: max(1, options.n // 4)], clock=options.clock)
        clock = in_turn(contestants(lm, backend, texts, best), options.rounds)
    return report(options, best, tried, clock.seconds(options.clock)).tell(options)


def read_options(arguments: list[str] | None) -> Any:
    parser = common.parser(__doc__)
    parser.add_argument("--n", type=int, help="texts (256)")
    parser.add_argument("--tokens", type=int, help="tokens of each (128)")
    options = parser.parse_args(arguments)
    options.n = options.n or (8 if options.small else 256)
    options.tokens = options.tokens or (32 if options.small else 128)
    return options


def contestants(lm: Any, backend: HFBackend, texts: list[str], best: int) -> dict[str, Callable[[], object]]:
    inputs = [ScoreInput(tuple(backend.encode(text))) for text in texts]
    ids = torch.tensor([[lm.prefix_token_id, *item.token_ids[:-1]] for item in inputs], device=lm.device)
    batches = [ids[list(batch.rows)] for batch in plan_batches([ids.shape[1]] * len(ids), token_budget(lm.device.type))]

    def bare() -> None:
        with torch.no_grad():
            for batch in batches:
                _ = lm.model(batch).logits

    return {
        BARE: bare,
        PLAIN: lambda: backend.score(Role.TARGET, inputs, moments=False),
        MOMENTS: lambda: backend.score(Role.TARGET, inputs, moments=True),
        HARNESS: rolling(lm, texts, best),
    }


def report(options: Any, best: int, tried: dict[str, float], seconds: dict[str, list[float]]) -> Report:
    settings = {
        "n": options.n,
        "tokens": options.tokens,
        "dtype": options.dtype,
        "clock": options.clock,
        "harness_batch_size": best,
        "harness_seconds_tried": tried,
    }
    ratios = [
        Ratio.of(f"{name} / {to}", seconds[name], seconds[to], at_most=limit)
        for name, to, limit in (
            (MOMENTS, BARE, 1.25),
            (PLAIN, BARE, 1.08),
            (MOMENTS, HARNESS, 1.0),
            (PLAIN, HARNESS, 0.9),
        )
    ]
    return Report("token_signals", settings, seconds, ratios)


if __name__ == "__main__":
    main()
