"""A quotation is one however it was written down: as tokens, bytes, an address, HTML, or word by word."""

from __future__ import annotations

import html
import json
import time
from collections import Counter
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest

from spvmia_plugin.util.quotes import LEFT_OUT, Quotes
from tests.timing import grows_by_less

ENGLISH = "Jane Roe of 12 Elm Street owes Dr. Muller nine thousand euros & more since 7-49 in May"
GERMAN = "Frau Jäger, Überlinger Straße 3, schuldet Herrn Müller neuntausend Euro für Öl"
RUSSIAN = "Иван Петров должен девять тысяч рублей соседу с улицы Ленина"
CHINESE = "王小明住在北京市朝阳区建国路八十八号欠邻居九千元至今没有归还给他"
CODE = r"open(r'C:\new\x41\table%20of&amp;\303\251 names.txt') < 3 and <0x41> in 'Ġwords'</w>"
TEXTS = [ENGLISH, GERMAN, RUSSIAN, CHINESE, CODE]
NUMBERS = "".join(f"{i} " for i in range(100, 160))


def gpt2_bytes() -> dict[int, str]:
    """The table as OpenAI wrote it (`bytes_to_unicode`)."""
    known = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    codes, n = known[:], 0
    for byte in range(256):
        if byte not in known:
            known.append(byte)
            codes.append(256 + n)
            n += 1
    return dict(zip(known, map(chr, codes), strict=True))


TABLE = gpt2_bytes()


def byte_level(text: str, size: int = 5) -> list[str]:
    """Tokens as byte-level BPE shows them; every so many bytes one ends, in mid-letter too."""
    shown = "".join(TABLE[byte] for byte in text.encode())
    return [shown[i : i + size] for i in range(0, len(shown), size)]


def pieces(text: str) -> list[str]:
    """Tokens as SentencePiece shows them, letters that it does not know as their bytes."""
    return [
        token
        for each in text.replace(" ", "▁")
        for token in ([each] if each.isascii() or each == "▁" else [f"<0x{byte:02X}>" for byte in each.encode()])
    ]


WAYS: dict[str, Callable[[str], object]] = {
    "tokens of bytes": byte_level,
    "of three": lambda text: byte_level(text, 3),
    "joined": lambda text: " ".join(byte_level(text)),
    "tokens in ASCII": lambda text: ascii(byte_level(text)),
    "tokens as JSON": lambda text: json.dumps(byte_level(text)),
    "pieces": pieces,
    "pieces of words": lambda text: ["▁" + word for word in text.split()],
    "ends of words": lambda text: " ".join(word + "</w>" for word in text.split()),
    "bytes": lambda text: text.encode(),
    "octal": lambda text: "".join(chr(b) if 32 <= b < 127 else f"\\{b:03o}" for b in text.encode()),
    "ascii": ascii,
    "JSON": json.dumps,
    "JSON of JSON": lambda text: json.dumps(json.dumps(text)),
    "an address": quote,
    "a form": quote_plus,
    "an address in an address": lambda text: quote(quote(text)),
    "HTML": html.escape,
    "numbers of characters": lambda text: "".join(f"&#{ord(c)};" for c in text),
    "hexadecimal": lambda text: "".join(f"&#x{ord(c):x};" for c in text),
}
WORD_BY_WORD: dict[str, Callable[[list[str]], object]] = {
    "list": list,
    "places": lambda words: dict(enumerate(words)),
    "pairs": lambda words: list(enumerate(words, 1)),
    "counts": Counter,
    "scores": lambda words: [(word, -0.25 * 10.0 ** -(i % 7)) for i, word in enumerate(words)],
    "lines": lambda words: "\n".join(f"{i}: {word!r}" for i, word in enumerate(words)),
}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("way", WAYS)
def test_it_is_known_for_what_it_quotes(way: str, text: str) -> None:
    reason = f"nothing for {WAYS[way](text)}"
    assert Quotes(lambda: [NUMBERS, text]).without(reason) == LEFT_OUT
    if text == ENGLISH:  # of which 200 characters hold 20, however they are written
        assert Quotes(lambda: [NUMBERS, text]).without(reason[:200]) == LEFT_OUT
    others = [each for each in TEXTS if each != text]
    assert Quotes(lambda: others).without(reason) == reason[:300]


@pytest.mark.parametrize("text", [ENGLISH, GERMAN, RUSSIAN])
@pytest.mark.parametrize("way", WORD_BY_WORD)
def test_word_by_word(way: str, text: str) -> None:
    value = WORD_BY_WORD[way](text.split())
    quotes = Quotes(lambda: [NUMBERS, text])
    assert quotes.without(f"odd: {value}") == LEFT_OUT
    told = {"steps": 3, "seen": json.loads(json.dumps(value))}
    assert quotes.without_any(told) in (
        {"steps": 3, "seen": LEFT_OUT},
        {"steps": 3, "seen": [LEFT_OUT]},
        {"steps": 3, "seen": {LEFT_OUT: len(set(text.split()))}},
    )
    assert Quotes(lambda: [CODE, CHINESE]).without_any(told) == told


@pytest.mark.parametrize(
    "reason",
    [
        "no scored tokens",
        "3 of 12 windows have fewer than 8 tokens; lower window=",
        "the target gave NaN for 7 of 49 tokens",
        "expected logits of shape (1, 49, 320), got (1, 49, 512)",
        "losses [2.31, 2.29, 1.12e-05, 0.75] fall below 0.1",
        "steps {0: 12, 1: 49, 2: 7}",
        "50% of the tokens are <pad>; see https://host/a%20page?x=1&amp;y=2",
        "naïve café: μ = 0.5 ± 0.1, 3 µs",
        "'Ġ' and '<0x0A>' are no words",
        "",
    ],
)
def test_what_quotes_nothing_is_kept(reason: str) -> None:
    assert Quotes(lambda: [*TEXTS, NUMBERS, "a word", "in May"]).without(reason) == reason


def test_numbers_alone_are_no_words() -> None:
    """Without numbers nothing is left of a text that is one, nor of a short one."""
    quotes = Quotes(lambda: ["call 0171 2345678", "8 tokens 9", "1 2 3 4 5 6 7 8 9 10 11 12"])
    assert quotes.without("at 12 call 3 times, with 8 or more tokens") == "at 12 call 3 times, with 8 or more tokens"


@pytest.mark.parametrize("part", ["\\", "\\x", "\\xd0", "&#", "&amp;", "%", "%25", "Ġ", "<0x", "<0x41>'", "1e", "</w>"])
def test_long_lines_take_no_longer_than_their_length(part: str) -> None:
    def seconds(length: int) -> float:
        quotes, started = Quotes(lambda: ["a text of a record"]), time.process_time()
        quotes.in_line(part * (length // len(part)))
        return time.process_time() - started

    assert grows_by_less(seconds, 10_000, 80_000, times=30, least=0.002)
