"""The harness's own LMs for the tests' server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm_eval.models.openai_completions import LocalCompletionsAPI


def completions_lm(url: str, tokenizer: Path | str, **options: Any) -> LocalCompletionsAPI:
    """As `--model local-completions` makes it."""
    return LocalCompletionsAPI(
        **{
            "base_url": url,
            "model": "target",
            "tokenizer": str(tokenizer),
            "tokenizer_backend": "huggingface",
            "max_length": 256,
            "max_retries": 2,
            "timeout": 20,
            "num_concurrent": 4,
            **options,
        }
    )
