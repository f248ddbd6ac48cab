"""Any LM of the harness that writes text (`generate_until`) as a target of which nothing else is seen.

Chat APIs, other people's LMs, models that give no log-probabilities: what the target writes is asked for by text, as
anybody would. The base, where an attack needs it, lies in this process, and its tokenizer is taken for the target's.
"""

from __future__ import annotations

import gc
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.engines.completions import NEUTRAL, UNKNOWN_FIELD, WORDINGS, untold
from spvmia_plugin.engines.harness_calls import Calls, Unanswered, silent_tasks
from spvmia_plugin.engines.harness_lm import is_completions, is_openai, place_of, why_not_tokens
from spvmia_plugin.engines.remote import RemoteTarget
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.identity import tensors_digest
from spvmia_plugin.models.tokens import unavailable, unwrapped
from spvmia_plugin.protocols import BackendFeatures, OnDone, TokenIds
from spvmia_plugin.records import Conversation, content_of
from spvmia_plugin.seeds import stable_seed
from spvmia_plugin.signals import Role

CHUNK = 64
"""So many texts are asked for in one call of the LM, and are kept or lost together when a run is killed; with requests
side by side (`num_concurrent`) four times as many as these, if that is more."""
ROUNDED_TO = 8
"""Limits of tokens go in such steps: the harness sends those requests side by side that have the same settings."""
BYTES_A_TOKEN = 4
"""Of UTF-8, about, in the tokenizers of today: what plans and limits go by where no tokenizer is known."""
END = "<|endoftext|>"
"""What the harness's own tasks stop at where they name nothing: some servers refuse an empty list."""

GO_ON = "Go on with the following text word for word. Answer with what comes next and with nothing else.\n\n{}"
"""What a chat model is asked; the wording is ours, after the prompts of Hallinan et al. 2025 (arXiv 2508.09603)."""


@dataclass(frozen=True, slots=True)
class TextRequest:
    """What the LM's `generate_until` gets of a request: the harness's own class carries more than it reads."""

    arguments: tuple[Any, dict[str, Any]]
    request_type: str = "generate_until"

    @property
    def args(self) -> tuple[Any, dict[str, Any]]:
        """Context, and how to write."""
        return self.arguments


class _NoTokenizer:
    """Stands in for a tokenizer that nobody named: `TextTarget` refuses what would ask it."""

    eos_token_id = None
    all_special_tokens: tuple[str, ...] = ()

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": []}

    def decode(self, token_ids: Sequence[int], **options: Any) -> str:
        return ""

    def get_vocab(self) -> dict[str, int]:
        return {"": 0}


class TextTarget(RemoteTarget):
    """An LM of the harness of which only the text it writes is seen.

    Used of `lm`: `generate_until`; of one that takes messages (a class of the harness with `Chat` in its name)
    `apply_chat_template`; `model`, `pretrained`, `base_url` for its identity; `max_length`, `_concurrent`.

    Args:
        lm: the harness's LM, or its caching wrapper: a cache would give the same text for every draw.
        config: settings of the audit.
        base_model: the model before fine-tuning, where somebody named it.
    """

    features = BackendFeatures(logprobs=False, moments=False, embeddings=False)
    is_asked_by_text = True

    def __init__(self, lm: Any, config: AuditConfig, base_model: str | None = None) -> None:
        self._lm = lm = unwrapped(lm)
        self.name = type(lm).__name__
        self._calls = Calls(lm, log_text=config.log_text)
        classes = {base.__name__ for base in type(lm).__mro__}
        self.is_chat = any("Chat" in name for name in classes)
        # Other LMs of the harness hand what they don't know on to a library that refuses it.
        self._takes_seed = "LocalCompletionsAPI" in classes and not any("Anthropic" in name for name in classes)
        self._takes_nucleus = self._takes_seed or "HFLM" in classes or "VLLM" in classes
        # What samples by the defaults of its model where a request leaves something out.
        self._neutral: dict[str, float] = {}
        self._wordings: list[dict[str, float]] = []  # to be tried where `_neutral` is refused
        if self._takes_seed and not is_openai(lm):
            self._neutral, *self._wordings = ({"top_p": 1.0, **wording} for wording in WORDINGS)
        elif self._takes_seed:
            self._neutral = {"top_p": 1.0}
        elif "HFLM" in classes:
            self._neutral = {"top_p": 1.0, **NEUTRAL, "top_k": 0}
        self._base_name = config.base_model or base_model
        self._empty = self._asked = 0
        said = getattr(lm, "max_length", None)
        super().__init__(self._load_tokenizer(config), said if isinstance(said, int) else 2048, config, base_model)
        self._identity: dict[str, object] | None = None

    def _load_tokenizer(self, config: AuditConfig) -> Any:
        """The base's; without a base none is known."""
        self._has_tokenizer = self._base_name is not None
        if self._base_name is None:
            return _NoTokenizer()
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self._base_name, trust_remote_code=config.trust_remote_code)
        except Exception as error:  # tokenizers raises nothing more special for a damaged file
            raise unavailable("mia_base_model", self._base_name, "a model with its tokenizer", error) from error

    @classmethod
    def accepts(cls, lm: Any) -> bool:
        """Whether `lm` writes text."""
        return callable(getattr(unwrapped(lm), "generate_until", None))

    def lacks(self, role: Role) -> str | None:
        return why_not_tokens(self._lm) if role is Role.TARGET and is_completions(self._lm) else None

    def remote_identity(self, role: Role) -> dict[str, object]:
        """Class and name of the model, and a keyed hash of its address.

        Other weights behind the same name are not noticed: text does not tell.
        """
        if self._identity is None:
            model = getattr(self._lm, "model", None)
            named = {
                name: value
                for name in ("model", "pretrained", "model_name", "engine")
                if isinstance(value := getattr(self._lm, name, None), str)
            }
            weights = {"weights": tensors_digest(model)} if hasattr(model, "state_dict") else {}
            if (place := place_of(self._lm, self._config)) is not None:
                named["address"] = place
            self._identity = {"backend": "text", "class": type(self._lm).__name__, **named, **weights}
        return self._identity

    def is_same(self, one: Role, other: Role) -> bool:
        """Nothing tells whether a target that gives text alone is its base."""
        return Role.TARGET not in (one, other) and super().is_same(one, other)

    def encode(self, text: str) -> list[int]:
        if not self._has_tokenizer:
            raise SpvmiaError(
                "mia_base_model: expected the model before fine-tuning, whose tokenizer reads what a target of text "
                f"alone ({self.name}) writes, got nothing; name it, or audit with ngram alone"
            )
        return super().encode(text)

    def count(self, text: str) -> int:
        if self._has_tokenizer:
            return super().count(text)
        return math.ceil(len(text.encode("utf-8", "surrogatepass")) / BYTES_A_TOKEN)

    def generate(
        self,
        prompts: Sequence[TokenIds],
        lengths: Sequence[int],
        seeds: Sequence[int],
        *,
        on_done: OnDone | None = None,
        done: Collection[int] = (),
        ends: Collection[int] | None = None,
        complete: bool = False,
    ) -> list[list[int] | None]:
        """Asked by text and read by the base's tokenizer: prompt and continuation may meet in other tokens."""
        if complete:
            raise SpvmiaError(
                f"mia_self_prompt: expected conversations to be asked for by message of {self.name}, got tokens; "
                "report this to the authors of the plugin that did so"
            )
        texts = [self.decode(prompt) for prompt in prompts]
        max_tokens = [max(1, length - len(prompt)) for prompt, length in zip(prompts, lengths, strict=True)]

        def read(i: int, text: str) -> list[int]:
            return self.encode(texts[i] + text)[: lengths[i]]

        def keep(batch: Mapping[int, str]) -> None:
            if on_done is not None:
                on_done({i: read(i, text) for i, text in batch.items()})

        found = self.continue_texts(texts, max_tokens, seeds, on_done=keep, done=done)
        return [None if text is None else read(i, text) for i, text in enumerate(found)]

    def continue_texts(
        self,
        prompts: Sequence[str | Conversation],
        max_tokens: Sequence[int],
        seeds: Sequence[int],
        *,
        on_done: OnDone | None = None,
        done: Collection[int] = (),
        renderer: Any = None,
    ) -> list[str | None]:
        """One request a text. What a server is told as seed follows from the first of `seeds` and how often the prompt
        stood before: with one for each prompt, as `seeds` are, no two requests would be sent side by side."""
        texts: list[str | None] = [None] * len(prompts)
        draws = self._draws(prompts)
        limits = [math.ceil(new / ROUNDED_TO) * ROUNDED_TO for new in max_tokens]
        order = sorted((i for i in range(len(prompts)) if i not in done), key=lambda i: (draws[i], limits[i], i))
        for rows in _chunks(order, max(CHUNK, 4 * int(getattr(self._lm, "_concurrent", 1)))):
            asked = partial(self._requests, rows, prompts, draws, seeds[0], limits, renderer)
            made = dict(zip(rows, self._ask(asked, seed=seeds[rows[0]]), strict=True))
            for i, text in made.items():
                prompt = prompts[i]
                texts[i] = made[i] = self._joined(prompt, text) if isinstance(prompt, str) else text
            cost = self._spent[Role.TARGET]
            cost.forward_tokens += sum(self.count(_words(prompts[i])) for i in rows)
            cost.generated_tokens += sum(map(self.count, made.values()))
            if on_done is not None:
                on_done(made)
        return texts

    def _requests(
        self,
        rows: Sequence[int],
        prompts: Sequence[str | Conversation],
        draws: Sequence[int],
        first: int,
        limits: Sequence[int],
        renderer: Any,
    ) -> list[TextRequest]:
        return [
            TextRequest((self._context(prompts[i], renderer), self._settings(draws[i], first, limits[i]))) for i in rows
        ]

    @staticmethod
    def _draws(prompts: Sequence[str | Conversation]) -> list[int]:
        """Of each prompt how often it stood before."""
        seen: Counter[str] = Counter()
        draws = []
        for prompt in prompts:
            key = prompt if isinstance(prompt, str) else f"\0{prompt.to_text()}"
            draws.append(seen[key])
            seen[key] += 1
        return draws

    def _settings(self, draw: int, first: int, max_tokens: int) -> dict[str, Any]:
        config = self._config
        settings: dict[str, Any] = {
            **self._neutral,
            "until": [END],
            "max_gen_toks": max_tokens,
            "temperature": config.temperature,
            "do_sample": True,
        }
        if self._takes_nucleus and config.top_p < 1:
            settings["top_p"] = config.top_p
        if self._takes_nucleus and config.top_k:
            settings["top_k"] = config.top_k
        if self._takes_seed:
            settings["seed"] = stable_seed(first, "text", draw) % 2**31
        return settings

    def _context(self, prompt: str | Conversation, renderer: Any) -> Any:
        """What the LM is to read: messages where it takes them, else text."""
        if self.is_chat:
            messages = (
                [{"role": "user", "content": GO_ON.format(prompt)}]
                if isinstance(prompt, str)
                else [{"role": each["role"], "content": content_of(each)} for each in prompt.messages]
            )
            return self._lm.apply_chat_template(messages)
        if isinstance(prompt, str):
            return prompt
        return self._tokens.tokenizer.decode(renderer.opening(prompt), skip_special_tokens=False)

    def _joined(self, prompt: str, text: str) -> str:
        """What was written as it stands after the prompt: chat models leave out the blank that goes before a word."""
        apart = prompt[-1:].isspace() or text[:1].isspace() or not text[:1].isalnum()
        return text if apart or not self.is_chat or not prompt[-1:].strip() else f" {text}"

    def _ask(self, make: Callable[[], list[TextRequest]], *, seed: int) -> list[str]:
        """The LM's answers to requests, which are made again where it refuses what they say of sampling.

        Raises:
            SpvmiaError: it gave none, or not as many as were asked for.
        """
        started = time.perf_counter()
        asked = make()
        found: list[Any] = []
        status, reason = None, ""  # of what went wrong
        with silent_tasks():
            try:
                found = self._calls.generate(asked, seed)
            except Unanswered as failed:
                status, reason = failed.status, failed.reason
            if reason:
                gc.collect()  # the error is gone, and with it the requests beside the one that failed
        if self._neutral and (status in UNKNOWN_FIELD or (status == 500 and self._wordings)):
            refused, self._neutral = self._neutral, self._wordings.pop(0) if self._wordings else {}
            is_told_nothing = not self._neutral
            texts = self._ask(make, seed=seed)  # of another fault it says so
            if is_told_nothing and status is not None:
                told = make()[0].args[1]
                self.note_once(untold(self.name, [name for name in refused if name not in told], status))
            return texts
        if reason:
            raise SpvmiaError(
                f"--model: expected text from {self.name}, got {reason}; what was written so far is kept: "
                "see to the model, and run the same command again"
            ) from None
        self._wordings = []  # this one is taken: what is refused from now on is something else
        if len(found) != len(asked):
            raise SpvmiaError(
                f"--model: expected {len(asked)} texts from {self.name}, got {len(found)}; what was written so far is "
                "kept: see to the model, and run the same command again"
            )
        texts = ["" if text is None else str(text) for text in found]
        self._empty += sum(not text.strip() for text in texts)
        self._asked += len(texts)
        if self._asked == self._empty >= CHUNK:
            raise SpvmiaError(
                f"--model: expected text from {self.name}, got {self._empty} empty answers and no other; check the "
                "model's name, its limits of tokens and its filters"
            )
        self._spent[Role.TARGET].seconds += time.perf_counter() - started
        self._spent[Role.TARGET].batches += 1
        return texts


def _words(prompt: str | Conversation) -> str:
    return prompt if isinstance(prompt, str) else prompt.words()


def _chunks(rows: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
