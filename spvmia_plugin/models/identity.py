"""What identifies a model: the content of its files, not where they lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from spvmia_plugin.models.inner import inner_model
from spvmia_plugin.util.files import file_digest

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_CONFIGS = ("config.json", "adapter_config.json", "generation_config.json")
_NOT_SETTINGS = frozenset({"_name_or_path", "transformers_version", "use_cache"})


def model_identity(model: Any) -> dict[str, object]:
    """Class, settings and precision of a loaded model: the same files give other numbers in another dtype."""
    inner = inner_model(model)
    quantised = getattr(getattr(inner, "config", None), "quantization_config", None)
    method = getattr(quantised, "quant_method", None)
    dtype = next((str(p.dtype) for p in inner.parameters() if p.is_floating_point()), "none")
    return {
        "class": type(inner).__name__,
        "config": _config_digest(inner),
        "dtype": dtype.removeprefix("torch."),
        **({"quantisation": str(getattr(method, "value", method))} if method is not None else {}),
    }


def _config_digest(model: Any) -> str:
    """Hash of the settings the model runs with: `model_args` may override those of its files."""
    config = getattr(model, "config", None)
    values = config.to_dict() if config is not None else {}
    told = {key: value for key, value in values.items() if key not in _NOT_SETTINGS}
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def same_model(one: str, other: str) -> bool:
    """Whether two names (folders or hub ids) mean one model."""
    if one == other:
        return True
    both = Path(one), Path(other)
    try:
        return all(path.exists() for path in both) and both[0].resolve() == both[1].resolve()
    except OSError:  # no name that a file could have
        return False


class Weights:
    """Names weights by their content. Each folder is read once a process."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, object]] = {}

    def of(self, name: str, revision: str | None = None) -> dict[str, object] | None:
        """Identity of the folder or hub model `name`; None if there is no telling (then hash the loaded tensors)."""
        key = f"{name}@{revision}"
        if key not in self._known:
            found = _files(Path(name)) if Path(name).is_dir() else _hub(name, revision)
            if found is None:
                return None
            self._known[key] = found
        return self._known[key]


def _files(folder: Path) -> dict[str, object] | None:
    paths = [p for p in sorted(folder.iterdir()) if p.suffix in _WEIGHTS or p.name in _CONFIGS]
    if not any(p.suffix in _WEIGHTS for p in paths):
        return None
    return {"files": {path.name: file_digest(path) for path in paths}}


def _hub(name: str, revision: str | None) -> dict[str, object] | None:
    """Hub id and commit of what lies in the hub's cache; the cache names its folders by commit."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for file in ("adapter_config.json", "config.json"):
        try:
            path = try_to_load_from_cache(name, file, revision=revision)
        except HFValidationError:
            return None
        if isinstance(path, str):
            return {"hub": name, "commit": Path(path).parent.name}
    return None


def tensors_digest(model: torch.nn.Module) -> dict[str, object]:
    """Identity of a model by its tensors in memory: for models that came from nowhere one could name."""
    return _digest(model.state_dict())


def adapter_free_digest(model: torch.nn.Module) -> dict[str, object]:
    """The same for what is under a model's adapters: theirs are left out, and the names that they have changed."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    inner = inner_model(model)
    # What peft wraps is kept as this child of the wrapper; everything else in there belongs to adapters.
    kept = {
        name: "base_layer" if isinstance(module, BaseTunerLayer) else "original_module"
        for name, module in inner.named_modules()
        if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper))
    }
    found = {}
    for name, tensor in inner.state_dict().items():
        bare = _unwrapped_name(name, kept)
        if bare is not None:
            found[bare] = tensor
    return _digest(found)


def _unwrapped_name(name: str, kept: Mapping[str, str]) -> str | None:
    """A tensor's name without the wrappers around it, None for a tensor of an adapter."""
    parts, bare = name.split("."), []
    for i, part in enumerate(parts):
        child = kept.get(".".join(parts[:i]))
        if child is None:
            bare.append(part)
        elif part != child:
            return None
    return ".".join(bare)


def _digest(tensors: Mapping[str, Any]) -> dict[str, object]:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if not isinstance(tensor, torch.Tensor):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return {"tensors": digest.hexdigest()}
