"""Credentials out of what is handed on. The rule, for all that is read of a results file or written of a run:

1. *By name.* What stands under the name of a credential (`token`, `api_key`, `password`, `authorization`, ...) is
   hidden whole: as an entry of a mapping, as `name=value`, `name: value` or `--name value` inside a text, behind
   `--name` or `name` in a list, as `value` beside `name`. The last words of the name decide, however they are joined
   and numbered (`hf_token`, `apiKey`, `X-Api-Key`, `api_key_2`); names of tokens of a text (`pad_token`) are none.
2. *By form.* What looks like a credential is hidden wherever it stands: keys with a known beginning (`AKIA...`,
   `ghp_...`, `sk-...`, `hf_...`), JSON web tokens, private keys, `Bearer ...`, and `user:password@` before a host.
3. *In an address.* What follows the `?` of a URL is hidden whole, whatever it is called: signed addresses and gateways
   have names of their own for keys. So is a part of the path of a web address that looks like a token: 16 letters and
   digits without a break, of both kinds, a UUID, or as many with `-` and `_` that change their kind like drawn ones. A
   commit after `resolve`, `blob`, `tree`, `raw` or `commit` is none.
4. *Behind an encoding.* A text that shows a credential once it is URL-decoded is replaced by the decoded text without
   it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any
from urllib.parse import unquote

HIDDEN = "***"

_SECRETS = frozenset(
    {
        word
        for line in (
            "token password passwd passphrase pwd secret secrets passwords credential credentials authorization auth",
            "header headers cookie cookies apikey apikeys signature sig key keys accesskey secretkey authtoken",
            "accesstoken pass pw creds cred jwt bearer connectionstring dsn",
        )
        for word in line.split()
    }
)
"""Last words of names of credentials."""
_NO_SECRET_TOKENS = frozenset(
    {
        word
        for line in (
            "pad eos bos unk mask sep cls prefix suffix stop start end eot image video audio begin blank special next",
            "first last prompt tool think thinking per each a fim newline decoder forced word mean total",
        )
        for word in line.split()
    }
)
"""What precedes `token` where it is one of a text."""
_SECRET_ENDS = ("password", "passwd", "passphrase", "apikey", "accesskey", "secretkey", "authtoken", "accesstoken")
"""Ends of a last word that was joined to one without a mark, as in `PGPASSWORD`."""
_SECRET_PASSES = frozenset(
    {"user", "db", "database", "admin", "root", "smtp", "imap", "ftp", "proxy", "mysql", "pg", "redis", "ssh", "login"}
)
"""What precedes `pass` where it is a word to pass with."""
_SECRET_KEYS = frozenset(
    {
        word
        for line in (
            "access account admin api app auth azure aws bearer client consumer deploy encryption gcp hf hub license",
            "master openai anthropic private secret security service shared signing ssh storage subscription user",
            "wandb x functions google gemini groq grok xai together mistral cohere fireworks perplexity deepseek",
            "replicate openrouter anyscale nvidia cerebras sambanova databricks deepinfra voyage jina huggingface",
            "langsmith langfuse datadog stripe sendgrid github gitlab pinecone qdrant neptune comet kaggle",
        )
        for word in line.split()
    }
)
"""What precedes `key` where it opens something."""
_LONGEST_NAME = 80
_PASSES = 4
"""Over a text in which something was hidden; the second finds nothing new in nearly all."""
_COUNTED = frozenset({"pass", "dsn", "pw", "cred"})
"""Names that also stand beside numbers: `{"pass": 3, "fail": 0}`."""
_IN_PROSE = frozenset({"key", "token", "header", "headers", "signature", "pass", "bearer"})
"""Words that come before a colon in sentences."""
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_FORMS = re.compile(
    # First what may have another of these as its beginning: `key:secret@` goes as a whole.
    r"(?<=://)[^/@\s]+@"
    r"|(?<![\w.+-])(?!mailto:)[\w.+-]{1,64}:[^\s@/:,;]{1,128}@(?=[\w-])"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----|\Z)"
    r"|\b(?:Bearer|Basic)\s+[^\s,;\"']+"
    r"|\b(?:AKIA|ASIA|AGPA|AIDA|AROA)[0-9A-Z]{12,}"
    r"|\b(?:gh[opusr]_|npm_|dckr_pat_|glpat-|gldt-|xox[a-z]-|pypi-|nvapi-|gsk_|r8_|ya29\.|SG\.)[A-Za-z0-9_-]{16,}"
    r"|\b(?:tgp_v1_|hvs\.|dop_v1_|shpat_|xapp-|glsa_)(?=[A-Za-z_-]{0,60}\d)[A-Za-z0-9_-]{16,}"
    r"|\b(?:xai-|pplx-|csk-|fw_|jina_)(?=[A-Za-z]{0,60}\d)[A-Za-z0-9]{16,}[A-Za-z0-9_-]*"
    r"|\bgithub_pat_[A-Za-z0-9_]{20,}"
    r"|\bAIza[A-Za-z0-9_-]{30,}"
    r"|\bhf_[A-Za-z0-9]{16,}"
    r"|\b(?P<sk>[sr]k[-_][\w-]{16,})"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?",
    re.DOTALL,
)
_ADDRESS = re.compile(
    r"\b[a-z][a-z0-9+]{1,15}://[^\s,;?\"'<>()\[\]{}\\]+(?:\?(?:[^\s,;\"'<>\\]|;(?=\S))*)?", re.IGNORECASE
)
"""Inside a text: marks end it, as in `--model_args`."""
_NOTHING_ELSE = re.compile(r"[a-z][a-z0-9+]{1,15}://\S+", re.IGNORECASE)
"""A text that is an address: it may have any mark in it."""
_OF_THE_WEB = re.compile("(?:http|ws)s?:", re.IGNORECASE)
_OF_A_COMMIT = frozenset({"resolve", "blob", "tree", "raw", "commit"})
"""What stands before a commit in the path of an address."""
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_UNBROKEN = re.compile(r"[A-Za-z0-9]{16}")
_LONG_RUN = re.compile(r"[A-Za-z0-9]{16,}")
_PIECE = re.compile(r"[A-Za-z0-9]+")
_KINDS = re.compile(r"[a-z]+|[A-Z]+|\d+")
_MIXED = 14
"""Characters in pieces that change between lower case, capitals and digits more often than not: no name has as many."""
_NAME = re.compile(
    r"(?<![\w.-])(?P<option>--?)?(?P<name>[A-Za-z_][\w.-]{0,80})(?P<close>[\\\"']*)(?P<between>\s*(?:=>|[=:])\s*|\s+)"
)
_QUOTED = re.compile(r"(?P<quote>\\*[\"']).*?(?:(?<!\\)(?P=quote)|\Z)", re.DOTALL)
_BRACKETED = re.compile(r"[\[{(][^\]})]*[\]})]?")
_TO_SEPARATOR = re.compile(r"[^,;&\n\"'}\])]+")
_ONE_WORD = re.compile(r"[^\s,;&\"'}\])]+")
_TO_END = re.compile(r"[^\n\"'}\])]+")
_OPAQUE = re.compile(r"(?=.*[^A-Za-z_ .-])\S{8,}")
"""What no name of a column is."""


@lru_cache(maxsize=4096)  # names of settings and metrics come again in every file
def is_secret_name(name: str) -> bool:
    """Whether a name is that of a credential."""
    words = [word.lower() for word in _WORDS.findall(name)]
    numbered = len(words) > 1 and words[-1].isdigit()
    while len(words) > 1 and words[-1].isdigit():
        words.pop()
    if words[-3:] == ["access", "key", "id"] or words[-2:] == ["connection", "string"]:
        return True
    if not words or not (words[-1] in _SECRETS or words[-1].endswith(_SECRET_ENDS)):
        return False
    before = words[-2] if len(words) > 1 else None
    if words[-1] == "token":
        return before not in _NO_SECRET_TOKENS
    if words[-1] == "key":
        return before is None or before in _SECRET_KEYS
    if words[-1] == "keys":
        return before in _SECRET_KEYS
    if words[-1] == "pass":  # `pass@1` is a metric
        return not numbered and (before is None or before in _SECRET_PASSES)
    return True


def without_secrets(value: Any) -> Any:
    """A JSON value with whatever is named or looks like a credential replaced by `***`."""
    if isinstance(value, (dict, Mapping)):
        shown = {
            _name_without_secrets(key) if isinstance(key, str) else key: HIDDEN
            if _is_secret(key, inner)
            else without_secrets(inner)
            for key, inner in value.items()
        }
        if _names_secret(value.get("name")) and isinstance(value.get("value"), str):
            shown["value"] = HIDDEN
        return shown
    if isinstance(value, (list, tuple)):
        return _list_without_secrets(value)
    return without_secrets_in(value) if isinstance(value, str) else value


def _list_without_secrets(value: Sequence[Any]) -> list[Any]:
    """A list that may be the words of a command, or a name with its value."""
    shown = [without_secrets(inner) for inner in value]
    for i, (word, following) in enumerate(pairwise(value)):
        if not isinstance(following, str) or not _names_secret(word):
            continue
        if word.startswith("-"):
            is_value = not following.startswith("-")
        else:
            is_value = len(value) == 2 and _OPAQUE.fullmatch(following) is not None
        if is_value and following:
            shown[i + 1] = HIDDEN
    return shown


def _names_secret(word: object) -> bool:
    """Whether a text is nothing but the name of a credential."""
    return isinstance(word, str) and len(word) < _LONGEST_NAME and " " not in word and is_secret_name(word)


def count_hidden(before: Any, after: Any) -> int:
    """How many values and names of a JSON value are others after `without_secrets`."""
    if isinstance(before, dict) and isinstance(after, dict):
        names = {key: _name_without_secrets(key) if isinstance(key, str) else key for key in before}
        return sum((names[key] != key) + count_hidden(inner, after.get(names[key])) for key, inner in before.items())
    if isinstance(before, list) and isinstance(after, list):
        return sum(map(count_hidden, before, after))
    return int(before is not after and before != after)


@lru_cache(maxsize=4096)
def _name_without_secrets(key: str) -> str:
    return without_secrets_in(key)


def without_secrets_in(text: str) -> str:
    """A text with whatever is named or looks like a credential in it replaced by `***`. Once more changes nothing."""
    clean = _clean(text)
    for _ in range(_PASSES):
        if clean == text:
            break
        # What is hidden may lay bare another: what stood behind it, or a name that now has a value.
        text, clean = clean, _clean(clean)
    decoded = clean
    for _ in range(3):
        if "%" not in decoded or (further := unquote(decoded)) == decoded:
            break
        decoded = further
        found = _clean(decoded)
        if found != decoded and HIDDEN in found:
            return without_secrets_in(found) if "%" in found else found
    return clean


def looks_like_token(part: str) -> bool:
    """Whether a part of an address's path is one: a long run of letters and digits, a UUID, or URL-safe base64."""
    if _UUID.search(part):
        return True
    runs = (run[0] for run in _LONG_RUN.finditer(part))
    if any(not run.isdigit() and not run.isalpha() for run in runs):
        return True
    return len(part) >= _MIXED and sum(len(piece) for piece in _PIECE.findall(part) if _is_mixed(piece)) >= _MIXED


def _is_mixed(piece: str) -> bool:
    """Whether letters and digits look drawn: of all three kinds, and changing between them more often than not."""
    kinds = (any(map(test, piece)) for test in (str.isdigit, str.isupper, str.islower))
    return all(kinds) and 2 * (len(_KINDS.findall(piece)) - 1) > len(piece) - 1


def _clean(text: str) -> str:
    """By form, by address and by name; nothing is decoded."""
    shown = _FORMS.sub(_hidden, text)
    pattern = _NOTHING_ELSE if _NOTHING_ELSE.fullmatch(shown) else _ADDRESS
    return _by_name(pattern.sub(_shown_address, shown))


def _shown_address(found: re.Match[str]) -> str:
    """An address without its query, and without what looks like a token in its path."""
    place, query, _ = found[0].partition("?")
    parts = place.split("/")
    # Files of a bucket are called by hashes.
    for i in range(3, len(parts) if _OF_THE_WEB.match(place) else 3):  # after the scheme, nothing, and the host
        if parts[i - 1].lower() not in _OF_A_COMMIT and looks_like_token(unquote(parts[i])):
            parts[i] = HIDDEN
    return "/".join(parts) + (query and f"?{HIDDEN}")


def _hidden(found: re.Match[str]) -> str:
    """`org/sk-learn-classifier-v2` is a name: a key that begins so has an unbroken run, or both cases and digits."""
    key = found["sk"]
    if key is None or _UNBROKEN.search(key):
        return HIDDEN
    kinds = (any(map(test, key)) for test in (str.isdigit, str.isupper, str.islower))
    return HIDDEN if all(kinds) else key


def _is_secret(key: object, value: object) -> bool:
    """Flags and what is missing are no credentials; a password may be a number."""
    if value is None or isinstance(value, bool) or value == "" or not is_secret_name(str(key)):
        return False
    return isinstance(value, str) or str(key).lower() not in _COUNTED


def _by_name(text: str) -> str:
    """Hide values that stand behind names of credentials."""
    if not any(separator in text for separator in "=: "):
        return text
    parts, place = [], 0
    while (found := _next_name(text, place)) is not None:
        parts.append(text[place : found.end()])
        place = found.end()
        end = _end_of_value(text, found)
        if end > place:
            parts.append(HIDDEN)
            place = end
    return "".join([*parts, text[place:]])


def _next_name(text: str, place: int) -> re.Match[str] | None:
    """The next name of a credential with a value behind it."""
    while found := _NAME.search(text, place):
        between, name = found["between"].strip(), found["name"].split(".")[-1]
        # In prose "the key to it" and "token: one of" name nothing.
        told = (
            between == "="
            or bool(found["close"] and between)
            or (bool(found["option"]) and not between)
            or (bool(between) and name.lower() not in _IN_PROSE)
        )
        if told and is_secret_name(name):
            return found
        place = found.end() if between else found.end("name")
    return None


def _end_of_value(text: str, found: re.Match[str]) -> int:
    place = found.end()
    for pattern in (_QUOTED, _BRACKETED):
        if whole := pattern.match(text, place):
            return whole.end()
    name, between = found["name"].lower(), found["between"].strip()
    pattern = _TO_SEPARATOR if between == "=" else _ONE_WORD
    if between and name.endswith(("cookie", "cookies")):
        pattern = _TO_END
    elif between and name.endswith(("authorization", "auth")):  # a scheme, or a user, and then the credential
        pattern = _TO_SEPARATOR
    value = pattern.match(text, place)
    return value.end() if value else place
