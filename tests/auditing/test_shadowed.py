"""What an audit says of weights that were fitted for another."""

from __future__ import annotations

import dataclasses

from spvmia_plugin.auditing.shadowed import COMPARED, audit_settings, rows_of, shadow_note, weights_mark
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


def noted(made, data=DATA, base=None):
    note = shadow_note(made, SETTINGS, data, base)
    return None if note is None else note.partition("may be worth less: ")[2]


def test_a_base_goes_by_its_weights_where_both_sides_tell_them():
    marks = [weights_mark({"weights": [{"files": {"model.safetensors": digest}}]}) for digest in ("a", "b")]
    of_hub = weights_mark({"weights": [{"hub": "org/smollm2", "commit": "c"}]})
    assert marks[0] is not None
    assert marks[0].startswith("files ")
    made = {**MADE, "base_weights": marks[0]}
    assert noted(made, base=marks[0]) is None
    assert noted(made, base=marks[1]) == "a base of other weights"
    elsewhere = dataclasses.replace(DATA, base_model="/models/copy")
    assert noted(made, elsewhere, marks[0]) is None  # the same weights under another name
    assert noted(made, elsewhere, marks[1]) == "base copy, the shadow's smollm2"
    unnamed = dataclasses.replace(DATA, base_model=None)
    assert noted(made, unnamed, marks[1]) == "a base of other weights"
    # Told in another way, or not at all: by the name.
    for told in (of_hub, None):
        assert noted(made, base=told) is None
        assert noted(made, elsewhere, told) == "base copy, the shadow's smollm2"
    nothing_told = (None, {}, {"weights": []}, {"weights": [{"files": {}}, None]})
    assert [weights_mark(each) for each in nothing_told] == [None] * 4


def test_other_records_are_named():
    text = {**MADE, "rows": rows_of("text", 64, None)}
    assert noted(text) is None
    whole = dataclasses.replace(DATA, block_size=0)
    assert noted(text, whole) == "tokens of a record those of its document, the shadow's 64"
    rendering = {"template": {"default": "a"}, "training_template": None, "loss_on": "completion", "max_tokens": 512}
    chat = {**MADE, "rows": rows_of("messages", 0, rendering)}

    def of_chat(**more):
        provenance = {**DATA.provenance, "rendering": {**rendering, **more}}
        return dataclasses.replace(whole, format="messages", provenance=provenance)

    assert noted(chat, of_chat()) is None
    assert noted(chat, of_chat(loss_on="all")) == "loss on all, the shadow's completion"
    assert noted(chat, of_chat(max_tokens=90)) == "tokens at most 90, the shadow's 512"
    assert str(noted(chat, of_chat(template={"default": "b"}))).startswith("chat template ")
    assert noted(chat) == "format text, the shadow's messages"
    assert noted(text, of_chat()) == "format messages, the shadow's text"
