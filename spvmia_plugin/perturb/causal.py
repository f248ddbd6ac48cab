"""Tokens replaced by draws from the base model's own next-token distribution."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.protocols import Backend, Neighbours, OnDone, TokenEdits
from spvmia_plugin.records import Document
from spvmia_plugin.seeds import stable_seed
from spvmia_plugin.signals import Role

Positions = NDArray[np.int64]


@dataclass(frozen=True)
class _Window:
    """Part of a text that the base model reads at once: its tokens, and for each draw the positions in it."""

    start: int
    token_ids: list[int]
    positions: list[Positions]
    seed: int


class Causal:
    """2N independent draws: a share of the tokens is replaced by x~_t ~ p_base(. | x_<t), x~_t != x_t.

    One forward pass of the base over a text yields all its paraphrases, with the target's own tokenizer and no second
    model. Each replaced token is conditioned on the original tokens before it (on the prefix token for the first), so
    every position can be chosen. A text longer than the context is read in windows of that length.
    """

    name: ClassVar[str] = "causal"
    roles: ClassVar[tuple[Role, ...]] = (Role.BASE,)
    passes: ClassVar[float] = 1.0

    def __init__(self, config: AuditConfig) -> None:
        self._config = config

    def check(self) -> None:
        """Nothing of its own can be missing; `Backend.require` looks for the base model."""

    def settings(self) -> dict[str, object]:
        """Seed, number of draws, share of tokens."""
        config = self._config
        return {"seed": config.seed, "draws": 2 * config.perturbations, "mask_rate": config.mask_rate}

    def neighbours(
        self,
        texts: Sequence[Document],
        backend: Backend,
        *,
        on_done: OnDone | None = None,
        done: Collection[int] = (),
    ) -> list[Neighbours | None]:
        """2N token edits a text, each of max(1, floor(rate * T)) positions; handed on batch by batch of the model."""
        from spvmia_plugin.scoring.batching import plan_passes, token_budget

        tokens = [backend.encode(text.text) for text in texts]
        found: list[Neighbours | None] = [None] * len(texts)
        for batch in plan_passes([len(of_text) for of_text in tokens], token_budget(device_type(backend.device))):
            if all(i in done for i in batch.rows):
                continue
            made = self._of([texts[i].id for i in batch.rows], [tokens[i] for i in batch.rows], backend)
            finished = dict(zip(batch.rows, made, strict=True))
            for i, of_text in finished.items():
                found[i] = of_text
            if on_done is not None:
                on_done(finished)
        return found

    def _of(self, ids: Sequence[str], tokens: Sequence[list[int]], backend: Backend) -> list[Neighbours]:
        windows = [self._windows(*text, backend.max_length) for text in zip(ids, tokens, strict=True)]
        flat = [window for of_text in windows for window in of_text]
        drawn = iter(
            backend.sample_replacements(
                Role.BASE, [w.token_ids for w in flat], [w.positions for w in flat], [w.seed for w in flat]
            )
            if flat
            else ()
        )
        return [_merge(of_text, [next(drawn) for _ in of_text]) for of_text in windows]

    def _windows(self, text_id: str, token_ids: list[int], length: int) -> list[_Window]:
        """Choose positions over the whole text, then cut it where the context ends."""
        config, total = self._config, len(token_ids)
        if not total:
            return []
        rng = np.random.default_rng(stable_seed(config.seed, text_id, "causal"))
        count = max(1, int(np.floor(config.mask_rate * total)))
        draws = [np.sort(rng.choice(total, count, replace=False)) for _ in range(2 * config.perturbations)]
        return [
            _Window(
                start,
                token_ids[start : start + length],
                [draw[(draw >= start) & (draw < start + length)] - start for draw in draws],
                stable_seed(config.seed, text_id, "causal", start),
            )
            for start in range(0, total, length)
        ]


def device_type(device: object) -> str:
    """`cpu` of `cpu`, `cuda` of `cuda:0`, whether a string or torch's own."""
    return str(device).partition(":")[0]


def _merge(windows: Sequence[_Window], drawn: Sequence[Sequence[NDArray[np.int64]]]) -> Neighbours:
    """Put the replacements of a text's windows together, draw by draw."""
    if not windows:
        return Neighbours((), reason="no tokens")
    variants = []
    for k in range(len(windows[0].positions)):
        positions = [int(p) + window.start for window in windows for p in window.positions[k]]
        replacements = [int(token_id) for of_window in drawn for token_id in of_window[k]]
        variants.append(TokenEdits(tuple(positions), tuple(replacements)))
    total = windows[-1].start + len(windows[-1].token_ids)
    return Neighbours(tuple(variants), mask_rate=len(variants[0].positions) / total)
