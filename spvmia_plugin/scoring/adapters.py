"""Several adapters on one set of weights: attached while they are used, gone in between."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.libraries import quiet_libraries
from spvmia_plugin.rng import isolated_rng
from spvmia_plugin.scoring.inner import inner_model
from spvmia_plugin.scoring.snapshot import Snapshot

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
        with self._restored(), isolated_rng(seed), quiet_libraries():
            view = self._attach(_PREFIX + name, config)
            view.base_model.enable_adapter_layers()
            view.set_adapter(_PREFIX + name)
            for parameter_name, parameter in view.named_parameters():
                parameter.requires_grad_(f".{_PREFIX}{name}." in parameter_name)
            yield view

    def load(self, name: str, path: str) -> None:
        """Put the adapter at `path` (folder or hub id) on the model, under `name`, replacing one of that name."""
        self.check_free()
        adapter = _PREFIX + name
        with self._restored(), isolated_rng(0), quiet_libraries():
            warnings.filterwarnings("error", "Found missing adapter keys")  # an adapter of another model
            if self._dressed is not None:
                self._dressed.restore()
                if adapter in self._view.peft_config:
                    self._view.delete_adapter(adapter)
            view = self._view or (self.model if self._own else None)
            if view is None:
                from peft import PeftModel

                view = PeftModel.from_pretrained(self.model, path, adapter_name=adapter)
            else:
                view.load_adapter(path, adapter_name=adapter, torch_device=str(self.model.device))
            self._view, self._dressed = view, Snapshot(view)

    def close(self) -> None:
        """Forget all adapters."""
        self._view = self._dressed = None

    def _attach(self, adapter: str, config: Any) -> Any:
        if self._own:
            self.model.add_adapter(adapter, config)
            return self.model
        from peft import get_peft_model

        return get_peft_model(self.model, config, adapter_name=adapter)

    @contextmanager
    def _restored(self) -> Iterator[None]:
        before = Snapshot(self.model)
        try:
            yield
        finally:
            before.restore()


def save_adapter(view: Any, name: str, folder: Path) -> None:
    """Write one adapter as an ordinary peft folder: config and safetensors, nothing of the base."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    # Not the state of the whole model: asked for it, bitsandbytes repacks the weights, on CPUs to other numbers.
    own = {key: value for key, value in view.named_parameters() if f".{_PREFIX}{name}." in key}
    weights = get_peft_model_state_dict(view, own, adapter_name=_PREFIX + name, save_embedding_layers=False)
    save_file(
        {key: value.detach().cpu().contiguous() for key, value in weights.items()}, folder / "adapter_model.safetensors"
    )
    view.peft_config[_PREFIX + name].save_pretrained(str(folder))


def linear_names(model: Any) -> list[str]:
    """What `all-linear` means: the names of all linear layers but the output layer, whatever already wraps them.

    peft's own reading of it would take the matrices of adapters that are already there for layers of the model.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    base = inner_model(model)
    head = base.get_output_embeddings()
    wrappers = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    wrapped = [name for name, module in base.named_modules() if isinstance(module, wrappers)]
    names = set()
    for name, module in base.named_modules():
        if any(name.startswith(f"{outer}.") for outer in wrapped) or module is head:
            continue
        inner = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        if isinstance(inner, (nn.Linear, Conv1D)):
            names.add(name.rpartition(".")[2])
    if not names:
        raise SpvmiaError("mia_lora_targets: expected linear layers in the model, found none; name the modules")
    return sorted(names)
