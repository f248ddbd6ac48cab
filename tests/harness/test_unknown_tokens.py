"""A [PAD] that was added to the tokenizer alone: the model has no embedding for it, and texts may hold it."""

from __future__ import annotations

import json

import pytest

from tests.harness.conftest import TASKS, write_jsonl
from tests.tiny import save_tiny, tiny_texts

REASON = "the record uses tokens that the target does not have"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_texts_with_a_token_that_has_no_embedding(tmp_path):
    import lm_eval
    from lm_eval.tasks import TaskManager
    from transformers import AutoTokenizer

    for name, seed in (("base", 0), ("target", 3)):
        save_tiny(tmp_path / name, seed=seed)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / name)
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        tokenizer.save_pretrained(tmp_path / name)
    texts = tiny_texts(90, seed=7)
    members, prompts = texts[:20], texts[60:90]
    members[3] += " [PAD] more"
    prompts[0], prompts[5] = f"[PAD] {prompts[0]}", f"x [PAD] {prompts[5]}"
    options = {
        "mia_members": write_jsonl(tmp_path / "members.jsonl", members),
        "mia_nonmembers": write_jsonl(tmp_path / "nonmembers.jsonl", texts[20:40]),
        "mia_prompts": write_jsonl(tmp_path / "prompts.jsonl", prompts),
        "mia_candidate": write_jsonl(tmp_path / "candidate.jsonl", [*texts[40:60], "a [PAD] candidate text"]),
        "mia_block_size": 0,
        "mia_preset": "quick",
        "mia_self_prompts": 20,
        "mia_reference_epochs": 1,
        "mia_base_model": str(tmp_path / "base"),
        "mia_cache_dir": str(tmp_path / "cache"),
    }
    arguments = {"pretrained": str(tmp_path / "target"), "dtype": "float32"}
    manager = TaskManager(include_path=str(TASKS), metadata={**arguments, **options}, include_defaults=False)
    result = lm_eval.simple_evaluate(
        model="hf", model_args=arguments, tasks=["mia_custom"], task_manager=manager, metadata=options, device="cpu",
        batch_size=4, log_samples=True,
    )  # fmt: skip
    for task, samples in result["samples"].items():
        answers = {row["doc"]["id"]: json.loads(row["resps"][0][0]) for row in samples}
        # `surrogate` does not show the target the record; its reference is of the same base.
        reason = REASON.replace("target", "reference") if task.startswith("surrogate") else REASON
        assert answers["members.jsonl:4"]["reason"] == (None if task.startswith("bag_of_words") else reason), task
        others = [answer["reason"] for key, answer in answers.items() if key != "members.jsonl:4"]
        # A record of half the context and a probe as long as it do not fit together.
        beyond = {"record and probe exceed the model's context"} if task.startswith("icp") else set()
        assert set(others) - beyond == {None}, (task, set(others))
