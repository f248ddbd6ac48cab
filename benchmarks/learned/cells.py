"""A cell is one fine-tuned model under one audit. What attacks saw of it is kept: a file of token signals, no text."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.paper.settings import PROTOCOLS
from spvmia_plugin.attacks.base import Attack
from spvmia_plugin.signals import MissingSignal, Need, RecordSignals, Role, TokenSignals, View
from spvmia_plugin.util.files import write_private

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MOMENTS = (Role.TARGET, Role.BASE)
"""The models whose mean and deviation over the vocabulary are kept as well."""
KEPT = (Role.TARGET, Role.BASE, Role.REFERENCE, Role.CANDIDATE)
"""The models whose signals are kept."""


@dataclass(frozen=True, order=True)
class Cell:
    """Which cell.

    Attributes:
        base: name of the model before fine-tuning.
        data: name of the data set.
        epochs: passes over the members.
        block: tokens per record; 0 for whole documents and conversations.
        seed: of split, fine-tuning and audit.
        protocol: of `benchmarks.paper.settings.PROTOCOLS`: learning rates, sizes, the audit's preset.
    """

    base: str
    data: str
    epochs: float
    block: int
    seed: int
    protocol: str

    @property
    def name(self) -> str:
        """Its file's name, without the ending."""
        parts = (self.base, self.data, self.protocol, f"epochs{self.epochs:g}", f"block{self.block}")
        return "__".join(re.sub(r"[^A-Za-z0-9_.-]+", "-", part) for part in (*parts, f"seed{self.seed}"))

    def finetune_options(self) -> dict[str, object]:
        """Options of `spvmia finetune`, without dashes. A record of half the length is learnt in as many steps."""
        changes = {"epochs": self.epochs, "block-size": self.block, "seed": self.seed}
        return {**PROTOCOLS[self.protocol].finetune, **changes}

    def audit_options(self) -> dict[str, object]:
        """`mia_*` options of the audit."""
        return {**PROTOCOLS[self.protocol].audit, "mia_seed": self.seed}


@dataclass(frozen=True)
class Collector(Attack):
    """score = 0: it keeps what attacks are given, record by record."""

    name = "collector"
    kept: list[RecordSignals] = field(default_factory=list, compare=False, repr=False)

    @property
    def needs(self) -> frozenset[Need]:
        """The records themselves under all models."""
        return frozenset(Need(role, View.TEXT, moments=role in MOMENTS) for role in KEPT)

    def score_record(self, signals: RecordSignals) -> float:
        """Keep it, without its text."""
        self.kept.append(RecordSignals("", tokens=dict(signals.tokens), missing=dict(signals.missing)))
        return 0.0

    def config(self) -> dict[str, object]:
        """Nothing that changes a score."""
        return {}


@dataclass(frozen=True, eq=False)
class Kept:
    """A finished cell.

    Attributes:
        cell: which.
        ids: (n,) of the records.
        labels: (n,) whether each is a member.
        documents: (n,) its document, near copies joined.
        signals: (n,) what attacks saw, without the text.
        scores: (n,) of other attacks, NaN where there is none.
        about: settings, versions, models, seconds.
    """

    cell: Cell
    ids: Sequence[str]
    labels: Bools
    documents: Sequence[str]
    signals: Sequence[RecordSignals]
    scores: Mapping[str, Floats]
    about: Mapping[str, Any]


def cell_path(folder: Path, cell: Cell) -> Path:
    return folder / f"{cell.name}.npz"


def write_cell(folder: Path, kept: Kept) -> Path:
    """Write a cell, whole or not at all; only its owner may read it, since it says who is a member."""
    arrays: dict[str, NDArray[Any]] = {
        "ids": np.array(list(kept.ids), dtype=np.str_),
        "labels": np.asarray(kept.labels, dtype=np.bool_),
        "documents": np.array(list(kept.documents), dtype=np.str_),
        "about": np.array(json.dumps({"format": 1, "cell": asdict(kept.cell), **kept.about})),
    }
    arrays |= {f"score.{name}": np.asarray(values, dtype=np.float64) for name, values in kept.scores.items()}
    for role in KEPT:
        arrays |= {f"{role.value}.{name}": array for name, array in _ragged(kept.signals, role).items()}
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    path = cell_path(folder, kept.cell)
    write_private(path, stream.getvalue())
    return path


def _ragged(signals: Sequence[RecordSignals], role: Role) -> dict[str, NDArray[Any]]:
    """One role's signals of all records, one after the other; a record that it has none of has length -1."""
    found = [of_record.tokens.get((role, View.TEXT)) for of_record in signals]
    there = [each for each in found if each is not None]
    if not there:
        return {}
    arrays: dict[str, NDArray[Any]] = {
        "lengths": np.array([-1 if each is None else len(each) for each in found], dtype=np.int64),
        "windows": np.array([0 if each is None else each.windows for each in found], dtype=np.int64),
        "logprob": np.concatenate([each.logprob for each in there]).astype(np.float32),
        "top1": np.concatenate([each.top1 for each in there]),
    }
    if role in MOMENTS:
        for name in ("mean", "std"):
            arrays[name] = np.concatenate([getattr(each, name) for each in there]).astype(np.float32)
    return arrays


def read_cell(path: Path) -> Kept:
    """Read what `write_cell` wrote."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    about = json.loads(str(arrays["about"]))
    tokens: list[dict[tuple[Role, View], TokenSignals]] = [{} for _ in arrays["labels"]]
    for role in KEPT:
        own = {name.partition(".")[2]: array for name, array in arrays.items() if name.startswith(f"{role.value}.")}
        for row, signals in _cut(own) if own else ():
            tokens[row][role, View.TEXT] = signals
    return Kept(
        cell=Cell(**about.pop("cell")),
        ids=arrays["ids"].tolist(),
        labels=arrays["labels"],
        documents=arrays["documents"].tolist(),
        signals=[RecordSignals("", tokens=of_record) for of_record in tokens],
        scores={k.partition(".")[2]: v for k, v in arrays.items() if k.startswith("score.")},
        about=about,
    )


def _cut(arrays: Mapping[str, NDArray[Any]]) -> Iterator[tuple[int, TokenSignals]]:
    start = 0
    for row, (length, windows) in enumerate(zip(arrays["lengths"].tolist(), arrays["windows"].tolist(), strict=True)):
        if length >= 0:
            part = slice(start, start + length)
            moments = [arrays[name][part] if name in arrays else None for name in ("mean", "std")]
            yield row, TokenSignals(arrays["logprob"][part], arrays["top1"][part], *moments, windows)
            start += length


def read_cells(folder: Path) -> list[Kept]:
    """All finished cells of a folder, in the order of their names."""
    return [read_cell(path) for path in sorted(folder.glob("*.npz"))]


def has_signals(kept: Kept, role: Role) -> bool:
    """Whether a model was there in a cell."""
    try:
        return bool(kept.signals) and kept.signals[0].of(role) is not None
    except MissingSignal:
        return False
