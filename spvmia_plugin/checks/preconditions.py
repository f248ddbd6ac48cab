"""What has to hold for the numbers to mean what they say, checked before long work and reported with every result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from spvmia_plugin.checks import Finding, Severity, listed, percent
from spvmia_plugin.checks.copies import NearCopies, near_copies
from spvmia_plugin.checks.looks import look_shift
from spvmia_plugin.checks.overlap import (
    CANDIDATE_MEAN,
    PROMPTS_MEAN,
    class_overlap,
    exact_duplicates,
    families,
    held_out_overlap,
    repeats,
)
from spvmia_plugin.checks.shifts import compressibility_shift, date_shift, length_shift, length_spread, source_shift
from spvmia_plugin.data.rows_read import RowsRead
from spvmia_plugin.data.tokenisation import Encode, probe_digest
from spvmia_plugin.data.weights import BELOW, UNMERGED
from spvmia_plugin.metrics.names import TPRS
from spvmia_plugin.metrics.summary import few_documents
from spvmia_plugin.metrics.tpr import unresolved
from spvmia_plugin.protocols import Frame
from spvmia_plugin.records import ASSISTANT, AuditData, Conversation, Record, clusters_called, content_of

__all__ = ["Finding", "check_preconditions", "check_tokenisation", "warnings_first"]


def check_preconditions(data: AuditData, copies: NearCopies | None = None) -> list[Finding]:
    """Check the data of an audit; no model is needed.

    Duplicates and overlap cost time linear in the length of the texts (spans of 5 words, hashed).

    Args:
        data: of the audit. Its records may be a part of those in which the near copies were looked for.
        copies: near copies among all texts, whose documents `data` has joined already; None finds and joins them.

    Returns:
        Findings, warnings first, in the order of the checks.
    """
    if copies is None:
        copies = near_copies(data)
        data = copies.joined(data)
    members, nonmembers = data.members, data.nonmembers
    audited = [members, nonmembers]
    prompts, candidate = copies.prompt_texts, copies.candidate_texts
    findings = [
        *exact_duplicates(members, nonmembers),
        *class_overlap(members, nonmembers, copies),
        *repeats("members", members, copies),
        *repeats("non-members", nonmembers, copies),
        *held_out_overlap("prompts", PROMPTS_MEAN, data.prompts, prompts, audited, copies),
        *held_out_overlap("candidate data", CANDIDATE_MEAN, data.candidate, candidate, audited, copies),
        *length_shift(data.records),
        *length_spread(data.records),
        *compressibility_shift(data.records),
        *look_shift(data.records),
        *date_shift(data.records),
        *source_shift(data.records),
        *_sizes(members, nonmembers),
        *_documents(data.records),
        *_empty_answers(data.records),
        *_units(data),
        *families(data.records, copies),
        *_membership(data),
        *_training(data),
        *_rows_read(data),
        *_weights(data),
        *_not_in_manifest(data),
    ]
    return warnings_first(findings)


def warnings_first(findings: Iterable[Finding]) -> list[Finding]:
    """Warnings before notes, each in the order given."""
    return sorted(findings, key=lambda finding: finding.severity == "note")


def check_tokenisation(data: AuditData, records: Sequence[Record], encode: Encode, frame: Frame) -> list[Finding]:
    """Check that the target reads the records as they were cut and trained.

    Args:
        data: of the audit: its block size, and in its provenance the manifest's tokenizer and frame.
        records: those that are audited.
        encode: the target's tokenizer, without special tokens.
        frame: what stands around a record when it is scored.
    """
    findings = []
    trained_with = data.provenance.get("tokenizer")
    if trained_with is not None and trained_with != probe_digest(encode):
        message = (
            "the target's tokenizer is not the one it was trained with, by its manifest: the model reads other tokens "
            f"than it has learnt, {_OTHER_TOKENS_MEAN}"
        )
        findings.append(Finding("tokenizer_changed", "warning", message, {"manifest": trained_with}))
    trained_in = data.provenance.get("frame")
    if isinstance(trained_in, Mapping):
        scored_in = {"before": [*frame.context, *frame.before], "after": list(frame.after)}
        if scored_in != dict(trained_in):
            message = (
                "the records are scored in another context than the target was trained in, by its manifest: with the "
                f"tokens {scored_in['before']} before and {scored_in['after']} after each, trained with "
                f"{list(trained_in['before'])} and {list(trained_in['after'])}; members look less familiar than they "
                "are (mia_prefix=auto and the tokenizer of the training read them alike)"
            )
            findings.append(
                Finding("context_changed", "warning", message, {"scored": scored_in, "manifest": dict(trained_in)})
            )
    if data.block_size:
        findings += _other_lengths(data.block_size, records, encode)
    return findings


_OTHER_TOKENS_MEAN = (
    "so members look less familiar than they are and AUROC comes out too low; load the target with the tokenizer of "
    "its training (tokenizer=... in --model_args)"
)


def _other_lengths(block_size: int, records: Sequence[Record], encode: Encode) -> list[Finding]:
    """Packed records that have another number of tokens under the target's tokenizer than they were cut to."""
    other = [record for record in records if len(encode(record.text)) != block_size]
    if not other:
        return []
    members = sum(record.is_member for record in other)
    share = len(other) / len(records)
    message = (
        f"{len(other)} of {len(records)} records ({percent(share)}; {members} members, {len(other) - members} "
        f"non-members) do not have the {block_size} tokens they were cut to: they were cut with another tokenizer than "
        f"the target's, {_OTHER_TOKENS_MEAN}"
    )
    details = listed([record.id for record in other], share)
    numbers: dict[str, object] = {"block_size": block_size, "members": members, "nonmembers": len(other) - members}
    return [Finding("token_lengths_changed", "warning", message, {**details, **numbers})]


def _empty_answers(records: Sequence[Record]) -> list[Finding]:
    """Conversations whose answers hold no word, as TRL trains on them: a template's end of turn is all that counts."""
    empty = [record for record in records if record.conversation is not None and _answers_nothing(record.conversation)]
    if not empty:
        return []
    members = sum(record.is_member for record in empty)
    message = (
        f"{len(empty)} of {len(records)} conversations ({members} members, {len(empty) - members} non-members) have an "
        "empty answer: what is scored of that turn are tokens of the template, which tell nothing of the record; leave "
        "them out, or correct them"
    )
    share = len(empty) / len(records)
    details = listed([record.id for record in empty], share)
    numbers: dict[str, object] = {"members": members, "nonmembers": len(empty) - members}
    severity: Severity = "warning" if share >= _MANY_EMPTY else "note"
    return [Finding("empty_answers", severity, message, {**details, **numbers})]


_MANY_EMPTY = 0.1


def _answers_nothing(conversation: Conversation) -> bool:
    """Whether one of the answers has neither a text nor whatever else a turn of the assistant may be."""
    answers = [conversation.messages[place] for place in conversation.answers()] + list(conversation.rejected or ())
    return any(
        message["role"] == ASSISTANT
        and not content_of(message).strip()
        and not any(value for key, value in message.items() if key not in ("role", "content"))
        for message in answers
    )


def _sizes(members: Sequence[Record], nonmembers: Sequence[Record]) -> list[Finding]:
    """Empty classes, and non-members too few for a false-positive rate."""
    counts: dict[str, object] = {"members": len(members), "nonmembers": len(nonmembers)}
    if not members or not nonmembers:
        empty = "members" if not members else "non-members"
        return [Finding("empty_class", "warning", f"there are no {empty}: no number can be computed", counts)]
    findings = []
    for metric in TPRS:
        reason = unresolved(len(members), len(nonmembers), metric.fpr)
        if reason:
            message = f"{reason}; the {metric.label} is not resolved"
            findings.append(Finding(metric.too_few, "warning", message, {**counts, "fpr": metric.fpr}))
    return findings


def _documents(records: Sequence[Record]) -> list[Finding]:
    """Records that depend on each other because they come from one document."""
    if not records:
        return []
    sizes = Counter(record.cluster for record in records)
    by_class = [Counter(record.cluster for record in records if record.is_member is side) for side in (True, False)]
    called = clusters_called(have_units=any(record.unit is not None for record in records))
    one = called.removesuffix("s")
    findings = []
    if shared := sorted(by_class[0].keys() & by_class[1].keys()):
        message = (
            f"{len(shared)} {called} have both member and non-member records: parts of a {one} give each other "
            "away, so its non-members are not unseen"
        )
        findings.append(
            Finding("document_in_both_classes", "warning", message, listed(shared, len(shared) / len(sizes)))
        )
    details: dict[str, object] = {"records": len(records), "documents": len(sizes), "largest": max(sizes.values())}
    if max(sizes.values()) > 1:
        message = (
            f"{len(records)} records come from {len(sizes)} {called}, near copies counted as one: records of a "
            f"{one} depend on each other, so every standard error and interval counts {called}"
        )
        findings.append(Finding("several_records_per_document", "note", message, details))
    few = few_documents([np.array(list(side.values())) for side in by_class], called) if all(by_class) else None
    if few:
        findings.append(Finding("few_documents", "warning", few, details))
    return findings


def _units(data: AuditData) -> list[Finding]:
    """Records of nobody where everybody else's are somebody's: manifests of earlier versions have them."""
    nobodys = [record.id for record in data.records if record.unit is None]
    if data.unit_column is None or not nobodys:
        return []
    message = (
        f"{len(nobodys)} of {len(data.records)} records belong to no unit, the others to units of column "
        f"{data.unit_column!r}: no number by unit can be computed (fill the column in, and write the manifest anew)"
    )
    return [Finding("units_incomplete", "warning", message, listed(nobodys, len(nobodys) / len(data.records)))]


def _membership(data: AuditData) -> list[Finding]:
    """How membership is known, unless a manifest says it."""
    if data.membership == "assumed":
        message = (
            "membership is assumed: a public data set and a model nobody vouches for. If the model was not trained on "
            "these members, or was trained on the non-members, the numbers say nothing about its privacy"
        )
        return [Finding("membership_assumed", "warning", message, {"source": data.source})]
    if data.membership == "declared":
        message = "membership is what the given files declare: if they are wrong, so are the numbers"
        return [Finding("membership_declared", "note", message, {"source": data.source})]
    return []


def _training(data: AuditData) -> list[Finding]:
    """What a manifest says of a trainer of somebody else's: other data than declared, losses that are not scored."""
    trainer = data.provenance.get("trainer")
    if not isinstance(trainer, Mapping):
        return []
    findings = []
    seen = str(trainer.get("data", ""))
    if seen.startswith("differs"):
        message = (
            "the callback saw at the beginning of the training that its data were not the declared ones: "
            f"{seen.removeprefix('differs: ')}; the labels are not those of this training"
        )
        findings.append(Finding("trainer_data", "warning", message, {"data": seen}))
    notes = [str(note) for note in trainer.get("notes", ())]
    if notes:
        message = f"the training differs from what is scored: {'; '.join(notes)}"
        findings.append(Finding("training_differs", "note", message, {"notes": notes}))
    return findings


_FEW_UNREAD = 0.05
"""Of a training's rows: what a last batch that is dropped leaves unread changes no number that is told."""


def _rows_read(data: AuditData) -> list[Finding]:
    """Members that the training may not have reached before the weights were saved."""
    told = data.provenance.get("rows_read")
    if not isinstance(told, Mapping):
        return []
    part = RowsRead(**told)
    message = (
        f"when these weights were saved, their training had read {part.in_words()}: members among the others were "
        "never read, so AUROC and TPR come out too low; audit weights that a whole epoch was made for, or declare as "
        "members what was read"
    )
    severity: Severity = "warning" if part.share < 1 - _FEW_UNREAD else "note"
    return [Finding("members_unread", severity, message, part.to_json())]


def _weights(data: AuditData) -> list[Finding]:
    """A manifest that nobody named and that may be of another training: what was found is not what it was written for.

    It is an adapter's beside whole weights, or lies beside the model that the audited adapter was put on.
    """
    of_other = {
        UNMERGED: "the manifest in the target's folder was written for an adapter, and whole weights lie beside it: "
        "nothing shows that these are the merged adapter, and if they are others it says who was a member of another "
        "training (where they are the merged ones, name it with mia_manifest)",
        BELOW: "the manifest was found beside the model that the adapter was put on, and the adapter's own folder has "
        "none: it says who was a member of that model's training, and nothing of the adapter's (where these are the "
        "members you ask about, name it with mia_manifest)",
    }
    found = data.provenance.get("weights")
    if found not in of_other:
        return []
    return [Finding("manifest_of_other_weights", "warning", of_other[str(found)], {"weights": found})]


def _not_in_manifest(data: AuditData) -> list[Finding]:
    """What a manifest of an earlier version does not tell of its rows, so that nobody knows whether it has changed."""
    left_out = data.provenance.get("not_in_manifest")
    if left_out is None:
        return []
    message = (
        f"the manifest is of an earlier version and does not hold {left_out}: whether the data have changed in these "
        "since it was written is not known (a manifest of this version tells: train again, or write it anew with "
        "'spvmia manifest')"
    )
    return [Finding("manifest_holds_less", "note", message, {"not_in_manifest": left_out})]
