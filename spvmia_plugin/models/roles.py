"""Which model plays which part, on as few copies of the weights as possible.

A LoRA target can carry its base: the same weights with the adapter switched off; references are further adapters on
them. Whether it does is proved by arithmetic where that is plain (see `carried`), and else settled by what the models
answer: a fresh copy of the base must say the same. Any other target (all weights trained, prefix tuning, IA3, biases,
initialisations that change the base) needs its base once more, and references are adapters on that one copy.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.adapters import (
    AdapterHost,
    Snapshot,
    adapter_file,
    holds_lora_only,
    is_hostable,
    is_inert,
    is_inert_in_memory,
    kinds,
    structure,
)
from spvmia_plugin.models.forward import inner_model
from spvmia_plugin.models.identity import (
    EQUAL,
    TEXT,
    Answer,
    Weights,
    adapter_free_digest,
    ask,
    embedding_rows,
    model_identity,
    same_model,
    tensors_digest,
)
from spvmia_plugin.models.tokens import Tokens, unavailable
from spvmia_plugin.signals import Role
from spvmia_plugin.util.libraries import isolated_rng, quiet_libraries

BASE_OPTION = "mia_base_model"
_OPTIONS = {Role.REFERENCE: "mia_reference", Role.CANDIDATE: "mia_candidate", Role.BASE: BASE_OPTION}

Recall = Callable[[Mapping[str, object]], str | None]
Keep = Callable[[Mapping[str, object], str], None]


class RoleModels:
    """The models of one audit.

    Args:
        lm: the harness's HFLM.
        tokens: its tokenizer.
        base_model: folder or hub id of the model before fine-tuning, for targets that do not carry it.
        explicit: the user named it (`mia_base_model`): it holds even where a LoRA target carries another.
        autocast: dtype of the harness's mixed precision, or None.
        trusted: the harness was told to run code that models bring.

    Attributes:
        notes: what was found out about the base that a reader of the results should know.
    """

    def __init__(
        self,
        lm: Any,
        tokens: Tokens,
        base_model: str | None,
        *,
        explicit: bool = False,
        autocast: torch.dtype | None = None,
        trusted: bool = False,
    ) -> None:
        self._lm = lm
        self._tokens = tokens
        self._autocast = autocast
        self.target = lm.model
        self.base_name = _base_name(lm, base_model, explicit=explicit)
        self._named = base_model is not None
        loaded = getattr(lm, "pretrained", None)
        self._loaded = loaded if isinstance(loaded, str) else None
        self.notes: list[str] = []
        self._host: AdapterHost | None = None
        self._shared: bool | None = None
        self._paths: dict[Role, str] = {}
        self._whole: dict[Role, Any] = {}  # references that are models of their own
        self._weights = Weights()
        self._trusted = trusted or type(inner_model(self.target)).__module__.startswith("transformers_modules")
        self._checked = False
        self._lacking: dict[Role, frozenset[int]] = {}  # tokens of the target's tokenizer that a role's does not have
        self._answers: dict[Role, Answer] = {}
        self._recall: Recall = lambda what: None
        self._keep: Keep = lambda what, digest: None

    @property
    def shared(self) -> bool:
        """Whether the target carries its base. Loads the base to find out where nothing else tells."""
        if self._shared is None:
            hostable = is_hostable(self.target)
            self._shared = hostable and (self._is_proved() or self._is_base_inside())
            if not hostable and getattr(self.target, "peft_config", None):
                kind = kinds(self.target)
                self.notes.append(
                    f"the base is loaded by itself, as a second copy: the target's adapter ({kind}) cannot share its "
                    "weights with others"
                )
        return self._shared

    @property
    def chat_templates(self) -> dict[Role, Any]:
        """See `Backend.chat_templates`; of a base inside the target that of the tokenizer which the harness loaded."""
        names = dict(self._paths)
        if self._checked and self.base_name is not None and not self.shared:
            names[Role.BASE] = self.base_name
        found = {
            role: self._tokens.chat_templates[name]
            for role, name in names.items()
            if name in self._tokens.chat_templates
        }
        if self._checked and self.shared:
            found[Role.BASE] = getattr(self._tokens.tokenizer, "chat_template", None)
        return found

    def note_once(self, note: str) -> None:
        """Keep what a reader of the results should know, however often it is found."""
        if note not in self.notes:
            self.notes.append(note)

    def remember(self, recall: Recall, keep: Keep) -> None:
        """Have the answers of bases kept: to compare a target with its base once more, nothing has to be loaded.

        Args:
            recall: gives what was kept for a description of a base (JSON-ready), or None.
            keep: keeps the hash of its answers.
        """
        self._recall, self._keep = recall, keep

    @contextmanager
    def use(self, role: Role) -> Iterator[Any]:
        """The model of a role, in evaluation mode. Afterwards the harness's model is what it was.

        Raises:
            SpvmiaError: there is no base to be found, or no reference was loaded.
        """
        if role is Role.TARGET:
            before = Snapshot(self.target) if any(m.training for m in self.target.modules()) else None
            try:
                if before is not None:
                    self.target.eval()
                yield self.target
            finally:
                if before is not None:
                    before.restore()
        elif role is Role.BASE:
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
        """The model that carries our adapters; loads the base on first use where the target has none in it."""
        if self._host is None:
            self.require([Role.BASE])
        if self._host is None:  # `require` may have had to load it
            self._host = AdapterHost(self.target if self.shared else self._load_base())
        return self._host

    def require(self, roles: Iterable[Role]) -> None:
        """See `Backend.require`."""
        if self._checked or Role.BASE not in set(roles):
            return
        if not self.shared:
            if self.base_name is None:
                raise SpvmiaError(
                    f"{BASE_OPTION}: expected the model before fine-tuning (folder or hub id), got nothing, and "
                    'neither the target nor a manifest names it; pass --metadata \'{"mia_base_model": "..."}\''
                )
            self._lacking[Role.BASE] = self._tokens.check_same(BASE_OPTION, self.base_name, self._trusted)
        self._checked = True

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
        with self.use(role) as model:
            found = {**model_identity(model), "function": self._answer(role, model).digest()}
        if role is Role.TARGET:
            adapters = structure(self.target)
            return {**found, "weights": self._target_weights(), **({"adapters": adapters} if adapters else {})}
        if role is Role.BASE:
            return {**found, "weights": self._base_weights()}
        own = self._weights.of(self._paths[role])
        if role in self._whole and _adapter_config(self._paths[role]) is None:
            return {**found, "weights": [own or tensors_digest(self._whole[role])]}
        return {**found, "weights": [*self._base_weights(), own]}

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

    def close(self) -> None:
        """Take our adapters away and let go of all further models."""
        if self._host is not None:
            self._host.close()
        if not self._shared:
            self._host = None
        self._whole.clear()
        self._paths.clear()
        self._answers.clear()

    def _is_proved(self) -> bool:
        """Whether arithmetic alone says that the target with its adapter off is the base: nothing has to be run.

        Plain LoRA, one adapter, read by the harness from a file that holds nothing else, over a model that is no
        adapter itself, of which the harness cut the vocabulary at most.
        """
        peft = getattr(self._lm, "peft", None)
        if self._loaded is None or not isinstance(peft, str) or len(self.target.peft_config) != 1:
            return False
        if self.base_name is None or not same_model(self.base_name, self._loaded):
            return False
        if not is_inert_in_memory(self.target) or not holds_lora_only(peft, self._revision):
            return False
        if adapter_file(self._loaded, "adapter_config.json", self._revision) is not None:
            return False
        # Whether the harness has given the model rows for more tokens; what cannot be read proves nothing.
        config = self._config_of(self._loaded, self._revision)
        return config is not None and embedding_rows(self.target) <= int(config.get_text_config().vocab_size)

    def _config_of(self, name: str, revision: str | None) -> Any:
        """The config of the whole model at a folder or hub id, None if there is none."""
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(name, revision=revision or "main", trust_remote_code=self._trusted)
        except (OSError, ValueError):
            return None

    def _is_base_inside(self) -> bool:
        """Whether the target with its adapters off answers what a fresh copy of the base answers.

        A copy that differs stays: it is the base.
        """
        with AdapterHost(self.target).without_adapters() as model:
            inside = self._ask(model)
        described = self._description()
        if described is not None and self._recall(described) == inside.digest():
            return True
        if self.base_name is None:
            return self._is_taken_on_trust("nothing names it")
        try:
            base = self._load_base()
        except SpvmiaError:
            if self._named or self._loaded is not None:
                raise
            return self._is_taken_on_trust("it cannot be loaded")
        fresh = self._ask(base)
        if described is not None:
            self._keep(described, fresh.digest())
        distance = inside.distance(fresh)
        if distance <= EQUAL:
            return True
        self._host = AdapterHost(base)
        apart = (
            f"log-probabilities differ by up to {distance:.2g}" if distance < float("inf") else "it has other tokens"
        )
        self.notes.append(
            "the base is loaded by itself, as a second copy: the target with its adapter off is another model "
            f"({apart})"
        )
        return False

    def _is_taken_on_trust(self, why: str) -> bool:
        if not is_inert_in_memory(self.target):
            return False
        self.notes.append(
            f"the target with its adapter off was not compared with the base: {why}; LoRA leaves it alone"
        )
        return True

    def _description(self) -> dict[str, object] | None:
        """What the answers of a fresh base depend on; None if there is no telling."""
        weights = self._weights.of(self.base_name, self._revision_of_base) if self.base_name else None
        if weights is None:
            return None
        inner = inner_model(self.target)
        return {
            "weights": weights,
            "dtype": str(_dtype(inner)),
            "device": str(inner.device),
            "autocast": str(self._autocast),
            "attention": getattr(inner.config, "_attn_implementation", None),
            "quantisation": str(getattr(inner.config, "quantization_config", None)),
            "tokenizer": self._tokens.digest(),
            "rows": embedding_rows(inner),
        }

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
    def _revision(self) -> str | None:
        return getattr(self._lm, "revision", None)

    @property
    def _revision_of_base(self) -> str | None:
        """The harness's revision is of what the harness loads."""
        loads_base = self._loaded is not None and (getattr(self._lm, "peft", None) or getattr(self._lm, "delta", None))
        return self._revision if loads_base and self.base_name == self._loaded else None

    def _target_weights(self) -> list[dict[str, object]]:
        if self._loaded is not None:
            parts = [(getattr(self._lm, name, None), self._revision) for name in ("pretrained", "peft", "delta")]
            if not isinstance(parts[1][0], str) and getattr(self.target, "peft_config", None):
                parts.append((self.target.name_or_path, None))  # `pretrained` is an adapter, this what it was put on
            named = [self._weights.of(part, revision) for part, revision in parts if isinstance(part, str)]
            if all(item is not None for item in named):
                return [item for item in named if item is not None]
        return [tensors_digest(self.target)]

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
        """A fresh copy of the base, its vocabulary cut as the harness cut the target's."""
        name = str(self.base_name)
        by_transformers = getattr(self.target, "peft_config", None) and not hasattr(self.target, "get_base_model")
        if by_transformers and Path(name).is_dir() and same_model(name, str(self.target.name_or_path)):
            with _without_adapter_files(Path(name)) as folder:  # the model whose folder holds the adapter, too
                model = self._load(BASE_OPTION, str(folder))
                model.name_or_path = name
                return model
        model = self._load(BASE_OPTION, name, self._revision_of_base)
        rows = embedding_rows(inner_model(self.target))
        if hasattr(self.target, "get_base_model") and rows < embedding_rows(model):
            with isolated_rng(0), quiet_libraries():
                model.resize_token_embeddings(rows)
        return model

    def _load(self, option: str, name: str, revision: str | None = None) -> Any:
        """A model in the target's dtype on the target's device, frozen."""
        from transformers import AutoModelForCausalLM

        inner = inner_model(self.target)
        settings: dict[str, Any] = {"dtype": _dtype(inner), "trust_remote_code": self._trusted}
        if revision is not None:
            settings["revision"] = revision
        attention = getattr(inner.config, "_attn_implementation", None)
        config = self._config_of(name, revision)
        if attention and config is not None and config.model_type == inner.config.model_type:
            settings["attn_implementation"] = attention  # other kernels round otherwise
        if getattr(inner, "is_loaded_in_4bit", False) or getattr(inner, "is_loaded_in_8bit", False):
            settings |= {"quantization_config": inner.config.quantization_config, "device_map": {"": inner.device}}
        if len(set(getattr(inner, "hf_device_map", {}).values())) > 1:  # `parallelize=True`: one device is too small
            settings["device_map"] = "auto"
        try:
            with isolated_rng(0), quiet_libraries():
                model = AutoModelForCausalLM.from_pretrained(name, **settings)
        except Exception as error:  # see _load_adapter
            raise unavailable(option, name, "a causal language model", error) from None
        if "device_map" not in settings:
            model.to(inner.device)
        return model.requires_grad_(False).eval()


@contextmanager
def _without_adapter_files(folder: Path) -> Iterator[Path]:
    """A folder as it is but for the adapter in it, which transformers would put on the model."""
    with tempfile.TemporaryDirectory() as bare:
        for path in folder.iterdir():
            if not path.name.startswith("adapter_"):
                (Path(bare) / path.name).symlink_to(path.absolute())
        yield Path(bare)


def _dtype(model: Any) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


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


def _base_name(lm: Any, given: str | None, *, explicit: bool) -> str | None:
    """Folder or hub id of the model before fine-tuning, None if nothing tells.

    What was loaded holds, and not what an adapter's config remembers of the machine it was trained on.

    Args:
        lm: the harness's HFLM.
        given: `mia_base_model`, or what a manifest names.
        explicit: it is `mia_base_model`.
    """
    loaded = getattr(lm, "pretrained", None)
    if explicit and given is not None:
        return given
    if isinstance(loaded, str) and (getattr(lm, "peft", None) or getattr(lm, "delta", None)):
        return loaded
    configs = getattr(lm.model, "peft_config", None)
    if given is not None or not configs:
        return given
    remembered = [config.base_model_name_or_path for config in configs.values()]
    return next(
        (str(name) for name in [getattr(inner_model(lm.model), "name_or_path", None), *remembered] if name), None
    )
