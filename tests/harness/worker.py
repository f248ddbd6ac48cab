"""One of two processes of a run, as `accelerate launch` would start them; the harness's LM with a rank on the CPU.

    python -m tests.harness.worker ORDER.json

ORDER has the model, and for each audit its tasks, metadata, limit and output. HFLM takes rank and world size on GPUs
only, so a subclass takes them here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from lm_eval.models.huggingface import HFLM

from spvmia_plugin.util.libraries import quiet_libraries
from tests.harness.conftest import TASKS


class RankedLM(HFLM):
    """HFLM that shards over gloo processes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._rank = self.accelerator.process_index
        self._world_size = self.accelerator.num_processes


def main(order: dict[str, Any]) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    from spvmia_plugin.errors import SpvmiaError
    from spvmia_plugin.models.hf_backend import HFBackend

    with quiet_libraries():
        lm = RankedLM(**order["model"])
    calls = {"trained": 0, "generated": 0}
    count(HFBackend, "train_reference", "trained", calls)
    count(HFBackend, "generate", "generated", calls)
    for audit in order["audits"]:
        if audit.get("fails") == lm.rank:

            def refuse(*_: Any, **__: Any) -> None:
                raise SpvmiaError("mia_cache_dir: expected room, got none")

            HFBackend.score = refuse  # type: ignore[assignment, method-assign]
        manager = TaskManager(metadata=audit["metadata"], include_path=[str(TASKS)], include_defaults=False)
        with quiet_libraries():
            result = lm_eval.simple_evaluate(
                model=lm, tasks=audit["tasks"], task_manager=manager, limit=audit.get("limit"), log_samples=True
            )
        kept = {"calls": dict(calls), "rank": lm.rank}
        if result is not None:
            kept |= {name: result[name] for name in ("results", "samples", "configs")}
        Path(f"{audit['output']}.{lm.rank}.json").write_text(json.dumps(kept, default=str))
        calls.update(trained=0, generated=0)


def count(owner: type, name: str, key: str, calls: dict[str, int]) -> None:
    """Count the calls of a method."""
    method = getattr(owner, name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls[key] += 1
        return method(*args, **kwargs)

    setattr(owner, name, counted)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
