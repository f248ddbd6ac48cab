"""What `mia_preset=quick` costs beside the `quick` before it: one target, one run, stage by stage, with the AUROCs.

    python benchmarks/reference_cost.py --texts ag_news.jsonl [--target DIR] [--before CHECKOUT]

Audits of one target in turn, each in a process of its own with a store of its own: with the settings that `quick` had
before, then with those of today, with the self-prompted reference alone and with the candidate reference besides.
`--before` runs the first with the code of another checkout. Another round is another `mia_seed`: other self-prompts,
another reference, other paraphrases. Without `--target` one is made first, by the recipe of docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
from common import Ratio, Report

CHECKOUT = Path(__file__).resolve().parents[1]
BEFORE, ONE, BOTH = "before, self-prompted reference", "quick, self-prompted reference", "quick, both references"
QUICK_BEFORE: Mapping[str, object] = {
    "mia_self_prompts": 250,
    "mia_reference_epochs": 3,
    "mia_reference_lr": 2e-4,
    "mia_reference_batch": 8,
    "mia_lora_rank": 16,
    "mia_lora_alpha": 32,
    "mia_lora_dropout": 0.0,
    "mia_lora_targets": "all-linear",
    "mia_perturbation": "causal",
    "mia_perturbations": 2,
}
ATTACKS = (
    *("spv", "spv_ez", "spv_wbc", "loss", "neighbour", "detectgpt", "min_k", "min_k_pp", "lira_base"),
    *("zlib", "lowercase", "ratio", "ez", "wbc", "recall", "rmia", "bag_of_words"),
)
"""What an audit without a candidate reference had when `quick` was changed."""
OF_CANDIDATE = ("lira_candidate", "candidate_ez", "candidate_wbc", "both_wbc")
JUDGED = "spv_wbc"
SMALL: Mapping[str, object] = {"mia_self_prompts": 24, "mia_prompt_tokens": 8, "mia_reference_lr": 5e-3}
"""With `--small`, on every side."""


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    options = read_options(arguments)
    if options.child:
        return run_child(options)
    sides: dict[str, tuple[Path, Mapping[str, object], tuple[str, ...]]] = {
        BEFORE: (options.before, QUICK_BEFORE, ATTACKS),
        ONE: (CHECKOUT, {"mia_preset": "quick"}, ATTACKS),
        BOTH: (CHECKOUT, {"mia_preset": "quick"}, (*ATTACKS, *OF_CANDIDATE)),
    }
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        model = common.prepared(options, work)
        target = options.target or make_target(options, model, work)
        for round_ in range(options.rounds):
            for side in list(sides) if round_ % 2 == 0 else reversed(sides):
                checkout, settings, attacks = sides[side]
                settings = {**settings, **(SMALL if options.small else {}), "mia_seed": options.seed + round_}
                found[side].append(in_child(options, checkout, model, target, settings, attacks, work))
    return report(options, found).tell(options)


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = common.parser(__doc__ or "", rounds=1)
    parser.add_argument("--target", type=Path, help="folder that 'spvmia finetune' wrote, of --model")
    parser.add_argument("--before", type=Path, default=CHECKOUT, help="checkout whose code the first audit runs")
    parser.add_argument(
        "--seed", type=int, default=0, help="mia_seed of the first round, and of the target that is made"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.set_defaults(clock="cpu")
    return parser.parse_args(arguments)


def make_target(options: argparse.Namespace, model: Path, work: Path) -> Path:
    """Fine-tune by the recipe of docs/results.md, or of its protocol `tiny`."""
    sys.path.insert(0, str(CHECKOUT))
    from benchmarks.paper.settings import PROTOCOLS

    texts = options.texts
    if texts is None:
        texts = work / "texts.jsonl"
        made = common.made_up_texts(1000, words=60)
        texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in made), encoding="utf-8")
    recipe = PROTOCOLS["tiny" if options.small else "cpu"].finetune
    words = [word for name, value in recipe.items() for word in (f"--{name}", str(value))]
    where = ["--model", str(model), "--data", str(texts), "--output", str(work / "target"), "--seed", str(options.seed)]
    subprocess.run([sys.executable, "-m", "spvmia_plugin", "finetune", *where, *words], check=True, env=_with(CHECKOUT))
    return work / "target"


def in_child(
    options: argparse.Namespace,
    checkout: Path,
    model: Path,
    target: Path,
    settings: Mapping[str, object],
    attacks: tuple[str, ...],
    work: Path,
) -> dict[str, Any]:
    """One audit in a process of its own."""
    with tempfile.TemporaryDirectory(dir=work) as store:
        asked = {"settings": settings, "attacks": attacks, "target": str(target), "store": store}
        words = [
            sys.executable,
            __file__,
            "--child",
            json.dumps(asked),
            "--model",
            str(model),
            "--clock",
            options.clock,
        ]
        words += ["--dtype", options.dtype, "--device", options.device]
        words += ["--threads", str(options.threads)] if options.threads else []
        done = subprocess.run(words, check=True, env=_with(checkout), stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _with(checkout: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"}


def run_child(options: argparse.Namespace) -> dict[str, Any]:
    """Audit once; the last line printed has the seconds by stage and the AUROCs."""
    from audits import Stages, audit, load_lm

    from spvmia_plugin.config import AuditConfig
    from spvmia_plugin.data.load import load_audit_data
    from spvmia_plugin.metrics.roc import auroc
    from spvmia_plugin.models.hf_backend import HFBackend
    from spvmia_plugin.plugins import load_registry

    asked = json.loads(options.child)
    model = common.prepared(options, Path(asked["store"]))
    registry = load_registry(entry_points=False)
    config = AuditConfig.from_metadata(asked["settings"])
    lm = load_lm(model, Path(asked["target"]), options.dtype, options.device)
    data = load_audit_data(
        config, "custom", registry=registry, tokenizer=lambda: lm.tokenizer, target_dirs=[Path(asked["target"])]
    )
    config = replace(config, block_size=data.block_size)
    backend = HFBackend(lm, config, str(model))
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    stages, whole = Stages(clock=clock), Stages(clock=clock)
    stages.watch(backend)
    with whole.stage("all"):
        outcome = audit(data, config, asked["attacks"], backend, Path(asked["store"]), registry)
    backend.close()
    members = [record.is_member for record in data.records]
    aurocs = {}
    for task, results in outcome.results.items():
        scores = [results[record.id].score for record in data.records]
        if None not in scores:
            aurocs[task.removesuffix("_mia_custom")] = float(auroc(scores, members))
    rest = whole.seconds["all"] - sum(stages.seconds.values())
    found = {"seconds": {**stages.seconds, "rest": rest}, "auroc": aurocs}
    print(json.dumps(found))
    return found


def report(options: argparse.Namespace, found: Mapping[str, list[dict[str, Any]]]) -> Report:
    whole = {side: [sum(round_["seconds"].values()) for round_ in rounds] for side, rounds in found.items()}
    measured: dict[str, Any] = {
        f"{side}: {stage}": [round_["seconds"][stage] for round_ in rounds]
        for side, rounds in found.items()
        for stage in rounds[0]["seconds"]
    }
    measured |= whole
    measured["auroc"] = {side: [round_["auroc"] for round_ in rounds] for side, rounds in found.items()}
    ratios = [
        Ratio.of("quick / before, self-prompted reference alone", whole[ONE], whole[BEFORE], at_most=2 / 3),
        Ratio.of("quick with both references / before", whole[BOTH], whole[BEFORE], at_most=1.0),
    ]
    for stage in ("self-prompting", "training", "paraphrases", "scoring"):
        over, under = ([round_["seconds"][stage] for round_ in found[side]] for side in (ONE, BEFORE))
        ratios.append(Ratio.of(f"quick / before, {stage}", over, under))
    for attack in found[BEFORE][0]["auroc"]:
        pairs = zip(found[ONE], found[BEFORE], strict=True)
        less = tuple(new["auroc"][attack] - old["auroc"][attack] for new, old in pairs)
        limit = {"at_least": -0.005} if attack == JUDGED else {}
        ratios.append(Ratio(f"AUROC of {attack}, quick less before", less, **limit))
    sizes = {"rounds": options.rounds, "seed": options.seed, "clock": options.clock, "dtype": options.dtype}
    return Report("reference_cost", sizes, measured, ratios)


if __name__ == "__main__":
    main()
