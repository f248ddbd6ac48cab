"""What is left is corrected by what stages really take: a line each, one more when it moves, none on other ranks."""

from __future__ import annotations

import re

import pytest

from spvmia_plugin.auditing import forecast as forecast_module
from spvmia_plugin.auditing import progress as progress_module
from spvmia_plugin.auditing import run as run_module
from spvmia_plugin.auditing.continuations import STAGE
from spvmia_plugin.auditing.forecast import Forecast
from spvmia_plugin.auditing.plan import Stage
from tests.auditing.fakes import FakeBackend
from tests.auditing.test_plan import DATA
from tests.auditing.test_run import run


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


STAGES = [
    Stage("self-prompting the target", 10, "texts", 1000, 6.0),
    Stage("training the reference", 10, "texts", 500, 4.0),
    Stage("training the candidate reference", 10, "texts", 1000, 4.0),
    Stage("paraphrases (causal)", 10, "texts", 0),
    Stage("scoring: base", 10, "texts", 2000),
    Stage("scoring: target", 10, "texts", 4000),
]
"""At 10 tokens a second: 600, 200, 400, 0, 200 and 400 seconds, 1800 in all."""


@pytest.fixture
def made():
    clock, said = Clock(), []
    return Forecast(STAGES, 10.0, said.append, clock), clock, said


def test_each_stage_that_one_waits_for_says_how_long_it_took(made):
    forecast, clock, said = made
    assert forecast.seconds == 1800
    for name, seconds in zip([s.name for s in STAGES], [600, 220, 400, 0, 190, 410], strict=True):
        forecast.begin()
        clock.now += seconds
        forecast.done(name, 1.0)
    assert said == [
        "spvmia: self-prompting the target took 10 min, about 20 min left",
        "spvmia: training the reference took 4 min, about 17 min left",
        "spvmia: training the candidate reference took 7 min, about 10 min left",
        "spvmia: scoring: base took 3 min, about 6 min left",
        "spvmia: scoring: target took 7 min",
    ]
    assert forecast.seconds == 0


def test_a_stage_ends_once_and_a_short_one_without_a_word(made):
    forecast, clock, said = made
    forecast.begin()
    clock.now += 150
    forecast.done("scoring: base", 0.75)  # the plan counted more than there was
    forecast.finish("scoring: base")
    forecast.finish("scoring: base")
    assert said == ["spvmia: scoring: base took 2 min, about 27 min left"]
    assert forecast.seconds == 1600
    clock.now += 9
    forecast.done("training the reference", 1.0)
    assert len(said) == 1


def test_a_bar_shows_what_is_left_of_all_stages_and_moves_a_training(made):
    forecast, clock, said = made
    assert forecast("scoring: target", 0.5) == "about 30 min in all"  # batches are told of by their tokens
    forecast.begin()
    clock.now += 50
    assert forecast("training the reference", 0.25) == "about 29 min in all"
    assert forecast.seconds == 1750
    assert forecast("loading", 0.5) == "about 29 min in all"
    assert not said
    assert Forecast((), 1.0, said.append, clock)("training the reference", 0.5) == ""


def test_what_a_killed_training_had_done_is_told_and_takes_no_time(made):
    forecast, clock, said = made
    forecast("scoring: target", 0.5, kept=True)  # the plan knows
    assert not said
    clock.now += 500  # loading the checkpoint
    forecast("training the reference", 0.5, kept=True)
    assert said == ["spvmia: training the reference goes on where it was stopped, at 50 %"]
    assert forecast.seconds == 1700
    clock.now += 100
    forecast("training the reference", 0.5)
    assert said[1:] == ["spvmia: training the reference took 2 min, about 27 min left"]


def test_a_kind_of_work_that_is_slower_makes_the_rest_of_its_kind_slower(made):
    forecast, clock, said = made
    clock.now += 600
    forecast.done("self-prompting the target", 1.0)
    assert forecast.seconds == 1200
    clock.now += 600  # three times as long as planned: the candidate will take 1200, not 400
    forecast.done("training the reference", 1.0)
    assert forecast.seconds == pytest.approx(1200 + 600)
    assert said[1:] == ["spvmia: training the reference took 10 min, about 30 min left"]
    clock.now += 1200
    forecast.done("training the candidate reference", 1.0)
    assert said[2:] == ["spvmia: training the candidate reference took 20 min, about 10 min left"]


def test_it_is_corrected_within_a_stage_and_told_once(made):
    forecast, clock, said = made
    for _ in range(60):
        clock.now += 1.0  # a tenth of what was planned
        forecast.done("self-prompting the target", 1 / 60)
    assert len(said) == 2
    assert re.fullmatch(r"spvmia: about 2\d min left \(self-prompting the target is faster than planned\)", said[0])
    assert said[1] == "spvmia: self-prompting the target took 60 s, about 20 min left"


def test_time_between_stages_is_no_stages_and_noise_is_not_told(made):
    forecast, clock, said = made
    clock.now += 5000  # loading a model
    forecast.begin()
    clock.now += 600
    forecast.done("self-prompting the target", 1.0)
    clock.now += 9  # a first batch that warms up, of a stage planned for 200 seconds: too little to say
    forecast.done("scoring: base", 0.001)
    forecast.done("loading", 1.0)
    assert said == ["spvmia: self-prompting the target took 10 min, about 20 min left"]


def test_more_than_all_of_a_stage_is_all_of_it(made):
    forecast, clock, _ = made
    clock.now += 600
    forecast.done("self-prompting the target", 3.0)
    forecast.done("self-prompting the target", 0.5)
    assert forecast.seconds == 1200


def test_what_goes_on_beyond_its_plan_does_not_end_again_and_again(made):
    forecast, clock, said = made
    clock.now += 600
    forecast.done("self-prompting the target", 1.0)
    for _ in range(3):
        clock.now += 60
        forecast.done("self-prompting the target", 0.1)
    assert said == ["spvmia: self-prompting the target took 10 min, about 20 min left"]


def test_what_is_finished_early_is_left_for_nobody(made):
    forecast, clock, said = made
    forecast.finish("scoring: base", "scoring: target", "loading")
    assert forecast.seconds == 1200
    clock.now += 600
    forecast.done("self-prompting the target", 1.0)
    assert said == ["spvmia: self-prompting the target took 10 min, about 10 min left"]


def test_a_stage_whose_texts_turn_out_otherwise_is_told_anew(made):
    forecast, clock, said = made
    clock.now += 600
    forecast.done("self-prompting the target", 1.0)
    forecast.correct("training the candidate reference", 900)  # 360 seconds for 400: nothing worth a line
    assert forecast.seconds == 1160
    forecast.correct("training the reference", 50)
    assert forecast.seconds == 980
    assert len(said) == 1
    forecast.correct("training the candidate reference", 5000)
    assert forecast.seconds == 980 - 360 + 2000
    assert said[1:] == [
        "spvmia: about 44 min left (training the candidate reference has 5,000 tokens, not 1,000 as planned)"
    ]
    clock.now += 20
    forecast.done("training the reference", 1.0)  # as corrected
    assert said[2:] == ["spvmia: training the reference took 20 s, about 43 min left"]
    forecast.correct("training the reference", 7000)
    forecast.correct("no stage", 7000)
    assert forecast.seconds == 2600


@pytest.mark.parametrize("at_a_time", [5, 100])
def test_of_a_stage_is_left_what_was_not_done_and_no_more(tmp_path, monkeypatch, at_a_time):
    """In whatever parts the records are looked at: each batch is its share of all, those of other roles none."""
    left = {}

    class Kept(Forecast):
        def done(self, name, share):
            super().done(name, share)
            left.setdefault(name, [1.0]).append(self._left[name])

        def finish(self, *names):
            left.update({name: [*left.get(name, []), None] for name in names})
            super().finish(*names)

    monkeypatch.setattr(progress_module, "Forecast", Kept)
    monkeypatch.setattr(run_module, "RECORDS_AT_A_TIME", at_a_time)
    run(tmp_path, ["lira_base", "grad_norm", "ngram"], data=DATA, quiet=False, mia_continuations=3)
    for name in (STAGE, "scoring: base", "scoring: target", "gradients: target"):
        *shares, finished = left[name]
        assert finished is None, name
        shares = list(dict.fromkeys(shares))  # that nothing was new is told too
        assert len(shares) > len(DATA.records) // at_a_time
        assert shares == sorted(shares, reverse=True), name
        measured = 1 / len(DATA.records) if name == "scoring: target" else 0  # scored before there was a plan to follow
        assert shares[-1] == pytest.approx(measured, abs=1e-6), name
        assert all(share > 0 for share in shares[:-1]), (name, shares)


class Slow(FakeBackend):
    """Each sequence of the target takes a minute more than those that the plan measured."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def score(self, role, inputs, *, on_done, done=(), **options):
        def slowly(batch):
            self.clock.now += 0.0 if len(done) == len(inputs) - 1 else 60.0
            on_done(batch)

        return super().score(role, inputs, on_done=slowly, done=done, **options)


@pytest.mark.parametrize("quiet", [False, True])
def test_an_audit_tells_it_and_another_rank_does_not(tmp_path, monkeypatch, capsys, quiet):
    clock = Clock()
    monkeypatch.setattr(forecast_module.Forecast.__init__, "__defaults__", (clock,))
    run(tmp_path, ["loss", "ez"], data=DATA, quiet=quiet, backend=Slow(clock))
    told = re.findall(r"spvmia: about .* left \(scoring: \w+ is slower than planned\)", capsys.readouterr().err)
    assert bool(told) is not quiet
    assert len(told) <= 3


def test_nothing_is_left_when_an_audit_is_done(tmp_path):
    """All kinds of stages, in parts, resumed in the middle: the plan's guesses never stay behind."""
    found = []

    class Kept(Forecast):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            found.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress_module, "Forecast", Kept)
        patch.setattr(run_module, "RECORDS_AT_A_TIME", 5)
        run(tmp_path, ["spv"], data=DATA, quiet=False, records=DATA.records[:5], mia_perturbation="causal")
        run(tmp_path, ["spv", "ez", "rmia", "lira_candidate"], data=DATA, quiet=False, mia_perturbation="causal")
    assert [each.seconds for each in found] == [0] * len(found)
    assert len(found) == 4
    assert {"paraphrases (causal)", "training the reference", "scoring: reference"} <= set(found[1]._estimates)
    assert "training the candidate reference" in found[3]._estimates


def test_a_stage_that_slows_down_does_not_say_the_same_again_and_again():
    said: list[str] = []
    now = 0.0
    forecast = Forecast([Stage("scoring: target", 1, "texts", 600_000)], 1000.0, said.append, lambda: now)
    for i in range(1, 9):
        now += 300 * 2.0 ** (i - 1)  # twice as long for each half of what is left: five minutes are left, always
        forecast.done("scoring: target", 0.5**i)
    assert said == ["spvmia: about 5 min left (scoring: target is slower than planned)"]
