"""Tokens replaced by draws from the base model's own next-token distribution."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.perturb.surviving import replaced
from spvmia_plugin.protocols import Backend, Frame, Neighbours, OnDone, Perturbation, TokenEdits
from spvmia_plugin.records import Document
from spvmia_plugin.seeds import stable_seed
from spvmia_plugin.signals import Role

Positions = NDArray[np.int64]
Draw = list[tuple[Positions, Positions]]
"""Positions and the tokens drawn for them, of each window of a text."""

CANDIDATES = 4
"""Draws for each position: with the first alone, a third of the paraphrases would not be their own text's tokens."""
SPARE = 3
"""Positions to choose from, for each that is to be replaced."""


class Causal(Perturbation):
    """2N independent draws: a share of the tokens is replaced by x~_t ~ p_base(. | x_<t), x~_t != x_t.

    One forward pass of the base over a text yields all its paraphrases, with the target's own tokenizer and no second
    model. Each replaced token is conditioned on the original tokens before it; the first one of a text is left alone
    where nothing stands before it. A text longer than the context is read in windows of that length.

    A paraphrase has to be a text: its tokens are those that its own text is cut into (`Backend.survives`). Others
    nobody could send to a model, and no model has seen their like. A draw that is one is kept as it is. In any other
    the positions are gone through in random order, each gets the first of its draws with which the whole is still a
    text, and one that has none is passed over for the next. Where at least half of the positions can't be filled
    there is one paraphrase less, and the reason says so.
    """

    name = "causal"
    roles = (Role.BASE,)

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
        from spvmia_plugin.models.batching import plan_passes, token_budget

        tokens = [_tokens(text, backend) for text in texts]
        found: list[Neighbours | None] = [None] * len(texts)
        budget = token_budget(str(backend.device).partition(":")[0])  # `cpu`, `cuda`
        for batch in plan_passes([len(of_text) for of_text in tokens], budget):
            if all(i in done for i in batch.rows):
                continue
            made = self._of([texts[i] for i in batch.rows], [tokens[i] for i in batch.rows], backend)
            finished = dict(zip(batch.rows, made, strict=True))
            for i, of_text in finished.items():
                found[i] = of_text
            if on_done is not None:
                on_done(finished)
        return found

    def _of(self, texts: Sequence[Document], tokens: Sequence[list[int]], backend: Backend) -> list[Neighbours]:
        config = self._config
        complete = any(text.rendered is not None for text in texts)  # conversations begin as their template says
        frame = Frame() if complete else backend.frame("")
        lead = len(frame.context) + len(frame.before)
        first = 0 if lead else 1  # the first position that something stands before
        wanted = 2 * config.perturbations
        may_change = [_may_change(text, ids, first, backend) for text, ids in zip(texts, tokens, strict=True)]
        reasons = [_impossible(ids, places, backend) for ids, places in zip(tokens, may_change, strict=True)]
        able = [i for i, reason in enumerate(reasons) if reason is None]
        # A share of all tokens of a text; of a conversation, of those that may change.
        totals = {i: len(may_change[i]) if complete else len(tokens[i]) for i in able}
        counts = {i: min(max(1, int(np.floor(config.mask_rate * totals[i]))), len(may_change[i])) for i in able}
        # For each paraphrase, positions in the order in which they are to be replaced, more than needed.
        orders: dict[int, list[Positions]] = {}
        for i in able:
            rng = np.random.default_rng(stable_seed(config.seed, texts[i].id, "causal", "positions"))
            places = may_change[i]
            orders[i] = [places[rng.permutation(len(places))[: SPARE * counts[i]]] for _ in range(wanted)]
        drawn = _draw(
            [texts[i].id for i in able],
            [tokens[i] for i in able],
            [[np.sort(order) for order in orders[i]] for i in able],
            first,
            max(backend.max_length - lead, first + 1),
            backend,
            config.seed,
            complete=complete,
        )
        found = [Neighbours((), reason=reason) for reason in reasons]
        for i, of_text in zip(able, drawn, strict=True):
            edits = [
                _edits(tokens[i], order, of_order, counts[i], backend)
                for order, of_order in zip(orders[i], of_text, strict=True)
            ]
            found[i] = _neighbours([edit for edit in edits if edit is not None], wanted, totals[i])
        return found


def _tokens(text: Document, backend: Backend) -> list[int]:
    return backend.encode(text.text) if text.rendered is None else list(text.rendered.token_ids)


def _may_change(text: Document, token_ids: Sequence[int], first: int, backend: Backend) -> Positions:
    """Positions that may be replaced: of a conversation the words that carried loss, none of its template."""
    if text.rendered is None:
        return np.arange(first, len(token_ids), dtype=np.int64)
    is_word = {token_id: bool(backend.decode([token_id]).strip()) for token_id in set(token_ids)}
    of_loss = enumerate(zip(token_ids, text.rendered.counted, strict=True))
    chosen = [p for p, (token_id, is_counted) in of_loss if p >= first and is_counted and is_word[token_id]]
    return np.array(chosen, dtype=np.int64)


def _impossible(token_ids: Sequence[int], may_change: Positions, backend: Backend) -> str | None:
    """Why a text has no paraphrase whatever is drawn, or None."""
    if not token_ids:
        return "no tokens"
    if not len(may_change):
        return "no token that another one stands before"
    # A text whose own tokens don't survive has no paraphrase whose tokens do.
    return None if backend.survives(token_ids) else "the record's text is not cut into its own tokens again"


def _edits(
    token_ids: Sequence[int], order: Positions, draws: Sequence[Draw], count: int, backend: Backend
) -> TokenEdits | None:
    """`count` replacements that leave a text, at least half as many, or None."""
    first = _by_position(draws[0])
    chosen = {p: first[p] for p in order[:count].tolist()}
    if not backend.survives(_edit(chosen).apply(token_ids)):
        by_position = [first, *map(_by_position, draws[1:])]
        chosen = replaced(token_ids, order.tolist(), by_position, count, backend.survives)
    return _edit(chosen) if 2 * len(chosen) >= count and chosen else None


def _by_position(draw: Draw) -> dict[int, int]:
    """The drawn token at each position; most draws are never asked for theirs."""
    return {p: int(new) for where, drawn in draw for p, new in zip(where.tolist(), drawn, strict=True)}


def _edit(chosen: Mapping[int, int]) -> TokenEdits:
    positions = tuple(sorted(chosen))
    return TokenEdits(positions, tuple(chosen[p] for p in positions))


def _draw(
    ids: Sequence[str],
    tokens: Sequence[list[int]],
    places: Sequence[Sequence[Positions]],
    first: int,
    size: int,
    backend: Backend,
    seed: int,
    *,
    complete: bool,
) -> list[list[list[Draw]]]:
    """For each text, for each of its `places`, `CANDIDATES` draws; in windows of `size` tokens, one pass each."""
    windows: list[tuple[int, int, list[int], list[Positions]]] = []  # text, where it starts, tokens, positions in it
    for i, token_ids in enumerate(tokens):
        done = 0  # every position before it lies in a window
        while done < len(token_ids):
            start = max(0, done - first)  # one token of context before the positions of a later window
            end = min(start + size, len(token_ids))
            # Most texts lie in one window.
            whole = start == 0 and end == len(token_ids)
            inside = list(places[i])
            if not whole:
                inside = [spots[(spots >= done) & (spots < end)] - start for spots in inside]
            windows.append((i, start, token_ids[start:end], inside))
            done = end
    if not windows:
        return []
    drawn = backend.sample_replacements(
        Role.BASE,
        [of_window for _, _, of_window, _ in windows],
        [[spots for spots in inside for _ in range(CANDIDATES)] for _, _, _, inside in windows],
        [stable_seed(seed, ids[i], "causal", "tokens", start) for i, start, _, _ in windows],
        **({"complete": True} if complete else {}),  # a plugin's backend may know of no conversations
    )
    found: list[list[list[Draw]]] = [[[[] for _ in range(CANDIDATES)] for _ in of_text] for of_text in places]
    for (i, start, _, inside), of_window in zip(windows, drawn, strict=True):
        for k, new in enumerate(of_window):
            found[i][k // CANDIDATES][k % CANDIDATES].append((inside[k // CANDIDATES] + start, new))
    return found


def _neighbours(found: Sequence[TokenEdits], wanted: int, total: int) -> Neighbours:
    reason = (
        None if len(found) == wanted else f"{len(found)} of {wanted} paraphrases: other draws were no text's tokens"
    )
    rate = float(np.mean([len(edit.positions) for edit in found])) / total if found else math.nan
    return Neighbours(tuple(found), mask_rate=rate, reason=reason)
