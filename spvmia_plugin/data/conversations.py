"""Conversations among an audit's data: which format the files have, how they are rendered, what all of them share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.config import Format as FormatName
from spvmia_plugin.data.chat_templates import read_template
from spvmia_plugin.data.rendering import Renderer
from spvmia_plugin.data.sources import Loaded, load_spec
from spvmia_plugin.data.split import Parts
from spvmia_plugin.data.units import NOBODY, Belonging
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import Document, LossOn, Record

TEXT: Final = "text"
PREFERENCE: Final = "preference"

SHARED = 0.5
"""What stands in more than this share of the conversations (a system prompt) tells nothing about any of them."""

Item = TypeVar("Item", Record, Document)


@dataclass(frozen=True)
class Format:
    """What an audit's rows are, and how they become records.

    Attributes:
        name: `text`, or a kind of conversation.
        block_size: tokens of a record; 0 for whole documents.
        loss_on: which tokens of conversations carry loss; None for text.
        record_tokens: conversations are cut to so many; None for text.
        template: a chat template in place of the tokenizer's own, None for that.
    """

    name: FormatName
    block_size: int
    loss_on: LossOn | None = None
    record_tokens: int | None = None
    template: str | None = None

    @classmethod
    def of(cls, name: FormatName, config: AuditConfig) -> Format:
        """What the options say of rows that turned out to be so.

        Raises:
            SpvmiaError: an option that has no meaning for them; a template that cannot be read.
        """
        check_options(name, config)
        if name == TEXT:
            return cls(name, config.block_size)
        template = read_template(config.chat_template) if config.chat_template is not None else None
        loss_on: LossOn = "completion" if config.loss_on == "auto" else config.loss_on
        return cls(name, 0, loss_on, config.record_tokens, template)

    def renderer(self, tokenizer: Any) -> Renderer | None:
        """What makes sequences of conversations; None for text."""
        if self.loss_on is None or self.record_tokens is None:
            return None
        return Renderer(tokenizer, self.loss_on, self.record_tokens, self.template)


def check_options(name: FormatName, config: AuditConfig) -> None:
    """Refuse options that have no meaning for rows of a kind.

    Raises:
        SpvmiaError: there is one.
    """
    given = config.given
    if name == TEXT:
        for option in ("loss_on", "chat_template", "record_tokens"):
            if option in given and getattr(config, option) not in ("auto", "all"):
                raise SpvmiaError(
                    f"mia_{option}: expected conversations, or prompts with answers, got rows of plain text; leave "
                    "it out, or name the kind of rows with mia_format"
                )
        if config.self_prompt in ("reply", "whole"):
            raise SpvmiaError(
                f"mia_self_prompt: expected prefix for rows of plain text, got {config.self_prompt}; leave it out, "
                "or give rows that are conversations"
            )
        return
    if name == PREFERENCE and config.loss_on == "all":
        raise SpvmiaError(
            "mia_loss_on: expected completion for preferences, whose loss stands on the two answers alone, got all; "
            "leave it out"
        )
    if "block_size" in given and config.block_size:
        raise SpvmiaError(
            f"mia_block_size: expected 0 for conversations, which are audited whole, got {config.block_size}; "
            "leave it out (mia_record_tokens says where they are cut), or set mia_format to text"
        )
    if config.prefix == "harness":
        raise SpvmiaError(
            "mia_prefix: expected auto for conversations, which begin as their template says, got harness; leave it out"
        )
    if config.split == "paper":
        raise SpvmiaError("mia_split: expected random for conversations, got paper; leave it out")


def load(
    spec: str,
    config: AuditConfig,
    option: str,
    *,
    names: Mapping[Path, str] | None = None,
    member: bool | None = None,
    belonging: Belonging = NOBODY,
) -> Loaded:
    """The documents of one source, whatever its rows are.

    Args:
        spec: what the user wrote.
        config: options of the audit.
        option: what asked for it, for errors.
        names: names of files in document ids, by absolute path.
        member: only rows whose column `label` says so.
        belonging: which columns say whose a row is.

    Raises:
        SpvmiaError: as `load_spec`.
    """
    return load_spec(
        spec,
        config.text_column,
        option=option,
        names=names,
        member=member,
        format=config.format,
        text_given="text_column" in config.given,
        belonging=belonging,
    )


def check_format(option: str, loaded: Loaded, expected: str) -> None:
    """Refuse rows of another kind than those of the other sources."""
    if loaded.format != expected:
        raise SpvmiaError(
            f"{option}: expected rows of the format {expected} as in the other files, got {loaded.format}; convert one "
            "of them, or name the format with mia_format"
        )


def check_scored(name: str, records: Sequence[Record]) -> None:
    """Refuse a class of conversations none of which has a token to score, before anything is done for them.

    Args:
        name: of the class, in words.
        records: rendered.

    Raises:
        SpvmiaError: with the most common of their reasons.
    """
    reasons = Counter(each.rendered.reason for each in records if each.rendered is not None)
    if not records or reasons[None] or sum(reasons.values()) < len(records):
        return
    raise SpvmiaError(
        f"mia_loss_on: expected {name} with tokens that carry loss, got {len(records)} conversations without "
        f"({reasons.most_common(1)[0][0]}); raise mia_record_tokens, or name the mask or the template of the training "
        "(mia_loss_on, mia_chat_template)"
    )


def rendered(parts: Parts, renderer: Renderer | None) -> Parts:
    """All texts of an audit as a model reads them; nothing changes where there is no renderer.

    Raises:
        SpvmiaError: a conversation that the template refuses, with its id.
    """
    if renderer is None:
        return parts

    return Parts(
        as_rendered(parts.members, renderer),
        as_rendered(parts.nonmembers, renderer),
        as_rendered(parts.prompts, renderer),
        as_rendered(parts.candidate, renderer),
        parts.held_out,
        dict(parts.counts),
    )


def as_rendered(items: Sequence[Item], renderer: Renderer | None) -> list[Item]:
    """Records or documents with what a model reads of them.

    Raises:
        SpvmiaError: a conversation that the template refuses, with its id.
    """
    found = []
    for item in items:
        if item.conversation is None or renderer is None:
            found.append(item)
            continue
        found.append(replace(item, rendered=renderer.render(item.conversation, name=item.id)))
    return found


def without_shared(parts: Parts) -> Parts:
    """The same parts, whose records' texts hold nothing that stands in most of them.

    A system prompt that all conversations begin with makes every two of them alike, and says nothing about who is a
    member. What the model reads keeps it.
    """
    records = [*parts.members, *parts.nonmembers]
    counts = Counter(
        content for each in records if each.conversation is not None for content in set(each.conversation.contents())
    )
    shared = {content for content, count in counts.items() if content and count > max(1, SHARED * len(records))}
    if not shared:
        return parts

    def own(record: Record) -> Record:
        if record.conversation is None:
            return record
        contents = [content for content in record.conversation.contents() if content and content not in shared]
        return replace(record, text="\n".join(contents)) if contents else record

    return Parts(
        [own(each) for each in parts.members],
        [own(each) for each in parts.nonmembers],
        parts.prompts,
        parts.candidate,
        parts.held_out,
        dict(parts.counts),
    )
