"""The base of an audit and its references, in this process: on one copy of the base's weights, read when it is needed.

References are further adapters on the base. Those that cannot share its weights, or are whole models, are models of
their own. A target that lies in this process may carry its base: see `roles`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.adapters import AdapterHost, holds_lora_only, is_inert
from spvmia_plugin.models.identity import (
    TEXT,
    Answer,
    Weights,
    adapter_free_digest,
    ask,
    embedding_rows,
    model_identity,
    tensors_digest,
)
from spvmia_plugin.models.intact import check_intact
from spvmia_plugin.models.precision import TO_FLOAT32, dtype_named, dtype_of, too_slow
from spvmia_plugin.models.tokens import Tokens, unavailable
from spvmia_plugin.signals import Role
from spvmia_plugin.util.libraries import isolated_rng, quiet_libraries

BASE_OPTION = "mia_base_model"
_OPTIONS = {Role.REFERENCE: "mia_reference", Role.CANDIDATE: "mia_candidate", Role.BASE: BASE_OPTION}


class LocalModels:
    """The base and the references of one audit, for a target that lies elsewhere.

    Args:
        tokens: the target's tokenizer.
        base_name: folder or hub id of the model before fine-tuning; None where nobody names it.
        device: where the models are put.
        autocast: dtype of the harness's mixed precision, or None.
        trusted: the harness was told to run code that models bring.
        dtype: the precision in which models are read; `auto` is that of their own files.
        revision: of the base on the hub; None for the newest.

    Attributes:
        notes: what was found out about the models that a reader of the results should know.
    """

    def __init__(
        self,
        tokens: Tokens,
        base_name: str | None,
        *,
        device: torch.device | str = "cpu",
        autocast: torch.dtype | None = None,
        trusted: bool = False,
        dtype: torch.dtype | str = "auto",
        revision: str | None = None,
    ) -> None:
        self._tokens = tokens
        self.base_name = base_name
        self._device = torch.device(device)
        self._autocast = autocast
        self._trusted = trusted
        self._dtype = dtype
        self._base_revision = revision
        self.notes: list[str] = []
        self._host: AdapterHost | None = None
        self._paths: dict[Role, str] = {}
        self._whole: dict[Role, Any] = {}  # references that are models of their own
        self._weights = Weights()
        self._checked = False
        self._lacking: dict[Role, frozenset[int]] = {}  # tokens of the target's tokenizer that a role's does not have
        self._answers: dict[Role, Answer] = {}

    @property
    def chat_templates(self) -> dict[Role, Any]:
        """See `Backend.chat_templates`."""
        names = dict(self._paths)
        if self._checked and self.base_name is not None:
            names[Role.BASE] = self.base_name
        return {
            role: self._tokens.chat_templates[name]
            for role, name in names.items()
            if name in self._tokens.chat_templates
        }

    def note_once(self, note: str) -> None:
        """Keep what a reader of the results should know, however often it is found."""
        if note not in self.notes:
            self.notes.append(note)

    @contextmanager
    def use(self, role: Role) -> Iterator[Any]:
        """The model of a role, in evaluation mode. Afterwards it is what it was.

        Raises:
            SpvmiaError: there is no base to be found, or no reference was loaded.
        """
        if role is Role.BASE:
            with self.host().without_adapters() as model:
                yield model
        elif role in self._whole:
            yield self._whole[role]
        elif role in self._paths:
            with self.host().using(role.value) as model:
                yield model
        else:
            raise SpvmiaError(f"{_OPTIONS[role.kind]}: expected a {role.value} model to be loaded first, got none")

    def host(self) -> AdapterHost:
        """The model that carries our adapters; loads the base on first use."""
        if self._host is None:
            self.require([Role.BASE])
        if self._host is None:  # `require` may have had to load it
            self._host = self._make_host()
        return self._host

    def _make_host(self) -> AdapterHost:
        return AdapterHost(self._load_base())

    def require(self, roles: Iterable[Role]) -> None:
        """See `Backend.require`."""
        if self._checked or Role.BASE not in set(roles):
            return
        self._require_base()
        self._checked = True

    def _require_base(self) -> None:
        if self.base_name is None:
            raise SpvmiaError(
                f"{BASE_OPTION}: expected the model before fine-tuning (folder or hub id), got nothing, and "
                'neither the target nor a manifest names it; pass --metadata \'{"mia_base_model": "..."}\''
            )
        self._lacking[Role.BASE] = self._tokens.check_same(BASE_OPTION, self.base_name, self._trusted)

    def context(self) -> int | None:
        """How many tokens the base can read at once, by its configuration; None where that does not say."""
        config = self._config_of(str(self.base_name), self._revision_of_base)
        text = config.get_text_config() if config is not None else None
        said = (getattr(text, name, None) for name in ("n_positions", "max_position_embeddings", "n_ctx"))
        return next((int(length) for length in said if length), None)

    @property
    def slow(self) -> str | None:
        """That the base, if it is asked for, is read in a precision that this CPU is slow in."""
        if not self._checked or self._device.type != "cpu":
            return None
        config = self._config_of(str(self.base_name), self._revision_of_base)
        return too_slow(self._autocast or dtype_named(self._dtype, getattr(config, "dtype", None)), TO_FLOAT32)

    @property
    def loaded(self) -> str | None:
        """The precision in which the base was read, None while it is not in memory."""
        if self._host is None:
            return None
        return str(dtype_of(self._host.model) or torch.float32).removeprefix("torch.")

    def load_reference(self, role: Role, path: str) -> None:
        """See `Backend.load_reference`.

        Raises:
            SpvmiaError: nothing can be loaded from `path`, or it does not fit the target.
        """
        option = _OPTIONS[role.kind]
        for known in (self._whole, self._paths, self._lacking, self._answers):
            known.pop(role, None)
        config = _adapter_config(path)
        if config is None:
            self._lacking[role] = self._tokens.check_same(option, path, self._trusted)
            self._whole[role] = self._load(option, path)
        elif is_inert(config) and holds_lora_only(path, None):
            self._load_adapter(role, path)
        else:  # it would change the weights that it is put on, or needs the model for itself
            self._whole[role] = self._load_wrapped(option, path)
        self._paths[role] = path

    def identity(self, role: Role) -> dict[str, object]:
        """What a role's model is made of, and what it computes, JSON-ready."""
        return {**self._computed(role), "weights": self._weights_of(role)}

    def _computed(self, role: Role) -> dict[str, object]:
        with self.use(role) as model:
            return {**model_identity(model), "function": self._answer(role, model).digest()}

    def _weights_of(self, role: Role) -> list[dict[str, object] | None]:
        if role is Role.BASE:
            return [*self._base_weights()]
        own = self._weights.of(self._paths[role])
        if role in self._whole and _adapter_config(self._paths[role]) is None:
            return [own or tensors_digest(self._whole[role])]
        return [*self._base_weights(), own]

    def distance(self, one: Role, other: Role) -> float:
        """The largest difference between what two roles' models answer to the probe, in nats."""
        first, second = (self._answers.get(role) or self._asked(role) for role in (one, other))
        return first.distance(second)

    def unknown_ids(self, role: Role) -> frozenset[int]:
        """Ids of the harness's tokenizer that a role's model does not have, or does not mean the same token by."""
        shares_base = role in self._paths and role not in self._lacking
        lacking = self._lacking.get(Role.BASE if shares_base else role, frozenset())
        with self.use(role) as model:
            rows = embedding_rows(model)
        return lacking | {token_id for token_id in self._tokens.tokenizer.get_vocab().values() if token_id >= rows}

    def rest(self) -> bool:
        """Let go of the base, if no reference here needs it; it is read again when something does."""
        if self._paths:
            return False
        self._host = None
        return True

    def close(self) -> None:
        """Take our adapters away and let go of all further models."""
        if self._host is not None:
            self._host.close()
        self._host = None
        self._whole.clear()
        self._paths.clear()
        self._answers.clear()

    def _config_of(self, name: str, revision: str | None) -> Any:
        """The config of the whole model at a folder or hub id, None if there is none."""
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(
                name, revision=revision or "main", trust_remote_code=self._trusted, **self._file_in(name)
            )
        except (OSError, ValueError):
            return None

    def _file_in(self, name: str) -> dict[str, str]:
        """Which file of a folder is the model, where it holds several, as transformers is told."""
        return {}

    def _ask(self, model: Any) -> Answer:
        ids = self._tokens.natural(TEXT)
        with isolated_rng(0):
            return ask(model, ids, self._tokens.max_length, self._autocast)

    def _answer(self, role: Role, model: Any) -> Answer:
        if role not in self._answers:
            self._answers[role] = self._ask(model)
        return self._answers[role]

    def _asked(self, role: Role) -> Answer:
        with self.use(role) as model:
            return self._answer(role, model)

    @property
    def _revision_of_base(self) -> str | None:
        return self._base_revision

    def _base_weights(self) -> list[dict[str, object]]:
        self.require([Role.BASE])
        found = self._weights.of(self.base_name, self._revision_of_base) if self.base_name else None
        if found is not None:
            return [found]
        with self.use(Role.BASE) as model:
            return [adapter_free_digest(model)]

    def _load_adapter(self, role: Role, path: str) -> None:
        host = self.host()
        try:
            host.load(role.value, path)
        except Exception as error:  # files, formats, a pickle that is refused: each library has its own
            raise unavailable(_OPTIONS[role.kind], path, "an adapter that fits the base model", error) from None

    def _load_wrapped(self, option: str, path: str) -> Any:
        """An adapter of a kind that cannot share weights, on a base of its own."""
        from peft import PeftModel

        self.require([Role.BASE])
        if self.base_name is None:
            raise SpvmiaError(f"{BASE_OPTION}: expected the base of the adapter {path!r}, got nothing; name it")
        base = self._load_base()
        try:
            with isolated_rng(0), quiet_libraries():
                return PeftModel.from_pretrained(base, path).eval()
        except Exception as error:  # see _load_adapter
            raise unavailable(option, path, "an adapter that fits the base model", error) from None

    def _load_base(self) -> Any:
        """A fresh copy of the base."""
        return self._load(BASE_OPTION, str(self.base_name), self._revision_of_base)

    def _load(self, option: str, name: str, revision: str | None = None) -> Any:
        """A model, frozen, as `_settings` says."""
        from transformers import AutoModelForCausalLM

        check_intact(option, name)
        settings = {**self._settings(name, revision), **self._file_in(name), "trust_remote_code": self._trusted}
        if revision is not None:
            settings["revision"] = revision
        try:
            with isolated_rng(0), quiet_libraries():
                model = AutoModelForCausalLM.from_pretrained(name, **settings)
        except Exception as error:  # see _load_adapter
            raise unavailable(option, name, "a causal language model", error) from None
        if "device_map" not in settings:
            model.to(self._where)
        return model.requires_grad_(False).eval()

    @property
    def _where(self) -> torch.device:
        return self._device

    def _settings(self, name: str, revision: str | None) -> dict[str, Any]:
        """How a model is loaded."""
        return {"dtype": self._dtype}


def _adapter_config(path: str) -> Any:
    """The peft config at a folder or hub id, None if there is none, or if it lies beside a whole model."""
    from peft import PeftConfig

    folder = Path(path)
    if folder.is_dir() and (not (folder / "adapter_config.json").is_file() or (folder / "config.json").is_file()):
        return None
    try:
        return PeftConfig.from_pretrained(path)
    except (OSError, ValueError):
        return None  # no adapter there, or nothing at all: then loading the model says what is wrong
