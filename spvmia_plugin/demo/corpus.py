# ruff: noqa: E501 - one phrase a line, however long its alternatives
"""A made-up private corpus: support tickets with names, addresses, order numbers and a story, by Faker.

Phrases have alternatives in braces and slots in angle brackets: `{a|b|}` chooses one of its parts (nothing, in the last
case); `<slot>` is filled by `_Slots`. The parts are short and the slots many, so that tickets share a style, as real
ones do, and hardly ever a sentence.

All tickets come from one seeded generator and are dealt out at random afterwards, so members, non-members and prompts
are alike in every respect; only a model that was trained on some of them can tell.
"""

from __future__ import annotations

import importlib.util
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.util.files import write_private

DEPARTMENTS = ("billing", "shipping", "returns", "repair")
"""Who handles a ticket; each is a single token of SmolLM2, which makes the multiple-choice task cheap."""

OPENINGS = (
    "<name> {wrote|mailed us|got in touch} on <date> {about|regarding} order <order>.",
    "Ticket <ticket>, {opened|created|logged} <date> {by|for} <name>, order <order>.",
    "{Call|Phone call|Voicemail} from <name> ({tel.|phone|mobile} <phone>) {on|,} <date>.",
    "Customer: <name>, <street>, <city>. {Order|Purchase|Our reference}: <order>.",
    "{Hi|Hello|Dear team|Good morning}, {this is|my name is|I am} <name>, {order|order number|order no.} <order>.",
    "<date>: {chat|e-mail|web form|letter} from <name>, {living at|address|resident of} <street> in <city>.",
    "{On behalf of|For} <company>, <name> {asks|complains|reports} about order <order> of <date>.",
    "{Regarding|Re:|About} <order>: <name>, {a customer since <year>|our account <ticket>|a <job>}, wrote <date>.",
    "<name>, <job> {from|in} <city>, {contacted us|reached out|rang} on <date>.",
    "{Order|Invoice|Purchase} <order>, {buyer|account holder|customer} <name>, <city>, {registered|e-mail} <email>.",
)

CONTACTS = (
    "{Reply to|Answer to|Reach them at|Please write to} <email>.",
    "{Call back on|Best number|Ring} <phone> {after|before} <hour>.",
    "{Deliver to|New address:|Address on file:} <street>, <city> <postcode>.",
    "{Card ending|Paid with card|Last digits of the card:} <digits>.",
    "{Mail|E-mail} <email>, {phone|mobile} <phone>.",
    "{Neighbour|Contact person|Second contact}: <name2>, <phone>.",
    "{Lives|Is staying|Now} at <street>, <city>.",
)

STORIES = {
    "billing": (
        "{The card was|Her card was|The account was|We were} charged <amount> {twice|two times|again} for {the|one} <product>.",
        "The {invoice|bill|receipt} shows <amount>, {but|although|yet} the <product> {was advertised at|cost|was on sale for} <amount2>.",
        "A {voucher|coupon|gift card} worth <amount> was {not applied|ignored|refused} when {paying for|buying} the <product>.",
        "{Needs|Asks for|Wants} {a corrected|a new|a proper} invoice for the <product>, {made out to|in the name of} <company>.",
        "<amount> {left|was taken from} the bank account on <date2>, {although|even though} the <product> was cancelled.",
        "The {instalment|monthly payment|direct debit} of <amount> {failed|bounced} because the {account|IBAN} changed on <date2>.",
        "{Was billed|Got a bill} for <count> pieces of the <product> {instead of one|and ordered a single one}: <amount> too much.",
        "The {tax|VAT} on the <product> {looks wrong|is wrong|was computed twice}, <amount> instead of <amount2>.",
    ),
    "shipping": (
        "The {parcel|package|box} with the <product> {was left|was dropped} {in the rain|at number <count>|at a kiosk} on <date2>.",
        "{Tracking|The tracking page|The app} has said {in transit|on its way|at the depot} since <date2>, {no|still no} <product>.",
        "{Driver|The courier|The delivery man} {claims|says} <name2> signed for the <product>, {nobody knows|there is no} such person.",
        "{Moved|Has moved} to <street> and {wants|needs} the <product> {sent|redirected} there {before|by} <date2>.",
        "The <product> {went to|was delivered in} <city2> {by mistake|instead}, <count> {miles|hours} away.",
        "Only <count> of the parcels {came|arrived|turned up}, the one with the <product> is {missing|lost}.",
        "{Waited|Stayed} at home {all day|until <hour>} on <date2>, {nobody rang|no van came} with the <product>.",
        "{Customs|The customs office} {holds|kept} the <product> {in|at} <city2>, {asking for|missing} a form.",
    ),
    "returns": (
        "{Wants|Would like} to {send back|give back} the <product>, {too small|too large|not needed any more|wrong colour}.",
        "{Sent back|Returned} the <product> on <date2>, {no|still no} {money|refund|confirmation} of <amount>.",
        "{Asked for|Ordered} {blue|green|black|white}, got a <product> in {red|grey|yellow|brown}, {wants|asks for} a swap.",
        "The return {label|slip|code} for the <product> {does not print|expired on <date2>|is missing}.",
        "{The gift for|A present from} <name2>, a <product>, is {a duplicate|not wanted}, {return|exchange} {requested|please}.",
        "{Changed his mind|Changed her mind|Had second thoughts} about the <product> after <count> days, {unopened|still sealed}.",
        "The {depot|warehouse|shop} in <city2> {refused|would not take} the <product> {without a receipt|on <date2>}.",
        "{May|Can|Could} the <product> {go back|be returned} {late|after <date2>}, {as|because} <name2> was in hospital?",
    ),
    "repair": (
        "The <product> {stopped working|died|went dead} {after <count> days|on <date2>}, {smells burnt|makes no sound}.",
        "{Screen|Display|Handle|Lid} of the <product> {cracked|broke|came off} {on <date2>|while <name2> used it}.",
        "The <product> {leaks|overheats|hums|blinks} {at night|every <count> minutes|since <date2>}, {fuse|filter|cable} checked.",
        "{Battery|Motor|Switch|Hinge} of the <product> {lasts|runs} <count> minutes, {under warranty|bought <year>}.",
        "The technician {came|was here} on <date2>, {but|yet} the <product> {fails|stops} again, error <count>.",
        "Needs a {spare part|new seal|replacement blade} for the <product>, {model|type} <model>.",
        "{Dropped|Knocked over} the <product> in <city2>, {now it rattles|one side is bent}, {asks for|wants} a quote.",
        "{After the update|Since the update of <date2>} the <product> {reboots|freezes} {at <hour>|<count> times a day}.",
    ),
}

DETAILS = (
    "{Bought|Ordered} {for|as a gift for} <name2>'s {wedding|birthday|new flat|shop} in <city2>.",
    "{Mentions|Says} that <name2> {promised|offered} <amount2> on <date2>.",
    "{Angry|Upset|Polite|Patient|Worried}, {third|second|first} {call|letter|message} since <date2>.",
    "{Works as|Is} a <job> and {needs it|has time} {before|after} <hour>.",
    "{Has|Keeps} {photos|a video|the box|the receipt no. <ticket>}.",
    "{Threatens|Is ready} to {go to|call} {the press|a lawyer|<company>}.",
    "Colleague <name2> {took notes|has the file|knows the case}, {ext.|desk} <count>.",
    "{Speaks|Prefers} <language>.",
    "{Insured|Also insured} with <company>, {policy|file} <ticket>.",
    "{The dog|Her son|His mother|A flatmate} {signed|opened it|saw it} in <city2>.",
)

ROUTING = "Department:"
"""The last words of a ticket before its department: what the capability task asks to be continued."""

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

TASK = "demo_department"
"""The capability task: which department handles this ticket?"""

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
        return f"{self.story} {ROUTING} {self.department}"


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


def write_corpus(path: Path, tickets: Sequence[Ticket]) -> None:
    """Write tickets as JSON lines with the column `text`, readable by the owner only."""
    _write_jsonl(path, [{"text": ticket.text} for ticket in tickets])


def write_capability_task(folder: Path, tickets: Sequence[Ticket]) -> Path:
    """Write an ordinary lm-eval task and its questions to `folder`, for `--include_path`, and return the YAML.

    The questions are tickets of the same generator that are not in the audited corpus, so it measures what the
    fine-tuned model learned and not what it remembers.

    Args:
        folder: an existing folder. `load_dataset` leaves an Arrow copy of the questions behind; it goes into
            `arrow/` here and not into the user's cache.
        tickets: one question each; the choices are all departments, the answer the one the story calls for.
    """
    questions = folder.resolve() / f"{TASK}.jsonl"
    rows = [{"story": t.story, "answer": DEPARTMENTS.index(t.department)} for t in tickets]
    _write_jsonl(questions, rows)
    task = {
        "task": TASK,
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(questions)},
            "cache_dir": str(folder.resolve() / "arrow"),
        },
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{story}} " + ROUTING,
        "doc_to_choice": list(DEPARTMENTS),
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    path = folder / f"{TASK}.yaml"
    path.write_text(yaml.safe_dump(task, sort_keys=False, width=120), encoding="utf-8")
    return path


def _write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_private(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def _draw(rng: random.Random, faker: Any) -> Ticket:
    """Draw tickets until one is neither too short to score nor too long to be scored quickly."""
    while True:
        slots = _Slots(faker, rng)
        department = rng.choice(DEPARTMENTS)
        parts = [STORIES[department], DETAILS, CONTACTS]
        if rng.random() < 0.5:
            parts.pop(rng.choice((1, 2)))
        rng.shuffle(parts)
        story = " ".join(_expand(rng.choice(choices), rng, slots) for choices in [OPENINGS, *parts])
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
