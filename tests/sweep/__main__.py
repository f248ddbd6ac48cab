"""Writes docs/compatibility.md: `python -m tests.sweep [FILE]`, half an hour of one core, no network."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch

from spvmia_plugin.util.libraries import quiet_libraries
from tests.models.models import harness_lm, save_base
from tests.sweep import try_adapter, try_family
from tests.sweep.adapters import ADAPTERS, NO_TARGETS
from tests.sweep.families import FAMILIES

HEAD = """# Compatibility

Models and adapters that were put through the product, next to a plain float32 forward pass of one text at a time. Made
by `python -m tests.sweep docs/compatibility.md` in a checkout, on a CPU, with {versions}.
Every model is tiny, and has random weights. A cell says `yes` where all log-probs are within 1e-5 (four texts of 3 to
40 words) or the four sampled texts are the same, token for token.

What cannot be done is refused by name before anything long begins; nothing is scored wrongly. What a model can is not
looked up in a list but tried on it, in every audit: whether it looks back only, whether it can go on from a cache whose
rows were multiplied or dropped, whether it leaves padding out, whether LoRA on a layer gets a gradient.
"""
FAMILIES_HEAD = """
## Families of decoders

{right} of the {tried} families that were built are right in every column, of {all} in transformers'
`MODEL_FOR_CAUSAL_LM_MAPPING`.

- *scored*: log-probs without a context; *contexts*: after a ReCaLL prefix (*read again*: it goes through the model with
  every record, which is slower); *generation*: self-prompts from prompts of unequal length (*one length at a time*: no
  padding; *read again*: the whole text for every token, which is much slower);
- *reference*: `all-linear` LoRA is trained, saved, loaded and scored, and so is the base.

| family | scored | contexts | generation | reference |
|---|---|---|---|---|
"""
ADAPTERS_HEAD = """
## Adapters

Every type in peft's registry, on a tiny Llama, loaded as `pretrained=BASE,peft=ADAPTER`. *base*: the model before
fine-tuning, against a freshly loaded one; *reference*: a LoRA reference is trained beside the target, and the target is
the same to the bit afterwards. Adapters of the embeddings or the output layer are tried on a base whose two are not
tied: the harness itself cannot load them on one where they are.

| adapter | target | base | reference |
|---|---|---|---|
"""


KEPT = "<!-- kept: what follows is written by hand -->"
"""What stands in the page from here on is not of this program."""


def main(path: Path) -> int:
    """Write the page; 1 if anything on it is wrong."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root, quiet_libraries():
        folder = Path(root)
        save_base(folder)
        lm = harness_lm(folder, "full")
        families = dict(_each(FAMILIES, lambda name, own: try_family.try_family(name, lm, own), folder))
        adapters = dict(_each(ADAPTERS, lambda kind, own: try_adapter.try_adapter(kind, folder / "base", own), folder))
    built = {name: found for name, found in families.items() if not isinstance(found, Exception)}
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "lm_eval"))
    right = sum(found.right for found in built.values())
    parts = [HEAD.format(versions=versions)]
    parts.append(FAMILIES_HEAD.format(right=right, tried=len(built), all=len(families)))
    parts += [_row(name, found, try_family.COLUMNS) for name, found in built.items()]
    parts.append("\nNot built:\n\n")
    parts += [f"- `{name}`: {_said(found)}\n" for name, found in families.items() if name not in built]
    parts.append(ADAPTERS_HEAD)
    parts += [_row(k, v, try_adapter.COLUMNS) for k, v in adapters.items() if not isinstance(v, Exception)]
    parts.append("\nNot made:\n\n")
    parts += [f"- `{kind}`: {_said(found)}\n" for kind, found in adapters.items() if isinstance(found, Exception)]
    parts += [f"- `{kind}`: {reason}\n" for kind, reason in NO_TARGETS.items()]
    kept = path.read_text().partition(KEPT) if path.exists() else ("", "", "")
    path.write_text("".join(parts).rstrip() + "\n" + ("\n" + kept[1] + kept[2] if kept[1] else ""))
    wrong = [name for name, found in {**built, **adapters}.items() if not getattr(found, "right", True)]
    print(f"wrong: {', '.join(wrong) or 'nothing'}")
    return bool(wrong)


def _each(names: Sequence[str] | dict[str, Any], check: Callable[[str, Path], Any], root: Path) -> Iterator[Any]:
    for name in names:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=root) as own:
            try:
                found = check(name, Path(own))
            except Exception as error:  # could not be built: the page lists it, with this
                found = error
        print(f"{time.perf_counter() - started:5.1f} s  {name}: {found}", file=sys.stderr, flush=True)
        yield name, found


def _row(name: str, found: Any, columns: Sequence[str]) -> str:
    cells = (str(getattr(found, column)).replace("|", "/") for column in columns)
    return f"| `{name}` | {' | '.join(cells)} |\n"


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/compatibility.md")))
