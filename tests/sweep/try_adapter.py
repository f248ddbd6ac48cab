"""One kind of adapter, as a target: its scores, its base's, and a reference that is trained beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval.models.huggingface import HFLM
from peft import PeftModel
from transformers import AutoModelForCausalLM

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.models.hf_backend import HFBackend
from spvmia_plugin.signals import Role
from spvmia_plugin.util.libraries import isolated_rng, quiet_libraries
from tests.models.models import assert_same, fingerprint
from tests.sweep.adapters import UNTIED, save_target, save_untied
from tests.sweep.checks import seen, verdict
from tests.tiny import tiny_texts

CONFIG = AuditConfig(lora_rank=2, lora_dropout=0.0, reference_epochs=2.0, reference_lr=1e-2)
COLUMNS = ("target", "base", "reference")


@dataclass(frozen=True)
class Result:
    """What was seen of one kind. Each of `COLUMNS` says `yes`, `refused: why`, or what is wrong."""

    kind: str
    target: str
    base: str
    reference: str

    @property
    def right(self) -> bool:
        """Nothing is wrong, and whatever can't be done was refused by name."""
        return all(getattr(self, column).startswith(("yes", "refused")) for column in COLUMNS)


def try_adapter(kind: str, base: Path, folder: Path) -> Result:
    """Score a target of a kind, its base, and a reference trained beside it.

    Args:
        kind: a key of `adapters.ADAPTERS`.
        base: a folder with a tiny Llama and its tokenizer.
        folder: an empty one, for the adapter and the reference.
    """
    if kind in UNTIED:
        base = save_untied(base, folder / "untied")
    path = save_target(kind, base, folder / "target")
    with isolated_rng(0), quiet_libraries():
        lm = HFLM(pretrained=str(base), peft=str(path), device="cpu", dtype="float32", batch_size=3)
    backend = HFBackend(lm, CONFIG)
    rows = [backend.encode(text) for text in tiny_texts(3, words=(3, 20))]
    rows.append([*rows[0], 7, 9, *rows[1]])  # what some adapters wait for
    before = fingerprint(lm.model)

    def fresh(adapter: Path | None) -> Any:
        with isolated_rng(0), quiet_libraries():
            model = AutoModelForCausalLM.from_pretrained(base)
            return (PeftModel.from_pretrained(model, adapter) if adapter else model).eval()

    def reference() -> str:
        backend.check_training()
        backend.train_reference([backend.decode(ids) for ids in rows], folder / "reference")
        backend.load_reference(Role.REFERENCE, str(folder / "reference"))
        return verdict(backend, Role.REFERENCE, fresh(folder / "reference"), rows, ())

    try:
        target = seen(lambda: verdict(backend, Role.TARGET, fresh(path), rows, ()))
        bare = seen(lambda: verdict(backend, Role.BASE, fresh(None), rows, ()))
        trained = seen(reference)
    finally:
        backend.close()
    try:
        after = fingerprint(lm.model)
        if kind == "SHADOW":
            before.pop("attributes")  # its forward pass keeps what it gave
        assert_same(before, after)
    except AssertionError:
        trained = f"{trained}, CHANGES THE TARGET"
    return Result(kind, target, bare, trained)
