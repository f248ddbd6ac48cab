"""Which model plays which part where the target lies in this process, on as few copies of the weights as possible.

A LoRA target can carry its base: the same weights with the adapter switched off; references are further adapters on
them. Whether it does is proved by arithmetic where that is plain (see `carried`), and else settled by what the models
answer: a fresh copy of the base must say the same. Any other target (all weights trained, prefix tuning, IA3, biases,
initialisations that change the base) needs its base once more, and references are adapters on that one copy.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
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
    is_inert_in_memory,
    kinds,
    structure,
)
from spvmia_plugin.models.forward import inner_model
from spvmia_plugin.models.identity import EQUAL, Weights, embedding_rows, same_model, tensors_digest
from spvmia_plugin.models.local import BASE_OPTION, LocalModels
from spvmia_plugin.models.precision import dtype_of
from spvmia_plugin.models.tokens import Tokens
from spvmia_plugin.signals import Role
from spvmia_plugin.util.libraries import isolated_rng, quiet_libraries

Recall = Callable[[Mapping[str, object]], str | None]
Keep = Callable[[Mapping[str, object], str], None]


class RoleModels(LocalModels):
    """The models of one audit whose target lies in this process.

    Args:
        lm: the harness's HFLM.
        tokens: its tokenizer.
        base_model: folder or hub id of the model before fine-tuning, for targets that do not carry it.
        explicit: the user named it (`mia_base_model`): it holds even where a LoRA target carries another.
        autocast: dtype of the harness's mixed precision, or None.
        trusted: the harness was told to run code that models bring.
        gguf_file: the file that the harness loads of the folder, where it was told one.
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
        gguf_file: str | None = None,
    ) -> None:
        own_code = type(inner_model(lm.model)).__module__.startswith("transformers_modules")
        super().__init__(
            tokens, _base_name(lm, base_model, explicit=explicit), autocast=autocast, trusted=trusted or own_code
        )
        self._lm = lm
        self.target = lm.model
        self._named = base_model is not None
        loaded = getattr(lm, "pretrained", None)
        self._loaded = loaded if isinstance(loaded, str) else None
        self._gguf = {self._loaded: gguf_file} if self._loaded is not None and gguf_file is not None else {}
        self._weights = Weights(self._gguf)
        self._shared: bool | None = None
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
        found = super().chat_templates
        if self._checked and self.shared:
            found.pop(Role.BASE, None)
            found[Role.BASE] = getattr(self._tokens.tokenizer, "chat_template", None)
        return found

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
        if role is not Role.TARGET:
            with super().use(role) as model:
                yield model
            return
        before = Snapshot(self.target) if any(m.training for m in self.target.modules()) else None
        try:
            if before is not None:
                self.target.eval()
            yield self.target
        finally:
            if before is not None:
                before.restore()

    def _make_host(self) -> AdapterHost:
        return AdapterHost(self.target) if self.shared else super()._make_host()

    def _require_base(self) -> None:
        if not self.shared:
            super()._require_base()

    def identity(self, role: Role) -> dict[str, object]:
        """See `LocalModels.identity`; of the target with its adapters."""
        found = super().identity(role)
        adapters = structure(self.target) if role is Role.TARGET else None
        return {**found, "adapters": adapters} if adapters else found

    def _weights_of(self, role: Role) -> list[dict[str, object] | None]:
        return [*self._target_weights()] if role is Role.TARGET else super()._weights_of(role)

    def close(self) -> None:
        """See `LocalModels.close`."""
        carrier = self._host if self._shared else None
        super().close()
        self._host = carrier

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

    def _file_in(self, name: str) -> dict[str, str]:
        return {"gguf_file": self._gguf[name]} if name in self._gguf else {}

    @property
    def _where(self) -> torch.device:
        return torch.device(inner_model(self.target).device)

    def _settings(self, name: str, revision: str | None) -> dict[str, Any]:
        """How a model is loaded: in the target's dtype, attention and packing, on its devices."""
        inner = inner_model(self.target)
        settings: dict[str, Any] = {"dtype": _dtype(inner)}
        attention = getattr(inner.config, "_attn_implementation", None)
        config = self._config_of(name, revision)
        if attention and config is not None and config.model_type == inner.config.model_type:
            settings["attn_implementation"] = attention  # other kernels round otherwise
        if getattr(inner, "is_loaded_in_4bit", False) or getattr(inner, "is_loaded_in_8bit", False):
            settings |= {"quantization_config": inner.config.quantization_config, "device_map": {"": inner.device}}
        if len(set(getattr(inner, "hf_device_map", {}).values())) > 1:  # `parallelize=True`: one device is too small
            settings["device_map"] = "auto"
        return settings


@contextmanager
def _without_adapter_files(folder: Path) -> Iterator[Path]:
    """A folder as it is but for the adapter in it, which transformers would put on the model."""
    with tempfile.TemporaryDirectory() as bare:
        for path in folder.iterdir():
            if not path.name.startswith("adapter_"):
                (Path(bare) / path.name).symlink_to(path.absolute())
        yield Path(bare)


def _dtype(model: Any) -> torch.dtype:
    return dtype_of(model) or torch.float32


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
