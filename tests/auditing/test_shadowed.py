"""What an audit says of weights that were fitted for another."""

from __future__ import annotations

import dataclasses

from spvmia_plugin.auditing.shadowed import COMPARED, audit_settings, shadow_note
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.records import AuditData

RECIPE = {"method": "lora", "epochs": 3.0, "lr": 2e-4}
SETTINGS = AuditConfig(self_prompts=250)
DATA = AuditData(
    records=(),
    prompts=(),
    candidate=(),
    membership="manifest",
    fingerprint="",
    source="",
    block_size=64,
    base_model="/models/smollm2",
    provenance={"manifest_fingerprint": "f", "finetune": {**RECIPE, "seed": 1}},
)
MADE = {"base_model": "/elsewhere/smollm2", "target": "f", "recipe": RECIPE, "audit": audit_settings(SETTINGS)}


def test_an_audit_of_the_same_kind_has_no_note():
    assert shadow_note(MADE, SETTINGS, DATA) is None
    assert shadow_note({}, SETTINGS, DATA) is None  # a card that tells nothing


def test_every_difference_is_named_with_both_values():
    settings = AuditConfig(self_prompts=1000, candidate="none")
    data = dataclasses.replace(
        DATA,
        base_model="/models/pythia",
        provenance={"manifest_fingerprint": "g", "finetune": {**RECIPE, "epochs": 10.0}},
    )
    assert shadow_note(MADE, settings, data) == (
        "learned: the shadow was made for another audit than this one, so its weights may be worth less: base pythia, "
        "the shadow's smollm2, records of another target, epochs 10.0, the shadow's 3.0, mia_self_prompts 1000, the "
        "shadow's 250, mia_candidate none, the shadow's None"
    )


def test_records_that_are_declared_tell_no_recipe():
    data = dataclasses.replace(DATA, base_model=None, provenance={})
    assert shadow_note(MADE, SETTINGS, data) is None


def test_what_is_compared_are_options():
    assert set(COMPARED) <= {field.name for field in dataclasses.fields(AuditConfig)}
    assert {"mia_self_prompts", "mia_candidate", "mia_reference_lr"} <= audit_settings(SETTINGS).keys()


def test_files_go_by_their_name_wherever_they_lie():
    here, there = (AuditConfig(candidate=f"{place}/held_out.jsonl") for place in ("/a", "/b"))
    assert audit_settings(here)["mia_candidate"] == "held_out.jsonl"
    assert shadow_note({"audit": audit_settings(here)}, there, DATA) is None
    other = shadow_note({"audit": audit_settings(here)}, AuditConfig(candidate="/a/more.jsonl"), DATA)
    assert other is not None
    assert other.endswith("mia_candidate more.jsonl, the shadow's held_out.jsonl")
