"""Tokens replaced by draws from the base model's own next-token distribution."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.protocols import Backend, Neighbours, OnDone, TokenEdits, frame_of, survives
from spvmia_plugin.records import Document
from spvmia_plugin.seeds import stable_seed
from spvmia_plugin.signals import Role

Positions = NDArray[np.int64]


CANDIDATES = 4
"""Draws for each paraphrase that is still to be found: about a third of them are no text's own tokens."""
ROUNDS = 6


@dataclass
class _Text:
    """One text while paraphrases for it are looked for."""

    id: str
    token_ids: list[int]
    found: list[TokenEdits] = field(default_factory=list)


class Causal:
    """2N independent draws: a share of the tokens is replaced by x~_t ~ p_base(. | x_<t), x~_t != x_t.

    One forward pass of the base over a text yields all its paraphrases, with the target's own tokenizer and no second
    model. Each replaced token is conditioned on the original tokens before it; the first one of a text is left alone
    where nothing stands before it. A text longer than the context is read in windows of that length.

    A paraphrase has to be a text: a draw is kept if its tokens are those that its own text is cut into
    (`protocols.survives`), so positions and tokens are distributed as the draws given that they survive. Others nobody
    could send to a model, and no model has seen their like. Where too few are found, the reason says so.
    """

    name: ClassVar[str] = "causal"
    roles: ClassVar[tuple[Role, ...]] = (Role.BASE,)
    passes: ClassVar[float] = 1.0

    def __init__(self, config: AuditConfig) -> None:
        self._config = config

    def check(self) -> None:
        """Nothing of its own can be missing; `Backend.require` looks for the base model."""

    def settings(self) -> dict[str, object]:
        """Seed, number of draws, share of tokens; and that draws survive the way through text."""
        config = self._config
        draws = 2 * config.perturbations
        return {"seed": config.seed, "draws": draws, "mask_rate": config.mask_rate, "texts_only": True}

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
            made = self._of([_Text(texts[i].id, tokens[i]) for i in batch.rows], backend)
            finished = dict(zip(batch.rows, made, strict=True))
            for i, of_text in finished.items():
                found[i] = of_text
            if on_done is not None:
                on_done(finished)
        return found

    def _of(self, texts: Sequence[_Text], backend: Backend) -> list[Neighbours]:
        config, frame = self._config, frame_of(backend, "")
        lead = len(frame.context) + len(frame.before)
        first = 0 if lead else 1  # the first position that something stands before
        size = max(backend.max_length - lead, first + 1)  # tokens of a window
        wanted = 2 * config.perturbations
        # A text whose own tokens don't survive has no paraphrase whose tokens do.
        able = [t for t in texts if len(t.token_ids) > first and survives(backend, t.token_ids)]
        for number in range(ROUNDS):
            short = [t for t in able if len(t.found) < wanted]
            if not short:
                break
            draws = [self._positions(t, first, CANDIDATES * (wanted - len(t.found)), number) for t in short]
            for text, edits in zip(short, _drawn(short, draws, first, size, number, backend, config.seed), strict=True):
                kept = [edit for edit in edits if survives(backend, edit.apply(text.token_ids))]
                text.found += kept[: wanted - len(text.found)]
        return [_neighbours(text, wanted, able=any(text is one for one in able)) for text in texts]

    def _positions(self, text: _Text, first: int, draws: int, number: int) -> list[Positions]:
        """For each draw, ascending positions over the whole text."""
        total = len(text.token_ids)
        rng = np.random.default_rng(stable_seed(self._config.seed, text.id, "causal", "positions", number))
        count = min(max(1, int(np.floor(self._config.mask_rate * total))), total - first)
        return [np.sort(rng.choice(total - first, count, replace=False)) + first for _ in range(draws)]


def _drawn(
    texts: Sequence[_Text],
    draws: Sequence[Sequence[Positions]],
    first: int,
    size: int,
    number: int,
    backend: Backend,
    seed: int,
) -> list[list[TokenEdits]]:
    """Draw the tokens at the given positions, in windows of `size` tokens; each window is one forward pass."""
    windows: list[tuple[int, int, list[int], list[Positions]]] = []  # text, where it starts, tokens, positions in it
    for i, text in enumerate(texts):
        done = 0  # every position before it lies in a window
        while done < len(text.token_ids):
            start = max(0, done - first)  # one token of context before the positions of a later window
            end = min(start + size, len(text.token_ids))
            inside = [draw[(draw >= done) & (draw < end)] - start for draw in draws[i]]
            windows.append((i, start, text.token_ids[start:end], inside))
            done = end
    tokens = backend.sample_replacements(
        Role.BASE,
        [ids for _, _, ids, _ in windows],
        [inside for _, _, _, inside in windows],
        [stable_seed(seed, texts[i].id, "causal", "tokens", number, start) for i, start, _, _ in windows],
    )
    replaced: list[list[list[int]]] = [[[] for _ in of_text] for of_text in draws]
    for (i, *_), of_window in zip(windows, tokens, strict=True):
        for k, token_ids in enumerate(of_window):
            replaced[i][k] += map(int, token_ids)
    return [
        [TokenEdits(tuple(map(int, where)), tuple(ids)) for where, ids in zip(of_text, new, strict=True)]
        for of_text, new in zip(draws, replaced, strict=True)
    ]


def _neighbours(text: _Text, wanted: int, *, able: bool) -> Neighbours:
    total = len(text.token_ids)
    reason = None
    if not total:
        reason = "no tokens"
    elif total == 1 and not able:
        reason = "no token that another one stands before"
    elif not able:
        reason = "the record's text is not cut into its own tokens again"
    elif len(text.found) < wanted:
        reason = f"{len(text.found)} of {wanted} paraphrases: other draws were no text's own tokens"
    rate = len(text.found[0].positions) / total if text.found else math.nan
    return Neighbours(tuple(text.found), mask_rate=rate, reason=reason)


def device_type(device: object) -> str:
    """`cpu` of `cpu`, `cuda` of `cuda:0`, whether a string or torch's own."""
    return str(device).partition(":")[0]
