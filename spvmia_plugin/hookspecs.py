"""The hooks: what a plugin may add to or replace in an audit.

A plugin is a module or object named by an entry point of the group `spvmia`; it marks its functions with
`spvmia_plugin.hookimpl`. The built-ins come through these same hooks. Arguments are read-only: an implementation
must not change them. Plugins are asked in the order pluggy gives: the last registered first, `tryfirst` before all.
A class whose module imports torch is better registered as `Lazy(name, "module:Class")`: it is imported when it is used.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from spvmia_plugin.attacks.base import Attack
    from spvmia_plugin.config import AuditConfig
    from spvmia_plugin.lazy import Lazy
    from spvmia_plugin.protocols import Backend, DatasetSource, OnDone, Perturbation
    from spvmia_plugin.records import Conversation, Document, Rendered

hookspec = pluggy.HookspecMarker("spvmia")


@hookspec
def spvmia_register_attacks() -> Iterable[type[Attack] | Lazy[Attack]]:  # type: ignore[empty-body]
    """Attack classes to add. Called once at start-up; a name that is taken is an error."""


@hookspec
def spvmia_register_perturbations() -> Iterable[type[Perturbation] | Lazy[Perturbation]]:  # type: ignore[empty-body]
    """Perturbation classes to add, chosen with `mia_perturbation=<name>`. Called once; a taken name is an error."""


@hookspec
def spvmia_register_datasets() -> Iterable[DatasetSource]:  # type: ignore[empty-body]
    """Data sets to add. Called once at start-up; a name that is taken is an error."""


@hookspec
def spvmia_register_backends() -> Iterable[type[Backend] | Lazy[Backend]]:  # type: ignore[empty-body]
    """Backend classes to add. The first whose `accepts(lm)` is true drives the model, last registered asked first."""


@hookspec(firstresult=True)
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
    """The texts the reference is trained on, instead of sampling the target. None leaves it to the next plugin.

    The texts must come from the model, not from the training data. `on_done({position: text})` keeps texts as they
    are made, so that a killed run continues; positions in `done` are kept already, and None may stand for them. The
    first plugin that answers wins; the built-in sampler is asked last.

    Of conversations `renderer` says how they become tokens (None for plain text), `blank` is one without messages and
    `length` what an audited one has in tokens, in the median. Texts that `Conversation.to_text` made are trained on as
    conversations, any others as plain text.
    """


@hookspec(firstresult=True)
def spvmia_train_reference(
    backend: Backend,
    texts: Sequence[str],
    config: AuditConfig,
    output_dir: Path,
    rendered: Sequence[Rendered] | None,
) -> dict[str, object] | None:
    """Train a reference on `texts` and write it to `output_dir`, which `Backend.load_reference` then loads.

    Of conversations `texts` are their words without any template, and `rendered` what a model reads of them: token ids,
    and which of these carry loss. It is None for plain text.

    Returns what `mia_audit` says of it, JSON-ready; None leaves it to the next plugin, the built-in LoRA trainer last.
    """
