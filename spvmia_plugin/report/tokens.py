"""One record token by token, from what the audit left in the store. No model is loaded and nothing is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spvmia_plugin.auditing.stored import signals_key
from spvmia_plugin.config import MAX_REFERENCES
from spvmia_plugin.data.tokenisation import Reading
from spvmia_plugin.errors import SpvmiaError, did_you_mean
from spvmia_plugin.protocols import ScoreInput
from spvmia_plugin.records import Record
from spvmia_plugin.report.numbers import Number
from spvmia_plugin.results import Audit, HarnessRun
from spvmia_plugin.signals import Role, TokenSignals, mean_signals
from spvmia_plugin.store.store import Store
from spvmia_plugin.util.boundary import behind
from spvmia_plugin.util.console import shown
from spvmia_plugin.util.redact import HIDDEN

REFERENCES = ("reference", "candidate", "base")
"""Models to compare the target with, the first that the run scored."""

LINE_END = "\u21b5"
"""Stands for a line feed, which templates are full of."""

SHADES = (0.5, 1.5, 3.0)
"""Nats from which on a token has the next darker shade."""


@dataclass(frozen=True)
class Token:
    """One token of a record.

    Attributes:
        text: as the tokenizer writes it, safe to show.
        target: its log-probability under the target, in nats; None where it was read as context alone, and for the
            first one where nothing stands before it.
        reference: the same under the reference, None where no model was compared with.
    """

    text: str = field(repr=False)
    target: float | None
    reference: float | None

    @property
    def difference(self) -> float | None:
        """How much more probable the target finds it, in nats."""
        return None if self.reference is None or self.target is None else self.target - self.reference


@dataclass(frozen=True)
class TokenView:
    """One record token by token, or the reason why it cannot be shown.

    Attributes:
        record_id: the record.
        is_member: whether it was trained on.
        reference: which model was compared with: "reference", "candidate", "base", or None.
        tokens: in the record's order.
        reason: why there are none, or None.
    """

    record_id: str
    is_member: bool
    reference: str | None = None
    tokens: tuple[Token, ...] = ()
    reason: str | None = None

    @property
    def context(self) -> frozenset[int]:
        """Places of the tokens that were read and not scored; empty where that is the first one alone."""
        places = frozenset(place for place, token in enumerate(self.tokens) if token.target is None)
        return places - {0} and places

    def rows(self) -> list[tuple[str, Number, Number, Number, int]]:
        """Each token with its numbers and how far target and reference part, from -3 to 3, as the page shows it."""
        found = []
        for place, token in enumerate(self.tokens):
            source, difference = f"computed/{self.record_id}/{place}", token.difference
            step = sum(abs(difference) >= limit for limit in SHADES) if difference is not None else 0
            found.append(
                (
                    token.text,
                    Number(token.target, "nats", f"{source}/target"),
                    Number(token.reference, "nats", f"{source}/reference"),
                    Number(difference, "nats", f"{source}/difference"),
                    step if difference is None or difference > 0 else -step,
                )
            )
        return found

    def to_json(self) -> dict[str, object]:
        """JSON-ready. It holds the record's text."""
        rows = [[token.text, token.target, token.reference] for token in self.tokens]
        return {
            "id": self.record_id,
            "is_member": self.is_member,
            "reference": self.reference,
            "columns": ["token", "target", "reference"],
            "tokens": rows,
            "reason": self.reason,
        }


def token_views(run: HarnessRun, audit: Audit, record_ids: Sequence[str]) -> list[TokenView]:
    """Look records up in the store that the audit's settings name.

    The results file holds no text: it is taken from the samples where the run logged it, else read again from the
    audit's own data, whose fingerprint has to be the recorded one. The tokens are cut by the tokenizer that the model's
    arguments name. The store's keys are hashes of exactly these tokens and of the model's weights, so what is
    found belongs to them; what is not found is not shown.

    Raises:
        SpvmiaError: a record is not in the audit.
    """
    known = audit.records.roster.rows if audit.records else {}
    for record_id in record_ids:
        if record_id not in known:
            raise SpvmiaError(
                f"--record: expected the id of an audited record, got {shown(record_id)!r}"
                f"{did_you_mean(record_id, known)}; the report's table lists them"
            )
    labels = audit.labels()
    chosen = [(record_id, bool(labels[known[record_id]])) for record_id in record_ids]
    if not chosen:
        return []
    try:
        return behind(lambda: _views(run, audit, chosen), doing="--record")
    except SpvmiaError as error:
        return [TokenView(record_id, is_member, reason=shown(str(error))) for record_id, is_member in chosen]


def _views(run: HarnessRun, audit: Audit, chosen: Sequence[tuple[str, bool]]) -> list[TokenView]:
    try:
        with closing(_Lookup(run, audit, [record_id for record_id, _ in chosen])) as lookup:
            return [lookup.view(record_id, is_member) for record_id, is_member in chosen]
    except OSError as error:
        raise SpvmiaError(str(error)) from error


class _Lookup:
    """Texts, tokenizer and store of one audit."""

    def __init__(self, run: HarnessRun, audit: Audit, record_ids: Sequence[str]) -> None:
        from spvmia_plugin.harness.shared import load_tokenizer

        self._audit = audit
        self._models: Mapping[str, Any] = audit.mia_audit.models
        settings = audit.mia_audit.settings
        max_length = _of_type(settings, "mia_max_length", int) or run.max_length or 0
        self._max_length = int(max_length)
        self._store = _existing_store(_of_type(settings, "mia_cache_dir", str))
        arguments = run.config.get("model_args")
        # A credential was left out when the file was read: the library asks its own environment for one.
        self._arguments = (
            {key: value for key, value in arguments.items() if value != HIDDEN}
            if isinstance(arguments, Mapping)
            else {}
        )
        for key in ("tokenizer", "pretrained", "peft", "lora_local_path", "revision", "gguf_file"):
            _of_type(self._arguments, key, str)
        # An object in memory is written down as it describes itself, over several lines.
        described = [key for key in ("tokenizer", "pretrained") if "\n" in self._arguments.get(key, "")]
        self._arguments = {key: value for key, value in self._arguments.items() if key not in described}
        if described and "tokenizer" not in self._arguments:
            raise SpvmiaError(
                f"{described[-1]}: expected the name of a model in the results file, got one that was handed over in "
                "memory, whose tokenizer cannot be found again; its tokens cannot be shown"
            )
        # The results file may be somebody else's: it does not decide whose code runs here.
        self._tokenizer = load_tokenizer({**self._arguments, "trust_remote_code": False})
        self._texts = self._read_texts(record_ids)

    def close(self) -> None:
        self._store.close()

    def view(self, record_id: str, is_member: bool) -> TokenView:
        if record_id not in self._texts:
            return TokenView(record_id, is_member, reason="the audit's data no longer hold it")
        if "target" not in self._models:
            return TokenView(record_id, is_member, reason="the results file does not say which model was scored")
        item, scored = self._as_scored(self._texts[record_id])
        target = self._signals("target", item)
        if target is None:
            reason = "the store no longer has its token signals; the audit's command computes them again"
            return TokenView(record_id, is_member, reason=reason)
        names = (name for name in REFERENCES if name in self._models)
        pairs = ((name, self._mean_signals(name, item)) for name in names)
        name, other = next(((name, found) for name, found in pairs if found is not None), (None, None))
        return TokenView(record_id, is_member, name, tuple(self._tokens(item, scored, target, other)))

    def _tokens(
        self, item: ScoreInput, scored: Sequence[bool], target: TokenSignals, other: TokenSignals | None
    ) -> Iterator[Token]:
        """Each token with its numbers; without those that attacks did not see."""
        unscored = len(item.token_ids) - item.scored
        for place, (token_id, is_scored) in enumerate(zip(item.token_ids, scored, strict=True), -unscored):
            known = is_scored and place >= 0
            numbers = [float(s.logprob[place]) if s is not None and known else None for s in (target, other)]
            text = shown(LINE_END.join(self._tokenizer.decode([token_id]).split("\n")))
            yield Token(text, *numbers)

    def _signals(self, role: str, item: ScoreInput) -> TokenSignals | None:
        key = signals_key(self._store, self._models[role], self._max_length, item)
        return self._store.signals.get([key]).get(key)

    def _mean_signals(self, name: str, item: ScoreInput) -> TokenSignals | None:
        """What attacks saw of several references: their mean; None where the store has not all of them."""
        siblings = [role.value for role in Role(name).siblings(MAX_REFERENCES) if role.value in self._models]
        found = [signals for role in siblings if (signals := self._signals(role, item)) is not None]
        return mean_signals(found) if len(found) == len(siblings) else None

    def _as_scored(self, record: str | Record) -> tuple[ScoreInput, Sequence[bool]]:
        """The record's tokens between those that the audit says it had them read in, and which of them counted."""
        if isinstance(record, Record) and record.rendered is not None:
            return ScoreInput(record.rendered.token_ids), record.rendered.counted
        text = record.text if isinstance(record, Record) else record
        frame: Mapping[str, Sequence[int]] = self._audit.mia_audit.stages.get("frame") or {}
        context, before, after = (_ids(frame.get(name, ())) for name in ("context", "before", "after"))
        item = ScoreInput((*before, *Reading(self._tokenizer).body(text), *after), context)
        return item, [True] * len(item.token_ids)

    def _read_texts(self, record_ids: Sequence[str]) -> Mapping[str, str | Record]:
        of_text = self._audit.mia_audit.scored is None  # what is logged of a conversation are its words alone
        logged = self._audit.records.texts(record_ids) if self._audit.records and of_text else {}
        if logged:
            return logged
        from spvmia_plugin.config import AuditConfig
        from spvmia_plugin.data.load import load_audit_data, load_canaries
        from spvmia_plugin.plugins import load_registry

        registry, first = load_registry(), self._audit.tasks[0]
        config = AuditConfig.from_metadata(first.options, registry.attack_options)
        named = (self._arguments.get(key) for key in ("peft", "lora_local_path", "pretrained"))
        places = [Path(str(place)) for place in named if place]
        if first.is_canary_audit:
            data = load_canaries(
                config, datasets=registry.datasets, target_dirs=places, tokenizer=lambda: self._tokenizer
            )
        else:
            data = load_audit_data(
                config, first.dataset, registry=registry, tokenizer=lambda: self._tokenizer, target_dirs=places
            )
        if data.fingerprint != first.mia_audit.data.fingerprint:
            raise SpvmiaError("the audit's data have changed since, so the records are not the audited ones")
        return {record.id: record for record in data.records}


def _of_type(told: Mapping[str, Any], key: str, kind: type) -> Any:
    """A value of a results file, which may be anybody's; None where it is missing."""
    value = told.get(key)
    if value is not None and (type(value) is not kind or (isinstance(value, str) and "\0" in value)):
        raise SpvmiaError(
            f"{key}: expected {'a text' if kind is str else 'a whole number'} in the results file, got "
            f"{type(value).__name__}; run the audit again"
        )
    return value


def _existing_store(cache_dir: str | None) -> Store:
    try:
        store = Store(cache_dir)
        is_there = (store.root / "key").is_file()
    except (OSError, ValueError, RuntimeError) as error:  # a home of nobody, a name too long
        raise SpvmiaError(f"mia_cache_dir: expected a folder, got {shown(str(cache_dir))!r}; name another") from error
    if not is_there:
        raise SpvmiaError(
            f"mia_cache_dir: the audit's store is not at {store.root}; run the report on the machine and in the folder "
            "of the audit"
        )
    return store


def _ids(values: object) -> tuple[int, ...]:
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, int) for value in values):
        raise SpvmiaError("mia_audit: expected lists of token ids in stages.frame, got something else; audit again")
    return tuple(values)
