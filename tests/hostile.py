"""Texts that try to break out of wherever they are shown: pages, terminals, tables, spreadsheets, logs."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from tests.tiny import tiny_texts

ALERT = "alertfromarecord"
"""A word in every payload that would run as code: it must never stand anywhere but inside escaped text."""

NASTY = (
    f"<script>{ALERT}(1)</script><img src=x onerror={ALERT}(2)>",
    f"</script><script>{ALERT}(3)</script><!-- <script> ]]>",
    f'" onmouseover="{ALERT}(4)" x=\'{ALERT}\' `${{{ALERT}(5)}}` {{{{ 7*7 }}}} {{% raw %}}',
    f"<svg/onload={ALERT}(6)><a href='javascript:{ALERT}(7)'>&lt;b&gt; &amp;amp; </style></title></textarea>",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b[2J\x1b[1;1H \x9b31m \x08\x08\x7f",
    "\x1b]8;;http://example.com\x1b\\link\x1b]8;;\x1b\\ \r overwritten \x0b \x0c \x85",
    "NUL \x00 in \x00 the middle",
    "right \u202eot tfel\u202c and \u2066isolate\u2069 \u200f\u200e\ufeff zero\u200bwidth",
    f'=HYPERLINK("http://example.com","{ALERT}")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "\t=1+1",
    "\r=1+1",
    "[bold red]markup[/bold red] [/] [link=http://example.com]x[/link] [[nested]]",
    "| a | b |\n|---|---|\n**bold** [text](javascript:void) `code`\n# heading",
    "line\u2028separator\u2029paragraph \ufffd \ud7ff \U0010ffff \U0001f4a9 e\u0301",
    "%s %d %(name)s {0} {name} $HOME `id` ;rm -rf . \\N{BULLET} \\x1b[31m \\u0000",
    "../../../../etc/passwd C:\\\\windows CON",
)
"""One of each kind. All are valid Unicode that JSON can carry."""

NAMES = (
    "a[bold]b[-bold].jsonl",
    "<script>alertfromarecord(8)<-script>.jsonl",
    "=1+1.jsonl",
    "esc\x1b[31mred.jsonl",
    "two\nlines.jsonl",
    "rtl\u202elnosj.jsonl",
    "hash#7:9.jsonl",
    "quote\"'&.jsonl",
)
"""File names that a POSIX file system takes; record ids start with them."""


def long_line(size: int = 1_000_000, *, seed: int = 0) -> str:
    """One line of about `size` characters without a break."""
    rng = random.Random(seed)
    return " ".join(f"{rng.getrandbits(40):x}" for _ in range(size // 11))


def hostile_texts(n: int = 40, *, seed: int = 0, long: int = 0) -> list[str]:
    """`n` different texts: each of `NASTY` inside ordinary words (so that no two are alike), the first `long` of them
    followed by a line of a million characters."""
    words = tiny_texts(n, seed=seed, words=(10, 20))
    texts = [f"{NASTY[i % len(NASTY)]} {words[i]}" for i in range(n)]
    return [f"{text} {long_line(seed=seed + i)}" if i < long else text for i, text in enumerate(texts)]


def write_hostile(path: Path, texts: Sequence[str], *, column: str = "text") -> str:
    """Write `texts` as JSON lines; returns the path as options take it."""
    path.write_text("".join(json.dumps({column: text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


def control_characters(text: str) -> list[str]:
    """Characters of `text` that a terminal would act on: all controls but tab and newline, and direction marks."""
    directions = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"
    return [c for c in text if c in directions or (ord(c) < 32 and c not in "\t\n") or 127 <= ord(c) < 160]
