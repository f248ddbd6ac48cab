"""The steps of one cell: fine-tune, make the files an ablation needs, audit, summarise.

A target that is there is taken after a look at its recipe. The audit is always run: what it needs of an earlier one
comes from its store, which knows the weights it belongs to, and a results folder does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.paper import texts
from benchmarks.paper.cells import Cell
from benchmarks.paper.commands import Place, audit_words, execute, finetune_words
from benchmarks.paper.quantise import quantised
from benchmarks.paper.summary import summarise_audit
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.data.manifest import MANIFEST_NAME, read_manifest
from spvmia_plugin.errors import SpvmiaError

ORACLE_HELD_OUT = 20
"""Non-members of a reference's own fine-tuning: the command wants some, nobody uses them."""
CANDIDATE_SHARE = 2
"""Candidate documents are chosen to hold so many times the tokens of the self-prompts: packing leaves some out."""


ALL = "all"
"""Folder of the results of a run with all attacks of a cell; any other is named after its attacks."""


class Steps:
    """Runs one cell.

    Args:
        cell: which.
        place: where.
        say: called with a line at each step.
    """

    def __init__(self, cell: Cell, place: Place, say: Any = print) -> None:
        self.cell = cell
        self.place = place
        self._say = say
        self.model = str(Path(place.models[cell.base]).absolute())
        self.data = place.data[cell.data]
        self.target = place.work.absolute() / "targets" / cell.target
        self._log = place.work.absolute() / "logs" / f"{cell.name}.log"
        self._files = place.work.absolute() / "files" / cell.name

    def run(self, attacks: Sequence[str]) -> dict[str, Any]:
        """Everything: the summary of these attacks."""
        finetune = self.finetune()
        words, output = self.audit_command(attacks)
        command = self.place.shown(words)
        self._say(f"  {command}")
        execute(words, self.place, self._log)
        return summarise_audit(output, self.target, command) | {"finetune": finetune}

    def finetune(self) -> dict[str, Any]:
        """Make the target if it is not there. Returns command, settings and cost."""
        return self._kind_of_peft() if self.cell.change.peft else self._lora_or_full(self.cell)

    def _lora_or_full(self, cell: Cell) -> dict[str, Any]:
        target = self.target.with_name(cell.target)
        options = cell.finetune_options() | dict(self.place.overrides)
        words = finetune_words(self.model, self.data, target, options)
        make_target(words, target, options, self.place, self._log, self._say)
        return finetune_record(target, self.place.shown(words))

    def _kind_of_peft(self) -> dict[str, Any]:
        """The main cell's records on another kind of adapter, which `spvmia finetune` does not make."""
        from benchmarks.paper.peft_target import train_target

        self._lora_or_full(self.cell.main)
        if not (self.target / MANIFEST_NAME).is_file():
            self._say(f"  training a target by {self.cell.change.peft} on the main cell's members")
            main = self.target.with_name(self.cell.main.target)
            train_target(main, self.target, self.cell.change.peft, self.cell.finetune_options())
        return finetune_record(self.target, f"benchmarks/paper/peft_target.py, {self.cell.change.peft}")

    def audit_command(self, attacks: Sequence[str]) -> tuple[list[str], Path]:
        """The command of the audit and where its results go; makes the files it names."""
        metadata: dict[str, Any] = self.cell.audit_options() | {"mia_cache_dir": str(self.place.cache.absolute())}
        if self.place.mask_model:
            metadata["mia_mask_model"] = str(Path(self.place.mask_model).absolute())
        target = self.target
        change = self.cell.change
        if "lira_candidate" in attacks and (candidate := self._candidate(metadata)):
            metadata["mia_candidate"] = str(candidate)
        if change.reference:
            metadata["mia_reference"] = str(self._true_reference(change.reference))
        if change.prompts:
            target = texts.bare_copy(self.target, self._files / "target")
            metadata |= self._declared(change.prompts)
        is_adapter = self.cell.finetune_options()["method"] == "lora" or change.peft
        model = self.model
        if change.bits:
            bases = self.place.work.absolute() / "bases"
            model = str(quantised(model, change.bits, bases / f"{self.cell.base}-{change.bits}bit"))
            target = texts.on_another_base(self.target, model, self._files / "target")
        model_args = f"pretrained={model},peft={target}" if is_adapter else f"pretrained={target}"
        tag = ALL if set(attacks) == set(self.cell.attacks) else "-".join(sorted(attacks))[:80]
        output = self.place.work.absolute() / "results" / self.cell.name / tag
        return audit_words(model_args, attacks, metadata, output, self.place), output

    def _candidate(self, metadata: Mapping[str, Any]) -> Path | None:
        """Documents of the same data that the target's manifest does not name; None where none are left."""
        path = self.place.work.absolute() / "files" / self.cell.main.name / "candidate.jsonl"
        if not path.is_file():
            settings = AuditConfig.from_metadata(metadata)
            tokens = CANDIDATE_SHARE * settings.self_prompts * self._block
            documents = texts.untouched(self.data, "text", self.target, self.cell.seed)
            chosen = texts.texts_for(documents, self._tokenizer, tokens)
            if not chosen:
                return None
            texts.write_texts(path, chosen)
        return path

    def _true_reference(self, kind: str) -> Path:
        """A reference fine-tuned by the self-prompted one's recipe on true data: of the same set or of another."""
        output = self.place.work.absolute() / "references" / f"{self.cell.main.target}__{kind}"
        settings = AuditConfig.from_metadata(self.cell.audit_options())
        options = {
            "members": settings.self_prompts,
            "nonmembers": ORACLE_HELD_OUT,
            "prompts": 1,
            "block-size": self._block,
            "epochs": settings.reference_epochs,
            "lr": settings.reference_lr,
            "lora-rank": settings.lora_rank,
            "lora-alpha": settings.lora_alpha,
            "lora-dropout": settings.lora_dropout,
            "batch-size": settings.reference_batch,
            "seed": self.cell.seed,
        }
        if settings.lora_targets:
            options["lora-targets"] = ",".join(settings.lora_targets)
        words = finetune_words(self.model, str(self._true_data(kind, settings.self_prompts)), output, options)
        make_target(words, output, options, self.place, self._log, self._say)
        return output

    def _true_data(self, kind: str, n: int) -> Path:
        source = self.place.data[str(self.place.other)] if kind == "other" else self.data
        documents = texts.untouched(source, "text", self.target, self.cell.seed)
        wanted = CANDIDATE_SHARE * (n + ORACLE_HELD_OUT) * self._block
        return texts.write_texts(self._files / "reference.jsonl", texts.texts_for(documents, self._tokenizer, wanted))

    def _declared(self, kind: str) -> dict[str, Any]:
        """The manifest's records as files, and other prompts."""
        records, _ = texts.read_target(self.target)
        other = []
        if kind == "other":
            other = texts.untouched(self.place.data[str(self.place.other)], "text", self.target, self.cell.seed)
        prompts = texts.prompt_texts(kind, self._tokenizer, self._block, len(records["prompts"]), other)
        named = {name: [record.text for record in records[name]] for name in ("members", "nonmembers")}
        written = {
            f"mia_{name}": str(texts.write_texts(self._files / f"{name}.jsonl", items))
            for name, items in {**named, "prompts": prompts}.items()
        }
        nothing = {"mia_prompt_tokens": 1} if kind == "none" else {}
        return {**written, **nothing, "mia_block_size": 0}

    @property
    def _block(self) -> int:
        return int(str(self.cell.finetune_options()["block-size"]))

    @property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.model)


def make_target(
    words: Sequence[str], target: Path, options: Mapping[str, object], place: Place, log: Path, say: Any = print
) -> None:
    """Fine-tune a target unless it is there.

    Raises:
        SpvmiaError: the fine-tuning failed, or the target that is there was made by another recipe.
    """
    if not (target / MANIFEST_NAME).is_file():
        say(f"  {place.shown(words)}")
        execute(words, place, log)
        return
    made = read_manifest(target).settings
    for name, value in options.items():
        there = made.get(name.replace("-", "_"))
        if _plain(there) != _plain(value):
            raise SpvmiaError(
                f"--work: expected a target fine-tuned with --{name} {value}, got one with {there} in {target}; "
                "remove it, or name another folder"
            )


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def finetune_record(target: Path, command: str) -> dict[str, Any]:
    """What a fine-tuning did, from its manifest; nothing that names a record."""
    manifest = read_manifest(target)
    names = ("losses", "steps", "tokens", "seconds")
    return {
        "command": command,
        "settings": dict(manifest.settings),
        "versions": dict(manifest.versions),
        **{name: manifest.training.get(name) for name in names},
    }
