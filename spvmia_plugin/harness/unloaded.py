"""A target of which everything is known but its weights: what an audit of it would ask, told before they are read."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spvmia_plugin.config import AuditConfig, read_names
from spvmia_plugin.errors import SpvmiaError, reason_of
from spvmia_plugin.harness.installed import context_of
from spvmia_plugin.harness.shared import load_tokenizer
from spvmia_plugin.models.intact import header_of
from spvmia_plugin.models.precision import TO_FLOAT32, dtype_named, too_slow
from spvmia_plugin.models.tokens import Reader, TokenisedBackend, Tokens, unavailable
from spvmia_plugin.protocols import BackendFeatures
from spvmia_plugin.signals import Role
from spvmia_plugin.training.lora import ALL_LINEAR, default_targets
from spvmia_plugin.util.files import as_path
from spvmia_plugin.util.libraries import isolated_rng, quiet_libraries
from spvmia_plugin.util.strict_json import any_loads

if TYPE_CHECKING:
    import torch

_TRIED_ROWS, _TRIED_SECONDS = 512, 0.3
WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")


class UnloadedTarget(TokenisedBackend):
    """The tokenizer, configuration and files of a Hugging Face target and its base; no weights are read.

    Args:
        arguments: of the harness's model `hf`.
        config: settings of the audit.
        base_model: the model before fine-tuning, where somebody named it.
        kept: tokens of its context that an engine keeps for itself.
        processes: of the launch, which could train a reference together.

    Raises:
        SpvmiaError: a file is missing or does not fit the others.
    """

    name = "hf"
    features = BackendFeatures(gradients=True, kth=True)

    def __init__(
        self,
        arguments: Mapping[str, Any],
        config: AuditConfig,
        base_model: str | None,
        *,
        kept: int = 0,
        processes: int = 1,
    ) -> None:
        self._config = config
        self.processes = processes
        self._trusted = str(arguments.get("trust_remote_code")).lower() == "true" or config.trust_remote_code
        self._arguments = arguments
        pretrained = str(arguments.get("pretrained") or "gpt2")  # what the harness takes where nothing is named
        self.tokenizer = load_tokenizer({**arguments, "pretrained": pretrained})
        self._target = self._model_config("pretrained", pretrained)
        adapter = arguments.get("peft")
        self._adapter = _adapter_config("peft", str(adapter)) if adapter else None
        named = config.base_model or (pretrained if adapter else base_model)
        self._base_name = str(named) if named is not None else None
        longest = int(arguments.get("max_length") or context_of(self._target, self.tokenizer)) - kept
        prefix_id = arguments.get("prefix_token_id")
        ends = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        prefix_id = next((each for each in ends if each is not None), None) if prefix_id is None else int(prefix_id)
        reader = Reader(self.tokenizer, longest, prefix_id, self.tokenizer.encode, lambda: None)
        self._tokens = Tokens(reader, config.max_length, config.prefix)
        self.max_length = self._tokens.max_length
        self._encoded: dict[str, list[int]] = {}
        self.parameters = self._size()
        """Weights of the target, adapters left out."""

    def encode(self, text: str) -> list[int]:
        """Tokens of a text alone, remembered: several checks ask for those of each record."""
        if text not in self._encoded:
            self._encoded[text] = super().encode(text)
        return self._encoded[text]

    def identity(self, role: Role) -> dict[str, object]:
        """Names nothing that a store has: what it holds shows once the models are read."""
        return {"backend": "none", "unloaded": role.value}

    def require(self, roles: Iterable[Role]) -> None:
        if Role.BASE not in set(roles):
            return
        if self._base_name is None:
            raise SpvmiaError(
                "mia_base_model: expected the model before fine-tuning (folder or hub id), got nothing, and neither "
                'the target nor a manifest names it; pass --metadata \'{"mia_base_model": "..."}\''
            )
        if self._base_name != str(self._arguments.get("pretrained")):
            self._model_config("mia_base_model", self._base_name)
            self._tokens.check_same("mia_base_model", self._base_name, self._trusted)

    def check_training(self) -> None:
        model = self._skeleton(self._target)
        asked = read_names(self._config.lora_targets or ())
        if not asked:
            default_targets(model, "mia_lora_targets")
            return
        present = [name for name, _ in model.named_modules()]
        for target in asked:
            if target != ALL_LINEAR and not any(name == target or name.endswith(f".{target}") for name in present):
                raise SpvmiaError(
                    f"mia_lora_targets: expected modules of the model, got {target!r}; pass {ALL_LINEAR!r}, or names "
                    "such as those that print(model) shows"
                )

    def load_reference(self, role: Role, path: str) -> None:
        option = "mia_reference" if role.kind is Role.REFERENCE else "mia_candidate"
        if (as_path(path, option) / "adapter_config.json").is_file():
            _adapter_config(option, path)
        else:
            self._model_config(option, path)
            self._tokens.check_same(option, path, self._trusted)

    def of_precision(self, device: str) -> str | None:
        """That the harness would read the target in a precision that this CPU is slow in."""
        place = _place(device)
        on_cpu = place is not None and place.type == "cpu"
        return too_slow(self.dtype, TO_FLOAT32) if on_cpu else None

    def estimated_rate(self, device: str) -> float | None:
        """About how many tokens a second this machine scores; None where its device cannot be told.

        A forward pass takes two multiplications and additions a weight and token (Kaplan et al. 2020, section 2.1). How
        many of these the device makes in a second is tried, on matrices as large as the model's.
        """
        import torch

        place = _place(device)
        if place is None:
            return None
        try:
            width = int(getattr(self._target.get_text_config(), "hidden_size", 1024))
            dtype = self.dtype if place.type == "cpu" else torch.bfloat16
            left, right = (torch.ones(rows, width, device=place, dtype=dtype) for rows in (_TRIED_ROWS, width))
            done, started = 0, time.perf_counter()
            while time.perf_counter() - started < _TRIED_SECONDS:
                float((left @ right)[0, 0])  # a device that works on its own has to finish
                done += 1
            speed = done * 2 * _TRIED_ROWS * width * width / (time.perf_counter() - started)
        except RuntimeError:  # one that is not there, or without matrix products
            return None
        return speed / (2 * self.parameters)

    @property
    def dtype(self) -> torch.dtype:
        """The precision in which the harness would read the target."""
        own = getattr(self._target, "dtype", None)
        return dtype_named(self._arguments.get("dtype"), own)

    def _model_config(self, option: str, name: str) -> Any:
        """The configuration of a model whose weights are there."""
        from transformers import AutoConfig

        settings = {key: self._arguments[key] for key in ("revision", "gguf_file") if self._arguments.get(key)}
        try:
            with quiet_libraries():
                found = AutoConfig.from_pretrained(name, trust_remote_code=self._trusted, **settings)
        except Exception as error:  # files, formats, code of the model's own: each library has its own
            raise unavailable(option, name, "a causal language model", error) from None
        folder = Path(name)
        if folder.is_dir():
            _check_weights(option, folder)
        return found

    def _size(self) -> int:
        return sum(parameter.numel() for parameter in self._skeleton(self._target).parameters())

    def _skeleton(self, config: Any) -> Any:
        """The model's modules, without memory for their weights."""
        import torch
        from transformers import AutoModelForCausalLM

        try:
            with torch.device("meta"), isolated_rng(0), quiet_libraries():
                return AutoModelForCausalLM.from_config(config, trust_remote_code=self._trusted)
        except Exception as error:  # see _model_config
            name = str(self._arguments.get("pretrained"))
            raise unavailable("pretrained", name, "a causal language model", error) from None


def _adapter_config(option: str, name: str) -> Any:
    """The configuration of an adapter whose weights are there.

    Raises:
        SpvmiaError: there is none.
    """
    from peft import PeftConfig

    try:
        found = PeftConfig.from_pretrained(name)
    except Exception as error:  # a file that is none, a type that this peft does not know
        raise unavailable(option, name, "an adapter", error) from None
    folder = Path(name)
    if folder.is_dir():
        _check_weights(option, folder)
    return found


def _check_weights(option: str, folder: Path) -> None:
    """Make sure that a folder has weights, and that each file of safetensors is as long as it says. None is read.

    Raises:
        SpvmiaError: there are none, or a file was cut short: a download that broke off, a disk that was full.
    """
    found = [path for pattern in WEIGHTS for path in sorted(folder.glob(pattern))]
    if not found:
        raise SpvmiaError(
            f"{option}: expected weights ({', '.join(WEIGHTS)}) in {folder}, got none; name the folder that the "
            "training wrote"
        )
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            parts = set(any_loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError):
            raise SpvmiaError(f"{option}: {index}: expected the list of a model's parts, got something else") from None
        if missing := sorted(part for part in parts if not (folder / str(part)).is_file()):
            raise SpvmiaError(
                f"{option}: expected all {len(parts)} parts of the weights in {folder}, got none called {missing[0]}; "
                "copy the folder again"
            )
    for path in found:
        if path.suffix == ".safetensors":
            try:
                header_of(path)
            except (OSError, ValueError) as error:
                raise SpvmiaError(
                    f"{option}: {path}: expected a whole file of weights, got {reason_of(error)}; copy it again"
                ) from None


def _place(device: str) -> torch.device | None:
    """The device that the harness would take for a name; None if there is none of that name."""
    import torch

    try:
        return torch.device(device if not device.startswith("cuda") or torch.cuda.is_available() else "cpu")
    except RuntimeError:
        return None
