"""Seeds that depend on what they are for and on nothing else: not on batching, order, process or machine."""

from __future__ import annotations

import hashlib


def stable_seed(*parts: str | int) -> int:
    """Return a seed in [0, 2**63) from its parts, e.g. `stable_seed(config.seed, record.id, "draw", 3)`.

    Equal parts give equal seeds on every machine and Python; parts of other types or in another order give others
    (`"1"` is not `1`). Fit for `numpy.random.default_rng` and `torch.Generator.manual_seed`. It is no secret.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        kind, raw = ("i", str(int(part))) if isinstance(part, int) else ("s", part)
        data = raw.encode("utf-8", "surrogatepass")
        digest.update(f"{kind}{len(data)}:".encode())  # lengths keep ("ab", "c") and ("a", "bc") apart
        digest.update(data)
    return int.from_bytes(digest.digest(), "big") >> 1
