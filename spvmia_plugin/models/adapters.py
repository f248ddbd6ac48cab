"""Several adapters on one set of weights: attached while they are used, gone in between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.inner import inner_model
from spvmia_plugin.models.snapshot import Snapshot
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
