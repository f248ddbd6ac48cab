"""One record token by token, from what the audit left in the store. No model is loaded and nothing is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spvmia_plugin.audit.scorer import signals_key
from spvmia_plugin.boundary import behind
from spvmia_plugin.errors import SpvmiaError, did_you_mean
from spvmia_plugin.protocols import ScoreInput
from spvmia_plugin.results import Audit, HarnessRun
from spvmia_plugin.results.model import ScoredRecord
from spvmia_plugin.shown import shown
from spvmia_plugin.signals import TokenSignals
from spvmia_plugin.store import Store

REFERENCES = ("reference", "candidate", "base")
"""Models to compare the target with, the first that the run scored."""


@dataclass(frozen=True)
class Token:
    """One token of a record.

    Attributes:
        text: as the tokenizer writes it, safe to show.
        target: its log-probability under the target, in nats.
        reference: the same under the reference, None where no model was compared with.
    """

    text: str = field(repr=False)
    target: float
    reference: float | None

    @property
    def difference(self) -> float | None:
        """How much more probable the target finds it, in nats."""
        return None if self.reference is None else self.target - self.reference


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
    known = {record.id: record for record in audit.records}
    for record_id in record_ids:
        if record_id not in known:
            raise SpvmiaError(
                f"--record: expected the id of an audited record, got {shown(record_id)!r}"
                f"{did_you_mean(record_id, known)}; the report's table lists them"
            )
    chosen = [known[record_id] for record_id in record_ids]
    try:
        found = behind(lambda: _views(run, audit, chosen), doing="--record")
    except SpvmiaError as error:
        return [TokenView(record.id, record.is_member, reason=shown(str(error))) for record in chosen]
    return found


def _views(run: HarnessRun, audit: Audit, chosen: Sequence[ScoredRecord]) -> list[TokenView]:
    try:
        lookup = _Lookup(run, audit)
        found = [lookup.view(record.id, record.is_member) for record in chosen]
        lookup.close()
    except OSError as error:
        raise SpvmiaError(str(error)) from error
    return found


class _Lookup:
    """Texts, tokenizer and store of one audit."""

    def __init__(self, run: HarnessRun, audit: Audit) -> None:
        from spvmia_plugin.harness.tokenizer import load_tokenizer

        self._audit = audit
        self._models: Mapping[str, Any] = audit.record.get("models") or {}
        settings = audit.record["settings"]
        self._max_length = int(settings.get("mia_max_length") or run.max_length or 0)
        self._store = _existing_store(settings.get("mia_cache_dir"))
        arguments = run.config.get("model_args")
        self._arguments = dict(arguments) if isinstance(arguments, Mapping) else {}
        # The results file may be somebody else's: it does not decide whose code runs here.
        self._tokenizer = load_tokenizer({**self._arguments, "trust_remote_code": False})
        self._texts = self._read_texts()

    def close(self) -> None:
        self._store.close()

    def view(self, record_id: str, is_member: bool) -> TokenView:
        for token_ids in self._encodings(self._texts[record_id]):
            target = self._signals("target", token_ids)
            if target is None:
                continue
            names = (name for name in REFERENCES if name in self._models)
            pairs = ((name, self._signals(name, token_ids)) for name in names)
            name, other = next(((name, found) for name, found in pairs if found is not None), (None, None))
            return TokenView(record_id, is_member, name, tuple(self._tokens(token_ids, target, other)))
        reason = "the store no longer has its token signals; the audit's command computes them again"
        return TokenView(record_id, is_member, reason=reason)

    def _tokens(self, token_ids: Sequence[int], target: TokenSignals, other: TokenSignals | None) -> Iterator[Token]:
        for place, token_id in enumerate(token_ids):
            reference = None if other is None else float(other.logprob[place])
            yield Token(shown(self._tokenizer.decode([token_id])), float(target.logprob[place]), reference)

    def _signals(self, role: str, token_ids: Sequence[int]) -> TokenSignals | None:
        key = signals_key(self._store, self._models[role], self._max_length, ScoreInput(tuple(token_ids)))
        return self._store.signals.get([key]).get(key)

    def _encodings(self, text: str) -> Iterator[list[int]]:
        """The ways a harness may have cut a text: without special tokens, with them, without the first of them."""
        yield list(self._tokenizer.encode(text, add_special_tokens=False))
        natural = list(self._tokenizer.encode(text))
        yield natural
        yield natural[1:]

    def _read_texts(self) -> dict[str, str]:
        logged = {record.id: record.text for record in self._audit.records if record.text is not None}
        if logged:
            return logged
        from spvmia_plugin.config import AuditConfig
        from spvmia_plugin.data.load import load_audit_data, load_canaries
        from spvmia_plugin.plugins import load_registry

        registry, first = load_registry(), self._audit.tasks[0]
        config = AuditConfig.from_metadata(first.options, registry.attack_options)
        places = [Path(str(self._arguments[key])) for key in ("peft", "pretrained") if self._arguments.get(key)]
        if first.is_canary_audit:
            data = load_canaries(config, datasets=registry.datasets, target_dirs=places)
        else:
            data = load_audit_data(
                config, first.dataset, registry=registry, tokenizer=lambda: self._tokenizer, target_dirs=places
            )
        if data.fingerprint != first.record["data"]["fingerprint"]:
            raise SpvmiaError("the audit's data have changed since, so the records are not the audited ones")
        return {record.id: record.text for record in data.records}


def _existing_store(cache_dir: str | None) -> Store:
    store = Store(cache_dir)
    if not (store.root / "key").is_file():
        raise SpvmiaError(
            f"mia_cache_dir: the audit's store is not at {store.root}; run the report on the machine and in the folder "
            "of the audit"
        )
    return store
