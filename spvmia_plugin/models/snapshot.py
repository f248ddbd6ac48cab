"""The structure of a model, kept and put back: which modules, parameters, adapters, flags and modes it has.

peft adds adapters by replacing modules, and switching them changes `requires_grad` and more. Instead of undoing each
step by another call, everything but the tensors' contents is kept before and put back after. Contents need no copy:
nothing but the adapters we add is ever trained on the harness's model.
"""

from __future__ import annotations

from typing import Any

from torch import nn


class Snapshot:
    """The state of a model's module tree, without copies of tensors.

    Args:
        model: its root. The same objects, in the same places, with the same attributes are there after `restore`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = [(module, _attributes(module)) for module in model.modules()]
        self._gradients = [(p, p.requires_grad, p.grad) for p in model.parameters()]
        configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
        self._use_cache = [(c, c.use_cache) for c in configs.values() if hasattr(c, "use_cache")]

    def restore(self) -> None:
        """Put everything back. Containers keep their identity, so views of them held elsewhere stay valid."""
        for module, attributes in self._modules:
            values = {}
            for name, (value, content) in attributes.items():
                if content is not None:
                    _refill(value, content)
                values[name] = value
            vars(module).clear()
            vars(module).update(values)
        for parameter, requires_grad, grad in self._gradients:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)
            parameter.grad = grad
        for config, use_cache in self._use_cache:
            config.use_cache = use_cache


def _attributes(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    return {name: (value, _content(value)) for name, value in vars(module).items()}


def _content(value: Any) -> Any:
    """Shallow copy of a container's content, None for anything else."""
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, list):
        return list(value)
    return set(value) if isinstance(value, set) else None


def _refill(container: Any, content: Any) -> None:
    container.clear()
    if isinstance(container, list):
        container.extend(content)
    else:
        container.update(content)
