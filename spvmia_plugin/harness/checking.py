"""`spvmia check`: what can be told of an lm_eval command before it reads any weights."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from spvmia_plugin.attacks.base import BlindAttack
from spvmia_plugin.auditing.masks import IN_WORDS
from spvmia_plugin.auditing.plan import shorter_by
from spvmia_plugin.auditing.run import Job, Run
from spvmia_plugin.auditing.sequences import Counted, Inputs
from spvmia_plugin.checks.preconditions import Finding, check_tokenisation, warnings_first
from spvmia_plugin.config import PREFIX, AuditConfig
from spvmia_plugin.engines.in_process import KEPT, check_load_format
from spvmia_plugin.engines.lora_requests import misread, peft_config
from spvmia_plugin.engines.remote import RemoteTarget
from spvmia_plugin.engines.sglang import RESERVED, check_arguments
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.harness.command_line import Command, check_output, our_tasks
from spvmia_plugin.harness.in_process import check_run
from spvmia_plugin.harness.installed import sample_size
from spvmia_plugin.harness.request import open_backend, open_store
from spvmia_plugin.harness.task import AuditTask
from spvmia_plugin.harness.unloaded import UnloadedTarget
from spvmia_plugin.metrics.names import BOUNDED_BY, EPSILON, METRICS
from spvmia_plugin.metrics.power import Resolution, needed, resolution
from spvmia_plugin.protocols import Backend, BackendFeatures
from spvmia_plugin.records import Record, clusters_called
from spvmia_plugin.signals import Role, View
from spvmia_plugin.util.boundary import behind
from spvmia_plugin.util.libraries import quiet_libraries

LOCAL_MODELS = ("hf", "hf-auto", "huggingface")
"""Names of the harness's in-process model, of which everything but the weights lies in files."""
VLLM, SGLANG = ENGINES = ("vllm", "sglang")
"""Names of models in an engine of this machine, of which as much lies in files."""
_KEPT = {VLLM: KEPT, SGLANG: KEPT + RESERVED}
"""Tokens of its context that an engine reads no record in."""
SERVED = ("local-completions", "openai-completions", "local-chat-completions", "openai-chat-completions")
"""Names of models that lie behind an address, which is asked."""


@dataclass(frozen=True)
class Showable:
    """A bound that was declared beforehand, and whether so many documents can show that it holds.

    Attributes:
        option: that declared it.
        limit: what was declared.
        shown: whether the audit of a target that gives nothing away would end below it, in most cases.
        needed: about how many documents or units of each class that takes; None where no number is told.
    """

    option: str
    limit: float
    shown: bool
    needed: int | None


@dataclass(frozen=True)
class Checked:
    """One audit of a command.

    Attributes:
        dataset: name of the data set.
        attacks: names of the attacks.
        source: where the rows come from.
        kind: what the rows are, and which tokens are scored.
        counts: records, documents and prompts by class, and what was left out, by reason.
        first: the first record, as it is read: id, tokens before it, which of its tokens are scored, and the tokens
            by number and in words where they may be shown.
        findings: what limits the numbers.
        resolution: what so many documents can tell.
        bounds: whether they can show what was declared beforehand.
        plan: the stages of the audit, as if nothing were in the store.
        shorter_by: options that would shorten it.
        rate: scored tokens a second, by the model's size and what this machine multiplies; None if not known.
        notes: further sentences.
    """

    dataset: str
    attacks: Sequence[str]
    source: str
    kind: str
    counts: Mapping[str, object]
    first: Mapping[str, Any]
    findings: Sequence[Finding]
    resolution: Resolution
    bounds: Sequence[Showable]
    plan: Sequence[Mapping[str, object]]
    shorter_by: Sequence[str]
    rate: float | None
    notes: Sequence[str]

    def to_json(self) -> dict[str, object]:
        """For programs."""
        return asdict(self)


def check(command: Command, *, show_text: bool = False) -> tuple[list[Checked], list[str]]:
    """Check what a command would audit.

    Args:
        command: of `Command.parse`.
        show_text: tell the first record's text.

    Returns:
        The audits, and the tasks that are not ours.

    Raises:
        SpvmiaError: what the command would fail by.
    """
    if command.model == SGLANG:
        check_arguments(command.arguments)
    if command.model == VLLM:
        check_load_format(command.arguments)
    if command.model in (*LOCAL_MODELS, *ENGINES):
        # First: what a task says of a model that is not there is less to the point.
        UnloadedTarget(_as_of_hf(command), AuditConfig(), None)
    check_output(command.output)
    ours, others = our_tasks(command)
    audits: dict[tuple[int, str], list[AuditTask]] = {}
    for task in ours:
        key = (id(task._shared), json.dumps(task.settings.to_json(), sort_keys=True))
        audits.setdefault(key, []).append(task)
    found = [
        behind(
            lambda tasks=tasks: _checked(command, tasks, show_text=show_text),  # type: ignore[misc]
            doing="the check",
            texts=tasks[0].data.texts,
            log_text=tasks[0].settings.log_text or show_text,
        )
        for tasks in audits.values()
    ]
    return found, others


def _chosen(command: Command, tasks: Sequence[AuditTask]) -> list[Record]:
    """The records that a run would score: those of each task, as `--limit` and `--samples` leave them, together.

    Raises:
        SpvmiaError: there are not as many documents as `--samples` names.
    """
    found: dict[str, Record] = {}
    for task in tasks:
        called, number = str(task.config.task), len(task.eval_docs)
        places = None if command.samples is None else command.samples.get(called)
        if places and max(places) >= number:
            raise SpvmiaError(
                f"--samples: expected places below {number:,}, the documents of {called}, got {max(places):,}; "
                "correct it"
            )
        limit = sample_size(number, command.limit)
        for _, doc in task.doc_iterator(rank=0, limit=limit, world_size=1, samples=places):
            found.setdefault(str(doc["id"]), task._shared.record(str(doc["id"])))
    return list(found.values())


def _checked(command: Command, tasks: Sequence[AuditTask], *, show_text: bool) -> Checked:
    task, data = tasks[0], tasks[0].data
    chosen = _chosen(command, tasks)
    attacks = {str(each.config.task): each.attack for each in tasks}
    job = Job(data, task.settings, attacks, chosen, chosen)
    findings = list(task._shared.findings([record.id for record in chosen]))
    with _backend(command, task) as backend, open_store(task.settings) as store:
        run = Run(job, backend, task.registry, store, quiet=True)
        check_run(run)
        run.check_prompts()
        has_tokens = command.model not in SERVED or backend.features_of(Role.TARGET).logprobs
        if has_tokens:
            told = check_tokenisation(data, chosen, backend.encode, backend.frame(""))
            findings = warnings_first([*told, *findings])
        inputs = Inputs(backend, data)
        plan = run.foresee()
        decode = backend.decode if show_text or task.settings.log_text else None
        first = {"id": chosen[0].id, "reason": "its text is sent, and no token scored"}
        first = _read(chosen[0], inputs, decode) if has_tokens else first
        counts = _counts(task, chosen, inputs, scored=has_tokens)
        notes = [*backend.notes, *(run.beyond_context() if has_tokens else ()), *run.without_score()]
        rate, slow = None, backend.slow
        if isinstance(backend, UnloadedTarget):
            rate, slow = backend.estimated_rate(command.device), backend.of_precision(command.device)
        notes += [slow] if slow else []
        notes += [_WITHOUT_NUMBERS] if command.predict_only else []
    documents = {side: len({r.cluster for r in chosen if r.is_member is side}) for side in (True, False)}
    on_model = sum(not isinstance(attack, BlindAttack) for attack in attacks.values())
    return Checked(
        dataset=str(task.config.metadata["spvmia_dataset"]),
        attacks=[attack.name for attack in attacks.values()],
        source=data.source,
        kind=data.format if inputs.loss_on is None else f"{data.format}, {IN_WORDS[inputs.loss_on]} scored",
        counts=counts,
        first=first,
        findings=findings,
        resolution=resolution(documents[True], documents[False], max(on_model, 1)),
        bounds=_bounds(task, min(documents.values()), max(on_model, 1)),
        plan=[asdict(stage) for stage in plan],
        shorter_by=shorter_by(plan, task.settings),
        rate=rate,
        notes=notes,
    )


def _bounds(task: AuditTask, documents: int, attacks: int) -> list[Showable]:
    """What of the declared bounds so many documents of each class can show."""
    found = []
    for key, name in BOUNDED_BY.items():
        limit: float | None = getattr(task.settings, name)
        if limit is not None:
            # An audit bounds epsilon from below: no number of documents shows that it is small.
            enough = None if key == EPSILON.key else needed(METRICS[key], limit, attacks=attacks)
            found.append(Showable(f"{PREFIX}{name}", limit, enough is not None and documents >= enough, enough))
    return found


@contextmanager
def _backend(command: Command, task: AuditTask) -> Iterator[Backend]:
    """What stands for the model: its files, or the server itself; the base is files in either case.

    Raises:
        SpvmiaError: a server that cannot be reached, or is no use; a model that cannot be checked so.
    """
    if command.model in (*LOCAL_MODELS, *ENGINES):
        kept = _KEPT.get(str(command.model), 0)
        # Under an engine the first process trains alone, whoever launched it.
        processes = command.processes if command.model in LOCAL_MODELS else 1
        target = UnloadedTarget(_as_of_hf(command), task.settings, task.base_model, kept=kept, processes=processes)
        if command.model in ENGINES:
            _check_engine(command, target)
        yield target
        return
    if command.model not in SERVED:
        known = ", ".join((*LOCAL_MODELS, *ENGINES, *SERVED))
        raise SpvmiaError(
            f"--model: expected one of {known}, which can be checked before they are loaded, got {command.model!r}; "
            "run the command with --limit 4"
        )
    import lm_eval.models  # noqa: F401  (fills the registry of models)
    from lm_eval.api.registry import get_model

    with quiet_libraries():
        lm = get_model(command.model).create_from_arg_obj(dict(command.arguments), {})
    with open_backend(lm, task.registry, task.settings, task.base_model) as backend:
        base = task.settings.base_model or task.base_model
        if isinstance(backend, RemoteTarget) and base is not None:
            unread: Any = UnloadedTarget({"pretrained": str(base)}, task.settings, str(base))
            backend.local = unread
        yield backend


def _as_of_hf(command: Command) -> dict[str, Any]:
    """The model's arguments by the names that `--model hf` has for them."""
    renamed = {
        "lora_local_path": "peft",
        "max_model_len": "max_length",
        "context_length": "max_length",
        "tokenizer_path": "tokenizer",
    }
    return {renamed.get(name, name): value for name, value in command.arguments.items()}


def _check_engine(command: Command, target: UnloadedTarget) -> None:
    """What an engine gives less of than torch, and which adapters vLLM would read otherwise.

    Raises:
        SpvmiaError: the adapter is one of them.
    """
    target.name = str(command.model)
    whole = command.model == VLLM and command.arguments.get("max_logprobs") == -1
    target.features = BackendFeatures(moments=whole, embeddings=False)
    path = command.arguments.get("lora_local_path")
    if path and (why := misread(str(path), peft_config(str(path)), patterns=True)):
        raise SpvmiaError(f"lora_local_path: expected an adapter that vLLM reads as peft does, got {why}; merge it")


def _counts(task: AuditTask, chosen: Sequence[Record], inputs: Inputs, *, scored: bool) -> dict[str, object]:
    """How many records of each class, of how many documents; which are not scored, and why."""
    data = task.data
    reasons = (inputs.of(record, View.TEXT) for record in chosen) if scored else ()
    unscored = Counter(reason for reason in reasons if isinstance(reason, str))
    found: dict[str, object] = {}
    for name, side in (("members", True), ("nonmembers", False)):
        of_class = [record for record in chosen if record.is_member is side]
        of_data = [record for record in data.records if record.is_member is side]
        found[name] = {
            "records": len(of_class),
            "documents": len({record.cluster for record in of_class}),
            "of": len(of_data),
        }
    found["documents_are"] = clusters_called(have_units=any(record.unit is not None for record in chosen))
    found["prompts"] = len(data.prompts)
    found["candidate"] = len(data.of_candidate)
    found["prompts_from"] = _taken_from(task)
    found["unscored"] = dict(unscored)
    found["told"] = data.provenance.get("counts", {})
    return found


_WITHOUT_NUMBERS = "--predict_only: a run with it has no numbers, and no report is made of it; leave the option out"
OF_OPTION, OF_MANIFEST = "mia_nonmembers", "the manifest's non-members"


def _taken_from(task: AuditTask) -> str | None:
    """Whose records became the prompts because nobody named any; None where somebody did."""
    data = task.data
    if "manifest" not in data.provenance:
        return OF_OPTION if data.prompts and data.membership == "declared" and not task.settings.prompts else None
    # `spvmia finetune` deals prompts out of one pool; a trainer's callback takes them out of the non-members' rows.
    is_declared = "trainer" in data.provenance
    shared = {_file_of(each.id) for each in data.prompts} & {_file_of(each.id) for each in data.nonmembers}
    return OF_MANIFEST if is_declared and shared else None


def _file_of(record_id: str) -> str:
    return record_id.rpartition(":")[0]


def _read(record: Record, inputs: Inputs, decode: Callable[[Sequence[int]], str] | None) -> dict[str, Any]:
    """A record as the target reads it: its id, what stands before it, its tokens, and which of them are scored."""
    found = inputs.of(record, View.TEXT)
    if not isinstance(found, Counted):
        return {"id": record.id, "reason": found}
    item = found.item
    mask = [True] * item.scored if found.mask is None else found.mask.tolist()
    scored = [False] * (len(item.token_ids) - item.scored) + mask
    told = {"id": record.id, "context": list(item.context_ids), "scored": scored}
    if decode is None:  # who has the ids and the tokenizer has the text
        return told
    return {**told, "tokens": list(item.token_ids), "words": [decode([token]) for token in item.token_ids]}


def marked(first: Mapping[str, Any], most: int) -> str:
    """A record's tokens on one line, runs of those that are scored in brackets.

    Args:
        first: see `Checked.first`; without words the runs' lengths are told.
        most: words at most.
    """
    before = [f"({' '.join(map(str, first['context']))})"] if first["context"] else []
    words = first.get("words")
    if words is None:
        lengths = [(scored, sum(1 for _ in run)) for scored, run in groupby(first["scored"])]
        return " ".join([*before, *(f"[{n:,} scored]" if scored else f"{n:,} read" for scored, n in lengths)])
    runs = groupby(zip(first["scored"], words[:most], strict=False), lambda pair: pair[0])
    parts = [(scored, "".join(word for _, word in run)) for scored, run in runs]
    more = len(words) - most
    shown_runs = [f"[{part}]" if scored else part for scored, part in parts]
    return " ".join([*before, *shown_runs, *([f"and {more:,} more"] if more > 0 else [])])
