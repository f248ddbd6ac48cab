"""Which model plays which part, on as few copies of the weights as possible.

A LoRA target carries its base: the same weights with the adapter switched off; references are further adapters on
them. Any other target (all weights trained, prefix tuning, IA3, biases) needs its base once more, and references are
adapters on that one copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.libraries import quiet_libraries
from spvmia_plugin.rng import isolated_rng
from spvmia_plugin.scoring.adapters import AdapterHost, is_plain_lora
from spvmia_plugin.scoring.identity import Weights, model_identity, same_model, tensors_digest
from spvmia_plugin.scoring.inner import inner_model
from spvmia_plugin.scoring.snapshot import Snapshot
from spvmia_plugin.scoring.tokens import Tokens, unavailable
from spvmia_plugin.signals import Role

BASE_OPTION = "mia_base_model"
_OPTIONS = {Role.REFERENCE: "mia_reference", Role.CANDIDATE: "mia_candidate", Role.BASE: BASE_OPTION}


class RoleModels:
    """The models of one audit.

    Args:
        lm: the harness's HFLM.
        tokens: its tokenizer.
        base_model: folder or hub id of the model before fine-tuning, for targets that do not carry it.
        explicit: the user named it (`mia_base_model`): it holds even where a LoRA target carries another.
        trusted: the harness was told to run code that models bring.
    """

    def __init__(
        self, lm: Any, tokens: Tokens, base_model: str | None, *, explicit: bool = False, trusted: bool = False
    ) -> None:
        self._lm = lm
        self._tokens = tokens
        self.target = lm.model
        carried = str(getattr(lm, "pretrained", ""))
        self.shared = is_plain_lora(self.target) and not (
            explicit and base_model is not None and not same_model(base_model, carried)
        )
        self.base_name = self._base_name(base_model)
        self._host: AdapterHost | None = AdapterHost(self.target) if self.shared else None
        self._paths: dict[Role, str] = {}
        self._whole: dict[Role, Any] = {}  # references that are models of their own
        self._weights = Weights()
        self._trusted = trusted or type(inner_model(self.target)).__module__.startswith("transformers_modules")
        self._checked = False

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
            raise SpvmiaError(f"{_OPTIONS[role]}: expected a {role.value} model to be loaded first, got none")

    def host(self) -> AdapterHost:
        """The model that carries our adapters; loads the base on first use where the target has none in it."""
        if self._host is None:
            self.require([Role.BASE])
            self._host = AdapterHost(self._load(BASE_OPTION, str(self.base_name)))
        return self._host

    def require(self, roles: Iterable[Role]) -> None:
        """See `Backend.require`."""
        if self.shared or self._checked or Role.BASE not in set(roles):
            return
        if self.base_name is None:
            raise SpvmiaError(
                f"{BASE_OPTION}: expected the model before fine-tuning (folder or hub id), got nothing, and neither "
                'the target nor a manifest names it; pass --metadata \'{"mia_base_model": "..."}\''
            )
        self._tokens.check_same(BASE_OPTION, self.base_name, self._trusted)
        self._checked = True

    def load_reference(self, role: Role, path: str) -> None:
        """See `Backend.load_reference`.

        Raises:
            SpvmiaError: nothing can be loaded from `path`, or it does not fit the target.
        """
        option = _OPTIONS[role]
        self._whole.pop(role, None)
        self._paths.pop(role, None)
        config = _adapter_config(path)
        if config is None:
            self._tokens.check_same(option, path, self._trusted)
            self._whole[role] = self._load(option, path)
        elif _joins(config):
            self._load_adapter(role, path)
        else:
            self._whole[role] = self._load_wrapped(option, path)
        self._paths[role] = path

    def identity(self, role: Role) -> dict[str, object]:
        """Content of the weights behind a role, JSON-ready."""
        if role is Role.TARGET:
            return {**model_identity(self.target), "weights": self._target_weights()}
        if role is Role.BASE:
            return {**model_identity(self._base_like()), "weights": self._base_weights()}
        path = self._paths[role]
        own = self._weights.of(path)
        if role in self._whole:
            model = self._whole[role]
            return {**model_identity(model), "weights": [own or tensors_digest(model)]}
        return {**model_identity(self._base_like()), "weights": [*self._base_weights(), own]}

    def close(self) -> None:
        """Take our adapters away and let go of all further models."""
        if self._host is not None:
            self._host.close()
        if not self.shared:
            self._host = None
        self._whole.clear()
        self._paths.clear()

    def _base_name(self, base_model: str | None) -> str | None:
        if self.shared and isinstance(getattr(self._lm, "pretrained", None), str):
            return str(self._lm.pretrained)
        if base_model is None and hasattr(self.target, "peft_config"):
            return self.target.active_peft_config.base_model_name_or_path or None
        return base_model

    def _base_like(self) -> Any:
        """A model of the base's class and dtype that is there without loading one."""
        return self.target if self._host is None else self._host.model

    def _target_weights(self) -> list[dict[str, object]]:
        parts = [getattr(self._lm, name, None) for name in ("pretrained", "peft", "delta")]
        revision = getattr(self._lm, "revision", None)
        named = [self._weights.of(part, revision) for part in parts if isinstance(part, str)]
        if isinstance(parts[0], str) and all(item is not None for item in named):
            return [item for item in named if item is not None]
        return [tensors_digest(self.target)]

    def _base_weights(self) -> list[dict[str, object]]:
        self.require([Role.BASE])
        revision = getattr(self._lm, "revision", None) if self.shared else None
        found = self._weights.of(self.base_name, revision) if self.base_name else None
        if found is not None:
            return [found]
        with self.use(Role.BASE) as model:
            return [tensors_digest(model)]

    def _load_adapter(self, role: Role, path: str) -> None:
        host = self.host()
        try:
            host.load(role.value, path)
        except Exception as error:  # files, formats, a pickle that is refused: each library has its own
            raise unavailable(_OPTIONS[role], path, "an adapter that fits the base model", error) from None

    def _load_wrapped(self, option: str, path: str) -> Any:
        """An adapter of a kind that cannot share weights, on a base of its own."""
        from peft import PeftModel

        self.require([Role.BASE])
        if self.base_name is None:
            raise SpvmiaError(f"{BASE_OPTION}: expected the base of the adapter {path!r}, got nothing; name it")
        base = self._load(BASE_OPTION, self.base_name)
        try:
            with isolated_rng(0), quiet_libraries():
                return PeftModel.from_pretrained(base, path).eval()
        except Exception as error:  # see _load_adapter
            raise unavailable(option, path, "an adapter that fits the base model", error) from None

    def _load(self, option: str, name: str) -> Any:
        """A model in the target's dtype on the target's device, frozen."""
        from transformers import AutoModelForCausalLM

        inner = inner_model(self.target)
        dtype = next((p.dtype for p in inner.parameters() if p.is_floating_point()), torch.float32)
        settings: dict[str, Any] = {"dtype": dtype, "trust_remote_code": self._trusted}
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


def _adapter_config(path: str) -> Any:
    """The peft config at a folder or hub id, None if there is none."""
    from peft import PeftConfig

    if Path(path).is_dir() and not (Path(path) / "adapter_config.json").is_file():
        return None
    try:
        return PeftConfig.from_pretrained(path)
    except (OSError, ValueError):
        return None  # no adapter there, or nothing at all: then loading the model says what is wrong


def _joins(config: Any) -> bool:
    from peft import LoraConfig

    return isinstance(config, LoraConfig) and config.bias == "none"
