"""Writes down every forward pass of the tiny model: in which stage, over which tokens. And a process to be killed.

    python -m tests.harness.recorder

reads a line of JSON for each run ({"arguments": [...], "log": path, "said": path}), forks, and gives the child the
arguments of `spvmia run`; it prints the child's process id, and its exit status when it has ended. What takes long, the
imports, is done once.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

STAGES = ("self-prompt", "training", "paraphrase", "scoring")
_METHODS = {
    "generate": "self-prompt",
    "train_reference": "training",
    "sample_replacements": "paraphrase",
    "score": "scoring",
}
_TRIAL = "trial"
"""No stage: what a model can do is tried on a few made-up tokens, once a process."""
_PROBE = (2, 5)
"""Shape of the pass by which a model's output layer is looked at, once a model; no text goes through."""


@dataclass(frozen=True)
class Pass:
    """One forward pass: its stage, a digest of role and tokens, rows and tokens a row."""

    stage: str
    digest: str
    rows: int
    width: int


def record(keep: Callable[[Pass], None], put: Callable[[Any, str, Any], None] = setattr) -> None:
    """Have `keep` called before every forward pass; `put` is `setattr`, or monkeypatch's."""
    from transformers import LlamaForCausalLM

    from spvmia_plugin.models import forward as passes
    from spvmia_plugin.models.hf_backend import HFBackend
    from spvmia_plugin.training import lora

    inside: list[tuple[str, str]] = []

    def staged(method: Any, stage: str) -> Any:
        @functools.wraps(method)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            inside.append((stage, str(args[0]) if stage in ("scoring", "paraphrase") else ""))
            try:
                return method(self, *args, **kwargs)
            finally:
                inside.pop()

        return call

    for name, stage in _METHODS.items():
        put(HFBackend, name, staged(getattr(HFBackend, name), stage))
    put(passes, "_agrees", staged(passes._agrees, _TRIAL))
    put(lora, "_refusal", staged(lora._refusal, _TRIAL))
    put(HFBackend, "_readable", staged(HFBackend._readable, _TRIAL))
    forward = LlamaForCausalLM.forward

    @functools.wraps(forward)
    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        ids = kwargs["input_ids"]
        if inside and inside[-1][0] != _TRIAL and tuple(ids.shape) != _PROBE:
            stage, role = inside[-1]
            digest = hashlib.sha256(f"{role} {ids.tolist()}".encode()).hexdigest()[:16]
            keep(Pass(stage, digest, *ids.shape))
        return forward(self, *args, **kwargs)

    put(LlamaForCausalLM, "forward", noted)


def units(passes: Iterable[Pass]) -> dict[str, Counter[str]]:
    """Batches by stage, each by its digest. Of a batch of self-prompts the prompts' pass counts, of a training all."""
    found: dict[str, Counter[str]] = {stage: Counter() for stage in STAGES}
    for each in passes:
        if each.stage != "self-prompt" or each.width > 1:
            found[each.stage][each.digest if each.stage != "training" else "step"] += 1
    return found


def repeated(whole: Iterable[Pass], attempts: Iterable[Pass]) -> dict[str, int]:
    """By stage, how many batches (or steps) all attempts together did more often than the run that was not killed.

    Raises:
        AssertionError: the attempts' batches are not those of the whole run.
    """
    expected, done = units(whole), units(attempts)
    for stage in STAGES:
        assert set(done[stage]) == set(expected[stage]), stage
    return {stage: sum((done[stage] - expected[stage]).values()) for stage in STAGES}


def read_log(path: Any) -> list[Pass]:
    """The passes a child noted; a last line that was not finished is left out."""
    with open(path, encoding="utf-8") as file:
        return [Pass(*json.loads(line)) for line in file if line.endswith("\n")]


def _serve() -> None:
    from lm_eval.tasks import TaskManager
    from transformers import LlamaForCausalLM  # noqa: F401 - imported before the fork, as the others

    from spvmia_plugin.harness import task  # noqa: F401
    from spvmia_plugin.models import hf_backend  # noqa: F401

    # Nobody's run asks for one of the harness's own 10,000 tasks, and each would read them all.
    TaskManager.__init__ = functools.partialmethod(TaskManager.__init__, include_defaults=False)  # type: ignore[method-assign]
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            _obey(order)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _obey(order: dict[str, Any]) -> None:
    said = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(said, stream)
    from spvmia_plugin.harness.enable import launch

    record(lambda each: os.write(log, json.dumps([each.stage, each.digest, each.rows, each.width]).encode() + b"\n"))
    status = 1
    try:
        launch(order["arguments"])
        status = 0
    except SystemExit as ended:  # which the interpreter would say
        print(ended, file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve()
