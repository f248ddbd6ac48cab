"""Words masked and filled in by a seq2seq model: the paper's semantic domain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.perturb.causal import device_type
from spvmia_plugin.perturb.masking import (
    RELEASED_MIN_WORDS,
    Cutter,
    MaskTokens,
    Span,
    Window,
    Words,
    load_mask_tokens,
    paper_spans,
    released_spans,
    split_released,
    split_words,
)
from spvmia_plugin.protocols import Backend, Neighbours, OnDone, Perturbation, TextEdits
from spvmia_plugin.records import Document
from spvmia_plugin.seeds import stable_seed

if TYPE_CHECKING:
    from spvmia_plugin.perturb.mask_model import FillRow, MaskModel

RETRIES = 8
"""How often a paraphrase with missing fills is drawn anew, mask places and all. The released code never stops."""

CHUNK = {"cpu": 16}
CHUNK_DEVICE = 64
"""Texts whose paraphrases are made together, retries and all, and handed on: what is done again after a kill. Where
batches are slow there are fewer in it; where they are fast, more, so that batches of retries are not too small."""


@dataclass(frozen=True, slots=True)
class _Draw:
    """One try at a paraphrase: what is masked, and what the mask model reads for it."""

    spans: list[Span]
    windows: list[Window]
    seed: int

    def rows(self) -> Iterable[FillRow]:
        """The mask model's inputs, one a window."""
        from spvmia_plugin.perturb.mask_model import FillRow

        for k, window in enumerate(self.windows):
            yield FillRow(window.token_ids, len(window.spans), stable_seed(self.seed, "window", k))


@dataclass(frozen=True, slots=True)
class _Filled:
    """What came of a try.

    Attributes:
        edits: the changed spans.
        changed_words: original words in them.
        complete: whether there is nothing to try again for.
        found: how many masks were filled.
    """

    edits: TextEdits
    changed_words: int
    complete: bool
    found: int

    @property
    def rank(self) -> tuple[bool, int, int]:
        """The best try is the complete one, else that with the most fills, then changes."""
        return self.complete, self.found, self.changed_words


class MaskFill(Perturbation):
    """2N independent fills of masked words (Fu et al. 2024, section 4.3; Mattern et al. 2023; Mitchell et al. 2023).

    In variant `paper`, `mia_mask_rate` of the words are masked in spans of two. With `mia_spv_variant=released` the
    masks are the released code's (pct 0.3, span 2, buffer 1, split at single spaces), an empty or unchanged fill is
    taken as it comes, and texts of fewer than 14 words have no paraphrase. Fills are sampled as that code samples them:
    temperature 1, the 50 most probable tokens.
    """

    name = "mask_fill"
    roles = ()

    def __init__(self, config: AuditConfig) -> None:
        super().__init__(config)
        self._released = config.attack_options.get("mia_spv_variant") == "released"
        self._draws = 2 * config.perturbations
        self.passes = 2.0 * self._draws  # each draw is read once, and about as long in the writing

    @cached_property
    def _tokens(self) -> MaskTokens:
        return load_mask_tokens(self._config.mask_model, self._config.trust_remote_code)

    @cached_property
    def _identity(self) -> dict[str, object]:
        return self._tokens.identity()

    def check(self) -> None:
        """Load the mask model's config and tokenizer.

        Raises:
            SpvmiaError: they cannot be loaded, or the model is no seq2seq model with sentinel tokens; or a mask rate
                is given that the released code does not know.
        """
        if self._released and "mask_rate" in self._config.given:
            raise SpvmiaError(
                f"mia_mask_rate: expected none with mia_spv_variant=released, which masks as the released code does, "
                f"got {self._config.mask_rate}; leave one of the two out"
            )
        _ = self._tokens

    def settings(self) -> dict[str, object]:
        """Seed, number of draws, masking, retries, and the mask model with its revision."""
        masking: dict[str, object] = (
            {"masking": "released"} if self._released else {"masking": "paper", "mask_rate": self._config.mask_rate}
        )
        known = {"seed": self._config.seed, "draws": self._draws, "retries": RETRIES}
        return {**known, **masking, **self._identity}

    def neighbours(
        self,
        texts: Sequence[Document],
        backend: Backend,
        *,
        on_done: OnDone | None = None,
        done: Collection[int] = (),
    ) -> list[Neighbours | None]:
        """2N text edits a text, fewer with a reason where the mask model gives none; texts of like length together.

        Raises:
            SpvmiaError: the mask model cannot be loaded.
        """
        words = [split_released(text.text) if self._released else split_words(text.text) for text in texts]
        reasons = {i: reason for i, of_text in enumerate(words) if (reason := self._reason(of_text))}
        found = {i: Neighbours((), reason=reason) for i, reason in reasons.items()}
        if on_done is not None and not found.keys() <= set(done):
            on_done(dict(found))
        order = sorted((i for i in range(len(texts)) if i not in found), key=lambda i: len(words[i]), reverse=True)
        size = CHUNK.get(device_type(backend.device), CHUNK_DEVICE)
        chunks = [order[first : first + size] for first in range(0, len(order), size)]
        if missing := [chunk for chunk in chunks if not all(i in done for i in chunk)]:
            from spvmia_plugin.perturb.mask_model import loaded

            with loaded(self._tokens, backend.device) as model:
                for chunk in missing:
                    made = self._of([texts[i].id for i in chunk], [words[i] for i in chunk], model)
                    finished = dict(zip(chunk, made, strict=True))
                    found |= finished
                    if on_done is not None:
                        on_done(finished)
        return [found.get(i) for i in range(len(texts))]

    def _reason(self, words: Words) -> str | None:
        if self._released and len(words) < RELEASED_MIN_WORDS:
            return f"fewer than {RELEASED_MIN_WORDS} words, which the released code never perturbs"
        return None if len(words) else "no words"

    def _of(self, ids: Sequence[str], words: Sequence[Words], model: MaskModel) -> list[Neighbours]:
        """Fill all texts' draws together; then again those that failed, with new masks, at most `RETRIES` times."""
        best: dict[tuple[int, int], _Filled] = {}
        pending = [(i, draw) for i in range(len(ids)) for draw in range(self._draws)]
        for attempt in range(1 + RETRIES):
            tries = {(i, draw): self._draw(ids[i], words[i], draw, attempt) for i, draw in pending}
            fills = iter(model.fill([row for of_draw in tries.values() for row in of_draw.rows()]))
            for key, of_draw in tries.items():
                of_spans = [fill for _ in of_draw.windows for fill in next(fills)]
                filled = self._judge(words[key[0]], of_draw.spans, of_spans)
                if key not in best or filled.rank > best[key].rank:
                    best[key] = filled
            pending = [key for key in pending if not best[key].complete]
            if not pending:
                break
        return [self._gather(of_text, [best[i, k] for k in range(self._draws)]) for i, of_text in enumerate(words)]

    def _draw(self, text_id: str, words: Words, draw: int, attempt: int) -> _Draw:
        seed = stable_seed(self._config.seed, text_id, "mask_fill", draw, attempt)
        rng = np.random.default_rng(seed)
        total = len(words)
        spans = released_spans(total, rng) if self._released else paper_spans(total, self._config.mask_rate, rng)
        return _Draw(spans, self._cutter.cut(words, spans), seed)

    @cached_property
    def _cutter(self) -> Cutter:
        return Cutter(self._tokens.encode, self._tokens.context, self._tokens.masks)

    def _judge(self, words: Words, spans: Sequence[Span], fills: Sequence[str | None]) -> _Filled:
        """Make the edits. Spans that came back as they were are left out: no original words go into the store."""
        found = [fill is not None and (self._released or bool(fill)) for fill in fills]
        edits, changed = [], 0
        for span, fill, is_found in zip(spans, fills, found, strict=True):
            start, end = words.chars(span.first, span.end)
            if is_found and fill is not None and fill != words.text[start:end]:
                edits.append((start, end, fill))
                changed += span.words
        complete = all(found) and (self._released or bool(edits))
        return _Filled(TextEdits(tuple(edits)), changed, complete, sum(found))

    def _gather(self, words: Words, filled: Sequence[_Filled]) -> Neighbours:
        """A text's paraphrases, those without a change left out, and what is to be said about them."""
        kept = [f for f in filled if f.edits.spans or f.complete]
        missing, partial = len(filled) - len(kept), sum(not f.complete for f in kept)
        if not kept:
            return Neighbours((), reason=f"no mask filled with other words in {1 + RETRIES} tries")
        reasons = Counter({"not filled": missing, "filled in part": partial})
        told = [f"{count} of {len(filled)} {what}" for what, count in reasons.items() if count]
        return Neighbours(
            tuple(f.edits for f in kept),
            mask_rate=float(np.mean([f.changed_words / len(words) for f in kept])),
            reason=f"{', '.join(told)} in {1 + RETRIES} tries" if told else None,
        )
