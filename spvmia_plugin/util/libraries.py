"""What surrounds the work of libraries: warnings kept quiet, random state put back, refusals in words."""

from __future__ import annotations

import platform
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

from spvmia_plugin import __version__
from spvmia_plugin.errors import reason_of

_COMPUTING = ("lm_eval", "torch", "transformers", "tokenizers", "peft", "numpy", "scipy", "scikit-learn")

_KNOWN = (
    # peft 0.21 asks transformers 5.23 by the old name.
    (FutureWarning, r".*is_gradient_checkpointing.*is deprecated"),
    # peft 0.21 hands the prefix of prefix tuning to transformers 5.24 by the old name.
    (FutureWarning, r"`past_key_values` is deprecated"),
    # Reference and target are adapters on one model on purpose.
    (UserWarning, r".*multiple adapters.*"),
    (UserWarning, r"Already found a `peft_config` attribute in the model"),
    # The base of a local run has no model card on the hub to look at.
    (UserWarning, r"Could not find a config file in .* will assume that the vocabulary was not modified"),
    (UserWarning, r"Unable to fetch remote file due to the following error .* silently ignoring"),
    # Only adapters are saved, and a tied embedding is not among them.
    (UserWarning, r"Model has `tie_word_embeddings=True`"),
)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Leave out the warnings above, and no others, inside the block."""
    with warnings.catch_warnings():
        for category, message in _KNOWN:
            warnings.filterwarnings("ignore", message, category)
        yield


@contextmanager
def no_loading_bars() -> Iterator[None]:
    """Leave out the library's bars for loading and saving weights: ours counts what takes time."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def brings_code(error: Exception) -> bool:
    """Whether transformers refuses a model because it brings code of its own, which nobody allowed to run."""
    return isinstance(error, ValueError) and "trust_remote_code=True" in str(error)


def refusal(error: Exception) -> str:
    """Why a model or tokenizer cannot be loaded, in words: the library's first line, or that it brings code to run."""
    if brings_code(error):
        return "it brings code of its own, which runs only with trust_remote_code=True in --model_args: read it first"
    return reason_of(error)


def versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    found = {"spvmia-plugin": __version__, "python": platform.python_version()}
    for name in _COMPUTING:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@contextmanager
def kept_rng() -> Iterator[None]:
    """Put the states of Python's, NumPy's and torch's global generators back on the way out, whatever drew or seeded.

    That of a CUDA device which this process has not touched is left alone: to read it would take memory there.
    """
    import torch

    unused = torch.cuda.is_available() and not torch.cuda.is_initialized()
    with _states_kept(devices=not unused):
        yield


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's global generators, and put their states back on the way out.

    Libraries that draw from global state (Trainer, dropout, LoRA initialisation) become reproducible inside, and
    nobody outside notices: a task of the harness that samples gives the same bits with or without us.

    Args:
        seed: non-negative; NumPy's generator gets it modulo 2**32.
    """
    import numpy as np
    import torch

    with _states_kept(devices=True):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        yield


@contextmanager
def _states_kept(*, devices: bool) -> Iterator[None]:
    import numpy as np
    import torch

    # A build for CUDA on a machine without: torch 2.6 raises if it is asked for the one there is.
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    kind = accelerator.type if accelerator is not None and accelerator.type != "cpu" else "cuda"
    which = list(range(torch.accelerator.device_count())) if devices and accelerator is not None else []
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(which, device_type=kind):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
