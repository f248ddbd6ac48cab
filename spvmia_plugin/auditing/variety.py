"""Whether what a target wrote where records go on differs: from record to record, and from draw to draw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from spvmia_plugin.auditing.self_prompts import LEAST_DISTINCT
from spvmia_plugin.errors import SpvmiaError

ENOUGH = 64
"""Records of which the first answers are looked at while others are still to be written."""


def check_varied(answers: Sequence[str], truths: Sequence[str], *, allowed: bool) -> None:
    """Refuse a target that answers most records alike, as one does that refuses them all by one sentence.

    Args:
        answers: the first one of each record.
        truths: what stands in their place in the records, which may be alike themselves: one-word replies.
        allowed: `mia_allow_degenerate`.

    Raises:
        SpvmiaError: of the answers fewer than half as many differ as of the truths.
    """
    distinct, wanted = len(set(answers)), LEAST_DISTINCT * len(set(truths))
    if allowed or distinct >= wanted or len(answers) < 2:
        return
    (commonest, alike) = Counter(answers).most_common(1)[0]
    why = "it writes nothing" if not commonest.strip() else "it refuses the request, or does not read it"
    raise SpvmiaError(
        f"mia_continuations: expected answers of which at least half differ from record to record, got {distinct} "
        f"different ones, {alike} of {len(answers)} the same: {why}; look at what the model answers to the first half "
        "of a record, check its name, filters and limits of tokens; mia_allow_degenerate=true goes on"
    )


@dataclass
class Variety:
    """Counts over all records of an audit.

    Attributes:
        records: that were asked about, by distinct prompts.
        alike: those of them with several draws that are all the same, and not empty.
        texts: that were written.
        empty: those of them with nothing in them.
        seen: hashes of the first answers.
    """

    records: int = 0
    alike: int = 0
    texts: int = 0
    empty: int = 0
    seen: set[int] = field(default_factory=set, repr=False)

    def add(self, draws: Sequence[str]) -> None:
        """What was written for one prompt, draw by draw."""
        self.records += 1
        self.texts += len(draws)
        self.empty += sum(not text.strip() for text in draws)
        self.alike += len(draws) > 1 and len(set(draws)) == 1 and bool(draws[0].strip())
        self.seen.add(hash(draws[0]))

    def notes(self) -> list[str]:
        """What a reader of the results should know."""
        found = []
        if len(self.seen) < LEAST_DISTINCT * self.records:  # mia_allow_degenerate, or records with one-word replies
            found.append(
                f"{len(self.seen)} different answers to {self.records} records: what a target writes tells little of "
                "them where it answers most of them alike"
            )
        if self.alike >= LEAST_DISTINCT * self.records > 0:
            found.append(
                f"all draws are the same for {self.alike} of {self.records} records: the target knows them by "
                "heart, or draws nothing, or a server or cache ignores the seed: then many draws tell no more than one"
            )
        if self.empty:
            found.append(f"{self.empty} of {self.texts} texts that the target wrote are empty")
        return found
