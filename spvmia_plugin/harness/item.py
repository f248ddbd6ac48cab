"""What the harness gathers of one record for one metric: a number, so that every logger can put it into a table."""

from __future__ import annotations

import math


class Item(float):
    """A record's score, NaN where there is none, that knows which record it is of.

    The harness hands the items of all records to a metric's aggregation, which needs labels and ids, and hands the same
    items to its loggers: Weights & Biases refuses a column that is not of one simple type.

    Attributes:
        record_id: the record.
        is_member: its class.
        reason: why there is no score, or what limits it.
    """

    __slots__ = ("is_member", "reason", "record_id")

    record_id: str
    is_member: bool
    reason: str | None

    def __new__(cls, record_id: str, is_member: bool, score: float | None, reason: str | None) -> Item:
        """Make the item of a record; `score` None for one without a score."""
        item = super().__new__(cls, math.nan if score is None else score)
        item.record_id = record_id
        item.is_member = is_member
        item.reason = reason
        return item

    def __reduce__(self) -> tuple[type[Item], tuple[str, bool, float | None, str | None]]:
        """Between ranks it travels by pickle."""
        return Item, (self.record_id, self.is_member, self.score, self.reason)

    @property
    def score(self) -> float | None:
        """The score as an ordinary number, None where there is none."""
        return None if math.isnan(self) else float(self)
