"""How long `spvmia check` takes beyond importing torch, which everything that follows imports as well.

    python benchmarks/check_time.py --records 1000

Each is a fresh process, with one thread; the smallest of the rounds counts, since other work on the machine only adds.
Seconds of the processor tell more than those of the clock where the machine is shared, and are what is held against the
limit. Texts and, without `--model`, the model are made up: no weights are read, so their size makes no difference, and
the tokenizer's speed does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common import lora_target, made_up_texts, tiny_model  # noqa: E402
from startup import once  # noqa: E402

MAX_SECONDS = 20.0
"""Of the processor, beyond importing torch."""
IMPORT, CHECK = "import torch", "spvmia check"
_RUN = "import sys; sys.path.insert(0, {root!r}); sys.argv = ['spvmia', 'check', *{words!r}]; "
_RUN += "from spvmia_plugin.cli.main import main; main()"


def command(folder: Path, model: Path | None, records: int) -> list[str]:
    """Write the files of an audit with every attack of `mia_custom`, and return its words."""
    base = tiny_model(folder / "base") if model is None else model
    target = lora_target(base, folder / "target", rank=4)
    texts, data = made_up_texts(3 * records), {}
    for place, name in enumerate(("mia_members", "mia_nonmembers", "mia_prompts")):
        path = folder / f"{name}.jsonl"
        own = texts[place * records : (place + 1) * records]
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in own), encoding="utf-8")
        data[name] = str(path)
    options = {**data, "mia_block_size": 0, "mia_preset": "standard", "mia_cache_dir": str(folder / "store")}
    arguments = f"pretrained={base},peft={target}"
    words = ["--model", "hf", "--model_args", arguments, "--tasks", "mia_custom", "--device", "cpu"]
    return ["lm_eval", *words, "--metadata", json.dumps(options)]


def main() -> int:
    """Print the figures; 1 where it takes longer than it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a causal language model (a tiny one that is made up)")
    parser.add_argument("--records", type=int, default=1000, help="of each class, and prompts (1000)")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each, in turn (3)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    taken: dict[str, list[tuple[float, float]]] = {IMPORT: [], CHECK: []}
    with tempfile.TemporaryDirectory() as name:
        words = command(Path(name), options.model, options.records)
        codes = {IMPORT: IMPORT, CHECK: _RUN.format(root=str(ROOT), words=words)}
        for _ in range(options.rounds):
            for what, code in codes.items():
                taken[what].append(once(code))
    best = {what: [min(column) for column in zip(*rounds, strict=True)] for what, rounds in taken.items()}
    beyond = [after - before for after, before in zip(best[CHECK], best[IMPORT], strict=True)]
    found = {"records": options.records, "seconds": beyond[0], "processor_seconds": beyond[1], "most": MAX_SECONDS}
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        print(
            f"{CHECK} of {options.records} + {options.records} records, beyond '{IMPORT}': {beyond[0]:.1f} s "
            f"(processor {beyond[1]:.1f} s, at most {MAX_SECONDS:g})"
        )
    return int(beyond[1] > MAX_SECONDS)


if __name__ == "__main__":
    raise SystemExit(main())
