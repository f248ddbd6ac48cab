# ruff: noqa: E501 - one phrase a line, however long its alternatives
"""A made-up private corpus: support tickets with names, addresses, order numbers and a story, by Faker.

The parts of phrases (`slots`) are short and the slots many, so that tickets share a style, as real ones do, and hardly
ever a sentence.

All tickets come from one seeded generator and are dealt out at random afterwards, so members, non-members and prompts
are alike in every respect; only a model that was trained on some of them can tell.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from spvmia_plugin.demo.slots import Writer, draw_different
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

TASK = "demo_department"
"""The capability task: which department handles this ticket?"""

_LENGTH = (160, 250)
"""Characters of a ticket without its routing line: 60 to 90 tokens of SmolLM2 for nearly all."""


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
    return draw_different(count, seed, _draw)


class Asked(Protocol):
    """What the capability task asks about."""

    @property
    def story(self) -> str:
        """What the customer says."""

    @property
    def department(self) -> str:
        """Who handles it."""


def write_corpus(path: Path, tickets: Sequence[Ticket]) -> None:
    """Write tickets as JSON lines with the column `text`, readable by the owner only."""
    write_jsonl(path, [{"text": ticket.text} for ticket in tickets])


def write_capability_task(
    folder: Path,
    asked: Sequence[Asked],
    question: str = "{{story}} " + ROUTING,
    departments: Sequence[str] = DEPARTMENTS,
) -> Path:
    """Write an ordinary lm-eval task and its questions to `folder`, for `--include_path`, and return the YAML.

    The questions come from the same generator and are not in the audited corpus, so it measures what the fine-tuned
    model learned and not what it remembers.

    Args:
        folder: an existing folder. `load_dataset` leaves an Arrow copy of the questions behind; it goes into
            `arrow/` here and not into the user's cache.
        asked: one question each.
        question: how it is asked, a template of the harness with the `story`.
        departments: the choices; the answer is the one the story calls for.
    """
    questions = folder.resolve() / f"{TASK}.jsonl"
    write_jsonl(questions, [{"story": a.story, "answer": departments.index(a.department)} for a in asked])
    task = {
        "task": TASK,
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(questions)},
            "cache_dir": str(folder.resolve() / "arrow"),
        },
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": question,
        "doc_to_choice": list(departments),
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    path = folder / f"{TASK}.yaml"
    path.write_text(yaml.safe_dump(task, sort_keys=False, width=120), encoding="utf-8")
    return path


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as JSON lines, readable by the owner only."""
    write_private(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def _draw(rng: random.Random, faker: Any) -> Ticket:
    """Draw tickets until one is neither too short to score nor too long to be scored quickly."""
    while True:
        writer = Writer(faker, rng)
        department = rng.choice(DEPARTMENTS)
        parts = [STORIES[department], DETAILS, CONTACTS]
        if rng.random() < 0.5:
            parts.pop(rng.choice((1, 2)))
        rng.shuffle(parts)
        story = " ".join(writer.fill(rng.choice(choices)) for choices in [OPENINGS, *parts])
        if _LENGTH[0] <= len(story) <= _LENGTH[1]:
            return Ticket(story, department)
