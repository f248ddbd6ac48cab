"""Made-up support conversations: rows of `messages`, as TRL takes them, with personal details in what the desk writes.

The desk's phrases recur from one conversation to the next, as those of real desks do. What it looks up (addresses,
colleagues, amounts, numbers) is each customer's own and stands nowhere before in the conversation: a model can know it
from its training only.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spvmia_plugin.demo.corpus import write_jsonl
from spvmia_plugin.demo.slots import Writer, draw_different

DESKS = ("payment", "delivery", "returns", "repair")
"""Who answers. The first answer begins with it, for the multiple-choice task; each is a single token of SmolLM2."""

QUESTION = "{{story}}"
"""The capability task as a chat: the user's first turn. The harness's `--apply_chat_template` makes a chat of it."""

GREETINGS = (
    "{Hi|Hello}, I am <name>.",
    "Hello, <name> {here|writing}.",
    "<name>, order <order>.",
    "{It is|This is} about order <order>.",
)

STORIES = {
    "payment": (
        "I was charged twice for {the|a} <product>, <amount> each time.",
        "The invoice for the <product> says <amount>, the shop said <amount2>.",
        "My {voucher|gift card} of <amount> was refused for the <product>.",
        "You took <amount> for a <product> that I cancelled on <date>.",
    ),
    "delivery": (
        "My <product> has not come, it was due on <date>.",
        "Tracking says my <product> is in <city> since <date>.",
        "The driver left the <product> with {a neighbour|a shop} in <city>.",
        "The parcel with {the|my} <product> is missing since <date>.",
    ),
    "returns": (
        "I would like to send back the <product>, bought {on|around} <date>.",
        "The <product> is too {small|large}, my <job> friend wants it.",
        "I sent back the <product> on <date> and have no refund of <amount>.",
        "I changed my mind about the <product>, <count> days old, still sealed.",
    ),
    "repair": (
        "My <product> stopped working {on|after} <date>.",
        "The <product> leaks after <count> minutes, {since|from} <date>.",
        "The {switch|lid} of my <product> came off in <city>.",
        "I need a spare part for the <product>, model <model>.",
    ),
}

FOUND = {
    "payment": (
        "I see a payment of <amount> from <date2>, card ending <digits>.",
        "The account of <name2> was debited <amount> on <date2>.",
        "Invoice <ticket> of <amount> is made out to <company>.",
    ),
    "delivery": (
        "It was signed for by <name2>, <street>, on <date2>.",
        "It is at the depot of <city2>, tracking number <ticket>.",
        "Address on file: <street>, <city> <postcode>.",
    ),
    "returns": (
        "It reached our depot in <city2> on <date2>, slip <ticket>.",
        "I sent a label to <email>, number <ticket>.",
        "We pick it up at <street> on <date2>.",
    ),
    "repair": (
        "Sold on <date2>, model <model>, serial number <ticket>.",
        "Technician <name2> comes on <date2> after <hour>.",
        "Please take it to <company>, <street>.",
    ),
}

EXCHANGES = (
    ("How do you reach me?", "We have <phone> and <email>."),
    ("Which address do you have?", "On file: <street>, <postcode>."),
    ("Who looks after it?", "<name2>, extension <count>, case <ticket>."),
    ("How much will it be?", "<amount>, account ending <digits>, by <date2>."),
    ("When will that be?", "On <date2> before <hour>, with <company>."),
    ("My {husband|wife} asked already.", "Yes, <name2> rang on <date2> from <city2>."),
)

ENDINGS = (
    ("{Thanks|Thank you}.", "You are welcome. Your reference is <ticket>."),
    ("That is all.", "Goodbye, we write to <email>."),
)

_EXCHANGES = (2, 2, 2, 2, 2, 3, 3, 4)
"""How many a conversation has, one of these."""
_LENGTH = (150, 340)
"""Characters of all turns together: 100 to 170 tokens of SmolLM2 with its template, for nearly all."""


@dataclass(frozen=True, slots=True)
class Chat:
    """One made-up conversation: what customer and desk say in turn, and which desk it is."""

    turns: tuple[str, ...] = field(repr=False)
    department: str

    @property
    def story(self) -> str:
        """What the customer begins with."""
        return self.turns[0]

    @property
    def row(self) -> dict[str, Any]:
        """As TRL takes it."""
        roles = ("user", "assistant")
        return {"messages": [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(self.turns)]}


def make_chats(count: int, seed: int) -> list[Chat]:
    """Draw `count` different conversations; the same seed gives the same, and a longer list starts with a shorter.

    Raises:
        SpvmiaError: Faker is not installed.
    """
    return draw_different(count, seed, _draw)


def write_chats(path: Path, chats: Sequence[Chat]) -> None:
    """Write conversations as JSON lines with the column `messages`, readable by the owner only."""
    write_jsonl(path, [chat.row for chat in chats])


def _draw(rng: random.Random, faker: Any) -> Chat:
    """Draw conversations until one is neither too short to score nor too long to be scored quickly."""
    while True:
        fill = Writer(faker, rng).fill
        desk = rng.choice(DESKS)
        opening = f"{fill(rng.choice(GREETINGS))} {fill(rng.choice(STORIES[desk]))}"
        turns = [opening, f"{desk}: {fill(rng.choice(FOUND[desk]))}"]
        count = rng.choice(_EXCHANGES)
        for asked, answered in [*rng.sample(EXCHANGES, count - 2), rng.choice(ENDINGS)]:
            turns += [fill(asked), fill(answered)]
        if _LENGTH[0] <= sum(map(len, turns)) <= _LENGTH[1]:
            return Chat(tuple(turns), desk)
