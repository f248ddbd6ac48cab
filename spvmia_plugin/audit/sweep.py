"""What one model scores in one go: batches are planned over a sweep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from spvmia_plugin.audit.sheet import Sheet
from spvmia_plugin.protocols import ScoreInput
from spvmia_plugin.signals import View


@dataclass(frozen=True)
class Sweep:
    """Distinct sequences, scored with moments or without.

    Attributes:
        inputs: the sequences.
        moments: whether mean and standard deviation over the vocabulary are needed.
    """

    inputs: Sequence[ScoreInput]
    moments: bool


def sweeps(views: Mapping[View, bool], sheets: Iterable[Sheet], population: Sequence[ScoreInput]) -> list[Sweep]:
    """All sequences of one role's views (view -> with moments), each once.

    Paraphrases go last and by themselves. They are not there yet when the first batch of the others is scored to
    measure the speed, and that batch has to be the one which the whole sweep has.
    """
    sheets = list(sheets)
    seen: dict[ScoreInput, bool] = {}
    found = []
    for paraphrases in (False, True):
        for moments in (True, False):
            wanted = [view for view, asked in views.items() if asked is moments]
            wanted = [view for view in wanted if (view is View.NEIGHBOURS) is paraphrases]
            sequences = [item for sheet in sheets for item in sheet.inputs(wanted)]
            sequences += population if View.POPULATION in wanted else []
            new = [item for item in dict.fromkeys(sequences) if item not in seen or (moments and not seen[item])]
            seen |= dict.fromkeys(new, moments)
            found += [Sweep(new, moments)] if new else []
    return found
