"""The built-in plugin: everything this package brings, registered through the public hooks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spvmia_plugin import hookimpl
from spvmia_plugin.attacks import PLACES
from spvmia_plugin.lazy import Lazy

if TYPE_CHECKING:
    from spvmia_plugin.attacks.base import Attack
    from spvmia_plugin.config import AuditConfig
    from spvmia_plugin.protocols import Backend, DatasetSource, OnDone, Perturbation
    from spvmia_plugin.records import Conversation, Document, Rendered

# By name, and imported when they are used: `spvmia plugins` loads neither torch nor NumPy.
_PERTURBATIONS = {"mask_fill": "mask_fill:MaskFill", "causal": "causal:Causal", "embedding": "embedding:Embedding"}


@hookimpl
def spvmia_register_attacks() -> Iterable[Lazy[Attack]]:
    """The attacks of the paper, its baselines and newer ones."""
    return [Lazy(name, f"spvmia_plugin.attacks.{place}") for name, place in PLACES.items()]


@hookimpl
def spvmia_register_perturbations() -> Iterable[Lazy[Perturbation]]:
    """Mask filling, embedding noise and causal replacement."""
    return [Lazy(name, f"spvmia_plugin.perturb.{place}") for name, place in _PERTURBATIONS.items()]


@hookimpl
def spvmia_register_datasets() -> Iterable[DatasetSource]:
    """The paper's three data sets."""
    from spvmia_plugin.data import BUILTIN_DATASETS

    return BUILTIN_DATASETS


@hookimpl
def spvmia_register_backends() -> Iterable[Lazy[Backend]]:
    """The harness's Hugging Face models, models behind a completions server, and the engines of vLLM and SGLang."""
    return [
        Lazy("hf", "spvmia_plugin.models.hf_backend:HFBackend"),
        Lazy("server", "spvmia_plugin.engines.server:ServerBackend"),
        Lazy("vllm", "spvmia_plugin.engines.vllm:VLLMBackend"),
        Lazy("sglang", "spvmia_plugin.engines.sglang:SGLangBackend"),
    ]


@hookimpl(trylast=True)
def spvmia_self_prompt(
    backend: Backend,
    prompts: Sequence[Document],
    config: AuditConfig,
    on_done: OnDone,
    done: Collection[int],
    renderer: Any,
    blank: Conversation | None,
    length: int | None,
) -> Sequence[str | None] | None:
    """Sample the target (Fu et al. 2024, section 4.2)."""
    from spvmia_plugin.training.self_prompt import self_prompt

    return self_prompt(backend, prompts, config, on_done, done, renderer=renderer, blank=blank, length=length)


@hookimpl(trylast=True)
def spvmia_train_reference(
    backend: Backend,
    texts: Sequence[str],
    config: AuditConfig,
    output_dir: Path,
    rendered: Sequence[Rendered] | None,
) -> dict[str, object] | None:
    """Fine-tune a LoRA adapter on the base."""
    from spvmia_plugin.protocols import takes

    # A backend of before there were conversations, or several references, knows nothing of them.
    told: dict[str, Any] = {} if rendered is None else {"rendered": rendered}
    if takes(backend.train_reference, "seed"):
        told["seed"] = config.seed
    return backend.train_reference(texts, output_dir, **told)
