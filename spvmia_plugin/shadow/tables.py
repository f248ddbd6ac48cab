"""What the audit of a shadow saw, kept in a file: the features of its records, whose they are, and who is a member."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from spvmia_plugin.attacks.pooled import VERSION
from spvmia_plugin.auditing.fitted_on import FORMAT, FittedShadow
from spvmia_plugin.errors import SpvmiaError, reason_of
from spvmia_plugin.learning import Labelled
from spvmia_plugin.util.files import write_private
from spvmia_plugin.util.strict_json import any_loads


@dataclass(frozen=True, eq=False)
class Seen(Labelled):
    """What the audit of one shadow saw.

    Attributes:
        version: of the features' definitions (`attacks.pooled.VERSION`).
        base: `auditing.shadowed.weights_mark` of the base that was audited; None where nothing tells its weights.
        fitted: which shadow it is, and which records the rows are.
    """

    version: int = VERSION
    base: str | None = None
    fitted: FittedShadow = field(default_factory=lambda: FittedShadow("", "", ()))


def write_table(path: Path, seen: Seen) -> None:
    """Keep what an audit saw; it says who is a member of the shadow, so only its owner may read it.

    Raises:
        OSError: it cannot be written.
    """
    stream = io.BytesIO()
    told = {
        "format": FORMAT,
        "version": seen.version,
        "base": seen.base,
        "manifest": seen.fitted.manifest,
        "key": seen.fitted.key,
    }
    np.savez_compressed(
        stream,
        names=np.array(seen.names, dtype=np.str_),
        table=seen.table,
        labels=seen.labels,
        clusters=np.array(seen.clusters, dtype=np.str_),
        records=np.array(seen.fitted.records, dtype=np.str_),
        about=np.array(json.dumps(dict(seen.about))),
        told=np.array(json.dumps(told)),
    )
    write_private(path, stream.getvalue())


def read_table(path: Path) -> Seen | None:
    """Read what `write_table` wrote; None for a file of an earlier version, which does not say enough.

    Raises:
        SpvmiaError: it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if "told" not in file.files:
                return None
            told = any_loads(str(file["told"]))
            if told.get("format") != FORMAT:
                return None
            seen = Seen(
                table=file["table"],
                labels=file["labels"],
                names=tuple(file["names"].tolist()),
                clusters=file["clusters"].tolist(),
                about=any_loads(str(file["about"])),
                version=told["version"],
                base=told["base"],
                fitted=FittedShadow(str(told["manifest"]), str(told["key"]), tuple(file["records"].tolist())),
            )
        _check(seen)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, BadZipFile) as error:
        raise SpvmiaError(
            f"--output: {path}: expected what an audit of a shadow saw, got a file that cannot be read "
            f"({reason_of(error)}); remove it, and the same command makes it again"
        ) from error
    return seen


def _check(seen: Seen) -> None:
    """Make sure that the parts of a file belong together.

    Raises:
        ValueError: they do not.
    """
    rows = len(seen.labels)
    parts: dict[str, Any] = {"clusters": seen.clusters, "records": seen.fitted.records}
    if seen.table.dtype != np.float32 or seen.table.shape != (rows, len(seen.names)):
        raise ValueError(
            f"expected {rows} rows of {len(seen.names)} float32 features, got {seen.table.dtype} {seen.table.shape}"
        )
    if seen.labels.dtype != np.bool_ or seen.labels.ndim != 1:
        raise ValueError(f"expected one true or false for each row, got {seen.labels.dtype} {seen.labels.shape}")
    for name, values in parts.items():
        if not isinstance(values, (list, tuple)) or len(values) != rows:
            raise ValueError(f"expected {rows} {name}, got others")
    if np.isinf(seen.table).any():
        raise ValueError("expected finite features, got infinite ones")
