"""Base of the backends whose engine the harness has started beside us: what vLLM's and SGLang's have in common.

Texts are read and written many at a time, each batch is told of as it ends, and before any work the engine is asked
whether it says the same of tokens when it reads them as when it writes them.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spvmia_plugin.engines.passes import Answer, Pass, Passes
from spvmia_plugin.engines.remote import RemoteTarget
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.batching import plan_batches
from spvmia_plugin.models.identity import TEXT, Weights
from spvmia_plugin.protocols import OnDone, ScoreInput, TokenIds
from spvmia_plugin.signals import Role, TokenSignals

TOKENS_PER_CALL = {"cpu": 2**11}
"""Tokens that the engine gets at once, to make its own batches of. What is done is then kept in the store."""
TOKENS_PER_CALL_DEVICE = 2**17
KEPT = 2
"""Tokens of its context that an engine reads no record in: a prompt's last one, from which nothing is predicted here,
and the one that is always written."""
WRITTEN = 6
"""How many tokens the engine writes, to be asked what it reads in them."""
AT_MOST, AT_MOST_FLOAT32 = 0.5, 5e-3
"""How far apart, in nats, may be what it says of a token it writes and reads: in bfloat16 a batch rounds otherwise than
a step."""


def check_load_format(arguments: Mapping[str, Any]) -> None:
    """Refuse weights that are made up, where scores are kept by those in the files.

    Args:
        arguments: of the harness's model.

    Raises:
        SpvmiaError: they are.
    """
    if str(arguments.get("load_format")) == "dummy":
        raise SpvmiaError("load_format: expected the model's weights, got dummy, which are random; leave it out")


class EngineTarget(RemoteTarget):
    """A target in an engine of this machine, asked by calls and not over a network.

    A subclass says how one batch is read (`read_batch`) and written (`write_batch`), what is said of tokens as they are
    written (`written`), and what the engine is (`engine`, `precision`, `vocab`, `device_type`). Its `remote_identity`
    begins with `check_answers`.
    """

    engine: str
    """As messages call it."""
    vocab: int
    """V: tokens that the engine has an embedding for."""
    _is_checked = False

    @property
    def precision(self) -> str:
        """The engine's dtype, as torch names it: `bfloat16`."""
        raise NotImplementedError

    @property
    def device_type(self) -> str:
        """What the engine computes on: `cuda`, `cpu`."""
        raise NotImplementedError

    def read_batch(self, role: Role, asked: Sequence[Pass], *, moments: bool) -> list[Answer]:
        """What the engine says of the scored tokens of some passes, in one call.

        Raises:
            SpvmiaError: it says nothing, or of other tokens.
        """
        raise NotImplementedError

    def write_batch(
        self, prompts: Sequence[TokenIds], more: Sequence[int], seeds: Sequence[int], stops: Sequence[int]
    ) -> list[list[int]]:
        """The target's continuations of some prompts, in one call, without the token that ended one.

        Args:
            prompts: token ids, those before the text included.
            more: how many tokens are written after each, at most; at least one.
            seeds: of each prompt's own random generator, where the engine has one.
            stops: tokens that end a text.
        """
        raise NotImplementedError

    def written(self, prompt: TokenIds) -> tuple[list[int], NDArray[np.float32]]:
        """WRITTEN tokens that the target writes after a prompt, sampled, and their log-probabilities: (WRITTEN,)."""
        raise NotImplementedError

    def read_budget(self, *, moments: bool) -> int:
        """Tokens that are read in one call."""
        return self.budget

    @property
    def budget(self) -> int:
        """Tokens that the engine gets in one call."""
        return TOKENS_PER_CALL.get(self.device_type, TOKENS_PER_CALL_DEVICE)

    def unknown_ids(self, role: Role) -> frozenset[int]:
        if not self.is_remote(role):
            return super().unknown_ids(role)
        return frozenset(i for i in self._tokens.tokenizer.get_vocab().values() if i >= self.vocab)

    def check_answers(self) -> None:
        """Once, before any work: does the engine say the same of tokens when it reads them as when it writes them?

        Raises:
            SpvmiaError: it does not, so its log-probabilities of records would mean nothing.
        """
        if self._is_checked:
            return
        beginning = tuple(self._tokens.natural(TEXT)[: max(1, min(24, self.max_length - WRITTEN))])
        new, said = self.written(beginning)
        (read,) = self.remote_score(Role.TARGET, [ScoreInput(tuple(new), beginning)], moments=False)
        apart = np.inf if read is None or len(read) != len(said) else float(np.abs(read.logprob - said).max())
        if not apart <= (AT_MOST_FLOAT32 if self.precision == "float32" else AT_MOST):
            raise SpvmiaError(
                f"--model: expected {self.engine} to say the same of tokens when it reads them as when it writes them, "
                f"got log-probabilities that differ by up to {apart:.2g}; use another version of {self.engine}, or "
                "'--model hf'"
            )
        self._is_checked = True

    @cached_property
    def _weights(self) -> Weights:
        """Names files by their content, and reads them once."""
        return Weights()

    def found_weights(self, model: str, revision: str | None, *adapters: str) -> list[dict[str, object]]:
        """What names the weights of a model and of adapters on it, by the content of their files.

        Raises:
            SpvmiaError: the files are not on this machine.
        """
        found = [self._weights.of(model, revision), *map(self._weights.of, adapters)]
        known = [each for each in found if each is not None]
        if len(known) < len(found):
            raise SpvmiaError(
                "--model: expected weights in a local folder or in the hub's cache, by which scores are kept, got "
                "others; load them from there"
            )
        return known

    def did_not_answer(self, role: Role, kind: str, why: str) -> SpvmiaError:
        """What is raised in place of an exception of the engine's own: it died, or refuses a request."""
        return SpvmiaError(
            f"--model: expected answers from the {self.engine} engine for the {role.value}, got {kind} ({why}); its "
            "own messages are above, and a run that is started again goes on from what is stored"
        )

    def remote_score(
        self,
        role: Role,
        inputs: Sequence[ScoreInput],
        *,
        moments: bool,
        on_done: OnDone | None = None,
        done: Collection[int] = (),
    ) -> list[TokenSignals | None]:
        started, cost = time.perf_counter(), self._spent[role]
        passes = Passes(inputs, self.max_length, moments=moments, on_done=on_done)
        for batch in plan_batches([len(each.token_ids) for each in passes.all], self.read_budget(moments=moments)):
            if not passes.is_needed(batch.rows, done):
                continue
            asked = [passes.all[row] for row in batch.rows]
            passes.add(dict(zip(batch.rows, self.read_batch(role, asked, moments=moments), strict=True)))
            cost.batches += 1
            cost.forward_tokens += sum(len(each.token_ids) for each in asked)
        cost.seconds += time.perf_counter() - started
        return passes.in_order

    def generate(
        self,
        prompts: Sequence[TokenIds],
        lengths: Sequence[int],
        seeds: Sequence[int],
        *,
        on_done: OnDone | None = None,
        done: Collection[int] = (),
        ends: Collection[int] | None = None,
        complete: bool = False,
    ) -> list[list[int] | None]:
        """As `Backend.generate`. The engine rounds as its batches fall."""
        started, cost = time.perf_counter(), self._spent[Role.TARGET]
        lead = [] if complete else self._tokens.lead
        stops = sorted({*self._tokens.end_ids(None), *(ends or ())})
        texts: list[list[int] | None] = [None] * len(prompts)
        for batch in plan_batches([max(n, len(p)) for p, n in zip(prompts, lengths, strict=True)], self.budget):
            if all(i in done for i in batch.rows):
                continue
            wanted = [i for i in batch.rows if lengths[i] > len(prompts[i])]
            new: Mapping[int, list[int]] = {}
            if wanted:
                more = [lengths[i] - len(prompts[i]) for i in wanted]
                begun = [[*lead, *prompts[i]] for i in wanted]
                new = dict(
                    zip(wanted, self.write_batch(begun, more, [int(seeds[i]) for i in wanted], stops), strict=True)
                )
            finished = {i: [*prompts[i], *new.get(i, ())] for i in batch.rows}
            for i, text in finished.items():
                texts[i] = text
            cost.batches += 1
            cost.forward_tokens += sum(len(lead) + len(prompts[i]) + len(new[i]) for i in wanted)
            cost.generated_tokens += sum(map(len, new.values()))
            if on_done is not None:
                on_done(finished)
        cost.seconds += time.perf_counter() - started
        return texts
