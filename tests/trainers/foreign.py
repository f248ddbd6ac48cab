"""A training in somebody else's environment: `python foreign.py FOLDER plain|trl`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # for tests.tiny; the package comes from the environment


def prepare(folder: Path) -> None:
    """A tiny model, 30 members and 60 others."""
    from tests.tiny import save_tiny, tiny_texts

    save_tiny(folder / "base")
    texts = tiny_texts(90, seed=3, words=(5, 30))
    for name, part in (("nonmembers", texts[30:]), ("members", texts[:30])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in part))


def main(folder: Path, kind: str) -> None:
    os.environ |= {"XDG_CACHE_HOME": str(folder / "cache"), "XDG_DATA_HOME": str(folder / "data")}
    from spvmia_plugin import MembershipManifest

    base = folder / "base"
    if not (folder / "members.jsonl").exists():
        prepare(folder)
    texts = [json.loads(line)["text"] for line in (folder / "members.jsonl").read_text().splitlines()]
    callback = MembershipManifest(folder / "members.jsonl", folder / "nonmembers.jsonl", strict=True)
    common = {"output_dir": str(folder / "out"), "num_train_epochs": 1, "use_cpu": True, "report_to": "none"}
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    if kind == "trl":
        from datasets import Dataset
        from peft import LoraConfig
        from trl import SFTConfig, SFTTrainer

        trainer = SFTTrainer(
            model=str(base),
            args=SFTConfig(**common, max_length=64, bf16=False, save_strategy="epoch"),
            processing_class=tokenizer,
            train_dataset=Dataset.from_list([{"text": text} for text in texts]),
            peft_config=LoraConfig(r=4, target_modules="all-linear"),
            callbacks=[callback],
        )
    else:
        from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

        trainer = Trainer(
            model=AutoModelForCausalLM.from_pretrained(base),
            args=TrainingArguments(**common, save_strategy="epoch"),
            train_dataset=[dict(tokenizer(text)) for text in texts],
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
            processing_class=tokenizer,
            callbacks=[callback],
        )
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
