"""Token signals against the bare forward pass and the harness's own `loglikelihood_rolling`, in alternation.

    python benchmarks/token_signals.py --model ./smollm2 --texts records.jsonl --n 256 --tokens 128

Prints a table of ratios (median of the rounds) and one line of JSON. Times are of the process's own CPU time, so that
other work on the machine disturbs the ratios little.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.data.files import read_documents
from spvmia_plugin.protocols import ScoreInput
from spvmia_plugin.scoring.hf_backend import HFBackend
from spvmia_plugin.signals import Role


def main() -> None:
    options = read_options()
    lm = HFLM(pretrained=options.model, dtype=options.dtype, device="cpu", batch_size=options.batch_size)
    backend = HFBackend(lm, AuditConfig())
    texts = cut_texts(backend, options)
    rounds = time_in_turn(contestants(lm, backend, texts, options.batch_size), options.rounds)
    report(options, len(texts), rounds)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub id")
    parser.add_argument("--texts", required=True, type=Path, help="file of texts (column `text`)")
    parser.add_argument("--n", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16, help="of the harness and the bare forward pass")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def cut_texts(backend: HFBackend, options: argparse.Namespace) -> list[str]:
    """Texts of exactly so many tokens."""
    documents = read_documents(options.texts, "text", option="--texts").documents
    ids = backend.encode("\n\n".join(document.text for document in documents[: 20 * options.n]))
    blocks = (ids[i : i + options.tokens] for i in range(0, len(ids), options.tokens))
    texts = [text for block in blocks if len(backend.encode(text := backend.decode(block))) == options.tokens]
    return texts[: options.n]


def contestants(lm: HFLM, backend: HFBackend, texts: list[str], batch_size: int) -> dict[str, Callable[[], None]]:
    inputs = [ScoreInput(tuple(backend.encode(text))) for text in texts]
    ids = torch.tensor([[lm.prefix_token_id, *item.token_ids[:-1]] for item in inputs])
    requests = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in texts]

    def bare() -> None:
        with torch.no_grad():
            for batch in ids.split(batch_size):
                _ = lm.model(batch).logits

    def rolling() -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            lm.loglikelihood_rolling(requests, disable_tqdm=True)

    return {
        "bare forward": bare,
        "signals without moments": lambda: score(backend, inputs, moments=False),
        "signals with moments": lambda: score(backend, inputs, moments=True),
        "loglikelihood_rolling": rolling,
    }


def score(backend: HFBackend, inputs: list[ScoreInput], *, moments: bool) -> None:
    backend.score(Role.TARGET, inputs, moments=moments)


def time_in_turn(contestants: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant in each round, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(rounds + 1):
        for name, run in contestants.items():
            started = time.process_time()
            run()
            if round_:
                seconds[name].append(time.process_time() - started)
    return seconds


def report(options: argparse.Namespace, n: int, seconds: dict[str, list[float]]) -> None:
    def ratio(name: str, to: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[name], seconds[to], strict=True))

    print(f"{n} texts of {options.tokens} tokens, {torch.get_num_threads()} threads, median of {options.rounds} rounds")
    print(f"{'':26}{'seconds':>9}{'/ bare':>9}{'/ rolling':>11}")
    rows = {}
    for name in seconds:
        rows[name] = [ratio(name, "bare forward"), ratio(name, "loglikelihood_rolling")]
        print(f"{name:26}{statistics.median(seconds[name]):9.2f}{rows[name][0]:9.2f}{rows[name][1]:11.2f}")
    print(json.dumps({"n": n, "tokens": options.tokens, "dtype": options.dtype, "seconds": seconds, "ratios": rows}))


if __name__ == "__main__":
    main()
