"""Words masked and filled in by a seq2seq model: the paper's semantic domain.

First the paraphrases: what is masked, and what is tried again. Then the model that fills, batched, with a random stream
of its own for every row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.modeling_outputs import BaseModelOutput

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.forward import cache_name, cache_of
from spvmia_plugin.perturb.masking import (
    RELEASED_MIN_WORDS,
    Cutter,
    MaskTokens,
    Span,
    Window,
    Words,
    cannot_load,
    load_mask_tokens,
    paper_spans,
    released_spans,
    split_released,
    split_words,
)
from spvmia_plugin.protocols import Backend, Neighbours, OnDone, Perturbation, TextEdits
from spvmia_plugin.records import Document
from spvmia_plugin.seeds import stable_seed
from spvmia_plugin.util.libraries import isolated_rng, quiet_libraries

RETRIES = 8
"""How often a paraphrase with missing fills is drawn anew, mask places and all. The released code never stops."""

CHUNK = {"cpu": 16}
CHUNK_DEVICE = 64
"""Texts whose paraphrases are made together, retries and all, and handed on: what is done again after a kill. Where
batches are slow there are fewer in it; where they are fast, more, so that batches of retries are not too small."""

TOP_K = 50
"""`generate`'s default when the released code was written; that code leaves it there, with top_p 1."""

_BATCH_TOKENS = {"cpu": 4096}
_BATCH_TOKENS_ELSEWHERE = 16384


@dataclass(frozen=True, slots=True)
class _Draw:
    """One try at a paraphrase: what is masked, and what the mask model reads for it."""

    spans: list[Span]
    windows: list[Window]
    seed: int

    def rows(self) -> Iterable[FillRow]:
        """The mask model's inputs, one a window."""
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
        size = CHUNK.get(torch.device(backend.device).type, CHUNK_DEVICE)
        chunks = [order[first : first + size] for first in range(0, len(order), size)]
        if missing := [chunk for chunk in chunks if not all(i in done for i in chunk)]:
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
                filled = self._edits(words[key[0]], of_draw.spans, of_spans)
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

    def _edits(self, words: Words, spans: Sequence[Span], fills: Sequence[str | None]) -> _Filled:
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


@dataclass(frozen=True, slots=True)
class FillRow:
    """One input of the mask model: its tokens, the number of its masks, the seed of its draws."""

    token_ids: list[int]
    masks: int
    seed: int

    @property
    def budget(self) -> int:
        """The most tokens to draw: the released code's 150 less the start token, more for many masks."""
        return max(149, 16 + 8 * self.masks)


class MaskModel:
    """A loaded mask model. A row's draws depend on its seed and its own tokens, up to the rounding of a batch."""

    def __init__(self, tokens: MaskTokens, model: Any, device: Any) -> None:
        self._tokens = tokens
        self._model = model
        self._device = torch.device(device)
        self._batch_tokens = _BATCH_TOKENS.get(self._device.type, _BATCH_TOKENS_ELSEWHERE)

    def fill(self, rows: Sequence[FillRow]) -> list[list[str | None]]:
        """The fills of every row's masks, in input order; None where the model gave none."""
        waiting = sorted(range(len(rows)), key=lambda i: len(rows[i].token_ids), reverse=True)
        outputs: dict[int, list[int]] = {}
        while waiting:
            batch = waiting[: self._fitting(len(rows[waiting[0]].token_ids))]
            sampled = self._sample_or_shrink([rows[i] for i in batch])
            if sampled is not None:
                outputs.update(zip(batch, sampled, strict=True))
                waiting = waiting[len(batch) :]
        return [self._tokens.fills(outputs[i], row.masks) for i, row in enumerate(rows)]

    def _fitting(self, longest: int) -> int:
        """Rows of a batch whose longest has `longest` tokens."""
        return max(1, self._batch_tokens // longest)

    def _sample_or_shrink(self, rows: Sequence[FillRow]) -> list[list[int]] | None:
        """Sample a batch; None if it does not fit into memory, and smaller ones from now on."""
        from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

        try:
            return self._sample(rows)
        except RuntimeError as error:
            if len(rows) == 1 or not should_reduce_batch_size(error):
                raise
        self._batch_tokens = len(rows) // 2 * max(len(row.token_ids) for row in rows)
        clear_device_cache(garbage_collection=True)
        return None

    def unload(self) -> None:
        """Give the memory back, whoever still holds this object."""
        from accelerate.utils.memory import clear_device_cache

        self._model = None
        clear_device_cache(garbage_collection=True)

    def _sample(self, rows: Sequence[FillRow]) -> list[list[int]]:
        """Draw every row's output, from the start token's successor to its last token."""
        outputs: list[list[int]] = [[] for _ in rows]
        rngs = [np.random.default_rng(row.seed) for row in rows]
        active = list(range(len(rows)))
        decoder = _Decoder(self._model, self._device, [row.token_ids for row in rows], self._start, self._pad)
        while active:
            logits, token_ids = decoder.top(self._tokens.vocabulary)
            drawn = pick(logits, token_ids, np.array([rngs[i].random() for i in active]))
            for i, token_id in zip(active, drawn, strict=True):
                outputs[i].append(int(token_id))
            going = [place for place, i in enumerate(active) if not self._ends(rows[i], outputs[i])]
            active = [active[place] for place in going]
            if active:
                decoder.feed(drawn, going)
        return outputs

    def _ends(self, row: FillRow, output: Sequence[int]) -> bool:
        last = output[-1]
        stops = (self._tokens.tokenizer.eos_token_id, self._tokens.sentinels[row.masks])
        return last in stops or len(output) >= row.budget

    @property
    def _pad(self) -> int:
        pad = self._tokens.tokenizer.pad_token_id
        return int(self._tokens.tokenizer.eos_token_id if pad is None else pad)

    @property
    def _start(self) -> int:
        for source in (self._model.config, self._model.generation_config):
            start = getattr(source, "decoder_start_token_id", None)
            if start is not None:
                return int(start)
        return self._pad


class _Decoder:
    """One batch being decoded: encoder states, cache, and the last tokens. Rows that are done leave the batch."""

    def __init__(self, model: Any, device: Any, rows: Sequence[Sequence[int]], start: int, pad: int) -> None:
        longest = max(map(len, rows))
        self._model = model
        self._mask = torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in rows], device=device)  # (B, S)
        padded = torch.tensor([[*r, *[pad] * (longest - len(r))] for r in rows], device=device)
        with torch.inference_mode():
            self._states = model.get_encoder()(input_ids=padded, attention_mask=self._mask).last_hidden_state
        self._last = torch.full((len(rows), 1), start, device=device)
        self._cache: Any = None
        self._cache_name = cache_name(model)

    def top(self, vocabulary: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The `TOP_K` largest next-token logits of each row, descending, and their tokens: (B, k) both."""
        with torch.inference_mode():
            out = self._model(
                encoder_outputs=BaseModelOutput(last_hidden_state=self._states),
                attention_mask=self._mask,
                decoder_input_ids=self._last,
                use_cache=True,
                **{self._cache_name: self._cache},
            )
            self._cache = cache_of(out)
            logits = out.logits[:, -1, :vocabulary].float()
            values, token_ids = logits.topk(min(TOP_K, logits.shape[-1]), dim=-1)
        return values.double().cpu().numpy(), token_ids.cpu().numpy()

    def feed(self, drawn: NDArray[np.int64], going: Sequence[int]) -> None:
        """Go on with the rows at places `going`, whose next input is what was drawn for them."""
        with torch.inference_mode():
            if len(going) < len(drawn):
                keep = torch.tensor(going, device=self._last.device)
                self._cache.batch_select_indices(keep)
                self._states, self._mask = self._states[keep], self._mask[keep]
            self._last = torch.tensor(drawn[list(going)], device=self._last.device)[:, None]


def pick(logits: NDArray[np.float64], token_ids: NDArray[np.int64], uniforms: NDArray[np.float64]) -> NDArray[np.int64]:
    """Draw one token a row from softmax(logits) by inverting its distribution at a uniform number.

    Args:
        logits: (B, k), descending.
        token_ids: (B, k), the tokens they belong to.
        uniforms: (B,), in [0, 1).
    """
    cumulative = np.cumsum(np.exp(logits - logits[:, :1]), axis=1)
    places = (cumulative <= uniforms[:, None] * cumulative[:, -1:]).sum(axis=1)
    return np.asarray(token_ids[np.arange(len(places)), places])


@contextmanager
def loaded(tokens: MaskTokens, device: Any) -> Iterator[MaskModel]:
    """The mask model on `device` in float32 (T5 overflows in float16), taken out of memory at the end.

    Raises:
        SpvmiaError: the weights cannot be loaded.
    """
    from transformers import AutoModelForSeq2SeqLM

    try:
        with isolated_rng(0), quiet_libraries():
            model = AutoModelForSeq2SeqLM.from_pretrained(
                tokens.name, dtype=torch.float32, trust_remote_code=tokens.trusted
            )
    except Exception as error:  # hub, files, formats: each library has its own
        raise cannot_load(tokens.name, error) from error
    filler = MaskModel(tokens, model.to(device).eval(), device)
    del model
    try:
        yield filler
    finally:
        filler.unload()
