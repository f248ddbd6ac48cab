"""Whether the classes are written differently: case, white space, line ends, punctuation, first and last characters.

A template that differs between members and non-members, or a file that was stripped, moves the loss of any model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.attacks.characters import CLASSES, LETTERS, NAMES, classes_in, count_classes
from spvmia_plugin.checks import EXAMPLES, Finding
from spvmia_plugin.checks.shifts import SHIFT_CONFIDENCE, labelings, labels_of, majority, severity_of
from spvmia_plugin.metrics.arrays import Bools, Codes, Floats
from spvmia_plugin.metrics.roc import auroc
from spvmia_plugin.records import Record

NGRAMS = 128
"""n-grams of classes of characters that are looked at."""
_AT_A_TIME = 2048
"""Records whose features are multiplied with all labelings at once."""


def look_shift(records: Sequence[Record]) -> list[Finding]:
    """Whether how texts are written tells the classes apart, and which feature does so most.

    Features are the share of each class of characters, and whether a text has each of the n-grams of classes that
    `bag_of_words` counts. Labels of whole documents are permuted; the largest deviation over all features decides, in
    standard deviations over the labelings (Westfall and Young 1993), so that the test holds for all of them together.
    """
    labels, codes = labels_of(records)
    of_documents = majority(labels, codes) if len(records) else labels
    if of_documents.all() or not of_documents.any():
        return []
    texts = [record.text for record in records]
    counted = count_classes(texts, NGRAMS)
    names = [f"{name} as a share of all characters" for name in NAMES] + counted.names()
    shares = _shares(texts)
    deviations = _deviations(shares, counted.counts, of_documents, codes)
    largest = deviations.max(axis=0)
    p_value = float(np.mean(largest >= largest[0]))
    if p_value > 1 - SHIFT_CONFIDENCE + 1e-9:
        return []
    # What deviates as much as the largest does in one labeling of a hundred.
    beyond = np.sort(largest[1:])[-max(1, int((1 - SHIFT_CONFIDENCE) * len(largest) + 1e-9))]
    letters = [
        [part in LETTERS for part in ngram] for ngram in [*((each,) for each in range(CLASSES)), *counted.ngrams]
    ]
    # "ends with line break" and "ends with lower-case letters" say the same: the one that names what is special.
    order = sorted(
        np.flatnonzero(deviations[:, 0] >= min(beyond, largest[0])).tolist(),
        key=lambda k: (-round(deviations[k, 0], 3), sum(letters[k]), len(letters[k])),
    )
    first = order[0]
    values = (shares[:, first] if first < CLASSES else counted.counts[:, first - CLASSES] > 0).astype(np.float64)
    means, size = (float(values[labels].mean()), float(values[~labels].mean())), auroc(values, labels)
    message = (
        f"members and non-members are written differently: '{names[first]}' is {means[0]:.1%} in members and "
        f"{means[1]:.1%} in non-members, and tells them apart with AUROC {size:.3f} ({len(order)} such features "
        f"{'differs' if len(order) == 1 else 'differ'}): a model's loss follows the way a text is written, whatever it "
        "was trained on; write both classes alike"
    )
    details: dict[str, object] = {
        "auroc": size,
        "p_value": p_value,
        "confidence": SHIFT_CONFIDENCE,
        "feature": names[first],
        "members": means[0],
        "nonmembers": means[1],
        "differing": len(order),
        "features": [names[k] for k in order[:EXAMPLES]],
    }
    return [Finding("look_shift", severity_of(size), message, details)]


def _shares(texts: Sequence[str]) -> NDArray[np.float32]:
    """(n, classes) share of each class of characters in each text."""
    found = np.zeros((len(texts), CLASSES), dtype=np.float32)
    for start in range(0, len(texts), _AT_A_TIME):
        classes, lengths = classes_in(texts[start : start + _AT_A_TIME])
        cells = np.repeat(np.arange(len(lengths)), lengths) * CLASSES + classes
        counts = np.bincount(cells, minlength=len(lengths) * CLASSES).reshape(-1, CLASSES)
        found[start : start + len(lengths)] = counts / np.maximum(lengths, 1)[:, np.newaxis]
    return found


def _deviations(shares: NDArray[np.float32], counts: NDArray[np.uint8], of_documents: Bools, codes: Codes) -> Floats:
    """(F, B) how far the labelings' sums of each feature lie from their mean, in their standard deviations."""
    drawn = np.array([*labelings(of_documents)])
    mean = np.concatenate([shares.mean(axis=0, dtype=np.float64), (counts > 0).mean(axis=0)])
    sums = np.zeros((len(mean), len(drawn)))
    for start in range(0, len(codes), _AT_A_TIME):
        some = slice(start, start + _AT_A_TIME)
        features = np.concatenate([shares[some], counts[some] > 0], axis=1) - mean
        sums += features.T.astype(np.float32) @ drawn[:, codes[some]].T.astype(np.float32)
    sums -= sums.mean(axis=1, keepdims=True)
    spread = sums.std(axis=1, keepdims=True)
    found: Floats = np.abs(np.divide(sums, spread, out=np.zeros_like(sums), where=spread > 1e-3))
    return found
