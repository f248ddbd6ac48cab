"""What to mend before anything is concluded: conditions that did not hold, and a base that tells members as well."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from spvmia_plugin.report.advised import Advice
from spvmia_plugin.report.base import base_tells, told_by_base
from spvmia_plugin.report.numbers import audited
from spvmia_plugin.report.verdict import casts_doubt
from spvmia_plugin.results import Audit
from spvmia_plugin.results.bound import UNITS_INCOMPLETE
from spvmia_plugin.results.model import failed
from spvmia_plugin.util.console import shown
from spvmia_plugin.web.text import worded

_SHIFTS = (
    "length_shift",
    "length_spread",
    "compressibility_shift",
    "look_shift",
    "date_shift",
    "source_shift",
    "source_mix",
)
"""Findings that say in what members and others differ by themselves."""
_SPLIT = "Draw members and non-members anew"
_FROM_ONE_POOL = "Keep non-members back from the one pool that members come from, before the training, at random."
_ANEW = "spvmia finetune --model BASE --data ALL_RECORDS --output target --members 500 --nonmembers 500"


@dataclass(frozen=True)
class _Mend:
    """What is to be done about some conditions, by the codes of their findings."""

    title: str
    how: str
    command: str | None = None


_BOTH = _Mend(
    "Take what stands in both classes out of one of them",
    "Others that the training saw, word for word or nearly, hide what it gives away. Keep some back that it never saw.",
)
_HELD_OUT = _Mend(
    "Take what is audited out of the held-out texts",
    "Name held-out texts of which none is audited, and audit again.",
)
_MEMBERSHIP = _Mend(
    "Make sure who was a member",
    "Audit weights with the manifest that was written when their training ended: another's members may be none.",
)
_READING = _Mend(
    "Let the target read the records as in its training",
    "Load it with the tokenizer and the context of its training, and audit again.",
)
_UNSCORED = _Mend("Find out why records have no score", "Each attack's reasons stand in the table of attacks.")
_OTHER = _Mend("Mend the condition that did not hold", "Then audit again: until then these numbers are not to be used.")
_MENDS: Mapping[str, _Mend] = {
    **dict.fromkeys(_SHIFTS, _Mend(_SPLIT, _FROM_ONE_POOL, _ANEW)),
    **dict.fromkeys(("exact_duplicates", "near_duplicates", "document_in_both_classes", "blind_below_chance"), _BOTH),
    **dict.fromkeys(("prompts_overlap_audited", "candidate_overlaps_audited"), _HELD_OUT),
    **dict.fromkeys(("membership_assumed", "trainer_data", "members_unread", "manifest_of_other_weights"), _MEMBERSHIP),
    **dict.fromkeys(("tokenizer_changed", "context_changed", "token_lengths_changed"), _READING),
    "mostly_unscored": _UNSCORED,
}
"""By code of the finding; those of later versions and of plugins are told as they are."""
_TOLD_ELSEWHERE = ("few_documents", "empty_class", UNITS_INCOMPLETE)
"""Conditions that leave numbers out, or that intervals allow for: advice on more records tells of them."""


def broken_split(audit: Audit) -> Iterator[Advice]:
    """Where a baseline that sees no model tells the classes apart."""
    if "blind_above_chance" not in {finding.code for finding in failed(audit)}:
        return
    value, low = (audited(audit.tasks[0], "blind", end, style="share") for end in ("auroc", "low"))
    differ = [finding.message.split(":")[0] for finding in failed(audit) if finding.code in _SHIFTS]
    yield Advice(
        _SPLIT,
        ("A baseline that sees no model tells the classes apart with AUROC ", value, " (at least ", low, ")."),
        _FROM_ONE_POOL + (f" What differs now: {'; '.join(map(shown, differ))}." if differ else ""),
        _ANEW,
    )


def mends(audit: Audit, base: Audit | None) -> Iterator[Advice]:
    """What to do about the conditions that the verdict depends on, and about a base that tells members, too."""
    told: dict[_Mend, list[str]] = {}
    for finding in failed(audit):
        if casts_doubt(finding, audit) and not _is_told_elsewhere(finding.code):
            told.setdefault(_MENDS.get(finding.code, _OTHER), []).append(finding.message)
    for mend, messages in told.items():
        yield _mended(audit, mend, messages)
    if base_tells(base):
        yield Advice(
            "Find out why the base tells members from others",
            ("The base by itself has, on the same records, ", *told_by_base(base), "."),
            "It was not fine-tuned on them: members and others differ by themselves (draw them anew from one pool), or "
            "it has read members before. What the target shows beyond it is the fine-tuning's.",
        )


def _is_told_elsewhere(code: str) -> bool:
    return code in _TOLD_ELSEWHERE or code.startswith("too_few_")


def _mended(audit: Audit, mend: _Mend, messages: Sequence[str]) -> Advice:
    records = audited(audit.tasks[0], "n", "records", style="count")
    short = "; ".join(shown(worded(message)).partition(": ")[0] for message in messages)
    return Advice(mend.title, ("Of ", records, f" audited records: {short}."), mend.how, mend.command)
