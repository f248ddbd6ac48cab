"""Where the records of a manifest come from: the data, the source of a class, the row of a record."""

from __future__ import annotations

from dataclasses import dataclass

from spvmia_plugin.config import Format
from spvmia_plugin.records import LossOn


@dataclass(frozen=True)
class DataOrigin:
    """Where the texts are, and how they were cut.

    Attributes:
        spec: absolute path of a file, `hf:...`, or the name of a data set.
        column: the column with the text.
        block_size: tokens per record, 0 for whole documents.
        split: how documents were dealt out.
        seed: of that.
        format: what the rows are: `text`, or a kind of conversation.
        loss_on: which tokens of conversations carried loss; None for text.
        record_tokens: conversations were cut to so many; None for text.
        template: the chat template they were rendered by; None for text, and for the tokenizer's own.
        end_token: each text was trained on with the tokenizer's end token after it, cut to `record_tokens`.
    """

    spec: str
    column: str
    block_size: int
    split: str
    seed: int
    format: Format = "text"
    loss_on: LossOn | None = None
    record_tokens: int | None = None
    template: str | None = None
    end_token: bool = False

    def to_json(self) -> dict[str, object]:
        """As it stands in the file: of plain text without what only conversations have."""
        told = vars(self)
        left_out = () if self.end_token else ("end_token",)
        names = told if self.format != "text" or self.loss_on is not None else _OF_TEXT
        return {name: told[name] for name in names if name not in left_out}


_OF_TEXT = ("spec", "column", "block_size", "split", "seed")


@dataclass(frozen=True)
class ClassSource:
    """Where the texts of one class are.

    Attributes:
        spec: absolute path of a file, folder or pattern, or `hf:...`.
        column: the column with the text.
    """

    spec: str
    column: str


@dataclass(frozen=True)
class RowMark:
    """What a manifest with sources knows of a record besides its place.

    Attributes:
        hash: keyed hash of what the record holds, see `fingerprint.content_hash`.
        unit: keyed hash of whom it belongs to, see `units.unit_hash`; None where nobody said.
    """

    hash: str
    unit: str | None = None
