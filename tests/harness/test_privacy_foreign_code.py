"""Plugins, tokenizers, models and libraries that raise, warn or explain with the text in hand."""

from __future__ import annotations

import json
import traceback
import warnings
from dataclasses import dataclass
from typing import ClassVar

import pytest

from spvmia_plugin import hookimpl, plugins
from spvmia_plugin.attacks.base import Attack, BlindAttack
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.harness.enable import tasks_folder
from spvmia_plugin.protocols import DatasetSource, Neighbours
from spvmia_plugin.signals import MissingSignal, Need, Role, Unscored
from tests.leaks import Spans, leaks

from .conftest import write_jsonl
from .test_privacy import private_texts

TASK = """
class: !function spvmia_plugin.harness.task.AuditTask
task: {task}
metadata:
  version: 1.0
  spvmia_attack: {attack}
  spvmia_dataset: {dataset}
"""


class Raises(Attack):
    name = "bad_raises"

    @property
    def needs(self):
        return frozenset({Need(Role.TARGET)})

    def score_record(self, signals):
        {}[signals.text]


@dataclass(frozen=True)
class RaisesOurs(Raises):
    name = "bad_ours"

    def score_record(self, signals):
        raise SpvmiaError(f"mia_x: expected another text, got {signals.text!r}")


@dataclass(frozen=True)
class Explains(Raises):
    name = "bad_explains"

    def score_record(self, signals):
        raise MissingSignal(f"no score for {signals.text[:60]}")


@dataclass(frozen=True)
class Answers(Raises):
    name = "bad_answers"

    def score_many(self, records):
        return [Unscored(signals.text.upper()) for signals in records]


@dataclass(frozen=True)
class Blind(BlindAttack):
    name = "bad_blind"

    def score_all(self, texts, is_member, clusters, seed):
        warnings.warn(f"odd: {texts[0]}", stacklevel=1)
        return [Unscored(texts[0])] * len(texts)


@dataclass(frozen=True)
class Config(Raises):
    name = "bad_config"

    def score_record(self, signals):
        object.__setattr__(self, "seen", signals.text)
        return 0.0

    def config(self):
        raise RuntimeError(self.seen)


ATTACKS = (Raises, RaisesOurs, Explains, Answers, Blind, Config)


class Paraphrases:
    name = "bad_paraphrases"
    roles: ClassVar = ()

    def __init__(self, config):
        pass

    def check(self):
        pass

    def settings(self):
        return {}

    def neighbours(self, texts, backend, *, on_done=None):
        try:
            raise ValueError(texts[0].text)
        except ValueError as error:
            raise RuntimeError("cannot paraphrase") from error


class Excuses(Paraphrases):
    name = "bad_excuses"

    def neighbours(self, texts, backend, *, on_done=None):
        return [Neighbours((), reason=f"nothing to say for {document.text}") for document in texts]


def clean(text):
    raise ValueError(f"cannot clean {text}")


class Plugin:
    """Registers all of it; `hooks` are those that are called during a run."""

    @hookimpl
    def spvmia_register_attacks(self):
        return ATTACKS

    @hookimpl
    def spvmia_register_perturbations(self):
        return [Paraphrases, Excuses]

    @hookimpl
    def spvmia_register_datasets(self):
        return [DatasetSource("bad_data", "nobody/nothing", clean=clean)]


class SelfPrompts:
    @hookimpl
    def spvmia_self_prompt(self, prompts):
        raise ValueError(prompts[0].text)


class Trains:
    @hookimpl
    def spvmia_self_prompt(self, prompts):
        return [document.text for document in prompts]

    @hookimpl
    def spvmia_train_reference(self, texts):
        raise ValueError(texts[0])


@pytest.fixture
def private(tmp_path):
    folder = tmp_path / "private"
    folder.mkdir()
    texts = private_texts(60)
    parts = {"mia_members": texts[:20], "mia_nonmembers": texts[20:40], "mia_prompts": texts[40:]}
    return texts, {name: write_jsonl(folder / f"{name}.jsonl", part) for name, part in parts.items()}


@pytest.fixture
def audit(base, adapter, options, private, tmp_path, monkeypatch, capfd, caplog):
    """Run a task with plugins, and return everything that was said, raised and written of it."""
    caplog.set_level("DEBUG")
    texts, files = private
    (tmp_path / "tasks").mkdir()

    def run(task, *registered, attack=None, dataset="custom", **metadata):
        import lm_eval
        from lm_eval.tasks import TaskManager

        if attack is not None:
            content = TASK.format(task=task, attack=attack, dataset=dataset)
            (tmp_path / "tasks" / f"{task}.yaml").write_text(content)

        def register(manager):
            for plugin in (Plugin(), *registered):
                manager.register(plugin)

        monkeypatch.setattr(plugins, "_load_entry_points", register)
        args = {"pretrained": str(base), "peft": str(adapter), "dtype": "float32"}
        cache = {"mia_cache_dir": str(tmp_path / "cache")}
        merged = {**args, **options, **files, **cache, **metadata}
        merged = {key: value for key, value in merged.items() if value is not None}
        folders = [str(tasks_folder()), str(tmp_path / "tasks")]
        manager = TaskManager(metadata=merged, include_path=folders, include_defaults=False)
        error, result = None, None
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("default")
            try:
                result = lm_eval.simple_evaluate(
                    model="hf", model_args=args, tasks=[task], task_manager=manager, metadata=merged, device="cpu",
                    batch_size=8, log_samples=True, write_out=True,
                )  # fmt: skip
            except SpvmiaError as raised:
                error = raised
        trace = "".join(traceback.format_exception(error)) if error else ""
        chain = repr([error, error.__cause__, error.__context__]) if error else ""
        said = (
            trace
            + chain
            + "".join(capfd.readouterr())
            + caplog.text
            + str([each.message for each in seen])
            + json.dumps(result, default=str)
        )
        spans = Spans([*texts, *(text.upper() for text in texts), *(text.lower() for text in texts)])
        if not metadata.get("mia_log_text"):
            assert spans.in_text(said) == []
            assert leaks(tmp_path, spans, aside=["self_prompts", "private"]) == []
        return error, result, said

    return run


def line_of(error, *parts):
    line = str(error)
    assert all(part in line for part in (*parts, "test_privacy_foreign_code.py:", "mia_log_text shows it")), line


def test_an_attack_that_raises(audit):
    error, _, _ = audit("bad_raises_mia_custom", attack="bad_raises")
    line_of(error, "the audit: expected ", "got KeyError with mia_")


def test_an_attack_that_raises_our_own_error(audit):
    error, _, _ = audit("bad_ours_mia_custom", attack="bad_ours")
    line_of(error, "got SpvmiaError with mia_")


def test_an_attack_whose_config_raises(audit):
    error, _, _ = audit("bad_config_mia_custom", attack="bad_config")
    line_of(error, "bad_config_mia_custom: expected ", "got RuntimeError at ")


@pytest.mark.parametrize("attack", ["bad_explains", "bad_answers", "bad_blind"])
def test_an_attack_that_explains_with_the_text(audit, attack):
    _, result, said = audit(f"{attack}_mia_custom", attack=attack)
    (samples,) = result["samples"].values()
    reasons = {json.loads(sample["resps"][0][0])["reason"] for sample in samples}
    assert reasons == {"a reason that quotes a record and is left out"}
    assert ("UserWarning, whose message may quote a record" in said) == (attack == "bad_blind")


def test_who_allows_text_sees_the_message(audit, private):
    error, _, _ = audit("bad_raises_mia_custom", attack="bad_raises", mia_log_text=True)
    assert any(text in str(error.__cause__.args[0]) for text in private[0])


def test_a_perturbation_that_raises(audit):
    error, _, _ = audit("neighbour_mia_custom", mia_perturbation="bad_paraphrases")
    line_of(error, "got RuntimeError at ")


def test_a_perturbation_that_explains_with_the_text(audit):
    _, result, _ = audit("neighbour_mia_custom", mia_perturbation="bad_excuses")
    (samples,) = result["samples"].values()
    reasons = {json.loads(sample["resps"][0][0])["reason"] for sample in samples}
    assert reasons == {"a reason that quotes a record and is left out"}


@pytest.mark.parametrize("plugin", [SelfPrompts, Trains])
def test_a_hook_that_raises(audit, plugin):
    error, _, _ = audit("spv_mia_custom", plugin(), mia_perturbation="embedding")
    line_of(error, "got ValueError at ")


def test_a_data_set_that_raises(audit, private):
    error, _, _ = audit(
        "loss_mia_bad_data", attack="loss", dataset="bad_data", mia_dataset_path=private[1]["mia_members"],
        mia_members=None, mia_nonmembers=None, mia_prompts=None,
    )  # fmt: skip
    line_of(error, "reading the data: expected ", "got ValueError at ")


@pytest.mark.parametrize("place", ["packing", "reading", "forward", "generate", "backend"])
def test_what_our_own_code_calls_on_records(audit, monkeypatch, place, private):
    """A tokenizer, a model and a backend that raise with the text."""
    import transformers

    from spvmia_plugin.models.hf_backend import HFBackend

    text = private[0][0]
    tokenizer = place in ("packing", "reading")
    if tokenizer:
        owner = transformers.PreTrainedTokenizerBase
    else:
        owner = HFBackend if place in ("backend", "generate") else transformers.LlamaForCausalLM
    name = "__call__" if tokenizer else {"backend": "score"}.get(place, place)
    real, calls = getattr(owner, name), []

    def raising(self, *args, **kwargs):
        calls.append(1)
        if tokenizer and not (args and args[0] in private[0]):
            return real(self, *args, **kwargs)
        try:
            raise KeyError(text)
        finally:
            raise ValueError(f"in the middle of {text}")

    monkeypatch.setattr(owner, name, raising)
    task = "spv_mia_custom" if place == "generate" else "loss_mia_custom"
    error, _, _ = audit(task, mia_perturbation="embedding", mia_block_size=8 if place == "packing" else 0)
    assert calls
    line_of(error, "got ValueError")


def test_finetune(tmp_path, base, private, monkeypatch, capfd):
    import transformers

    from spvmia_plugin.training.config import FinetuneConfig
    from spvmia_plugin.training.finetune import finetune

    texts, _ = private
    real = transformers.PreTrainedTokenizerBase.__call__

    def raising(self, text, *args, **kwargs):
        if text in texts:
            raise ValueError(text)
        return real(self, text, *args, **kwargs)

    monkeypatch.setattr(transformers.PreTrainedTokenizerBase, "__call__", raising)
    config = FinetuneConfig(
        str(base),
        write_jsonl(tmp_path / "data.jsonl", texts),
        tmp_path / "out",
        members=20,
        nonmembers=20,
        prompts=4,
        block_size=0,
        epochs=1,
    )
    with pytest.raises(SpvmiaError, match=r"^--data: expected .* got ValueError with data.jsonl:\d+ at ") as caught:
        finetune(config)
    said = "".join(traceback.format_exception(caught.value)) + "".join(capfd.readouterr())
    assert Spans(texts).in_text(said) == []
