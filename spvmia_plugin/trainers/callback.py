"""`MembershipManifest`: writes `mia_manifest.json` beside the weights that another trainer saves.

An audit then needs no option: which records were trained on, which were not, and how they became tokens is read from
the trainer that the callback is in.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from spvmia_plugin.config import Format, affordable
from spvmia_plugin.data.conversations import PREFERENCE
from spvmia_plugin.data.manifest import MANIFEST_NAME, Manifest, write_manifest
from spvmia_plugin.data.rows_read import rows_read
from spvmia_plugin.data.weights import weights_of
from spvmia_plugin.errors import SpvmiaError, reason_of
from spvmia_plugin.records import LossOn
from spvmia_plugin.trainers.building import NO_CUT, Rendering, Written, build_manifest, digest_of
from spvmia_plugin.trainers.declared import Declared, Reading, check_format, read_declared
from spvmia_plugin.trainers.facts import Facts, adapter_folder, facts_of, versions, weights_in
from spvmia_plugin.trainers.passes import Passes, passes_of, planned, progress
from spvmia_plugin.trainers.places import own_key, private
from spvmia_plugin.trainers.seen import Sighting
from spvmia_plugin.trainers.view import View
from spvmia_plugin.util.boundary import behind
from spvmia_plugin.util.console import shown
from spvmia_plugin.util.files import private_folder, write_private

MASKS = ("auto", "all", "completion")
_MARK = "_spvmia_manifest"


class MembershipManifest(TrainerCallback):  # type: ignore[misc]
    """A callback of any trainer built on transformers' that records who was a member of its training.

    It writes `mia_manifest.json` (mode 0600) into every checkpoint, and into `output_dir` at the end. It trains on
    nothing and changes nothing about the training, its random numbers included.

    Args:
        members: the records that are trained on: a file, a folder or pattern of files, `hf:NAME`, or a
            `datasets.Dataset`. Beside other rows of the training they may be a part of them.
        nonmembers: records like them that are not trained on.
        prompts: held-out records; by default a quarter of the non-members.
        candidate: other records of the same kind, for a candidate reference.
        text_column: the column with plain text.
        format: what rows are; `auto` goes by their keys.
        unit_column: the column that says whom a record belongs to; it is kept as a keyed hash.
        group_column: the column with the group of an audited record, as `mia_group_column` will name it: rows that lie
            nowhere on disk are kept with it, or the audit would not find it.
        loss_on: which tokens of conversations carry loss; `auto` reads it from the trainer's rows.
        data_dir: folder for rows that lie nowhere on disk, and for manifests that must stay out of an upload.
        strict: stop before the training where its data are not the declared members, or cannot be held against them. A
            stream goes on with a warning, and so do data of which some members stand in no row that was read, of more
            rows than are read.
        allow_hub: write the manifest beside the weights although the trainer uploads that folder.

    Raises:
        SpvmiaError: no members or non-members, the same text or unit on both sides, a row without a unit where its
            column is named, a stream, a file that cannot be read.
    """

    def __init__(
        self,
        members: Any = None,
        nonmembers: Any = None,
        prompts: Any = None,
        candidate: Any = None,
        *,
        text_column: str = "text",
        format: Format = "auto",  # noqa: A002 - as the option is called
        unit_column: str | None = None,
        group_column: str | None = None,
        loss_on: str = "auto",
        data_dir: str | Path | None = None,
        strict: bool = False,
        allow_hub: bool = False,
    ) -> None:
        check_format(format, "format=")
        if loss_on not in MASKS:
            raise SpvmiaError(f"loss_on=: expected one of {', '.join(MASKS)}, got {loss_on!r}; correct it")
        self.strict = strict
        self.allow_hub = allow_hub
        self.data_dir = data_dir
        self._loss_on = loss_on
        self._key = own_key(data_dir)
        rows_folder = private(data_dir) / "rows"
        reading = Reading(
            text_column,
            format,
            unit_column,
            text_column != "text",
            rows_folder,
            self._key,
            group_column=group_column,
        )
        given = {"members": members, "nonmembers": nonmembers, "prompts": prompts, "candidate": candidate}
        self._of_units = reading.told_of_units
        self._declared: Declared = behind(lambda: read_declared(given, reading, seed=0), doing="members=")
        self._manifest: Manifest | None = None
        self._passes: Passes | None = None
        self._adapter = ""

    def on_init_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._claim(control)

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        processing_class: Any = None,
        train_dataloader: Any = None,
        **_: Any,
    ) -> None:
        """Read the trainer's settings, and hold its rows against the declared ones.

        Raises:
            SpvmiaError: two of these callbacks; with `strict`, other data than declared, or data that are not checked;
                the tokenizer or another library fails on a record, without what it says of it.
        """
        self._claim(control)
        first = bool(state.is_world_process_zero)
        self._passes = passes_of(train_dataloader, getattr(args, "world_size", 1))
        if first or self.strict:
            behind(
                lambda: self._begin(args, model, processing_class, train_dataloader, first=first),
                doing="members=",
                texts=self._declared.texts,
            )
        if first and self._passes is not None:
            read = self._passes.read(planned(state, args, self._passes))
            if (part := rows_read(read, self._passes.rows)) is not None:
                say(
                    f"warning: this training is to read {part.in_words()}: members among the others will be none, and "
                    "the audit will say so (train for a whole epoch, or declare as members what is read)"
                )

    def _begin(self, args: Any, model: Any, processing_class: Any, train_dataloader: Any, *, first: bool) -> None:
        """All of it that reads records; of processes but the first, what `strict` asks for."""
        facts = facts_of(args, model)
        self._adapter = adapter_folder(model)
        tokenizer = getattr(processing_class, "tokenizer", processing_class)
        view = View(facts, tokenizer, train_dataloader)
        sighting, longest = view.sighting(self._declared)
        if self.strict:
            _insist(sighting, first=first)
        if not first:
            return
        rendering, notes = self._rendering(facts, sighting, tokenizer, model, longest)
        trainer = {
            "class": facts.arguments,
            "packing": facts.packing,
            "data": sighting.data,
            "notes": [*facts.caveats, *sighting.notes, *notes],
            "template": digest_of(rendering.template),
            **self._of_units,
        }
        written = Written("trainer", facts.base_model, facts.method, facts.settings, versions(), trainer, args.seed)
        self._keep_rows()
        self._manifest = build_manifest(self._declared, rendering, written, tokenizer, self._key)
        self._tell(self._manifest)
        if args.push_to_hub and not self.allow_hub:
            say(
                f"warning: this trainer uploads {args.output_dir}, and the manifest names training records: it is kept "
                f"out, in {self._away(args)} (allow_hub=True writes it beside the weights)"
            )

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._manifest is not None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            place = self._place(folder)
            self._write(args, folder, progress(state, self._passes), lambda: weights_of(place))

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if self._manifest is None:
            return
        self._manifest = replace(self._manifest, weights=weights_in(model))
        best = bool(getattr(args, "load_best_model_at_end", False))
        self._manifest = replace(self._manifest, training=progress(state, self._passes, best=best))
        if (part := self._manifest.partly_read) is not None:
            say(
                f"warning: the training read {part.in_words()}: members among the others are none, and the audit will "
                "say so"
            )
        folder = self._place(Path(args.output_dir))
        bound = self._manifest.weights  # what lies in the folder is what an earlier training left there
        path = self._write(args, Path(args.output_dir), self._manifest.training, lambda: bound)
        if path is None:
            return
        named = "" if path.parent == folder else f",mia_manifest={shlex.quote(str(path))}"
        say(
            f"{MANIFEST_NAME} (private: it names the training records) is in {path.parent}, for weights that are saved "
            "in output_dir; after trainer.save_model(elsewhere) call write(elsewhere) of this callback. Audit it with:"
        )
        say(audit_command(self._manifest, folder, model) + named)

    def on_push_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take the manifest out of a folder that is about to be uploaded (transformers 5)."""
        path = self._place(Path(args.output_dir)) / MANIFEST_NAME
        if self._manifest is None or self.allow_hub or not path.exists():
            return
        away = self._away(args)
        private_folder(away.parent)
        write_private(away, path.read_bytes())
        path.unlink()
        say(f"warning: {path} names training records and would have been uploaded: it is now {away}")

    def write(self, folder: str | Path) -> Path:
        """Write the manifest into a folder that the weights were saved in after the training.

        Raises:
            SpvmiaError: nothing was trained yet, or it cannot be written there.
        """
        if self._manifest is None:
            raise SpvmiaError(
                "write: expected a training before it, on the first process, got none; call train() first"
            )
        folder = Path(folder)
        if self._place(folder).is_dir():
            folder = self._place(folder)
        try:
            bound = weights_of(folder) or self._manifest.weights
            write_manifest(replace(self._manifest, weights=bound), folder / MANIFEST_NAME)
        except (OSError, ValueError) as error:
            raise SpvmiaError(
                f"write: expected a folder with saved weights that can be written, got {folder} ({reason_of(error)}); "
                "save the model there first"
            ) from error
        return folder / MANIFEST_NAME

    def _claim(self, control: Any) -> None:
        """One of these a trainer: two would write one file in turns."""
        if getattr(control, _MARK, self) is not self:
            raise SpvmiaError(
                "callbacks: expected one MembershipManifest, got two, which would write the same file; give one of "
                "them all the records"
            )
        setattr(control, _MARK, self)

    def _rendering(
        self, facts: Facts, sighting: Sighting, tokenizer: Any, model: Any, longest: int
    ) -> tuple[Rendering, list[str]]:
        notes = []
        kind = self._declared.kind
        loss_on: LossOn = "all"
        if self._loss_on != "auto":
            loss_on = "all" if self._loss_on == "all" else "completion"
            if kind != "text" and sighting.loss_on not in (None, loss_on):
                notes.append(f"loss_on={loss_on} was given, and the trainer's rows carry loss on {sighting.loss_on}")
        elif sighting.loss_on is not None:
            loss_on = sighting.loss_on
        elif kind != "text":
            loss_on = _mask_of(facts.settings, kind)
            notes.append(f"which tokens carried loss is not seen in the rows: {loss_on}, by the trainer's arguments")
        if facts.of_preferences and kind != PREFERENCE:
            notes.append(
                "the declared rows have no rejected side, so premia, which compares both, will score none; declare the "
                "rows as they are trained on (prompt, chosen, rejected)"
            )
        max_tokens = facts.max_length
        if max_tokens is None or (kind == "text" and tokenizer is None):
            max_tokens = longest or (NO_CUT if kind == "text" else _context(tokenizer, model))
        template = getattr(tokenizer, "chat_template", None)
        end_token = sighting.way == "end" or (sighting.way is None and "dataset_text_field" in facts.settings)
        text = template if isinstance(template, str) and kind != "text" else None
        return Rendering(loss_on, max_tokens, kind == "text" and end_token, 0, text), notes

    def _keep_rows(self) -> None:
        try:
            kept = self._declared.keep_rows()
        except OSError as error:
            raise SpvmiaError(
                f"data_dir: expected room for the rows of data sets in memory, got {reason_of(error)}; name another"
            ) from error
        for path in dict.fromkeys(kept):
            say(f"rows of a data set in memory are kept for the audit in {path} (0600)")

    def _tell(self, manifest: Manifest) -> None:
        numbers = {name: len(side.documents) for name, side in self._declared.sides.items()}
        listed = ", ".join(f"{number} {name}" for name, number in numbers.items())
        scored = "" if manifest.data.format == "text" else f", loss on {manifest.data.loss_on}"
        seen = str(manifest.trainer["data"])
        say(f"membership manifest: {listed} ({manifest.data.format}{scored}); the trainer's data: {seen}")
        if seen.startswith("differs"):
            say("warning: the trainer's data are not the declared ones; the audit will say so (strict=True stops here)")
        for note in manifest.trainer["notes"]:
            say(f"note: {note}")

    def _place(self, folder: Path) -> Path:
        """Where the weights lie that are saved into a folder."""
        return folder / self._adapter if self._adapter else folder

    def _away(self, args: Any) -> Path:
        name = Path(args.output_dir).absolute().name
        mark = "" if self._manifest is None else f"-{self._manifest.fingerprint[:8]}"
        return private(self.data_dir) / "manifests" / f"{name}{mark}.json"

    def _write(self, args: Any, folder: Path, training: Mapping[str, object], bound: Callable[[], Any]) -> Path | None:
        """Write it there, or away from what is uploaded. What goes wrong is said: it ends no training."""
        if self._manifest is None:
            return None
        folder = self._place(folder)
        path = folder / MANIFEST_NAME
        try:
            if args.push_to_hub and not self.allow_hub:
                path = self._away(args)
                private_folder(path.parent)
            path.parent.mkdir(exist_ok=True)  # of an adapter with a name of its own, before it is saved
            write_manifest(replace(self._manifest, training=training, weights=bound()), path)
        except (OSError, ValueError) as error:
            say(f"warning: {path} could not be written ({reason_of(error)}); the training goes on without it")
            return None
        return path


def _insist(sighting: Sighting, *, first: bool) -> None:
    """What `strict` asks for; of all processes the first says what goes on.

    Raises:
        SpvmiaError: the trainer's data are not the declared ones, or are not known to be, though they lie there.
    """
    told = sighting.data.partition(": ")[2]
    if sighting.differs:
        raise SpvmiaError(f"members=: {told}; declare what is trained on, or leave strict out")
    if sighting.is_unchecked and not sighting.unreadable:
        raise SpvmiaError(
            f"members=: expected data that can be held against the declared ones, as strict asks for, got {told}; "
            "mend that, or leave strict out"
        )
    if sighting.unreadable and first:
        say("warning: strict: the trainer's data cannot be read before they are trained on; it goes on unchecked")


def _mask_of(settings: Mapping[str, object], kind: str) -> LossOn:
    """As TRL and axolotl: the completion of rows that have one, every token of messages unless somebody said so."""
    if settings.get("assistant_only_loss") or "beta" in settings or settings.get("train_on_inputs") is False:
        return "completion"
    of_completion = settings.get("completion_only_loss")
    return "completion" if kind in ("prompt_completion", "instruction") and of_completion is not False else "all"


def _context(tokenizer: Any, model: Any) -> int:
    """Tokens that can be read at once."""
    config = getattr(model, "config", None)
    found = [getattr(config, "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None)]
    return min([int(each) for each in found if isinstance(each, int) and 1 < each < NO_CUT], default=NO_CUT)


def audit_command(manifest: Manifest, folder: Path, model: Any) -> str:
    """The `lm_eval` command for weights in a folder; the manifest is found there.

    Preferences have an attack of their own, in no group. The metadata come last. What a CPU trained in float32 is
    audited so: many take many times as long in bfloat16, as models are saved.
    """
    place = shlex.quote(os.path.abspath(folder))
    base = shlex.quote(manifest.base_model or "BASE")
    weights = f"pretrained={place}" if manifest.method == "full" else f"pretrained={base},peft={place}"
    first: Any = next(iter(model.parameters()), None) if model is not None else None
    on_cpu = first is not None and first.device.type == "cpu"
    if on_cpu and str(first.dtype) == "torch.float32":
        weights += ",dtype=float32"
    tasks = "mia_custom,premia_mia_custom" if manifest.data.format == PREFERENCE else "mia_custom"
    spent = affordable(len(manifest.records["members"]), on_cpu=on_cpu)
    options = f"--tasks {tasks} --output_path results --log_samples --metadata {spent}"
    return f"lm_eval --model hf --model_args {weights} {options}"


def say(line: str) -> None:
    """A line for whoever watches the training."""
    print(shown(f"spvmia: {line}"), file=sys.stderr, flush=True)
