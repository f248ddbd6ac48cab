"""The whole SPV-MIA audit against the released algorithm: one model, the same records and counts, stage by stage.

    python benchmarks/released_algorithm.py [--model DIR] [--members 40] [--tokens 128]

In the released proportions: as many self-prompts as members, a tenth as many audited records, 10 paraphrases. The
released code's structure is in benchmarks/released.py. Both continue the same prompts, train on as many texts for as
many steps (the released code drops a last incomplete batch), and score the same paraphrases of the same records. Its
paraphrases are given to the released algorithm for nothing; ours are counted.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import common
import released
from audits import Stages, audit, load_lm, make_data
from common import Ratio, Report

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.models.hf_backend import HFBackend
from spvmia_plugin.plugins import load_registry
from spvmia_plugin.records import AuditData
from spvmia_plugin.util.libraries import isolated_rng, quiet_libraries

PARAPHRASES = 10
PROMPT_TOKENS = 16
OURS, THEIRS = "ours", "released"


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    options = read_options(arguments)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        model = common.prepared(options, work)
        adapter = common.lora_target(model, work / "target")
        sides = [OURS, THEIRS]
        seconds: dict[str, list[dict[str, float]]] = {OURS: [], THEIRS: []}
        for round_ in range(options.rounds):
            for side in sides if round_ % 2 == 0 else reversed(sides):
                run = run_ours if side == OURS else run_released
                seconds[side].append(run(options, model, adapter, work / f"{side}-{round_}"))
    return report(options, seconds).tell(options)


def read_options(arguments: list[str] | None) -> Any:
    parser = common.parser(__doc__, rounds=1)
    parser.add_argument("--members", type=int, help="members, and self-prompts (40)")
    parser.add_argument("--tokens", type=int, help="tokens of a text (128)")
    options = parser.parse_args(arguments)
    options.members = options.members or (10 if options.small else 40)
    options.tokens = options.tokens or (32 if options.small else 128)
    options.records = max(2, options.members // 10)
    return options


def settings(options: Any) -> AuditConfig:
    """The paper's protocol, which the defaults are, in these sizes."""
    return AuditConfig.from_metadata(
        {
            "mia_perturbation": "causal",
            "mia_perturbations": PARAPHRASES // 2,
            "mia_self_prompts": options.members,
            "mia_prompt_tokens": PROMPT_TOKENS,
            "mia_block_size": options.tokens,
        }
    )


def prepare(options: Any, model: Path, adapter: Path) -> tuple[HFBackend, AuditData, AuditConfig]:
    config = settings(options)
    backend = HFBackend(load_lm(model, adapter, options.dtype, options.device), config)
    return backend, make_data(backend, options.records, options.members, options.tokens, options.texts), config


def run_ours(options: Any, model: Path, adapter: Path, folder: Path) -> dict[str, float]:
    """Seconds by stage of one audit; loading is not counted."""
    backend, data, config = prepare(options, model, adapter)
    stages, whole = Stages(), Stages()
    stages.watch(backend)
    with whole.stage("all"):
        audit(data, config, ["spv"], backend, folder)
    backend.close()
    rest = whole.seconds["all"] - sum(stages.seconds.values())
    return {**stages.seconds, "rest": rest}


def run_released(options: Any, model: Path, adapter: Path, folder: Path) -> dict[str, float]:
    """Seconds by stage of the released algorithm; loading and paraphrases are not counted."""
    from transformers import AutoModelForCausalLM

    backend, data, config = prepare(options, model, adapter)
    perturbation = load_registry(entry_points=False).perturbation(config)
    found = perturbation.neighbours(data.records, backend)
    records = [backend.encode(record.text) for record in data.records]
    edited = [[v.apply(ids) for v in n.variants] for ids, n in zip(records, found, strict=True)]
    prompts = [backend.encode(document.text)[:PROMPT_TOKENS] for document in data.prompts]
    validation = [document.text for document in data.prompts[: options.records]]
    target, tokenizer = backend._roles.target, backend._tokens.tokenizer
    base = AutoModelForCausalLM.from_pretrained(model, dtype=options.dtype).to(options.device)
    stages = Stages()
    with isolated_rng(0), quiet_libraries():
        with stages.stage("self-prompting"):
            texts = released.self_prompt(target, tokenizer, prompts, options.tokens)
        reference, spent = released.train(base, tokenizer, texts, validation, options.tokens, folder)
        stages.seconds.update(spent)
        with stages.stage("scoring"):
            released.score(target, reference, records, edited)
    return stages.seconds


def report(options: Any, seconds: dict[str, list[dict[str, float]]]) -> Report:
    sizes = {"members": options.members, "records": options.records, "tokens": options.tokens, "rounds": options.rounds}
    measured = {
        f"{side}: {stage}": [round_[stage] for round_ in rounds]
        for side, rounds in seconds.items()
        for stage in rounds[0]
    }
    whole = {side: [sum(round_.values()) for round_ in rounds] for side, rounds in seconds.items()}
    without = [sum(v for k, v in round_.items() if k != "evaluation") for round_ in seconds[THEIRS]]
    ratios = [
        Ratio.of("released / ours, the whole audit", whole[THEIRS], whole[OURS], at_least=5.0),
        Ratio.of("the same, its evaluations while training not counted", without, whole[OURS]),
    ]
    for stage in ("self-prompting", "training", "scoring"):
        over, under = ([round_[stage] for round_ in seconds[side]] for side in (THEIRS, OURS))
        ratios.append(Ratio.of(f"released / ours, {stage}", over, under))
    return Report("released_algorithm", {**sizes, "dtype": options.dtype}, {**measured, **whole}, ratios)


if __name__ == "__main__":
    main()
