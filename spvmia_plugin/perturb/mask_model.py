"""Samples fills from a seq2seq model, batched, with a random stream of its own for every row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.modeling_outputs import BaseModelOutput

from spvmia_plugin.models.forward import cache_name, cache_of
from spvmia_plugin.perturb.masking import MaskTokens, cannot_load
from spvmia_plugin.util.libraries import isolated_rng, quiet_libraries

TOP_K = 50
"""`generate`'s default when the released code was written; that code leaves it there, with top_p 1."""

_BATCH_TOKENS = {"cpu": 4096}
_BATCH_TOKENS_ELSEWHERE = 16384


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
