"""What may be told of a server's address and of its error answers, and what these are about."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl, unquote, urljoin, urlsplit

from spvmia_plugin.util.redact import HIDDEN, looks_like_token, without_secrets_in
from spvmia_plugin.util.strict_json import any_loads


def shown_url(url: str) -> str:
    """An address without what may be a credential: no user, no query, no token in its path."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError:  # no number
        port = ""
    return without_secrets_in(f"{parts.scheme}://{host}{port}{parts.path}")


def secrets_of(url: str, headers: Mapping[str, str]) -> list[str]:
    """What of an address and of headers may be a credential, the longest first."""
    parts = urlsplit(url)
    words = [parts.username, parts.password, parts.query, *(value for _, value in parse_qsl(parts.query))]
    words += [part for part in parts.path.split("/") if looks_like_token(unquote(part))]
    for value in headers.values():
        words += [str(value), *str(value).split()[1:]]
    given = {form for word in words if word for form in (word, unquote(word))}
    return sorted((word for word in given if len(word) >= 4), key=len, reverse=True)


def hidden(words: str, secrets: Sequence[str]) -> str:
    """Words without these secrets, and without what looks like one."""
    for secret in secrets:
        words = words.replace(secret, HIDDEN)
    return without_secrets_in(words)


def elsewhere(url: str, location: str) -> str:
    """Where an answer of this address leads, in words that end an error."""
    return (
        f"which leads to {shown_url(urljoin(url, location))}; if that is the server, give its address as base_url=... "
        "in --model_args: no key is sent where nobody named it"
    )


def is_about_length(words: str) -> bool:
    """Whether a server refuses a prompt for its length. Each has its own words for that."""
    said = words.lower()
    return bool(_LENGTH.search(said) and _TOO_MUCH.search(said) and not _QUOTA.search(said))


_LENGTH = re.compile(r"context|prompt|inputs?\b|sequence|tokens?\b|model.?len")
_TOO_MUCH = re.compile(
    r"too (?:long|large|many)|longer than|exceed|max\w*len|max\w*.{0,40}\blen(?:gth)?\b|context (?:length|window)|<="
)
_QUOTA = re.compile(r"quota|rate.?limit|per (?:minute|day)|api.?key")
NO_CREDIT = "insufficient_quota"
"""As OpenAI's API has it, and who speaks like it: no waiting helps. Words like "quota" alone are said of rates too."""


def is_without_credit(words: str) -> bool:
    """Whether a server refuses because nobody pays for it any more."""
    return NO_CREDIT in words.lower()


def message_of(text: str) -> str:
    """What an error answer says, in one line."""
    try:
        found = any_loads(text)
    except ValueError:
        found = text
    for name in ("error", "detail", "message", "msg"):
        if isinstance(found, list) and found:
            found = found[0]
        if isinstance(found, Mapping) and name in found:
            found = found[name]
    said = found if isinstance(found, str) else json.dumps(found)
    return "" if "<html" in said.lower() else " ".join(said.split())
