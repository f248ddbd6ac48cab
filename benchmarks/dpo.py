"""An audit of preferences: a target that TRL's DPOTrainer made, under `premia` and the attacks on the chosen side.

    python benchmarks/dpo.py --output dpo --chat chat.jsonl --model SMOLLM2

Needs trl (`pip install 'spvmia-plugin[trl]'`). `--chat` has rows of `messages`. A preference is made of two
conversations, each used once: the longest answer of the first is the chosen one, the user's turn before it the prompt,
and the longest answer of the second is the rejected one, so that the two differ by what fits the prompt. Members,
non-members and prompts are dealt out at random and made in the same way. The target is a LoRA adapter (rank 16,
all-linear) after `--epochs` of DPO at beta 0.1.

Tells the share of pairs whose chosen answer gained more than the rejected one (DPO's reward accuracy) for members and
non-members, AUROC and TPR of every attack with intervals, and the paired difference between `premia` and each other.
What is finished is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from spvmia_plugin.metrics.paired import gains
from spvmia_plugin.results import read_latest

CLASSES = ("members", "nonmembers", "prompts")
ATTACKS = ("premia", "loss", "lira_base", "ez", "wbc", "spv_wbc", "lira_candidate", "candidate_wbc", "bag_of_words")
BETA = 0.1
TURNS = ["user", "assistant"]


def preferences(options: argparse.Namespace, tokenizer: Any) -> dict[str, list[dict[str, Any]]]:
    """Rows of each class; those with a side of more than `--record-tokens` are not used."""
    conversations = [json.loads(line)["messages"] for line in options.chat.read_text().splitlines() if line.strip()]
    random.Random(options.seed).shuffle(conversations)
    longest = []
    for messages in conversations:
        answered = [i for i in range(1, len(messages)) if [m["role"] for m in messages[i - 1 : i + 1]] == TURNS]
        longest += [messages[i - 1 : i + 1] for i in sorted(answered, key=lambda i: len(messages[i]["content"]))[-1:]]
    found = []
    for (asked, answer), (_, other) in zip(longest[::2], longest[1::2], strict=False):
        if options.as_text:
            prompt, *answers = f"User: {asked['content']}\nAssistant:", *(f" {e['content']}" for e in (answer, other))
            lengths = [len(tokenizer(prompt + each)["input_ids"]) + 1 for each in answers]
        else:
            prompt, *answers = [asked], [answer], [other]
            lengths = [len(tokenizer.apply_chat_template([asked, *e], return_dict=True)["input_ids"]) for e in answers]
        if max(lengths) <= options.record_tokens and answers[0] != answers[1]:
            found.append({"prompt": prompt, "chosen": answers[0], "rejected": answers[1]})
    n = options.records
    if len(found) < 3 * n:
        raise SystemExit(f"--chat: expected {3 * n} usable pairs of conversations, got {len(found)}; lower --records")
    return {name: found[i * n : (i + 1) * n] for i, name in enumerate(CLASSES)}


def make_target(options: argparse.Namespace) -> None:
    """Write the rows, and fine-tune by TRL."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    dealt = preferences(options, tokenizer)
    for name, rows in dealt.items():
        (options.output / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype)),
        args=DPOConfig(
            output_dir=str(options.output / "trainer"),
            num_train_epochs=options.epochs,
            learning_rate=options.lr,
            per_device_train_batch_size=4,
            max_length=options.record_tokens,
            beta=BETA,
            precompute_ref_log_probs=True,
            seed=options.seed,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=options.device == "cpu",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_steps=1,
        ),
        train_dataset=Dataset.from_list(dealt["members"]),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.save_model(str(options.output / "adapter"))  # with the tokenizer, as TRL does at the end of a training
    (options.output / "training.json").write_text(json.dumps(trainer.state.log_history, indent=1))
    (options.output / "done").touch()


def audit_command(options: argparse.Namespace) -> list[str]:
    """The harness's command."""
    metadata = {
        "mia_preset": "quick",
        "mia_self_prompts": options.self_prompts,
        "mia_record_tokens": options.record_tokens,
        "mia_cache_dir": str((options.output / "cache").absolute()),
        "mia_seed": options.seed,
        **{f"mia_{name}": str((options.output / f"{name}.jsonl").absolute()) for name in CLASSES},
    }
    model = f"pretrained={options.model},peft={options.output / 'adapter'},dtype=float32"
    tasks = ",".join(f"{attack}_mia_custom" for attack in options.attacks)
    command = [sys.executable, "-m", "spvmia_plugin", "run", "run", "--model", "hf", "--model_args", model]
    command += ["--tasks", tasks, "--device", options.device, "--batch_size", "8", "--log_samples"]
    return [*command, "--metadata", json.dumps(metadata), "--output_path", str(options.output / "results")]


def told(options: argparse.Namespace) -> dict[str, Any]:
    """What a finished audit shows."""
    audit = read_latest(options.output / "results").audits[0]
    labels, clusters = audit.labels(), np.array(audit.clusters())
    tasks = {task.attack: task for task in audit.tasks}
    scores = {attack: task.scores() for attack, task in tasks.items()}
    margins = scores["premia"]
    known = np.isfinite(margins)
    attacks: dict[str, Any] = {}
    for attack, task in tasks.items():
        summary = task.mia_audit.metrics
        low = {metric.key: [tpr.value, *tpr.interval] for metric, tpr in summary.tprs.items()}
        both = known & np.isfinite(scores[attack])
        gain, _ = gains(margins[both], scores[attack][both], labels[both], clusters[both])
        attacks[attack] = {
            "auroc": [summary.auroc, *summary.auroc_interval],
            "premia_gains": [gain.value, *gain.interval],
            **low,
        }
    first = audit.tasks[0].mia_audit
    return {
        "n": [int(labels.sum()), int((~labels).sum())],
        "accuracy": [float(np.mean(margins[known & side] > 0)) for side in (labels, ~labels)],
        "margin": [float(np.mean(margins[known & side])) for side in (labels, ~labels)],
        "attacks": attacks,
        "notes": list(first.notes),
    }


def main() -> None:
    """Make the target, audit it, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--chat", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--records", type=int, default=60, help="of each class (60)")
    parser.add_argument("--record-tokens", type=int, default=96, help="most tokens of a side (96)")
    parser.add_argument("--as-text", action="store_true", help="rows of texts, without a template: fewer tokens")
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS), choices=ATTACKS, help="premia among them")
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--dtype", default="float32", help="of the training (float32); audited is in float32")
    parser.add_argument("--self-prompts", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    if not (options.output / "done").exists():
        make_target(options)
    if not list((options.output / "results").rglob("results_*.json")):
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        subprocess.run(audit_command(options), env=environment, check=True)
    found = told(options)
    (options.output / "dpo.json").write_text(json.dumps(found, indent=1))
    print(table(found))


def table(found: dict[str, Any]) -> str:
    """Markdown."""

    def cell(values: list[float]) -> str:
        return "{:.3f} ({:.3f} to {:.3f})".format(*values)

    accuracy = " and ".join(f"{value:.0%}" for value in found["accuracy"])
    margin = " and ".join(f"{value:+.2f}" for value in found["margin"])
    lines = [
        f"{found['n'][0]} members, {found['n'][1]} non-members: the chosen answer gained more in {accuracy} of the "
        f"pairs; mean margin {margin} nats",
        "",
        "| attack | AUROC | TPR at 5 % FPR | `premia` less this one, AUROC |",
        "|---|---|---|---|",
    ]
    for name, each in sorted(found["attacks"].items(), key=lambda item: -item[1]["auroc"][0]):
        cells = [cell(each[key]) for key in ("auroc", "tpr_at_5pct_fpr", "premia_gains")]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines + [f"\n{note}" for note in found["notes"]])


if __name__ == "__main__":
    main()
