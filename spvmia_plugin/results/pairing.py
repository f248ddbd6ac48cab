"""Two audits of the same records, put in one order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.results.comparable import SameData
from spvmia_plugin.results.model import Audit


def rows_in(audit: Audit, other: Audit, same_data: SameData = "fingerprint") -> NDArray[np.intp]:
    """(n,) where the other audit has each record of this one.

    Args:
        audit: this one.
        other: the other one.
        same_data: how data are recognised. An id is a file's name and a line: two files of one name have equal ids, and
            other records; the keyed hash of the texts tells.

    Raises:
        SpvmiaError: either kept no samples, or they are not of the same records.
    """
    for each, whose in ((audit, "the first audit"), (other, "the other")):
        if not each.has_samples:
            raise SpvmiaError(f"results: expected scores of records, got none of {whose}; run with --log_samples")
    places = {record_id: row for row, record_id in enumerate(other.ids())}
    ids, labels = list(audit.ids()), other.labels()
    same = [
        (row := places.get(record_id)) is not None and labels[row] == is_member
        for record_id, is_member in zip(ids, audit.labels(), strict=True)
    ]
    if not all(same) or len(places) != len(ids):
        raise SpvmiaError(
            f"results: expected two audits of the same records, got {len(ids)} and {len(places)} of which {sum(same)} "
            "have the same id and class; audit both models with the same data and mia_seed"
        )
    if same_data == "fingerprint" and audit.mia_audit.data.fingerprint != other.mia_audit.data.fingerprint:
        raise SpvmiaError(
            "results: expected two audits of the same records, got equal ids with other fingerprints of records and "
            "prompts: other texts, other prompts, or the key of another machine; audit both models with the same data "
            "on one machine, or trust the ids with --same-data ids"
        )
    return np.array([places[record_id] for record_id in ids], dtype=np.intp)
