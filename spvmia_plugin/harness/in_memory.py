"""An audit of a model that is in memory, through the harness's own `simple_evaluate`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spvmia_plugin.config import PREFIX
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.harness.enable import tasks_folder
from spvmia_plugin.util.libraries import no_loading_bars, quiet_libraries


def audit_in_memory(
    model: Any,
    tokenizer: Any,
    data: Mapping[str, Any],
    attacks: Sequence[str] | None,
    options: Mapping[str, Any],
    harness: Mapping[str, Any],
) -> dict[str, Any]:
    """Run attacks on a model that is in memory, and return what `simple_evaluate` does.

    Args:
        model: a causal language model of transformers, wrapped by peft or not. Afterwards it is what it was.
        tokenizer: its tokenizer.
        data: `members`, `nonmembers` and, where there are any, `prompts` and `candidate`: a file, an `hf:` name, or
            rows (texts, or mappings as a JSON Lines file has them); None for what is not given.
        attacks: names of attacks; None for all that `mia_custom` has.
        options: of the audit, without `mia_`.
        harness: further arguments of `simple_evaluate`.

    Raises:
        SpvmiaError: what `lm_eval` would refuse.
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    if isinstance(attacks, str):
        attacks = [attacks]
    tasks = [f"{PREFIX}custom"] if attacks is None else [f"{name}_{PREFIX}custom" for name in attacks]
    with tempfile.TemporaryDirectory(prefix="spvmia-") as folder:  # its owner's alone
        named = {name: _named(name, rows, Path(folder)) for name, rows in data.items() if rows is not None}
        metadata = {f"{PREFIX}{name}": value for name, value in {**named, **options}.items()}
        arguments = {"pretrained": model, "tokenizer": tokenizer}
        manager = TaskManager(
            metadata={**arguments, **metadata}, include_path=str(tasks_folder()), include_defaults=False
        )
        if unknown := [name for name in tasks if name not in manager.all_tasks]:
            known = sorted(
                name.removesuffix(f"_{PREFIX}custom") for name in manager.all_tasks if name.endswith(f"_{PREFIX}custom")
            )
            raise SpvmiaError(
                f"attacks: expected names of attacks ({', '.join(known)}), got "
                f"{unknown[0].removesuffix(f'_{PREFIX}custom')!r}; leave the argument out for all of them"
            )
        # The harness would seed the process's own generators, which belong to whoever calls.
        seeds = dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed"))
        with quiet_libraries(), no_loading_bars():
            found: dict[str, Any] = simple_evaluate(
                model="hf",
                model_args=arguments,
                tasks=tasks,
                task_manager=manager,
                metadata=metadata,
                device=str(model.device),
                **{**seeds, "batch_size": 8, **harness},
            )
    return found


def _named(name: str, rows: Any, folder: Path) -> str:
    """What names the rows of an option: rows in memory are written to a file in `folder`.

    Raises:
        SpvmiaError: they are neither texts nor mappings.
    """
    if isinstance(rows, (str, Path)):
        return str(rows)
    path = folder / f"{name}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number, row in enumerate(rows):
            if not isinstance(row, (str, Mapping)):
                raise SpvmiaError(
                    f"{name}: row {number}: expected a text, or a mapping as a line of a JSON Lines file has, got "
                    f"{type(row).__name__}"
                )
            file.write(json.dumps({"text": row} if isinstance(row, str) else dict(row)) + "\n")
    return str(path)
