"""What a precision costs on a CPU, and that nobody pays it without a word."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from spvmia_plugin.models.precision import computes_in, dtype_named, is_slow_in, too_slow
from spvmia_plugin.training.base_model import BaseModel, load_model
from spvmia_plugin.training.config import FinetuneConfig
from spvmia_plugin.training.finetune import audit_command
from spvmia_plugin.util.libraries import quiet_libraries
from tests.tiny import save_tiny, tiny_llama, tiny_tokenizer


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`cpu(capability, machine)` is a CPU that torch calls so."""

    def make(capability: str, machine: str = "x86_64") -> None:
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        monkeypatch.setattr(platform, "machine", lambda: machine)

    return make


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose files are in bfloat16."""
    folder = save_tiny(tmp_path_factory.mktemp("half") / "base")
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("capability", "machine", "slow"),
    [
        ("AVX2", "x86_64", True),
        ("DEFAULT", "AMD64", True),
        ("NO AVX", "x86_64", True),
        ("AVX512", "x86_64", False),
        ("DEFAULT", "arm64", False),
        ("SVE256", "aarch64", False),
    ],
)
def test_a_line_only_where_it_is_much(cpu: Any, capability: str, machine: str, slow: bool) -> None:
    cpu(capability, machine)
    said = "this CPU has no instructions for bfloat16, and takes many times as long in it as in float32; pass x"
    assert too_slow(torch.bfloat16, "pass x") == (said if slow else None)
    assert (too_slow(torch.float16, "pass x") is not None) is slow
    assert too_slow(torch.float32, "pass x") is None


def test_this_cpu_is_slow_in_what_is_said_of_it() -> None:
    """Held against a clock: the best of many, in one thread each, so that other work on the machine takes no part."""
    if not is_slow_in(torch.bfloat16):
        pytest.skip("this CPU has instructions for bfloat16, or is of a kind of which nothing is said")

    def seconds(dtype: torch.dtype) -> float:
        left, right = torch.ones(32, 256, dtype=dtype), torch.ones(256, 256, dtype=dtype)
        best, threads = float("inf"), torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for _ in range(20):
                started = time.process_time_ns()
                left @ right
                best = min(best, time.process_time_ns() - started)
        finally:
            torch.set_num_threads(threads)
        return best

    assert seconds(torch.bfloat16) > 4 * seconds(torch.float32)


def test_in_what_a_model_computes() -> None:
    model = tiny_llama(tiny_tokenizer())
    assert computes_in(model) is torch.float32
    assert computes_in(model, torch.bfloat16) is torch.bfloat16
    assert computes_in(model.to(torch.bfloat16)) is torch.bfloat16
    assert computes_in(model.to("meta")) is None
    assert computes_in(torch.nn.Module()) is None


@pytest.mark.parametrize("own", [torch.bfloat16, "bfloat16", "torch.bfloat16"])
def test_what_the_argument_names(own: object) -> None:
    assert dtype_named("auto", own) is torch.bfloat16
    assert dtype_named(None, own) is torch.bfloat16
    assert dtype_named("float16", own) is torch.float16
    assert dtype_named(torch.float32, own) is torch.float32
    assert dtype_named("auto", None) is torch.float32


@pytest.mark.parametrize(
    ("capability", "options", "dtype", "said", "audited"),
    [
        ("AVX2", {}, torch.float32, "; the base is loaded in float32", "o,dtype=float32 "),
        ("AVX2", {"dtype": "bfloat16"}, torch.bfloat16, "; pass --dtype float32", "o,dtype=float32 "),
        ("AVX2", {"dtype": "float32"}, torch.float32, None, "o,dtype=float32 "),
        ("AVX2", {"method": "full"}, torch.float32, None, "o "),
        ("AVX2", {"method": "full", "dtype": "float32"}, torch.float32, None, "o "),
        ("AVX2", {"method": "full", "dtype": "bfloat16"}, torch.bfloat16, "; pass --dtype float32", "o,dtype=float32 "),
        ("AVX512", {}, torch.bfloat16, None, "o "),
    ],
)
def test_a_base_is_trained_in_what_the_cpu_is_made_for(
    half: Path,
    tmp_path: Path,
    cpu: Any,
    capability: str,
    options: dict[str, Any],
    dtype: Any,
    said: str | None,
    audited: str,
) -> None:
    cpu(capability)
    config = FinetuneConfig(model=str(half), data="d", output=tmp_path / "o", **options)
    base = BaseModel.find(config)
    assert (base.slow is None) if said is None else base.slow.endswith(said)  # type: ignore[union-attr]
    assert f"/{audited}" in audit_command(base, tmp_path / "o", config)
    with quiet_libraries():
        model = load_model(config, base)
    assert {p.dtype for name, p in model.named_parameters() if "lora_" not in name} == {dtype}


def test_an_accelerator_is_not_asked(half: Path, tmp_path: Path, cpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu("AVX2")
    monkeypatch.setattr("spvmia_plugin.training.base_model.training_device", lambda: torch.device("cuda"))
    assert BaseModel.find(FinetuneConfig(model=str(half), data="d", output=tmp_path / "o")).slow is None
