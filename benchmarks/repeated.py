"""A repeated audit, which finds everything in the store, against the start-up of lm_eval with the same model.

    python benchmarks/repeated.py [--model DIR] [--records 20] [--tokens 64]

Every run is the stock command in a process of its own. The start-up is that of `lm_eval` on a task with one question of
one word. The first audit fills a fresh store; the repeated ones must ask the model nothing and be at most 5 seconds
longer than the start-up.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
from common import Clock, Ratio, Report

from spvmia_plugin.harness.enable import tasks_folder

START, REPEATED, FIRST = "start-up of lm_eval", "repeated audit", "first audit"
ALLOWED_SECONDS = 5.0
TASK = "spv_mia_custom"
ONE_QUESTION = """\
task: one_question
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: loglikelihood
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
"""


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    options = read_options(arguments)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        model = common.prepared(options, work)
        adapter = common.lora_target(model, work / "target")
        model_args = f"pretrained={model},peft={adapter},dtype={options.dtype}"
        start = [*command(model_args, options, one_question(work)), "--output_path", str(work / "start")]
        again = [*command(model_args, options, audit_arguments(options, model, work))]
        clock, tokens = Clock(), []
        with clock.measure(FIRST):
            run(again, work / "first")
        for round_ in range(options.rounds):
            with clock.measure(START):
                run(start)
            with clock.measure(REPEATED):
                run(again, work / f"repeated-{round_}")
            tokens.append(model_tokens(work / f"repeated-{round_}"))
    return report(options, clock.wall, tokens).tell(options)


def read_options(arguments: list[str] | None) -> Any:
    parser = common.parser(__doc__, rounds=5)
    parser.add_argument("--records", type=int, help="members, and non-members (20)")
    parser.add_argument("--tokens", type=int, help="tokens of a record (64)")
    options = parser.parse_args(arguments)
    options.records = options.records or 20
    options.tokens = options.tokens or (32 if options.small else 64)
    return options


def command(model_args: str, options: Any, rest: Sequence[str]) -> list[str]:
    words = [sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", model_args]
    return [*words, "--device", options.device, *rest]


def one_question(work: Path) -> list[str]:
    """A task of its own, without a download."""
    folder = work / "one_question"
    folder.mkdir()
    (folder / "data.json").write_text(json.dumps({"question": "One and one is", "answer": " two"}), encoding="utf-8")
    text = ONE_QUESTION.format(data=folder / "data.json")
    (folder / "one_question.yaml").write_text(text, encoding="utf-8")
    return ["--include_path", str(folder), "--tasks", "one_question"]


def audit_arguments(options: Any, model: Path, work: Path) -> list[str]:
    """SPV-MIA on made-up members and non-members, everything in one store."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    lengths = [options.tokens] * 3 * options.records  # members, non-members, and what prompts are taken from
    texts = common.cut_texts(tokenizer.encode, tokenizer.decode, lengths, options.texts)
    files = {"mia_members": texts[: options.records], "mia_nonmembers": texts[options.records :]}
    metadata: dict[str, object] = {
        "mia_block_size": 0,
        "mia_perturbation": "causal",
        "mia_self_prompts": options.records,
        "mia_cache_dir": str(work / "store"),
    }
    for key, part in files.items():
        path = work / f"{key}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in part), encoding="utf-8")
        metadata[key] = str(path)
    return ["--include_path", str(tasks_folder()), "--tasks", TASK, "--metadata", json.dumps(metadata)]


def run(words: Sequence[str], output: Path | None = None) -> None:
    """Run a command to its end; what it printed is shown only where it failed."""
    more = ["--output_path", str(output)] if output is not None else []
    done = subprocess.run([*words, *more], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"lm_eval ended with {done.returncode}: {done.stderr[-2000:]}")


def model_tokens(output: Path) -> int:
    """Tokens that an audit read, wrote or trained on, by its own results file."""
    results = json.loads(next(output.rglob("results_*.json")).read_text(encoding="utf-8"))
    stages = results["configs"][TASK]["metadata"]["mia_audit"]["cost"].values()
    return sum(int(stage[f"{kind}_tokens"]) for stage in stages for kind in ("forward", "generated", "training"))


def report(options: Any, seconds: dict[str, list[float]], tokens: list[int]) -> Report:
    settings = {"records": options.records, "tokens": options.tokens, "dtype": options.dtype}
    longer = tuple(a - b for a, b in zip(seconds[REPEATED], seconds[START], strict=True))
    ratios = [
        Ratio("repeated audit less start-up, seconds", longer, at_most=ALLOWED_SECONDS),
        Ratio("tokens the repeated audit sent through the model", tuple(map(float, tokens)), at_most=0.0),
        Ratio.of("repeated audit / start-up", seconds[REPEATED], seconds[START]),
    ]
    return Report("repeated", settings, seconds, ratios)


if __name__ == "__main__":
    main()
