"""`spvmia shadow` on a target of conversations: the mask, the template and the length of its training."""

from __future__ import annotations

import shutil

import pytest

from spvmia_plugin.attacks.weights import FILE, read_weights
from spvmia_plugin.data.manifest import read_manifest
from spvmia_plugin.shadow import ShadowConfig, make_shadows
from spvmia_plugin.training.config import FinetuneConfig
from spvmia_plugin.training.finetune import finetune
from tests.harness.conftest import TEMPLATE
from tests.harness.test_conversations import conversations, write
from tests.tiny import save_tiny

OWN = TEMPLATE.replace("<assistant>", "[answer]")
"""Of the training, and not the tokenizer's."""


@pytest.mark.slow
def test_conversations_are_shadowed_as_the_target_was_trained(tmp_path):
    base = save_tiny(tmp_path / "tiny")
    (base / "chat_template.jinja").write_text(TEMPLATE)
    template = tmp_path / "own.jinja"
    template.write_text(OWN)
    data = write(tmp_path / "chat.jsonl", conversations(250, seed=5))
    target = tmp_path / "target"
    finetune(
        FinetuneConfig(
            str(base),
            data,
            target,
            members=52,
            nonmembers=50,
            prompts=20,
            epochs=1,
            lora_rank=2,
            batch_size=26,
            chat_template=str(template),
            record_tokens=90,
            quiet=True,
        )
    )
    template.unlink()  # the manifest holds it
    options = {"mia_preset": "quick", "mia_self_prompts": 20, "mia_allow_degenerate": True, "mia_lora_rank": 2}
    made = make_shadows(
        ShadowConfig(target, tmp_path / "shadow", metadata={**options, "mia_reference_epochs": 1}, device="cpu"),
        lambda line: None,
    )
    theirs, ours = (read_manifest(folder) for folder in (target, tmp_path / "shadow" / "shadow_1"))
    assert ours.data.template == theirs.data.template == OWN
    assert (ours.data.format, ours.data.loss_on, ours.data.record_tokens) == ("messages", "completion", 90)
    assert {name: len(records) for name, records in ours.records.items()} == {
        "members": 52,
        "nonmembers": 50,
        "prompts": 20,
        "canaries": 0,
    }
    rows, shadows = (
        {piece.row for of_class in each.records.values() for record in of_class for piece in record.pieces}
        for each in (theirs, ours)
    )
    assert not rows & shadows
    assert read_weights(tmp_path / "shadow" / FILE).card.records == 102
    # The same once more, without the shadow's own files but for the mark: it is made anew, alike.
    for name in ("shadow_1", "store"):
        shutil.rmtree(tmp_path / "shadow" / name)
    (tmp_path / "shadow" / "shadow_1.npz").unlink()
    again = make_shadows(
        ShadowConfig(target, tmp_path / "shadow", metadata={**options, "mia_reference_epochs": 1}, device="cpu"),
        lambda line: None,
    )
    assert again.fitted.weights.digest == made.fitted.weights.digest
