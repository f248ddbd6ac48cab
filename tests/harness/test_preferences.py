"""A whole audit of preferences through the harness, on a tiny model: premia is the margin that a DPO raises."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import tiny_texts

from .test_conversations import scores, write

TASKS = [f"{attack}_mia_custom" for attack in ("premia", "loss", "lira_base", "wbc", "spv_wbc", "candidate_wbc")]


def preferences(n, seed):
    texts = iter(tiny_texts(3 * n, seed=seed, words=(3, 9)))
    rows = []
    for _ in range(n):
        said = [{"role": role, "content": next(texts)} for role in ("user", "assistant", "assistant")]
        rows.append({"prompt": said[:1], "chosen": said[1:2], "rejected": said[2:]})
    return rows


@pytest.fixture(scope="module")
def pairs(options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    rows = preferences(100, seed=5)
    rows[3]["rejected"] = rows[3]["chosen"]
    files = {
        "mia_members": write(folder / "members.jsonl", rows[:30]),
        "mia_nonmembers": write(folder / "nonmembers.jsonl", rows[30:60]),
        "mia_prompts": write(folder / "prompts.jsonl", rows[60:]),
    }
    kept = {key: value for key, value in options.items() if key not in (*files, "mia_block_size")}
    return {**kept, **files, "mia_record_tokens": 100, "mia_cache_dir": str(folder / "cache")}


def gains(chatty, adapter, prompt, answer):
    """log p of an answer given the prompt, under the target less under the base."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from spvmia_plugin.util.libraries import quiet_libraries

    tokenizer = AutoTokenizer.from_pretrained(chatty)
    opening = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
    ids = tokenizer.apply_chat_template(prompt + answer, return_dict=True)["input_ids"]
    start = next(i for i, (one, other) in enumerate(zip([*opening, None], ids, strict=False)) if one != other)
    found = []
    with quiet_libraries(), torch.inference_mode():
        base, other = (AutoModelForCausalLM.from_pretrained(chatty) for _ in range(2))
        for model in (base, PeftModel.from_pretrained(other, adapter)):
            logits = model.eval()(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
            found.append(logits.gather(-1, torch.tensor(ids[1:])[:, None])[start - 1 :, 0].sum().item())
    return found[1] - found[0]


def test_an_audit_of_preferences(evaluate, chatty, adapter, pairs, capsys):
    result = evaluate(TASKS, pairs, model_args={"pretrained": str(chatty)})
    assert "(preference, the answers alone scored)" in capsys.readouterr().err
    rows = [json.loads(line) for line in Path(pairs["mia_members"]).read_text().splitlines()]
    found = scores(result, "premia_mia_custom")
    for number, row in list(enumerate(rows, start=1))[:8]:
        told = found[f"members.jsonl:{number}"]
        if number == 4:
            assert told["score"] is None
            assert told["reason"] == "the chosen and the rejected answer are the same"
            continue
        chosen, rejected = (gains(chatty, adapter, row["prompt"], row[side]) for side in ("chosen", "rejected"))
        assert told["score"] == pytest.approx(chosen - rejected, abs=1e-4)
        of_chosen = scores(result, "lira_base_mia_custom")[f"members.jsonl:{number}"]
        assert of_chosen["score"] * of_chosen["n_tokens"] == pytest.approx(chosen, abs=1e-4)
        assert told["n_tokens"] == of_chosen["n_tokens"]
    for task in TASKS[1:]:
        assert all(np.isfinite(each["score"]) for each in scores(result, task).values())
    audit = result["configs"]["premia_mia_custom"]["metadata"]["mia_audit"]
    assert audit["scored"]["format"] == "preference"
    assert "other" not in audit["scored"]
    assert audit["unscored"] == {"the chosen and the rejected answer are the same": 1}
    assert not any("premia" in note for note in audit["notes"])


def test_of_rows_without_a_rejected_answer_premia_says_why(evaluate, chatty, pairs, tmp_path):
    files = {}
    for name in ("members", "nonmembers", "prompts"):
        rows = [json.loads(line) for line in Path(pairs[f"mia_{name}"]).read_text().splitlines()]
        kept = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
        files[f"mia_{name}"] = write(tmp_path / f"{name}.jsonl", kept)
    result = evaluate(TASKS[:2], {**pairs, **files}, model_args={"pretrained": str(chatty)})
    reasons = {each["reason"] for each in scores(result, TASKS[0]).values()}
    assert reasons == {"no preference: the row has no rejected answer"}
    assert np.isnan(result["results"][TASKS[0]]["auroc,none"])
    assert np.isfinite(result["results"][TASKS[1]]["auroc,none"])


def test_an_audit_without_premia_names_it(evaluate, chatty, pairs):
    result = evaluate(TASKS[1:2], pairs, model_args={"pretrained": str(chatty)})
    notes = result["configs"][TASKS[1]]["metadata"]["mia_audit"]["notes"]
    assert "the rows are preferences, and no attack looks at the rejected answers: premia_mia_custom does" in notes
