"""The scores of a samples file, column by column: 200,000 records under 18 attacks have to fit into memory."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.attacks.base import LARGEST_SCORE
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.results.files import MAX_SAMPLES, encodable, lines_of, open_regular

_LARGEST_COUNT = 2**53


@dataclass(frozen=True, slots=True)
class ScoredRecord:
    """One record under one attack, as the samples file has it.

    Attributes:
        id: `file:row`, `#k` appended for further blocks of the same document.
        is_member: whether it was trained on.
        cluster: id of the document it comes from, the unit of resampling.
        score: higher = more like a member; None if unscored.
        reason: why there is no score.
        n_tokens: scored tokens.
        target: mean log-probability under the target, in nats a token.
        reference: the same under the model the attack calibrates with.
        p_value: how probable the score were if the record had not been seen, None where the attack does not tell.
    """

    id: str
    is_member: bool
    cluster: str
    score: float | None
    reason: str | None
    n_tokens: int | None
    target: float | None
    reference: float | None
    p_value: float | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Roster:
    """Who the n records are, shared by the attacks that scored the same ones.

    Attributes:
        ids: (n,) record ids.
        is_member: (n,) labels.
        clusters: (n,) ids of their documents.
        groups: (n,) what each is one of, None for one of none.
    """

    ids: Sequence[str]
    is_member: NDArray[np.bool_]
    clusters: Sequence[str]
    groups: Sequence[str | None]

    @cached_property
    def rows(self) -> Mapping[str, int]:
        """Place of each id."""
        return {record_id: row for row, record_id in enumerate(self.ids)}


@dataclass(frozen=True, eq=False, repr=False)
class Records(Sequence[ScoredRecord]):
    """The n records of a samples file, in its order.

    Attributes:
        roster: who they are.
        score: (n,) NaN where there is none.
        target: (n,) mean log-probability under the target, NaN where there is none.
        reference: (n,) the same under the model the attack calibrates with.
        n_tokens: (n,) scored tokens, -1 where not known.
        reasons: the different reasons for having no score.
        reason: (n,) place of each record's in `reasons`, -1 for none.
        path: the file.
        text_at: (n,) where the lines begin that hold a text, -1 for others; empty if none does.
        p_value: (n,) p-values, NaN where a record has none; empty if none has.
    """

    roster: Roster
    score: NDArray[np.float64]
    target: NDArray[np.float64]
    reference: NDArray[np.float64]
    n_tokens: NDArray[np.int64]
    reasons: Sequence[str]
    reason: NDArray[np.int32]
    path: Path
    text_at: NDArray[np.int64] = field(repr=False)
    p_value: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def __len__(self) -> int:
        """Number of records."""
        return len(self.roster.ids)

    @overload
    def __getitem__(self, row: int) -> ScoredRecord: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[ScoredRecord]: ...
    def __getitem__(self, row: int | slice) -> ScoredRecord | Sequence[ScoredRecord]:
        """One record, made from the columns."""
        if isinstance(row, slice):
            return [self[place] for place in range(*row.indices(len(self)))]
        reason, n_tokens = int(self.reason[row]), int(self.n_tokens[row])
        score, target, reference = (
            None if math.isnan(value) else float(value)
            for value in (self.score[row], self.target[row], self.reference[row])
        )
        return ScoredRecord(
            id=self.roster.ids[row],
            is_member=bool(self.roster.is_member[row]),
            cluster=self.roster.clusters[row],
            score=score,
            reason=None if reason < 0 else self.reasons[reason],
            n_tokens=None if n_tokens < 0 else n_tokens,
            target=target,
            reference=reference,
            p_value=None if not len(self.p_value) or math.isnan(self.p_value[row]) else float(self.p_value[row]),
        )

    @property
    def has_texts(self) -> bool:
        """Whether the run logged texts."""
        return len(self.text_at) > 0

    def texts(self, ids: Iterable[str]) -> dict[str, str]:
        """Texts of some records by id, read from the file; those that the run did not log are left out.

        Raises:
            SpvmiaError: the file has changed since it was read.
        """
        found: dict[str, str] = {}
        wanted = [row for record_id in ids if (row := self.roster.rows.get(record_id)) is not None and self.has_texts]
        if not wanted:
            return found
        with open_regular(self.path, MAX_SAMPLES) as file:
            for row in wanted:
                if (place := int(self.text_at[row])) < 0:
                    continue
                file.seek(place)
                try:
                    doc = json.loads(next(lines_of(file))[1])["doc"]
                    record_id, text = encodable(doc["id"]), encodable(doc["text"])
                except (ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError):
                    record_id, text = None, ""
                if record_id != self.roster.ids[row]:
                    raise SpvmiaError(
                        f"RESULTS: {self.path}: expected the file that was read, got other lines; report again"
                    )
                found[record_id] = text
        return found


class _Columns:
    """Columns that grow line by line."""

    def __init__(self) -> None:
        self.numbers = {name: array("d") for name in ("score", "target", "reference")}
        self.n_tokens = array("q")
        self.p_value = array("d")
        self.reason = array("i")
        self.reasons: dict[str, int] = {}
        self.text_at = array("q")
        self.labels = bytearray()
        self.groups: list[str | None] = []
        self._names: dict[str, str] = {}
        self.any_text = False

    def add(self, place: int, doc: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Take one line's values. Raises ValueError, TypeError or KeyError for what is not of the types that it is
        read as."""
        for name, column in self.numbers.items():
            column.append(_number(result[name]))
        self.n_tokens.append(_count(result["n_tokens"]))
        self.p_value.append(_share(result.get("p_value")))
        reason, text, group = result["reason"], doc.get("text"), doc.get("group")
        if not isinstance(doc["is_member"], bool) or not isinstance(text, (str, type(None))):
            raise TypeError
        if reason is None:
            self.reason.append(-1)
        else:
            self.reason.append(self.reasons.setdefault(encodable(reason), len(self.reasons)))
        # One string for all records of a group.
        self.groups.append(None if group is None else self._names.setdefault(name := encodable(group), name))
        self.labels.append(doc["is_member"])
        self.any_text = self.any_text or text is not None
        self.text_at.append(-1 if text is None else place)


def read_samples(path: Path, clusters: Mapping[str, str], before: Iterable[Records] = ()) -> Records:
    """Read a samples file line by line.

    Args:
        path: the file.
        clusters: document of each record whose id does not tell it.
        before: what was read of other attacks of the run; ids, labels and documents that are the same are shared.

    Raises:
        SpvmiaError: names the file and the line, and nothing of what stands in it.
    """
    columns, number = _Columns(), 0
    known = [other.roster.ids for other in before]
    ids: list[str] = []
    like: Sequence[str] = ()
    with open_regular(path, MAX_SAMPLES) as file:
        for number, (place, line) in enumerate(lines_of(file), 1):
            try:
                sample = json.loads(line)
                doc, result = sample["doc"], json.loads(sample["resps"][0][0])
                record_id = encodable(doc["id"])
                columns.add(place, doc, result)
            except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError):
                raise SpvmiaError(
                    f"RESULTS: {path}, line {number}: expected a sample of a privacy task, got something else; "
                    "run lm_eval again with --log_samples"
                ) from None
            if number == 1:
                like = next((other for other in known if other[0] == record_id), ())
            # One string for all attacks: ids of 200,000 records take 20 MB.
            ids.append(like[number - 1] if number <= len(like) and like[number - 1] == record_id else record_id)
    labels = np.frombuffer(bytes(columns.labels), dtype=np.uint8).astype(bool)
    roster = Roster(ids, labels, _documents(ids, clusters), columns.groups)
    for other in before:
        if (
            other.roster.ids == ids
            and (other.roster.is_member == labels).all()
            and other.roster.clusters == roster.clusters
            and other.roster.groups == roster.groups
        ):
            roster = other.roster
            break
    p_value = np.array(columns.p_value)
    return Records(
        roster=roster,
        **{name: np.array(column) for name, column in columns.numbers.items()},
        n_tokens=np.array(columns.n_tokens),
        reasons=list(columns.reasons),
        reason=np.array(columns.reason, dtype=np.int32),
        path=path,
        text_at=np.array(columns.text_at if columns.any_text else [], dtype=np.int64),
        p_value=p_value if np.isfinite(p_value).any() else np.empty(0),
    )


def _documents(ids: Sequence[str], clusters: Mapping[str, str]) -> list[str]:
    """The document of each record; the id itself where they are the same, not a copy of it."""
    whole = (record_id.partition("#")[0] if "#" in record_id else record_id for record_id in ids)
    return [clusters.get(record_id, document) for record_id, document in zip(ids, whole, strict=True)]


def _number(value: object) -> float:
    if value is None:
        return math.nan
    if type(value) not in (int, float) or not abs(value) <= LARGEST_SCORE:  # type: ignore[arg-type]
        raise ValueError
    return float(value)  # type: ignore[arg-type]


def _share(value: object) -> float:
    """A p-value, NaN where there is none."""
    number = _number(value)
    if number < 0 or number > 1:
        raise ValueError
    return number


def _count(value: object) -> int:
    if value is None:
        return -1
    if type(value) is not int or not 0 <= value <= _LARGEST_COUNT:
        raise ValueError
    return value
