"""Memory of an audit of a LoRA target, stage by stage, and of the released algorithm on the same target.

    python benchmarks/memory.py [--model DIR] [--members 16] [--tokens 128]

Each side runs in a fresh process that loads the target, audits it, and is sampled all the while. What is told is the
peak of its resident memory in a stage less what it held with the model loaded and used once. The limit of an audit is
one batch of logits, the reference adapter with its optimiser state, and 1 GB. Whether there is a second copy of the
base is seen in the tensors that are alive when a stage begins: all of them together against the model's own.
"""

from __future__ import annotations

import contextlib
import gc
import json
import multiprocessing
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import common
import released
from audits import Stages, audit, load_lm
from common import Ratio, Report
from released_algorithm import PARAPHRASES, PROMPT_TOKENS, prepare

from spvmia_plugin.util.libraries import quiet_libraries

MB = 2**20
OURS, THEIRS = "ours", "released"
_INTERVAL_SECONDS = 0.005


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    options = read_options(arguments)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        model = common.prepared(options, work)
        adapter = common.lora_target(model, work / "target")
        sides = {side: in_fresh_process(side, options, model, adapter, work / side) for side in (OURS, THEIRS)}
    return report(options, sides).tell(options)


def read_options(arguments: list[str] | None) -> Any:
    parser = common.parser(__doc__, rounds=None)
    parser.add_argument("--members", type=int, help="self-prompts (16)")
    parser.add_argument("--records", type=int, help="audited records (8)")
    parser.add_argument("--tokens", type=int, help="tokens of a text (128)")
    options = parser.parse_args(arguments)
    options.members = options.members or (8 if options.small else 16)
    options.records = options.records or (4 if options.small else 8)
    options.tokens = options.tokens or (32 if options.small else 128)
    return options


class Peaks:
    """Samples this process's resident memory; keeps the largest value of each stage."""

    def __init__(self) -> None:
        import psutil

        self.by_stage: dict[str, int] = {}
        self.held: dict[str, int] = {}
        self._process = psutil.Process()
        self._stage = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def resident(self) -> int:
        return int(self._process.memory_info().rss)

    def start(self) -> None:
        self._thread.start()

    def enter(self, stage: str) -> None:
        """From now on what is seen belongs to `stage`. Called between stages, when only what is kept is alive."""
        self._stage = ""
        self.held[stage] = max(self.held.get(stage, 0), tensor_bytes())
        self._stage = stage

    def finish(self) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(_INTERVAL_SECONDS):
            if self._stage:
                self.by_stage[self._stage] = max(self.by_stage.get(self._stage, 0), self.resident())


def tensor_bytes() -> int:
    """Bytes of all tensors alive in this process, each storage once."""
    import torch

    gc.collect()
    storages: dict[int, int] = {}
    for item in gc.get_objects():
        if issubclass(type(item), torch.Tensor):
            with contextlib.suppress(NotImplementedError):  # a tensor that is none yet, as torch 2.7 keeps some
                if (storage := item.untyped_storage()).nbytes():
                    storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def in_fresh_process(side: str, options: Any, model: Path, adapter: Path, folder: Path) -> dict[str, Any]:
    """Run one side in a process of its own, and return what it measured."""
    folder.mkdir()
    worker = multiprocessing.get_context("spawn").Process(target=_work, args=(side, options, model, adapter, folder))
    worker.start()
    worker.join()
    if worker.exitcode:
        raise RuntimeError(f"{side}: the measured process ended with {worker.exitcode}")
    found: dict[str, Any] = json.loads((folder / "measured.json").read_text(encoding="utf-8"))
    return found


def _work(side: str, options: Any, model: Path, adapter: Path, folder: Path) -> None:
    common.prepared(options, folder)
    _warm_up(options, model, adapter)
    peaks = Peaks()
    started = time.perf_counter()
    found = (_ours if side == OURS else _released)(options, model, adapter, folder, peaks)
    found["seconds"] = time.perf_counter() - started
    (folder / "measured.json").write_text(json.dumps(found), encoding="utf-8")


def _warm_up(options: Any, model: Path, adapter: Path) -> None:
    """Import what the stages import, so that code is not counted as data."""
    import sklearn.metrics  # noqa: F401
    from peft import get_peft_model  # noqa: F401
    from transformers import Trainer  # noqa: F401


def _ours(options: Any, model: Path, adapter: Path, folder: Path, peaks: Peaks) -> dict[str, Any]:
    backend, data, config = prepare(options, model, adapter)
    loaded = _used_once(backend._roles.target, peaks)
    Stages(peaks.enter).watch(backend)
    peaks.start()
    outcome = audit(data, config, ["spv"], backend, folder / "store")
    peaks.finish()
    reference = outcome.details["reference"]
    target = backend._roles.target
    return {**_sizes(target, loaded, peaks), "trained_parameters": reference["parameters"]}


def _used_once(target: Any, peaks: Peaks) -> int:
    """Resident memory once every weight has been read: files are mapped, and come in when they are used."""
    import torch

    with torch.no_grad():
        target(torch.zeros(1, 1, dtype=torch.long, device=target.device))
    return peaks.resident()


def _released(options: Any, model: Path, adapter: Path, folder: Path, peaks: Peaks) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM

    lm = load_lm(model, adapter, options.dtype, options.device)
    tokenizer = lm.tokenizer
    lengths = [options.tokens] * (options.records + options.members)
    texts = common.cut_texts(lm.tok_encode, lambda ids: tokenizer.decode(ids), lengths, options.texts)
    encoded = [lm.tok_encode(text) for text in texts]
    records, prompts = encoded[: options.records], [ids[:PROMPT_TOKENS] for ids in encoded[options.records :]]
    loaded = _used_once(lm.model, peaks)
    peaks.start()
    peaks.enter("self-prompting")
    written = released.self_prompt(lm.model, tokenizer, prompts[:2], options.tokens)  # one at a time: two show it all
    peaks.enter("training")
    base = AutoModelForCausalLM.from_pretrained(model, dtype=options.dtype).to(options.device)
    training = written * (options.members // 2)
    with quiet_libraries():
        reference, _ = released.train(base, tokenizer, training, texts[:2], options.tokens, folder / "checkpoints")
    peaks.enter("scoring")
    released.score(lm.model, reference, records[:2], [[ids] * PARAPHRASES for ids in records[:2]])
    peaks.finish()
    return _sizes(lm.model, loaded, peaks)


def _sizes(target: Any, loaded: int, peaks: Peaks) -> dict[str, Any]:
    parameters = [p for name, p in target.named_parameters() if ".lora_" not in name]
    return {
        "loaded": loaded,
        "held": peaks.held,
        "increase": {stage: peak - loaded for stage, peak in peaks.by_stage.items()},
        "model_bytes": sum(p.numel() * p.element_size() for p in parameters),
        "target_bytes": sum(p.numel() * p.element_size() for p in target.parameters()),
        "vocab": target.config.vocab_size,
    }


def allowed_bytes(options: Any, ours: dict[str, Any]) -> int:
    """One batch of float32 logits, the adapter with gradient and both of Adam's moments in float32, 1 GB."""
    from spvmia_plugin.models.batching import token_budget

    logits = 4 * token_budget(options.device) * ours["vocab"]
    return logits + 4 * 4 * int(ours["trained_parameters"]) + 2**30


def report(options: Any, sides: dict[str, dict[str, Any]]) -> Report:
    ours, theirs = sides[OURS], sides[THEIRS]
    allowed = allowed_bytes(options, ours)
    settings = {
        "members": options.members,
        "records": options.records,
        "tokens": options.tokens,
        "dtype": options.dtype,
        "model_mb": round(ours["model_bytes"] / MB),
        "allowed_mb": round(allowed / MB),
    }
    measured = {
        f"{side}: {stage}": [increase / MB]
        for side in (OURS, THEIRS)
        for stage, increase in sides[side]["increase"].items()
    }
    largest = {side: max(sides[side]["increase"].values()) for side in sides}
    ratios = [
        Ratio("largest increase / allowed", (largest[OURS] / allowed,), at_most=1.0),
        Ratio("ours: tensors kept / the target's", (max(ours["held"].values()) / ours["target_bytes"],), at_most=1.5),
        Ratio("released: tensors kept / the target's", (max(theirs["held"].values()) / theirs["target_bytes"],)),
        Ratio("largest increase, ours / released", (largest[OURS] / max(1, largest[THEIRS]),)),
    ]
    measured |= {"ours: loaded": [ours["loaded"] / MB], "released: loaded": [theirs["loaded"] / MB]}
    return Report("memory", settings, measured, ratios, unit="MB over the loaded model")


if __name__ == "__main__":
    main()
