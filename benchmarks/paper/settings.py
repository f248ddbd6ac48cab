"""Everything the experiment is made of, in tables: protocols, strengths, attacks, ablations. Change it here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

BASELINES = ("loss", "neighbour", "detectgpt", "min_k", "min_k_pp", "lira_base", "lira_candidate")
"""The baselines of the paper."""
ATTACKS = (
    "spv",
    "spv_ez",
    "spv_wbc",
    *BASELINES,
    "zlib",
    "lowercase",
    "ratio",
    "ez",
    "wbc",
    "recall",
    "rmia",
    "bag_of_words",
)
"""Every attack of a main cell, in the order of the tables."""
BLIND = "bag_of_words"
CALIBRATED = ("spv", "spv_ez", "spv_wbc")
PARAPHRASED = ("spv", "neighbour", "detectgpt")
CORE = ("spv", "spv_ez", "spv_wbc", "loss", "min_k_pp", "lira_base", "ez", "wbc")
"""What is worth its time where every setting needs a target of its own."""
MAIN_ATTACKS = ("spv", "spv_ez", "spv_wbc", "loss", "neighbour", "min_k_pp", "lira_base", "lira_candidate", "ez", "wbc")
"""The lines of the figures."""


@dataclass(frozen=True)
class Protocol:
    """How targets are made and audited.

    Attributes:
        finetune: options of `spvmia finetune`, without dashes.
        strengths: what a strength changes of them.
        audit: `mia_*` options.
    """

    finetune: Mapping[str, object]
    strengths: Mapping[str, Mapping[str, object]]
    audit: Mapping[str, object]


QUICK_BEFORE: Mapping[str, object] = {
    "mia_preset": "quick",
    "mia_reference_epochs": 3,
    "mia_reference_lr": 2e-4,
    "mia_perturbations": 2,
    "mia_perturbation": "causal",
}
"""`quick` as it was when the cells were begun: what it is today costs less (benchmarks/reference_cost.py)."""

# What a CPU can do in an hour a cell. Strength is how often a record is seen; the loss attack's AUROC, which is
# what compares with other work, is measured and stands in the tables.
_CPU = Protocol(
    finetune={
        "members": 250,
        "nonmembers": 250,
        "prompts": 250,
        "block-size": 64,
        "epochs": 3,
        "lr": 2e-4,
        "lora-rank": 16,
        "lora-alpha": 32,
        "lora-dropout": 0,
        "lora-targets": "all-linear",
        "batch-size": 8,
    },
    strengths={"light": {"epochs": 2}, "medium": {"epochs": 3}, "heavy": {"epochs": 6}},
    audit=QUICK_BEFORE,
)

PROTOCOLS = {
    "cpu": _CPU,
    # The paper's own (section 5.1 and the released code), as far as a data file goes; paraphrases of the base model
    # itself unless `--mask-model` names a T5. Members are set by `--members`.
    "paper": Protocol(
        finetune={
            "members": 10_000,
            "nonmembers": 1000,
            "prompts": 10_000,
            "block-size": 128,
            "epochs": 10,
            "lr": 1e-4,
            "lora-rank": 64,
            "lora-alpha": 16,
            "lora-dropout": 0.1,
            "batch-size": 4,
        },
        strengths={"light": {"epochs": 3}, "medium": {"epochs": 10}, "heavy": {"epochs": 20}},
        audit={"mia_preset": "paper", "mia_perturbation": "causal"},
    ),
    # A minute a setting, on the small base that `--pretrain` makes. At this rate it learns in as many steps
    # what SmolLM2 learns at that of `cpu`: the loss attack says so.
    "small": Protocol(
        finetune={**_CPU.finetune, "lr": 2e-3},
        strengths=_CPU.strengths,
        audit={**_CPU.audit, "mia_reference_lr": 2e-3},
    ),
    # Seconds, on a tiny model: to try the scripts themselves.
    "tiny": Protocol(
        finetune={
            "members": 24,
            "nonmembers": 24,
            "prompts": 24,
            "block-size": 24,
            "epochs": 6,
            "lr": 5e-3,
            "lora-rank": 8,
            "lora-alpha": 16,
            "lora-dropout": 0,
            "lora-targets": "all-linear",
            "batch-size": 8,
        },
        strengths={"light": {"epochs": 2}, "medium": {"epochs": 6}, "heavy": {"epochs": 12}},
        audit={
            "mia_preset": "quick",
            "mia_self_prompts": 24,
            "mia_prompt_tokens": 8,
            "mia_reference_epochs": 2,
            "mia_reference_lr": 5e-3,
            "mia_lora_rank": 8,
            "mia_perturbations": 1,
        },
    ),
}


@dataclass(frozen=True)
class Change:
    """What one setting of an ablation changes of the main cell.

    Attributes:
        finetune: options of `spvmia finetune`.
        audit: `mia_*` options.
        lr_times: the target's learning rate, in multiples of the main cell's.
        reference_lr_times: the reference's, likewise.
        bits: of the audited model's weights, 8 or 4; 0 leaves them as they are.
        reference: other true data that a reference is fine-tuned on: `same` (the oracle) or `other` data set.
        prompts: where prompts come from: `other`, `irrelevant`, `none`.
        peft: prompt-tuning kinds that `spvmia finetune` does not make: `prefix`, `p-tuning`, `ia3`.
        needs: what it takes to run: an option, `--other` or `--mask-model`, or a package, `bitsandbytes`.
    """

    finetune: Mapping[str, object] = field(default_factory=dict)
    audit: Mapping[str, object] = field(default_factory=dict)
    lr_times: float = 1
    reference_lr_times: float = 1
    bits: int = 0
    reference: str = ""
    prompts: str = ""
    peft: str = ""
    needs: str = ""


@dataclass(frozen=True)
class Ablation:
    """One question.

    Attributes:
        question: in words, the heading of its table.
        attacks: those it can change.
        settings: by name. One that changes nothing of a main cell is read from there: see `cells.canonical`.
    """

    question: str
    attacks: tuple[str, ...]
    settings: Mapping[str, Change]


def _audit(key: str, *values: float, **more: object) -> dict[str, Change]:
    return {f"{value:g}": Change(audit={key: value, **more}) for value in values}


_SEEN = 750
"""Texts that the reference of a main cell sees: 250 self-prompts in 3 epochs."""

ABLATIONS = {
    "calibration": Ablation(
        "What the difference is taken to: the self-prompted reference, the base, true data of another set, or of the "
        "same set (the oracle)",
        CALIBRATED,
        {
            "self-prompt": Change(),
            "base": Change(audit={"mia_reference": "base"}),
            "candidate": Change(reference="other", needs="--other"),
            "oracle": Change(reference="same"),
        },
    ),
    "self_prompts": Ablation(
        "How many self-prompts",
        CALIBRATED,
        {str(n): Change(audit={"mia_self_prompts": n}) for n in (50, 100, 250, 500, 1000, 2000, 5000, 10_000)},
    ),
    "self_prompts_equal_steps": Ablation(
        "How many self-prompts, the reference trained for as many steps on all of them",
        CALIBRATED,
        {
            str(n): Change(audit={"mia_self_prompts": n, "mia_reference_epochs": round(_SEEN / n, 3)})
            for n in (125, 250, 500, 1000, 2000)
        },
    ),
    "prompt_length": Ablation(
        "How many tokens a prompt has",
        CALIBRATED,
        {str(n): Change(audit={"mia_prompt_tokens": n}) for n in (1, 2, 4, 8, 16, 32, 48, 64)},
    ),
    "prompt_source": Ablation(
        "Where the prompts come from",
        CALIBRATED,
        {
            "same data": Change(),
            "same domain": Change(prompts="other", needs="--other"),
            "irrelevant": Change(prompts="irrelevant"),
            "none": Change(prompts="none"),
        },
    ),
    "perturbation": Ablation(
        "How paraphrases are made",
        PARAPHRASED,
        {
            "causal": Change(),
            "embedding": Change(audit={"mia_perturbation": "embedding"}),
            "mask_fill": Change(audit={"mia_perturbation": "mask_fill"}, needs="--mask-model"),
        },
    ),
    "pairs": Ablation("Pairs of paraphrases", PARAPHRASED, _audit("mia_perturbations", 1, 2, 3, 5, 10, 20)),
    "rate": Ablation("Share of tokens replaced", PARAPHRASED, _audit("mia_mask_rate", 0.05, 0.1, 0.2, 0.3, 0.5)),
    "noise": Ablation(
        "Noise on the embeddings, in their standard deviations",
        PARAPHRASED,
        _audit("mia_noise", 0.1, 0.3, 1, 3, mia_perturbation="embedding"),
    ),
    "reference_epochs": Ablation("Epochs of the reference", CALIBRATED, _audit("mia_reference_epochs", 1, 2, 3, 4, 6)),
    "reference_lr": Ablation(
        "Learning rate of the reference, in multiples of the main cell's",
        CALIBRATED,
        {f"{times:g}": Change(reference_lr_times=times) for times in (0.25, 0.5, 1, 2, 4)},
    ),
    "reference_rank": Ablation("Rank of the reference", CALIBRATED, _audit("mia_lora_rank", 4, 8, 16, 32, 64)),
    "method": Ablation(
        "How the target was fine-tuned",
        CORE,
        {
            "lora": Change(),
            "full": Change(finetune={"method": "full"}, lr_times=0.15),
            "prefix": Change(peft="prefix", finetune={"lr": 1e-2, "epochs": 10}),
            "p-tuning": Change(peft="p-tuning", finetune={"lr": 1e-2, "epochs": 10}),
            "ia3": Change(peft="ia3", finetune={"lr": 1e-2, "epochs": 10}),
        },
    ),
    "quantisation": Ablation(
        "Weights of the audited model in fewer bits",
        CORE,
        {
            "bfloat16": Change(),
            "8 bits": Change(bits=8, needs="bitsandbytes"),
            "4 bits": Change(bits=4, needs="bitsandbytes"),
        },
    ),
    "times_seen": Ablation(
        "How often each member was seen",
        CORE,
        {str(n): Change(finetune={"epochs": n}) for n in (1, 2, 3, 4, 6, 8, 10)},
    ),
}
"""By the name that `--ablation` takes. `variation` costs nothing and is part of every cell: see `summary.DERIVED`."""
