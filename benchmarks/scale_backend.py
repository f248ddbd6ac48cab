"""An audit whose model is arithmetic: words are tokens, and log-probabilities are read from a fixed table."""

from __future__ import annotations

import sys
import time
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from spvmia_plugin import hookimpl
from spvmia_plugin.harness import task as harness_task
from spvmia_plugin.harness.enable import tasks_folder
from spvmia_plugin.plugins import Registry, load_registry
from spvmia_plugin.protocols import Backend, Cost, ScoreInput
from spvmia_plugin.signals import Role, TokenSignals

CAPITAL = 50_000
"""Token of a word with a capital letter, less that of the word without."""
TABLE = -np.random.default_rng(0).exponential(2.0, 1 << 16).astype(np.float32)


def _token_of(word: str) -> int:
    """The number in a word of the benchmark's; of a word that an attack puts in its place, one of the same size."""
    if word[1:].isdecimal():
        return int(word[1:]) + (CAPITAL if word[0] == "W" else 0)
    return zlib.crc32(word.encode()) % 20_000


class NoModel(LM):
    """What the harness drives: it does nothing but this plugin's audits."""

    def loglikelihood(self, requests: Any) -> Any:
        """Not asked for."""
        raise NotImplementedError

    loglikelihood_rolling = generate_until = loglikelihood


class Arithmetic(Backend):
    """A backend: signals are slices of `TABLE` that begin where the tokens and the role say."""

    name = "arithmetic"
    device = "cpu"
    max_length = 2048

    def __init__(self, lm: Any, config: Any, base_model: str | None = None) -> None:
        self._costs = {role: Cost() for role in Role}

    @classmethod
    def accepts(cls, lm: Any) -> bool:
        return isinstance(lm, NoModel)

    def encode(self, text: str) -> list[int]:
        return [_token_of(word) for word in text.split()]

    def decode(self, token_ids: Sequence[int]) -> str:
        return " ".join(f"W{i - CAPITAL}" if i >= CAPITAL else f"w{i}" for i in token_ids)

    def survives(self, token_ids: Sequence[int]) -> bool:
        return True

    def identity(self, role: Role) -> dict[str, object]:
        return {"role": role.value}

    def require(self, roles: Any) -> None:
        pass

    def score(
        self,
        role: Role,
        inputs: Sequence[ScoreInput],
        *,
        moments: bool,
        on_done: Any = None,
        done: Collection[int] = (),
    ) -> list[TokenSignals | None]:
        started, found = time.perf_counter(), [None] * len(inputs)
        batch: dict[int, TokenSignals] = {}
        skipped = set(done)
        for i, item in enumerate(inputs):
            if i in skipped:
                continue
            batch[i] = found[i] = self._signals(role, item, moments)
            self._costs[role].forward_tokens += len(item.token_ids)
            if len(batch) == 512:
                on_done(batch)
                batch = {}
        if batch:
            on_done(batch)
        self._costs[role].seconds += time.perf_counter() - started
        return found

    def _signals(self, role: Role, item: ScoreInput, moments: bool) -> TokenSignals:
        n = item.scored
        start = hash((role.value == "target", sum(item.token_ids), item.token_ids[:3], role is Role.BASE))
        start %= len(TABLE) - max(n, 1)
        logprob = TABLE[start : start + n].copy()
        moment = np.abs(logprob) + 0.5 if moments else None
        return TokenSignals(logprob, logprob > -0.5, None if moment is None else -moment, moment)

    def sample_replacements(self, role: Role, sequences: Any, positions: Any, seeds: Sequence[int]) -> Any:
        return [
            [(7 * where + seed + k) % 20_000 for k, where in enumerate(draws)]
            for draws, seed in zip(positions, seeds, strict=True)
        ]

    def generate(
        self, prompts: Any, lengths: Any, seeds: Any, *, on_done: Any = None, done: Collection[int] = ()
    ) -> list[list[int] | None]:
        texts = [[*prompt, *[9] * (n - len(prompt))] for prompt, n in zip(prompts, lengths, strict=True)]
        if on_done:
            on_done(dict(enumerate(texts)))
        return texts

    def train_reference(self, texts: Sequence[str], output_dir: Path) -> dict[str, object]:
        (output_dir / "adapter.json").write_text("{}")
        return {"loss": 1.0}

    def check_training(self) -> None:
        pass

    def load_reference(self, role: Role, path: str) -> None:
        pass

    def cost(self, role: Role) -> Cost:
        return Cost(**vars(self._costs[role]))


class Plugin:
    """Registers the backend."""

    @hookimpl
    def spvmia_register_backends(self) -> list[Any]:
        return [Arithmetic]


def registry() -> Registry:
    """All plugins, and ours."""
    found = load_registry()
    found.manager.register(Plugin(), name="scale-benchmark")
    return found


def run_audit(folder: Path, *, log_samples: bool) -> dict[str, object]:
    """All attacks on the files of `folder`, by the harness; AUROCs and what each stage took."""
    harness_task.load_registry = registry  # type: ignore[attr-defined]
    metadata = {
        "mia_members": str(folder / "members.jsonl"),
        "mia_nonmembers": str(folder / "nonmembers.jsonl"),
        "mia_prompts": str(folder / "prompts.jsonl"),
        "mia_candidate": str(folder / "candidate.jsonl"),
        "mia_cache_dir": str(folder / "cache"),
        "mia_block_size": 0,
        "mia_max_samples": 10**9,
        "mia_self_prompts": 100,
        "mia_perturbation": "causal",
    }
    manager = TaskManager(metadata=metadata, include_path=[str(tasks_folder())], include_defaults=False)
    result = lm_eval.simple_evaluate(
        model=NoModel(), tasks=["mia_custom"], task_manager=manager, metadata=metadata, log_samples=log_samples
    )
    audits = {name: config["metadata"]["mia_audit"] for name, config in result["configs"].items()}
    stages = {name: cost["seconds"] for name, cost in next(iter(audits.values()))["cost"].items()}
    sys.stderr.flush()
    aurocs = {name: row["auroc,none"] for name, row in result["results"].items() if "auroc,none" in row}
    return {"stages": stages, "aurocs": aurocs}
