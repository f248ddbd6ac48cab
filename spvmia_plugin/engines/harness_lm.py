"""What an LM of the harness says of its completions server: the API, whether token ids are sent, how it is reached."""

from __future__ import annotations

from typing import Any

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.data.fingerprint import derived_key, fingerprint, user_key
from spvmia_plugin.engines.http import Connection
from spvmia_plugin.engines.telling import shown_url
from spvmia_plugin.errors import SpvmiaError, reason_of
from spvmia_plugin.models.tokens import unwrapped
from spvmia_plugin.util.files import user_cache
from spvmia_plugin.util.redact import is_secret_name

OTHERWISE = (
    "audit it by what it writes alone (ngram_mia, surrogate_mia), serve the model with vLLM, or load it with "
    "'--model hf'"
)
"""What can be done where a server is no use for log-probabilities."""
BY_TEXT = "with tokenized_requests=False in --model_args "
"""What has to be said besides where it takes no token ids."""
_OTHERS = frozenset({"LocalChatCompletion", "SGLANGGENERATEAPI", "AnthropicChat"})
"""Classes of the harness that derive from its completions and speak another protocol."""


def is_completions(lm: Any) -> bool:
    """Whether an LM of the harness speaks to a completions server."""
    names = {base.__name__ for base in type(unwrapped(lm)).__mro__}
    return "LocalCompletionsAPI" in names and not names & _OTHERS


def is_openai(lm: Any) -> bool:
    """Whether an LM of the harness speaks to OpenAI itself, whose defaults of sampling are neutral."""
    return any(base.__name__.startswith("OpenAI") for base in type(unwrapped(lm)).__mro__)


def why_not_tokens(lm: Any) -> str | None:
    """Why no token ids can be sent for an LM of the harness's completions classes, in words that end an error."""
    lm = unwrapped(lm)
    tokenizer, kind = getattr(lm, "tokenizer", None), getattr(lm, "tokenizer_backend", None)
    named = (
        "pass tokenizer_backend=huggingface,tokenizer=FOLDER,tokenized_requests=True in --model_args, with the "
        "tokenizer that the server has"
    )
    if tokenizer is None:
        got = "none (tokenizer_backend=none)"
    elif not hasattr(tokenizer, "get_vocab") or kind != "huggingface":
        got = f"that of tokenizer_backend={kind}, of which no records can be cut and no reference trained"
    elif not getattr(lm, "tokenized_requests", True):
        got = "one, and prompts as text (tokenized_requests=False): what the server reads would not be known"
    else:
        return None
    wanted = "a tokenizer of transformers and prompts of token ids"
    return f"tokenizer: expected {wanted}, got {got}; {named}; or {OTHERWISE}"


def place_of(lm: Any, config: AuditConfig) -> str | None:
    """Where an LM's requests go, as a hash that tells nothing of it; None of one without an address.

    The whole address counts, and headers that are no keys: what comes after its `?`, or who its user is, may choose
    the model. The key of the hash is the store's.

    Raises:
        SpvmiaError: the store's folder holds no key, and none can be made in it.
    """
    url, headers = getattr(lm, "base_url", None), getattr(lm, "_header", None)
    if not isinstance(url, str):
        return None
    sent = dict(headers) if isinstance(headers, dict) else {}
    sent = {str(name).lower(): str(value) for name, value in sent.items() if not is_secret_name(str(name))}
    key = derived_key(user_key(user_cache(config.cache_dir)), "address")
    return fingerprint(key, [("address", url), *(("header", f"{name}: {value}") for name, value in sent.items())])[:16]


def connect(lm: Any) -> Connection:
    """The server of an LM of the harness's, as the harness speaks to it.

    Raises:
        SpvmiaError: no address, or no key where one is needed.
    """
    url = getattr(lm, "base_url", None)
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        told = shown_url(url) if isinstance(url, str) else "nothing"
        raise SpvmiaError(
            f"base_url: expected the address of a completions server (http://host:port/v1/completions), got {told!r}; "
            "pass it in --model_args"
        )
    try:
        header = dict(lm.header or {})
    except ValueError as error:  # of openai-completions, without a key
        raise SpvmiaError(f"OPENAI_API_KEY: expected a key, got none ({reason_of(error)}); set the variable") from None
    if str(header.get("Authorization", "")).strip() == "Bearer":
        del header["Authorization"]
    verify = getattr(lm, "ca_cert_path", None) or True
    return Connection(
        url,
        header,
        timeout=float(lm.timeout),
        attempts=int(lm.max_retries),
        concurrent=int(getattr(lm, "_concurrent", 1)),
        verify=verify if getattr(lm, "verify_certificate", True) else False,
    )
