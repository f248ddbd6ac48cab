"""Conversations as sequences: openings, what was written, what is said of templates and tokenizers that do not do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spvmia_plugin.data.chat_templates import TRAINING_TEMPLATES, digest, read_template
from spvmia_plugin.data.rendering import Renderer
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import Conversation
from tests.data.families import FAMILIES, LLAMA3, MARKED_CHATML, MISTRAL_02, MISTRAL_03, SMOLLM2, family_tokenizer
from tests.tiny import tiny_tokenizer

ROLES = ("user", "assistant")
SECRET = "the garden gate code of Anna Boris is seven twelve forty"

THINKING = """\
{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1].lstrip() }}\
{% else %}{{ m.content }}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""Takes the thinking out of earlier turns."""


def talk(*contents: str, system: str | None = None) -> Conversation:
    first = () if system is None else ({"role": "system", "content": system},)
    turns = tuple({"role": ROLES[i % 2], "content": text} for i, text in enumerate(contents))
    return Conversation((*first, *turns))


def plain(prompt: str, completion: str = "") -> Conversation:
    turns = ({"role": "user", "content": prompt}, {"role": "assistant", "content": completion})
    return Conversation(turns, prompt=1, plain=True)


def renderer(family: str, loss_on: Any = "completion", template: str | None = None, cut: int = 1024) -> Renderer:
    return Renderer(family_tokenizer(family), loss_on, cut, template)


def counted(family: str, conversation: Conversation, template: str | None = None) -> str:
    """The text of the tokens that carry loss."""
    rendered = renderer(family, template=template).render(conversation)
    kept = [i for i, counts in zip(rendered.token_ids, rendered.counted, strict=True) if counts]
    return str(family_tokenizer(family).decode(kept))


# What counts


def test_turns_that_nothing_marks_are_what_each_adds() -> None:
    conversation = talk("Where?", "In Paris.", "When?", "", system="Short.")
    assert counted("chatml", conversation) == "In Paris.<|im_end|>\n<|im_end|>\n"
    assert counted("mistral_02", talk("Where?", "In Paris.", "When?", "Now")) == "In Paris.</s>Now</s>"
    assert counted("mistral_03", talk("Where?", "In Paris.", "When?", "Now")) == "In Paris.</s> Now</s>"


def test_turns_one_by_one_are_what_marks_would_tell() -> None:
    conversation = talk(" Where?", "  In Paris. ", "When?", "", "?", "Now", system="Short.")
    by_turns = renderer("llama3_reworded").render(conversation)
    training = (TRAINING_TEMPLATES / "llama3_training.jinja").read_text()
    assert by_turns == renderer("llama3_reworded", template=training).render(conversation)
    assert by_turns.counted == by_turns.answers
    assert by_turns.reason is None


def test_an_assistant_that_begins_has_its_turn_too() -> None:
    conversation = Conversation(({"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "Hi"}))
    assert counted("llama3_reworded", conversation) == "Hello!<|eot_id|>"


def test_where_everything_carries_loss_the_answers_are_known() -> None:
    conversation = talk("Where?", "In Paris.", "When?", "Now")
    everywhere, on_answers = (renderer("chatml", loss_on).render(conversation) for loss_on in ("all", "completion"))
    assert all(everywhere.counted)
    assert everywhere.token_ids == on_answers.token_ids
    assert everywhere.answers == on_answers.counted


def test_where_a_template_does_not_tell_the_answers_are_not_known() -> None:
    conversation = talk("Where?", "<think>Hm.</think> In Paris.", "When?", "Now")
    rendered = renderer("chatml", "all", THINKING).render(conversation)
    assert rendered.answers is None
    assert all(rendered.counted)
    assert rendered.reason is None
    # Of a system turn in the last of the user's, which moves.
    assert renderer("mistral_03", "all").render(talk("a", "b", "c", "d", system="e")).answers is None


def test_the_template_that_is_given_takes_the_place_of_the_tokenizers() -> None:
    conversation = talk("Where?", "In Paris.")
    given = renderer("chatml", template=MARKED_CHATML).render(conversation)
    assert given == renderer("chatml_marked").render(conversation)
    assert counted("chatml", conversation, MARKED_CHATML) == "In Paris.<|im_end|>"
    bare = family_tokenizer("chatml")
    bare.chat_template = None
    assert Renderer(bare, "completion", 1024, MARKED_CHATML).render(conversation) == given


def test_records_are_cut_where_the_trainer_cuts_them() -> None:
    conversation = talk("Where?", "In Paris, in a street by the river.")
    whole, cut = (renderer("chatml", cut=cut).render(conversation) for cut in (1024, 40))
    assert len(whole.token_ids) > 40
    assert (cut.token_ids, cut.counted) == (whole.token_ids[:40], whole.counted[:40])
    assert cut.answers == cut.counted


@pytest.mark.parametrize(
    ("conversation", "loss_on", "cut", "reason"),
    [
        (talk("Where? " * 30, "Here."), "completion", 50, "no scored tokens: the answer begins after 50 tokens"),
        (talk("Where?"), "completion", 50, "no scored tokens: it has no turn of the assistant"),
        (plain("Where? " * 30, "Here."), "completion", 50, "no scored tokens: the answer begins after 50 tokens"),
        (plain(""), "all", 50, "no scored tokens: it is empty"),
    ],
)
def test_a_record_without_scored_tokens_has_the_reason(
    conversation: Conversation, loss_on: Any, cut: int, reason: str
) -> None:
    rendered = renderer("chatml", loss_on, cut=cut).render(conversation)
    assert rendered.reason == reason
    assert not any(rendered.counted[1:])
    assert 0 < len(rendered.token_ids) <= cut


def test_a_template_that_shows_nothing_of_an_answer_leaves_nothing_to_score() -> None:
    silent = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}{% generation %}{% endgeneration %}"
    rendered = renderer("chatml", template=silent).render(talk("Where?", "Here."))
    assert rendered.reason == "no scored tokens: the chat template shows or marks nothing of what the assistant wrote"


# Openings


@pytest.mark.parametrize(
    ("family", "opening"),
    [
        ("chatml", "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n"),
        ("mistral_03", "<s>[INST] Where?[/INST]"),
        ("llama3_reworded", "\n\nWhere?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"),
    ],
)
def test_an_opening_is_what_stands_before_the_answer(family: str, opening: str) -> None:
    tokenizer, asked, answered = family_tokenizer(family), talk("Where?"), talk("Where?", "Here.")
    for loss_on in ("all", "completion"):
        made = renderer(family, loss_on)
        token_ids = made.opening(asked)
        assert tokenizer.decode(token_ids).endswith(opening)
        rendered = made.render(answered)
        assert rendered.token_ids[: len(token_ids)] == tuple(token_ids)
        assert rendered.answers is not None
        assert rendered.answers.index(True) == len(token_ids)


def test_an_opening_has_nothing_that_no_written_turn_has() -> None:
    """DeepSeek's begins a thought that its rows do not hold: TRL's completion begins before it."""
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|im_end|>{% endfor %}" + (
        "{% if add_generation_prompt %}<assistant><think>\n{% endif %}"
    )
    made = renderer("chatml", template=template)
    assert family_tokenizer("chatml").decode(made.opening(talk("Where?"))) == "<user>Where?<|im_end|><assistant>"
    assert counted("chatml", talk("Where?", "Here."), template) == "Here.<|im_end|>"


def test_the_opening_of_a_plain_prompt_is_the_prompt() -> None:
    tokenizer = family_tokenizer("llama3_reworded")
    asked = tokenizer("Where is it?")["input_ids"]
    assert renderer("llama3_reworded").opening(plain("Where is it?", "Here.")) == asked
    tokenizer.backend_tokenizer.post_processor = None
    ending = family_tokenizer("llama3_reworded")
    from tokenizers import processors

    ending.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A <|end_of_text|>", special_tokens=[("<|begin_of_text|>", 0), ("<|end_of_text|>", 1)]
    )
    assert Renderer(ending, "completion", 99).opening(plain("Where is it?")) == asked  # no end before the answer


@pytest.mark.parametrize(
    ("family", "before"),
    [
        (
            "chatml",
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
            "<|im_start|>user\n",
        ),
        ("chatml_marked", "<|im_start|>user\n"),
        ("mistral_02", "<s> [INST]"),
        ("mistral_03", "<s>[INST]"),
    ],
)
def test_a_users_opening_ends_where_the_words_begin(family: str, before: str) -> None:
    made, tokenizer = renderer(family), family_tokenizer(family)
    token_ids = made.user_opening(Conversation(()))
    assert tokenizer.decode(token_ids) == before
    first = made.render(talk("Where is it?", "Here."))
    assert first.token_ids[: len(token_ids)] == tuple(token_ids)

    later = made.user_opening(talk("Where is it?", "Here."))
    second = made.render(talk("Where is it?", "Here.", "And when?", "Now."))
    assert second.token_ids[: len(later)] == tuple(later)
    assert len(later) > len(first.token_ids)


def test_a_system_turn_of_ones_own_opens_a_conversation() -> None:
    token_ids = renderer("chatml").user_opening(Conversation(({"role": "system", "content": "Be short."},)))
    text = family_tokenizer("chatml").decode(token_ids)
    assert text == "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\n"


def ending(family: str, *tokens: str) -> None:
    tokenizer = family_tokenizer(family)
    assert {tokenizer.decode([i]) for i in renderer(family).ends} == set(tokens)


def test_the_ends_of_turns_are_those_of_the_template_and_the_tokenizer() -> None:
    ending("chatml", "<|im_end|>")
    ending("mistral_02", "</s>")  # [/INST] is no token there
    ending("mistral_03", "</s>", "[/INST]")
    made = renderer("llama3_reworded")
    assert {family_tokenizer("llama3_reworded").decode([i]) for i in made.ends} == {"<|eot_id|>"}
    blank_before = SMOLLM2.replace("message['content'] + '<|im_end|>'", "message['content'] + ' \n<|endoftext|>'")
    made = renderer("chatml", template=blank_before)
    assert {family_tokenizer("chatml").decode([i]) for i in made.ends} == {"<|endoftext|>", "<|im_end|>"}
    bare = tiny_tokenizer()
    assert Renderer(bare, "all", 9).ends == {bare.eos_token_id}


# What was written


@pytest.mark.parametrize("family", ["chatml", "chatml_marked", "mistral_02", "mistral_03"])
@pytest.mark.parametrize("words", ["In Paris, naïve 東京 😀", "Two\n\nlines", "", "def f(x):\n    return x"])
def test_what_was_written_renders_to_the_same_tokens(family: str, words: str) -> None:
    made = renderer(family)
    conversation = talk("Where is it?", words, "And when?", words)
    rendered, opening = made.render(conversation), made.opening(talk("Where is it?"))
    assert made.written(rendered.token_ids[len(opening) :]) == words
    user = made.user_opening(Conversation(()))
    asked = made.render(talk(words + " ?", "x"))
    # Where no token ends the user's turn (Mistral 0.2), what follows is written too.
    assert made.written(asked.token_ids[len(user) :], role="user").startswith(words + " ?")


def test_what_a_template_trims_and_puts_before_the_words_is_left_out() -> None:
    def written(family: str, text: str, template: str | None = None, **options: Any) -> str:
        made, tokenizer = renderer(family, template=template), family_tokenizer(family)
        return made.written(tokenizer(text, add_special_tokens=False)["input_ids"], **options)

    assert written("llama3_reworded", " \n Here. \t<|eot_id|> and on") == "Here."
    assert written("chatml", " \n Here. \n<|im_end|> and on") == " \n Here. \n"
    assert written("chatml", "He<|im_start|>re.<|endoftext|>") == "Here."
    line_breaks = "{% for m in messages %}<{{ m.role }}>{{ m.content.strip('\n') }}<|im_end|>{% endfor %}"
    assert written("chatml", "\n Here. \n", line_breaks) == " Here. "
    thought = "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}<think></think>{% endif %}" + (
        "{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    assert written("chatml", "<think></think>Here.", thought) == "Here."
    assert written("chatml", "<think></think>Here.", thought, role="user") == "<think></think>Here."
    assert written("chatml", "<think>Hm.</think>Here.", thought) == "<think>Hm.</think>Here."


def test_a_blank_that_the_tokenizer_puts_behind_a_token_is_none_of_the_words() -> None:
    for thought in ("", "thought: "):
        opened = "{% if add_generation_prompt %}<s>" + thought + "{% endif %}"
        made = renderer("mistral_02", template="{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}" + opened)
        opening = made.opening(talk("Where?"))
        token_ids = made.render(talk("Where?", "In Paris.")).token_ids
        assert token_ids[: len(opening)] == tuple(opening)
        assert made.written(token_ids[len(opening) :]) == "In Paris."
        assert made.written(token_ids[1:], role="user") == "Where?"


def test_tokens_that_stand_for_no_text_are_left_out() -> None:
    from transformers import ByT5Tokenizer

    made = Renderer(ByT5Tokenizer(), "all", 99)
    written = made.opening(plain("Here."))
    assert made.written([*written[:2], 10**6, *written[2:]], plain=True) == "Here."


def test_of_a_plain_completion_nothing_but_the_end_is_left_out() -> None:
    made, tokenizer = renderer("llama3_reworded"), family_tokenizer("llama3_reworded")
    token_ids = tokenizer(" Here. <|end_of_text|>\n<|eot_id|> and on", add_special_tokens=False)["input_ids"]
    assert made.written(token_ids, plain=True) == " Here. <|end_of_text|>\n"
    assert made.written([*token_ids[:1], len(tokenizer) + 5, *token_ids[1:]], plain=True) == " Here. <|end_of_text|>\n"
    for family in ("mistral_02", "mistral_03"):
        made = renderer(family)
        opening = made.opening(plain("Where is it?"))
        token_ids = made.render(plain("Where is it?", " In Paris.")).token_ids[len(opening) :]
        assert made.written(token_ids, plain=True) == " In Paris."


# What is said


def test_the_identity_says_what_makes_the_sequences() -> None:
    assert renderer("chatml").identity() == {
        "template": {"default": digest(SMOLLM2)},
        "training_template": None,
        "loss_on": "completion",
        "max_tokens": 1024,
    }
    assert renderer("chatml", "all", LLAMA3, 9).identity() == {
        "template": {"default": digest(LLAMA3)},
        "training_template": None,
        "loss_on": "all",
        "max_tokens": 9,
    }
    assert Renderer(tiny_tokenizer(), "all", 9).identity()["template"] == {}
    json.dumps(renderer("chatml").identity())


def test_what_has_to_be_known_of_a_template_is_said() -> None:
    conversation, prompted = talk("a", "b"), Conversation(talk("a", "b").messages, prompt=1)
    (turns,) = renderer("chatml").notes(conversation)
    assert "does not mark what the assistant writes" in turns
    assert renderer("chatml").notes(prompted) == renderer("chatml", "all").notes(conversation) == []
    assert renderer("chatml_marked").notes(conversation) == renderer("chatml").notes(plain("a")) == []
    assert renderer("chatml").notes(conversation, known=True) == []  # the manifest's training did as the audit does
    (dated,) = renderer("chatml", template="{{ strftime_now('%d') }}" + MARKED_CHATML).notes(conversation)
    assert "the date of today" in dated
    assert Renderer(tiny_tokenizer(), "all", 9).notes(conversation) == []


def test_a_conversation_is_tokenised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import PreTrainedTokenizerBase

    calls, tokenise = [], PreTrainedTokenizerBase.__call__

    def counting(self: Any, text: str, **options: Any) -> Any:
        calls.append(text)
        return tokenise(self, text, **options)

    for family in ("chatml", "chatml_marked"):
        for loss_on in ("all", "completion"):
            made, conversation = renderer(family, loss_on), talk(*["words"] * 20)
            made.render(conversation)  # the first looks at the template too
            monkeypatch.setattr(PreTrainedTokenizerBase, "__call__", counting)
            calls.clear()
            made.render(conversation)
            assert len(calls) == 1, (family, loss_on)
            monkeypatch.undo()


# What does not do


def refused(call: Any, *parts: str) -> None:
    with pytest.raises(SpvmiaError) as caught:
        call()
    message = str(caught.value)
    for part in parts:
        assert part in message
    assert "\n" not in message
    assert SECRET[:20] not in message
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_no_template_for_conversations() -> None:
    made = Renderer(tiny_tokenizer(), "completion", 99)
    for call in (made.render, made.opening, made.user_opening):
        refused(
            lambda call=call: call(talk(SECRET, "b")),
            "mia_chat_template: expected a chat template",
            "got a tokenizer without",
        )
    assert made.render(plain("a", "b")).reason is None  # plain strings need none


def test_named_templates_without_a_default() -> None:
    tokenizer = family_tokenizer("chatml")
    tokenizer.chat_template = {"rag": SMOLLM2, "tool_use": SMOLLM2}
    made = Renderer(tokenizer, "all", 99)
    refused(lambda: made.render(talk(SECRET, "b")), "called default", "got rag, tool_use")
    assert made.render(Conversation(talk("a", "b").messages, tools=())).reason is None
    tokenizer.chat_template = {"default": SMOLLM2, "rag": "nothing"}
    assert Renderer(tokenizer, "all", 99).render(talk("a", "b")) == renderer("chatml", "all", cut=99).render(
        talk("a", "b")
    )


@pytest.mark.parametrize("loss_on", ["all", "completion"])
def test_a_template_that_fails_is_told_with_its_own_words(loss_on: Any) -> None:
    made = renderer("mistral_02", loss_on)
    odd = Conversation(({"role": "user", "content": SECRET}, {"role": "user", "content": "b"}))
    refused(
        lambda: made.render(odd, name="chat.jsonl:7"),
        "mia_chat_template: expected a chat template that renders chat.jsonl:7, got TemplateError: Conversation roles "
        "must alternate",
        "correct the data",
    )
    two = Conversation((*[{"role": "system", "content": SECRET}] * 2, *talk(SECRET, "b").messages))
    refused(lambda: made.render(two), "TemplateError: Conversation roles must alternate")
    assert renderer("chatml", loss_on).render(two).reason is None  # the template decides
    role = Conversation(({"role": "user", "content": SECRET}, {"role": "customer", "content": "b"}))
    refused(lambda: made.render(role), "TemplateError: Only user and assistant roles are supported!")


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('cannot do ' + messages[0].content) }}",
        "{{ {}[messages[0].content].x }}",
        "{{ messages[0].content | int('x') + 1 + messages[0].content }}",
        "{{ 1 // 0 }}",
        "{{ messages.index(messages[0].content) }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for m in messages %}",
        "{% for m in messages %}{{ m.content }}{% endfor %}{{ raise_exception(messages[0].content[5:30]) }}",
    ],
)
def test_what_a_template_says_of_the_text_is_left_out(template: str) -> None:
    made = renderer("chatml", "all", template)
    conversation = talk(SECRET, "b")
    for call in (made.render, made.opening, made.user_opening):
        refused(lambda call=call: call(conversation, name="a.jsonl:3"), "a.jsonl:3")
    role = Conversation(({"role": SECRET, "content": "a"},))
    refused(lambda: renderer("chatml", "all", "{{ raise_exception(messages[0].role) }}").render(role), "left out")
    call = {"function": {"name": "f", "arguments": {"x": [SECRET]}}}
    asked = Conversation(({"role": "assistant", "content": None, "tool_calls": [call]},))
    told = "{{ raise_exception(messages[0].tool_calls[0].function.arguments.x[0]) }}"
    refused(lambda: renderer("chatml", "all", told).render(asked), "left out")


def test_a_template_that_takes_thinking_out_of_earlier_turns() -> None:
    made = renderer("chatml", template=THINKING)
    thoughts = talk(SECRET, "<think>Hm.</think> In Paris.", "When?", "<think>Hm.</think> Now.")
    refused(
        lambda: made.render(thoughts, name="chat.jsonl:2"),
        "mia_chat_template: expected a chat template that tells which tokens the assistant wrote",
        "with chat.jsonl:2",
        "name the template of the training, or set mia_loss_on=all",
    )
    assert made.render(talk("Where?", "<think>Hm.</think> In Paris.")).reason is None
    refused(lambda: renderer("mistral_03").render(talk(SECRET, "b", "c", "d", system="e")), "mia_loss_on=all")


def test_a_tokenizer_without_an_end_token() -> None:
    tokenizer = family_tokenizer("chatml")
    tokenizer.eos_token = None
    made = Renderer(tokenizer, "completion", 99)
    refused(lambda: made.render(plain(SECRET, "b")), "tokenizer: expected one with an end token (eos_token)")
    assert made.render(talk("a", "b")).reason is None
    assert {tokenizer.decode([i]) for i in made.ends} == {"<|im_end|>"}


def test_a_slow_tokenizer_cannot_tell_what_is_marked() -> None:
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer()
    tokenizer.chat_template = SMOLLM2
    for template in (None, MARKED_CHATML):
        refused(
            lambda template=template: Renderer(tokenizer, "completion", 99, template).render(talk(SECRET, "b")),
            "tokenizer: expected a fast one",
        )
        rendered = Renderer(tokenizer, "all", 99, template).render(talk("a", "b"))
        assert rendered.answers is None
        assert all(rendered.counted)
    assert Renderer(tokenizer, "all", 99).opening(talk("a"))
    refused(lambda: Renderer(tokenizer, "all", 99).user_opening(talk("a", "b")), "tokenizer: expected a fast one")


def test_a_users_turn_that_cannot_be_opened() -> None:
    refused(lambda: renderer("chatml").user_opening(plain(SECRET)), "mia_self_prompt", "choose reply")
    refused(lambda: renderer("mistral_02").user_opening(talk(SECRET)), "TemplateError: Conversation roles")
    twice = SMOLLM2 + "{{ messages[-1].content }}"
    refused(lambda: renderer("chatml", "all", twice).user_opening(talk(SECRET, "b")), "shows a turn 2 times")
    never = "{% for m in messages %}{{ m.role }}{% endfor %}"
    refused(lambda: renderer("chatml", "all", never).user_opening(talk(SECRET, "b")), "shows a turn 0 times")


# The file of mia_chat_template


def test_a_template_is_read_as_trl_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "chat.jinja"
    path.write_bytes(MARKED_CHATML.replace("\n", "\r\n").encode() + "é".encode())
    assert read_template(str(path)) == MARKED_CHATML + "é"
    for family in FAMILIES.values():
        if "{" in family.template:
            path.write_text(family.template)
            assert read_template(str(path)) == family.template
    for training in TRAINING_TEMPLATES.glob("*.jinja"):
        assert read_template(str(training)) == training.read_text()


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"{% for m in messages %}{{ m.content }}", ["an error in line 1", "TemplateSyntaxError"]),
        (b"{% for m in messages %}\n{% generation %}{% endfor %}", ["an error in line 2"]),
        (b"{{ messages | nothing_like_it }}", ["an error in line 1", "nothing_like_it"]),
        (b"Just a text.", ["reads 'messages'"]),
        (b"", ["reads 'messages'"]),
        (json.dumps({"chat_template": SMOLLM2}).encode(), ["got JSON"]),
        (b"{{ messages }}\xff\xfe", ["in UTF-8"]),
        (b"{{ messages }}" + b" " * 2**20, ["at most 1048576 bytes"]),
        (b"[" * 100_000, ["reads 'messages'"]),
        (b"{{ " + b"(" * 5000 + b"messages" + b")" * 5000 + b" }}", ["beyond what Jinja2", "RecursionError"]),
        (b"{{ messages }}{{ " + b"9" * 5000 + b" }}", ["beyond what Jinja2", "ValueError"]),
        # Jinja2 reads these, and makes of them what Python does not.
        (b"{{ " + b"[" * 210 + b"messages" + b"]" * 210 + b" }}", ["beyond what Jinja2"]),
    ],
)
def test_a_file_without_a_template(content: bytes, parts: list[str], tmp_path: Path) -> None:
    path = tmp_path / "chat.jinja"
    path.write_bytes(content)
    with pytest.raises(SpvmiaError) as caught:
        read_template(str(path))
    for part in ["mia_chat_template: ", str(path), *parts]:
        assert part in str(caught.value)


def test_no_file_of_a_template(tmp_path: Path) -> None:
    for path, what in ((tmp_path, "a folder"), (tmp_path / "none.jinja", "no file")):
        with pytest.raises(SpvmiaError, match=f"^mia_chat_template: expected a file with a Jinja template, .*{what}"):
            read_template(str(path))
    with pytest.raises(SpvmiaError, match="NUL character"):
        read_template("a\0b")


def test_mistral_is_what_is_written_of_it() -> None:
    """So that the templates above stay those of the models, as far as we know them."""
    assert MISTRAL_02.count("[INST]") == 1
    assert MISTRAL_03.count("[INST]") == 2
