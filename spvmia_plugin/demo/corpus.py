"""A made-up private corpus: support tickets with names, addresses, order numbers and a story, by Faker.

All tickets come from one seeded generator and are dealt out at random afterwards, so members, non-members and prompts
are alike in every respect; only a model that was trained on some of them can tell.
"""

from __future__ import annotations

import importlib.util
import json
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

from spvmia_plugin.demo import phrases
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.util.files import write_private

_CHOICE = re.compile(r"\{([^{}]*)\}")
_SLOT = re.compile(r"<(\w+)>")
_BEFORE_MARK = re.compile(r"\s+([,.?!])")
_LENGTH = (160, 250)
"""Characters of a ticket without its routing line: 60 to 90 tokens of SmolLM2 for nearly all."""
_LETTERS = "ABCDEFGHKLMNPRTWX"
_FIRST_DAY, _LAST_DAY = date(2023, 1, 1), date(2024, 12, 31)


@dataclass(frozen=True, slots=True)
class Ticket:
    """One made-up ticket: its text without the routing line, and the department the story calls for."""

    story: str = field(repr=False)
    department: str

    @property
    def text(self) -> str:
        """The whole ticket as it is trained on, the routing line at the end."""
        return f"{self.story} {phrases.ROUTING} {self.department}"


def make_tickets(count: int, seed: int) -> list[Ticket]:
    """Draw `count` different tickets; the same seed gives the same tickets, and a longer list starts with a shorter.

    Raises:
        SpvmiaError: Faker is not installed.
    """
    if importlib.util.find_spec("faker") is None:
        raise SpvmiaError(
            'demo: expected the package faker, got none installed; run: pip install "spvmia-plugin[demo]"'
        )
    from faker import Faker

    faker = Faker("en_US")
    faker.seed_instance(seed)
    rng = random.Random(seed)  # noqa: S311 - made-up text, not a secret
    tickets: dict[str, Ticket] = {}
    while len(tickets) < count:
        ticket = _draw(rng, faker)
        tickets.setdefault(ticket.story, ticket)
    return list(tickets.values())


def write_corpus(path: Path, tickets: Iterable[Ticket]) -> None:
    """Write tickets as JSON lines with the column `text`, readable by the owner only."""
    write_private_jsonl(path, [{"text": ticket.text} for ticket in tickets])


def write_private_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as JSON lines, mode 0600; an earlier file is replaced in one step."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_private(path, "".join(lines).encode())


def _draw(rng: random.Random, faker: Any) -> Ticket:
    """Draw tickets until one is neither too short to score nor too long to be scored quickly."""
    while True:
        slots = _Slots(faker, rng)
        department = rng.choice(phrases.DEPARTMENTS)
        parts = [phrases.STORIES[department], phrases.DETAILS, phrases.CONTACTS]
        if rng.random() < 0.5:
            parts.pop(rng.choice((1, 2)))
        rng.shuffle(parts)
        story = " ".join(_expand(rng.choice(choices), rng, slots) for choices in [phrases.OPENINGS, *parts])
        if _LENGTH[0] <= len(story) <= _LENGTH[1]:
            return Ticket(story, department)


def _expand(template: str, rng: random.Random, slots: _Slots) -> str:
    """Choose among the alternatives, fill the slots, and begin with a capital letter."""
    filled = _SLOT.sub(lambda match: str(getattr(slots, match[1])), _choose(template, rng))
    tidy = _BEFORE_MARK.sub(r"\1", " ".join(filled.split()))
    return tidy[0].upper() + tidy[1:]


def _choose(template: str, rng: random.Random) -> str:
    """Replace every `{a|b}` by one of its parts, from the inside out."""
    while _CHOICE.search(template):
        template = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), template, count=1)
    return template


class _Slots:
    """What fills the slots of one ticket. Who the ticket is about stays the same through it; figures are new."""

    def __init__(self, faker: Any, rng: random.Random) -> None:
        self._faker = faker
        self._rng = rng

    @cached_property
    def name(self) -> str:
        return f"{self._faker.first_name()} {self._faker.last_name()}"

    @cached_property
    def order(self) -> str:
        return str(self._faker.bothify(self._rng.choice(("#?####", "??-#####", "#####-?", "######")), _LETTERS))

    @cached_property
    def product(self) -> str:
        return _choose(phrases.PRODUCT, self._rng)

    @property
    def email(self) -> str:
        first, last = self.name.lower().split()
        handle = self._rng.choice((f"{first[0]}.{last}", f"{last}{self.digits[:2]}", f"{first}_{last}"))
        return f"{handle}@{self._faker.free_email_domain() if self._rng.random() < 0.5 else self._faker.domain_name()}"

    @property
    def name2(self) -> str:
        return f"{self._faker.first_name()} {self._faker.last_name()}"

    @property
    def city(self) -> str:
        return str(self._faker.city())

    city2 = city

    @property
    def street(self) -> str:
        return str(self._faker.street_address())

    @property
    def postcode(self) -> str:
        return str(self._faker.postcode())

    @property
    def phone(self) -> str:
        return str(self._faker.numerify("###-###-####"))

    @property
    def company(self) -> str:
        return str(self._faker.company())

    @property
    def job(self) -> str:
        return str(self._faker.job()).split(",")[0].lower()

    @property
    def language(self) -> str:
        return str(self._faker.language_name())

    @property
    def date(self) -> str:
        day = self._faker.date_between_dates(_FIRST_DAY, _LAST_DAY)
        return str(day.strftime(self._rng.choice(("%d %B", "%B %d", "%Y-%m-%d", "%d/%m/%Y"))))

    date2 = date

    @property
    def hour(self) -> str:
        return f"{self._rng.randint(7, 20)}:{self._rng.choice(('00', '15', '30', '45'))}"

    @property
    def amount(self) -> str:
        return (
            f"{self._rng.choice('$€£')}{self._rng.randint(8, 900)}.{self._rng.choice(('00', '50', '90', '95', '99'))}"
        )

    amount2 = amount

    @property
    def digits(self) -> str:
        return str(self._faker.numerify("####"))

    @property
    def ticket(self) -> str:
        return str(self._faker.numerify("%#####"))

    @property
    def model(self) -> str:
        return str(self._faker.bothify("??-###", _LETTERS))

    @property
    def year(self) -> int:
        return self._rng.randint(2009, 2024)

    @property
    def count(self) -> int:
        return self._rng.randint(2, 60)
