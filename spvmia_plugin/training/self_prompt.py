"""Self-prompts: texts that the target itself writes, from the beginnings of held-out documents.

Fu et al. 2024 (arXiv 2311.06062), section 4.2: a fine-tuned model that is prompted with short text of its domain
writes text of the distribution it was trained on. A reference fine-tuned on these texts knows the domain as the
target does, but not the members. Of conversations the target writes turns (`training.conversations`).
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from spvmia_plugin.config import AuditConfig, SelfPrompt
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import Backend, OnDone
from spvmia_plugin.records import Conversation, Document
from spvmia_plugin.seeds import stable_seed
from spvmia_plugin.signals import Role
from spvmia_plugin.training.conversations import Writer


def self_prompt_count(config: AuditConfig) -> int:
    """How many texts `self_prompt` returns."""
    return config.self_prompts


def way_of(config: AuditConfig, renderer: Any, prompts: Sequence[Document]) -> SelfPrompt:
    """What the target is given to write from: `mia_self_prompt`, or what the data say.

    Held-out conversations are replied to, plain text is continued. Without any the target writes whole conversations.

    Args:
        config: of the audit.
        renderer: how conversations become tokens; None for plain text.
        prompts: the held-out documents.

    Raises:
        SpvmiaError: the data do not go with `mia_self_prompt`.
    """
    asked = config.self_prompt
    if renderer is None or any(each.conversation is not None and each.conversation.is_text for each in prompts):
        if asked not in (None, "prefix"):
            raise SpvmiaError(
                f"mia_self_prompt: expected prefix, because the data are plain text, got {asked!r}; leave it out, or "
                "give conversations (mia_format)"
            )
        return "prefix"
    if asked == "reply" and not prompts:
        raise SpvmiaError(
            "mia_self_prompt: reply expects held-out conversations, got none; name a file of them with mia_prompts, or "
            "use mia_self_prompt=whole"
        )
    return asked or ("reply" if prompts else "whole")


def self_prompt(
    backend: Backend,
    prompts: Sequence[Document],
    config: AuditConfig,
    on_done: OnDone | None = None,
    done: Collection[int] = (),
    *,
    renderer: Any = None,
    blank: Conversation | None = None,
    length: int | None = None,
) -> list[str | None]:
    """Let the target write `config.self_prompts` texts.

    Text i continues the first `prompt_tokens` tokens of the i-th document (over and over when there are fewer) up to
    `block_size` tokens, or, for whole documents, up to the median length of the documents. Text i depends on the
    documents, the settings and i alone. Conversations: see `Writer`.

    Args:
        backend: the target.
        prompts: held-out documents; those that are shorter than a prompt, or begin with so much white space, are not
            used. So no text is blank, whatever the target makes of it.
        config: sampling settings, sizes, seed.
        on_done: called with {i: text} as batches finish.
        done: the i whose texts are there already; batches of nothing else are not sampled again.
        renderer: how conversations become tokens; None for plain text.
        blank: a conversation without messages as the audited ones are, for `whole`.
        length: tokens that an audited conversation has, in the median, for `whole`.

    Returns:
        The texts, of conversations `Conversation.to_text`; None for those of `done` that were not sampled again.

    Raises:
        SpvmiaError: no document is long enough, or a prompt leaves nothing to write.
    """
    way = way_of(config, renderer, prompts)
    if way != "prefix":
        writer = Writer(backend, renderer, config.seed, self_prompt_count(config))
        if way == "reply":
            return writer.replies(prompts, on_done, done)
        return writer.wholes(blank or Conversation(()), length or renderer.max_tokens, on_done, done)
    heads, up_to = _prompts(backend, prompts, config)
    count = self_prompt_count(config)

    def keep(batch: Mapping[int, Sequence[int]]) -> None:
        if on_done is not None:
            on_done({i: backend.decode(token_ids) for i, token_ids in batch.items()})

    written = backend.generate(
        [heads[i % len(heads)] for i in range(count)],
        [up_to] * count,
        [stable_seed(config.seed, "self_prompt", i, 0) for i in range(count)],  # 0: the texts of earlier versions
        on_done=keep,
        done=done,
    )
    return [None if token_ids is None else backend.decode(token_ids) for token_ids in written]


def beginnings(backend: Backend, prompts: Sequence[Document], config: AuditConfig) -> list[str]:
    """What texts begin with under `prefix`, the i-th with the i-th, over and over: as the texts themselves hold it.

    Raises:
        SpvmiaError: as `self_prompt`.
    """
    return [backend.decode(head) for head in _prompts(backend, prompts, config)[0]]


def _prompts(backend: Backend, prompts: Sequence[Document], config: AuditConfig) -> tuple[list[list[int]], int]:
    """The first tokens of every document that has so many and is not blank there, and the length to write to."""
    if not prompts:
        raise SpvmiaError(
            "mia_prompts: expected held-out documents to prompt the target with, got none; name a file of them"
        )
    documents = [backend.encode(document.text) for document in prompts]
    heads = [ids[: config.prompt_tokens] for ids in documents if len(ids) >= config.prompt_tokens]
    unknown = backend.unknown_ids(Role.TARGET)
    heads = [ids for ids in heads if unknown.isdisjoint(ids) and backend.decode(ids).strip()]
    if not heads:
        raise SpvmiaError(
            f"mia_prompts: expected documents of at least {config.prompt_tokens} tokens to prompt with, got "
            f"{len(documents)} that are all shorter, blank or begin with tokens that the target does not have; give "
            "longer ones or lower mia_prompt_tokens"
        )
    length = config.block_size or int(statistics.median(map(len, documents)))
    length = min(max(length, config.prompt_tokens + (0 if config.block_size else 1)), backend.max_length)
    if length <= config.prompt_tokens:
        raise SpvmiaError(
            f"mia_prompt_tokens: expected fewer tokens than a text has ({length}), got {config.prompt_tokens}; "
            "lower mia_prompt_tokens or raise mia_block_size"
        )
    return heads, length
