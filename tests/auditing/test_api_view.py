"""What interfaces show of one target: each view on the same signals, what it makes of scores, what it refuses."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from spvmia_plugin.attacks.base import NO_MOMENTS
from spvmia_plugin.auditing.api_view import ApiView, shown_as
from spvmia_plugin.auditing.roles import seen_of_target
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.metrics.roc import auroc
from spvmia_plugin.protocols import BackendFeatures, ScoreInput
from spvmia_plugin.signals import Role, TokenSignals
from tests.auditing.fakes import FakeBackend, make_data
from tests.auditing.test_run import REGISTRY, run

DATA = make_data(12)
ITEM = ScoreInput((5, 6, 7, 8))
LOGPROB = np.array([-0.123456, -2.5, -7.0, -1.0], np.float32)
KTH = np.array([-4.0, -3.0, -5.0, -1.0], np.float32)
SIGNALS = TokenSignals(LOGPROB, np.array([True, False, False, False]), LOGPROB, LOGPROB, 2, KTH)


def seen(view: str, item: ScoreInput = ITEM, *, seed: int = 0) -> TokenSignals:
    return ApiView.of(AuditConfig(api_view=view, seed=seed)).seen(item, SIGNALS)


def test_everything_is_what_was_computed() -> None:
    assert seen("full") is SIGNALS


def test_rounded() -> None:
    assert seen("rounded:2").logprob.tolist() == pytest.approx([-0.12, -2.5, -7, -1], abs=1e-6)
    assert seen("rounded:0").logprob.tolist() == [0, -2, -7, -1]  # halves to even, as everywhere in Python


def test_outside_of_the_k_most_probable_a_token_has_the_bound() -> None:
    """Only the third is below the K-th; one that is as probable as it is shown."""
    assert seen("top_k:3").logprob.tolist() == pytest.approx([-0.123456, -2.5, -5.0, -1.0])


def test_noise_is_that_of_seed_and_query() -> None:
    one, again = seen("noised:0.5"), seen("noised:0.5")
    assert one.logprob.tolist() == again.logprob.tolist()
    other, later = seen("noised:0.5", ScoreInput((5, 6, 7, 9))), seen("noised:0.5", seed=1)
    assert not set(one.logprob.tolist()) & set(other.logprob.tolist())
    assert not set(one.logprob.tolist()) & set(later.logprob.tolist())
    drawn = np.concatenate([seen("noised:0.5", ScoreInput((n, *ITEM.token_ids))).logprob - LOGPROB for n in range(500)])
    assert abs(drawn.mean()) < 4 * 0.5 / math.sqrt(2000)
    assert drawn.std() == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("view", ["top_k:3", "rounded:2", "noised:0.5"])
def test_no_view_but_the_whole_shows_moments(view: str) -> None:
    shown = seen(view)
    assert (shown.mean, shown.std, shown.kth) == (None, None, None)
    assert shown.top1.tolist() == SIGNALS.top1.tolist()
    assert shown.windows == 2


def test_the_bound_is_not_guessed() -> None:
    with pytest.raises(ValueError, match="K-th"):
        ApiView("top_k", 3).seen(ITEM, dataclasses.replace(SIGNALS, kth=None))


@pytest.mark.parametrize(
    "value",
    [
        *("", "all", "Full", "top_k", "top_k:", "top_k:0", "top_k:-1", "top_k:1.5", "top_k:x", "top_k:5 ", "full:1"),
        *("text:2", "rounded", "rounded:-1", "rounded:16", "rounded:1.5", "rounded:nan", "noised", "noised:-0.1"),
        *(
            "noised:0",
            "noised:nan",
            "noised:inf",
            "noised:x",
            "top_k:²",
            5,
            True,
            "top_k:" + "9" * 5000,
            "rounded:" + "0" * 5000,
            ["full"],
        ),
    ],
)
def test_bad_views_are_refused(value: object) -> None:
    with pytest.raises(SpvmiaError, match=r"^mia_api_view: expected full, text, top_k:K .* got .*; correct it"):
        AuditConfig.from_metadata({"mia_api_view": value})


@pytest.mark.parametrize("value", ["full", "text", "top_k:1", "top_k:20", "rounded:0", "rounded:3", "noised:0.01"])
def test_views_are_taken(value: str) -> None:
    assert AuditConfig.from_metadata({"mia_api_view": value}).api_view == value
    assert shown_as(value)


class Shown(FakeBackend):
    """A backend that knows the K-th log-probability: -K, say; members are told from others by the loss alone."""

    def __init__(self, boosted=(), **options):
        super().__init__(boosted=boosted, features=BackendFeatures(gradients=True, kth=True), **options)
        self.asked = []

    def score(self, role, inputs, *, moments, on_done=None, done=(), kth=0):
        self.asked.append((role, kth))

        def keep(batch):
            if on_done:
                on_done({i: self._with(signals, kth) for i, signals in batch.items()})

        found = super().score(role, inputs, moments=moments, on_done=keep, done=done)
        return [each and self._with(each, kth) for each in found]

    @staticmethod
    def _with(signals, kth):
        return dataclasses.replace(signals, kth=np.full(len(signals), -float(kth), np.float32)) if kth else signals


def members(data):
    return {record.text for record in data.records if record.is_member}


def auroc_of(outcome, task="loss_mia_custom"):
    results = outcome.results[task]
    return auroc([results[r.id].score for r in DATA.records], [r.is_member for r in DATA.records])


def test_what_each_interface_gives_away(tmp_path) -> None:
    found = {}
    for view in ("full", "rounded:1", "noised:0.05", "noised:50", "top_k:1", "top_k:1000"):
        outcome, _ = run(tmp_path, ["loss"], data=DATA, backend=Shown(members(DATA)), mia_api_view=view)
        found[view] = auroc_of(outcome)
    assert found["full"] == found["top_k:1000"] == 1.0  # nothing is less probable than the bound of exp(-1000)
    assert found["rounded:1"] > 0.98
    assert found["noised:0.05"] > 0.98
    assert found["noised:50"] < 0.85
    outcome, _ = run(tmp_path, ["loss"], data=DATA, backend=Shown(members(DATA)), mia_api_view="top_k:1")
    scores = [outcome.results["loss_mia_custom"][record.id].score for record in DATA.records]
    assert min(scores) >= -1.0  # whatever is below the bound has the bound


def test_a_view_is_put_on_what_is_stored(tmp_path) -> None:
    """One scoring serves all views but `top_k`, and another K is another scoring; the base is always seen as it is."""
    run(tmp_path, ["lira_base"], data=DATA)
    _, backend = run(tmp_path, ["lira_base"], data=DATA, mia_api_view="rounded:1")
    assert not backend.scored
    backend = Shown()
    run(tmp_path, ["lira_base"], data=DATA, backend=backend, mia_api_view="top_k:2")
    assert {role for role, *_ in backend.scored} == {Role.TARGET}
    assert set(backend.asked) == {(Role.TARGET, 2)}
    again = Shown()
    run(tmp_path, ["lira_base"], data=DATA, backend=again, mia_api_view="top_k:2")
    assert not again.scored
    run(tmp_path, ["lira_base"], data=DATA, backend=again, mia_api_view="top_k:3")
    assert again.scored


def test_only_the_target_is_behind_the_interface(tmp_path) -> None:
    plain, _ = run(tmp_path, ["lira_base"], data=DATA)
    rounded, _ = run(tmp_path, ["lira_base"], data=DATA, mia_api_view="rounded:0")
    for record in DATA.records:
        one, other = (each.results["lira_base_mia_custom"][record.id] for each in (plain, rounded))
        assert other.reference == one.reference
        assert other.target != one.target
        assert other.score == pytest.approx(other.target - other.reference)


def test_what_needs_moments_says_so(tmp_path) -> None:
    outcome, _ = run(tmp_path, ["min_k_pp", "loss"], data=DATA, mia_api_view="rounded:3")
    assert {each.reason for each in outcome.results["min_k_pp_mia_custom"].values()} == {NO_MOMENTS}
    assert "mia_api_view" in NO_MOMENTS


@pytest.mark.parametrize(
    ("view", "names", "options", "refused"),
    [
        ("rounded:3", ["grad_norm", "loss"], {}, "grad_norm_mia_custom"),
        ("noised:1", ["neighbour", "loss"], {}, "neighbour_mia_custom"),  # noise on the embeddings
        ("text", ["loss", "surrogate", "bag_of_words"], {}, "loss_mia_custom"),
        ("text", ["spv"], {"mia_perturbation": "causal"}, "spv_mia_custom"),
    ],
)
def test_what_an_interface_does_not_take_is_refused_by_name(tmp_path, view, names, options, refused) -> None:
    with pytest.raises(SpvmiaError) as caught:
        run(tmp_path, names, data=DATA, mia_api_view=view, **options)
    assert str(caught.value).startswith(
        f"mia_api_view: expected attacks that {view} shows enough for, got {refused}, which need more of the target"
    )
    assert str(caught.value).endswith("leave these attacks out, or set mia_api_view=full")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "refused", "rest"),
    [
        (["loss", "neighbour"], "loss_mia_custom, neighbour_mia_custom", ""),
        (["lira_base", "ngram"], "lira_base_mia_custom", "; these can run: ngram_mia_custom"),
    ],
)
def test_a_target_of_which_no_k_th_token_is_known(tmp_path, names, refused, rest) -> None:
    """It is the backend that lacks something there, not the interface."""
    with pytest.raises(SpvmiaError) as caught:
        run(tmp_path, names, data=DATA, mia_api_view="top_k:5", mia_perturbation="causal")
    assert str(caught.value) == (
        "mia_api_view: expected a view of what backend 'fake' gives, got top_k:5, which needs the log-probability of "
        f"the K-th most probable token at each place: it has none, so these attacks can't run: {refused}{rest}; set "
        "mia_api_view=rounded:D, noised:S or full, or use '--model hf'"
    )


def test_no_paraphrase_is_drawn_from_the_targets_distribution(tmp_path) -> None:
    class FromTarget(REGISTRY.perturbations["causal"]):
        name = "from_target"
        roles = (Role.TARGET,)

    with pytest.raises(SpvmiaError, match=r"^mia_perturbation: expected a kind that asks nothing of the target"):
        ApiView("rounded", 2).check(FromTarget(AuditConfig()))
    ApiView().check(FromTarget(AuditConfig()))
    ApiView("rounded", 2).check(REGISTRY.perturbations["causal"](AuditConfig()))


def test_what_needs_text_alone_runs_under_text(tmp_path) -> None:
    outcome, backend = run(tmp_path, ["surrogate", "ngram", "bag_of_words"], data=DATA, mia_api_view="text")
    assert Role.TARGET not in {role for role, *_ in backend.scored}
    assert all(each.score is not None for each in outcome.results["surrogate_mia_custom"].values())
    assert {each.n_tokens for each in outcome.results["surrogate_mia_custom"].values()} == {40}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("loss", "top_k:5"),
        ("spv_wbc", "top_k:5"),
        ("ngram", "text"),
        ("surrogate", "text"),
        ("bag_of_words", "nothing"),
    ],
)
def test_what_the_attacker_saw(name: str, expected: str) -> None:
    assert seen_of_target(REGISTRY.attacks[name](), "top_k:5") == expected
