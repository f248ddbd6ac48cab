"""What plugins hand over: kept under their versions, and checked where it arrives, in words that name the plugin."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from spvmia_plugin import __version__, hookimpl
from spvmia_plugin.attacks.base import Attack, BlindAttack
from spvmia_plugin.auditing.neighbours import with_changes
from spvmia_plugin.auditing.sequences import Inputs
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.plugins import load_registry
from spvmia_plugin.protocols import EmbeddingNoise, Neighbours, TextEdits, TokenEdits
from spvmia_plugin.records import Conversation
from spvmia_plugin.signals import Need, Role, Unscored, View
from tests.auditing.fakes import FakeBackend, make_data
from tests.auditing.test_run import run
from tests.auditing.test_tables import run_attack


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


def test_the_plugin_of_a_data_set_takes_part(tmp_path):
    data = dataclasses.replace(make_data(3), maker="letters 2.1")
    assert run(tmp_path, ["loss"], data=data)[0].plugins == {"letters": "2.1"}
    ours = dataclasses.replace(make_data(3), maker=f"spvmia-plugin {__version__}")
    assert run(tmp_path, ["loss"], data=ours)[0].plugins == {}


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


SPELT_OUT = Conversation(({"role": "user", "content": "hello\ud800"},)).to_text()


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
        (["one", "two\ud800"], None, "half a surrogate pair in one, which is no valid Unicode"),
        ([SPELT_OUT], None, "half a surrogate pair in one, which is no valid Unicode"),
        ([], {0: "two\udfff"}, "half a surrogate pair in one, which is no valid Unicode"),
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
    more = with_texts(tmp_path / "more", [f"text {i}" for i in range(12)])
    assert [note for note in more.notes if "self-prompts" in note] == [
        "a plugin gave 12 self-prompts for the reference, and mia_self_prompts asks for 6"
    ]
    asked = with_texts(tmp_path / "all", [f"text {i}" for i in range(6)])
    assert not [note for note in asked.notes if "self-prompts" in note]


@pytest.mark.parametrize(
    ("told", "writes", "got"),
    [
        (["loss", 1.0], True, "a mapping for mia_audit, got list"),
        ({"loss": object()}, True, r"a mapping for mia_audit that JSON holds, got one that it does not \(TypeError\)"),
        ({"loss": 1.0}, False, "a reference in output_dir, got nothing there"),
    ],
)
def test_a_reference_that_is_none_is_refused_by_the_plugin_s_name_and_not_kept(tmp_path, told, writes, got):
    registry = load_registry(entry_points=False)

    def spvmia_train_reference(output_dir):
        if writes:
            (output_dir / "adapter.json").write_text("{}")
        return told

    registry.manager.register(SimpleNamespace(spvmia_train_reference=hookimpl(spvmia_train_reference)), name="trainer")
    message = rf"^spvmia_train_reference: expected {got}; correct the plugin \(trainer\)$"
    for _ in range(2):  # a second run trains again
        with pytest.raises(SpvmiaError, match=message):
            run(tmp_path, ["spv_ez"], data=make_data(3), registry=registry)
    told, writes = {"loss": 1.0}, True
    outcome, _ = run(tmp_path, ["spv_ez"], data=make_data(3), registry=registry)
    assert outcome.plugins == {"trainer": "unknown"}


def test_a_reference_that_cannot_be_loaded_is_refused_by_the_plugin_s_name_and_not_kept(tmp_path):
    """Nor is one that an earlier version took for good."""
    registry = load_registry(entry_points=False)
    trained = []

    def spvmia_train_reference(output_dir):
        trained.append(output_dir)
        (output_dir / "x.txt").write_text("hello")
        return {"loss": 1.0}

    class Strict(FakeBackend):
        def load_reference(self, role, path):
            if accepts is None:
                raise SpvmiaError(f"mia_reference: expected a tokenizer, got {role.value}'s; give another path")
            super().load_reference(role, path)

    def audited():
        return run(tmp_path, ["spv_ez"], data=make_data(3), backend=Strict(), registry=registry)[0]

    registry.manager.register(SimpleNamespace(spvmia_train_reference=hookimpl(spvmia_train_reference)), name="trainer")
    message = (
        r"^spvmia_train_reference: expected a reference in output_dir that can be loaded, got another \(mia_reference: "
        r"expected a tokenizer, got reference's\); correct the plugin \(trainer\)$"
    )
    for _ in range(2):  # a second run trains again
        accepts = None
        with pytest.raises(SpvmiaError, match=message):
            audited()
    accepts = "all"
    audited()
    assert len(trained) == 3
    accepts = None
    with pytest.raises(SpvmiaError, match=message):  # it is in the store
        audited()
    accepts = "all"
    audited()
    assert len(trained) == 4


def test_our_own_reference_that_cannot_be_loaded_stays(tmp_path):
    class Refusing(FakeBackend):
        def load_reference(self, role, path):
            raise SpvmiaError("mia_reference: no memory; close something")

    with pytest.raises(SpvmiaError, match=r"^mia_reference: no memory; close something$"):
        run(tmp_path, ["spv_ez"], data=make_data(3), backend=Refusing())
    _, again = run(tmp_path, ["spv_ez"], data=make_data(3))
    assert not again.trained


def edits(*spans):
    return Neighbours((TextEdits(spans),) * 4, 0.1)


def replaced(positions, token_ids):
    return Neighbours((TokenEdits(positions, token_ids),) * 4, 0.1)


def noise(seed=1, sign=1, scale=0.1, only=None):
    return Neighbours((EmbeddingNoise(seed, sign, scale, only),) * 4)


SPANS = r"spans \(start, end, replacement\), ascending and disjoint in the 40 characters of a text"
TOKENS = "as many token_ids as positions, these from 0 to 39 in the tokens of a record"
FOUR = r"4 paraphrases of a text \(twice mia_perturbations\), or fewer and a reason"
RATE = "a mask_rate from 0 to 1, or NaN"


@pytest.mark.parametrize(
    ("made", "expected", "got"),
    [
        (edits((5, 12, "x"), (8, 13, "y")), SPANS, "one from 8 to 13, after 12"),
        (edits((5, 12, "x"), (3, 4, "y")), SPANS, "one from 3 to 4, after 12"),
        (edits((5, 41, "x")), SPANS, "one from 5 to 41, after 0"),
        (edits((-5, 3, "x")), SPANS, "one from -5 to 3, after 0"),
        (edits((5, 3, "x")), SPANS, "one from 5 to 3, after 0"),
        (edits((5, 6)), SPANS, "tuple"),
        (edits("abc"), SPANS, "str"),
        (edits((5, 6.0, None)), SPANS, r"\(int, float, NoneType\)"),
        (Neighbours((TextEdits(3),) * 4, 0.1), SPANS, "int"),
        (edits((5, 6, "x"), (6, 7, "y\ud800")), "replacements in valid Unicode", "half a surrogate pair"),
        (replaced((40,), (3,)), TOKENS, "40"),
        (replaced((-1,), (3,)), TOKENS, "-1"),
        (replaced((1, 2), (3,)), TOKENS, "2 and 1"),
        (replaced((1.5,), (3,)), TOKENS, "float"),
        (replaced(1, (3,)), TOKENS, "int and 1"),
        (replaced((1,), (-5,)), "ids of tokens that the target has", "-5"),
        (replaced((1,), ("a",)), "ids of tokens that the target has", "str"),
        (noise(seed=-1), r"noise with a seed from 0 to 2\*\*63 - 1", "int"),
        (noise(seed=None), r"noise with a seed from 0 to 2\*\*63 - 1", "NoneType"),
        (noise(sign=2), "noise with the sign 1 or -1", "int"),
        (noise(scale=float("nan")), "noise with a scale >= 0", "float"),
        (noise(scale=-1.0), "noise with a scale >= 0", "float"),
        (noise(only=(1,)), "noise without `only`, which the run sets", "tuple"),
        (Neighbours(("some text",) * 4, 0.1), "TextEdits, TokenEdits or EmbeddingNoise as paraphrases", "str"),
        (Neighbours("abcd", 0.1), "Neighbours with a tuple of paraphrases", "variants as str"),
        ((TextEdits(()),) * 4, "Neighbours with a tuple of paraphrases", "tuple"),
        (Neighbours((TextEdits(()),), 0.1), FOUR, "1"),
        (Neighbours((TextEdits(()),) * 5, 0.1, "more"), FOUR, "5"),
        (Neighbours(()), FOUR, "0"),
        (Neighbours((), reason=3), "a text or None as reason", "int"),
        (Neighbours((TextEdits(()),) * 4, 5.0), RATE, "5"),
        (Neighbours((TextEdits(()),) * 4, None), RATE, "NoneType"),
        (Neighbours((TextEdits(()),) * 4, float("inf")), RATE, "float"),
    ],
)
def test_paraphrases_that_are_none_are_refused_by_the_plugin_s_name(tmp_path, made, expected, got):
    class Wrong(Stars):
        def made(self, text):
            return made

    message = f"^mia_perturbation stars: neighbours: expected {expected}, got {got}; correct the perturbation's plugin$"
    with pytest.raises(SpvmiaError, match=message):
        paraphrased(tmp_path, Wrong)


def test_numbers_of_numpy_lists_and_rounding_are_fine(tmp_path):
    class Numbers(Stars):
        def made(self, text):
            of_tokens = TokenEdits((np.int64(1),), [np.int64(97)])
            of_text = TextEdits([[np.int32(0), 2, "ab"], (2, 2, "c"), (40, 40, "d")])
            of_noise = EmbeddingNoise(np.int64(3), -1, np.float32(0.5))
            return Neighbours([of_tokens, of_text, of_noise, TextEdits(())], 1 + 1e-12)

    outcome, _ = paraphrased(tmp_path, Numbers)
    assert all(each.score is not None for each in outcome.results["nearby_mia_custom"].values())


UNCHANGED = "no paraphrase changes what the model reads"


@pytest.mark.parametrize(
    "variant",
    [
        lambda text: TextEdits(()),
        lambda text: TextEdits(((3, 5, text[3:5]), (8, 8, ""))),
        lambda text: TokenEdits((0, 7), (ord(text[0]), ord(text[7]))),
        lambda text: EmbeddingNoise(1, -1, 0.0),
    ],
)
def test_paraphrases_that_change_nothing_are_left_out(tmp_path, variant):
    """They are as likely as the record: every one of them would score the same, and the audit would end at .5."""

    class Same(Stars):
        def made(self, text):
            return Neighbours((variant(text.text),) * self._count, 0.1)

    class Half(Stars):
        def made(self, text):
            changed = Stars.made(self, text).variants
            return Neighbours((variant(text.text), *changed[:-1]), 0.1)

    class Fewer(Stars):
        def made(self, text):
            return Neighbours(Stars.made(self, text).variants[:-1], 0.1, "one was hard")

    outcome, backend = paraphrased(tmp_path, Same)
    assert {each.reason for each in outcome.results["nearby_mia_custom"].values()} == {UNCHANGED}
    assert outcome.details["paraphrases"]["texts"] == 0
    assert not any(item.noise for _, item, _ in backend.scored)
    again, _ = paraphrased(tmp_path, Same)  # from the store
    assert again.results == outcome.results
    half, fewer = (paraphrased(tmp_path / kind.__name__, kind)[0] for kind in (Half, Fewer))
    assert half.results == fewer.results
    assert half.details["paraphrases"]["texts"] == fewer.details["paraphrases"]["texts"] == 18


def test_left_out_paraphrases_are_counted_in_the_record_s_reason():
    data, backend = make_data(1), FakeBackend()
    record = data.records[0]
    some = (TextEdits(()), TextEdits(((0, 1, "*"),)), TextEdits(((0, 0, ""),)))
    told = with_changes(Neighbours(some, 0.1, "one was hard"), record, Inputs(backend, data))
    assert told == Neighbours(some[1:2], 0.1, "one was hard; 2 of 3 paraphrases without any change")
    assert with_changes(told, record, Inputs(backend, data)) is told


def test_an_edit_that_the_tokenizer_reads_alike_is_no_change():
    class Uncased(FakeBackend):
        def encode(self, text):
            return super().encode(text.lower())

    data = make_data(1)
    record = data.records[0]
    found = Neighbours((TextEdits(((0, 40, record.text.swapcase()),)),), 0.1)
    assert with_changes(found, record, Inputs(Uncased(), data)) == Neighbours((), reason=UNCHANGED)
    assert with_changes(found, record, Inputs(FakeBackend(), data)) is found


def test_fewer_paraphrases_with_a_reason_are_fine(tmp_path):
    class Few(Stars):
        def made(self, text):
            return Neighbours((), reason="too short")

    outcome, _ = paraphrased(tmp_path, Few)
    assert {each.reason for each in outcome.results["nearby_mia_custom"].values()} == {"too short"}


def test_ids_beyond_the_model_s_embeddings_are_refused(tmp_path):
    class Beyond(Stars):
        def made(self, text):
            return replaced((1,), (200,))

    backend = FakeBackend()
    backend.vocab = 200
    with pytest.raises(SpvmiaError, match=r"expected ids of tokens that the target has, below 200, got 200;"):
        run(tmp_path, ["nearby"], backend=backend, registry=registry_of(Beyond), mia_perturbation="stars")


def answers(change, told=None):
    """A perturbation whose answer is changed, and that takes `done` and `on_done` as it likes."""

    class Answering(Stars):
        def neighbours(self, texts, backend, *, on_done=None, done=()):
            if told is not None:
                on_done(told)
            return change([self.made(text) for text in texts])

    return Answering


LIST = "expected a list of 6 Neighbours from neighbours, one a text, got"
PLACES = r"expected \{position: Neighbours\} with positions from 0 to 5 for on_done, got"


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (answers(lambda found: found[1:]), f"{LIST} 5"),
        (answers(lambda found: dict(enumerate(found))), f"{LIST} dict"),
        (answers(lambda found: None), f"{LIST} NoneType"),
        (answers(lambda found: "six by"), f"{LIST} str"),
        (
            answers(lambda found: [None, *found[1:]]),
            "expected paraphrases of every text from neighbours, got None for 1 of 6",
        ),
        (answers(list, told={6: None}), f"{PLACES} other positions"),
        (answers(list, told={-1: None}), f"{PLACES} other positions"),
        (answers(list, told=[]), f"{PLACES} list"),
    ],
)
def test_an_answer_of_another_length_or_kind_is_refused(tmp_path, made, says):
    with pytest.raises(SpvmiaError, match=f"^mia_perturbation stars: {says}; correct the perturbation's plugin$"):
        paraphrased(tmp_path, made)


@pytest.mark.parametrize(
    ("settings", "got"),
    [
        ({"a": np.float32(1)}, "Object of type float32 is not JSON serializable"),
        ({"a": {1, 2}}, "Object of type set is not JSON serializable"),
        ({"a": float("nan")}, "Out of range float values are not JSON compliant.*"),
        (None, "NoneType"),
        ([1], "list"),
    ],
)
def test_settings_that_json_has_no_place_for_are_refused_before_any_work(tmp_path, settings, got):
    class Odd(Stars):
        def settings(self):
            return settings

        def neighbours(self, texts, backend):
            raise NotImplementedError

    with pytest.raises(
        SpvmiaError, match=rf"^mia_perturbation stars: settings: expected a mapping .*, got {got}; corr"
    ):
        paraphrased(tmp_path, Odd)


def test_an_implementation_may_do_without_on_done(tmp_path):
    class Quiet(Stars):
        def neighbours(self, texts, backend):
            return (self.made(text) for text in texts)

    class Resuming(Stars):
        def neighbours(self, texts, backend, done):
            return [self.made(text) for text in texts]

    usual, _ = paraphrased(tmp_path / "usual")
    for number, kind in enumerate((Quiet, Resuming)):
        assert paraphrased(tmp_path / str(number), kind)[0].results == usual.results


def scoring(method, answer, base=Attack):
    """An attack one of whose methods gives this."""
    return type(
        "Scoring", (base,), {"name": "scoring", "needs": frozenset({Need(Role.TARGET)}), method: lambda *_: answer}
    )()


@pytest.mark.parametrize(("method", "base"), [("score_many", Attack), ("score_all", BlindAttack)])
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ([1.0] * 5, "a list of 6 scores from {}, got 5"),
        (None, "a list of 6 scores from {}, got NoneType"),
        ("abcdef", "a list of 6 scores from {}, got str"),
        ({1, 2, 3, 4, 5, 6}, "a list of 6 scores from {}, got set"),
        (dict.fromkeys("abcdef", 1.0), "a list of 6 scores from {}, got dict"),
        ([1.0] * 5 + ["1.0"], "a number from {}, got str"),
    ],
)
def test_scores_of_many_are_checked(tmp_path, method, base, answer, says):
    message = rf"^scoring: expected {says.format(method)}; correct the attack's plugin$"
    with pytest.raises(SpvmiaError, match=message):
        run_attack(tmp_path, scoring(method, answer, base), data=make_data(3))


def test_scores_of_many_may_be_an_array_or_come_one_by_one(tmp_path):
    for answer in (np.arange(6.0), iter([0, 1, 2, 3, 4, Unscored("no")])):
        results = run_attack(tmp_path, scoring("score_many", answer), data=make_data(3)).results["task"]
        assert [each.score for each in results.values()][:5] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_needs_that_are_none_are_refused_before_any_work(tmp_path):
    attack = type("Needy", (Attack,), {"name": "needy", "needs": "target"})()
    with pytest.raises(
        SpvmiaError, match=r"^needy: expected a frozenset of Need\(role, view\) as needs, got str; correct"
    ):
        run_attack(tmp_path, attack, data=make_data(3))
