"""Fits a combination of all attacks on a shadow model and applies it to the target of a main cell.

    python benchmarks/paper/combine.py --model ./smollm2-135m --data ag_news=ag_news.jsonl --strengths medium \\
        --seeds 0,1,2 --work ./work --shadow held_out

The shadow is fine-tuned by the target's recipe on records whose membership is then known:

- `held_out`: other documents of the same data, which the target's manifest does not name;
- `self_prompts`: texts that the target itself writes, for who has no other data.

It is audited with the same attacks and settings. The target's cell must have been run with the same `--work`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from benchmarks.paper import texts
from benchmarks.paper.cells import Cell
from benchmarks.paper.commands import Place, audit_words, execute, finetune_words
from benchmarks.paper.run import add_cell_options, make_place
from benchmarks.paper.settings import ATTACKS, BLIND
from benchmarks.paper.steps import make_target
from benchmarks.paper.summary import clusters_of
from spvmia_plugin.combination import NORMALISATIONS, Scored, compare, fit
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.data.manifest import MANIFEST_NAME
from spvmia_plugin.data.split import MIN_RECORDS, as_documents
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.results.read import read_runs

SHADOWS = ("held_out", "self_prompts")
USED = tuple(name for name in ATTACKS if name not in (BLIND, "lira_candidate"))
"""What is combined: every attack on the model that asks for nothing but prompts."""
SPARE = 2
"""Texts for the shadow's records: so many times their tokens, as packing leaves some out."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_options(arguments)
    place = make_place(options)
    failed = 0
    for seed in map(int, options.seeds.split(",")):
        for strength in options.strengths.split(","):
            for data in options.audited:
                cell = Cell(data, options.base_name, options.protocol, "lora", strength, seed=seed)
                try:
                    _one(cell, place, options)
                except SpvmiaError as error:
                    failed += 1
                    print(f"{cell.name}: {error}", file=sys.stderr, flush=True)
    return 1 if failed else 0


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_cell_options(parser)
    parser.add_argument("--strengths", default="medium")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--shadow", choices=SHADOWS, default="held_out")
    parser.add_argument("--normalise", choices=NORMALISATIONS, default="z")
    return parser.parse_args(arguments)


def _one(cell: Cell, place: Place, options: argparse.Namespace) -> None:
    """One cell: shadow, its audit, the fit, the comparison, the file."""
    output = options.results / "combination" / f"{cell.name}__{options.shadow}__{options.normalise}.json"
    if output.is_file():
        print(f"{cell.name}: done, {output}")
        return
    shadow = Shadow(cell, place, options.shadow, [name for name in USED if name in options.attacks])
    words = shadow.make()
    known = read_scores(shadow.results, shadow.target)
    audited = read_scores(place.work / "results" / cell.name, place.work / "targets" / cell.target)
    attacks = [name for name in USED if name in known.scores and name in audited.scores]
    fitted = fit([known], attacks, options.normalise)
    found = compare(fitted, audited, seed=cell.seed).to_json()
    shown = [place.shown(line) for line in words]
    result = {"cell": asdict(cell), "shadow": options.shadow, **found, "commands": shown}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    gain = found["gain"]["tpr_at_1pct_fpr"]
    told = gain["reason"] or "{:+.3f} [{:+.3f}, {:+.3f}]".format(gain["value"], *gain["interval"])
    print(f"{cell.name}: gain in TPR at 1 % FPR {told}; {output}", flush=True)


class Shadow:
    """The shadow of a cell's target.

    Attributes:
        target: its folder.
        results: of its audit.
    """

    def __init__(self, cell: Cell, place: Place, kind: str, attacks: Sequence[str]) -> None:
        self._cell, self._place, self._kind, self._attacks = cell, place, kind, attacks
        work = place.work.absolute()
        name = f"{cell.target}__shadow-{kind}"
        self._audited = work / "targets" / cell.target
        self._log = work / "logs" / f"{name}.log"
        self._file = work / "files" / name / "shadow.jsonl"
        self.target = work / "targets" / name
        self.results = work / "results" / name
        self._model = str(Path(place.models[cell.base]).absolute())

    def make(self) -> list[list[str]]:
        """Fine-tune it, where that is not done, and audit it. Returns the commands."""
        if not (self._audited / MANIFEST_NAME).is_file():
            raise SpvmiaError(f"--work: expected the target of {self._cell.name}, got none; run run.py with it first")
        options = self._cell.finetune_options() | dict(self._place.overrides)
        if self._kind == "self_prompts":  # writing is slow, and prompts are used over and over
            options["prompts"] = max(MIN_RECORDS, int(str(options["prompts"])) // 4)
        if not self._file.is_file():
            n = sum(int(str(options[name])) for name in ("members", "nonmembers", "prompts"))
            texts.write_texts(self._file, self._texts(n, int(str(options["block-size"]))))
        tune = finetune_words(self._model, str(self._file), self.target, options)
        make_target(tune, self.target, options, self._place, self._log)
        metadata: dict[str, Any] = self._cell.audit_options() | {"mia_cache_dir": str(self._place.cache.absolute())}
        model_args = f"pretrained={self._model},peft={self.target}"
        audit = audit_words(model_args, self._attacks, metadata, self.results, self._place)
        execute(audit, self._place, self._log)
        return [tune, audit]

    def _texts(self, n: int, block: int) -> list[str]:
        """Texts for `n` records."""
        from transformers import AutoTokenizer

        if self._kind == "self_prompts":
            return self._written(n * SPARE)
        documents = texts.untouched(self._place.data[self._cell.data], "text", self._audited, self._cell.seed)
        return texts.texts_for(documents, AutoTokenizer.from_pretrained(self._model), n * block * SPARE)

    def _written(self, n: int) -> list[str]:
        """The target's own texts, from the prompts of its manifest."""
        from lm_eval.models.huggingface import HFLM

        from spvmia_plugin.models.hf_backend import HFBackend
        from spvmia_plugin.training.self_prompt import self_prompt
        from spvmia_plugin.util.libraries import quiet_libraries

        records, _ = texts.read_target(self._audited)
        # Another seed than the audit's, whose texts train the reference.
        settings = {**self._cell.audit_options(), "mia_self_prompts": n, "mia_seed": self._cell.seed + 1000}
        block = int(str(self._cell.finetune_options()["block-size"]))
        config = AuditConfig.from_metadata({**settings, "mia_block_size": block})
        documents = as_documents(records["prompts"])
        with quiet_libraries():
            lm = HFLM(pretrained=self._model, peft=str(self._audited), device=self._place.device, batch_size=16)
            return [text for text in self_prompt(HFBackend(lm, config), documents, config) if text]


def read_scores(results: Path, target: Path) -> Scored:
    """Scores of all runs of one audit (a cell may have been run in parts), the latest of each attack.

    Raises:
        SpvmiaError: there are no results, or runs of different records.
    """
    tasks = {task.attack: task for run in read_runs(results) for audit in run.audits for task in audit.tasks}
    clusters = clusters_of(target)
    first = next(iter(tasks.values()))
    order = [record.id for record in first.records]
    scores = {}
    for name, task in tasks.items():
        by_id = dict(zip((record.id for record in task.records), task.scores(), strict=True))
        if set(by_id) != set(order):
            raise SpvmiaError(
                f"results: expected the same records under all attacks in {results}, got others of {name}"
            )
        scores[name] = np.array([by_id[record_id] for record_id in order])
    labels = np.array([record.is_member for record in first.records], dtype=bool)
    return Scored(scores, labels, [clusters.get(record_id, record_id) for record_id in order])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SpvmiaError as problem:
        sys.exit(str(problem))
