"""What plugins hand over: kept under their versions, and checked where it arrives, in words that name the plugin."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from spvmia_plugin import hookimpl
from spvmia_plugin.attacks.base import Attack
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.plugins import load_registry
from spvmia_plugin.protocols import Neighbours, TextEdits
from spvmia_plugin.signals import Need, Role, View
from tests.auditing.fakes import make_data
from tests.auditing.test_run import run


class Stars:
    """Paraphrases by a star in place of a character; `made` gives other ones of a text."""

    name = "stars"
    roles = ()

    def __init__(self, config):
        self._count = 2 * config.perturbations

    def check(self):
        pass

    def settings(self):
        return {}

    def neighbours(self, texts, backend, on_done=None):
        made = [self.made(text) for text in texts]
        on_done(dict(enumerate(made)))
        return made

    def made(self, text):
        return Neighbours(tuple(TextEdits(((i, i + 1, "*"),)) for i in range(self._count)), 1 / len(text.text))


@dataclass(frozen=True)
class Nearby(Attack):
    """The mean over the paraphrases alone."""

    name = "nearby"

    @property
    def needs(self):
        return frozenset({Need(Role.TARGET, View.NEIGHBOURS)})

    def score_record(self, signals):
        return float(sum(each.mean_logprob for each in signals.neighbours_of(Role.TARGET)))


def registry_of(perturbation=Stars, attacks=(Nearby,), version="1.0"):
    """The built-ins, and a distribution `acme` of a version with these."""
    plugin = SimpleNamespace(
        spvmia_register_perturbations=hookimpl(lambda: [perturbation]),
        spvmia_register_attacks=hookimpl(lambda: list(attacks)),
    )
    registry = load_registry(entry_points=False)
    registry.manager.register(plugin, name="acme")
    known = registry.distribution_of
    registry.distribution_of = lambda each: f"acme {version}" if each is plugin else known(each)
    return registry


def paraphrased(tmp_path, perturbation=Stars, version="1.0", names=("nearby",), **options):
    options = {"mia_perturbation": "stars", **options}
    return run(tmp_path, list(names), data=make_data(3), registry=registry_of(perturbation, version=version), **options)


def test_paraphrases_of_another_version_of_a_plugin_are_made_anew(tmp_path):
    """And those of the same version are not."""

    class Dots(Stars):
        def made(self, text):
            return Neighbours(tuple(TextEdits(((i, i + 1, "."),)) for i in range(self._count)), 0.1)

    first, _ = paraphrased(tmp_path)
    same, backend = paraphrased(tmp_path, Dots)
    assert same.results == first.results
    assert not backend.scored
    later, _ = paraphrased(tmp_path, Dots, version="1.1")
    fresh, _ = paraphrased(tmp_path / "fresh", Dots, version="1.1")
    assert later.results == fresh.results != first.results
    assert (first.plugins, later.plugins) == ({"acme": "1.0"}, {"acme": "1.1"})


def test_only_plugins_that_take_part_are_told(tmp_path):
    registry = registry_of()
    ours, _ = run(tmp_path, ["loss"], registry=registry)
    assert ours.plugins == {}
    trained, _ = run(tmp_path, ["spv"], registry=registry)
    assert trained.plugins == {}
    registry.manager.register(SimpleNamespace(spvmia_self_prompt=hookimpl(lambda: None)), name="by-hand")
    trained, _ = run(tmp_path, ["spv", "nearby"], registry=registry, mia_perturbation="stars")
    assert trained.plugins == {"acme": "1.0", "by-hand": "unknown"}


def with_texts(tmp_path, texts, *, told=None):
    """The outcome where a plugin writes the self-prompts, and tells `on_done` of some first."""
    registry = load_registry(entry_points=False)

    def spvmia_self_prompt(on_done):
        if told is not None:
            on_done(told)
        return texts

    registry.manager.register(SimpleNamespace(spvmia_self_prompt=hookimpl(spvmia_self_prompt)), name="writer")
    return run(tmp_path, ["spv_ez"], data=make_data(3), registry=registry)[0]


@pytest.mark.parametrize(
    ("texts", "told", "got"),
    [
        ("one text", None, "str"),
        ({"a": "b"}, None, "dict"),
        ([1, 2], None, "int among them"),
        (["one", b"two"], None, "bytes among them"),
        ([], None, "none"),
        (["one", None, "three", None], None, "None for 2 of 4 that are not there yet"),
        (["one", None], {0: "one"}, "None for 1 of 2 that are not there yet"),
        (["one"], {0: 3}, "int among them"),
        (["one"], ["one"], r"list for on_done, which takes \{position: text\}"),
        (["one"], {"0": "one"}, "a text at another position than a whole number >= 0: str"),
        (["one"], {-1: "one"}, "a text at another position than a whole number >= 0: int"),
    ],
)
def test_self_prompts_that_are_no_texts_are_refused_by_the_plugin_s_name(tmp_path, texts, told, got):
    message = rf"^spvmia_self_prompt: expected a list of texts, got {got}; correct the plugin \(writer\)$"
    with pytest.raises(SpvmiaError, match=message):
        with_texts(tmp_path, texts, told=told)


def test_another_number_of_self_prompts_is_told(tmp_path):
    outcome = with_texts(tmp_path, ["one", None, "three"], told={1: "two"})
    assert outcome.details["self_prompts"]["texts"] == 3
    (note,) = [note for note in outcome.notes if "self-prompts" in note]
    assert note == (
        "a plugin gave 3 self-prompts for the reference, and mia_self_prompts asks for 6: with fewer texts a reference "
        "calibrates less"
    )
    asked = with_texts(tmp_path / "all", [f"text {i}" for i in range(6)])
    assert not [note for note in asked.notes if "self-prompts" in note]
