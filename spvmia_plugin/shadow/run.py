"""Makes the shadows one after the other: fine-tune, audit, keep the features; then fit, and say what came out."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from spvmia_plugin.attacks.base import AuditAttack
from spvmia_plugin.attacks.pooled import VERSION
from spvmia_plugin.attacks.weights import FILE
from spvmia_plugin.auditing.fitted_on import FittedShadow, same_hash, write_fitted_on
from spvmia_plugin.auditing.outcome import unscored_by_reason
from spvmia_plugin.auditing.plan import duration
from spvmia_plugin.auditing.shadowed import weights_mark
from spvmia_plugin.data.manifest import MANIFEST_NAME, read_manifest
from spvmia_plugin.data.sources import Loaded, source_name
from spvmia_plugin.errors import SpvmiaError, reason_of
from spvmia_plugin.plugins import Registry, load_registry
from spvmia_plugin.shadow.fitting import FOLDS, Fitted, fit_shadows, lacking
from spvmia_plugin.shadow.plan import ShadowConfig, ShadowPlan
from spvmia_plugin.shadow.tables import Seen, read_table, write_table
from spvmia_plugin.training.finetune import Say, finetune
from spvmia_plugin.training.shadow import Share, shadow_config
from spvmia_plugin.util.boundary import behind
from spvmia_plugin.util.files import as_path, private_folder, write_private
from spvmia_plugin.util.strict_json import any_loads

STATE = "shadow.json"
TEMPLATE = "chat_template.jinja"
FORMAT = 1
ATTACK = "learned"
NOT_OF_A_SHADOW = ("mia_dataset_path", "mia_group_column")
"""Options of the target's audit that a shadow's does without: its manifest says where its data are, and its columns
need not have a name for groups, which say nothing of its features."""


@dataclass(frozen=True)
class Made:
    """What `spvmia shadow` made.

    Attributes:
        plan: what was asked for.
        fitted: the weights, and what they are worth on the shadows.
        output: the folder.
        command: that audits the target with them.
    """

    plan: ShadowPlan
    fitted: Fitted
    output: Path
    command: str

    def told(self) -> list[str]:
        """What people want to know, on one screen."""
        card, found = self.fitted.weights.card, self.fitted
        control = card.control[found.variant]
        shadows = f"{len(self.plan.shares)} {'shadow' if len(self.plan.shares) == 1 else 'shadows'}"
        return [
            f"fitted on {card.records} records of {shadows}; models beside the target: {MODELS[found.variant]}",
            f"  AUROC on the shadows' own records, in {FOLDS} folds over documents   {found.auroc:.3f}",
            f"  the same with permuted labels, {control['fits']} fits (chance is .5)   {control['auroc']:.3f} "
            f"(deviation {control['sd']:.3f})",
            f"{self.output / FILE} written; audit the target with it:",
            self.command,
        ]

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        card = self.fitted.weights.card
        return {
            "output": str(self.output),
            "weights": str(self.output / FILE),
            "shadows": len(self.plan.shares),
            "sizes": dict(self.plan.shares[0].sizes),
            "left_out": {name: getattr(self.plan.found, name) for name in ("units", "same", "near", "repeated")},
            "records": card.records,
            "variant": self.fitted.variant,
            "auroc_in_folds": self.fitted.auroc,
            "control": dict(card.control),
            "audit": self.command,
        }


MODELS = {
    "both": "base, self-prompted reference and candidate reference",
    "candidate": "base and candidate reference",
    "reference": "base and self-prompted reference",
    "base": "base alone",
}


def make_shadows(config: ShadowConfig, say: Say = print) -> Made:
    """Make what is missing of a target's shadows, fit on them, and write the weights.

    Args:
        config: what is asked for.
        say: called with each line for people; never with the text of a record.

    Raises:
        SpvmiaError: what is wrong with target, data or folder, before any long work; too few records.
    """
    shadows = Shadows(config, say)
    plan, audits = shadows.run()
    fitted = fit_shadows(audits, summary_of(plan), plan.manifest.data.seed)
    told = {
        **fitted.weights.card.settings,
        **plan.card_settings(),
        "shadows": [seen.fitted.manifest for seen in audits],
        "base_weights": audits[0].base if len({seen.base for seen in audits}) == 1 else None,
    }
    weights = replace(fitted.weights, card=replace(fitted.weights.card, settings=told))
    output = shadows.layout.root
    content = json.dumps(weights.to_json(), indent=1, sort_keys=True, allow_nan=False) + "\n"
    with shadows.writing():  # the weights last: without what they were fitted on nobody is to find them
        write_fitted_on(output, [seen.fitted for seen in audits])
        write_private(output / FILE, content.encode())
    command = audit_words(plan.manifest.base_model, config, plan.manifest.method, output)
    made = Made(plan, replace(fitted, weights=weights), output, command)
    for line in made.told():
        say(line)
    return made


def summary_of(plan: ShadowPlan) -> str:
    """Fitted on what, in a line that may be published."""
    count = len(plan.shares)
    return (
        f"{count} {'shadow' if count == 1 else 'shadows'} of one target's recipe on "
        f"{Path(plan.manifest.base_model).name}, {plan.shares[0].sizes['members']} members each, on "
        f"{source_name(plan.data)}"
    )


class Layout:
    """Where `spvmia shadow` keeps what it makes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / STATE
        self.template = root / TEMPLATE
        self.store = root / "store"

    def model(self, number: int) -> Path:
        """The folder of a shadow, from 1 on."""
        return self.root / f"shadow_{number}"

    def table(self, number: int) -> Path:
        """What its audit saw."""
        return self.root / f"shadow_{number}.npz"


class Shadows:
    """Makes the shadows of one target.

    Args:
        config: what is asked for.
        say: called with each line for people.
    """

    def __init__(self, config: ShadowConfig, say: Say) -> None:
        self.config = config
        self.layout = Layout(as_path(config.output, "--output", utf8=True).absolute())
        self._say = say
        self._registry: Registry = load_registry()

    def run(self) -> tuple[ShadowPlan, list[Seen]]:
        """Do what is not done yet, and return what the audits saw of every shadow that is asked for.

        Raises:
            SpvmiaError: what is wrong with target, data or folder, before any long work.
        """
        manifest = read_manifest(self.config.target, option="--target")
        self._check_folder()
        template = self.layout.template if manifest.data.template is not None else None
        with self.writing():
            private_folder(self.layout.root)
            if template is not None:
                write_private(template, str(manifest.data.template).encode())
        loaded: list[Loaded] = []
        plan = behind(
            lambda: ShadowPlan.of(self.config, manifest, self._registry, template, self._say, loaded),
            doing="--data",
            texts=lambda: [(document.id, document.text) for one in loaded for document in one.documents],
        )
        numbers = range(1, len(plan.shares) + 1)
        done = [number for number in numbers if self.layout.table(number).is_file()]
        self._check_claim(plan)
        if len(done) < len(plan.shares):
            self._check_audit(plan)
        with self.writing():
            write_private(self.layout.state, json.dumps({"format": FORMAT, **plan.identity()}, indent=1).encode())
        for line in plan.told():
            self._say(line)
        if done:
            self._say(f"{len(done)} of {len(plan.shares)} shadows are there already")
        tables = [self._made(plan, number, share, template) for number, share in zip(numbers, plan.shares, strict=True)]
        return plan, tables

    def _check_folder(self) -> None:
        root = self.layout.root
        if root.exists() and not root.is_dir():
            raise SpvmiaError(f"--output: expected a folder, got the file {root}; name another")
        # A run that was killed before its first mark leaves the template at most.
        there = [path.name for path in root.iterdir()] if root.is_dir() else []
        if there and not self.layout.state.is_file() and there != [TEMPLATE]:
            raise SpvmiaError(
                f"--output: expected a new or empty folder, or one that 'spvmia shadow' made, got {root} with other "
                "files; name another"
            )

    def _check_claim(self, plan: ShadowPlan) -> None:
        """Make sure that what is in the folder are shadows of this very plan."""
        if self.layout.state.is_file() and (differing := _differing(self._state(), plan.identity())):
            raise SpvmiaError(
                f"--output: expected shadows of this target, recipe, data and audit, got some in "
                f"{self.layout.root} that differ in {', '.join(differing)}; name another folder, or remove this one"
            )

    def _state(self) -> Mapping[str, Any]:
        try:
            made = any_loads(self.layout.state.read_bytes())
        except (OSError, ValueError) as error:
            raise SpvmiaError(
                f"--output: cannot read {self.layout.state} ({reason_of(error)}); name another folder, or remove it"
            ) from error
        if not isinstance(made, dict) or made.get("format") != FORMAT:
            raise SpvmiaError(
                f"--output: {self.layout.state}: expected the mark of 'spvmia shadow' in format {FORMAT}, got another "
                "file; name another folder, or remove this one"
            )
        return made

    def _made(self, plan: ShadowPlan, number: int, share: Share, template: Path | None) -> Seen:
        """What the audit saw of one shadow, which is made if it is not there.

        Raises:
            SpvmiaError: the audit saw too little to be fitted on; nothing is kept of it then.
        """
        place = self.layout.table(number)
        known = read_table(place) if place.is_file() else None
        if known is not None and self._is_enough(known, plan):
            return known
        head = f"[shadow {number} of {len(plan.shares)}]"
        started = time.monotonic()
        folder = self.layout.model(number)
        config = shadow_config(plan.manifest, plan.data, share, folder, template, self.config.trust_remote_code)
        if not (folder / MANIFEST_NAME).is_file():  # finished, and killed before its audit: it is written last
            self._say(f"{head} fine-tuning")
            finetune(config, self._say_of_finetuning, self._registry.datasets, share.of)
        self._say(f"{head} audit with {ATTACK}")
        seen, reasons = self._audit(plan, folder)
        if (little := lacking(seen, plan.manifest.data.seed)) is not None:
            why = "; ".join(f"{reason} ({count} records)" for reason, count in reasons.items())
            raise SpvmiaError(
                f"--metadata: expected of shadow {number} {little}; "
                + (f"without features: {why}; change what keeps them from being scored" if why else "name more data")
            )
        with self.writing():
            write_table(place, seen)
        self._say(f"{head} done in {duration(time.monotonic() - started)}")
        return seen

    def _is_enough(self, known: Seen, plan: ShadowPlan) -> bool:
        """Whether what is kept of an audit is what this version would see, and enough to fit on.

        Another version of the attack may look at other things: the store then has most of what it asks for.
        """
        is_of_now = known.version == VERSION and known.names == self._feature_names(plan)
        return is_of_now and lacking(known, plan.manifest.data.seed) is None

    def _check_audit(self, plan: ShadowPlan) -> None:
        """Refuse what the audits would fail by before a shadow is trained: the target's under the same options.

        The base stands for the model, whose weights are not looked at.

        Raises:
            SpvmiaError: an option that goes with neither model nor data.
        """
        from spvmia_plugin.harness.in_process import check, load_task

        given = {key: value for key, value in self.config.metadata.items() if key != "mia_group_column"}
        target = self._model(plan, self.config.target)
        base = {**target, "pretrained": plan.manifest.base_model, "peft": None}
        with TemporaryDirectory() as store:  # of what is refused nothing stays in the folder
            task = load_task(
                "loss_mia_custom", target, {"mia_cache_dir": store, **given, "mia_manifest": str(plan.manifest.path)}
            )
            check(task, {ATTACK: task.registry.attack(ATTACK, task.settings)}, base)

    def _model(self, plan: ShadowPlan, folder: Path) -> dict[str, Any]:
        """The harness's arguments for a model of the target's recipe."""
        found: dict[str, Any] = {"pretrained": plan.manifest.base_model, "peft": str(folder)}
        if plan.manifest.method != "lora":
            found = {"pretrained": str(folder)}
        return {**found, **({"trust_remote_code": True} if self.config.trust_remote_code else {})}

    def _say_of_finetuning(self, line: str) -> None:
        """Its plan and its estimate; the command that audits a shadow by itself is not what comes next."""
        if line.startswith(("plan: ", "estimate: ")):
            self._say(f"  {line}")

    def _feature_names(self, plan: ShadowPlan) -> tuple[str, ...]:
        attack = self._registry.attack(ATTACK, plan.settings)
        if not isinstance(attack, AuditAttack):
            raise SpvmiaError(
                f"plugins: expected {ATTACK!r} to score all records of an audit at once, got {type(attack).__name__}; "
                "uninstall the plugin that takes its place"
            )
        return tuple(attack.feature_names)

    def _audit(self, plan: ShadowPlan, folder: Path) -> tuple[Seen, Mapping[str, int]]:
        """What the audit of one shadow sees, and why it sees nothing of some records, with their number."""
        from spvmia_plugin.harness.in_process import audit, load_task

        arguments = self._model(plan, folder)
        given = {key: value for key, value in self.config.metadata.items() if key not in NOT_OF_A_SHADOW}
        # Any task on the manifest's records: what is run on them is said below.
        task = load_task("loss_mia_custom", arguments, {"mia_cache_dir": str(self.layout.store), **given})
        attack = task.registry.attack(ATTACK, task.settings)
        outcome = audit(task, {ATTACK: attack}, arguments, device=self.config.device)
        seen = outcome.features[ATTACK]
        known = {record.id: record for record in task.data.records}
        share = read_manifest(folder)
        hashes = tuple(same_hash(share.fingerprint_key, known[id_]) for id_ in seen.ids)
        has_features = set(seen.ids)
        without = {id_: each for id_, each in outcome.results[ATTACK].items() if id_ not in has_features}
        found = Seen(
            table=seen.table,
            labels=np.array([known[id_].is_member for id_ in seen.ids], dtype=np.bool_),
            names=tuple(seen.names),
            clusters=[known[id_].cluster for id_ in seen.ids],
            about={"base": Path(share.base_model).name, "epochs": share.settings["epochs"], "seed": share.data.seed},
            base=weights_mark(outcome.models.get("base")),
            fitted=FittedShadow(share.fingerprint, share.fingerprint_key, hashes),
        )
        return found, unscored_by_reason(without)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A disk that is full, or a folder that nobody may write to, in one line."""
        try:
            yield
        except OSError as error:
            raise SpvmiaError(
                f"--output: cannot write to {self.layout.root} ({error.strerror}); name another folder"
            ) from error


_CALLED = {
    "target": "the target's records",
    "base_model": "the base",
    "documents": "the documents of --data",
    "candidate": "the documents of mia_candidate",
}


def _differing(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What two plans differ in, as users call it."""
    if made.get("told_by") != wanted.get("told_by"):
        return ["the version that made them, which told conversations by what is said alone"]
    found: list[str] = []
    for name, value in wanted.items():
        before = made.get(name)
        if name in ("recipe", "audit", "data", "records") and isinstance(before, dict):
            keys = [key for key in {**before, **value} if before.get(key) != value.get(key)]
            called = {"recipe": "--{}", "audit": "{}", "data": "data: {}", "records": "number of {}"}[name]
            found += [called.format(key.replace("_", "-") if name == "recipe" else key) for key in keys]
        elif before != value:
            found.append(_CALLED.get(name, name))
    return found


def audit_words(base: str, config: ShadowConfig, method: str, output: Path) -> str:
    """The command that audits the target with what was fitted, under the same options."""
    target = config.target.absolute()
    model = f"pretrained={base},peft={target}" if method == "lora" else f"pretrained={target}"
    if config.trust_remote_code:
        model += ",trust_remote_code=True"
    metadata = json.dumps({"mia_shadow": str(output), **config.metadata})
    return shlex.join(
        [
            *("lm_eval", "--model", "hf", "--model_args", model, "--tasks", f"{ATTACK}_mia_custom"),
            *("--metadata", metadata, "--output_path", "results", "--log_samples"),
        ]
    )
