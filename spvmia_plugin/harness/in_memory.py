"""An audit of a model that is in memory, through the harness's own `simple_evaluate`."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

from spvmia_plugin.config import PREFIX
from spvmia_plugin.errors import SpvmiaError, did_you_mean, known_columns
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
            rows (texts, mappings as a JSON Lines file has them, or a table of pandas, pyarrow or polars); None for what
            is not given.
        attacks: names of attacks; None for all that `mia_custom` has.
        options: of the audit, without `mia_`.
        harness: further arguments of `simple_evaluate`.

    Raises:
        SpvmiaError: what `lm_eval` would refuse; an attack or an argument that there is none of.
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    _check_arguments(harness, signature(simple_evaluate).parameters)

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
        unknown = [name for name in tasks if name not in manager.all_tasks]
        if unknown or not tasks:
            known = sorted(
                name.removesuffix(f"_{PREFIX}custom") for name in manager.all_tasks if name.endswith(f"_{PREFIX}custom")
            )
            got = repr(unknown[0].removesuffix(f"_{PREFIX}custom")) if unknown else "none"
            raise SpvmiaError(
                f"attacks: expected names of attacks ({', '.join(known)}), got {got}; leave the argument out for all "
                "of them"
            )
        # The harness would seed the process's own generators, which belong to whoever calls.
        seeds = dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed"))
        with _modes_kept(model), quiet_libraries(), no_loading_bars():
            found: dict[str, Any] = simple_evaluate(
                model="hf",
                model_args=arguments,
                tasks=tasks,
                task_manager=manager,
                metadata=metadata,
                device=str(model.device),
                **{**seeds, "batch_size": 8, **harness},
            )
    return {**found, "model_name": _called(model)}


_OURS = ("model", "model_args", "tasks", "task_manager", "metadata", "device")
"""Arguments of the harness that follow from those of `audit`."""


def _check_arguments(given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse arguments that the harness does not have, and those that are set here."""
    allowed = [name for name in known if name not in _OURS]
    for name in given:
        if name not in allowed:
            raise SpvmiaError(
                f"harness: expected arguments of lm_eval.simple_evaluate other than {', '.join(_OURS)}, got "
                f"{name!r}{did_you_mean(str(name), allowed)}; correct it, or leave it out"
            )


@contextmanager
def _modes_kept(model: Any) -> Iterator[None]:
    """Put every module back into the mode that it is in, training or not: the harness has all of them evaluate."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _called(model: Any) -> str:
    """What a model in memory is called: by where it was loaded from, and the adapters that are on it."""
    name = str(getattr(model, "name_or_path", None) or type(model).__name__)
    adapters = ", ".join(getattr(model, "active_adapters", ())) if hasattr(model, "peft_config") else ""
    return f"{name} with adapter {adapters}" if adapters else name


def _named(name: str, rows: Any, folder: Path) -> str:
    """What names the rows of an option: rows in memory are written to a file in `folder`.

    Raises:
        SpvmiaError: they are neither texts nor mappings, or hold what JSON has no place for.
    """
    if isinstance(rows, (str, Path)):
        return str(rows)
    path = folder / f"{name}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        file.writelines(_line(name, number, row) + "\n" for number, row in enumerate(_each(name, rows)))
    return str(path)


def _each(name: str, rows: Any) -> Iterable[Any]:
    """One row after the other: to iterate over a table may give the names of its columns, which would be texts."""
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(rows, pandas.DataFrame):
        of_frame: Iterable[Any] = rows.astype(object).where(rows.notna(), None).to_dict("records")
        return of_frame
    for of_table in ("to_pylist", "to_dicts"):  # of pyarrow, of polars
        if hasattr(rows, of_table):
            found: Iterable[Any] = getattr(rows, of_table)()
            return found
    if isinstance(rows, Mapping):
        names = known_columns(map(str, rows))
        of_what = f" of {names[0]!r}" if names else ""
        raise SpvmiaError(
            f"{name}: expected rows, got {type(rows).__name__}{of_what}; pass a list of "
            "mappings, a DataFrame, or one split of a DatasetDict"
        )
    if not isinstance(rows, Iterable):
        raise SpvmiaError(
            f"{name}: expected a file, an hf: name, or rows (texts or mappings), got {type(rows).__name__}; pass a list"
        )
    return rows


def _line(name: str, number: int, row: Any) -> str:
    """A row as a line of a JSON Lines file."""
    if not isinstance(row, (str, Mapping)):
        raise SpvmiaError(
            f"{name}: row {number}: expected a text, or a mapping as a line of a JSON Lines file has, got "
            f"{type(row).__name__}"
        )
    values = {"text": row} if isinstance(row, str) else dict(row)
    try:
        return json.dumps(values, default=_plain)
    except (TypeError, ValueError) as error:  # their words name types, and quote no value
        raise SpvmiaError(
            f"{name}: row {number}: expected columns with texts, numbers, dates, lists and mappings, got one with "
            f"something else ({error}); convert it, or leave the column out"
        ) from None


def _plain(value: Any) -> Any:
    """A value that JSON does not know, as it stands in files: dates in ISO 8601, NumPy's arrays and numbers."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(type(value).__name__)
