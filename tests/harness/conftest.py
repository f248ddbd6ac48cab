"""A tiny base, a LoRA target, private files, and two tasks of somebody else: enough for real runs of the harness."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from spvmia_plugin.harness.enable import tasks_folder
from tests.tiny import save_tiny, tiny_texts

TASKS = tasks_folder()
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<assistant>{% generation %}{{ m.content }}<|end|>"
    "{% endgeneration %}{% else %}<{{ m.role }}>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
"""Of conversations, with marks around what the assistant writes."""


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="session")
def adapter(base, tmp_path_factory):
    """A LoRA adapter with weights that change the model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from spvmia_plugin.util.libraries import isolated_rng, quiet_libraries

    folder = tmp_path_factory.mktemp("adapter") / "lora"
    with isolated_rng(1), quiet_libraries():
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, task_type="CAUSAL_LM"))
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def chatty(base, tmp_path_factory):
    """The base with a chat template."""
    folder = tmp_path_factory.mktemp("chatty") / "model"
    shutil.copytree(base, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def read_jsonl(path):
    return [json.loads(line)["text"] for line in Path(path).read_text().splitlines()]


def write_jsonl(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("private")
    texts = tiny_texts(110, seed=7)
    return {
        "mia_members": write_jsonl(folder / "members.jsonl", texts[:40]),
        "mia_nonmembers": write_jsonl(folder / "nonmembers.jsonl", texts[40:80]),
        "mia_prompts": write_jsonl(folder / "prompts.jsonl", texts[80:]),
    }


@pytest.fixture(scope="session")
def options(files):
    """Options of a small audit; tests add `mia_cache_dir`."""
    return {
        **files,
        "mia_block_size": 0,
        "mia_self_prompts": 12,
        "mia_reference_epochs": 1,
        "mia_reference_lr": 1e-3,
        "mia_lora_rank": 4,
        "mia_perturbation": "causal",
        "mia_perturbations": 2,
    }


@pytest.fixture(scope="session")
def neighbour_tasks(tmp_path_factory):
    """A multiple-choice task and a sampling task that have nothing to do with us."""
    folder = tmp_path_factory.mktemp("others")
    rows = [{"q": f"ticket {i} was", "a": "lost", "b": "found", "label": i % 2} for i in range(12)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = (
        f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {folder / 'rows.jsonl'}\ntest_split: test\n"
    )
    (folder / "choice.yaml").write_text(
        f"task: other_choice\n{common}output_type: multiple_choice\ndoc_to_text: '{{{{q}}}}'\n"
        "doc_to_choice: ['lost', 'found']\ndoc_to_target: label\n"
        "metric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
    )
    (folder / "sample.yaml").write_text(
        f"task: other_sample\n{common}output_type: generate_until\ndoc_to_text: '{{{{q}}}}'\ndoc_to_target: a\n"
        "generation_kwargs:\n  do_sample: true\n  temperature: 1.0\n  max_gen_toks: 12\n  until: ['\\n']\n"
        "metric_list:\n  - metric: exact_match\n    aggregation: mean\n    higher_is_better: true\n"
    )
    return folder


@pytest.fixture
def evaluate(base, adapter, neighbour_tasks, tmp_path_factory, monkeypatch):
    """Run the harness as `lm_eval` would: `evaluate([tasks], options, **simple_evaluate's arguments)`."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))

    def run(tasks, metadata=(), *, model_args=None, **arguments):
        import lm_eval
        from lm_eval.tasks import TaskManager

        from spvmia_plugin.util.libraries import quiet_libraries

        args = {"pretrained": str(base), "peft": str(adapter), "dtype": "float32", **(model_args or {})}
        args = {key: value for key, value in args.items() if value is not None}
        merged = {**args, **dict(metadata)}
        manager = TaskManager(metadata=merged, include_path=[str(TASKS), str(neighbour_tasks)], include_defaults=False)
        with quiet_libraries():
            return lm_eval.simple_evaluate(
                model="hf",
                model_args=args,
                tasks=list(tasks),
                task_manager=manager,
                metadata=merged,
                device="cpu",
                batch_size=arguments.pop("batch_size", 8),
                **arguments,
            )

    return run
