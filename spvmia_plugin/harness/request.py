"""The request type: one method added to the harness's LM, which receives the requests of all our tasks together.

In a run of several processes each scores its share of the records, then they meet, and know what all did. The harness
deals records out on several GPUs only; elsewhere it runs everything in each process, and they are dealt out here.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from spvmia_plugin.attacks.base import Attack
from spvmia_plugin.auditing.asked import Amount
from spvmia_plugin.auditing.asked import together as all_asked
from spvmia_plugin.auditing.outcome import Comparison, Outcome, RecordResult, Results, unscored_by_reason
from spvmia_plugin.auditing.run import Job, Run
from spvmia_plugin.checks.preconditions import Finding, check_tokenisation
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.harness.shared import SharedData
from spvmia_plugin.models.tokens import unwrapped
from spvmia_plugin.plugins import Registry
from spvmia_plugin.protocols import Backend, BackendFeatures, Cost, completed
from spvmia_plugin.records import Record
from spvmia_plugin.signals import Role, View
from spvmia_plugin.store.store import Store
from spvmia_plugin.util.boundary import behind
from spvmia_plugin.util.console import show
from spvmia_plugin.util.libraries import kept_rng
from spvmia_plugin.util.processes import Processes, launch, processes_of

REQUEST_TYPE = "spvmia_audit"
"""Name of the request type, of the LM's method, and the tasks' OUTPUT_TYPE (padding over ranks is keyed on it)."""


@dataclass(frozen=True, eq=False)
class Asked:
    """What one task asks, the same for all of its records.

    Attributes:
        task: its name.
        attack: what scores the records.
        settings: options of the audit.
        shared: the data.
        audited: the records that the whole run scores, over all processes.
        notes: what is known before: of options that change nothing here, of the model.
        base_model: the model before fine-tuning, where somebody named it.
        registry: plugins.
        answer: takes what was computed.
        read: the JSON string of a record's `RecordResult` by its id, once it is known.
    """

    task: str
    attack: Attack
    settings: AuditConfig
    shared: SharedData
    audited: Sequence[Record]
    notes: Sequence[str]
    base_model: str | None
    registry: Registry
    answer: Callable[[Outcome, Comparison], None]
    read: Callable[[str], str | None]


class AuditInstance(Instance):  # type: ignore[misc]
    """A request for one record's score. What the harness logs of it is the id; the record rides on an attribute.

    There is one for each record and attack: what follows from these two, or is the same for all, is not held by each,
    and an answer is written when it is read.
    """

    __slots__ = ("_filtered", "asked", "doc", "doc_id", "record")
    request_type = REQUEST_TYPE
    idx = 0
    repeats = 1

    def __init__(self, asked: Asked, record: Record, doc: dict[str, object], doc_id: int) -> None:
        self.asked = asked
        self.record = record
        self.doc = doc
        self.doc_id = doc_id
        self._filtered: dict[str, Any] | None = None

    @property
    def resps(self) -> list[str]:
        """The answer, empty before it is known. The harness appends it: to what it is handed here, which is lost."""
        answer = self.asked.read(self.record.id)
        return [] if answer is None else [answer]

    @property
    def target(self) -> str:
        """The record's class, which lm-eval 0.5 asks of a request."""
        return "member" if self.record.is_member else "nonmember"

    @property
    def arguments(self) -> tuple[str]:
        """The record's id."""
        return (self.record.id,)

    @property
    def task_name(self) -> str:
        """The task it is a request of."""
        return self.asked.task

    @property
    def metadata(self) -> tuple[str, int, int]:
        """Task, number of the record, and how often it is asked."""
        return (self.task_name, self.doc_id, 1)

    @property
    def filtered_resps(self) -> dict[str, Any]:
        """The answer by filter, once the harness has put it here."""
        if self._filtered is None:
            self._filtered = {}
        return self._filtered

    def let_go(self) -> None:
        """Drop the answer: the harness has read it, and keeps what it logs of it."""
        self._filtered = None


def install_request_type() -> None:
    """Give every LM of the harness the method `spvmia_audit`."""
    setattr(LM, REQUEST_TYPE, answer)


def answer(lm: Any, requests: Sequence[AuditInstance]) -> list[str]:
    """Score all requests of a run: the LM method behind the request type.

    Returns:
        An empty string for each request. Its answer, the JSON string of its `RecordResult`, is written when the harness
        reads its `resps`: what is handed over here would be written for nothing.

    Raises:
        SpvmiaError: an audit cannot run (the message names the option), or another process has failed.
    """
    asked = list({id(request.asked): request.asked for request in requests}.values())
    with kept_rng():  # whatever plugins and libraries seed: other tasks of the run draw as they would without ours
        return behind(
            lambda: _answer(lm, asked, requests),
            doing="the audit",
            texts=lambda: [pair for each in asked for pair in each.shared.data.texts()],
            log_text=any(each.settings.log_text for each in asked),
        )


def _answer(lm: Any, asked: Sequence[Asked], requests: Sequence[AuditInstance]) -> list[str]:
    processes = processes_of(lm)
    processes.check_machine()
    known = list(dict.fromkeys(told for each in asked for told in each.notes))
    if processes.rank == 0:
        for told in known:
            show(f"spvmia: note: {told}")
    launched = launch()
    if launched.count > processes.count:
        apart = (
            f"{launched.count} processes were started, and each audits {type(unwrapped(lm)).__name__} by itself and "
            "whole: they share no work; start one (num_concurrent in --model_args sends a server several requests at "
            "once)"
        )
        known.append(apart)
        if launched.rank == 0:
            show(f"spvmia: warning: {apart}")
    # Tasks on the same data under the same settings make one audit: their signals are computed once.
    audits: dict[tuple[int, str], list[Asked]] = {}
    for each in asked:
        key = (id(each.shared.data), json.dumps(each.settings.to_json(), sort_keys=True))
        audits.setdefault(key, []).append(each)
    outcomes = meet(processes, [_run(lm, processes, together, requests) for together in audits.values()])
    if processes.rank == 0:
        for line in _closing_lines(outcomes):
            show(line)
    comparisons = _comparisons(asked)
    for together, outcome in zip(audits.values(), outcomes, strict=True):
        outcome.notes += known  # told already
        outcome.quiet = processes.rank != 0
        for each in together:
            each.answer(outcome, comparisons[each.shared.data.fingerprint])
    return [""] * len(requests)


def _comparisons(asked: Sequence[Asked]) -> dict[str, Comparison]:
    """By the data's fingerprint: attacks on the same data are compared, under whatever settings each of them runs."""
    on_same_data: dict[str, list[Asked]] = {}
    for each in asked:
        on_same_data.setdefault(each.shared.data.fingerprint, []).append(each)
    return {
        fingerprint: Comparison(
            {each.task: each.attack for each in group},
            group[0].settings.seed,
            {each.task: _what(each) for each in group},
        )
        for fingerprint, group in on_same_data.items()
    }


def _what(each: Asked) -> tuple[object, ...]:
    """What is asked for, whatever the task is called: groups that overlap may ask for it twice."""
    settings = json.dumps(each.settings.to_json(), sort_keys=True)
    return (each.attack.name, settings, *(record.id for record in each.audited))


def _run(lm: Any, processes: Processes, asked: Sequence[Asked], requests: Sequence[AuditInstance]) -> Outcome:
    first, mine = asked[0], {id(each) for each in asked}
    wanted = _distinct(request.record for request in requests if id(request.asked) in mine)
    processes.check_enough(len(wanted) if processes.whole else processes.count)
    audit = Job(
        data=first.shared.data,
        config=first.settings,
        attacks={each.task: each.attack for each in asked},
        records=processes.share(wanted),
        audited=_distinct(record for each in asked for record in each.audited),
    )
    quiet = processes.rank != 0
    if not quiet:
        rows = first.shared.data.provenance.get("rows")  # what conversations were taken for, a line a source
        for line in rows if isinstance(rows, list) else []:
            show(f"spvmia: {line}")
    _warn(first.shared.findings([record.id for record in first.audited]), quiet=quiet)
    with (
        open_store(first.settings) as store,
        open_backend(lm, first.registry, first.settings, first.base_model) as backend,
    ):
        processes.check_folder("mia_cache_dir", store.root)
        about_tokens = (
            check_tokenisation(audit.data, audit.audited, backend.encode, backend.frame(""))
            if backend.features.logprobs
            else []
        )
        _warn(about_tokens, quiet=quiet)
        outcome = Run(audit, backend, first.registry, store, quiet=quiet).execute()
    return dataclasses.replace(outcome, findings=about_tokens)


def _warn(findings: Iterable[Finding], *, quiet: bool) -> None:
    """Print the warnings among the findings, once a run."""
    if not quiet:
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
def open_backend(lm: Any, registry: Registry, settings: AuditConfig, base_model: str | None) -> Iterator[Backend]:
    """The first registered backend that can drive `lm`, else one that has it write text alone.

    An `lm` that does not even do that gets one that can do nothing, and says so by name.

    What it added to the harness's model is taken away in the end.
    """
    accepting = (backend for backend in registry.backends.values() if backend.accepts(lm))
    made = next(accepting, None)
    backend = _by_text(lm, settings, base_model) if made is None else completed(made(lm, settings, base_model), Backend)
    try:
        yield backend
    finally:
        backend.close()


def _by_text(lm: Any, settings: AuditConfig, base_model: str | None) -> Backend:
    from spvmia_plugin.engines.text import TextTarget  # brings torch

    return TextTarget(lm, settings, base_model) if TextTarget.accepts(lm) else NullBackend(lm)


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


class NullBackend(Backend):
    """What is left of an object that writes no text either: it can do nothing, so attacks that need it are refused."""

    features = BackendFeatures(logprobs=False, moments=False, embeddings=False, generate=False, train=False)

    def __init__(self, lm: Any) -> None:
        self.name = type(lm).__name__

    def identity(self, role: Role) -> dict[str, object]:
        return {"model": self.name}


_SUMS = ("records", "records_without", "texts")
"""Counts of paraphrases that add up over the shares."""


def meet(processes: Processes, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Wait until every process has scored its share.

    Args:
        processes: those of the run.
        outcomes: of the audits of this process; every process has the same audits in the same order.

    Returns:
        The outcomes with what the others spent and noted added, and with their results where the harness does not
        bring those together.

    Raises:
        SpvmiaError: another process has failed. It has said why; this one must not wait for it.
    """
    if processes.count == 1:
        return list(outcomes)
    shares = processes.say(
        [
            (each.stages, each.notes, each.details, each.asked, each.results if processes.whole else {})
            for each in outcomes
        ]
    )
    return [_merged(outcome, [share[k] for share in shares]) for k, outcome in enumerate(outcomes)]


Share = tuple[
    dict[str, Cost],
    list[str],
    dict[str, Any],
    dict[tuple[Role, View], Amount],
    dict[str, Mapping[str, RecordResult]],
]


def _merged(outcome: Outcome, shares: Sequence[Share]) -> Outcome:
    stages: dict[str, Cost] = {}
    for costs, *_ in shares:
        for name, cost in costs.items():
            stages[name] = _together(stages[name], cost) if name in stages else cost
    told = [*outcome.notes, *(note for _, notes, *_ in shares for note in notes)]
    details: dict[str, object] = {
        name: _of_all(name, [details[name] for _, _, details, *_ in shares if name in details])
        for name in outcome.details
    }
    results: dict[str, Mapping[str, RecordResult]] = {
        task: _in_turn([found[task] for *_, found in shares if found]) or mine for task, mine in outcome.results.items()
    }
    asked: dict[tuple[Role, View], Amount] = {}
    for *_, of_share, _ in shares:
        asked = all_asked(asked, of_share)
    return dataclasses.replace(
        outcome, stages=stages, notes=list(dict.fromkeys(told)), details=details, results=results, asked=asked
    )


def _in_turn(shares: Sequence[Mapping[str, RecordResult]]) -> Results:
    """The results of all processes in the order of the records, which were dealt out one by one."""
    rounds = zip_longest(*(share.items() for share in shares))
    return Results({pair[0]: pair[1] for dealt in rounds for pair in dealt if pair is not None})


def _together(one: Cost, other: Cost) -> Cost:
    """Work adds up; processes that run side by side take as long as the slowest."""
    seconds = max(one.seconds, other.seconds)
    total = Cost(**vars(one))
    total += other
    total.seconds = seconds
    return total


def _of_all(name: str, details: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is told of one stage: by the process which trained; of paraphrases, by all."""
    if name == "paraphrases":
        sums = {key: sum(each[key] for each in details) for key in _SUMS}
        rated = [each for each in details if each["mask_rate"] is not None]
        weight = sum(each["texts"] for each in rated)
        mean = sum(each["mask_rate"] * each["texts"] for each in rated) / weight if weight else None
        return {**details[0], **sums, "mask_rate": mean}
    return dict(next((each for each in details if each.get("trained")), details[0]))
