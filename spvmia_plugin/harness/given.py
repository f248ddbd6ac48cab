"""What a task is given by its YAML, its options and the model's arguments, taken apart and checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_eval.config.task import TaskConfig

from spvmia_plugin.attacks.base import BlindAttack
from spvmia_plugin.config import PREFIX, AuditConfig
from spvmia_plugin.errors import SpvmiaError, did_you_mean
from spvmia_plugin.harness.shared import adapter_of
from spvmia_plugin.models.copies import quantised_copy
from spvmia_plugin.models.identity import same_model
from spvmia_plugin.plugins import Registry
from spvmia_plugin.records import AuditData
from spvmia_plugin.util.files import label

_OWN_KEYS = ("spvmia_attack", "spvmia_dataset", "spvmia_audit", "spvmia_version")


def parted(config: Mapping[str, Any], version: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """What of a YAML is the harness's, and its metadata with what is ours put into them, for who reads the results.

    What stands in the metadata themselves wins: earlier versions had all of it there.

    Raises:
        SpvmiaError: the YAML names no attack or data set, or has a key that nobody knows.
    """
    source = str((config.get("metadata") or {}).get("config_source", "the task's YAML"))
    own = {key: config[key] for key in _OWN_KEYS if config.get(key) is not None}
    metadata: dict[str, Any] = {"version": version, **own, **(config.get("metadata") or {})}
    for key in ("spvmia_attack", "spvmia_dataset"):
        if not isinstance(metadata.get(key), str):
            raise SpvmiaError(
                f"{source}: expected '{key}', got {metadata.get(key)!r}; begin the file with "
                "'include: <attack>_mia_<dataset>.yaml' of the folder that 'spvmia tasks' prints"
            )
    known = {field.name for field in dataclasses.fields(TaskConfig)}
    fields = {key: value for key, value in config.items() if key not in {"class", *_OWN_KEYS}}
    for key in fields:
        if key not in known:
            hint = did_you_mean(str(key), [*known, *_OWN_KEYS])
            raise SpvmiaError(
                f"{source}: {key}: unknown key{hint}; options of an audit (mia_...) belong under metadata"
            )
    return fields, metadata


def canary_attack(settings: AuditConfig, of_task: str, registry: Registry) -> str:
    """The attack that guesses the coins: of the options, else of the task's YAML.

    It is chosen before any score is seen: the best of several on the same coins would bound nothing.

    Raises:
        SpvmiaError: no such attack, or one that does not ask the model.
    """
    guessing = {name: attack for name, attack in registry.attacks.items() if not issubclass(attack, BlindAttack)}
    name = settings.canary_attack if "canary_attack" in settings.given else of_task
    if name not in guessing:
        why = ", which does not look at the model" if name in registry.attacks else did_you_mean(name, guessing)
        raise SpvmiaError(f"mia_canary_attack: expected one of {', '.join(sorted(guessing))}, got {name!r}{why}")
    return name


def check_utf8(metadata: Mapping[str, Any]) -> None:
    """Arguments of the model go into the harness's own results, which it could not write after all the work."""
    for key, value in metadata.items():
        if isinstance(value, str) and not key.startswith((PREFIX, "config_source")) and label(value) != value:
            raise SpvmiaError(
                f"{key}: expected a path in UTF-8, got {label(value)!r}, which lm_eval cannot write into its results; "
                "rename the folder, or name a link to it"
            )


def check_base(data: AuditData, settings: AuditConfig, metadata: Mapping[str, Any]) -> list[str]:
    """A manifest names the base its records were trained into; an adapter loaded on another base is a mistake.

    Returns:
        What is to be told: that the base was loaded from a quantised copy.
    """
    loaded = metadata.get("pretrained")
    if data.base_model is None or not adapter_of(metadata) or not isinstance(loaded, (str, Path)):
        return []  # the harness puts no adapter on a model that comes as an object
    loaded = str(loaded)
    moved = settings.base_model is not None and same_model(settings.base_model, loaded)
    if moved or same_model(loaded, data.base_model):
        return []
    revision = metadata.get("revision")
    packed = quantised_copy(loaded, data.base_model, None if revision is None else str(revision))
    if packed is not None:
        return [
            f"the base that was loaded, {loaded}, is the manifest's, {data.base_model}, in {packed}: what is audited "
            "is the quantised model"
        ]
    raise SpvmiaError(
        f"mia_manifest: the manifest belongs to base model {data.base_model!r}, got pretrained={loaded!r}; load the "
        "adapter on the base it was trained on (if that was moved, say so with mia_base_model), or name the right "
        "manifest"
    )
