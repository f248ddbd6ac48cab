"""Adapters: several on one set of weights, attached while they are used and gone in between; and what they leave alone.

peft adds adapters by replacing modules, and switching them changes `requires_grad` and more. Instead of undoing each
step by another call, everything but the tensors' contents is kept before and put back after. Contents need no copy:
nothing but the adapters we add is ever trained on the harness's model.

Whether switching a target's adapters off gives its base back is decided here as far as it can be known without running
anything. What that leaves open, `RoleModels` settles by comparing answers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.forward import inner_model, prompt_learning
from spvmia_plugin.util.libraries import isolated_rng, quiet_libraries

_PREFIX = "spvmia_"


class AdapterHost:
    """A model that LoRA adapters are put on: the harness's own LoRA target, or a copy of the base.

    After each of its context managers the model is, object for object, what it was before. Inside it has the
    adapters as well, with at most one of them active.

    Args:
        model: a `PeftModel` with LoRA adapters (its own are never active here), or a plain model.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._own = hasattr(model, "get_base_model")
        self._view: Any = None  # the PeftModel with our adapters
        self._dressed: Snapshot | None = None

    def check_free(self) -> None:
        """Make sure that adapters can be put on the model.

        Raises:
            SpvmiaError: transformers itself has put one on it already; a second one would get mixed up with it.
        """
        if not self._own and getattr(self.model, "peft_config", None):
            raise SpvmiaError(
                "mia_base_model: expected a whole model to train references on, got one with an adapter on it; merge "
                "the adapter into the model (peft's merge_and_unload), save it, and name that folder"
            )

    @contextmanager
    def without_adapters(self) -> Iterator[Any]:
        """The base model: no adapter has any effect."""
        if not self._own:
            with self._restored():
                self.model.eval()
                yield self.model
            return
        with self._restored(), quiet_libraries():
            self.model.base_model.disable_adapter_layers()  # switched on again by putting everything back
            self.model.eval()
            yield self.model

    @contextmanager
    def using(self, name: str) -> Iterator[Any]:
        """The base with the adapter called `name`."""
        if self._dressed is None:
            raise KeyError(name)
        with self._restored():
            self._dressed.restore()
            self._view.base_model.enable_adapter_layers()  # the target's own may be switched off
            self._view.set_adapter(_PREFIX + name, inference_mode=True)
            self._view.eval()
            yield self._view

    @contextmanager
    def new(self, name: str, config: Any, seed: int) -> Iterator[Any]:
        """The base with a fresh adapter, the only thing that requires gradients; it is gone afterwards."""
        self.check_free()
        with self._bare() as inner, isolated_rng(seed), quiet_libraries():
            from peft import get_peft_model

            view = get_peft_model(inner, config, adapter_name=_PREFIX + name)
            for parameter_name, parameter in view.named_parameters():
                parameter.requires_grad_(f".{_PREFIX}{name}." in parameter_name)
            yield view

    def load(self, name: str, path: str) -> None:
        """Put the adapter at `path` (folder or hub id) on the model, under `name`, replacing one of that name.

        Raises:
            ValueError: its weights are not those of an adapter of this model.
        """
        from peft import PeftConfig, get_peft_model

        self.check_free()
        adapter = _PREFIX + name
        with self._bare() as inner, isolated_rng(0), quiet_libraries():
            view = self._view
            if view is not None and self._dressed is not None:
                self._dressed.restore()
                if adapter in view.peft_config:
                    view.delete_adapter(adapter)
            if view is None:
                config = PeftConfig.from_pretrained(path)
                config.inference_mode = True
                view = get_peft_model(inner, config, adapter_name=adapter)
                if self._own:
                    view.hf_device_map = {}  # peft would deal a model that is partly offloaded out anew
            mapping = getattr(inner, "_checkpoint_conversion_mapping", {})
            found = view.load_adapter(
                path, adapter_name=adapter, torch_device=str(self.model.device), key_mapping=mapping
            )
            if found.missing_keys:  # peft only returns them: without their weights the adapter is another one
                raise ValueError(f"{len(found.missing_keys)} weights of the adapter are missing")
            self._view, self._dressed = view, Snapshot(view)

    def close(self) -> None:
        """Forget all adapters."""
        self._view = self._dressed = None

    @contextmanager
    def _bare(self) -> Iterator[Any]:
        """The model under all wrappers, with its own modules in their places: nothing was ever put on it.

        An adapter that joins those of the target shares peft's wrappers with them, and not every wrapper can be
        shared: one that trains some tokens knows nothing of the new adapter, and fails.
        """
        off = self.model.disable_adapter() if hasattr(self.model, "disable_adapter") else nullcontext()
        with self._restored(), off:
            inner = inner_model(self.model)
            _undress(inner)
            for name in ("peft_config", "_hf_peft_config_loaded"):
                vars(inner).pop(name, None)
            yield inner

    @contextmanager
    def _restored(self) -> Iterator[None]:
        before = Snapshot(self.model)
        try:
            yield
        finally:
            before.restore()


def _undress(module: Any) -> None:
    """Put every module that peft has wrapped back where its wrapper is."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    for parent in list(module.modules()):
        for name, child in parent.named_children():
            inside = child
            while isinstance(inside, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
                inside = inside.get_base_layer() if isinstance(inside, BaseTunerLayer) else inside.original_module
            if inside is not child:
                parent._modules[name] = inside


def save_adapter(view: Any, name: str, folder: Path) -> None:
    """Write one adapter as an ordinary peft folder: config and safetensors, nothing of the base."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = {key: value.detach().cpu().contiguous() for key, value in _weights(view, name).items()}
    save_file(weights, folder / "adapter_model.safetensors")
    view.peft_config[_PREFIX + name].save_pretrained(str(folder))


def lost_weights(view: Any, name: str) -> list[str]:
    """Names of an adapter's weights that would not be found again after saving: peft renames those of some models."""
    from peft import set_peft_model_state_dict

    # Copies: where names agree, a weight would be read into itself.
    kept = {key: value.detach().clone() for key, value in _weights(view, name).items()}
    found = set_peft_model_state_dict(view, kept, adapter_name=_PREFIX + name)
    return sorted(key for key in found.missing_keys if f".{_PREFIX}{name}." in key)


def _weights(view: Any, name: str) -> dict[str, Any]:
    from peft import get_peft_model_state_dict

    # Not the state of the whole model: asked for it, bitsandbytes repacks the weights, on CPUs to other numbers.
    own = {key: value for key, value in view.named_parameters() if f".{_PREFIX}{name}." in key}
    found = get_peft_model_state_dict(view, own, adapter_name=_PREFIX + name, save_embedding_layers=False)
    return dict(found)


def linear_names(model: Any) -> list[str]:
    """Names of all linear layers but the output layer, whatever already wraps them.

    peft's own reading of `all-linear` would take the matrices of adapters that are already there for layers of the
    model. A name is the last part of the full one, which peft finds wherever it ends a module's name; where it would
    find other modules as well (a router beside a gate, the output layer), the full names.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    base = inner_model(model)
    head = base.get_output_embeddings()
    wrappers = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    wrapped = tuple(f"{name}." for name, module in base.named_modules() if isinstance(module, wrappers))
    linear: dict[str, list[str]] = {}
    others = set()
    for name, module in base.named_modules():
        if name.startswith(wrapped):
            continue
        inner = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        last = name.rpartition(".")[2]
        if isinstance(inner, (nn.Linear, Conv1D)) and module is not head:
            linear.setdefault(last, []).append(name)
        else:
            others.add(last)
    return sorted(name for last, names in linear.items() for name in ([last] if last not in others else names))


class Snapshot:
    """The state of a model's module tree, without copies of tensors.

    Args:
        model: its root. The same objects, in the same places, with the same attributes are there after `restore`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = [
            (module, {name: (value, _content(value)) for name, value in vars(module).items()})
            for module in model.modules()
        ]
        self._gradients = [(p, p.requires_grad, p.grad) for p in model.parameters()]
        configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
        self._use_cache = [(c, c.use_cache) for c in configs.values() if hasattr(c, "use_cache")]

    def restore(self) -> None:
        """Put everything back. Containers keep their identity, so views of them held elsewhere stay valid."""
        for module, attributes in self._modules:
            values = {}
            for name, (value, content) in attributes.items():
                if content is not None:
                    value.clear()
                    value.extend(content) if isinstance(value, list) else value.update(content)
                values[name] = value
            vars(module).clear()
            vars(module).update(values)
        for parameter, requires_grad, grad in self._gradients:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)
            parameter.grad = grad
        for config, use_cache in self._use_cache:
            config.use_cache = use_cache


def _content(value: Any) -> Any:
    """Shallow copy of a container's content, None for anything else."""
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, list):
        return list(value)
    return set(value) if isinstance(value, set) else None


# Fields of peft's LoraConfig that have no say in what the model computes while the adapter is off. Any other field
# must have its default: an option that a later peft brings is not among these, and is looked into by running.
_HARMLESS = frozenset(
    {
        "task_type",
        "peft_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "r",
        "target_modules",
        "exclude_modules",
        "lora_alpha",
        "lora_dropout",
        "fan_in_fan_out",
        "use_rslora",
        "use_dora",
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "alpha_pattern",
        "runtime_config",
        "lora_bias",
    }
)
# With these set, another adapter can still be put beside the target's own. With others, peft refuses or mixes them up.
_SHAREABLE = frozenset(
    {
        "init_lora_weights",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "modules_to_save",
        "ensure_weight_tying",
    }
)


def is_hostable(model: Any) -> bool:
    """Whether further adapters can be put on a model beside its own: LoRA, without biases, not merged.

    A merged adapter is taken out of the weights, in place and with rounding, as soon as peft is asked to switch it
    off, so such a model is left alone.
    """
    from peft import LoraConfig, PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    if not isinstance(model, PeftModel):
        return False
    configs = list(model.peft_config.values())
    if not all(type(config) is LoraConfig and _has_defaults(config, _HARMLESS | _SHAREABLE) for config in configs):
        return False
    return not any(module.merged for module in model.modules() if isinstance(module, BaseTunerLayer))


def kinds(model: Any) -> str:
    """What sort of adapters a model has, for people."""
    found = {str(getattr(config.peft_type, "value", config.peft_type)) for config in model.peft_config.values()}
    return ", ".join(sorted(found))


def trained_weights(model: Any) -> list[nn.Parameter]:
    """The weights of the adapters that act in a model, each once; of one in which none does, all its own.

    An adapter that is merged or switched off does not act: then what was trained is not told from what was not.
    """
    from peft import get_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    acting: set[str] = set()
    of_adapters: set[int] = set()
    for module in model.modules():
        if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            inside = "base_layer." if isinstance(module, BaseTunerLayer) else "original_module."
            of_adapters |= {id(p) for name, p in module.named_parameters() if not name.startswith(inside)}
            if not (module.disable_adapters or getattr(module, "merged", False)):
                acting |= set(module.active_adapters)
    own = dict(model.named_parameters())
    found: dict[int, nn.Parameter] = {}
    if prompt_learning(model):
        of_prompts = model.prompt_encoder.parameters()
        of_adapters |= {id(p) for p in of_prompts}
        found |= {id(p): p for p in model.prompt_encoder[model.active_adapter].parameters()}
    for name in sorted(acting & set(getattr(model, "peft_config", None) or ())):
        weights = get_peft_model_state_dict(model, own, adapter_name=name, save_embedding_layers=False)
        found |= {id(p): p for p in weights.values()}
    known = {id(p) for p in own.values()}
    return [p for key, p in found.items() if key in known] or [
        p for p in own.values() if p.is_floating_point() and id(p) not in of_adapters
    ]


def has_gradients(model: Any) -> bool:
    """Whether the weights are there to be differentiated: none is offloaded, and what is packed takes a way back."""
    quantizer = getattr(inner_model(model), "hf_quantizer", None)
    return not any(p.is_meta for p in model.parameters()) and (quantizer is None or bool(quantizer.is_trainable))


def is_inert(config: Any) -> bool:
    """Whether a peft config is of LoRA that leaves everything but its own matrices as it was, by arithmetic."""
    from peft import LoraConfig

    if type(config) is not LoraConfig or not _has_defaults(config, _HARMLESS | {"init_lora_weights"}):
        return False
    return isinstance(config.init_lora_weights, bool) or config.init_lora_weights == "gaussian"


def is_inert_in_memory(model: Any) -> bool:
    """Whether all adapters of a model are inert, and nothing else was hung on it that could change what it computes."""
    from peft.utils.other import AuxiliaryTrainingWrapper

    def is_changed(module: Any) -> bool:
        replaced = "forward" in vars(module) and not hasattr(module, "_hf_hook")  # accelerate's only move tensors
        return bool(replaced or module._forward_hooks or module._forward_pre_hooks)

    return all(is_inert(config) for config in model.peft_config.values()) and not any(
        isinstance(module, AuxiliaryTrainingWrapper) or is_changed(module) for module in model.modules()
    )


def holds_lora_only(place: str, revision: str | None) -> bool:
    """Whether an adapter's file holds LoRA matrices and nothing that would be written over the base's own weights.

    peft saves embeddings with the adapter where tokens were added, and loading puts them into the base.
    """
    from huggingface_hub import hf_hub_download
    from safetensors import SafetensorError, safe_open

    name = "adapter_model.safetensors"
    try:
        path = adapter_file(place, name, revision)
        if path is None and not Path(place).exists():
            path = Path(hf_hub_download(place, name, revision=revision))
        if path is None:
            return False
        with safe_open(path, framework="pt") as file:
            return all(".lora_" in key for key in file.keys())  # noqa: SIM118 - no mapping
    except (OSError, ValueError, SafetensorError):  # not there, nothing that could be there, or damaged
        return False


def adapter_file(place: str, name: str, revision: str | None = None) -> Path | None:
    """A file of a folder, or of a hub model in the cache; None if it is not there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if Path(place).is_dir():
        return path if (path := Path(place) / name).is_file() else None
    try:
        found = try_to_load_from_cache(place, name, revision=revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def structure(model: Any) -> str | None:
    """Hash of how a model's adapters stand: active, scaled, merged, switched off. None for a model without any."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    if not getattr(model, "peft_config", None):
        return None
    found: list[object] = [str(getattr(model, "active_adapter", None)) if hasattr(model, "get_base_model") else ""]
    for name, module in inner_model(model).named_modules():
        if isinstance(module, BaseTunerLayer):
            scaling = getattr(module, "scaling", None)
            scaled = sorted((str(k), repr(v)) for k, v in scaling.items()) if isinstance(scaling, dict) else []
            state = [list(module.active_adapters), list(module.merged_adapters), module.disable_adapters, scaled]
            found.append([name, type(module).__name__, *state])
        elif isinstance(module, AuxiliaryTrainingWrapper):
            found.append([name, type(module).__name__, list(module.active_adapters), module.disable_adapters])
    return hashlib.sha256(json.dumps(found, default=str).encode()).hexdigest()


def _has_defaults(config: Any, free: frozenset[str]) -> bool:
    """Whether every field but those of `free` is what it is when nothing is said."""
    for spec in dataclasses.fields(config):
        if spec.name in free:
            continue
        value = getattr(config, spec.name)
        default = spec.default if spec.default_factory is dataclasses.MISSING else spec.default_factory()
        if value != default and not (value in (None, [], {}) and default in (None, [], {})):
            return False
    return True
