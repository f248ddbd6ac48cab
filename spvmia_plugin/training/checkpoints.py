"""Checkpoints of a training: sealed when they are whole, and used by the very run alone that wrote them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import Any

from safetensors import SafetensorError
from transformers import TrainerCallback

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.util.files import file_digest
from spvmia_plugin.util.strict_json import any_loads

CHECKPOINTS = "checkpoints"
"""Folder, inside a training's output, that they lie in."""
_SEAL = "seal.json"


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what a full disk makes of torch's and safetensors' files into one line for people.

    Raises:
        SpvmiaError: the folder cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    except RuntimeError as error:  # torch writes through a library of its own, which has many words for it
        places = [Path(frame.f_code.co_filename) for frame, _ in walk_tb(error.__traceback__)]
        if "inline_container" not in str(error) and not any(p.match("torch/serialization.py") for p in places):
            raise
        reason = "no room for a file of torch"
    else:
        return
    raise SpvmiaError(
        f"mia_cache_dir, or --output of 'spvmia finetune': expected a folder that can be written, got {reason!r} in "
        f"{folder}; free space there, or name another folder; whole checkpoints are kept, and the same command "
        "continues from the last"
    )


class Seal(TrainerCallback):  # type: ignore[misc]
    """Closes a checkpoint: digests of its files, written last and at once, so that half of one is never used.

    Only then the one before it goes: the Trainer's own limit would remove it earlier, and a kill in between lose both.
    """

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer after each checkpoint."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        part = folder / f".{_SEAL}"
        with writing(folder):
            seal = {"fingerprint": self.fingerprint, "files": _digests(folder)}
            part.write_text(json.dumps(seal))
            part.replace(folder / _SEAL)
            for other in folder.parent.glob("checkpoint-*"):
                if other != folder:
                    shutil.rmtree(other)


def _digests(folder: Path) -> dict[str, str]:
    return {
        path.name: file_digest(path)
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.endswith(_SEAL)
    }


def last_checkpoint(folder: Path, fingerprint: str) -> Path | None:
    """Return the newest checkpoint of this very run that is whole; remove all others.

    Raises:
        SpvmiaError: the folder cannot be written.
    """
    found: Path | None = None
    for path in sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True):
        if found is None and _is_whole(path, fingerprint):
            found = path
        else:
            with writing(folder):
                shutil.rmtree(path)
    return found


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def _is_whole(path: Path, fingerprint: str) -> bool:
    try:
        seal = any_loads((path / _SEAL).read_text())
        return bool(seal == {"fingerprint": fingerprint, "files": _digests(path)})
    except (OSError, ValueError):
        return False


def fingerprint(
    model: Any,
    sequences: Sequence[Sequence[int]],
    settings: Mapping[str, object],
    counted: Sequence[Sequence[bool]] | None = None,
) -> str:
    """Digest of what a checkpoint must agree with: settings, data and masks, starting point of what is trained."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for numbers in (*sequences, *(counted or ())):
        digest.update(json.dumps(list(map(int, numbers))).encode())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            start = parameter.detach().double()
            digest.update(json.dumps([name, list(parameter.shape), str(parameter.dtype), start.sum().item()]).encode())
    return digest.hexdigest()
