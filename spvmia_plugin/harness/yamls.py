"""Writes the task files: one thin YAML for every attack on every data set, and the groups. Imports no lm_eval.

`python -m spvmia_plugin.harness.yamls` writes `tasks/` of a checkout anew, `--check` only compares.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from spvmia_plugin import __version__
from spvmia_plugin.attacks import APART
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.harness.enable import tasks_folder
from spvmia_plugin.metrics.names import EPSILON, METRICS, PRIVACY, Metric
from spvmia_plugin.plugins import load_registry

CUSTOM = "custom"
"""The data set of the user's own files."""

CANARY_TASK = f"canary_audit_{CUSTOM}"

# A mean of lower bounds bounds nothing.
_NOT_OF_GROUPS = (EPSILON,)
# A number of one attack: of a model it would hide the most exposed few, and calls a guess on few records a risk.
_NOT_OF_MODELS = (EPSILON, PRIVACY)

_VERSION = "1.0"  # of the tasks' definition: raised when a score would change
_COMMON = "_common_yaml"  # no .yaml at the end: the harness's index passes it by
_HEADER = "# Written by 'python -m spvmia_plugin.harness.yamls'; change that, not this.\n"


def task_name(attack: str, dataset: str) -> str:
    """The name of an attack's task on a data set."""
    return f"{attack}_mia_{dataset}"


def generate(attacks: Sequence[str], datasets: Sequence[str]) -> dict[str, str]:
    """All task files of `tasks/` by file name.

    Args:
        attacks: names, in the order of the group's table.
        datasets: names of public data sets; `custom` is added.
    """
    files = {_COMMON: _HEADER + _common()}
    for dataset in (*datasets, CUSTOM):
        names = [task_name(attack, dataset) for attack in attacks]
        for attack, name in zip(attacks, names, strict=True):
            files[f"{name}.yaml"] = _HEADER + f"include: {_COMMON}\n" + _task(name, attack, dataset)
        of_group = [name for attack, name in zip(attacks, names, strict=True) if attack not in APART]
        files[f"mia_{dataset}.yaml"] = _HEADER + _group(f"mia_{dataset}", of_group, _NOT_OF_MODELS)
    of_paper = [task_name("spv", dataset) for dataset in datasets]
    files["spv_mia.yaml"] = _HEADER + _group("spv_mia", of_paper, _NOT_OF_GROUPS)
    canary = _task(CANARY_TASK, AuditConfig.canary_attack, CUSTOM, audit="canary")  # `mia_canary_attack` names another
    files[f"{CANARY_TASK}.yaml"] = _HEADER + f"include: {_COMMON}\n" + canary
    return files


def builtin_files() -> dict[str, str]:
    """The task files of this package."""
    registry = load_registry(entry_points=False)
    return generate(list(registry.attacks), list(registry.datasets))


def write_task(attack: str, dataset: str, folder: Path) -> Path:
    """Write the task of a registered attack on a registered data set (or `custom`), complete in itself.

    Raises:
        SpvmiaError: an unknown name, a task that the package brings anyway, or a folder that can't be written to.
    """
    registry = load_registry()
    registry.known_attack(attack)
    if dataset != CUSTOM:
        registry.dataset(dataset)
    name = task_name(attack, dataset)
    if (tasks_folder() / f"{name}.yaml").exists():
        raise SpvmiaError(f"--write: {name} is one of the package's own tasks; run it as it is, after 'spvmia enable'")
    path = folder / f"{name}.yaml"
    header = f"# Written by 'spvmia tasks --write {attack} {dataset}'.\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(header + _common() + _task(name, attack, dataset), encoding="utf-8")
    except OSError as error:
        raise SpvmiaError(f"--output: cannot write {path} ({error.strerror}); name another folder") from error
    return path


def _common() -> str:
    metrics = [(name, "true" if metric.higher_is_better else "false") for name, metric in METRICS.items()]
    lines = [
        f"  - metric: {name}\n    aggregation: {name}\n    higher_is_better: {higher}\n" for name, higher in metrics
    ]
    return "class: !function spvmia_plugin.harness.task.AuditTask\ntag: privacy\nmetric_list:\n" + "".join(lines)


def _task(name: str, attack: str, dataset: str, audit: str | None = None) -> str:
    # Not in the metadata: the harness replaces these as a whole where a YAML that includes this one has its own.
    kind = f"spvmia_audit: {audit}\n" if audit else ""
    return (
        f"task: {name}\n"
        f"spvmia_attack: {attack}\n"
        f"spvmia_dataset: {dataset}\n"
        f"{kind}"
        f'spvmia_version: "{__version__}"\n'
        f"metadata:\n  version: {_VERSION}\n"
    )


def _group(name: str, tasks: Sequence[str], left_out: Sequence[Metric]) -> str:
    """A group. The harness knows means alone; `harness.group_rows.install_group_rows` says what its row holds."""
    metrics = [name for name, metric in METRICS.items() if metric not in left_out]
    return (
        f"group: {name}\ntask:\n"
        + "".join(f"  - {task}\n" for task in tasks)
        + "aggregate_metric_list:\n"
        + "".join(f"  - metric: {metric}\n    aggregation: mean\n    weight_by_size: false\n" for metric in metrics)
        + f'metadata:\n  version: {_VERSION}\n  spvmia_version: "{__version__}"\n'
    )


def differences(folder: Path, files: dict[str, str]) -> list[str]:
    """What in `folder` is not as generated: names of missing, changed and surplus files."""
    present = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir() if path.is_file()}
    return sorted(name for name in {*present, *files} if present.get(name) != files.get(name))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files of a checkout's `tasks/`, or with `--check` say which differ; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m spvmia_plugin.harness.yamls", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a file differs")
    parser.add_argument("--folder", type=Path, default=Path("tasks"), help="the folder to write (tasks)")
    options = parser.parse_args(arguments)
    folder: Path = options.folder
    files = builtin_files()
    changed = differences(folder, files) if folder.is_dir() else sorted(files)
    if options.check:
        print("\n".join(changed) or f"{len(files)} files are as generated")
        return 1 if changed else 0
    folder.mkdir(parents=True, exist_ok=True)
    for name in changed:
        if name in files:
            (folder / name).write_text(files[name], encoding="utf-8")
        else:
            (folder / name).unlink()
    print(f"{len(changed)} of {len(files)} files written anew")
    return 0


if __name__ == "__main__":
    sys.exit(main())
