"""What two audits must share to be compared: plain text as ever, conversations as they turned out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spvmia_plugin.export.common import protocol_digits
from spvmia_plugin.results import read_runs
from spvmia_plugin.results.comparable import conditions, settings_that_differ
from spvmia_plugin.results.model import Audit
from tests.results.builders import fake_audit, write_run

OF_CONVERSATIONS = ("format", "loss_on", "chat_template", "record_tokens", "self_prompt", "allow_degenerate")
RENDERING = {"template": {"default": "a" * 64}, "training_template": None, "loss_on": "completion", "max_tokens": 1024}


def audit_of(
    folder: Path, *, without: tuple[str, ...] = (), chat: dict[str, Any] | None = None, **options: Any
) -> Audit:
    """One audit as it is read back, perhaps without settings that earlier versions did not have."""
    provenance = {} if chat is None else {"rendering": RENDERING | chat.get("rendering", {})}
    results = write_run(folder, [fake_audit({"spv": 1.0, "loss": 0.5}, provenance=provenance, **options)])
    told = json.loads(results.read_text())
    for config in told["configs"].values():
        audit = config["metadata"]["mia_audit"]
        for name in without:
            del audit["settings"][f"mia_{name}"]
        if chat is not None:
            scored = {"format": "messages", "loss_on": "completion", "tokens": 10, "context_tokens": 90}
            audit["scored"] = scored | chat.get("scored", {})
            audit["n"]["prompts"] = chat.get("prompts", 100)
    results.write_text(json.dumps(told))
    [run] = read_runs(results)
    return run.audits[0]


def digits(audit: Audit) -> str:
    return protocol_digits(audit, *audit.tasks)


def test_results_of_plain_text_from_before_conversations_are_comparable(tmp_path: Path) -> None:
    now = audit_of(tmp_path / "now")
    before = audit_of(tmp_path / "before", without=OF_CONVERSATIONS)
    assert digits(now) == digits(before)
    assert not {name for name in conditions(now, now.tasks, "models", "fingerprint") if "loss on" in name}


@pytest.mark.parametrize(
    "settings",
    [{"mia_format": "text"}, {"mia_loss_on": "all"}, {"mia_self_prompt": "prefix"}, {"mia_allow_degenerate": True}],
)
def test_options_that_say_nothing_of_plain_text_are_no_conditions(tmp_path: Path, settings: dict[str, object]) -> None:
    assert digits(audit_of(tmp_path / "one")) == digits(audit_of(tmp_path / "other", settings=settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"mia_format": "messages"},
        {"mia_loss_on": "completion"},
        {"mia_self_prompt": "reply"},
        {"mia_allow_degenerate": True},
        {"mia_record_tokens": 512},  # what counts is where they were cut: a manifest may have said so
    ],
)
def test_conversations_are_compared_as_they_turned_out(tmp_path: Path, settings: dict[str, object]) -> None:
    one, other = audit_of(tmp_path / "one", chat={}), audit_of(tmp_path / "other", chat={}, settings=settings)
    assert digits(one) == digits(other)


@pytest.mark.parametrize(
    ("chat", "settings"),
    [
        (None, {}),
        ({"scored": {"loss_on": "all"}}, {}),
        ({"scored": {"format": "sharegpt"}}, {}),
        ({"rendering": {"max_tokens": 512}}, {}),
        ({}, {"mia_chat_template": "t.jinja"}),
        ({}, {"mia_self_prompt": "whole"}),
        ({"prompts": 0}, {}),  # which makes it whole
    ],
)
def test_conversations_read_otherwise_are_not_comparable(
    tmp_path: Path, chat: dict[str, Any] | None, settings: dict[str, object]
) -> None:
    one = audit_of(tmp_path / "one", chat={})
    assert digits(one) != digits(audit_of(tmp_path / "other", chat=chat, settings=settings))


def test_templates_are_the_models_own_unless_one_was_named(tmp_path: Path) -> None:
    other = {"rendering": {"template": {"default": "b" * 64}}}
    assert digits(audit_of(tmp_path / "a", chat={})) == digits(audit_of(tmp_path / "b", chat=other))
    named = {"settings": {"mia_chat_template": "t.jinja"}}
    assert digits(audit_of(tmp_path / "c", chat={}, **named)) != digits(audit_of(tmp_path / "d", chat=other, **named))
    elsewhere = {"settings": {"mia_chat_template": "/else/t.jinja"}}
    assert digits(audit_of(tmp_path / "e", chat={}, **named)) == digits(audit_of(tmp_path / "f", chat={}, **elsewhere))


def test_frozen_weights_are_a_condition_and_those_of_a_shadow_one_recipe(tmp_path: Path) -> None:
    audit = audit_of(tmp_path)
    task = audit.tasks[0]

    def under(weights: dict[str, Any] | None, **parameters: Any) -> dict[str, str]:
        attack = replace(task.mia_audit.attack, parameters={**task.mia_audit.attack.parameters, **parameters})
        told = replace(task.mia_audit, attack=attack, learned=weights)
        return dict(conditions(audit, [replace(task, mia_audit=told)], "models", "fingerprint"))

    name = f"weights of {task.attack}"
    assert name not in under(None)
    assert name not in under({"of": "a plugin's"})
    assert under({"weights": "shipped", "digest": "a"})[name] == "a"
    one, other = (under({"weights": "shadow", "digest": d}, shadow=f"/{d}") for d in ("a", "b"))
    assert one == other
    assert one[name] == "a shadow's"


def test_audits_of_one_data_set_say_what_they_do_not_share(tmp_path):
    """Settings as they stand there, one that only some were given, other data, coins; nothing that all share."""
    seeds = [audit_of(tmp_path / str(seed), seed=seed, settings={"mia_unit_column": "user"}) for seed in (0, 1)]
    assert settings_that_differ(seeds) == "mia_seed (0, 1)"
    other = audit_of(
        tmp_path / "other", fingerprint="0" * 64, settings={"mia_min_k": 0.5, "mia_unit_column": "a\u202eb"}
    )
    told = settings_that_differ([*seeds, other])
    assert told.startswith("data (4f122957, 00000000), mia_min_k (not given, 0.5), mia_seed (0, 1), mia_unit_column (")
    assert "\u202e" not in told
    results = write_run(tmp_path / "canaries", [fake_audit({"spv": 2.0}, canary=True)])
    [[canaries]] = [run.audits for run in read_runs(results)]
    assert settings_that_differ([audit_of(tmp_path / "plain"), canaries]) == "audit (records, canaries)"
    assert settings_that_differ([canaries, canaries]) == "which records they are of"
