"""A task's reference ahead of time: `spvmia prepare`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager
from lm_eval.utils import simple_parse_args_string

from spvmia_plugin.auditing.outcome import Outcome
from spvmia_plugin.auditing.roles import cast
from spvmia_plugin.auditing.run import Job, Run
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.harness.enable import tasks_folder
from spvmia_plugin.harness.request import open_backend, open_store
from spvmia_plugin.harness.task import DEVICE, AuditTask
from spvmia_plugin.models.intact import weights_kept
from spvmia_plugin.signals import Role
from spvmia_plugin.util.boundary import behind
from spvmia_plugin.util.libraries import no_loading_bars, quiet_libraries


def prepare(
    model: str, model_args: str, task_name: str, metadata: Mapping[str, Any] | str, *, device: str = DEVICE
) -> Outcome:
    """Self-prompt the target and train its reference, or find it in the store.

    Args:
        model: the harness's name of the model class, as in `lm_eval --model`.
        model_args: its arguments, as in `--model_args`: `key=value,key=value`.
        task_name: a task that needs the reference; its data and settings hold.
        metadata: options, as in `--metadata`: a dict, or `key=value,key=value`.
        device: as in `--device`.

    Returns:
        The outcome, whose `details["reference"]` names the stored folder.

    Raises:
        SpvmiaError: the task needs no reference, or what `lm_eval` would refuse.
    """
    import lm_eval.models  # noqa: F401  (fills the registry of models)

    arguments = simple_parse_args_string(model_args)
    options = simple_parse_args_string(metadata) if isinstance(metadata, str) else metadata
    # Our own tasks alone: reading the harness's ten thousand takes longer than finding a stored reference.
    manager = TaskManager(metadata={**arguments, **options}, include_path=str(tasks_folder()), include_defaults=False)
    task = manager.load([task_name])["tasks"].get(task_name)
    players = cast([task.attack], task.settings, task.data) if isinstance(task, AuditTask) else {}
    if Role.REFERENCE not in players:
        raise SpvmiaError(
            f"--tasks: expected a task that trains a reference, such as spv_mia_custom, got {task_name!r}"
        )
    if not players[Role.REFERENCE].trained:
        raise SpvmiaError(
            f"mia_reference: expected 'self_prompt' to prepare, got {task.settings.reference!r}, which needs no "
            "preparing; leave the option out"
        )
    with quiet_libraries(), no_loading_bars(), weights_kept():
        lm = get_model(model).create_from_arg_obj({"device": device, **arguments}, {})
    return behind(
        lambda: _calibrate(lm, task, task_name),
        doing="the reference",
        texts=task.data.texts,
        log_text=task.settings.log_text,
    )


def _calibrate(lm: Any, task: AuditTask, task_name: str) -> Outcome:
    audit = Job(task.data, task.settings, {task_name: task.attack}, task.data.records, task.data.records)
    with open_store(task.settings) as store, open_backend(lm, task.registry, task.settings, task.base_model) as backend:
        run = Run(audit, backend, task.registry, store)
        run.check()
        run.calibrate()
    return run.outcome
