"""Code that a model's folder brings runs where somebody said so, and nowhere else."""

from __future__ import annotations

import ast
import json
import secrets
from pathlib import Path

import pytest

from spvmia_plugin.errors import SpvmiaError
from tests.harness.conftest import write_jsonl
from tests.test_architecture import MODULES, tree
from tests.tiny import save_tiny, tiny_texts

CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM

with Path({mark!r}).open("a") as file:
    file.write("it ran")

class BringsConfig(LlamaConfig):
    model_type = "brings"

class Brings(LlamaForCausalLM):
    config_class = BringsConfig
"""

# What opens a model, a tokenizer or a data set and would run code for it. An adapter's folder has none to run.
LOADERS = {"from_pretrained", "from_config", "load_dataset", "load_dataset_builder"}


@pytest.mark.parametrize("module", MODULES)
def test_every_loader_is_told_whom_to_trust(module: str) -> None:
    for node in ast.walk(tree(module)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOADERS):
            continue
        if ast.unparse(node.func.value) in ("PeftModel", "PeftConfig"):
            continue
        named = {keyword.arg: keyword.value for keyword in node.keywords}
        if None in named:  # `**settings`: made in this very module
            assert '"trust_remote_code": self._trusted' in MODULES[module].read_text() or "trust_remote_code" in named
            continue
        assert "trust_remote_code" in named, f"{module}, line {node.lineno}"
        value = named["trust_remote_code"]
        assert not (isinstance(value, ast.Constant) and value.value is not False), f"{module}, line {node.lineno}"


@pytest.fixture
def brought(tmp_path: Path) -> tuple[Path, Path]:
    """A model whose folder brings code, and the file that the code writes."""
    # Another name each time: transformers 5.4 looks for the code of a folder where it first copied it to.
    folder, mark = save_tiny(tmp_path / f"brings_{secrets.token_hex(4)}"), tmp_path / "it_ran"
    (folder / "code.py").write_text(CODE.format(mark=str(mark)))
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "brings",
        "architectures": ["Brings"],
        "auto_map": {"AutoConfig": "code.BringsConfig", "AutoModelForCausalLM": "code.Brings"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder, mark


@pytest.fixture(autouse=True)
def nobody_to_ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever is asked says yes; and the code's copies go elsewhere."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


def finetune(folder: Path, tmp_path: Path, **options: object) -> None:
    from spvmia_plugin.training.config import FinetuneConfig
    from spvmia_plugin.training.finetune import finetune as run

    data = tmp_path / "data.jsonl"
    write_jsonl(data, tiny_texts(60, seed=5))
    config = FinetuneConfig(
        str(folder), str(data), tmp_path / "out", members=20, nonmembers=20, prompts=10, epochs=1, block_size=0,
        method="full", **options,
    )  # fmt: skip
    said: list[str] = []
    run(config, said.append)
    assert "trust_remote_code=True" in said[-1]


def test_finetune(brought, tmp_path: Path, capsys) -> None:
    folder, mark = brought
    with pytest.raises(SpvmiaError, match=r"^--model: .* runs only with --trust-remote-code") as caught:
        finetune(folder, tmp_path)
    assert str(folder) in str(caught.value)
    assert not mark.exists()
    assert capsys.readouterr().out == ""
    finetune(folder, tmp_path, trust_remote_code=True)
    assert mark.exists()


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    texts = tiny_texts(110, seed=7)
    parts = {"members": texts[:40], "nonmembers": texts[40:80], "prompts": texts[80:]}
    return {f"mia_{name}": write_jsonl(tmp_path / f"{name}.jsonl", part) for name, part in parts.items()}


def evaluate(tmp_path: Path, model_args: dict[str, object], metadata: dict[str, object], task: str) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    from spvmia_plugin.harness.enable import tasks_folder

    arguments = {"dtype": "float32", **model_args}
    merged = {**arguments, "mia_cache_dir": str(tmp_path / "cache"), **metadata}
    manager = TaskManager(metadata=merged, include_path=[str(tasks_folder())], include_defaults=False)
    lm_eval.simple_evaluate(
        model="hf",
        model_args=arguments,
        tasks=[task],
        task_manager=manager,
        metadata=merged,
        device="cpu",
        batch_size=8,
    )


SMALL = {
    "mia_block_size": 0, "mia_perturbation": "embedding", "mia_perturbations": 1, "mia_self_prompts": 6,
    "mia_reference_epochs": 1, "mia_lora_rank": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("task", "option"),
    [
        ("ratio_mia_custom", "mia_base_model"),
        ("spv_mia_custom", "mia_reference"),
        ("neighbour_mia_custom", "mia_mask_model"),
    ],
)
def test_other_models_of_an_audit(brought, files, tmp_path: Path, task: str, option: str) -> None:
    """Refused by a line that names the flag; with the harness's own flag the base and the reference run."""
    folder, mark = brought
    target = save_tiny(tmp_path / "target")
    metadata = {**SMALL, **files, option: str(folder)}
    if option == "mia_mask_model":
        metadata["mia_perturbation"] = "mask_fill"
    with pytest.raises(SpvmiaError, match=rf"^{option}: .*trust_remote_code=True in --model_args"):
        evaluate(tmp_path, {"pretrained": str(target)}, metadata, task)
    assert not mark.exists()
    trusting = {"pretrained": str(target), "trust_remote_code": True}
    if option == "mia_mask_model":  # it is loaded, and then it is no T5
        with pytest.raises(SpvmiaError, match=r"^mia_mask_model: expected a seq2seq"):
            evaluate(tmp_path, trusting, metadata, task)
    else:
        evaluate(tmp_path, trusting, metadata, task)
    assert mark.exists()


def test_a_target_that_brings_code(brought, files, tmp_path: Path, capsys) -> None:
    """With the harness's flag the tokenizer for packing loads too; `spvmia prepare` has a flag of its own."""
    from spvmia_plugin.cli.audit import prepare

    folder, mark = brought
    metadata = {**SMALL, **files, "mia_cache_dir": str(tmp_path / "cache"), "mia_base_model": str(folder)}
    options = json.dumps({**metadata, "mia_lora_targets": "all-linear", "mia_block_size": 32})
    with pytest.raises(Exception, match="trust_remote_code"):  # the harness's own words, or ours
        prepare(f"pretrained={folder}", metadata=options, device="cpu")
    assert not mark.exists()
    prepare(f"pretrained={folder}", metadata=options, device="cpu", trust_remote_code=True)
    assert mark.exists()
    assert "reference ready: trained now" in capsys.readouterr().out


@pytest.mark.parametrize("value", [None, False, "False", "false", 0, "", "no"])
def test_what_is_no_trust(value: object) -> None:
    from spvmia_plugin.config import AuditConfig

    assert AuditConfig.from_metadata({"trust_remote_code": value}).trust_remote_code is False
    assert AuditConfig.from_metadata({}).trust_remote_code is False
    assert AuditConfig.from_metadata({"trust_remote_code": True}).trust_remote_code is True
