"""What training arguments and models say, of whatever trainer they are."""

from __future__ import annotations

import enum
from types import SimpleNamespace

import pytest

from spvmia_plugin.trainers.callback import _context, _mask_of
from spvmia_plugin.trainers.facts import adapter_folder, facts_of, versions


class Strategy(enum.Enum):
    LINEAR = "linear"


class AnyArguments(SimpleNamespace):
    pass


class DPOArguments(SimpleNamespace):
    pass


def test_settings_have_the_names_of_finetune(tmp_path):
    args = AnyArguments(
        num_train_epochs=3,
        learning_rate=1e-4,
        seed=7,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        world_size=3,
        lr_scheduler_type=Strategy.LINEAR,
        max_seq_length=512,
    )
    lora = SimpleNamespace(
        peft_type=SimpleNamespace(value="LORA"),
        base_model_name_or_path=str(tmp_path),
        r=8,
        lora_alpha=16,
        lora_dropout=0.1,
        target_modules={"v_proj", "q_proj"},
    )
    lora.peft_type = enum.Enum("Kind", {"LORA": "LORA"}).LORA
    other = SimpleNamespace(**{**vars(lora), "r": 99})
    model = SimpleNamespace(config=None, peft_config={"old": other, "mine": lora}, active_adapter="mine")
    facts = facts_of(args, SimpleNamespace(module=model))
    assert (facts.arguments, facts.base_model, facts.method) == ("AnyArguments", str(tmp_path), "lora")
    assert (facts.max_length, facts.packing, facts.caveats) == (512, None, ())
    assert facts.settings == {
        "epochs": 3,
        "lr": 1e-4,
        "seed": 7,
        "batch_size": 24,
        "lr_scheduler_type": "linear",
        "max_length": 512,
        "lora_rank": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.1,
        "lora_targets": "q_proj,v_proj",
        "method": "lora",
    }


def test_the_folder_of_an_adapter():
    model = SimpleNamespace(config=None, peft_config={"mine": 1}, active_adapter="mine")
    assert adapter_folder(SimpleNamespace(module=model)) == "mine"
    model.active_adapter = "default"
    assert adapter_folder(model) == ""
    assert adapter_folder(SimpleNamespace(config=None, active_adapter="mine")) == ""


def test_a_whole_model_and_one_without_a_name():
    named = SimpleNamespace(config=SimpleNamespace(_name_or_path="org/base"))
    assert facts_of(AnyArguments(), named).base_model == "org/base"
    assert facts_of(AnyArguments(), named).method == "full"
    assert facts_of(AnyArguments(), SimpleNamespace(config=SimpleNamespace())).base_model == ""


@pytest.mark.parametrize(
    ("given", "packing", "said"),
    [
        ({"packing": True, "packing_strategy": "bfd"}, "bfd", ["packed (bfd)"]),
        ({"packing": True, "packing_strategy": "wrapped"}, "wrapped", ["packed (wrapped)"]),
        ({"packing": True}, "unknown", ["packed (unknown)"]),
        ({"packing": False, "sample_packing": True}, "multipack", ["packed (sample_packing)"]),
        ({"neftune_noise_alpha": 5.0, "label_smoothing_factor": 0.1}, None, ["NEFTune", "smoothed"]),
        ({"truncation_mode": "keep_end"}, None, ["their ends"]),
        ({"loss_type": "dft"}, None, ["dft"]),
        ({"loss_type": "nll", "packing": False, "truncation_mode": "keep_start"}, None, []),
    ],
)
def test_what_the_score_leaves_out_is_said(given, packing, said):
    facts = facts_of(AnyArguments(**given), SimpleNamespace(config=None))
    assert facts.packing == packing
    assert len(facts.caveats) == len(said)
    assert all(word in caveat for word, caveat in zip(said, facts.caveats, strict=True))


def test_preferences_are_said():
    facts = facts_of(DPOArguments(beta=0.1, loss_type=["sigmoid"]), SimpleNamespace(config=None))
    assert facts.caveats == (
        "trained on preferences: every attack but premia scores the chosen side, given its prompt",
    )


@pytest.mark.parametrize(
    ("name", "said", "of_preferences"),
    [
        ("CPOConfig", "trained on preferences", True),
        ("KTOConfig", "trained by labels (KTO): completions with the label false are trained down", False),
        ("GRPOConfig", "trained on answers that the model wrote itself", False),
        ("OnlineDPOConfig", "trained on answers that the model wrote itself", False),
        ("SFTConfig", None, False),
    ],
)
def test_who_else_has_a_beta_trains_on_no_preferences(name, said, of_preferences):
    args = type(name, (SimpleNamespace,), {})(beta=0.1, loss_type="sigmoid")
    facts = facts_of(args, SimpleNamespace(config=None))
    assert facts.of_preferences == of_preferences
    assert [caveat.startswith(said) for caveat in facts.caveats] == ([True] if said else [])


@pytest.mark.parametrize(
    ("settings", "kind", "expected"),
    [
        ({}, "messages", "all"),
        ({"assistant_only_loss": True}, "messages", "completion"),
        ({"completion_only_loss": None}, "prompt_completion", "completion"),
        ({"completion_only_loss": False}, "prompt_completion", "all"),
        ({"train_on_inputs": False}, "sharegpt", "completion"),
        ({"train_on_inputs": True}, "sharegpt", "all"),
        ({"beta": 0.1}, "messages", "completion"),
    ],
)
def test_the_mask_by_arguments_alone(settings, kind, expected):
    assert _mask_of(settings, kind) == expected


def test_the_context_where_nothing_was_cut():
    tokenizer = SimpleNamespace(model_max_length=10**30)
    model = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=2048))
    assert _context(tokenizer, model) == 2048
    assert _context(SimpleNamespace(model_max_length=256), model) == 256
    assert _context(tokenizer, None) == 1_000_000


def test_versions_are_of_what_is_there():
    found = versions()
    assert found["transformers"]
    assert "axolotl" not in found
