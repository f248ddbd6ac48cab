"""A tokenizer with its chat templates: from conversations to text, from text to tokens, and what templates mark."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from spvmia_plugin.data.chat_templates import (
    DEFAULT,
    OPTION,
    TOOL_USE,
    has_marks,
    training_template,
    variants_of,
)
from spvmia_plugin.errors import SpvmiaError, reason_of
from spvmia_plugin.records import Conversation, LossOn
from spvmia_plugin.util.quotes import Quotes

T = TypeVar("T")
Message = Mapping[str, Any]

_OF_EXPRESSIONS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What the expressions of a template raise, beside its own errors."""

_LONGEST_ROLE = 30
"""What is longer and stands as a role is no role but a text."""


class ChatTokenizer:
    """Renders and tokenises, with the template that TRL takes.

    Args:
        tokenizer: a tokenizer of transformers.
        loss_on: which tokens carry loss: rows of messages with loss on answers alone have TRL's training template.
        template: text of a template in place of the tokenizer's own.

    Attributes:
        variants: the templates by name; empty where there is none.
        training: name and text of TRL's training template for the default one, where that marks nothing and TRL ships
            one.
    """

    def __init__(self, tokenizer: Any, loss_on: LossOn, template: str | None) -> None:
        self.tokenizer = tokenizer
        self.loss_on = loss_on
        self.variants = variants_of(getattr(tokenizer, "chat_template", None) if template is None else template)
        default = self.variants.get(DEFAULT)
        self.training = None if default is None or has_marks(default) else training_template(default)

    def template(self, conversation: Conversation) -> str:
        """The text of the template that this conversation is rendered by.

        Raises:
            SpvmiaError: there is none.
        """
        if not self.variants:
            raise SpvmiaError(
                f"{OPTION}: expected a chat template for conversations, got a tokenizer without; name the file of the "
                "template that the target was trained with"
            )
        name = TOOL_USE if conversation.tools is not None and TOOL_USE in self.variants else DEFAULT
        if name not in self.variants:
            raise SpvmiaError(
                f"{OPTION}: expected a chat template that is called {DEFAULT}, got "
                f"{', '.join(sorted(self.variants))}; name the file of the one that the target was trained with"
            )
        if self.training is not None and conversation.prompt is None and self.loss_on == "completion":
            return self.training[1]
        return self.variants[name]

    def _arguments(self, conversation: Conversation) -> dict[str, Any]:
        tools = None if conversation.tools is None else list(conversation.tools)
        template = self.template(conversation)
        return {"chat_template": template, "tools": tools, "add_generation_prompt": False, **conversation.options}

    def text(self, conversation: Conversation, messages: Sequence[Message], *, generation: bool = False) -> str:
        """Messages as the template of a conversation renders them, with its tools and options.

        Args:
            conversation: what they are of.
            messages: at least one.
            generation: whether the next turn of the assistant is opened.
        """
        arguments = self._arguments(conversation)
        if generation:
            arguments["add_generation_prompt"] = True
        return str(self.tokenizer.apply_chat_template(list(map(dict, messages)), **{**arguments, "tokenize": False}))

    def encoded(self, text: str, *, special: bool = False) -> list[int]:
        """Tokens of a text; with `special`, those that the tokenizer itself puts around it too."""
        return list(map(int, self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]))

    def with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Tokens of a text, and which of its characters each stands for.

        Raises:
            SpvmiaError: the tokenizer does not tell.
        """
        self.check_fast()
        out = self.tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
        return list(map(int, out["input_ids"])), list(out["offset_mapping"])

    def check_fast(self) -> None:
        """Refuse a tokenizer that does not tell which characters a token stands for."""
        if not self.tokenizer.is_fast:
            raise SpvmiaError(
                "tokenizer: expected a fast one, which tells where in a text its tokens lie, got "
                f"{type(self.tokenizer).__name__}; pass another with tokenizer=... in --model_args, or set "
                "mia_loss_on=all"
            )

    def marked(self, conversation: Conversation, template: str) -> tuple[list[int], list[bool]]:
        """A rendering, and what the template marks in it."""
        self.check_fast()
        out = self.tokenizer.apply_chat_template(
            list(map(dict, conversation.messages)),
            **{**self._arguments(conversation), "chat_template": template, "tokenize": True, "return_dict": True},
            return_assistant_tokens_mask=True,
            tokenizer_kwargs={"verbose": False},
        )
        return list(map(int, out["input_ids"])), list(map(bool, out["assistant_masks"]))

    def guarded(self, conversation: Conversation, name: str, call: Callable[[], T]) -> T:
        """Call what runs a template.

        Raises:
            SpvmiaError: it fails; with what it says, unless that quotes the conversation.
        """
        import jinja2

        try:
            return call()
        except SpvmiaError:
            raise
        except (jinja2.TemplateError, *_OF_EXPRESSIONS) as error:
            reason = Quotes(lambda: _private(conversation)).without(reason_of(error))
            parts = (
                "the content of a message is a list of parts, which many templates do not take: write it as one text "
                "where the training did; else "
            )
            failure = SpvmiaError(
                f"{OPTION}: expected a chat template that renders {name}, got {reason}; "
                f"{parts if conversation.has_parts else ''}correct the data, or name the template that the target was "
                "trained with"
            )
        raise failure  # not in the handler: what it was made from is no context of it


def covered(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> list[bool]:
    """Which tokens overlap one of the spans of characters, both in their order: as transformers does it."""
    mask, current = [], 0
    for start, end in offsets:
        while current < len(spans) and start >= spans[current][1]:
            current += 1
        mask.append(current < len(spans) and end > spans[current][0])
    return mask


def _private(conversation: Conversation) -> Iterator[str]:
    """All texts of a conversation; names of roles are none."""

    def texts(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            for item in value.values():
                yield from texts(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                yield from texts(item)

    for message in conversation.messages:
        role = message.get("role")
        yield from texts({**message, "role": role if isinstance(role, str) and len(role) > _LONGEST_ROLE else None})
    yield from texts([conversation.tools, conversation.options])
