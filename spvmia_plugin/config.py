"""The options that travel in lm-eval's `--metadata` as `mia_*` keys: types, ranges, defaults, presets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from spvmia_plugin.errors import SpvmiaError, did_you_mean
from spvmia_plugin.util.files import path_problem
from spvmia_plugin.util.strict_json import is_number, is_whole, not_finite

PREFIX = "mia_"
MAX_SHOWN = 80
MAX_REFERENCES = 8
"""As many as there are roles for (`signals.Role`)."""
MAX_EPOCHS = 1e6
"""More passes than anything is trained for: what is beyond is a slip, and overflows once it is counted in steps."""
MAX_WHOLE, MAX_TOKENS, MAX_BATCH, MAX_RANK = 2**63 - 1, 10**9, 10**6, 2**16
"""What options take at most: seeds and numbers of records, tokens, records of a step, ranks of an adapter."""

Split = Literal["random", "paper"]
Format = Literal["auto", "text", "messages", "prompt_completion", "instruction", "sharegpt", "preference"]
FORMATS: tuple[Format, ...] = ("text", "messages", "prompt_completion", "instruction", "sharegpt", "preference")
LossOnOption = Literal["auto", "all", "completion"]
SelfPrompt = Literal["reply", "whole", "prefix"]
Prefix = Literal["auto", "harness"]
SpvVariant = Literal["paper", "released"]

NO_CANDIDATE = "none"
"""Value of `mia_candidate` that leaves the candidate reference out."""

PRESETS: dict[str, dict[str, object]] = {
    # Minutes on a CPU: as many self-prompts as a small audit has members, a fast-learning reference, and no more
    # paraphrases than `spv` needs.
    "quick": {
        "self_prompts": 250,
        "reference_epochs": 3,
        "reference_lr": 2e-4,
        "reference_batch": 8,
        "lora_rank": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.0,
        "lora_targets": "all-linear",
        "perturbation": "causal",
        "perturbations": 1,
        "continuations": 10,
    },
    "standard": {
        "self_prompts": 1000,
        "reference_epochs": 3,
        "reference_lr": 2e-4,
        "reference_batch": 8,
        "lora_rank": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.0,
        "lora_targets": "all-linear",
        "perturbation": "causal",
        "perturbations": 5,
        "continuations": 20,
    },
    # The paper's own protocol: the defaults below.
    "paper": {},
}
"""Sets of option values by `mia_preset`; explicit keys win."""


@dataclass(frozen=True)
class Check:
    """What a value must be: the words for the error message, the test, and how to read it."""

    expected: str
    accepts: Callable[[Any], bool]
    read: Callable[[Any], Any] = lambda value: value
    place: Literal["file", "folder"] | None = None
    """What it may be a path of. One that cannot be is refused here, before anything looks for it; folders, of models
    and of the store, are in UTF-8: the libraries that read them know no other."""


def _is_whole(value: Any) -> bool:
    """JSON's numbers have no end; libraries in other languages have one."""
    return is_whole(value) and abs(value) < 2**63


def _text() -> Check:
    return Check("a non-empty string", lambda value: isinstance(value, str) and bool(value.strip()))


def _file() -> Check:
    return dataclasses.replace(_text(), place="file")


def _folder() -> Check:
    return dataclasses.replace(_text(), place="folder")


def _at_least(low: int, high: int = MAX_WHOLE) -> Check:
    """What no machine can hold is refused before it is tried."""
    return Check(f"a whole number >= {low} and <= {high}", lambda value: _is_whole(value) and low <= value <= high)


def _within(low: float, high: float, *, open_low: bool = False) -> Check:
    words = f"a number {'>' if open_low else '>='} {low:g}" + ("" if high == float("inf") else f" and <= {high:g}")
    return Check(
        words,
        lambda value: is_number(value) and (value > low if open_low else value >= low) and value <= high,
        float,
    )


def _one_of(*choices: str) -> Check:
    return Check("one of " + ", ".join(choices), lambda value: value in choices)


_LONGEST_COUNT = 10
"""Digits of 2**31, the largest K."""


def _view() -> Check:
    def accepts(value: Any) -> bool:
        if not isinstance(value, str) or not value.isascii():
            return False
        kind, colon, number = value.partition(":")
        if not colon:
            return kind in ("full", "text")
        if kind == "noised":
            try:
                spread = float(number)
            except ValueError:
                return False
            return 0 < spread < float("inf")
        if not number.isdigit() or len(number) > _LONGEST_COUNT:  # Python reads no whole number of any length
            return False
        return {"top_k": 1 <= int(number) < 2**31, "rounded": int(number) <= 15}.get(kind, False)

    return Check(
        "full, text, top_k:K (K log-probabilities, a whole number >= 1), rounded:D (D decimals, 0 to 15) or noised:S "
        "(S nats, a number > 0)",
        accepts,
    )


def _flag() -> Check:
    return Check("true or false", lambda value: isinstance(value, bool))


def read_names(value: Any) -> tuple[str, ...]:
    """Names as an option has them: a list, or one text with commas between."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else tuple(value)


def _names() -> Check:
    return Check(
        "a module name or a list of them",
        lambda value: (
            bool(value)
            and (
                isinstance(value, str) or (isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value))
            )
        ),
        read_names,
    )


def _option(default: Any, check: Check) -> Any:
    return field(default=default, metadata={"check": check})


@dataclass(frozen=True)
class AuditConfig:
    """All settings of one audit. Field `x` is the option `mia_x`; None means "not given".

    Hyper-parameters of attacks live in the attacks themselves; `attack_options` holds what the user set of them.
    """

    # data
    members: str | None = _option(None, _file())
    nonmembers: str | None = _option(None, _file())
    prompts: str | None = _option(None, _file())
    candidate: str | None = _option(None, _file())
    text_column: str = _option("text", _text())
    unit_column: str | None = _option(None, _text())
    group_column: str | None = _option(None, _text())
    manifest: str | None = _option(None, _file())
    dataset_path: str | None = _option(None, _file())
    split: Split = _option("random", _one_of("random", "paper"))
    block_size: int = _option(
        128,
        Check(
            f"0 (whole documents) or a whole number >= 8 and <= {MAX_TOKENS}",
            lambda v: _is_whole(v) and (v == 0 or 8 <= v <= MAX_TOKENS),
        ),
    )
    format: Format = _option("auto", _one_of("auto", *FORMATS))
    loss_on: LossOnOption = _option("auto", _one_of("auto", "all", "completion"))
    chat_template: str | None = _option(None, _file())
    record_tokens: int = _option(1024, _at_least(2, MAX_TOKENS))
    max_samples: int = _option(1000, _at_least(1))
    prefix: Prefix = _option("auto", _one_of("auto", "harness"))
    # models
    base_model: str | None = _option(None, _folder())
    base_served: str | None = _option(None, _text())
    reference: str = _option("self_prompt", _folder())
    references: int = _option(1, _at_least(1, MAX_REFERENCES))
    # self-prompt calibration
    self_prompt: SelfPrompt | None = _option(None, _one_of("reply", "whole", "prefix"))
    allow_degenerate: bool = _option(False, _flag())
    self_prompts: int = _option(10_000, _at_least(1, 10**8))
    prompt_tokens: int = _option(16, _at_least(1, 10**8))
    temperature: float = _option(1.0, _within(0, float("inf"), open_low=True))
    top_k: int = _option(0, _at_least(0))
    top_p: float = _option(1.0, _within(0, 1, open_low=True))
    reference_epochs: float = _option(2.0, _within(0, MAX_EPOCHS, open_low=True))
    reference_lr: float = _option(5e-5, _within(0, 1, open_low=True))
    reference_batch: int = _option(4, _at_least(1, MAX_BATCH))
    reference_parallel: bool = _option(False, _flag())
    lora_rank: int = _option(64, _at_least(1, MAX_RANK))
    lora_alpha: float = _option(16.0, _within(0, float("inf"), open_low=True))
    lora_dropout: float = _option(0.1, _within(0, 0.99))
    lora_targets: tuple[str, ...] | None = _option(None, _names())
    # probabilistic variation
    perturbation: str = _option("mask_fill", _text())
    perturbations: int = _option(5, _at_least(1, 10_000))
    mask_rate: float = _option(0.2, _within(0, 1, open_low=True))
    mask_model: str = _option("t5-base", _folder())
    noise: float = _option(0.3, _within(0, float("inf"), open_low=True))
    # what the target writes, and what of it is seen
    continuations: int = _option(50, _at_least(1, 10**6))
    embedding_model: str | None = _option(None, _folder())
    api_view: str = _option("full", _view())
    # canaries
    canary_attack: str = _option("spv_wbc", _text())
    # the bound declared beforehand
    max_auroc: float | None = _option(None, _within(0.5, 1, open_low=True))
    max_tpr_at_1pct: float | None = _option(None, _within(0.01, 1, open_low=True))
    max_epsilon: float | None = _option(None, _within(0, float("inf"), open_low=True))
    # the run
    preset: str | None = _option(None, _one_of(*PRESETS))
    log_text: bool = _option(False, _flag())
    seed: int = _option(0, _at_least(0))
    cache_dir: str | None = _option(None, _folder())
    max_length: int | None = _option(None, _at_least(2, MAX_TOKENS))
    attack_options: Mapping[str, Any] = field(default_factory=dict)
    trust_remote_code: bool = field(default=False, compare=False)
    """Whether the harness was told to run code that models bring: `trust_remote_code=True` in its model arguments."""
    gguf_file: str | None = field(default=None, compare=False)
    """Which file of its folder the harness loads the model from: `gguf_file=...` in its model arguments."""
    dtype: str | None = field(default=None, compare=False)
    """`dtype=` in the harness's model arguments: what base and references are read in beside a target elsewhere."""
    given: frozenset[str] = field(default=frozenset(), compare=False)
    """Names of the fields the user set: a manifest is contradicted only by what was asked for, not by a default."""

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], attack_options: frozenset[str] = frozenset()) -> AuditConfig:
        """Read the `mia_*` keys of a task's metadata; every other key belongs to somebody else.

        Args:
            metadata: the task's metadata merged with `--metadata` and the model's arguments.
            attack_options: options that registered attacks declare (`mia_min_k`, ...). Their values are checked by
                the attacks' own constructors.

        Raises:
            SpvmiaError: unknown `mia_*` key (with the nearest known one), wrong type, value out of range.
        """
        checks = {PREFIX + f.name: f.metadata["check"] for f in dataclasses.fields(cls) if f.metadata}
        given = {key: value for key, value in metadata.items() if key.startswith(PREFIX) and key != "mia_audit"}
        for key, value in given.items():
            if key not in checks and key not in attack_options:
                hint = did_you_mean(key, [*checks, *attack_options])
                raise SpvmiaError(f"{key}: unknown option{hint}; the options are listed in docs/options.md")
            # An attack's own check may let it pass, and then no JSON could hold the settings.
            if (found := not_finite(value)) is not None:
                expected = checks[key].expected if key in checks else "finite numbers"
                raise SpvmiaError(f"{key}: expected {expected}, got {found}; correct it in --metadata")
        values = {
            key.removeprefix(PREFIX): _checked(key, value, checks)
            for key, value in given.items()
            if key in checks and value is not None
        }
        preset = PRESETS[values.get("preset", "paper")]
        read = {name: checks[PREFIX + name].read(value) for name, value in preset.items()}
        chosen = {key: given[key] for key in given if key in attack_options and given[key] is not None}
        if chosen.get("mia_spv_variant") == "released" and values.get("prefix") == "harness":
            raise SpvmiaError(
                "mia_prefix: expected auto with mia_spv_variant=released, because the released code reads what the "
                "tokenizer gives, got harness; leave one of the two out"
            )
        trusted = str(metadata.get("trust_remote_code")).lower() == "true"
        gguf_file = metadata.get("gguf_file")
        return cls(
            **{**read, **values},
            attack_options=chosen,
            trust_remote_code=trusted,
            gguf_file=gguf_file if isinstance(gguf_file, str) else None,
            dtype=str(dtype) if (dtype := metadata.get("dtype")) not in (None, "", "auto") else None,
            given=frozenset(values),
        )

    def attack_fields(self, options: Mapping[str, str]) -> dict[str, Any]:
        """The constructor arguments of an attack whose `options` map its fields to option names."""
        return {name: self.attack_options[key] for name, key in options.items() if key in self.attack_options}

    def to_json(self) -> dict[str, object]:
        """All settings under the names users type, JSON-ready."""
        own = {
            PREFIX + f.name: list(v) if isinstance(v := getattr(self, f.name), tuple) else v
            for f in dataclasses.fields(self)
            if f.metadata
        }
        return {**own, **self.attack_options}


def _checked(key: str, value: Any, checks: Mapping[str, Check]) -> Any:
    check = checks[key]
    if not check.accepts(value):
        # mia_self_prompt and mia_self_prompts are both options: a number was meant for the second.
        near = [other for other in checks if other in (f"{key}s", key.removesuffix("s")) and other != key]
        meant = [f" (did you mean {other!r}?)" for other in near if checks[other].accepts(value)]
        raise SpvmiaError(
            f"{key}: expected {check.expected}, got {_shown(value)}{''.join(meant)}; correct it in --metadata"
        )
    problem = path_problem(value, utf8=check.place == "folder") if check.place else None
    if problem is not None:
        raise SpvmiaError(f"{key}: expected a path or a name, got {problem}; correct it in --metadata")
    return check.read(value)


def _shown(value: Any) -> str:
    """A value as an error shows it: texts of records that were passed by mistake stay private."""
    if isinstance(value, (list, tuple, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    return (
        repr(value) if len(repr(value)) <= MAX_SHOWN else f"a {type(value).__name__} of {len(repr(value))} characters"
    )


def affordable(members: int, *, on_cpu: bool) -> str:
    """`--metadata` of a command that is offered to somebody who has just trained: none of it needs a second model.

    Args:
        members: records that the target was trained on: a reference has learnt enough from as many texts.
        on_cpu: whether it was trained on a CPU, where a reference of `standard` takes hours.
    """
    if not on_cpu:
        return "mia_preset=standard"
    most = AuditConfig.from_metadata({"mia_preset": "quick"}).self_prompts
    return "mia_preset=quick" + (f",mia_self_prompts={members}" if members < most else "")
