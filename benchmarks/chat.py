"""Audits of conversations: targets fine-tuned by TRL, audited under every kind of self-prompt, beside plain text.

    python benchmarks/chat.py --output chat --chat chat.jsonl --instruct instruct.jsonl --model SMOLLM2

Needs trl (`pip install 'spvmia-plugin[trl]'`). `--chat` has rows of `messages`, `--instruct` rows of `prompt` and
`completion`. For every cell of CELLS: a LoRA target (rank 16, all-linear, 3 epochs, 2e-4, batch 8) on 200 records by
TRL's own SFTTrainer, then an audit of these against 200 others, with 200 more as prompts. Tells for each cell

- whether the masked loss of every record equals the loss over TRL's own tokenised row, and the counts of scored tokens;
- what the self-prompts are like;
- AUROC of every attack with its interval, and how much the self-prompted reference adds to the base (paired, over
  records): the difference of mean log-probabilities, `ez` and `wbc`.

What is finished is not done again. `--parallel 4` runs four cells at a time where there are cores or a GPU for it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spvmia_plugin.metrics.roc import auroc
from spvmia_plugin.metrics.summary import summarise
from spvmia_plugin.results import read_latest

CLASSES = ("members", "nonmembers", "prompts")
TWINS = {"lira_base": "log-prob difference", "ez": "spv_ez", "wbc": "spv_wbc"}
"""Attacks that calibrate with the base, and the same with the self-prompted reference."""


@dataclass(frozen=True)
class Cell:
    """One audit.

    Attributes:
        target: `chat` (loss on the assistant's turns), `chat_all` (on everything) or `instruct` (on the completion).
        seed: of the split and of the training.
        options: of the audit.
        as_text: audit the conversations as plain text, rendered beforehand, as versions before these formats did.
        prompts: whether the audit is given held-out records.
    """

    target: str
    seed: int
    options: Mapping[str, Any]
    as_text: bool = False
    prompts: bool = True


MARKED = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}{% if message['role'] == 'assistant' %}{% generation %}"
    "{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}"
    "{% endif %}{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""SmolLM2's template with marks around what the assistant writes, which TRL asks for."""

CELLS = {
    "chat, reply": Cell("chat", 0, {"mia_self_prompt": "reply"}),
    "chat, reply, seed 1": Cell("chat", 1, {"mia_self_prompt": "reply"}),
    "chat, whole": Cell("chat", 0, {"mia_self_prompt": "whole"}),
    "chat, whole, no prompts": Cell("chat", 0, {"mia_self_prompt": "whole"}, prompts=False),
    "chat, prefix": Cell("chat", 0, {"mia_self_prompt": "prefix", "mia_allow_degenerate": True}),
    "chat, plain text": Cell("chat", 0, {"mia_block_size": 0, "mia_allow_degenerate": True}, as_text=True),
    "chat trained on all tokens, reply": Cell("chat_all", 0, {"mia_self_prompt": "reply", "mia_loss_on": "all"}),
    "instruct, reply": Cell("instruct", 0, {"mia_self_prompt": "reply"}),
}


def rows_of(path: Path, records: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Rows of each class, dealt out at random."""
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    random.Random(seed).shuffle(rows)
    if len(rows) < 3 * records:
        raise SystemExit(f"{path}: expected {3 * records} rows, got {len(rows)}; lower --records")
    return {name: rows[i * records : (i + 1) * records] for i, name in enumerate(CLASSES)}


def folder_of(options: argparse.Namespace, cell: Cell) -> Path:
    """Where a target lies."""
    return Path(options.output) / f"{cell.target}-{cell.seed}"


def make_target(options: argparse.Namespace, cell: Cell) -> None:
    """Fine-tune by TRL, and keep its tokenised rows beside the data."""
    folder = folder_of(options, cell)
    if (folder / "done").exists():
        return
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    tokenizer.chat_template = MARKED
    source = options.instruct if cell.target == "instruct" else options.chat
    dealt = rows_of(source, options.records, cell.seed)
    for name, rows in dealt.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(folder / "trainer"),
            num_train_epochs=3,
            learning_rate=2e-4,
            per_device_train_batch_size=8,
            max_length=1024,
            assistant_only_loss=cell.target == "chat",
            seed=cell.seed,
            shuffle_dataset=False,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=options.device == "cpu",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(dealt["members"]),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    tokenised = [{key: row[key] for key in ("input_ids", "labels")} for row in trainer.train_dataset]
    trainer.train()
    trainer.save_model(str(folder / "adapter"))  # with the tokenizer, as TRL does at the end of a training
    (folder / "tokenised.json").write_text(json.dumps(tokenised))
    (folder / "done").touch()


def as_text(folder: Path) -> dict[str, Path]:
    """The conversations rendered to plain text, one file a class."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "adapter")
    files = {}
    for name in CLASSES:
        files[name] = folder / f"{name}_text.jsonl"
        rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        texts = [tokenizer.apply_chat_template(row["messages"], tokenize=False) for row in rows]
        files[name].write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return files


def audit_command(options: argparse.Namespace, name: str) -> list[str]:
    """The harness's command for one cell."""
    cell = CELLS[name]
    folder = folder_of(options, cell)
    files = as_text(folder) if cell.as_text else {c: folder / f"{c}.jsonl" for c in CLASSES}
    given = {f"mia_{c}": str(files[c].absolute()) for c in CLASSES if c != "prompts" or cell.prompts}
    metadata = {
        "mia_preset": options.preset,
        "mia_perturbations": options.perturbations,
        "mia_cache_dir": str((Path(options.output) / "cache" / place(name)).absolute()),
        "mia_seed": cell.seed,
        **given,
        **cell.options,
    }
    model = f"pretrained={options.model},peft={folder / 'adapter'},dtype=float32"
    command = [sys.executable, "-m", "spvmia_plugin", "run", "run", "--model", "hf", "--model_args", model]
    tasks = ",".join(f"{attack}_mia_custom" for attack in options.attacks or ()) or "mia_custom"
    command += ["--tasks", tasks, "--device", options.device, "--batch_size", "8", "--log_samples"]
    return [*command, "--metadata", json.dumps(metadata), "--output_path", str(Path(options.output) / place(name))]


def place(name: str) -> str:
    """A cell's folder."""
    return name.replace(", ", "_").replace(" ", "-")


def told(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """What a finished cell shows."""
    audit = read_latest(Path(options.output) / place(name)).audits[0]
    labels, clusters = audit.labels(), np.array(audit.clusters())
    attacks, found = {}, {}
    for task in audit.tasks:
        summary = task.mia_audit.metrics
        attacks[task.attack] = {
            "auroc": summary.auroc,
            "interval": list(summary.auroc_interval),
            **{metric.key: tpr.value for metric, tpr in summary.tprs.items()},
        }
        found[task.attack] = task
    spv = found["spv_wbc"]
    scores = {attack: task.scores() for attack, task in found.items()}
    scores["log-prob difference"] = spv.records.target - spv.records.reference
    gains = {}
    for base, own in TWINS.items():
        usable = np.isfinite(scores[base]) & np.isfinite(scores[own])
        low, high = paired(scores[own][usable], scores[base][usable], labels[usable], clusters[usable])
        values = [float(auroc(scores[each][usable], labels[usable])) for each in (own, base)]
        gains[own] = {"auroc": values[0], "base": values[1], "gain": values[0] - values[1], "interval": [low, high]}
    usable = np.isfinite(scores["log-prob difference"])
    summary = summarise(scores["log-prob difference"][usable], labels[usable], clusters[usable])
    attacks["log-prob difference"] = {"auroc": summary.auroc, "interval": list(summary.auroc_interval)}
    first = audit.tasks[0].mia_audit
    return {
        "n": [int(labels.sum()), int((~labels).sum())],
        "attacks": attacks,
        "gains": gains,
        "self_prompts": dict(first.self_prompts or {}),
        "scored": dict(first.scored or {}),
        "loss_mask": first.stages.get("loss_mask"),
        "notes": list(first.notes),
        "equal": equality(options, name) if not CELLS[name].as_text else None,
    }


def paired(one: Any, other: Any, labels: Any, clusters: Any, draws: int = 2000) -> tuple[float, float]:
    """95 % interval of the difference of two AUROCs on the same records, by resampling documents of each class."""
    rng = np.random.default_rng(0)
    documents = [
        [np.flatnonzero((clusters == cluster) & (labels == side)) for cluster in np.unique(clusters[labels == side])]
        for side in (True, False)
    ]
    found = []
    for _ in range(draws):
        drawn = [side[i] for side in documents for i in rng.integers(len(side), size=len(side))]
        rows = np.concatenate(drawn)
        found.append(auroc(one[rows], labels[rows]) - auroc(other[rows], labels[rows]))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def equality(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """The records' masked losses against those over TRL's own rows, by a plain forward pass in float32."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    cell = CELLS[name]
    folder = folder_of(options, cell)
    task = next(t for t in read_latest(Path(options.output) / place(name)).audits[0].tasks if t.attack == "loss")
    records = task.records
    told = zip(records.roster.ids, records.target, records.n_tokens, strict=True)
    ours = {str(record_id): (-float(mean), int(count)) for record_id, mean, count in told}
    device = torch.device(options.device)
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32), folder / "adapter"
    ).to(device)
    model.eval()
    worst, counts, compared = 0.0, 0, 0
    for row, tokens in enumerate(json.loads((folder / "tokenised.json").read_text())[: options.compared], start=1):
        known = ours.get(f"members.jsonl:{row}")
        if known is None:
            continue
        with torch.inference_mode():
            ids, labels = (torch.tensor([tokens[key]], device=device) for key in ("input_ids", "labels"))
            logits = model(input_ids=ids).logits[0, :-1].float()
            loss = torch.nn.functional.cross_entropy(logits, labels[0, 1:], ignore_index=-100).item()
        worst = max(worst, abs(loss - known[0]))
        counts += int((labels[0, 1:] != -100).sum()) != known[1]
        compared += 1
    return {"records": compared, "largest_difference": worst, "other_token_counts": counts}


def table(cells: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: AUROCs with intervals, one column a cell."""
    names = list(cells)
    attacks = sorted(
        {attack for each in cells.values() for attack in each["attacks"]},
        key=lambda a: -max(each["attacks"].get(a, {}).get("auroc") or 0 for each in cells.values()),
    )
    lines = ["| attack | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for attack in attacks:
        entries = []
        for name in names:
            one = cells[name]["attacks"].get(attack)
            if one is None or one["auroc"] is None or not np.isfinite(one["auroc"]):
                entries.append("-")
            else:
                low, high = one["interval"]
                entries.append(f"{one['auroc']:.3f} ({low:.3f} to {high:.3f})")
        lines.append(f"| {attack} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def together(
    commands: Sequence[tuple[str, Sequence[str]]], parallel: int, logs: Path, until: float = float("inf")
) -> None:
    """Run commands, so many at a time, until a point of time; each has its own log."""
    waiting, running, failed = list(commands), [], []
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    while waiting or running:
        while waiting and len(running) < parallel:
            name, command = waiting.pop(0)
            log = (logs / f"{place(name)}.log").open("w")
            print(f"{name}: started", flush=True)
            running.append((name, subprocess.Popen(command, stdout=log, stderr=log, env=environment), log))
        name, process, log = running.pop(0)
        try:
            code = process.wait(max(1.0, until - time.time()) if until < float("inf") else None)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        log.close()
        print(f"{name}: exit {code}", flush=True)
        failed += [name] if code else []
    if failed:
        print(f"failed: {', '.join(failed)}; see {logs}", flush=True)


def main() -> None:
    """Make the targets, audit them, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="folder of SmolLM2-135M (spvmia demo-model DIR)")
    parser.add_argument("--chat", type=Path, required=True, help="rows of messages")
    parser.add_argument("--instruct", type=Path, required=True, help="rows of prompt and completion")
    parser.add_argument("--records", type=int, default=200, help="of each class")
    parser.add_argument("--preset", default="quick", help="mia_preset")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--perturbations", type=int, default=2, help="mia_perturbations")
    parser.add_argument("--attacks", nargs="+", help="these alone, loss and each of TWINS with its twin among them")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop audits that take longer in all")
    parser.add_argument("--compared", type=int, default=200, help="records whose loss is compared with TRL's rows")
    parser.add_argument("--cells", nargs="*", choices=[*CELLS], default=[*CELLS])
    parser.add_argument("--target", choices=[*CELLS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    missing = {"loss", *TWINS, "spv_ez", "spv_wbc"}.difference(options.attacks) if options.attacks else ()
    if missing:
        parser.error(f"--attacks: expected {', '.join(sorted(missing))} among them, since the tables need these")
    if options.target:
        make_target(options, CELLS[options.target])
        return
    until = time.time() + options.seconds
    options.output.mkdir(parents=True, exist_ok=True)
    targets = {(CELLS[name].target, CELLS[name].seed): name for name in options.cells}
    again = [sys.executable, __file__, *sys.argv[1:]]
    together([(f"target {n}", [*again, "--target", n]) for n in targets.values()], options.parallel, options.output)
    to_do = [n for n in options.cells if not list((options.output / place(n)).rglob("results_*.json"))]
    together([(n, audit_command(options, n)) for n in to_do], options.parallel, options.output, until)
    finished = [n for n in options.cells if list((options.output / place(n)).rglob("results_*.json"))]
    found = {name: told(options, name) for name in finished}
    (options.output / "chat.json").write_text(json.dumps(found, indent=1))
    print(table(found))
    for name, each in found.items():
        print(f"\n{name}: {each['n']}; self-prompts {each['self_prompts']}; {each['equal']}")
        for own, gain in each["gains"].items():
            low, high = gain["interval"]
            values = f"{gain['auroc']:.3f}, base {gain['base']:.3f}, gain {gain['gain']:+.3f}"
            print(f"  {own}: {values} ({low:+.3f} to {high:+.3f})")


if __name__ == "__main__":
    main()
