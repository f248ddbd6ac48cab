"""One family of decoders through everything that is done with a target."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.models.hf_backend import HFBackend
from spvmia_plugin.signals import Role
from spvmia_plugin.util.libraries import quiet_libraries
from tests.models.test_generation import conversed, one_by_one, talk
from tests.sweep.checks import seen, verdict
from tests.sweep.families import build
from tests.tiny import tiny_texts

CONFIG = AuditConfig(
    max_length=100, lora_targets=("all-linear",), lora_rank=2, lora_dropout=0.0, reference_epochs=2.0, reference_lr=1e-2
)
COLUMNS = ("scored", "contexts", "generation", "reference")


@dataclass(frozen=True)
class Result:
    """What was seen of one family. Each of `COLUMNS` says `yes`, `yes (how)`, or what is wrong."""

    family: str
    scored: str
    contexts: str
    generation: str
    reference: str

    @property
    def right(self) -> bool:
        """Nothing is wrong, and whatever can't be done was refused by name."""
        return all(getattr(self, column).startswith(("yes", "refused")) for column in COLUMNS)


def try_family(family: str, lm: Any, folder: Path) -> Result:
    """Score, continue and fine-tune a tiny model of a family.

    Args:
        family: its name in transformers.
        lm: an HFLM whose tokenizer it takes; gets the model.
        folder: an empty one, for the model and its reference.
    """
    model = lm._model = build(family, len(lm.tokenizer))
    with quiet_libraries():
        model.save_pretrained(folder / "base")
        lm.tokenizer.save_pretrained(folder / "base")
        lm.tokenizer = AutoTokenizer.from_pretrained(folder / "base")  # as the harness does: by the family's own class
    try:
        backend = HFBackend(lm, CONFIG, str(folder / "base"))
    except SpvmiaError as error:
        return Result(family, *[f"refused: {error}"] * len(COLUMNS))
    rows = [backend.encode(text) for text in tiny_texts(4, words=(3, 12))]
    context = backend.encode("three red words and 12 blue ones")
    try:
        contexts = seen(lambda: verdict(backend, Role.TARGET, model, rows, context))
        return Result(
            family,
            seen(lambda: verdict(backend, Role.TARGET, model, rows, ())),
            _told(contexts, "read again" if "target: contexts" in backend.paths else ""),
            seen(lambda: _generation(backend, lm, rows)),
            seen(lambda: _reference(backend, lm, rows, folder)),
        )
    finally:
        backend.close()


def _told(verdict: str, how: str) -> str:
    return f"{verdict} ({how})" if how and verdict == "yes" else verdict


def _generation(backend: Any, lm: Any, rows: Any) -> str:
    heads = [ids[: 2 + 3 * i] for i, ids in enumerate(rows)]
    found = backend.generate(heads, [16] * len(heads), range(len(heads)))
    plainly = partial(lm.model, use_cache=False)
    if found != [one_by_one(plainly, head, 16, i, lm.eot_token_id) for i, head in enumerate(heads)]:
        return "OTHER TEXTS"
    own, plain = conversed(backend, {i: talk(head, i, 3, changed={i % 2}) for i, head in enumerate(heads)})
    if own != plain:
        return "OTHER CONVERSATIONS"
    path = backend.paths.get("target: generation", "")
    return _told("yes", "read again" if "again" in path else "one length at a time" if path else "")


def _reference(backend: Any, lm: Any, rows: Any, folder: Path) -> str:
    backend.check_training()
    record = backend.train_reference([backend.decode(ids) for ids in rows], folder / "reference")
    backend.load_reference(Role.REFERENCE, str(folder / "reference"))
    with quiet_libraries():
        base = AutoModelForCausalLM.from_pretrained(folder / "base").eval()
        off = verdict(backend, Role.BASE, base, rows, ())
        if off != "yes":
            return f"base: {off}"
        model = PeftModel.from_pretrained(base, folder / "reference").eval()
    if not record["losses"][-1] < record["losses"][0]:
        return "LEARNS NOTHING"
    return verdict(backend, Role.REFERENCE, model, rows, ())
