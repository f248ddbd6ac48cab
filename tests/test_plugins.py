"""The hooks: each one used by a plugin and called, misuse refused, and docs/plugins.md kept true."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pluggy
import pytest

from spvmia_plugin import __version__, builtins, hookimpl, hookspecs, lazy, plugins, protocols
from spvmia_plugin.attacks import builtin_attacks
from spvmia_plugin.attacks.base import Attack
from spvmia_plugin.attacks.reference_free import Loss
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.lazy import Lazy
from spvmia_plugin.plugins import Registry, hook_names, load_registry
from spvmia_plugin.protocols import Backend, DatasetSource, completed
from spvmia_plugin.records import Document, Rendered
from tests.example_install import EXAMPLE, install_example

DOCS = Path(__file__).parent.parent / "docs" / "plugins.md"
HOOKS = hook_names()


def registry_with(*implementations: Any) -> Registry:
    """A registry of the built-ins and of one plugin that has these functions."""
    registry = load_registry(entry_points=False)
    plugin = SimpleNamespace(**{function.__name__: hookimpl(function) for function in implementations})
    registry.manager.register(plugin, name="under-test")
    return registry


@dataclass(frozen=True)
class Mine(Attack):
    """An attack with an option of its own."""

    name = "mine"
    options = {"level": "mia_mine_level"}  # noqa: RUF012
    level: float = 0.5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"level": "mine_level"},
            "options of lower-case .* that begin with mia_ as options, got 'mine_level'",
        ),
        ({"level": "mia_"}, "options of lower-case letters, .* that begin with mia_ as options, got 'mia_'"),
        ({"level": "mia_My-Level"}, "options of lower-case letters, .* as options, got 'mia_My-Level'"),
        ({"level": 3}, "options of lower-case letters, .* as options, got 3"),
        ({"levle": "mia_mine_level"}, "fields of the attack as options, got 'levle'"),
        ({"level": "mia_seed"}, "options of its own as options, got 'mia_seed', which every audit has"),
        ({"level": "mia_audit"}, "options of its own as options, got 'mia_audit', which every audit has"),
        (["mia_mine_level"], "a mapping from fields to options as options, got list"),
        (None, "a mapping from fields to options as options, got NoneType"),
    ],
)
def test_options_that_are_none_name_plugin_and_option(options: Any, says: str) -> None:
    class Odd(Mine):
        pass

    Odd.options = options

    def spvmia_register_attacks() -> list[type[Attack]]:
        return [Odd]

    registry = registry_with(spvmia_register_attacks)
    message = f"^attack mine: expected {says} from under-test; correct it in that plugin$"
    with pytest.raises(SpvmiaError, match=message):
        _ = registry.attack_options
    with pytest.raises(SpvmiaError, match=message):
        registry.attack("mine", AuditConfig())


# One test a hook: `test_every_hook_has_a_test` looks for these names.


def test_hook_spvmia_register_attacks() -> None:
    def spvmia_register_attacks() -> list[type[Attack]]:
        return [Mine]

    registry = registry_with(spvmia_register_attacks)
    config = AuditConfig.from_metadata({"mia_mine_level": 0.25}, registry.attack_options)

    assert registry.attacks["loss"] is Loss
    assert registry.attack("mine", config) == Mine(level=0.25)
    with pytest.raises(SpvmiaError, match=r"attack: expected one of .*, got 'mime' \(did you mean 'mine'\?\)"):
        registry.attack("mime", config)


def test_hook_spvmia_register_perturbations() -> None:
    class Shuffle:
        name = "shuffle"

        def __init__(self, config: AuditConfig) -> None:
            self.seed = config.seed

    def spvmia_register_perturbations() -> list[Any]:
        return [Shuffle]

    registry = registry_with(spvmia_register_perturbations)

    assert {"mask_fill", "causal", "embedding", "shuffle"} == set(registry.perturbations)
    made: Any = registry.perturbation(AuditConfig(perturbation="shuffle", seed=7))
    assert (made.name, made.seed) == ("shuffle", 7)
    with pytest.raises(SpvmiaError, match=r"mia_perturbation: expected one of .* \(did you mean 'shuffle'\?\)"):
        registry.perturbation(AuditConfig(perturbation="shufle"))


def test_hook_spvmia_register_datasets() -> None:
    source = DatasetSource(name="letters", hub_id="acme/letters")

    def spvmia_register_datasets() -> list[DatasetSource]:
        return [source]

    registry = registry_with(spvmia_register_datasets)

    assert registry.dataset("letters") is source
    assert registry.dataset("xsum").hub_id
    with pytest.raises(SpvmiaError, match=r"data set: expected one of ag_news, letters, wikitext, xsum, got 'leters'"):
        registry.dataset("leters")


def test_hook_spvmia_register_backends() -> None:
    class First:
        name = "first"

    class Second:
        name = "second"

    def spvmia_register_backends() -> list[Any]:
        return [First, Second]

    assert list(registry_with(spvmia_register_backends).backends)[:2] == ["first", "second"]  # before the built-in one


class FakeBackend:
    """Records what the built-in hooks ask of it."""

    def train_reference(self, texts: Sequence[str], output_dir: Path) -> dict[str, object]:
        return {"texts": list(texts), "output_dir": str(output_dir)}


class Chatty:
    """Trains on conversations too."""

    def train_reference(
        self, texts: Sequence[str], output_dir: Path, *, rendered: Sequence[Rendered] | None = None
    ) -> dict[str, object]:
        return {"tokens": [each.token_ids for each in rendered or ()]}


def test_hook_spvmia_self_prompt() -> None:
    class Backend:
        """Encodes words, and writes the same word on and on."""

        max_length = 64

        def encode(self, text: str) -> list[int]:
            return [len(word) for word in text.split()]

        def decode(self, token_ids: Sequence[int]) -> str:
            return " ".join("x" * token for token in token_ids)

        def generate(self, prompts: Any, lengths: Any, seeds: Any, **options: Any) -> list[list[int]]:
            made = [[*prompt, 9, 9] for prompt in prompts]
            options["on_done"](dict(enumerate(made)))
            return made

    def spvmia_self_prompt(prompts: Sequence[Document], config: AuditConfig) -> Sequence[str] | None:
        return [document.text + "!" for document in prompts] if config.seed else None

    call = registry_with(spvmia_self_prompt).manager.hook.spvmia_self_prompt
    arguments: dict[str, Any] = {
        "backend": completed(Backend(), protocols.Backend),
        "prompts": (Document("a:1", "a b c"),),
        "done": (),
        "renderer": None,
        "blank": None,
        "length": None,
    }
    config = AuditConfig(seed=1, prompt_tokens=2, self_prompts=1, block_size=8)
    assert call(config=config, on_done=None, **arguments) == ["a b c!"]

    kept: dict[int, str] = {}  # the plugin answers None, so the built-in sampler is asked
    made = call(config=dataclasses.replace(config, seed=0), on_done=kept.update, **arguments)
    assert made == ["x x xxxxxxxxx xxxxxxxxx"]
    assert kept == dict(enumerate(made))


def test_hook_spvmia_train_reference(tmp_path: Path) -> None:
    def spvmia_train_reference(
        backend: Any, texts: Sequence[str], config: AuditConfig, output_dir: Path
    ) -> dict[str, object] | None:
        return {"mine": True} if config.seed else None

    call = registry_with(spvmia_train_reference).manager.hook.spvmia_train_reference
    arguments: dict[str, Any] = {"backend": FakeBackend(), "texts": ["a"], "output_dir": tmp_path, "rendered": None}
    assert call(config=AuditConfig(seed=1), **arguments) == {"mine": True}
    assert call(config=AuditConfig(seed=0), **arguments) == {"texts": ["a"], "output_dir": str(tmp_path)}
    conversations = {**arguments, "backend": Chatty(), "rendered": [Rendered((1, 2), (False, True))]}
    assert call(config=AuditConfig(seed=1), **conversations) == {"mine": True}  # it trains on the words
    assert call(config=AuditConfig(seed=0), **conversations) == {"tokens": [(1, 2)]}


def test_every_hook_has_a_test() -> None:
    assert HOOKS
    assert [hook for hook in HOOKS if f"test_hook_{hook}" not in globals()] == []


# The contract, and its documentation.


def documented(hook: str) -> str:
    """The Python block below the heading of a hook."""
    found = re.search(rf"^## `{hook}`\n.*?^```python\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.S | re.M)
    assert found, f"docs/plugins.md has no signature of {hook}"
    return found[1]


@pytest.mark.parametrize("hook", HOOKS)
def test_the_documented_signature_is_the_code(hook: str) -> None:
    function = getattr(hookspecs, hook)
    signature = str(inspect.signature(function)).replace("'", "")
    written = " ".join(documented(hook).split())
    tidy = written.replace("( ", "(").replace(", )", ")").replace(" )", ")").replace(": ...", "")
    assert tidy == f"def {hook}{signature}"


@pytest.mark.parametrize("hook", HOOKS)
def test_the_docs_say_order_and_mutability(hook: str) -> None:
    section = re.search(rf"^## `{hook}`\n(.*?)(?=^## )", DOCS.read_text(encoding="utf-8") + "\n## ", re.S | re.M)
    assert section
    assert "Order:" in section[1]
    assert "May change:" in section[1]
    assert ("first answer" in section[1]) == bool(getattr(hookspecs, hook).spvmia_spec["firstresult"])


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_typed_and_says_what_it_is_for(hook: str) -> None:
    function = getattr(hookspecs, hook)
    assert function.__doc__
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(parameter.annotation is not inspect.Parameter.empty for parameter in signature.parameters.values())


def test_the_built_ins_come_through_the_same_hooks() -> None:
    manager = load_registry(entry_points=False).manager
    for hook in HOOKS:
        (implementation,) = getattr(manager.hook, hook).get_hookimpls()
        assert implementation.plugin is builtins


# Misuse.


@pytest.mark.parametrize("what", ["attacks", "perturbations", "datasets"])
def test_a_name_that_is_taken_is_an_error(what: str) -> None:
    taken = next(iter(getattr(load_registry(entry_points=False), what)))

    def implementation() -> list[Any]:
        return [SimpleNamespace(name=taken)]

    implementation.__name__ = f"spvmia_register_{what}"
    message = rf"expected unique names, got '{taken}' more than once from under-test and spvmia-plugin {__version__}"
    with pytest.raises(SpvmiaError, match=message):
        getattr(registry_with(implementation), what)


def test_a_name_twice_in_one_plugin_is_an_error() -> None:
    def spvmia_register_attacks() -> list[type[Attack]]:
        return [Mine, Mine]

    with pytest.raises(SpvmiaError, match="expected unique names, got 'mine' more than once from under-test"):
        _ = registry_with(spvmia_register_attacks).attacks


@pytest.mark.parametrize("name", ["Mine", "my attack", "../mine", "", "mine: {}", 3])
def test_a_name_that_fits_no_task_name_is_an_error(name: object) -> None:
    def spvmia_register_attacks() -> list[Any]:
        return [SimpleNamespace(name=name)]

    with pytest.raises(SpvmiaError, match="expected names of lower-case letters, digits and underscores"):
        _ = registry_with(spvmia_register_attacks).attacks


class EntryPoint(SimpleNamespace):
    """What pluggy reads of an installed entry point."""

    group = "spvmia"

    def load(self) -> Any:
        if isinstance(self.plugin, Exception):
            raise self.plugin
        return self.plugin


def install(monkeypatch: pytest.MonkeyPatch, **plugins_by_distribution: Any) -> None:
    """Let `importlib.metadata` find one distribution for each plugin, all with the entry point `theirs`."""
    found = [
        SimpleNamespace(
            entry_points=[EntryPoint(name="theirs", plugin=plugin)],
            metadata={"Name": name, "name": name},
            version="1.0",
        )
        for name, plugin in plugins_by_distribution.items()
    ]
    monkeypatch.setattr(plugins.importlib.metadata, "distributions", lambda: found)


def test_a_misspelt_hook_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    @hookimpl
    def spvmia_register_atacks() -> list[type[Attack]]:
        return []

    install(monkeypatch, acme=SimpleNamespace(spvmia_register_atacks=spvmia_register_atacks))
    with pytest.raises(SpvmiaError, match=r"unknown hook .*\(did you mean 'spvmia_register_attacks'\?\)"):
        load_registry()


def test_an_argument_that_the_hook_does_not_have_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    @hookimpl
    def spvmia_register_attacks(config: AuditConfig) -> list[type[Attack]]:
        return []

    install(monkeypatch, acme=SimpleNamespace(spvmia_register_attacks=spvmia_register_attacks))
    with pytest.raises(SpvmiaError, match=r"plugins: .*config.*docs/plugins.md"):
        load_registry()


@pytest.mark.parametrize("error", [ImportError("no numba"), AttributeError("no plugin"), RuntimeError("bad day")])
def test_a_plugin_that_cannot_be_loaded_is_an_error(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    install(monkeypatch, acme=error)
    with pytest.raises(SpvmiaError, match=rf"cannot be loaded \({type(error).__name__}: {error}\)"):
        load_registry()


def test_two_distributions_with_one_entry_point_name_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, acme=SimpleNamespace(), other=SimpleNamespace())
    with pytest.raises(SpvmiaError, match=r"expected one distribution .* 'theirs' .* got acme and other"):
        load_registry()


def test_one_distribution_found_twice_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, acme=SimpleNamespace())
    once = list(plugins.importlib.metadata.distributions())
    monkeypatch.setattr(plugins.importlib.metadata, "distributions", lambda: once * 2)  # two entries of sys.path
    assert load_registry().manager.has_plugin("theirs")


# `spvmia plugins`.


def test_lists_every_hook_in_order_with_its_distribution() -> None:
    lines = load_registry(entry_points=False).listing()
    assert [line.hook for line in lines] == HOOKS
    assert {line.distribution for line in lines} == {f"spvmia-plugin {__version__}"}
    assert lines[0].names[0] == "loss"
    assert lines[-1].names == ("spvmia_train_reference",)


def test_lists_duplicates_and_hooks_that_nobody_implements() -> None:
    def spvmia_register_attacks() -> list[type[Attack]]:
        return [Loss]

    registry = registry_with(spvmia_register_attacks)
    registry.manager.unregister(builtins)
    lines = {line.hook: line for line in registry.listing()}
    assert lines["spvmia_register_attacks"].names == ("loss",)
    assert lines["spvmia_register_datasets"] == plugins.Listed("spvmia_register_datasets", "", ())


def test_lists_a_wrapper_by_its_name() -> None:
    registry = load_registry(entry_points=False)

    class Wrapper:
        @pluggy.HookimplMarker("spvmia")(wrapper=True)
        def spvmia_register_attacks(self) -> Any:
            found = yield
            return found

    registry.manager.register(Wrapper(), name="wrapping")
    assert ("spvmia_register_attacks",) in [line.names for line in registry.listing()]
    assert "loss" in registry.attacks


# Lazy registration.


class Quick:
    """A perturbation that is only looked at."""

    name = "quick"


def lazily(target: str, name: str = "quick") -> Registry:
    def spvmia_register_perturbations() -> list[Lazy[Any]]:
        return [Lazy(name, target)]

    return registry_with(spvmia_register_perturbations)


def test_a_lazy_class_is_imported_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    find = lazy.importlib.import_module
    monkeypatch.setattr(lazy.importlib, "import_module", lambda module: imported.append(module) or find(module))
    registry = lazily(f"{__name__}:Quick")
    assert ("quick",) in [line.names for line in registry.listing()]
    assert "quick" in registry.perturbations
    assert list(registry.perturbations)[-1] in {"quick", "embedding"}
    assert imported == []
    assert registry.perturbations["quick"] is Quick
    assert registry.perturbations["quick"] is Quick
    assert imported == [__name__]


@pytest.mark.parametrize(
    ("target", "name", "says"),
    [
        ("no.such.module:Quick", "quick", "ModuleNotFoundError"),
        (f"{__name__}:Missing", "quick", "AttributeError"),
        ("Quick", "quick", "cannot be imported"),
        (f"{__name__}:Quick", "slow", "expected the class .* to be named 'slow' as it is registered, got 'quick'"),
    ],
)
def test_a_lazy_class_that_is_not_there_is_told_in_one_line(target: str, name: str, says: str) -> None:
    registry = lazily(target, name)
    with pytest.raises(SpvmiaError, match=says) as caught:
        registry.perturbations[name]
    assert "\n" not in str(caught.value)
    assert target in str(caught.value)


def test_a_lazy_name_that_is_taken_is_an_error() -> None:
    with pytest.raises(SpvmiaError, match="'causal' more than once"):
        _ = lazily(f"{__name__}:Quick", "causal").perturbations


@pytest.mark.parametrize("what", ["attacks", "perturbations", "backends"])
def test_the_built_ins_are_named_as_they_are_registered(what: str) -> None:
    registered = getattr(load_registry(entry_points=False), what)
    assert [name for name in registered if registered[name].name != name] == []


def test_the_built_in_attacks_are_registered_in_their_order() -> None:
    registry = load_registry(entry_points=False)
    assert tuple(registry.attacks.values()) == builtin_attacks()
    assert tuple(registry.perturbations) == ("mask_fill", "causal", "embedding")


# The example: a distribution of its own, installed as a user would.


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a Python that has the example plugin."""
    return install_example(tmp_path_factory.mktemp("site"))


def run(environment: dict[str, str], *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, *arguments], env={**environment, "COLUMNS": "300"}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_example_is_listed_with_its_distribution(example: dict[str, str]) -> None:
    listed = run(example, "-m", "spvmia_plugin", "plugins")
    assert re.search(r"spvmia-example 0\.3\.0\W+quantile", listed)
    assert re.search(r"spvmia-example 0\.3\.0\W+word_swap", listed)


def test_the_example_attack_scores_and_takes_its_option(example: dict[str, str]) -> None:
    code = """
import json
import numpy as np
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.plugins import load_registry
from spvmia_plugin.signals import RecordSignals, Role, TokenSignals, View

registry = load_registry()
config = AuditConfig.from_metadata({"mia_quantile_level": 0.0}, registry.attack_options)
tokens = TokenSignals(np.array([-1.0, -5.0, -2.0]), np.zeros(3, bool))
record = RecordSignals("x", tokens={(Role.TARGET, View.TEXT): tokens})
print(json.dumps([registry.attack("quantile", config).score(record), registry.attacks["quantile"]().score(record)]))
"""
    assert json.loads(run(example, "-c", code)) == [-5.0, -2.0]


def test_the_example_perturbation_paraphrases(example: dict[str, str]) -> None:
    code = """
import json
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.plugins import load_registry
from spvmia_plugin.records import Document

swap = load_registry().perturbation(AuditConfig(perturbation="word_swap", perturbations=2))
text, short = "one two  three", "alone"
made = swap.neighbours([Document("a:1", text), Document("a:2", short)], None)
print(json.dumps([[edit.apply(text) for edit in made[0].variants], made[1].reason]))
"""
    texts, reason = json.loads(run(example, "-c", code))
    assert len(texts) == 4
    assert set(texts) <= {"two one  three", "one three  two"}
    assert reason == "fewer than two words"


def test_the_examples_task_is_written_and_shipped(example: dict[str, str], tmp_path: Path) -> None:
    said = run(example, "-m", "spvmia_plugin", "tasks", "--write", "quantile", "custom", "--output", str(tmp_path))
    written = tmp_path / "quantile_mia_custom.yaml"
    assert said.startswith(f"wrote {written}\n")
    shipped = EXAMPLE / "src" / "spvmia_example" / "tasks" / written.name
    lines = [line for line in written.read_text().splitlines() if "spvmia_version" not in line]
    assert lines[1:] == shipped.read_text().splitlines()[1:]


def test_without_the_example_its_attack_is_unknown(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "spvmia_plugin", "tasks", "--write", "quantile", "custom"]
    result = subprocess.run([*command, "--output", str(tmp_path)], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("attack: expected one of bag_of_words, ")


def test_the_backend_protocol_is_what_the_docs_name() -> None:
    text = DOCS.read_text(encoding="utf-8")
    methods = [name for name, value in vars(Backend).items() if callable(value) and not name.startswith("_")]
    assert [name for name in methods if f"`{name}`" not in text and name != "accepts"] == []
