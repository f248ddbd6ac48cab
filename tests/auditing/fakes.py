"""A backend that is arithmetic: what it gives is known exactly, and it counts what it is asked."""

from __future__ import annotations

from collections import Counter

import numpy as np

from spvmia_plugin.protocols import Backend, BackendFeatures, Cost
from spvmia_plugin.records import AuditData, Document, Record
from spvmia_plugin.seeds import stable_seed
from spvmia_plugin.signals import Role, TokenSignals


class FakeBackend(Backend):
    """Characters are tokens; log-probabilities are drawn from a generator seeded with the role and the sequence."""

    name = "fake"
    device = None

    def __init__(self, *, max_length=1000, features=None, boosted=()):
        self.max_length = max_length
        self.features = features or BackendFeatures(gradients=True)
        self.boosted = set(boosted)
        self.scored = Counter()
        self.differentiated = Counter()
        self.trained = []
        self.seeds = []
        self.loaded = {}
        self.closed = False
        self._cost = {}

    def encode(self, text):
        return [ord(c) for c in text]

    def decode(self, ids):
        return "".join(map(chr, ids))

    def identity(self, role):
        if role.kind in (Role.REFERENCE, Role.CANDIDATE):
            return {"role": role.value, "loaded": self.loaded[role]}
        return {"role": role.value}

    def require(self, roles):
        pass

    def score(self, role, inputs, *, moments, on_done=None, done=()):
        out = []
        for i, item in enumerate(inputs):
            if i in done:
                out.append(None)
                continue
            self.scored[role, item, moments] += 1
            cost = self._cost.setdefault(role, Cost())
            cost.forward_tokens += len(item.token_ids) + len(item.context_ids)
            signals = self._signals(role, item, moments)
            out.append(signals)
            if on_done:
                on_done({i: signals})
        return out

    def _signals(self, role, item, moments):
        rng = np.random.default_rng(stable_seed(role.value, repr(item)))
        n = len(item.token_ids)
        logprob = -rng.exponential(2.0, n).astype(np.float32)
        if role.value == "target" and self.decode(item.token_ids) in self.boosted:
            logprob = logprob / 8
        moment = rng.random(n).astype(np.float32) + 0.5 if moments else None
        return TokenSignals(logprob, rng.random(n) < 0.3, None if moment is None else -moment, moment)

    def gradient_norms(self, role, inputs, counted, *, on_done=None, done=()):
        out = []
        for i, (item, mask) in enumerate(zip(inputs, counted, strict=True)):
            if i in done:
                out.append(None)
                continue
            told = None if mask is None else tuple(mask.tolist())
            self.differentiated[role, item, told] += 1
            out.append(float(np.random.default_rng(stable_seed(role.value, repr(item), repr(told))).exponential()))
            if on_done:
                on_done({i: out[-1]})
        return out

    def sample_replacements(self, role, sequences, positions, seeds):
        return [[np.full(len(p), ord("x")) for p in draws] for draws in positions]

    def generate(self, prompts, lengths, seeds, *, on_done=None, done=()):
        texts = [[*p, *[ord("g")] * (n - len(p))] for p, n in zip(prompts, lengths, strict=True)]
        if on_done:
            on_done(dict(enumerate(texts)))
        return texts

    def train_reference(self, texts, output_dir, *, seed=None):
        self.trained.append(list(texts))
        self.seeds.append(seed)
        (output_dir / "adapter.json").write_text("{}")
        return {"loss": 1.0}

    def check_training(self):
        pass

    def load_reference(self, role, path):
        self.loaded[role] = str(path)[-8:]

    def cost(self, role):
        return Cost(**vars(self._cost.get(role, Cost())))

    def close(self):
        self.closed = True


def make_data(n=24, *, prompts=8, candidate=0, tokens=40, seed=0):
    """Records of random letters: `n` members and `n` non-members, each a document of its own."""
    rng = np.random.default_rng(seed)

    def text():
        return "".join(rng.choice(list("abcdefgh ABC"), tokens))

    records = [Record(f"f:{i}", text(), i % 2 == 0, f"f:{i}") for i in range(1, 2 * n + 1)]
    return AuditData(
        records=tuple(records),
        prompts=tuple(Document(f"p:{i}", text()) for i in range(prompts)),
        candidate=tuple(Document(f"c:{i}", text()) for i in range(candidate)),
        membership="declared",
        fingerprint="f" * 8,
        source="made",
        block_size=tokens,
    )
