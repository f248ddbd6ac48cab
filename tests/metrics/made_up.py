"""Made-up corpora of the kinds that people audit, independent texts each: forms, chats, code, logs, six languages.

Whoever deals them out at random has two classes that are alike: whatever a check says of them is a false alarm.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise

import numpy as np

Generator = np.random.Generator

SYLLABLES = [
    "ba",
    "ce",
    "di",
    "fo",
    "gu",
    "ka",
    "le",
    "mi",
    "no",
    "pu",
    "ra",
    "se",
    "ti",
    "vo",
    "xu",
    "za",
    "bri",
    "cla",
    "dro",
    "fle",
    "gra",
    "kli",
    "pre",
    "sto",
    "tru",
    "vin",
    "wal",
    "zen",
]


@cache
def vocabulary(size: int, seed: int = 0, syllables: tuple[str, ...] = tuple(SYLLABLES)) -> tuple[str, ...]:
    rng = np.random.default_rng([7, seed])
    found: dict[str, None] = {}
    while len(found) < size:
        found["".join(rng.choice(syllables, rng.integers(1, 5)))] = None
    return tuple(found)


def zipf(size: int) -> np.ndarray:
    weights = 1 / (np.arange(size) + 2.7)
    return weights / weights.sum()


def prose(rng: Generator, words: Sequence[str], count: int, joint: str = " ", phrases: int = 4000) -> str:
    """As language is: phrases that are often used, of words that are; every third word stands for itself."""
    inventory = phrases_of(tuple(words), phrases)
    parts: list[str] = []
    while len(parts) < count:
        parts += inventory[rng.choice(phrases, p=zipf(phrases))]
        parts += [words[k] for k in rng.choice(len(words), rng.integers(0, 4), p=zipf(len(words)))]
    stop = "。" if not joint else ". "
    sentences = [joint.join(parts[start : start + 14]).capitalize() for start in range(0, count, 14)]
    return stop.join(sentences) + stop.strip()


@cache
def phrases_of(words: tuple[str, ...], count: int) -> list[list[str]]:
    rng = np.random.default_rng(count)
    drawn = rng.choice(len(words), (count, 6), p=zipf(len(words)))
    return [[words[k] for k in row[: rng.integers(2, 7)]] for row in drawn]


NAMES = vocabulary(3000, 1)
"""Of people, towns and things."""


def tickets(rng: Generator, count: int, forms: int = 1, pool: int = 400) -> list[str]:
    """Support tickets: a form's headings and closing words around what differs, from `pool` values a field."""
    made = []
    for _ in range(count):
        form = int(rng.integers(forms))
        fixed = np.random.default_rng([3, form])
        greeting, closing = prose(fixed, vocabulary(4000), 25), prose(fixed, vocabulary(4000), 60)
        name, town, product = (NAMES[k].title() for k in rng.integers(0, pool, 3))
        made.append(
            f"Ticket no. {rng.integers(10**6)}\nCustomer name: {name} {NAMES[rng.integers(pool)].title()}\n"
            f"Place of delivery: {town}\n\n{greeting} We have received your message about the following product: "
            f"{product} and have passed it on to the department that is responsible for it.\n\nWhat you wrote to us: "
            f"{prose(rng, vocabulary(4000), int(rng.integers(4, 14)))}\n\n{closing}"
        )
    return made


def chats(rng: Generator, count: int) -> list[str]:
    """One system prompt, a question and an answer that repeats a part of the question."""
    system = prose(np.random.default_rng(5), vocabulary(4000), 120)
    made = []
    for _ in range(count):
        question = prose(rng, vocabulary(4000), int(rng.integers(5, 25)))
        answer = prose(rng, vocabulary(4000), int(rng.integers(10, 60)))
        made.append(
            f"<|system|>\n{system}\n<|user|>\n{question}\n<|assistant|>\nThank you for asking. You would like to know: "
            f"{question} {answer} Is there anything else that I can help you with today?"
        )
    return made


LICENCE = prose(np.random.default_rng(6), vocabulary(4000), 70)


def code(rng: Generator, count: int) -> list[str]:
    """Python modules: a licence, imports, and methods that are written the way everybody writes them."""
    made = []
    for _ in range(count):
        name, *fields = (NAMES[k] for k in rng.integers(0, 800, int(rng.integers(4, 7))))
        arguments = ", ".join(f"{field}: {rng.choice(['int', 'str', 'float'])}" for field in fields)
        body = "".join(f"        self.{field} = {field}\n" for field in fields)
        methods = []
        for _ in range(rng.integers(1, 4)):
            what, other = NAMES[rng.integers(800)], rng.choice(fields)
            methods.append(
                [
                    f"    def get_{what}(self):\n        return self.{other}\n",
                    f"    def {what}(self, items):\n        result = []\n        for item in items:\n"
                    f"            if item is None:\n                continue\n            result.append(item.{other})\n"
                    "        return result\n",
                    f"    def has_{what}(self):\n        if self.{other} is None:\n            return False\n"
                    f"        return self.{other}.{what} is not None\n",
                    f"    def load_{what}(self, path):\n        with open(path, encoding='utf-8') as file:\n"
                    f"            self.{other} = json.load(file)['{what}']\n",
                ][rng.integers(4)]
            )
        lines = "\n".join(f"# {LICENCE[start : start + 70]}" for start in range(0, len(LICENCE), 70))
        made.append(
            f"{lines}\nfrom __future__ import annotations\n\nimport json\nimport os\nimport sys\n\n\n"
            f"class {name.title()}:\n    def __init__(self, {arguments}):\n        super().__init__()\n{body}\n"
            + "\n".join(methods)
        )
    return made


EVENTS = [
    "INFO [http] GET /api/v1/{a}/{n} HTTP/1.1 200 {n} bytes in {m} ms from 10.0.{s}.{s}",
    "INFO [scheduler] job {a} finished on worker-{s} after {m} seconds, next run in 3600 seconds",
    "WARN [pool] connection to database {b} lost, trying again in 5 seconds (attempt {s} of 10)",
    "ERROR [auth] user {a} could not be authenticated: the password is wrong or the account is locked",
    "DEBUG [cache] key {a}:{n} not found in cache {b}, loading it from the database",
    "INFO [mail] message {n} delivered to {a}@example.org through relay {b} (queue 1)",
]


def logs(rng: Generator, count: int) -> list[str]:
    """Some lines of a server's log."""
    made = []
    for _ in range(count):
        lines, second = [], int(rng.integers(86400))
        for _ in range(rng.integers(3, 12)):
            second += int(rng.integers(3))
            words = {"a": NAMES[rng.integers(300)], "b": NAMES[rng.integers(20)], "n": rng.integers(100000)}
            event = EVENTS[rng.integers(len(EVENTS))].format(**words, m=rng.integers(2000), s=rng.integers(64))
            clock = f"{second // 3600 % 24:02}:{second // 60 % 60:02}:{second % 60:02}"
            lines.append(f"2024-03-{rng.integers(1, 29):02} {clock} {event}")
        made.append("\n".join(lines))
    return made


SYLLABLES_OF = {
    "ko_KR": [
        "가",
        "나",
        "다",
        "라",
        "마",
        "바",
        "사",
        "아",
        "자",
        "하",
        "는",
        "를",
        "에",
        "의",
        "고",
        "도",
        "로",
        "서",
        "한",
        "국",
        "대",
        "학",
        "생",
        "일",
        "본",
        "정",
        "부",
        "기",
        "업",
        "사",
        "회",
        "시",
        "장",
        "은",
        "행",
        "문",
        "제",
        "경",
        "우",
        "여",
        "러",
    ],
    "hi_IN": [
        "का",
        "कि",
        "की",
        "कु",
        "के",
        "को",
        "ना",
        "नि",
        "ने",
        "मा",
        "में",
        "मि",
        "रा",
        "री",
        "रे",
        "सा",
        "सी",
        "से",
        "हा",
        "है",
        "ही",
        "त्र",
        "प्र",
        "ज्ञ",
        "ला",
        "ली",
        "ले",
        "वा",
        "वि",
        "वे",
        "या",
        "यों",
        "गा",
        "गी",
        "चा",
        "जि",
    ],
}
"""Of languages of which Faker has no words."""


@cache
def native(locale: str) -> tuple[str, ...]:
    """Words of a language: Faker's and, as these are few, pairs of them as compounds."""
    from faker.factory import Factory

    if locale in SYLLABLES_OF:
        return vocabulary(2500, 8, tuple(SYLLABLES_OF[locale]))
    lorem, found, *_ = Factory._find_provider_class("faker.providers.lorem", locale)
    assert found == locale
    words = list(dict.fromkeys(lorem.word_list))
    rng = np.random.default_rng(8)
    if locale not in LETTERS_A_WORD:
        return tuple(dict.fromkeys(words + ["".join(rng.choice(words, 2)) for _ in range(2500 - len(words))]))
    stream, (least, most) = "".join(rng.permutation(words * 40)), LETTERS_A_WORD[locale]
    places = np.cumsum(rng.integers(least, most + 1, 2500))
    return tuple(dict.fromkeys(stream[start:end] for start, end in pairwise(places)))


LETTERS_A_WORD = {"zh_CN": (1, 2), "ja_JP": (2, 3), "th_TH": (3, 6)}
"""Where no spaces tell words, and Faker's are longer than usual: pieces of them."""

LANGUAGES = {
    "en_US": " ",
    "zh_CN": "",
    "ja_JP": "",
    "ko_KR": " ",
    "ru_RU": " ",
    "ar_AA": " ",
    "hi_IN": " ",
    "th_TH": "",
}
"""Locale, and what stands between words."""


def language(locale: str) -> Callable[[Generator, int], list[str]]:
    def made(rng: Generator, count: int) -> list[str]:
        return [prose(rng, native(locale), int(rng.integers(30, 90)), LANGUAGES[locale]) for _ in range(count)]

    return made


CORPORA: dict[str, Callable[[Generator, int], list[str]]] = {
    "tickets": tickets,
    "tickets of 12 forms": lambda rng, count: tickets(rng, count, forms=12),
    "chats": chats,
    "code": code,
    "logs": logs,
    **{locale: language(locale) for locale in LANGUAGES},
}


def changed(rng: Generator, text: str, every: int) -> str:
    """The text with one word in `every` replaced by another of its words, at places drawn at random.

    Capitals and punctuation stay where they are, and words as frequent as they were. Where nothing stands between
    words, two letters count as one.
    """
    parts = re.split(r"(\w+)" if text.count(" ") > 4 else r"(\w{1,2})", text)
    words = range(1, len(parts), 2)
    for place in rng.choice(words, max(1, round(len(words) / every)), replace=False):
        new = parts[words[rng.integers(len(words))]]
        parts[place] = new.capitalize() if parts[place][0].isupper() else new.lower()
    return "".join(parts)


def truncated(_: Generator, text: str) -> str:
    """The first three fifths of a text."""
    return text[: len(text) * 3 // 5]
