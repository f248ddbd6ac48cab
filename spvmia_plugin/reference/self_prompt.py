"""Self-prompts: texts that the target itself writes, from the beginnings of held-out documents.

Fu et al. 2024 (arXiv 2311.06062), section 4.2: a fine-tuned model that is prompted with short text of its domain
writes text of the distribution it was trained on. A reference fine-tuned on these texts knows the domain as the
target does, but not the members.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import Backend, OnDone
from spvmia_plugin.records import Document
from spvmia_plugin.seeds import stable_seed

MAX_ATTEMPTS = 10


def self_prompt_count(config: AuditConfig) -> int:
    """How many texts `self_prompt` returns."""
    return config.self_prompts


def self_prompt(
    backend: Backend,
    prompts: Sequence[Document],
    config: AuditConfig,
    on_done: OnDone | None = None,
    done: Collection[int] = (),
) -> list[str | None]:
    """Let the target write `config.self_prompts` texts.

    Text i continues the first `prompt_tokens` tokens of the i-th document (over and over when there are fewer) up to
    `block_size` tokens, or, for whole documents, up to the median length of the documents. A blank text is written
    again with another seed. Text i depends on the documents, the settings and i alone.

    Args:
        backend: the target.
        prompts: held-out documents; those shorter than a prompt are not used.
        config: sampling settings, sizes, seed.
        on_done: called with {i: text} as batches finish.
        done: the i whose texts are there already; batches of nothing else are not sampled again.

    Returns:
        The texts; None for those of `done`.

    Raises:
        SpvmiaError: no document is long enough, a prompt leaves nothing to write, or the target writes blanks only.
    """
    heads, length = _prompts(backend, prompts, config)
    texts: dict[int, str | None] = dict.fromkeys(done)
    open_ = list(range(self_prompt_count(config)))
    for attempt in range(MAX_ATTEMPTS):
        texts |= _write(backend, config, heads, length, open_, attempt, on_done, done)
        open_ = [i for i in open_ if i not in texts]
        if not open_:
            return [texts[i] for i in range(self_prompt_count(config))]
    raise SpvmiaError(
        f"self-prompting: expected text from the target, got {MAX_ATTEMPTS} blank continuations of one prompt; "
        "check the target, or raise mia_temperature"
    )


def _write(
    backend: Backend,
    config: AuditConfig,
    heads: Sequence[Sequence[int]],
    length: int,
    wanted: Sequence[int],
    attempt: int,
    on_done: OnDone | None,
    done: Collection[int],
) -> dict[int, str]:
    """One attempt at the texts `wanted`; those that come out blank are left out."""

    def keep(batch: Mapping[int, Sequence[int]]) -> None:
        found = _not_blank({wanted[k]: backend.decode(token_ids) for k, token_ids in batch.items()})
        if on_done is not None and found:
            on_done(found)

    written = backend.generate(
        [heads[i % len(heads)] for i in wanted],
        [length] * len(wanted),
        [stable_seed(config.seed, "self_prompt", i, attempt) for i in wanted],
        on_done=keep,
        done=[k for k, i in enumerate(wanted) if i in done],
    )
    found = {i: backend.decode(ids) for i, ids in zip(wanted, written, strict=True) if ids is not None}
    return _not_blank({i: text for i, text in found.items() if i not in done})


def _not_blank(texts: dict[int, str]) -> dict[int, str]:
    return {i: text for i, text in texts.items() if text.strip()}


def _prompts(backend: Backend, prompts: Sequence[Document], config: AuditConfig) -> tuple[list[list[int]], int]:
    """The first tokens of every document that has so many, and the length to write to."""
    if not prompts:
        raise SpvmiaError(
            "mia_prompts: expected held-out documents to prompt the target with, got none; name a file of them"
        )
    documents = [backend.encode(document.text) for document in prompts]
    heads = [ids[: config.prompt_tokens] for ids in documents if len(ids) >= config.prompt_tokens]
    if not heads:
        raise SpvmiaError(
            f"mia_prompts: expected documents of at least {config.prompt_tokens} tokens to prompt with, got "
            f"{len(documents)} that are all shorter; give longer ones or lower mia_prompt_tokens"
        )
    length = config.block_size or int(statistics.median(map(len, documents)))
    length = min(max(length, config.prompt_tokens + (0 if config.block_size else 1)), backend.max_length)
    if length <= config.prompt_tokens:
        raise SpvmiaError(
            f"mia_prompt_tokens: expected fewer tokens than a text has ({length}), got {config.prompt_tokens}; "
            "lower mia_prompt_tokens or raise mia_block_size"
        )
    return heads, length
