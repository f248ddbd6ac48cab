"""The lm-eval task of every attack on every data set.

One class; the YAMLs say which attack and which data.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from lm_eval.api.task import Task
from lm_eval.config.task import TaskConfig

from spvmia_plugin.auditing.closing import FOR_A_PAGE, show_closing
from spvmia_plugin.auditing.mia_audit import mia_audit
from spvmia_plugin.auditing.outcome import Comparison, Outcome, RecordResult, Results
from spvmia_plugin.auditing.subjects import UnitTold, unit_told
from spvmia_plugin.checks.preconditions import warnings_first
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.data.load import load_audit_data, load_canaries
from spvmia_plugin.harness.enable import check_version
from spvmia_plugin.harness.given import canary_attack, check_base, check_utf8, parted
from spvmia_plugin.harness.group_rows import install_group_rows
from spvmia_plugin.harness.installed import keep_answers_only, prepare_scoring
from spvmia_plugin.harness.metrics import FILTER, Item, register_metrics
from spvmia_plugin.harness.request import REQUEST_TYPE, Asked, AuditInstance, install_request_type
from spvmia_plugin.harness.shared import ADAPTER_ARGUMENTS, SHARED, SharedData, load_tokenizer
from spvmia_plugin.metrics.leaders import in_one_line
from spvmia_plugin.metrics.names import BLIND, EPSILON, METRICS, UNIT_METRICS, WITH_ERROR
from spvmia_plugin.metrics.one_run import CanaryAudit, canary_audit
from spvmia_plugin.metrics.summary import Summary, summarise
from spvmia_plugin.models.intact import check_intact
from spvmia_plugin.plugins import Registry, load_registry
from spvmia_plugin.records import AuditData, Record, clusters_called
from spvmia_plugin.util.boundary import behind
from spvmia_plugin.util.console import show
from spvmia_plugin.util.processes import Processes
from spvmia_plugin.util.redact import without_secrets
from spvmia_plugin.util.strict_json import utf8

_OF_PROMPTS = ("apply_chat_template", "system_instruction")
"""What the harness passes on for prompts: a record is no prompt."""
_NAMES = (*METRICS, *(metric.stderr_key for metric in WITH_ERROR))
_OF_UNITS = tuple(name for metric in UNIT_METRICS for name in (metric.key, metric.stderr_key))
"""What is aggregated. Emitted after their metrics, standard errors fill the harness's own Stderr column."""

DEVICE = "cuda:0"
"""The harness's own default: the first GPU, or the CPU where there is none."""


class AuditTask(Task):  # type: ignore[misc]
    """A membership inference attack as an lm-eval task.

    The YAML has `spvmia_attack` and `spvmia_dataset` at its top, where another YAML that includes it changes them one
    by one and its own `metadata` cannot remove them. `--metadata` and the model's arguments are merged into the
    metadata by the harness.

    Args:
        config: the YAML as a dict, metadata merged.

    Raises:
        SpvmiaError: a YAML that is no task of ours, an unknown or ill-typed option, bad data, a manifest that does not
            fit; before any model runs.
    """

    VERSION = 1.0
    OUTPUT_TYPE = REQUEST_TYPE

    def __init__(self, config: Mapping[str, Any]) -> None:
        register_metrics()
        install_request_type()
        install_group_rows()
        fields, metadata = parted(config, self.VERSION)
        check_utf8(metadata)
        self.registry: Registry = load_registry()
        self.settings = AuditConfig.from_metadata(metadata, self.registry.attack_options)
        self.is_canary_audit = metadata.get("spvmia_audit") == "canary"
        if "canary_attack" in self.settings.given or self.is_canary_audit:  # a name that is none helps no task
            name = canary_attack(self.settings, metadata["spvmia_attack"], self.registry)
        if self.is_canary_audit:
            self.settings = dataclasses.replace(self.settings, canary_attack=name)
            metadata["spvmia_attack"] = name
        self.attack = self.registry.attack(metadata["spvmia_attack"], self.settings)
        check_version(metadata)
        self._shared = behind(lambda: self._load(metadata), doing="reading the data", log_text=self.settings.log_text)
        self.data = self._shared.data
        # A manifest says how records were cut: prompts, self-prompts and population are cut alike.
        self.settings = dataclasses.replace(self.settings, block_size=self.data.block_size)
        self.base_model = self.settings.base_model or self.data.base_model
        self.outcome = Outcome()
        self._is_read = False  # no answer is written for what the harness only adds to
        self.declared = datetime.now(timezone.utc).isoformat(timespec="seconds")
        """When the options were given: before any score is known."""
        self.audited: Sequence[Record] = self.data.records
        self._summary: Summary | None = None
        self._canaries: CanaryAudit | None = None
        self._unit: UnitTold | None = None
        self._results: Mapping[str, RecordResult] = {}
        self._ids: Sequence[str] = ()  # of the records that were summarised
        fields |= {"output_type": REQUEST_TYPE, "metadata": metadata, "num_fewshot": 0}
        self._initialise_harness_state(TaskConfig(**fields))

    def _initialise_harness_state(self, config: TaskConfig) -> None:
        """What `Task.__init__` would set; it would also download a data set and misread the config."""
        self._config = config
        self._training_docs = None
        self._fewshot_docs = None
        self._instances: list[AuditInstance] | None = None
        self.fewshot_rnd = None
        prepare_scoring(self, FILTER)

    @property
    def task_name(self) -> str:
        """The task's name. Asked for it, the one of 0.5.0.dev1 draws from Python's generator, which is others' too."""
        return str(self.config.task)

    @property
    def comparison(self) -> Comparison | None:
        """The attacks on this task's data, compared; None before any has run.

        It lies with the data: 0.5 builds a task that is asked for twice (alone, and in a group) twice, and runs one.
        """
        return self._shared.comparison

    def _take(self, outcome: Outcome, comparison: Comparison) -> None:
        self.outcome = outcome
        self._shared.compare(comparison)

    def _answer_of(self, record_id: str) -> str | None:
        if not self._is_read:
            return None
        results = self.outcome.results.get(str(self.config.task), {})
        return results[record_id].to_json() if record_id in results else None

    @property
    def _qualified_name(self) -> str:
        """The name in results and samples. 0.5 would put the group's before it, `mia_custom::loss_mia_custom`."""
        return str(self.config.task)

    def _load(self, metadata: Mapping[str, Any]) -> SharedData:
        dataset = metadata["spvmia_dataset"]
        # From Python a model may be handed over as an object: that has no folder to look into.
        folders = (metadata.get(key) for key in (*ADAPTER_ARGUMENTS, "pretrained"))
        places = [str(place) for place in folders if isinstance(place, (str, Path))]
        settings = json.dumps(self.settings.to_json(), sort_keys=True, default=str)
        tokenizer = [str(metadata.get(name)) for name in ("tokenizer", "revision", "gguf_file", "trust_remote_code")]
        self._key = key = (dataset, str(self.is_canary_audit), settings, *places, *tokenizer)
        shared = SHARED.get(key)
        if shared is None:
            check_intact("pretrained", metadata.get("pretrained"))
            data = self._read_data(metadata, [Path(place) for place in places])
            told = check_base(data, self.settings, metadata)
            shared = SharedData(data, self.settings.seed, told)
            SHARED[key] = shared
        return shared

    def _read_data(self, metadata: Mapping[str, Any], target_dirs: list[Path]) -> AuditData:
        if self.is_canary_audit:
            return load_canaries(
                self.settings,
                datasets=self.registry.datasets,
                target_dirs=target_dirs,
                tokenizer=partial(load_tokenizer, metadata),
            )
        return load_audit_data(
            self.settings,
            metadata["spvmia_dataset"],
            registry=self.registry,
            tokenizer=partial(load_tokenizer, metadata),
            target_dirs=target_dirs,
        )

    def has_training_docs(self) -> bool:
        """No: nothing is learned from examples."""
        return False

    def has_validation_docs(self) -> bool:
        """No."""
        return False

    def has_test_docs(self) -> bool:
        """Yes: the audited records."""
        return True

    def test_docs(self) -> list[dict[str, object]]:
        """One document a record: what the harness logs of it."""
        return self._shared.docs(with_text=self.settings.log_text)

    def doc_to_text(self, doc: Mapping[str, Any]) -> str:
        """The record's id: the text stays private."""
        return str(doc["id"])

    def doc_to_target(self, doc: Mapping[str, Any]) -> str:
        """Member or not."""
        return "member" if doc["is_member"] else "nonmember"

    def fewshot_context(self, doc: Mapping[str, Any], num_fewshot: int = 0, **_: object) -> str:
        """The record's id; there are no few-shot examples."""
        return self.doc_to_text(doc)

    def build_all_requests(self, *, limit: int | None = None, samples: list[int] | None = None, **options: Any) -> None:
        """One request a record. `--cache_requests` does not apply: it keys on the task's name only."""
        SHARED.pop(self._key, None)
        rank, world_size = options.get("rank", 0), options.get("world_size", 1)
        self._summary, self._canaries, self._unit, self._results, self._ids = None, None, None, {}, ()
        self.outcome, self._is_read = Outcome(), False
        self._shared.compare(None)
        chosen = self.doc_iterator(rank=0, limit=limit, world_size=1, samples=samples)
        self.audited = [self._shared.record(doc["id"]) for _, doc in chosen]
        Processes(rank, world_size).check_enough(len(self.audited))
        mine: Iterator[tuple[int, dict[str, object]]] = self.doc_iterator(
            rank=rank, limit=limit, world_size=world_size, samples=samples
        )
        asked = self._asked([*self._shared.notes, *self._ignored(options)])
        self._instances = [
            AuditInstance(asked, self._shared.record(str(doc["id"])), doc, doc_id) for doc_id, doc in mine
        ]

    def _ignored(self, options: Mapping[str, Any]) -> list[str]:
        """What the harness was asked for and changes nothing here, in sentences.

        Conversations are rendered by the target's own template anyhow, so `--apply_chat_template` agrees with them.
        """
        given = [f"--{name}" for name in _OF_PROMPTS if options.get(name)]
        if self.data.renderer is None and given:
            return [
                f"{' and '.join(given)} {'changes' if len(given) == 1 else 'change'} no audit: records are scored as "
                "they stand in the data, without a template"
            ]
        if options.get("system_instruction"):
            return [
                "--system_instruction changes no audit: conversations are scored with the system turns that they have "
                "in the data"
            ]
        return []

    def _asked(self, notes: Sequence[str] = ()) -> Asked:
        return Asked(
            task=str(self.config.task),
            attack=self.attack,
            settings=self.settings,
            shared=self._shared,
            audited=self.audited,
            notes=notes,
            base_model=self.base_model,
            registry=self.registry,
            answer=self._take,
            read=self._answer_of,
        )

    def construct_requests(self, doc: Mapping[str, Any], ctx: str, **_: object) -> AuditInstance:
        """One request for one record."""
        record = self._shared.record(doc["id"])
        return AuditInstance(self._asked(), record, dict(doc), self.data.records.index(record))

    def apply_filters(self) -> None:
        """As the harness does."""
        self._is_read = True
        self._shared.reads(self._instances or [])
        super().apply_filters()

    def process_results(self, doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Item]:
        """The record's item for every metric."""
        result = RecordResult.from_json(results[0])
        item = Item(str(doc["id"]), bool(doc["is_member"]), result.score, result.reason)
        return dict.fromkeys(self._names, item)

    @property
    def _names(self) -> tuple[str, ...]:
        return (*_NAMES, *_OF_UNITS) if self.data.unit_column is not None else _NAMES

    def aggregation(self) -> dict[str, Callable[[Sequence[Item]], float]]:
        """Metric name -> function of all records' items. Standard errors follow their metrics to fill that column."""
        return {name: partial(self._guarded, partial(self._aggregate, name)) for name in self._names}

    def _guarded(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Call what reads records, or asks the attack, for the harness."""
        return behind(
            partial(work, *arguments), doing=self.config.task, texts=self.data.texts, log_text=self.settings.log_text
        )

    def higher_is_better(self) -> dict[str, bool]:
        """Privacy is better the less an attack succeeds."""
        of_units = UNIT_METRICS if self.data.unit_column is not None else ()
        return {metric.key: metric.higher_is_better for metric in (*METRICS.values(), *of_units)}

    def aggregate(self, bootstrap_iters: int | None = None) -> tuple[dict[str, Any], int]:
        """Metrics and the number of records, for the lm_evals whose tasks are asked for them (0.5).

        Without its bootstrap: our metrics come with standard errors of their own, and their functions know the task.
        """
        aggregated: tuple[dict[str, Any], int] = super().aggregate(bootstrap_iters=0)
        return aggregated

    def override_metric(self, metric_name: str) -> None:
        """`--predict_only`: the answers alone."""
        if not keep_answers_only(self, metric_name, FILTER):
            super().override_metric(metric_name)

    def dump_config(self) -> dict[str, Any]:
        """The config with `mia_audit`, which the harness asks for after aggregation."""
        config: dict[str, Any] = super().dump_config()
        if self._summary is not None:
            # The harness writes UTF-8 at the very end: options that name files of other bytes must not spoil that.
            audit = self._guarded(self._audit, self._summary)
            # Its comparison is one object for all tasks, complete when the last of them has been aggregated: no copy.
            told = {**utf8(audit), "strongest": audit["strongest"]}
            if "groups" in audit:
                told["groups"] = audit["groups"]
            if isinstance(unit := audit.get("unit"), dict):
                told["unit"] = {**utf8(unit), **{key: unit[key] for key in ("together",) if key in unit}}
            # A server's address and headers lie in there, too, with the model's other arguments.
            config["metadata"] = {**without_secrets(utf8(config["metadata"])), "mia_audit": told}
        return config

    def _aggregate(self, name: str, items: Sequence[Item]) -> float:
        summary = self._summarise(items)
        if name == BLIND.key:
            blind = self._shared.blind([item.record_id for item in items])
            return blind.auroc if blind else math.nan
        if name == EPSILON.key:
            return self._canaries.epsilon_lb if self._canaries else math.nan
        if name in _OF_UNITS:
            return self._of_units(name)
        return summary.values()[name]

    def _of_units(self, name: str) -> float:
        """A number with the units as observations; NaN where there is none."""
        values = self._unit.metrics.values() if self._unit is not None else {}
        return values.get(name.removeprefix("unit_"), math.nan)

    def _summarise(self, items: Sequence[Item]) -> Summary:
        """The statistics of all records, computed at the first metric and kept for the others."""
        # The harness has a list for each metric, of the same records and mostly in the same order.
        ids = [item.record_id for item in items]
        if self._summary is None or (ids != self._ids and set(ids) != set(self._ids)):
            self._ids = ids
            scored = [item for item in items if item.score is not None]
            self._results = Results({item.record_id: RecordResult(item.score, item.reason) for item in items})
            self._summary = summarise(
                [float(item) for item in scored],
                [item.is_member for item in scored],
                [self._shared.record(item.record_id).cluster for item in scored],
                seed=self.settings.seed,
                called=clusters_called(have_units=self.data.unit_column is not None),
            )
            if self.data.unit_column is not None:
                records = [self._shared.record(item.record_id) for item in items]
                scores = [math.nan if item.score is None else item.score for item in items]
                self._unit = unit_told(self.data.unit_column, records, scores, self.settings.seed)
            if self.is_canary_audit:
                scores = [float(item) for item in items]
                coins = [item.is_member for item in items]
                self._canaries = canary_audit(scores, coins, seed=self.settings.seed)
            if self.comparison is not None:
                found = self.comparison.add(self.config.task, self._results, self.data.records)
                if found is not None and found.n_attacks and not self.outcome.quiet:
                    dataset, of_units = self.config.metadata["spvmia_dataset"], self.comparison.of_units
                    show(f"spvmia: {dataset}: {in_one_line(found)}")
                    if of_units is not None:
                        show(f"spvmia: {dataset}, each unit an observation: {in_one_line(of_units.strongest)}")
                    if self.comparison.compared is not None and found.n_attacks > 1:
                        show_closing(self.comparison.compared)
                    show(FOR_A_PAGE)
        return self._summary

    def _audit(self, summary: Summary) -> dict[str, object]:
        return mia_audit(
            attack=self.attack,
            data=self.data,
            config=self.settings,
            summary=summary,
            results=self._results,
            outcome=self.outcome,
            findings=warnings_first([*self.outcome.findings, *self._shared.findings(list(self._results))]),
            blind=self._shared.blind(list(self._results)),
            canaries=self._canaries,
            comparison=self.comparison,
            declared=self.declared,
            unit=self._unit,
        )
