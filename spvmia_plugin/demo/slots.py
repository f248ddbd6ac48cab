"""Phrases with alternatives and slots: what made-up private texts are put together from, by Faker.

A phrase has alternatives in braces and slots in angle brackets: `{a|b|}` chooses one of its parts (nothing, in the last
case); `<slot>` is filled by `_Slots`.
"""

from __future__ import annotations

import importlib.util
import random
import re
from collections.abc import Callable, Hashable
from datetime import date
from functools import cached_property
from typing import Any, TypeVar

from spvmia_plugin.errors import SpvmiaError

Made = TypeVar("Made", bound=Hashable)

PRODUCT = (
    "{Nordic|foldable|steel|cordless|Verano|compact|Lumo|silver|second-hand|quiet|Altus|refurbished|wooden|"
    "portable|Kestrel|two-litre|Orbis|large|children's|Bravia|mini|heavy-duty|Tarn|Calder|vintage|wireless|"
    "Pico|Solano|junior|deluxe} "
    "{kettle|toaster|vacuum|hair dryer|desk lamp|camping stove|bread maker|garden hose|rice cooker|"
    "electric drill|tablet|wall clock|baby monitor|coffee grinder|air fryer|sewing machine|treadmill|projector|"
    "headset|e-reader|juicer|ice maker|heat pump|lawn mower|office chair|bookshelf|mattress|tent|rucksack|"
    "fish tank|space heater|doorbell|router|printer|scanner|webcam|microscope|telescope|violin case|keyboard|"
    "record player|radio|soundbar|dishwasher|fridge|freezer|oven|cooker hood|washing machine|tumble dryer|iron|"
    "fan|dehumidifier|pram|car seat|bike light|helmet|scooter|skateboard|wetsuit|kayak paddle|ski boots|"
    "rain coat|smart watch|thermostat|solar panel|hedge cutter}"
)

_CHOICE = re.compile(r"\{([^{}]*)\}")
_SLOT = re.compile(r"<(\w+)>")
_BEFORE_MARK = re.compile(r"\s+([,.?!])")
_LETTERS = "ABCDEFGHKLMNPRTWX"
_FIRST_DAY, _LAST_DAY = date(2023, 1, 1), date(2024, 12, 31)


def draw_different(count: int, seed: int, draw: Callable[[random.Random, Any], Made]) -> list[Made]:
    """Draw until there are `count` different ones; a longer list starts with a shorter one of the same seed.

    Args:
        count: how many.
        seed: of everything that is drawn.
        draw: makes one, from a generator of random numbers and Faker, both seeded.

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
    made: dict[Made, None] = {}
    while len(made) < count:
        made.setdefault(draw(rng, faker))
    return list(made)


class Writer:
    """Fills phrases for one text. Who and what it is about stays the same through it; figures are new.

    Args:
        faker: makes names and addresses.
        rng: chooses.
    """

    def __init__(self, faker: Any, rng: random.Random) -> None:
        self._slots = _Slots(faker, rng)
        self._rng = rng

    def fill(self, phrase: str) -> str:
        """Choose among the alternatives, fill the slots, and begin with a capital letter."""
        filled = _SLOT.sub(lambda match: str(getattr(self._slots, match[1])), _choose(phrase, self._rng))
        tidy = _BEFORE_MARK.sub(r"\1", " ".join(filled.split()))
        return tidy[0].upper() + tidy[1:]


def _choose(template: str, rng: random.Random) -> str:
    """Replace every `{a|b}` by one of its parts, from the inside out."""
    while _CHOICE.search(template):
        template = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), template, count=1)
    return template


class _Slots:
    """What fills the slots of one text, each a property."""

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
        return _choose(PRODUCT, self._rng)

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
