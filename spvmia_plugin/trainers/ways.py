"""A declared record in the ways that trainers make tokens of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from spvmia_plugin.data.rendering import Renderer
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import Conversation, Document, LossOn, Rendered

_UNCUT = 2**40

AS_MESSAGES = "as messages"
"""The way of rows with prompt and completion that are rendered as rows of messages are."""


@dataclass(frozen=True)
class Candidate:
    """A record in one of the ways that trainers make tokens of it.

    Attributes:
        way: which.
        ids: all its tokens, before anything is cut.
        answers: which the model is to write; None where the template does not tell, and of texts.
        rejected: of a preference the tokens with the rejected answer; None of everything else.
    """

    way: str
    ids: tuple[int, ...]
    answers: tuple[bool, ...] | None
    rejected: tuple[int, ...] | None = None

    @classmethod
    def of(cls, way: str, rendered: Rendered) -> Candidate:
        """What was rendered uncut."""
        other = rendered.rejected
        return cls(way, rendered.token_ids, rendered.answers, None if other is None else other.token_ids)

    def ending(self, length: int) -> list[Candidate]:
        """Its last tokens, as tokenizers cut from the left: alone, or behind the token that begins every sequence."""
        answers = self.answers
        found = []
        for kept in (0, 1):
            at = len(self.ids) - length + kept
            cut = None if answers is None else answers[:kept] + answers[at:]
            found.append(replace(self, ids=self.ids[:kept] + self.ids[at:], answers=cut))
        return found


def candidates(document: Document, tokenizer: Any, template: str | None, *, ended: bool) -> list[Candidate]:
    """All ways, the likely one first. A template that does not tell turns apart gives fewer.

    Args:
        document: the record.
        tokenizer: of the training.
        template: text of its chat template.
        ended: whether the trainer is known to put an end token after texts.

    Raises:
        SpvmiaError: there is no way: the tokenizer has no template, or its template refuses the conversation.
    """
    found: list[Candidate] = []
    if document.conversation is None:
        natural = tokenizer(document.text, add_special_tokens=True, verbose=False)["input_ids"]
        found.append(Candidate("natural", tuple(map(int, natural)), None))
        if tokenizer.eos_token is not None:
            text = Conversation.of_text(document.text)
            ids = Renderer(tokenizer, "all", _UNCUT).render(text, name=document.id).token_ids
            found.insert(0 if ended else 1, Candidate("end", ids, None))
        return found

    def rendered(loss_on: LossOn, conversation: Conversation) -> Rendered:
        return Renderer(tokenizer, loss_on, _UNCUT, template).render(conversation, name=document.id)

    refused: SpvmiaError | None = None
    for loss_on in ("all", "completion"):
        try:
            found.append(Candidate.of(f"chat {loss_on}", rendered(loss_on, document.conversation)))
        except SpvmiaError as error:
            refused = refused or error
    if not document.conversation.plain and document.conversation.prompt is not None:
        # With assistant_only_loss TRL takes its training template for these rows too.
        messages = replace(document.conversation.with_chosen(), prompt=None)
        try:
            other = rendered("completion", messages)
        except SpvmiaError as error:
            refused = refused or error
        else:
            if all(other.token_ids != each.ids for each in found):
                found.append(Candidate.of(AS_MESSAGES, other))
    if not found and refused is not None:
        raise refused
    return found
