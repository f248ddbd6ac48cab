"""One place where global random state is touched: seeded inside, as it was outside."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's global generators, and put their states back on the way out.

    Libraries that draw from global state (Trainer, dropout, LoRA initialisation) become reproducible inside, and
    nobody outside notices: a task of the harness that samples gives the same bits with or without us.

    Args:
        seed: non-negative; NumPy's generator gets it modulo 2**32.
    """
    # A build for CUDA on a machine without: torch 2.6 raises if it is asked for the one there is.
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    kind = accelerator.type if accelerator is not None and accelerator.type != "cpu" else "cuda"
    devices = list(range(torch.accelerator.device_count())) if accelerator is not None else []
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices, device_type=kind):
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
