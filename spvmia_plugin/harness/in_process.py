"""An audit without the lm_eval command around it: for who wants what attacks saw, and not the harness's files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager

from spvmia_plugin.attacks.base import Attack
from spvmia_plugin.auditing.outcome import Outcome
from spvmia_plugin.auditing.run import Job, Run
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.harness.enable import tasks_folder
from spvmia_plugin.harness.request import open_backend, open_store
from spvmia_plugin.harness.task import DEVICE, AuditTask
from spvmia_plugin.harness.unloaded import UnloadedTarget
from spvmia_plugin.models.intact import weights_kept
from spvmia_plugin.util.boundary import behind
from spvmia_plugin.util.libraries import no_loading_bars, quiet_libraries


def load_task(name: str, arguments: Mapping[str, Any], metadata: Mapping[str, Any]) -> AuditTask:
    """Build one of our tasks, and read and check its data.

    Args:
        name: of the task.
        arguments: of the harness's model (`pretrained`, `peft`, ...).
        metadata: `mia_*` options.

    Raises:
        SpvmiaError: there is no such task, or what `lm_eval` would refuse.
    """
    # Our own tasks alone: reading the harness's ten thousand takes longer than many an audit.
    manager = TaskManager(metadata={**arguments, **metadata}, include_path=str(tasks_folder()), include_defaults=False)
    task = manager.load([name])["tasks"].get(name) if name in manager.all_tasks else None
    if not isinstance(task, AuditTask):
        raise SpvmiaError(f"--tasks: expected the name of an audit task, got {name!r}; 'lm_eval ls tasks' lists them")
    return task


def audit(
    task: AuditTask, attacks: Mapping[str, Attack], arguments: Mapping[str, Any], *, device: str = DEVICE
) -> Outcome:
    """Audit all records of a task with some attacks. A killed audit goes on from its store.

    Args:
        task: of `load_task`.
        attacks: those to run, by a name for each; the task's own is not, unless it is among them.
        arguments: of the harness's model `hf`.
        device: as in lm_eval's `--device`.

    Raises:
        SpvmiaError: what `lm_eval` would refuse.
    """
    import lm_eval.models  # noqa: F401  (fills the registry of models)

    with quiet_libraries(), no_loading_bars(), weights_kept():
        lm = get_model("hf").create_from_arg_obj({"device": device, **arguments}, {})
    return behind(
        lambda: _audit(lm, task, attacks),
        doing="the audit",
        texts=task.data.texts,
        log_text=task.settings.log_text,
    )


def check(task: AuditTask, attacks: Mapping[str, Attack], arguments: Mapping[str, Any]) -> None:
    """Refuse what an audit would fail by, as far as it shows before any weights are read.

    Args:
        task: of `load_task`.
        attacks: those that are to run.
        arguments: of the harness's model `hf`: the target, or its base in place of one that is not there yet.

    Raises:
        SpvmiaError: what `lm_eval` would refuse.
    """

    def run() -> None:
        job = Job(task.data, task.settings, attacks, task.data.records, task.data.records)
        backend = UnloadedTarget(arguments, task.settings, task.base_model)
        with open_store(task.settings) as store:
            asked = Run(job, backend, task.registry, store, quiet=True)
            check_run(asked)
            asked.check_prompts()

    behind(run, doing="the check", texts=task.data.texts, log_text=task.settings.log_text)


def check_run(run: Run) -> None:
    """All of a run's checks, and whether the models that its options name are there.

    Raises:
        SpvmiaError: the first that fails.
    """
    run.check()
    for player in run.players.values():
        if player.is_calibrated and not player.trained:
            run.backend.load_reference(player.role, run.audit.config.reference)


def _audit(lm: Any, task: AuditTask, attacks: Mapping[str, Attack]) -> Outcome:
    job = Job(task.data, task.settings, attacks, task.data.records, task.data.records)
    with open_store(task.settings) as store, open_backend(lm, task.registry, task.settings, task.base_model) as backend:
        return Run(job, backend, task.registry, store).execute()
