"""What is kept as it is computed, and read instead of computed: token signals, paraphrases, what backends find out."""

from __future__ import annotations

import contextlib
import json
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any, NamedTuple

from spvmia_plugin.auditing.asked import Amount
from spvmia_plugin.auditing.counting import is_ours
from spvmia_plugin.auditing.neighbours import check_neighbours
from spvmia_plugin.auditing.sequences import as_perturbed
from spvmia_plugin.auditing.sheets import Request
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import Backend, Neighbours, Perturbation, ScoreInput, answered, told_of
from spvmia_plugin.records import LossOn, Record
from spvmia_plugin.signals import Role, TokenSignals
from spvmia_plugin.store.store import Store
from spvmia_plugin.util.boundary import is_foreign
from spvmia_plugin.util.console import Bar
from spvmia_plugin.util.quotes import Quotes


class Stock(NamedTuple):
    """What the store has of what is asked for: how many it keeps, and how many tokens the others have."""

    kept: int
    missing: int


class StoredSignals:
    """Token signals by role, each distinct (model, sequence) computed once.

    Args:
        backend: computes them.
        store: keeps them.
        quiet: show no progress (another process does).
        on_scored: called as batches of a request finish, with its role and their tokens.
    """

    def __init__(
        self,
        backend: Backend,
        store: Store,
        *,
        quiet: bool = False,
        on_scored: Callable[[Role, int], None] | None = None,
    ) -> None:
        self._backend = backend
        self._store = store
        self._quiet = quiet
        self._on_scored = on_scored
        self._is_new = store.signals.is_empty()  # then nothing has to be looked for before the work
        self._known: dict[str, TokenSignals] = {}  # by key: read from the store once
        self._names: dict[str, dict[ScoreInput, str]] = {}  # by model, of each sequence
        self._new: set[str] = set()  # keys of those that were computed, and not read from the store
        self._decimals = Decimals()

    def of(self, requests: Sequence[Request]) -> dict[ScoreInput, TokenSignals]:
        """Signals of all sequences of one role's requests."""
        keys = [self._keys(request) for request in requests]
        found = [self._load(names, request.moments) for names, request in zip(keys, requests, strict=True)]
        results = {
            request.inputs[i]: signals
            for request, of_request in zip(requests, found, strict=True)
            for i, signals in of_request.items()
        }
        total, kept = sum(map(len, keys)), sum(map(len, found))
        if kept < total:
            desc = f"scoring: {requests[0].role.value}"
            with Bar(desc=desc, total=total, unit="texts", initial=kept, quiet=self._quiet) as bar:
                for request, names, of_request in zip(requests, keys, found, strict=True):
                    if len(of_request) < len(names):
                        had = set(of_request)
                        results |= self._compute(request, names, had, had, bar)
        return results

    def forget(self) -> None:
        """Let go of what was read and computed; the store has it."""
        self._known.clear()
        self._names.clear()
        self._new.clear()

    def asked(self, request: Request) -> Amount:
        """How much a request is that was answered since the last `forget`, and how much of it was computed for it.

        A sequence without a token to score is asked of no model, and so never stored.
        """
        each = zip(request.inputs, read(request.inputs), self._keys(request), strict=True)
        counts = [(tokens, key in self._new) for item, tokens, key in each if item.scored]
        return Amount(len(counts), sum(tokens for tokens, _ in counts), sum(tokens for tokens, new in counts if new))

    def stock(self, request: Request) -> Stock:
        """What the plan counts. Nothing is kept of a model that is not there yet."""
        nothing = self._is_new or not request.is_there
        found = {} if nothing else self._load(self._keys(request), request.moments)
        return Stock(len(found), sum(tokens for i, tokens in enumerate(read(request.inputs)) if i not in found))

    def first_batch(self, request: Request) -> int:
        """Compute the first batch that is not in the store, as `of` would: a measurement that is no extra work.

        Returns:
            Tokens that went through the model, 0 if nothing was missing.
        """
        keys, inputs, model = self._keys(request), request.inputs, request.model
        found = self._load(keys, request.moments)
        missing = [i for i in range(len(inputs)) if i not in found]
        if not missing:
            return 0
        first = set(self._first(inputs, missing))
        before = self._backend.cost(model).forward_tokens
        self._compute(request, keys, set(found), set(range(len(inputs))) - first, None)
        return self._backend.cost(model).forward_tokens - before

    def batch_again(self, request: Request) -> int:
        """Compute of a request as much as `first_batch` would if nothing was stored, and keep none of it.

        For a speed where all is stored that can be asked for: what is kept stays as the run that made it has it.

        Returns:
            Tokens that went through the model, 0 if there is nothing to score.
        """
        inputs = [request.inputs[i] for i in self._first(request.inputs, range(len(request.inputs)))]
        before = self._backend.cost(request.model).forward_tokens
        self._backend.score(
            request.model, inputs, moments=request.moments, on_done=lambda batch: None, **_kth_of(request)
        )
        return self._backend.cost(request.model).forward_tokens - before

    def _first(self, inputs: Sequence[ScoreInput], among: Sequence[int]) -> list[int]:
        """Of these positions those of the batch that is computed first."""
        # A ReCaLL prefix is read once for many: what follows it says little about the others' speed.
        shortest = min(len(inputs[i].context_ids) for i in among)
        alike = [i for i in among if len(inputs[i].context_ids) == shortest]
        alike.sort(key=lambda i: len(inputs[i].token_ids), reverse=True)  # backends begin with the longest
        return alike[: self._backend.at_once]

    def _compute(
        self, request: Request, keys: Sequence[str], had: Set[int], done: Set[int], bar: Bar | None
    ) -> dict[ScoreInput, TokenSignals]:
        """Have the backend score batches.

        Args:
            had: the sequences that the store held.
            done: those nobody asks for; the backend computes one all the same that shares a batch with one asked for.
        """
        inputs = request.inputs
        tokens = read(inputs)

        def keep(batch: Mapping[int, TokenSignals]) -> None:
            made = {keys[i]: signals for i, signals in batch.items()}
            self._store.signals.put(made)
            self._known.update(made)
            self._new.update(keys[i] for i in batch if i not in had)
            if bar is not None:
                if self._on_scored is not None:
                    self._on_scored(request.role, sum(tokens[i] for i in batch if i not in done))
                bar.update(sum(i not in done for i in batch))

        computed = self._backend.score(
            request.model, inputs, moments=request.moments, on_done=keep, done=done, **_kth_of(request)
        )
        return {inputs[i]: signals for i, signals in enumerate(computed) if signals is not None}

    def _load(self, keys: list[str], moments: bool) -> dict[int, TokenSignals]:
        self._known.update(self._store.signals.get(key for key in keys if not self._has(key, moments)))
        return {i: self._known[key] for i, key in enumerate(keys) if self._has(key, moments)}

    def _has(self, key: str, moments: bool) -> bool:
        return key in self._known and (not moments or self._known[key].mean is not None)

    def _keys(self, request: Request) -> list[str]:
        identity = self._backend.identity(request.model)
        names = self._names.setdefault(json.dumps([identity, request.kth], sort_keys=True), {})
        name_of = signals_keys(self._store, identity, self._backend.max_length, self._decimals, request.kth)
        keys = []
        for item in request.inputs:
            if (key := names.get(item)) is None:
                key = names[item] = name_of(item)
            keys.append(key)
        return keys


def _kth_of(request: Request) -> dict[str, Any]:
    return {"kth": request.kth} if request.kth else {}  # which not every backend knows of


def read(inputs: Sequence[ScoreInput]) -> list[int]:
    """Tokens that a model reads for each sequence. A context that several have is read once, and not counted."""
    contexts = Counter(item.context_ids for item in inputs)
    return [len(item.token_ids) + (len(c) if contexts[c := item.context_ids] == 1 else 0) for item in inputs]


def signals_key(store: Store, identity: Mapping[str, object], max_length: int, item: ScoreInput) -> str:
    """The name in the store of one sequence's token signals: as from `signals_keys`."""
    return signals_keys(store, identity, max_length, Decimals())(item)


class Decimals(dict[int, str]):
    """Token ids as they are written: each is turned into digits once."""

    def __missing__(self, token_id: int) -> str:
        self[token_id] = digits = str(token_id)
        return digits


def signals_keys(
    store: Store, identity: Mapping[str, object], max_length: int, decimals: Decimals, kth: int = 0
) -> Callable[[ScoreInput], str]:
    """What gives the names in the store of sequences' token signals under a model.

    Args:
        store: whose secret makes the names.
        identity: `Backend.identity` of the model, as `mia_audit` has it under `models`.
        max_length: the context that the sequences were scored in.
        decimals: of the token ids seen so far.
        kth: K, of signals that hold the K-th log-probability; 0 of those without.
    """
    more = {"kth": kth} if kth else {}
    name_of = store.keys("signals", "input", model=identity, max_length=max_length, **more)
    return lambda item: name_of(as_json(item, decimals))


def as_json(item: ScoreInput, decimals: Decimals) -> str:
    """A sequence as JSON: [tokens, context, noise]."""
    noise: list[Any] | None = [item.noise.seed, item.noise.sign, item.noise.scale] if item.noise else None
    if noise is not None and item.noise is not None and item.noise.only is not None:
        noise.append(list(item.noise.only))
    tokens, context = (",".join(map(decimals.__getitem__, ids)) for ids in (item.token_ids, item.context_ids))
    return f"[[{tokens}],[{context}],{json.dumps(noise, separators=(',', ':')) if noise else 'null'}]"


def paraphrase(
    records: Sequence[Record],
    perturbation: Perturbation,
    backend: Backend,
    store: Store,
    config: AuditConfig,
    loss_on: LossOn | None = None,
    *,
    maker: str,
    quiet: bool = False,
    on_made: Callable[[int], None] = lambda count: None,
) -> dict[str, Neighbours]:
    """The paraphrases of every record, by record id; found in the store or made and kept as they come.

    `loss_on` says what of conversations may change; `maker` is as in `paraphrase_keys`; `on_made` is told of how many
    records they were just made.
    """
    keys = paraphrase_keys(records, perturbation, backend, store, config, maker=maker)
    result = stored_paraphrases(keys, store)
    if len(result) < len(records):
        done = {i for i, record in enumerate(records) if record.id in result}
        desc = f"paraphrases ({perturbation.name})"
        with Bar(desc=desc, total=len(records), unit="records", initial=len(result), quiet=quiet) as bar:
            quotes = Quotes(lambda: [record.text for record in records])
            foreign = is_foreign(perturbation)

            def checked(i: int, found: Neighbours) -> Neighbours:
                if foreign:
                    check_neighbours(
                        perturbation,
                        found,
                        texts[i].text,
                        2 * config.perturbations,
                        lambda: len(of.token_ids if (of := records[i].rendered) else backend.encode(records[i].text)),
                        backend.vocab,
                    )
                return replace(found, reason=quotes.without(found.reason)) if foreign and not config.log_text else found

            def keep(batch: Mapping[int, Neighbours]) -> None:
                told = told_of(batch, len(records), perturbation.name)
                made = {records[i].id: checked(i, found) for i, found in told.items()}
                store.neighbours.put({keys[record_id]: found for record_id, found in made.items()})
                new = len(made.keys() - result.keys())
                if new:
                    on_made(new)
                bar.update(new)
                result.update(made)

            texts = [as_perturbed(record, loss_on) for record in records]
            answer = answered(
                perturbation.neighbours(texts, backend, on_done=keep, done=done), len(records), perturbation.name
            )
            keep({i: of for i, of in enumerate(answer) if of is not None and records[i].id not in result})
            if missing := sum(record.id not in result for record in records):
                raise SpvmiaError(
                    f"mia_perturbation {perturbation.name}: expected paraphrases of every text from neighbours, got "
                    f"None for {missing} of {len(records)}; correct the perturbation's plugin"
                )
    return {record.id: result[record.id] for record in records}


def stored_paraphrases(keys: Mapping[str, str], store: Store) -> dict[str, Neighbours]:
    """Those that the store holds, by record id; `keys` as from `paraphrase_keys`."""
    stored = store.neighbours.get(list(keys.values()))
    return {record_id: stored[key] for record_id, key in keys.items() if key in stored}


def paraphrase_keys(
    records: Sequence[Record],
    perturbation: Perturbation,
    backend: Backend,
    store: Store,
    config: AuditConfig,
    *,
    maker: str,
) -> dict[str, str]:
    """Store keys by record id: the text, the settings, and the models that make the paraphrases.

    `maker` is the distribution that registers the perturbation, "name version": another version of somebody else's may
    paraphrase otherwise under the same settings. What our own versions change, their settings say.
    """
    models = {role.value: backend.identity(role) for role in perturbation.roles}
    settings = {
        "name": perturbation.name,
        "settings": perturbation.settings(),
        "seed": config.seed,
        "models": models,
        # In which context the models read a text.
        "context": [backend.max_length, config.prefix] if models else None,
        **({} if is_ours(maker) else {"plugins": [maker]}),
    }
    return {
        record.id: store.key("neighbours", id=record.id, text=store.text_hash(_varied(record)), **settings)
        for record in records
    }


def _varied(record: Record) -> str:
    """All that paraphrases of a record depend on, as one text: of a conversation with the tokens that may change."""
    if record.conversation is None or record.rendered is None:
        return record.text
    tokens = [record.rendered.token_ids, [int(each) for each in record.rendered.counted]]
    return f"{record.conversation.to_text()}\n{json.dumps(tokens)}"


class Tally:
    """Counts paraphrases as they are made, for the record of the stage.

    Args:
        perturbation: makes them.
    """

    def __init__(self, perturbation: Perturbation) -> None:
        self._perturbation = perturbation
        self._variants = array("q")  # of each record
        self._rates = array("d")

    def add(self, neighbours: Iterable[Neighbours]) -> None:
        """Count some records' paraphrases."""
        for found in neighbours:
            self._variants.append(len(found.variants))
            if not math.isnan(found.mask_rate):
                self._rates.append(found.mask_rate)

    def to_json(self) -> dict[str, object]:
        """What was made, JSON-ready: kind, counts, achieved mask rate."""
        return {
            "kind": self._perturbation.name,
            **self._perturbation.settings(),
            "records": len(self._variants),
            "records_without": sum(not count for count in self._variants),
            "texts": sum(self._variants),
            "mask_rate": sum(self._rates) / len(self._rates) if self._rates else None,
        }


def keep_bases(backend: Backend, store: Store) -> None:
    """Have the store keep what bases answer to fixed tokens, so that comparing a target with its base is paid once."""

    def recall(base: Mapping[str, object]) -> str | None:
        key = store.key("base_answers", base=base)
        found: str | None = store.json.get([key]).get(key)
        return found

    backend.remember_base(recall, lambda base, digest: store.json.put({store.key("base_answers", base=base): digest}))


class FittingBatches:
    """Batch sizes that fitted into memory, kept while an audit is unfinished: a killed one resumes with its batches.

    Args:
        backend: finds it out.
        store: keeps it.
    """

    def __init__(self, backend: Backend, store: Store) -> None:
        self._backend = backend
        self._store = store
        self._key: str | None = None

    def recall(self) -> None:
        """Begin with the sizes of a run that was not finished, and have new ones kept at once."""
        self._key = self._store.key(
            "batch_limits", target=self._backend.identity(Role.TARGET), device=str(self._backend.device)
        )
        known: Mapping[str, int] = self._store.json.get([self._key]).get(self._key, {})
        self._backend.remember_limits(known, self._keep)

    def forget(self) -> None:
        """The run is finished: the next one, beside fewer other processes perhaps, tries whole batches again."""
        if self._key is not None and self._store.json.get([self._key]).get(self._key):
            with contextlib.suppress(
                SpvmiaError
            ):  # the audit is done, on a disk that nothing can be written to perhaps
                self._keep({})

    def _keep(self, limits: dict[str, int]) -> None:
        if self._key is not None:
            self._store.json.put({self._key: limits})
