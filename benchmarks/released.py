"""The structure of the code published with SPV-MIA, written anew to be measured.

The code: github.com/tsinghua-fib-lab/ANeurIPS2024_SPV-MIA.

What makes its cost, as it stands there:

- Self-prompting: one prompt at a time, the first 16 tokens of a block, `generate` up to the block's length with
  `use_cache` false in the model's config, then one more forward pass whose loss is printed.
- Training: the texts are tokenised again, padded, batch 4, without their remainder; every hundredth step an evaluation
  on the validation blocks (batch 8) and a checkpoint that is kept. 10,000 self-prompts, 1000 validation blocks: 50
  evaluations a run, each of a tenth as many blocks as it trains on.
- Scoring: batch size 1. The record, then its paraphrases, each alone through the target and the reference, which are
  two models in memory; the loss is the one that transformers computes.

Not measured: loading, and its paraphrases (one T5 generation for each): they are given.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, Trainer, TrainingArguments

EVALUATIONS = 50
"""Evaluations of a training run: 5000 steps, one every 100."""


def self_prompt(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], length: int, *, greedy: bool = False
) -> list[str]:
    """Continue each prompt to `length` tokens, one at a time, reading everything again for every token."""
    model.eval()
    texts = []
    for prompt in prompts:
        ids = torch.tensor([list(prompt)], device=model.device)
        with torch.no_grad():
            written = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=not greedy,
                top_k=0,  # theirs leaves generate's default, 50: nothing is cut off here, as in ours beside it
                top_p=1.0,
                temperature=1.0,
                max_length=length,
                use_cache=False,
                pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
            )
            float(model(written, labels=written, use_cache=False).loss)
        texts.extend(tokenizer.batch_decode(written))
    return texts


def train(
    base: Any, tokenizer: Any, texts: Sequence[str], validation: Sequence[str], length: int, folder: Path, **lora: Any
) -> tuple[Any, dict[str, float]]:
    """Fine-tune a LoRA adapter on `texts`, 2 epochs at 5e-5.

    Args:
        base: the model before fine-tuning; it is wrapped.
        tokenizer: its tokenizer.
        texts: what to train on.
        validation: what to evaluate on, `EVALUATIONS` times.
        length: tokens a text is cut to.
        folder: for checkpoints.
        **lora: settings of the adapter other than the released ones.

    Returns:
        The reference, and the seconds of training and of evaluation in it.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(**{"task_type": "CAUSAL_LM", "r": 64, "lora_alpha": 16, "lora_dropout": 0.1, **lora})
    model = get_peft_model(base, config)
    steps = max(1, 2 * (len(texts) // 4))
    every = max(1, steps // EVALUATIONS)
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=2,
        learning_rate=5e-5,
        lr_scheduler_type="linear",
        adam_epsilon=1e-6,
        weight_decay=0.0,
        per_device_train_batch_size=4,
        per_device_eval_batch_size=8,
        dataloader_drop_last=True,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=every,
        save_steps=max(100, every),
        logging_steps=100,
        report_to="none",
        disable_tqdm=True,
        use_cpu=base.device.type == "cpu",
    )
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=_tokenised(tokenizer, texts, length),
        eval_dataset=_tokenised(tokenizer, validation, length),
        data_collator=_Padding(tokenizer.pad_token_id or tokenizer.eos_token_id),
    )
    trainer.remove_callback(PrinterCallback)
    started = time.perf_counter()
    trainer.train()
    total = time.perf_counter() - started
    return model.eval(), {"training": total - trainer.evaluating, "evaluation": trainer.evaluating}


class _Trainer(Trainer):
    """Says nothing, and counts the seconds it evaluates."""

    evaluating = 0.0

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        started = time.perf_counter()
        found = super().evaluate(*args, **kwargs)
        self.evaluating += time.perf_counter() - started
        return found

    def log(self, *args: Any, **kwargs: Any) -> None:
        return


def _tokenised(tokenizer: Any, texts: Sequence[str], length: int) -> list[dict[str, list[int]]]:
    return [{"input_ids": tokenizer(text, truncation=True, max_length=length)["input_ids"]} for text in texts]


class _Padding:
    """Right padding; what is padded has no label."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        width = max(len(row["input_ids"]) for row in rows)
        ids = torch.tensor([row["input_ids"] + [self.pad_id] * (width - len(row["input_ids"])) for row in rows])
        lengths = torch.tensor([[len(row["input_ids"])] for row in rows])
        mask = torch.arange(width)[None] < lengths
        return {"input_ids": ids, "attention_mask": mask.long(), "labels": ids.masked_fill(~mask, -100)}


def loss(model: Any, token_ids: Sequence[int]) -> float:
    """Mean negative log-likelihood of one sequence, by itself, as transformers computes it.

    Args:
        model: a causal language model in evaluation mode.
        token_ids: what it reads; the first has nothing before it and no loss.
    """
    ids = torch.tensor([list(token_ids)], device=model.device)
    with torch.no_grad():
        return float(model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss.float())


def score(
    target: Any,
    reference: Any,
    records: Sequence[Sequence[int]],
    paraphrases: Sequence[Sequence[Sequence[int]]],
) -> np.ndarray:
    """Calibrated probabilistic variation of every record, higher = member: one forward pass for each text and model.

    Args:
        target: the model under audit.
        reference: the self-prompt reference.
        records: tokens of each record.
        paraphrases: for each record the tokens of its paraphrases.
    """
    originals = np.array([[loss(m, ids) for m in (target, reference)] for ids in records])  # (n, 2)
    rounds = [
        [[loss(m, texts[k]) for m in (target, reference)] for texts in paraphrases] for k in range(len(paraphrases[0]))
    ]
    varied = np.exp(-np.array(rounds)).mean(0)  # (n, 2), mean over the paraphrases
    variation = np.exp(-originals) - varied
    return variation[:, 0] - variation[:, 1]
