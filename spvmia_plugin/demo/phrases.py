# ruff: noqa: E501 - one phrase a line, however long its alternatives
"""What a made-up support ticket can say: alternatives in braces, slots in angle brackets.

`{a|b|}` chooses one of its parts (nothing, in the last case); `<slot>` is filled by `corpus.Ticket`. The parts are
short and the slots many, so that tickets share a style, as real ones do, and hardly ever a sentence.
"""

from __future__ import annotations

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
