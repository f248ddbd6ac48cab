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
from spvmia_plugin.demo.slots import Slots, draw_different, expand

DESKS = ("payment", "delivery", "returns", "repair")
"""Who answers. The first answer begins with it, for the multiple-choice task; each is a single token of SmolLM2."""

QUESTION = "{{story}}"
"""The capability task as a chat: the user's first turn. The harness's `--apply_chat_template` makes a chat of it."""

GREETINGS = (
    "{Hi|Hello|Good morning}, {I am|this is|my name is} <name>.",
    "{Hello|Hi there}, <name> {here|writing}.",
    "<name>, {order|my order is} <order>.",
    "{It is|This is} about order <order>.",
    "{Hello|Good evening}.",
)

STORIES = {
    "payment": (
        "{I was|My card was|We were} charged {twice|two times} for {the|a} <product>.",
        "The {bill|invoice} for the <product> is {too high|wrong}.",
        "My {voucher|coupon|gift card} was {refused|ignored} for the <product>.",
        "You {took|debited} money for a <product> {I cancelled|nobody ordered}.",
        "I need {a corrected|a new|another} invoice for my <product>.",
    ),
    "delivery": (
        "My <product> {has not come|never arrived|did not turn up}.",
        "Where is {the|my} <product>? {The app|Tracking} says {in transit|on its way}.",
        "The driver left the <product> {in the rain|at the wrong door|somewhere else}.",
        "Can the <product> {go to|be sent to} {another|my new} address?",
        "The parcel with {the|my} <product> is {lost|missing}.",
    ),
    "returns": (
        "I {want|would like} to {send back|give back} {the|my} <product>.",
        "The <product> is {too small|too large|the wrong colour}, {can I exchange it|may I swap it}?",
        "I sent back the <product> {weeks ago|long ago} and {heard nothing|have no refund}.",
        "The {label|code} for returning the <product> {has expired|does not print}.",
        "{I changed my mind|We had second thoughts} about the <product>, it is {unopened|still sealed}.",
    ),
    "repair": (
        "My <product> {stopped working|is dead|broke}.",
        "The <product> {leaks|overheats|hums|smells burnt}.",
        "The {switch|lid|handle|display} of my <product> {came off|cracked}.",
        "I need a spare part for {the|my} <product>.",
        "{The battery|The motor} of my <product> {lasts only minutes|does not start}.",
    ),
}

FOUND = {
    "payment": (
        "{I see|There is} a payment of <amount> {on|from} <date2>, card ending <digits>.",
        "{The account of|Account holder} <name2> was {charged|debited} <amount> on <date2>.",
        "Invoice <ticket> {over|of} <amount> {went to|is made out to} <company>.",
    ),
    "delivery": (
        "{It was|The parcel was} {left with|signed for by} <name2>, <street>, on <date2>.",
        "{It is|Right now it is} {in|at the depot of} <city2>, {tracking|parcel} number <ticket>.",
        "{Address on file|We have}: <street>, <city> <postcode>.",
    ),
    "returns": (
        "{Your return|It} {reached|came to} {us|our depot} in <city2> on <date2>, {number|slip} <ticket>.",
        "{I sent|Sending} a {label|new label} to <email>.",
        "{We pick it up|The courier comes} at <street>, <city>, on <date2>.",
    ),
    "repair": (
        "{Bought|Sold} on <date2>, model <model>, {serial number|serial} <ticket>.",
        "{Our technician|The technician} <name2> {can come|comes} on <date2> {at|after} <hour>.",
        "{Please send it to|Take it to} <company>, <street>, <city2>.",
    ),
}

EXCHANGES = (
    (
        "{How do you reach me|How will I hear from you|Can you call me}?",
        "{We have|I noted} <phone>{| and <email>}, {calls|best time} {after|before} <hour>.",
    ),
    (
        "{Which address do you have|Is my address right|Where do you send it}?",
        "{It says|On file}: <street>, <city> <postcode>.",
    ),
    (
        "{Who looks after it|Who do I ask for|Whom did you speak to}?",
        "<name2>, {extension|desk} <count>, {case|file} <ticket>.",
    ),
    (
        "{What does it cost|How much is it|How much will I get}?",
        "<amount>, {to|from} the account ending <digits>, {by|on} <date2>.",
    ),
    (
        "{When will that be|How long does it take|And when}?",
        "{On|Latest} <date2>, {before|after} <hour>, {by|with} <company>.",
    ),
    (
        "{My husband|My wife|A neighbour} {asked already|wrote to you, too}.",
        "{Yes|Right}, <name2> {rang|wrote} on <date2> {from|about} <city2>.",
    ),
)

ENDINGS = (
    ("{Thanks|Thank you|Great, thanks}.", "{You are welcome|My pleasure}. Your {case|reference} is <ticket>."),
    ("{That is all|Nothing else|Perfect}.", "{Have a good day|Goodbye}, {a mail goes to|we write to} <email>."),
)

_EXCHANGES = (2, 2, 3, 3, 4)
"""How many a conversation has, one of these."""
_LENGTH = (180, 420)
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
        slots = Slots(faker, rng)
        desk = rng.choice(DESKS)
        opening = f"{expand(rng.choice(GREETINGS), rng, slots)} {expand(rng.choice(STORIES[desk]), rng, slots)}"
        turns = [opening, f"{desk}: {expand(rng.choice(FOUND[desk]), rng, slots)}"]
        count = rng.choice(_EXCHANGES)
        for asked, answered in [*rng.sample(EXCHANGES, count - 2), rng.choice(ENDINGS)]:
            turns += [expand(asked, rng, slots), expand(answered, rng, slots)]
        if _LENGTH[0] <= sum(map(len, turns)) <= _LENGTH[1]:
            return Chat(tuple(turns), desk)
