"""A harness model and a backend that are arithmetic on words: the same numbers on every machine, in no time."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.api.model import LM

from spvmia_plugin import hookimpl
from spvmia_plugin.protocols import Backend, BackendFeatures, Cost
from spvmia_plugin.signals import Role, TokenSignals

CAPITAL = 10_000
"""Token of a word with a capital letter, less that of the word without."""
MASK = 998
"""Token of what stands for a masked word; those of the texts are lower."""
TABLE = -(np.arange(1, 65_537) * 2_654_435_761 % 65_536 / 8192).astype(np.float32)
"""Log-probabilities between 0 and -8, all exact in float32."""


class Memory(LM):
    """A model that has learnt some texts: each of its tokens has a higher log-probability in them."""

    def __init__(self, name: str, learnt: dict[str, float]) -> None:
        super().__init__()
        self.name = name
        self.learnt = {encode(text): gain for text, gain in learnt.items()}

    def loglikelihood(self, requests: Any) -> Any:
        raise NotImplementedError

    loglikelihood_rolling = generate_until = loglikelihood

    def get_model_info(self) -> dict[str, str]:
        return {"model_name": self.name}


def encode(text: str) -> tuple[int, ...]:
    return tuple(int(word[1:]) + CAPITAL * (word[0] == "W") if word != "word" else MASK for word in text.split())


class Arithmetic(Backend):
    """Signals are read from `TABLE`, beginning where a digest of role and tokens says."""

    name = "arithmetic"
    device = "cpu"
    max_length = 64
    features = BackendFeatures(gradients=True)

    def __init__(self, lm: Memory, config: Any, base_model: str | None = None) -> None:
        self.lm = lm
        self.costs = {role: Cost() for role in Role}

    @classmethod
    def accepts(cls, lm: Any) -> bool:
        return isinstance(lm, Memory)

    def encode(self, text):
        return list(encode(text))

    def decode(self, token_ids):
        return " ".join(f"W{i - CAPITAL}" if i >= CAPITAL else f"w{i}" for i in token_ids)

    def survives(self, token_ids):
        return True

    def identity(self, role):
        return {"role": role.value, "weights": [{"files": {"model": self.lm.name if role is Role.TARGET else "base"}}]}

    def require(self, roles):
        pass

    def score(self, role, inputs, *, moments, on_done=None, done=()):
        found = [None if i in done else self.signals(role, item, moments) for i, item in enumerate(inputs)]
        for i, item in enumerate(inputs):
            self.costs[role].forward_tokens += 0 if i in done else len(item.context_ids) + len(item.token_ids)
        if on_done:
            on_done({i: signals for i, signals in enumerate(found) if signals})
        return found

    def signals(self, role, item, moments):
        tokens = tuple(item.token_ids)
        shared = hashlib.sha256(repr(tokens).encode()).digest()
        own = hashlib.sha256(repr((role.value, tuple(item.context_ids), item.noise)).encode() + shared).digest()
        n = item.scored
        at, other = (int.from_bytes(digest[:2], "big") % (len(TABLE) - 64) for digest in (shared, own))
        logprob = 0.75 * TABLE[at : at + n] + 0.25 * TABLE[other : other + n]
        gain = self.lm.learnt.get(tokens, 0.0) if role is Role.TARGET else 0.02 * (role is Role.REFERENCE)
        logprob = (logprob * np.float32(1 - gain)).astype(np.float32)
        if not moments:
            return TokenSignals(logprob, logprob > -0.5, None, None)
        return TokenSignals(logprob, logprob > -0.5, logprob - np.float32(0.5), np.abs(logprob) + np.float32(0.25))

    def gradient_norms(self, role, inputs, counted, *, on_done=None, done=()):
        found = [None if i in done else self.norm(role, item) for i, item in enumerate(inputs)]
        if on_done:
            on_done({i: norm for i, norm in enumerate(found) if norm})
        return found

    def norm(self, role, item):
        """As if a token's gradient had the size of what it is short of certainty, exact in float64."""
        return float(0.125 - self.signals(role, item, False).logprob.astype(np.float64).mean())

    def sample_replacements(self, role, sequences, positions, seeds):
        return [
            [np.array([(7 * int(where) + int(seed) + k) % 997 for k, where in enumerate(draw)]) for draw in draws]
            for draws, seed in zip(positions, seeds, strict=True)
        ]

    def generate(self, prompts, lengths, seeds, *, on_done=None, done=()):
        texts = [
            [*prompt, *[(int(seed) + k) % 997 for k in range(n - len(prompt))]]
            for prompt, n, seed in zip(prompts, lengths, seeds, strict=True)
        ]
        if on_done:
            on_done({i: text for i, text in enumerate(texts) if i not in done})
        return texts

    def train_reference(self, texts, output_dir: Path):
        (output_dir / "adapter.json").write_text(hashlib.sha256("\n".join(texts).encode()).hexdigest())
        self.costs[Role.REFERENCE].training_tokens += sum(len(encode(text)) for text in texts)
        return {"loss": 1.0}

    def check_training(self):
        pass

    def load_reference(self, role, path):
        pass

    def cost(self, role):
        return Cost(**vars(self.costs[role]))


class Plugin:
    """Registers the backend."""

    @hookimpl
    def spvmia_register_backends(self):
        return [Arithmetic]
