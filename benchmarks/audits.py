"""Whole audits in this process, with a clock on every stage: for released_algorithm, memory and growth."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import cut_texts
from lm_eval.models.huggingface import HFLM

from spvmia_plugin.auditing.outcome import Outcome
from spvmia_plugin.auditing.run import Job, Run
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.models.hf_backend import HFBackend
from spvmia_plugin.plugins import Registry, load_registry
from spvmia_plugin.records import AuditData, Document, Record
from spvmia_plugin.store.store import Store
from spvmia_plugin.util.libraries import quiet_libraries

STAGES = {
    "generate": "self-prompting",
    "train_reference": "training",
    "sample_replacements": "paraphrases",
    "score": "scoring",
}
"""Methods of the backend that do the long work, and what we call it."""

OnStage = Callable[[str], None]


class Stages:
    """Seconds by stage, in the order they first began."""

    def __init__(self, on_stage: OnStage | None = None, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self._on_stage = on_stage
        self._clock = clock

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what happens inside."""
        if self._on_stage is not None:
            self._on_stage(name)
        started = self._clock()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self._clock() - started

    def watch(self, backend: HFBackend) -> HFBackend:
        """Put the clock on one backend's long methods."""
        for method, name in STAGES.items():
            setattr(backend, method, self._timed(getattr(backend, method), name))
        return backend

    def _timed(self, method: Callable[..., Any], name: str) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return method(*args, **kwargs)

        return timed


def load_lm(model: Path, adapter: Path | None, dtype: str, device: str, **more: Any) -> HFLM:
    """The harness's LM, as `lm_eval --model hf` makes it."""
    peft = {"peft": str(adapter)} if adapter is not None else {}
    with quiet_libraries():
        return HFLM(pretrained=str(model), dtype=dtype, device=device, **peft, **more)


def make_data(backend: HFBackend, records: int, prompts: int, tokens: int, source: Path | None) -> AuditData:
    """Records, half of them called members, and held-out documents: blocks of exactly `tokens` tokens."""
    texts = cut_texts(backend.encode, backend.decode, [tokens] * (records + prompts), source)
    made = [Record(f"r:{i + 1}", text, i % 2 == 0, f"r:{i + 1}") for i, text in enumerate(texts[:records])]
    held_out = [Document(f"p:{i + 1}", text) for i, text in enumerate(texts[records:])]
    return AuditData(tuple(made), tuple(held_out), (), "assumed", "0" * 64, "benchmark", tokens)


def audit(
    data: AuditData,
    config: AuditConfig,
    names: Sequence[str],
    backend: HFBackend,
    folder: Path,
    registry: Registry | None = None,
) -> Outcome:
    """One audit from start to end on a store of its own."""
    registry = registry or load_registry(entry_points=False)
    attacks = {f"{name}_mia_custom": registry.attack(name, config) for name in names}
    with Store(folder) as store:
        store.prepare()
        return Run(
            Job(data, config, attacks, data.records, data.records), backend, registry, store, quiet=True
        ).execute()
