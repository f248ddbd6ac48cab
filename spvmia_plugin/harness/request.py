"""The request type: one method added to the harness's LM, which receives the requests of all our tasks together.

In a run of several processes each scores its share of the records, then they meet, and rank 0 knows what all did.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from spvmia_plugin.audit.comparison import Comparison
from spvmia_plugin.audit.outcome import Outcome, unscored_by_reason
from spvmia_plugin.audit.plan import show
from spvmia_plugin.audit.run import Audit, Run
from spvmia_plugin.checks.preconditions import Finding, check_tokenisation
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.harness.installed import gather
from spvmia_plugin.protocols import Backend, BackendFeatures, Cost, frame_of
from spvmia_plugin.records import Record
from spvmia_plugin.signals import Role
from spvmia_plugin.store import Store
from spvmia_plugin.util.boundary import behind
from spvmia_plugin.util.libraries import one_of

if TYPE_CHECKING:
    from spvmia_plugin.harness.task import AuditTask


REQUEST_TYPE = "spvmia_audit"
"""Name of the request type, of the LM's method, and the tasks' OUTPUT_TYPE (padding over ranks is keyed on it)."""


class AuditInstance(Instance):  # type: ignore[misc]
    """A request for one record's score. What the harness logs of it is the id; the record rides on an attribute.

    There is one for each record and attack: what follows from these two, or is the same for all, is not held by each.
    """

    request_type = REQUEST_TYPE
    idx = 0
    repeats = 1

    def __init__(self, task: AuditTask, record: Record, doc: dict[str, object], doc_id: int) -> None:
        self.task = task
        self.record = record
        self.doc = doc
        self.doc_id = doc_id
        self.resps: list[str] = []

    @property
    def target(self) -> str:
        """The record's class, which lm-eval 0.5 asks of a request."""
        return self.task.doc_to_target(self.doc)

    @property
    def arguments(self) -> tuple[str]:
        """The record's id."""
        return (self.record.id,)

    @property
    def task_name(self) -> str:
        """The task it is a request of."""
        return str(self.task.config.task)

    @property
    def metadata(self) -> tuple[str, int, int]:
        """Task, number of the record, and how often it is asked."""
        return (self.task_name, self.doc_id, 1)

    @cached_property
    def filtered_resps(self) -> dict[str, str]:
        """The answer by filter, once the harness has put it here."""
        return {}

    def let_go(self) -> None:
        """Drop the answer: the harness has read it, and keeps what it logs of it."""
        self.resps = []
        self.__dict__.pop("filtered_resps", None)


def install_request_type() -> None:
    """Give every LM of the harness the method `spvmia_audit`."""
    setattr(LM, REQUEST_TYPE, answer)


def answer(lm: Any, requests: Sequence[AuditInstance]) -> list[str]:
    """Score all requests of a run: the LM method behind the request type.

    Returns:
        For each request the JSON string of its `RecordResult`.

    Raises:
        SpvmiaError: an audit cannot run (the message names the option), or another process has failed.
    """
    tasks = list({id(request.task): request.task for request in requests}.values())
    return behind(
        lambda: _answer(lm, tasks, requests),
        doing="the audit",
        texts=lambda: [pair for task in tasks for pair in task.data.texts()],
        log_text=any(task.settings.log_text for task in tasks),
    )


def _answer(lm: Any, tasks: list[AuditTask], requests: Sequence[AuditInstance]) -> list[str]:
    outcomes: dict[int, Outcome] = {}
    ignored = _ignored(tasks)
    if ignored and lm.rank == 0:
        show(f"spvmia: note: {ignored}")
    _compare(tasks)
    for group in _groups(tasks):
        outcome = _run_group(lm, group, requests)
        for task in group:
            task.outcome = outcome
            outcomes[id(task)] = outcome
    distinct = list({id(outcome): outcome for outcome in outcomes.values()}.values())
    meet(lm, distinct)
    if lm.rank == 0:
        for line in _closing_lines(distinct):
            show(line)
    if ignored:  # told already
        for outcome in distinct:
            outcome.notes.append(ignored)
    return [outcomes[id(r.task)].results[r.task.config.task][r.record.id].to_json() for r in requests]


def _ignored(tasks: Iterable[AuditTask]) -> str:
    """The line about options of the run that change nothing here, empty if there are none."""
    options = list(dict.fromkeys(name for task in tasks for name in task.ignored_options))
    if not options:
        return ""
    verb = "changes" if len(options) == 1 else "change"
    return f"{' and '.join(options)} {verb} no audit: records are scored as they stand in the data, without a template"


def _compare(tasks: Iterable[AuditTask]) -> None:
    """Attacks on the same data are compared with each other, under whatever settings each of them runs."""
    on_same_data: dict[str, list[AuditTask]] = {}
    for task in tasks:
        on_same_data.setdefault(task.data.fingerprint, []).append(task)
    for group in on_same_data.values():
        comparison = Comparison({task.config.task: task.attack for task in group}, group[0].settings.seed)
        for task in group:
            task.comparison = comparison


def _groups(tasks: Iterable[AuditTask]) -> list[list[AuditTask]]:
    """Tasks on the same data under the same settings make one audit: their signals are computed once."""
    groups: dict[tuple[int, str], list[AuditTask]] = {}
    for task in tasks:
        key = (id(task.data), json.dumps(task.settings.to_json(), sort_keys=True))
        groups.setdefault(key, []).append(task)
    return list(groups.values())


def _run_group(lm: Any, tasks: list[AuditTask], requests: Sequence[AuditInstance]) -> Outcome:
    first = tasks[0]
    mine = {id(task) for task in tasks}
    audit = Audit(
        data=first.data,
        config=first.settings,
        attacks={task.config.task: task.attack for task in tasks},
        records=_distinct(r.record for r in requests if id(r.task) in mine),
        audited=_distinct(record for task in tasks for record in task.audited),
    )
    _warn(lm, first.findings())
    with open_store(first.settings) as store, open_backend(lm, first) as backend:
        about_tokens = (
            check_tokenisation(audit.data, audit.audited, backend.encode, frame_of(backend, ""))
            if backend.features.logprobs
            else []
        )
        _warn(lm, about_tokens)
        outcome = Run(audit, backend, first.registry, store, quiet=lm.rank != 0).execute()
    outcome.findings = about_tokens
    return outcome


def _warn(lm: Any, findings: Iterable[Finding]) -> None:
    """Print the warnings among the findings, once a run."""
    if lm.rank == 0:
        for finding in findings:
            if finding.severity == "warning":
                show(f"spvmia: warning: {finding.message}")


def _distinct(records: Iterable[Record]) -> list[Record]:
    return list({record.id: record for record in records}.values())


def open_store(settings: AuditConfig) -> Store:
    """The store of `mia_cache_dir`, checked to be writable before long work."""
    store = Store(settings.cache_dir)
    try:
        store.prepare()
    except BaseException:
        store.close()
        raise
    return store


@contextmanager
def open_backend(lm: Any, task: AuditTask) -> Iterator[Backend]:
    """The first registered backend that can drive `lm`, or one that can do nothing and says so by name.

    What it added to the harness's model is taken away in the end.
    """
    backend = _make_backend(lm, task)
    try:
        yield backend
    finally:
        backend.close()


def _make_backend(lm: Any, task: AuditTask) -> Backend:
    for backend in task.registry.backends.values():
        if backend.accepts(lm):
            return backend(lm, task.settings, task.base_model)
    return NullBackend(lm)


def _closing_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """What could not be scored and why, what is worth knowing, and what it all cost."""
    total = Cost()
    lines = []
    for outcome in outcomes:
        for task, results in outcome.results.items():
            reasons = [f"{count} ({reason})" for reason, count in unscored_by_reason(results).items()]
            lines += [f"spvmia: {task}: records without a score: {', '.join(reasons)}"] if reasons else []
        lines += [f"spvmia: note: {note}" for note in outcome.notes]
        for cost in outcome.stages.values():
            total += cost
    cost_line = (
        f"spvmia: {total.forward_tokens:,} tokens scored, {total.generated_tokens:,} generated, "
        f"{total.training_tokens:,} trained on, in {total.seconds:,.0f} s"
    )
    return [*lines, cost_line]


class NullBackend:
    """A backend without features. `check_features` refuses every attack that would need one."""

    name: ClassVar[str] = "none"
    features = BackendFeatures(logprobs=False, moments=False, embeddings=False, generate=False, train=False)
    max_length = 0
    device = None

    def __init__(self, lm: Any, config: AuditConfig | None = None, base_model: str | None = None) -> None:
        self.name = type(lm).__name__  # type: ignore[misc]

    @classmethod
    def accepts(cls, lm: Any) -> bool:
        """Never: it is what is left when no backend accepts."""
        return False

    def encode(self, text: str) -> list[int]:
        """Nothing is scored, so nothing is tokenised."""
        return []

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of no tokens."""
        return ""

    def identity(self, role: Role) -> dict[str, object]:
        """The model's class is all that is known."""
        return {"model": self.name}

    def cost(self, role: Role) -> Cost:
        """Nothing was spent."""
        return Cost()

    def close(self) -> None:
        """Nothing to take away."""

    def require(self, roles: Iterable[Role]) -> None:
        """Raise: there is no model."""
        self._refuse()

    def score(self, *args: object, **kwargs: object) -> list[Any]:
        """Raise: there are no log-probabilities."""
        self._refuse()
        return []

    def sample_replacements(self, *args: object, **kwargs: object) -> list[Any]:
        """Raise: there are no log-probabilities."""
        self._refuse()
        return []

    def generate(self, *args: object, **kwargs: object) -> list[Any]:
        """Raise: sampling is not offered."""
        self._refuse()
        return []

    def train_reference(self, texts: Sequence[str], output_dir: Path) -> dict[str, object]:
        """Raise: training is not offered."""
        self._refuse()
        return {}

    def check_training(self) -> None:
        """Raise: training is not offered."""
        self._refuse()

    def load_reference(self, role: Role, path: str) -> None:
        """Raise: there is no model."""
        self._refuse()

    def _refuse(self) -> None:
        raise SpvmiaError(f"--model: {self.name} gives no token log-probabilities; use '--model hf'")


_SUMS = ("records", "records_without", "texts")
"""Counts of paraphrases that add up over the shares."""


def meet(lm: Any, outcomes: Sequence[Outcome]) -> None:
    """Wait until every process has scored its share; on rank 0, add what the others spent and noted to `outcomes`.

    Args:
        lm: the harness's LM, which knows its rank and reaches the others.
        outcomes: of the audits of this process; every process has the same audits in the same order.

    Raises:
        SpvmiaError: another process has failed. It has said why; this one must not wait for it.
    """
    if lm.world_size == 1:
        return
    mine = [(outcome.stages, outcome.notes, outcome.details) for outcome in outcomes]
    with one_of(lm.world_size):
        shares = gather(lm, mine)
        lm.barrier()
    if shares is not None:
        for k, outcome in enumerate(outcomes):
            _merge(outcome, [share[k] for share in shares])


def _merge(outcome: Outcome, shares: Sequence[tuple[dict[str, Cost], list[str], dict[str, Any]]]) -> None:
    stages: dict[str, Cost] = {}
    for costs, notes, _ in shares:
        for name, cost in costs.items():
            stages[name] = _together(stages[name], cost) if name in stages else cost
        outcome.notes += [note for note in notes if note not in outcome.notes]
    outcome.stages = stages
    for name in outcome.details:
        outcome.details[name] = _of_all(name, [details[name] for *_, details in shares if name in details])


def _together(one: Cost, other: Cost) -> Cost:
    """Work adds up; processes that run side by side take as long as the slowest."""
    seconds = max(one.seconds, other.seconds)
    total = Cost(**vars(one))
    total += other
    total.seconds = seconds
    return total


def _of_all(name: str, details: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One stage's record: that of the process which trained; the paraphrases of all."""
    if name == "paraphrases":
        sums = {key: sum(each[key] for each in details) for key in _SUMS}
        rated = [each for each in details if each["mask_rate"] is not None]
        weight = sum(each["texts"] for each in rated)
        mean = sum(each["mask_rate"] * each["texts"] for each in rated) / weight if weight else None
        return {**details[0], **sums, "mask_rate": mean}
    return dict(next((each for each in details if each.get("trained")), details[0]))
