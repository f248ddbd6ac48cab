"""Which settings a kept self-prompt or reference depends on.

Keys of what is kept hold all settings but those that cannot change it, with the reason beside each. A list of what
counts would miss the next option silently, and the store would answer for another setting. Whoever adds an option
decides here where it cannot count; until then a changed value is a new key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.metrics.names import BOUNDED_BY

OURS = "spvmia-plugin "
"""What the names of our own implementations of a hook begin with."""


def is_ours(maker: str) -> bool:
    """Whether an implementation of a hook is our own."""
    return maker.startswith(OURS)


_NEVER = {
    "gguf_file",  # where weights lie; keys hold what they are
    "cache_dir",  # where results are kept
    "log_text",  # what is shown
    "preset",  # values of other options, which are read already
    "given",  # which options were typed: with a default typed out, nothing is computed otherwise
    "max_length",  # keys hold the context that follows from it
    "allow_degenerate",  # whether texts that are too alike are trained on, not what comes of that
    "continuations",  # how many texts go on from a record: others than self-prompts
    "embedding_model",  # what compares these
    "api_view",  # what attacks are shown of what was computed
    "base_served",  # which engine reads the base: keys hold its identity there
    "dtype",  # likewise in which precision it is read
    "references",  # how many there are: each is made by a seed of its own, as if it were the only one
    *("unit_column", "group_column"),  # which records go together; keys hold the texts that are left
    *BOUNDED_BY.values(),  # what numbers are held against
}

_DATA = {"members", "nonmembers", "prompts", "candidate", "text_column", "manifest", "dataset_path", "split"}
"""Where texts come from: keys hold the texts themselves."""

_RENDERING = {
    "format",  # keys hold the rows as they were understood, and the identity of what makes tokens of conversations
    "loss_on",  # part of that
    "chat_template",  # likewise
    "record_tokens",  # likewise
    "self_prompt",  # keys of conversations hold the way that was taken; plain text has one only
}

_PARAPHRASES = {"perturbation", "perturbations", "mask_rate", "mask_model", "noise"}
"""How records are varied, which neither the target's writing nor a reference ever sees."""

_SCORES = {
    "attack_options",  # what attacks make of signals
    "canary_attack",  # which of them guesses coins
    "max_samples",  # how many records are audited
    "prefix",  # what is read before a record when it is scored; sampling and training go by the tokenizer alone
}

_MODELS = {
    "base_model",  # keys hold the identities of the models that are asked
    "reference",  # says whether there is a self-prompted reference at all, not how it is made
    "trust_remote_code",  # without it a model with code of its own is refused, not loaded otherwise
}

_SAMPLING = {"self_prompts", "prompt_tokens", "temperature", "top_k", "top_p"}
_LORA = {"lora_rank", "lora_alpha", "lora_dropout", "lora_targets"}
_TRAINING = {"reference_epochs", "reference_lr", "reference_batch", *_LORA}

NOT_IN_SELF_PROMPTS = frozenset(
    _NEVER
    | _DATA
    | _RENDERING
    | _PARAPHRASES
    | _SCORES
    | _MODELS
    | _TRAINING  # comes after the sampling
    | {"reference_parallel"}  # likewise
)
"""What cannot change the texts that our own sampling draws from a given target after given prompts."""

NOT_IN_CONVERSATIONS = NOT_IN_SELF_PROMPTS | {
    "prompt_tokens",  # turns are written, not beginnings continued
    "block_size",  # conversations end where they are cut, or are as long as the audited ones
}
"""The same for conversations."""

NOT_IN_REFERENCE = frozenset(
    _NEVER
    | _DATA
    | _RENDERING
    | _PARAPHRASES
    | _SCORES
    | _MODELS
    | _SAMPLING  # the key holds the texts that came of it
    | {"block_size"}  # how long these were made; they are trained on as they are
    | {"reference_parallel"}  # the key holds the number of processes
)
"""What cannot change the adapter that our own training makes of a given base and given texts."""


def counting(config: AuditConfig, left_out: frozenset[str], makers: Iterable[str]) -> dict[str, object]:
    """The settings that a result depends on, JSON-ready.

    Args:
        config: of the audit.
        left_out: those that cannot change what our own code makes.
        makers: the distributions that may have made it; another's gets the whole config and may read all of it.
    """
    skipped = left_out if all(map(is_ours, makers)) else _NEVER
    return {f.name: _plain(getattr(config, f.name)) for f in fields(config) if f.name not in skipped}


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value
