"""Conversations as a trainer makes sequences of them: token ids, and which of them carry loss.

Equal to the data set that TRL 1.16 tokenises, in ids and in masks; tests/data/test_rendering_trl.py and
test_preferences_trl.py compare them.
Rows of messages with loss on the assistant's turns are rendered by a template that marks these (`{% generation %}`):
the tokenizer's own, or the one that TRL trains with in its place. Where there is neither, TRL refuses; here the turns
are rendered one by one, and what each adds is its part, if what was rendered stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from spvmia_plugin.data.chat_templates import OPTION, digests, has_marks
from spvmia_plugin.data.chat_tokenizer import ChatTokenizer, Message, covered
from spvmia_plugin.data.tokenisation import Reading
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import ASSISTANT, Conversation, LossOn, Rendered

USER = "user"
_USER_MARK, _ASSISTANT_MARK, _NEXT_MARK = "azqkuservj", "azqkassistantvj", "azqknextvj"
"""Stand in a rendering for what people and models say: no template has them, and no white space to trim. They begin as
words do, so that a blank before them is in one token with the `a`."""


@dataclass(frozen=True, slots=True)
class _Side:
    """What a template does to the words of a role.

    Attributes:
        lead: stands between what the model reads and the words, as it is decoded.
        left, right: characters that are taken off the words there; None for all white space.
    """

    lead: str
    left: str | None
    right: str | None


@dataclass(frozen=True, slots=True)
class _Shape:
    """What stands around words, found by rendering marks.

    Attributes:
        prefill: the end of the generation prompt that no rendered turn has.
        ends: tokens that follow the words of a turn.
        sides: by role.
    """

    prefill: str
    ends: frozenset[int]
    sides: Mapping[str, _Side]


class Renderer:
    """Renders conversations as the trainer did.

    Args:
        tokenizer: a tokenizer of transformers.
        loss_on: which tokens carried loss.
        max_tokens: the trainer's `max_length`: what is beyond so many tokens is cut off.
        template: text of a Jinja template in place of the tokenizer's own.

    Raises (all methods that render):
        SpvmiaError: there is no template, or it fails; it does not tell what the assistant wrote; plain strings have no
            end token. Never with a text of the conversation.
    """

    def __init__(self, tokenizer: Any, loss_on: LossOn, max_tokens: int, template: str | None = None) -> None:
        self.loss_on = loss_on
        self.max_tokens = max_tokens
        self._tokenizer = tokenizer
        self._chat = ChatTokenizer(tokenizer, loss_on, template)

    def render(self, conversation: Conversation, *, name: str = "a conversation") -> Rendered:
        """The sequence that was trained on, cut to `max_tokens`.

        Args:
            conversation: what the row holds.
            name: what the row is called, for errors.

        Returns:
            `counted` is what carries a label, the first token too, though nothing stands before it to predict it from.
            `reason` is set where no other token counts. Of a preference `rejected` is the sequence with the rejected
            answer; where that is the chosen one, it has a reason.
        """
        other = conversation.with_rejected()
        if other is None:
            return self._cut(
                conversation, *self._chat.guarded(conversation, name, lambda: self._whole(conversation, name))
            )
        ids, mask = self._chat.guarded(conversation, name, lambda: self._prompted(conversation))
        other_ids, other_mask = self._chat.guarded(other, name, lambda: self._prompted(other))
        # As the DPOTrainer, which has one prompt for both: it ends where the first of the two leaves it.
        start = min(mask.count(False), other_mask.count(False))
        rejected = self._cut(other, other_ids, [i >= start for i in range(len(other_ids))])
        if other.messages == conversation.messages:
            rejected = replace(rejected, reason="the chosen and the rejected answer are the same")
        return replace(self._cut(conversation, ids, [i >= start for i in range(len(ids))]), rejected=rejected)

    def _cut(self, conversation: Conversation, token_ids: Sequence[int], answers: Sequence[bool] | None) -> Rendered:
        """The sequence cut to `max_tokens`, with the mask that carries loss, or why there is nothing to score."""
        everything = [True] * len(token_ids)
        counted = everything if self.loss_on == "all" or answers is None else answers
        cut = slice(0, self.max_tokens)
        reason = None
        if not any(counted[1 : self.max_tokens]):
            if len(token_ids) < 2:
                why = "it is empty"
            elif any(counted[self.max_tokens :]):
                why = f"the answer begins after {self.max_tokens} tokens"
            elif conversation.answers():
                why = "the chat template shows or marks nothing of what the assistant wrote"
            else:
                why = "it has no turn of the assistant"
            reason = f"no scored tokens: {why}"
        return Rendered(
            tuple(token_ids[cut]), tuple(counted[cut]), None if answers is None else tuple(answers[cut]), reason
        )

    def opening(self, conversation: Conversation, *, name: str = "a conversation") -> list[int]:
        """Tokens that the model reads before it writes the next assistant turn; of plain strings, those of the prompt.

        What a template opens a turn with but has in no turn that was written (DeepSeek's `<think>`) is left out: TRL's
        sequences do not have it either.
        """
        if conversation.plain:
            prompt = "".join(conversation.contents()[: conversation.prompt])
            return [*self._reading.frame(prompt).context, *self._reading.body(prompt)]
        return self._chat.guarded(
            conversation, name, lambda: self._chat.encoded(self._opened(conversation, list(conversation.messages)))
        )

    def user_opening(self, conversation: Conversation, *, name: str = "a conversation") -> list[int]:
        """Tokens that stand before what a user says next, up to where the words begin.

        Args:
            conversation: what was said so far; it may hold no message, and then it is the template's own opening, with
                a system prompt where the template brings one.
            name: what the row is called, for errors.

        Raises:
            SpvmiaError: the template takes no user's turn here, or does not show it once and as it is.
        """
        if conversation.plain:
            raise SpvmiaError(
                "mia_self_prompt: expected conversations with a chat template, whose opening a user's turn follows, "
                "got prompts and completions as plain strings; choose reply"
            )
        return self._chat.guarded(conversation, name, lambda: self._before_user(conversation)[0])

    @cached_property
    def ends(self) -> frozenset[int]:
        """Tokens that end a turn: what the template has after an assistant's and a user's words, and the tokenizer's
        own end. Only what is one token that no text is split into: where a template ends turns with words, these are
        not in here."""
        eos = self._tokenizer.eos_token_id
        own = frozenset() if eos is None else frozenset({int(eos)})
        return own | self._shape.ends if self._chat.variants else own

    def written(self, token_ids: Sequence[int], *, role: str = ASSISTANT, plain: bool = False) -> str:
        """The words of a turn from the tokens that were written, up to the first that ends it.

        Special tokens are left out, and white space that the template trims; so is what a template itself puts before
        the words (an empty thought, a blank), which rendering brings back.

        Args:
            token_ids: what a model wrote after `opening` or `user_opening`.
            role: whose turn it is.
            plain: whether it is the completion of a plain prompt: nothing but the end token is left out then.
        """
        size = len(self._tokenizer)  # embeddings are often padded: a model may write ids that stand for no text
        ends = frozenset({self._tokenizer.eos_token_id}) if plain else self.ends
        kept: list[int] = []
        for token_id in token_ids:
            if token_id in ends:
                break
            if token_id < size:
                kept.append(int(token_id))
        text = self._decoded(kept)
        if plain:
            return text
        side = self._shape.sides[USER if role == USER else ASSISTANT]
        text = text.removeprefix(side.lead)
        for special in self._tokenizer.all_special_tokens:
            text = text.replace(special, "")
        return text.lstrip(side.left).rstrip(side.right)

    def notes(self, conversation: Conversation, *, known: bool = False) -> list[str]:
        """What has to be known of the sequences of conversations like this one, in words for people.

        `known`: a manifest says that the training rendered them in this very way.
        """
        if conversation.plain or not self._chat.variants:
            return []
        template, found = self._chat.template(conversation), []
        if "strftime_now" in template:
            found.append(
                "the chat template writes the date of today, so that sequences are not those of a training on another "
                f"day; name a template with that day in it ({OPTION})"
            )
        if conversation.has_parts and not self._joins_parts(conversation):
            found.append(
                "the content of messages is a list of parts, of which the chat template makes something else than of "
                "their texts joined: the sequences are those of TRL, which hands it the list; if the trainer joined "
                "the parts, join them in the data"
            )
        unmarked = conversation.prompt is None and self.loss_on == "completion" and not has_marks(template)
        if unmarked and not known:
            found.append(
                "the chat template does not mark what the assistant writes, and TRL ships no training template for it: "
                f"what each turn adds to the rendering is counted; name the template of the training ({OPTION}) if it "
                "had another"
            )
        return found

    def _joins_parts(self, conversation: Conversation) -> bool:
        """Whether the template makes of a list of parts what it makes of one text."""
        import jinja2

        joined = [
            {**message, "content": content} if isinstance(message.get("content"), list) else dict(message)
            for message, content in zip(conversation.messages, conversation.contents(), strict=True)
        ]
        as_given = self._chat.text(conversation, list(map(dict, conversation.messages)))
        try:
            return as_given == self._chat.text(conversation, joined)
        except (jinja2.TemplateError, TypeError, ValueError):
            return True  # it takes nothing but lists

    @property
    def bos_id(self) -> int | None:
        """The token that the tokenizer says begins a sequence."""
        found = getattr(self._tokenizer, "bos_token_id", None)
        return None if found is None else int(found)

    def identity(self) -> dict[str, object]:
        """What makes the sequences what they are, JSON-ready."""
        return {
            "template": digests(self._chat.variants),
            "training_template": None if self._chat.training is None else self._chat.training[0],
            "loss_on": self.loss_on,
            "max_tokens": self.max_tokens,
        }

    def _whole(self, conversation: Conversation, name: str) -> tuple[list[int], list[bool] | None]:
        """All tokens, and which of them the model is to write; None where the template does not tell."""
        import jinja2

        if conversation.plain or conversation.prompt is not None:
            return self._prompted(conversation)
        messages = list(map(dict, conversation.messages))
        template = self._chat.template(conversation)
        if has_marks(template) and (self._tokenizer.is_fast or self.loss_on == "completion"):
            return self._chat.marked(conversation, template)
        text = self._chat.text(conversation, messages)
        if self.loss_on == "completion":
            spans = self._turns(conversation, messages, text)
            if spans is None:
                raise SpvmiaError(
                    f"{OPTION}: expected a chat template that tells which tokens the assistant wrote, got one without "
                    "{% generation %} that renders a turn otherwise once others follow (it takes out thinking, say), "
                    f"with {name}; name the template of the training, or set mia_loss_on=all"
                )
            token_ids, offsets = self._chat.with_offsets(text)
            return token_ids, covered(offsets, spans)
        if not self._tokenizer.is_fast:
            return self._chat.encoded(text), None
        token_ids, offsets = self._chat.with_offsets(text)
        try:
            if self._chat.training is not None:
                others, marked = self._chat.marked(conversation, self._chat.training[1])
                if others == token_ids:
                    return token_ids, marked
            spans = self._turns(conversation, messages, text)
        except (jinja2.TemplateError, TypeError, ValueError):
            spans = None  # a part of a conversation may be refused where the whole is not
        return token_ids, None if spans is None else covered(offsets, spans)

    def _prompted(self, conversation: Conversation) -> tuple[list[int], list[bool]]:
        """A prompt with its completion: that begins where the prompt alone and both together cease to be the same."""
        messages, length = list(map(dict, conversation.messages)), conversation.prompt or 0
        if conversation.plain:
            end = self._tokenizer.eos_token
            if end is None:
                raise SpvmiaError(
                    "tokenizer: expected one with an end token (eos_token), which trainers put after a completion, got "
                    f"{type(self._tokenizer).__name__} without; use the one of the training (an audit takes it as "
                    "tokenizer=... in --model_args, spvmia finetune from the folder of the model)"
                )
            contents = conversation.contents()
            prompt, completion = "".join(contents[:length]), "".join(contents[length:])
            whole = prompt + completion + ("" if completion.endswith(end) else end)
            opening, token_ids = (self._chat.encoded(text, special=True) for text in (prompt, whole))
        else:
            opening = self._chat.encoded(self._chat.text(conversation, messages[:length], generation=True))
            token_ids = self._chat.encoded(self._chat.text(conversation, messages))
        pairs = zip(opening, token_ids, strict=False)
        start = next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(opening), len(token_ids)))
        return token_ids, [i >= start for i in range(len(token_ids))]

    def _turns(
        self, conversation: Conversation, messages: Sequence[Message], text: str
    ) -> list[tuple[int, int]] | None:
        """Which characters of a rendering each assistant's turn adds; None if what is rendered does not stay."""
        spans = []
        for i in conversation.answers():
            before = self._opened(conversation, messages[:i])
            after = text if i == len(messages) - 1 else self._chat.text(conversation, messages[: i + 1])
            if not (text.startswith(after) and after.startswith(before)):
                return None
            spans.append((len(before), len(after)))
        return spans

    def _opened(self, conversation: Conversation, messages: Sequence[Message]) -> str:
        """What stands before the assistant's turn that follows the messages."""
        if not messages:  # transformers renders no conversation without any
            text = self._chat.text(conversation, [{"role": ASSISTANT, "content": _ASSISTANT_MARK}])
            return text[: self._found(text, _ASSISTANT_MARK)]
        return self._chat.text(conversation, messages, generation=True).removesuffix(self._shape.prefill)

    def _before_user(self, conversation: Conversation) -> tuple[list[int], list[int]]:
        """Tokens of a user's next turn before those of the words, and from there on."""
        text = self._chat.text(conversation, [*conversation.messages, {"role": USER, "content": _USER_MARK}])
        words = self._found(text, _USER_MARK)
        token_ids, offsets = self._chat.with_offsets(text)
        length = next(i for i, (_, end) in enumerate(offsets) if end > words)
        return token_ids[:length], token_ids[length:]

    @cached_property
    def _shape(self) -> _Shape:
        """Of the template that renders rows of messages."""
        asked = Conversation(({"role": USER, "content": _USER_MARK},))
        answer = {"role": ASSISTANT, "content": _ASSISTANT_MARK}

        def shown(left: str = "", right: str = "", role: str = "") -> str:
            messages = [*asked.messages, answer]
            padded = [{**m, "content": f"{left}{m['content']}{right}"} if m["role"] == role else m for m in messages]
            return self._chat.text(asked, padded)

        def trimmed(role: str, mark: str, *, left: bool) -> str | None:
            """Of a blank and a line break those that are gone; None for both."""
            gone = ""
            for blank in " \n":
                pads = (blank, "") if left else ("", blank)
                if shown(*pads, role) != shown().replace(mark, mark.join(pads)):
                    gone += blank
            return None if gone == " \n" else gone

        def probe() -> _Shape:
            last = shown()
            before = last[: self._found(last, _ASSISTANT_MARK)]
            opened = self._chat.text(asked, list(asked.messages), generation=True)
            followed = self._chat.text(asked, [*asked.messages, answer, {"role": USER, "content": _NEXT_MARK}])
            added = set(self._tokenizer.added_tokens_decoder)
            ends = set()
            for text in (last, followed):
                for mark in (_USER_MARK, _ASSISTANT_MARK):
                    after = self._chat.encoded(text[self._found(text, mark) + len(mark) :])
                    ends.update([i for i in after if self._tokenizer.decode([i]).strip()][:1])
            prefill = opened[len(before) :] if opened.startswith(before) else ""
            opening, whole = self._chat.encoded(opened.removesuffix(prefill)), self._chat.encoded(last)
            lead = before[len(opened) :] if before.startswith(opened) else ""
            if whole[: len(opening)] == opening:  # as it is written, with a blank that the tokenizer puts there
                lead = self._decoded(whole[len(opening) :]).partition(_ASSISTANT_MARK)[0]
            of_user = self._before_user(Conversation(()))[1] if self._tokenizer.is_fast else []
            leads = {USER: self._decoded(of_user).partition(_USER_MARK)[0], ASSISTANT: lead}
            return _Shape(
                prefill=prefill,
                ends=frozenset(ends & added),
                sides={
                    role: _Side(leads[role], trimmed(role, mark, left=True), trimmed(role, mark, left=False))
                    for role, mark in ((USER, _USER_MARK), (ASSISTANT, _ASSISTANT_MARK))
                },
            )

        return self._chat.guarded(asked, "a user's turn and its answer", probe)

    @staticmethod
    def _found(text: str, mark: str) -> int:
        """Where a mark stands in a rendering.

        Raises:
            SpvmiaError: not there once.
        """
        if text.count(mark) != 1:
            raise SpvmiaError(
                f"{OPTION}: expected a chat template that shows what is said once and as it is, got one that shows a "
                f"turn {text.count(mark)} times; name the template that the target was trained with"
            )
        return text.index(mark)

    def _decoded(self, token_ids: Sequence[int]) -> str:
        """Text of tokens that stand behind others: where a text begins with a blank, decoders of SentencePiece take it
        for their own."""
        word = self._chat.encoded("a")
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        behind = str(self._tokenizer.decode([*word, *token_ids], **options))
        return behind.removeprefix(str(self._tokenizer.decode(word, **options)))

    @cached_property
    def _reading(self) -> Reading:
        return Reading(self._tokenizer)
