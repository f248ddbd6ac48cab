"""What a callback sees of a trainer at its beginning: its rows, and what its collator makes of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spvmia_plugin.trainers.declared import Declared
from spvmia_plugin.trainers.facts import Facts
from spvmia_plugin.trainers.rows import as_before, read_rows
from spvmia_plugin.trainers.seen import Lookout, Sighting, look
from spvmia_plugin.trainers.ways import candidates


@dataclass(frozen=True)
class View:
    """A trainer's rows.

    Attributes:
        facts: what its arguments say.
        tokenizer: of the training; None where it has none.
        loader: of its rows.
    """

    facts: Facts
    tokenizer: Any
    loader: Any

    def sighting(self, declared: Declared) -> tuple[Sighting, int]:
        """What came of looking for the declared records, and where the trainer cuts, as far as rows show it."""
        if self.tokenizer is None or not callable(getattr(self.tokenizer, "decode", None)):
            return Sighting("not checked: the trainer has no tokenizer (processing_class)"), 0
        dataset = getattr(self.loader, "dataset", None)
        if dataset is None:
            return Sighting("not checked: the trainer shows no data set"), 0
        # Blocks of plain trainers are called nothing in particular.
        packs = None if "packing" not in self.facts.settings else self.facts.packing is not None
        rows = read_rows(dataset, blocks=packs)
        if isinstance(rows, str):
            return Sighting(f"not checked: {rows}", unreadable=not hasattr(dataset, "__len__")), 0
        template = getattr(self.tokenizer, "chat_template", None)
        text = template if isinstance(template, str) else None
        ended = "dataset_text_field" in self.facts.settings
        lookout = Lookout(
            rows,
            lambda document: candidates(document, self.tokenizer, text, ended=ended),
            self.facts.max_length,
            self._labels,
        )
        members, nonmembers = declared.sides["members"].documents, declared.sides["nonmembers"].documents
        sighting = look(members, nonmembers, rows, lookout, packed=self.facts.packing is not None)
        return sighting, lookout.cut

    def _labels(self, item: int) -> tuple[bool, ...] | None:
        """What carries loss of a row by itself, as the trainer's collator says."""
        collate = getattr(self.loader, "collate_fn", None)
        if collate is None:
            return None
        try:
            with as_before():
                batch = collate([self.loader.dataset[item]])
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            return None  # it may want whole batches; that the rows don't say it is told anyhow
        labels = batch.get("labels") if isinstance(batch, Mapping) or hasattr(batch, "get") else None
        if labels is None:
            return None
        row, mask = labels[0].tolist(), batch.get("attention_mask")
        if mask is not None and len(mask[0]) == len(row):
            row = [label for label, bit in zip(row, mask[0].tolist(), strict=True) if bit]
        return tuple(label != -100 for label in row)
