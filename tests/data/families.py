"""Tokenizers of well-known families, small: their special tokens, the way they split texts, their chat templates."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tests.tiny import tiny_texts

SMOLLM2 = """\
{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""
"""That of SmolLM2-135M-Instruct. TRL ships no training template for it."""

LLAMA3 = """\
{{- bos_token }}{%- for message in messages %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
{%- endfor %}{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""
"""What Llama 3's does, in other words: one that nobody knows."""

MARKED_CHATML = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.role == 'assistant' %}{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}
{% else %}{{ message.content }}<|im_end|>
{% endif %}
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif %}"""
"""A template that marks what the assistant writes, the end of a turn in it and the line break not."""

MISTRAL_02 = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
"""That of Mistral-7B-Instruct-v0.2: `[INST]` is no token."""

MISTRAL_03 = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception("After the optional system message, conversation roles must alternate user/assistant") }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] | trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""
"""As Mistral-7B-Instruct-v0.3 does it, without tools: a system turn stands in the last of the user's."""


class Family(NamedTuple):
    """What a tokenizer of a family has.

    Attributes:
        template: its text, or the name of one that TRL has.
        special, added: its special tokens, and those that are added and not special.
        build: makes a backend of special tokens.
        bos, eos: special tokens.
        opens: whether the tokenizer puts BOS before a plain text.
        swallows: special tokens that take the white space after them.
        refuses: kinds of conversations that its template refuses.
    """

    template: str
    special: tuple[str, ...]
    build: Callable[[tuple[str, ...]], Any]
    bos: str | None
    eos: str
    added: tuple[str, ...] = ()
    opens: bool = False
    refuses: tuple[str, ...] = ()
    swallows: tuple[str, ...] = ()


_LINE_BREAKS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3, Qwen and DeepSeek split: line breaks in a row stay together, which GPT-2 cuts before a word."""


def byte_level(special: tuple[str, ...], pattern: str | None = None) -> Any:
    """As GPT-2 and SmolLM2."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pattern is not None:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        bytes_alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_alone])
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(_texts(), trainer)
    return backend


def byte_level_lines(special: tuple[str, ...]) -> Any:
    """As Llama 3, Qwen and DeepSeek."""
    return byte_level(special, _LINE_BREAKS)


def pieces(special: tuple[str, ...]) -> Any:
    """As SentencePiece does: blanks are characters, what is not in the vocabulary is bytes. So Gemma has it."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers

    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Prepend("▁")
    words = [word for text in _texts() for word in text.split(" ")]
    trained.train_from_iterator(words, trainers.BpeTrainer(vocab_size=500, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    names = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    vocabulary = {name: i for i, name in enumerate(dict.fromkeys(names))}
    merges = [tuple(pair) for pair in model["merges"]]
    backend = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True, unk_token=special[0]))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return backend


def pieces_blank_everywhere(special: tuple[str, ...]) -> Any:
    """As Llama 2, Mistral 0.2 and Phi-3: a blank is put before every piece of text, after each special token too."""
    from tokenizers import decoders, normalizers

    backend = pieces(special)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
    )
    return backend


def pieces_blank_first(special: tuple[str, ...]) -> Any:
    """As Mistral 0.3: a blank is put before the first piece of text alone."""
    from tokenizers import decoders, pre_tokenizers

    backend = pieces(special)
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
    )
    return backend


def _texts() -> list[str]:
    return [*tiny_texts(150, seed=1), "user\nassistant\nsystem\nmodel\n\n", "naïve café, 東京 😀", "[INST] [/INST]"]


_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_QWEN = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
_DEEPSEEK = (
    "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>",
    "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>",
    "<｜tool▁outputs▁begin｜>", "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>", "<｜tool▁outputs▁end｜>",
)  # fmt: skip
_LLAMA3 = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_PHI3 = ("<unk>", "<s>", "</s>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
_GEMMA = ("<unk>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
_LLAMA2 = ("<unk>", "<s>", "</s>")

FAMILIES: dict[str, Family] = {
    "chatml": Family(SMOLLM2, _CHATML, byte_level, "<|im_start|>", "<|im_end|>"),
    "chatml_marked": Family(MARKED_CHATML, _CHATML, byte_level, None, "<|im_end|>"),
    "llama3": Family("llama3", _LLAMA3, byte_level_lines, "<|begin_of_text|>", "<|eot_id|>", opens=True),
    "llama3_reworded": Family(LLAMA3, _LLAMA3, byte_level_lines, "<|begin_of_text|>", "<|eot_id|>", opens=True),
    "qwen2_5": Family("qwen2_5", _CHATML, byte_level_lines, None, "<|im_end|>", _QWEN[:2]),
    "qwen3": Family("qwen3", _CHATML, byte_level_lines, None, "<|im_end|>", _QWEN),
    "gemma": Family("gemma", _GEMMA, pieces, "<bos>", "<eos>", opens=True, refuses=("system",)),
    "gemma3": Family("gemma3", _GEMMA, pieces, "<bos>", "<end_of_turn>", opens=True),
    "phi3": Family("phi3", _PHI3, pieces_blank_everywhere, "<s>", "<|endoftext|>", swallows=_PHI3[4:]),
    "deepseekv3": Family("deepseekv3", _DEEPSEEK, byte_level_lines, _DEEPSEEK[0], _DEEPSEEK[1], _QWEN[4:], opens=True),
    "deepseek_r1_distill": Family(
        "deepseek_r1_distill", _DEEPSEEK, byte_level_lines, _DEEPSEEK[0], _DEEPSEEK[1], _QWEN[4:], opens=True
    ),
    "mistral_02": Family(MISTRAL_02, _LLAMA2, pieces_blank_everywhere, "<s>", "</s>", opens=True, refuses=("system",)),
    "mistral_03": Family(MISTRAL_03, (*_LLAMA2, "[INST]", "[/INST]"), pieces_blank_first, "<s>", "</s>", opens=True),
}


@cache
def _saved(name: str) -> str:
    """The backend of a family as JSON: it is trained once."""
    family = FAMILIES[name]
    from tokenizers import AddedToken

    backend = family.build(family.special)
    backend.add_special_tokens(
        [AddedToken(t, rstrip=t in family.swallows, normalized=False, special=True) for t in family.special]
    )
    if family.opens:
        from tokenizers import processors

        backend.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(family.bos, backend.token_to_id(family.bos))]
        )
    return str(backend.to_str())


def family_tokenizer(name: str) -> Any:
    """A new tokenizer of a family, with its chat template; those that are named come from TRL."""
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    family = FAMILIES[name]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_saved(name)),
        bos_token=family.bos,
        eos_token=family.eos,
        pad_token=family.eos,
        additional_special_tokens=[t for t in family.special if t not in (family.bos, family.eos)],
    )
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in family.added])
    if "{" in family.template:
        tokenizer.chat_template = family.template
    else:
        tokenizer.chat_template = (trl_templates() / f"{family.template}.jinja").read_text(encoding="utf-8")
    return tokenizer


def trl_templates() -> Path:
    """The folder of TRL's templates."""
    import importlib.util

    spec = importlib.util.find_spec("trl")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "chat_templates"
