"""What libraries say: warnings about each other are kept quiet, refusals to load something put into plain words."""

from __future__ import annotations

import platform
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
