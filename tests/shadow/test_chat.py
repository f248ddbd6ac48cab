"""`spvmia shadow` on a target of conversations: the mask, the template and the length of its training."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from spvmia_plugin.attacks.weights import FILE, read_weights
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.data.manifest import read_manifest
from spvmia_plugin.data.origin import DataOrigin
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.records import Conversation, Document
from spvmia_plugin.shadow import ShadowConfig, make_shadows
from spvmia_plugin.shadow.plan import ShadowPlan
from spvmia_plugin.shadow.run import Shadows
from spvmia_plugin.training.config import FinetuneConfig
from spvmia_plugin.training.finetune import finetune
from spvmia_plugin.training.shadow import Share, Untouched
from tests.harness.conftest import TEMPLATE
from tests.harness.test_conversations import conversations, write
from tests.tiny import save_tiny
from tests.training.test_shadow import manifest

OWN = TEMPLATE.replace("<assistant>", "[answer]")
"""Of the training, and not the tokenizer's."""


TURNS = ({"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A parcel."})
SWAPPED = tuple({**turn, "role": {"user": "assistant", "assistant": "user"}[turn["role"]]} for turn in TURNS)


def plan_of(held=None, candidate=None):
    """What is to be made of one document, and of one that a candidate reference is trained on."""
    found, beside = (
        () if each is None else (Document("a:1", "What is it?\nA parcel.", conversation=each or None),)
        for each in (held, candidate)
    )
    origin = DataOrigin("/data/chat.jsonl", "text", 0, "random", 5, "messages", "completion", 512)
    target = dataclasses.replace(manifest(block_size=0), **({"data": origin} if held else {}))
    share = Share(6, frozenset(), {"members": 51, "nonmembers": 52, "prompts": 21})
    return ShadowPlan(target, "chat.jsonl", AuditConfig(), Untouched(found, 0, 0, 0), [share], {}, beside)


def claimed(folder, plan, **without):
    """What a folder that was made by a plan says to another."""
    made = {"format": 1, **{key: value for key, value in plan.identity().items() if key not in without}}
    folder.mkdir(exist_ok=True)
    (folder / "shadow.json").write_text(json.dumps(made))
    return Shadows(ShadowConfig(folder / "target", folder), lambda line: None)


@pytest.mark.parametrize(
    "other", [Conversation(SWAPPED), Conversation(TURNS, tools=({"name": "price"},)), Conversation(TURNS, prompt=1)]
)
def test_a_folder_goes_on_with_the_very_conversations_that_it_was_begun_with(tmp_path, other):
    same = Conversation(TURNS)
    shadows = claimed(tmp_path / "shadow", plan_of(same, same))
    shadows._check_claim(plan_of(same, same))
    with pytest.raises(SpvmiaError, match=r"some in .* that differ in the documents of --data; name another folder"):
        shadows._check_claim(plan_of(other, same))
    with pytest.raises(SpvmiaError, match="that differ in the documents of mia_candidate; name another folder"):
        shadows._check_claim(plan_of(same, other))


def test_a_folder_of_conversations_that_an_earlier_version_began_is_refused_with_the_reason(tmp_path):
    same = Conversation(TURNS)
    shadows = claimed(tmp_path / "shadow", plan_of(same), told_by=True)
    with pytest.raises(SpvmiaError, match=r"differ in the version that made them, which told conv.* by what is said"):
        shadows._check_claim(plan_of(same))
    # Texts are told as ever.
    assert "told_by" not in plan_of(False).identity()


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
