"""One audit's data, read once for all tasks of a run, with what is computed on it once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np

from spvmia_plugin.attacks.bag_of_words import BagOfWords
from spvmia_plugin.auditing.outcome import Comparison
from spvmia_plugin.checks.blind import BlindInterval, blind_interval, not_computed
from spvmia_plugin.checks.copies import near_copies
from spvmia_plugin.checks.preconditions import Finding, check_preconditions, warnings_first
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import AuditData, Record, clusters_by_records
from spvmia_plugin.util.files import path_problem
from spvmia_plugin.util.libraries import refusal

if TYPE_CHECKING:
    from spvmia_plugin.harness.request import AuditInstance


class SharedData:
    """One audit's data with what is computed on it once for all tasks of a run: findings and the blind baseline.

    Near copies of one class are looked for here, once, and have one cluster in the data from then on.

    Attributes:
        data: the audit's data, near copies joined.
        comparison: of all attacks on them, once they run.
        notes: what is to be told of the model that they are said to be of.
    """

    def __init__(self, data: AuditData, seed: int, notes: Sequence[str] = ()) -> None:
        self.notes = list(notes)
        self._copies = near_copies(data)
        self.data = self._copies.joined(data)
        self.comparison: Comparison | None = None
        self._seed = seed
        self._by_id = {record.id: record for record in self.data.records}
        self._read: Sequence[AuditInstance] = ()
        self._docs: list[dict[str, object]] | None = None
        self._blind: dict[tuple[str, ...], BlindInterval | None] = {}
        self._findings: dict[tuple[str, ...], list[Finding]] = {}

    def compare(self, comparison: Comparison | None) -> None:
        """Take the comparison of all attacks on these data, or let go of that of an earlier run."""
        self.comparison = comparison

    def reads(self, requests: Sequence[AuditInstance]) -> None:
        """The harness reads one task's answers after the other's: those of the last are done with."""
        for request in self._read:
            request.let_go()
        self._read = requests

    def record(self, record_id: str) -> Record:
        """The record with this id."""
        return self._by_id[record_id]

    def docs(self, *, with_text: bool) -> list[dict[str, object]]:
        """What the harness logs of each record: one object for all tasks of a run."""
        if self._docs is None:
            self._docs = [
                {
                    "id": record.id,
                    "is_member": record.is_member,
                    **({} if record.group is None else {"group": record.group}),
                    **({"text": self._read_by_people(record)} if with_text else {}),
                }
                for record in self.data.records
            ]
        return self._docs

    def _read_by_people(self, record: Record) -> str:
        """The text of a record; of a conversation who says what, and which part of it is scored."""
        if record.conversation is None or self.data.renderer is None:
            return record.text
        return record.conversation.transcript(self.data.renderer.loss_on, record.text)

    def blind(self, record_ids: Sequence[str]) -> BlindInterval | None:
        """The blind baseline on these records, computed once however many tasks ask; None if too few to fold."""
        key = tuple(sorted(record_ids))
        if key not in self._blind:
            records = [self._by_id[record_id] for record_id in key]
            labels = np.array([record.is_member for record in records], dtype=bool)
            texts = [record.text for record in records]
            self._blind[key] = blind_interval(BagOfWords(), texts, labels, clusters_by_records(records), self._seed)
        return self._blind[key]

    def findings(self, record_ids: Sequence[str]) -> list[Finding]:
        """What limits the numbers, the data's own give-away first; known before any model runs."""
        key = tuple(sorted(record_ids))
        if key not in self._findings:
            audited = dataclasses.replace(self.data, records=tuple(self._by_id[record_id] for record_id in key))
            blind = self.blind(record_ids)
            labels = np.array([record.is_member for record in audited.records], dtype=bool)
            clusters = [record.cluster for record in audited.records]
            of_blind = blind.finding() if blind else not_computed(BagOfWords(), labels, clusters)
            self._findings[key] = warnings_first(
                [*([of_blind] if of_blind else []), *check_preconditions(audited, self._copies)]
            )
        return self._findings[key]


SHARED: WeakValueDictionary[tuple[str, ...], SharedData] = WeakValueDictionary()
"""Data of the run that is being built. The harness builds tasks one by one and gives them no common ground; when it
asks for their requests all are there, and the entry goes: a later run in this process reads the files anew."""


ADAPTER_ARGUMENTS = ("peft", "lora_local_path")
"""What names an adapter among a model's arguments: of `--model hf`, of `--model vllm`."""


def adapter_of(metadata: Mapping[str, Any]) -> Any:
    """The adapter that a model's arguments name, None if there is none."""
    return next((metadata[key] for key in ADAPTER_ARGUMENTS if metadata.get(key)), None)


def load_tokenizer(metadata: Mapping[str, Any]) -> Any:
    """Load the tokenizer the model's arguments name (`tokenizer`, `tokenizer_path` of sglang, else `pretrained`,
    `peft`), else the base's, else a server's `model`.

    Raises:
        SpvmiaError: none is named, or it cannot be loaded.
    """
    from transformers import AutoTokenizer

    named = ("tokenizer", "tokenizer_path", "pretrained", *ADAPTER_ARGUMENTS, "mia_base_model", "model")
    name = next((metadata[key] for key in named if metadata.get(key)), None)
    if hasattr(name, "get_vocab"):
        return name  # from Python it may be handed over itself
    name = getattr(name, "name_or_path", name)  # a model: the harness, too, takes the tokenizer from where it was
    if name is None:
        raise SpvmiaError(
            "mia_block_size: packing needs the model's tokenizer, got no 'pretrained' in the model's arguments; "
            "pass --metadata '{\"pretrained\": ...}' or set mia_block_size to 0 for whole documents"
        )
    # As the harness does: a tokenizer by itself is none of the model's file.
    where = ("revision",) if metadata.get("tokenizer") else ("revision", "gguf_file")
    passed_on = {key: metadata[key] for key in where if metadata.get(key)}
    trusted = str(metadata.get("trust_remote_code")).lower() == "true"  # with None, transformers asks at the terminal
    try:
        found = AutoTokenizer.from_pretrained(name, trust_remote_code=trusted, **passed_on)
        adapter = adapter_of(metadata)
        if metadata.get("tokenizer") is None and isinstance(adapter, (str, Path)):
            folder = Path(adapter)
            if path_problem(folder) is None and (folder / "tokenizer_config.json").is_file():
                # Trainers save the tokenizer beside the adapter: the chat template and the end token of the training.
                trained_with = AutoTokenizer.from_pretrained(folder, trust_remote_code=trusted)
                found.chat_template = trained_with.chat_template or found.chat_template
                if trained_with.eos_token in found.get_vocab():
                    found.eos_token = trained_with.eos_token
        return found
    except Exception as error:  # tokenizers raises nothing more special for a damaged file
        raise SpvmiaError(
            f"pretrained: no tokenizer could be loaded from {name!r} ({refusal(error)}); "
            "name a local folder with a tokenizer, or pass tokenizer=... in --model_args"
        ) from error
