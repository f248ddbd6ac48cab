"""The plan says what is really missing, and what shrinks it."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from typing import NamedTuple

import pytest

from spvmia_plugin.auditing.run import Job, Run
from spvmia_plugin.auditing.scorer import Scorer
from spvmia_plugin.auditing.sheets import Request
from spvmia_plugin.auditing.stored import StoredSignals, read
from spvmia_plugin.config import AuditConfig
from spvmia_plugin.protocols import Cost, ScoreInput
from spvmia_plugin.records import Record
from spvmia_plugin.signals import Role
from spvmia_plugin.store.store import Store
from tests.auditing.fakes import FakeBackend, make_data
from tests.auditing.test_run import OPTIONS, REGISTRY, forward_tokens, run

NAMES = ["spv", "min_k_pp", "rmia", "lira_candidate"]
DATA = make_data(6, prompts=4, candidate=2)


class Planned(NamedTuple):
    """A stage as the table shows it."""

    count: int
    kept: int
    tokens: int
    about: str


def planned(text: str) -> dict[str, Planned]:
    """The stages by name. The column of what the store has is there where it has anything."""
    kept = r"(all|[\d,]*)  +" if "from store" in text else "()"
    row = re.compile(rf"^  (\S.*?)  +([\d,]+) texts  +{kept}([\d,]+) *(.*)$", re.M)

    def number(cell):
        return int(cell.replace(",", "") or 0)

    numbers = {
        name: Planned(number(count), number(count if kept == "all" else kept), number(tokens), about.strip())
        for name, count, kept, tokens, about in row.findall(text)
    }
    assert numbers, text
    return numbers


def table(tmp_path, capsys, names=NAMES, **options):
    backend = options.pop("backend", None)
    outcome, backend = run(
        tmp_path, names, data=DATA, quiet=False, backend=backend, **{"mia_perturbation": "causal", **options}
    )
    return planned(capsys.readouterr().err), outcome, backend


def test_what_it_counts_is_what_is_done(tmp_path, capsys):
    stages, outcome, backend = table(tmp_path, capsys)
    done = Counter(role for role, _, _ in backend.scored)
    tokens = Counter()
    for role, item, _ in backend.scored:
        tokens[role] += len(item.token_ids)
    for role in (Role.TARGET, Role.BASE, Role.REFERENCE):
        assert stages[f"scoring: {role.value}"][:3] == (done[role], 0, tokens[role])
    assert stages["self-prompting the target"][:3] == (6, 0, 6 * (40 - 16))
    assert stages["training the reference"][:3] == (6, 0, 6 * 40 * 2)
    assert stages["training the candidate reference"].count == 2
    assert sum(cost.seconds for cost in outcome.stages.values()) > 0


def test_estimates_are_those_of_the_measured_speed(tmp_path, capsys, monkeypatch):
    """At 10 scored tokens a second: a sampled token takes as long as six, a trained one as long as four."""
    monkeypatch.setattr(Scorer, "measure", lambda self, requests: 10.0)
    stages, _, _ = table(tmp_path, capsys)
    told = {name: (stage.tokens, stage.about) for name, stage in stages.items()}
    assert told["self-prompting the target"] == (144, "86 s")
    assert told["training the reference"] == (480, "3 min")
    assert told["training the candidate reference"] == (160, "64 s")
    assert told["paraphrases (causal)"] == (480, "48 s")
    assert told["scoring: candidate"] == (480, "48 s")
    assert told["scoring: reference"] == (12 * 5 * 40, "4 min")


def test_a_second_run_plans_nothing(tmp_path, capsys):
    table(tmp_path, capsys)
    whole, _, _ = table(tmp_path / "whole", capsys)
    stages, outcome, _ = table(tmp_path, capsys)
    assert stages == {name: Planned(stage.count, stage.count, 0, "") for name, stage in whole.items()}
    assert forward_tokens(outcome) == 0
    assert "measuring the speed" not in outcome.stages


def test_a_second_run_with_another_attack_has_times(tmp_path, capsys):
    """All of the target is stored, and a reference is left: the speed is measured on what is there, and not kept."""
    table(tmp_path, capsys, ["loss"])
    stages, outcome, backend = table(tmp_path, capsys, ["spv_wbc"])
    assert stages["scoring: target"] == Planned(12, 12, 0, "")
    assert all(stage.about for stage in stages.values() if stage.tokens)
    assert {stage for stage, planned in stages.items() if planned.tokens} >= {"training the reference"}
    assert outcome.stages["measuring the speed"].forward_tokens == 40
    assert Counter(role for role, _, _ in backend.scored)[Role.TARGET] == 1
    fresh, _ = run(tmp_path / "fresh", ["spv_wbc"], data=DATA)
    assert outcome.results == fresh.results


def test_what_attacks_have_nothing_to_score_in_is_foreseen(tmp_path):
    """Of each attack as many records, with the same reasons, as come out of the run."""
    names = ["loss", "icp", "recall", "premia", "lira_candidate", "ngram"]
    config = AuditConfig.from_metadata(OPTIONS, REGISTRY.attack_options)
    data = make_data(6, prompts=4)
    longer = Record("f:0", data.records[0].text * 2, True, "f:0")
    data = dataclasses.replace(data, records=(longer, *data.records[1:]))
    attacks = {f"{name}_mia_custom": REGISTRY.attack(name, config) for name in names}
    with Store(tmp_path / "of_check") as store:
        asked = Run(Job(data, config, attacks, data.records, data.records), FakeBackend(max_length=90), REGISTRY, store)
        asked.check()
        asked.foresee()
        told = asked.without_score()
        assert (asked.foresee(), asked.without_score())[1] == told
    assert [line.partition(" has")[0] for line in told] == ["icp", "recall", "premia", "lira_candidate"]
    outcome, _ = run(tmp_path, names, data=data, backend=FakeBackend(max_length=90))
    for name, line in zip(["icp", "recall", "premia", "lira_candidate"], told, strict=True):
        lost = Counter(each.reason for each in outcome.results[f"{name}_mia_custom"].values() if each.score is None)
        many = "none" if lost.total() == 12 else str(12 - lost.total())
        why = ", ".join(f"{reason}: {count}" for reason, count in lost.most_common())
        assert line == f"{name} has something to score in {many} of 12 records ({why})"


class Killed(Exception):
    pass


class Dying(FakeBackend):
    """Dies before it has scored a number of sequences under a role."""

    def __init__(self, role, after):
        super().__init__()
        self._role, self._after = role, after

    def score(self, role, inputs, **options):
        if role is not self._role:
            return super().score(role, inputs, **options)
        keep = options.pop("on_done")

        def dying(batch):
            self._after -= 1
            if self._after < 0:
                raise Killed
            keep(batch)

        return super().score(role, inputs, on_done=dying, **options)


@pytest.mark.parametrize("role", [Role.TARGET, Role.REFERENCE])
def test_a_resumed_run_plans_the_rest_exactly(tmp_path, capsys, role):
    whole, expected, _ = table(tmp_path / "whole", capsys)
    with pytest.raises(Killed):
        table(tmp_path / "killed", capsys, backend=Dying(role, 10))
    capsys.readouterr()
    stages, outcome, backend = table(tmp_path / "killed", capsys)
    for name in ("self-prompting the target", "training the reference", "paraphrases (causal)"):
        assert stages[name][:3] == (whole[name].count, whole[name].count, 0)
    scoring, before = stages[f"scoring: {role.value}"], whole[f"scoring: {role.value}"]
    assert (scoring.count, scoring.kept, scoring.tokens) == (before.count, 10, before.tokens - 10 * 40)
    assert sum(row.tokens for name, row in stages.items() if name.startswith("scoring")) == sum(
        len(item.token_ids) for _, item, _ in backend.scored
    )
    assert outcome.results == expected.results


def test_what_cannot_be_scored_is_not_planned(tmp_path, capsys):
    run(tmp_path, NAMES, data=dataclasses.replace(DATA, candidate=()), quiet=False)
    assert not any("candidate" in stage for stage in planned(capsys.readouterr().err))


def test_embedding_noise_costs_nothing_to_make(tmp_path, capsys):
    stages, _, _ = table(tmp_path, capsys, ["spv"], mia_perturbation="embedding")
    assert stages["paraphrases (embedding)"] == (len(DATA.records) * 2 * 2, 0, 0, "")


def test_the_first_batch_is_measured_and_not_done_again(tmp_path, capsys):
    _, outcome, backend = table(tmp_path, capsys, ["loss"])
    assert outcome.stages["measuring the speed"].forward_tokens > 0
    assert set(backend.scored.values()) == {1}
    assert forward_tokens(outcome) == sum(len(item.token_ids) for _, item, _ in backend.scored)


def test_equal_texts_are_scored_once_over_records_and_paraphrases(tmp_path):
    """Records with one text, and paraphrases that came out as the text of a record."""
    records = [dataclasses.replace(record, text="x" * 40) for record in DATA.records[:4]]
    data = dataclasses.replace(DATA, records=(*records, *DATA.records[4:]))
    _, backend = run(tmp_path, ["spv", "min_k_pp", "loss"], data=data, mia_perturbation="causal")
    assert set(backend.scored.values()) == {1}
    same = ScoreInput(tuple([ord("x")] * 40))
    assert [moments for role, item, moments in backend.scored if (role, item) == (Role.TARGET, same)] == [True]


def test_a_signal_with_moments_serves_those_without(tmp_path):
    backend, item = FakeBackend(), ScoreInput((1, 2, 3))
    with Store(tmp_path) as store:
        StoredSignals(backend, store).of([Request(Role.TARGET, Role.TARGET, [item], moments=True)])
        signals, plain = StoredSignals(backend, store), Request(Role.TARGET, Role.TARGET, [item], moments=False)
        assert signals.stock(plain) == (1, 0)
        assert signals.first_batch(plain) == 0
        assert signals.of([plain])[item].mean is not None
        assert signals.stock(Request(Role.BASE, Role.BASE, [item], moments=False)) == (0, 3)
    assert sum(backend.scored.values()) == 1
    assert backend.cost(Role.BASE) == Cost()


class WholeBatches(FakeBackend):
    """Scores four sequences together, all of them where one of the four is asked for, as a batch of a model does."""

    def score(self, role, inputs, *, moments, on_done=None, done=()):
        out = [None] * len(inputs)
        for start in range(0, len(inputs), 4):
            batch = range(start, min(start + 4, len(inputs)))
            if not all(i in done for i in batch):
                found = super().score(role, [inputs[i] for i in batch], moments=moments)
                out[batch.start : batch.stop] = found
                on_done(dict(zip(batch, found, strict=True)))
        return out


@pytest.mark.parametrize("before", [0, 2])
def test_what_the_measurement_of_the_speed_computed_was_not_known_already(tmp_path, before):
    """It asks for one sequence, and gets those of its batch as well: they are new all the same."""
    backend, items = WholeBatches(), [ScoreInput((1, 2, 3, n)) for n in range(10)]
    request = Request(Role.TARGET, Role.TARGET, items, moments=False)
    with Store(tmp_path) as store:
        if before:
            known = dataclasses.replace(request, inputs=items[:before])
            StoredSignals(backend, store).of([known])
        signals = StoredSignals(backend, store)
        assert signals.first_batch(request) > 0
        signals.of([request])
        amount = signals.asked(request)
    assert (amount.texts, amount.tokens, amount.new) == (10, 40, 40 - 4 * before)


def test_a_context_is_counted_where_one_sequence_alone_has_it():
    items = [ScoreInput((1, 2, 3), (7, 8)), ScoreInput((1, 2), (9,)), ScoreInput((1,), (9,)), ScoreInput((4, 5))]
    assert read(items) == [5, 2, 1, 2]


def test_probes_are_planned_with_what_stands_before_them(tmp_path, capsys):
    stages, _, backend = table(tmp_path, capsys, ["icp"])
    sequences = [item for _, item, _ in backend.scored]
    assert stages["scoring: target"][::2] == (24, sum(len(s.token_ids) + len(s.context_ids) for s in sequences))


def test_records_beyond_the_context_are_told_with_the_plan(tmp_path, capsys):
    first, *others = DATA.records
    data = dataclasses.replace(DATA, records=(dataclasses.replace(first, text=first.text * 2), *others))
    most = max(len(record.text) for record in others)
    run(tmp_path, ["loss"], data=data, quiet=False, backend=FakeBackend(max_length=most))
    told = f"  note: 1 of {len(data.records)} records exceed the model's context of {most} tokens: "
    said = capsys.readouterr().err
    assert told in said
    assert f"(mia_block_size={most})" in said.partition(told)[2]
    run(tmp_path, ["loss"], data=DATA, quiet=False, backend=FakeBackend(max_length=most))
    assert "exceed the model's context" not in capsys.readouterr().err


def test_where_no_token_is_scored_no_context_is_too_short(tmp_path, capsys):
    run(tmp_path, ["bag_of_words"], data=DATA, quiet=False, backend=FakeBackend(max_length=2))
    assert "exceed the model's context" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "options", "told"),
    [
        (["spv"], {}, "--limit, mia_max_samples, mia_self_prompts, mia_perturbations, mia_preset=quick"),
        (["spv"], {"mia_perturbations": 1}, "--limit, mia_max_samples, mia_self_prompts, mia_preset=quick"),
        (["spv_wbc"], {"mia_preset": "standard"}, "--limit, mia_max_samples, mia_self_prompts, mia_preset=quick"),
        (["spv"], {"mia_preset": "quick"}, "--limit, mia_max_samples, mia_self_prompts, mia_perturbations"),
        (["spv"], {"mia_preset": "quick", "mia_perturbations": 1}, "--limit, mia_max_samples, mia_self_prompts"),
        (["loss"], {"mia_preset": "quick"}, "--limit, mia_max_samples"),
    ],
)
def test_what_would_not_shorten_it_is_not_offered(tmp_path, capsys, names, options, told):
    run(tmp_path, names, data=DATA, quiet=False, **{"mia_perturbation": "causal", **options})
    assert f"  to shrink it: {told}\n" in capsys.readouterr().err


def test_one_of_several_processes_says_how_many_of_the_records_are_its_own(tmp_path, capsys):
    run(tmp_path, ["loss"], data=DATA, quiet=False, records=DATA.records[:5])
    assert "spvmia: 5 of 12 records in this process, of " in capsys.readouterr().err
    run(tmp_path, ["loss"], data=DATA, quiet=False)
    assert "spvmia: 12 records of " in capsys.readouterr().err
