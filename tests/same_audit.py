"""One small audit with every attack, from fixed seeds alone: the same AUROCs whatever the versions.

    python tests/same_audit.py            # versions and AUROCs as JSON, and what differs from same_audit.json
    python tests/same_audit.py --write    # writes them there

The weights of base and adapter are drawn by NumPy's frozen generator, name by name: neither torch's nor transformers'
way to initialise a model counts. What is left is what a run computes: tokens, signals, sampling, training, scores.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EXPECTED = Path(__file__).with_suffix(".json")
LIBRARIES = ("lm_eval", "torch", "transformers", "peft", "accelerate", "datasets", "huggingface-hub", "numpy", "scipy")
LIBRARIES += ("scikit-learn", "pyarrow", "typer")

MEMBERS = 40
SETTINGS = {
    "mia_block_size": 0,
    "mia_self_prompts": 30,
    "mia_prompt_tokens": 8,
    "mia_reference_epochs": 2,
    "mia_reference_lr": 1e-3,
    "mia_lora_rank": 4,
    "mia_lora_dropout": 0.0,
    "mia_perturbation": "causal",
    "mia_perturbations": 2,
    "mia_seed": 3,
}


def versions() -> dict[str, str]:
    """Python and the libraries that compute."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in LIBRARIES}


def save_models(folder: Path) -> tuple[Path, Path]:
    """Write a tiny base and a LoRA adapter on it, every weight drawn from a fixed seed; return their folders."""
    import numpy as np
    import torch
    from peft import LoraConfig, get_peft_model

    from spvmia_plugin.util.libraries import quiet_libraries
    from tests.tiny import tiny_llama, tiny_tokenizer

    tokenizer = tiny_tokenizer()
    model = tiny_llama(tokenizer)

    def fill(parameters: Any, scale: float, seed: int) -> None:
        for number, (name, weights) in enumerate(sorted(parameters)):
            drawn = np.random.RandomState(1000 * seed + number).standard_normal(tuple(weights.shape))
            weights.data = torch.tensor(1.0 + 0.1 * drawn if "norm" in name else scale * drawn, dtype=torch.float32)

    fill(model.named_parameters(), 0.15, seed=1)
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    tuned = get_peft_model(model, LoraConfig(r=4, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"]))
    fill([(name, weights) for name, weights in tuned.named_parameters() if "lora_" in name], 0.2, seed=2)
    with quiet_libraries():
        tuned.save_pretrained(folder / "adapter")
    return folder / "base", folder / "adapter"


def audit(folder: Path) -> dict[str, float]:
    """Run the audit in `folder` and return the AUROC of every attack, by task."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    from spvmia_plugin.harness.enable import tasks_folder
    from spvmia_plugin.util.libraries import quiet_libraries
    from tests.tiny import tiny_texts

    base, adapter = save_models(folder)
    texts = tiny_texts(2 * MEMBERS + 60, seed=11)
    shares = {"members": texts[:MEMBERS], "nonmembers": texts[MEMBERS : 2 * MEMBERS]}
    shares |= {"prompts": texts[2 * MEMBERS : 2 * MEMBERS + 40], "candidate": texts[2 * MEMBERS + 40 :]}
    options: dict[str, Any] = {**SETTINGS, "mia_cache_dir": str(folder / "cache")}
    for name, share in shares.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in share), encoding="utf-8")
        options[f"mia_{name}"] = str(path)
    arguments = {"pretrained": str(base), "peft": str(adapter), "dtype": "float32"}
    manager = TaskManager(metadata={**arguments, **options}, include_path=str(tasks_folder()), include_defaults=False)
    with quiet_libraries():
        found = lm_eval.simple_evaluate(
            model="hf",
            model_args=arguments,
            tasks=["mia_custom"],
            task_manager=manager,
            metadata={**arguments, **options},
            device="cpu",
            batch_size=8,
        )
    return {name: row["auroc,none"] for name, row in sorted(found["results"].items()) if name != "mia_custom"}


def differences(found: dict[str, float], expected: dict[str, float]) -> dict[str, float]:
    """What differs from the expected AUROCs, by task: how much, beyond the rounding of a written number."""
    moved = {name: found.get(name, float("nan")) - value for name, value in expected.items()}
    return {name: by for name, by in moved.items() if not abs(by) <= 1e-9}


def main() -> int:
    """Run, print, compare; the status is 1 if an AUROC differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write {EXPECTED.name} instead of comparing with it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = audit(Path(folder))
    moved = {} if options.write else differences(found, json.loads(EXPECTED.read_text(encoding="utf-8")))
    print(json.dumps({"versions": versions(), "auroc": found, "differs": moved}, indent=1))
    if options.write:
        EXPECTED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 1 if moved else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
