"""Each attack against its naive twin on random signals, 1e-9, defined and undefined alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spvmia_plugin.attacks import builtin_attacks
from spvmia_plugin.attacks.base import Attack, BlindAttack
from spvmia_plugin.signals import Continued, RecordSignals, Role, TokenSignals, Unscored, View
from tests.attacks.targets import TARGETS, Target, make_population, make_record, make_records, scores, tokens

TWINS = [target for target in TARGETS if target.naive is not None]


def under(population: dict[Role, list[TokenSignals]], other: list[TokenSignals]) -> dict[Role, list[TokenSignals]]:
    return {**population, Role.BASE: other, Role.REFERENCE: other}


def broken_records() -> list[RecordSignals]:
    """Records that lack something, one thing each."""
    rng = np.random.default_rng(5)
    whole = make_records(1, seed=5)[0]
    shorter = tokens(rng, len(whole.tokens[Role.TARGET, View.TEXT]) + 1)
    target = whole.tokens[Role.TARGET, View.TEXT]
    ring = whole.neighbours[Role.TARGET]
    records = [
        make_record(rng, make_population(rng), length=0),
        make_record(rng, make_population(rng), length=1),
        make_record(rng, make_population(rng, 0)),
        replace(whole, text="only three words"),
        replace(whole, neighbours={}),
        replace(whole, population={}),
        replace(whole, probed={}),
        replace(whole, probed={Role.TARGET: [tokens(rng, 0)]}),
        replace(whole, probed={Role.TARGET: [shorter]}),
        replace(whole, gradients={}),
        replace(whole, gradients={Role.TARGET: 0.0}),
        replace(whole, continued={}),
        replace(whole, continued={Role.TARGET: Continued("the bank said", ())}),
        replace(whole, continued={Role.TARGET: Continued("the bank", ("the bank",))}),
        replace(whole, continued={Role.TARGET: Continued("the bank said", ("the bank said", ""))}),
        replace(whole, continued={Role.TARGET: Continued("", ("the bank",))}),
        replace(whole, similarities={}),
        replace(whole, neighbours={role: values[:1] for role, values in whole.neighbours.items()}),
        replace(whole, neighbours={role: [values[0]] * 3 for role, values in whole.neighbours.items()}),
        replace(whole, neighbours={**whole.neighbours, Role.REFERENCE: whole.neighbours[Role.REFERENCE][:3]}),
        replace(
            whole, neighbours={**whole.neighbours, Role.REFERENCE: [*whole.neighbours[Role.REFERENCE][:3], shorter]}
        ),
        replace(whole, neighbours={role: [*values[:3], tokens(rng, 0)] for role, values in whole.neighbours.items()}),
        replace(whole, population=under({Role.TARGET: [tokens(rng, 0)]}, [tokens(rng, 0)])),
        replace(whole, population=under({Role.TARGET: [tokens(rng, 3)]}, [tokens(rng, 4)])),
        replace(whole, population=under({Role.TARGET: ring}, ring[1:])),
    ]
    records += [replace(whole, tokens={k: v for k, v in whole.tokens.items() if k != key}) for key in whole.tokens]
    records += [replace(whole, tokens={**whole.tokens, (role, View.TEXT): shorter}) for role in Role if role.nth == 1]
    rejected = (Role.BASE, View.REJECTED)
    records += [replace(whole, tokens={**whole.tokens, rejected: tokens(rng, length)}) for length in (0, 99)]
    for changed in (
        TokenSignals(target.logprob, target.top1),
        TokenSignals(target.logprob, target.top1, target.mean, np.zeros_like(target.logprob)),
        TokenSignals(target.logprob, np.ones_like(target.top1), target.mean, target.std),
        TokenSignals(np.zeros_like(target.logprob), target.top1, target.mean, target.std),
    ):
        records.append(replace(whole, tokens={**whole.tokens, (Role.TARGET, View.TEXT): changed}))
        records.append(
            replace(whole, tokens={**whole.tokens, (Role.TARGET, View.TEXT): changed, (Role.BASE, View.TEXT): changed})
        )
    return records


def agree(got: float | Unscored, expected: float | None) -> bool:
    if expected is None:
        return isinstance(got, Unscored) and bool(got.reason)
    return isinstance(got, float) and abs(got - expected) <= 1e-9 * max(1.0, abs(expected))


@pytest.mark.parametrize("target", TWINS, ids=str)
def test_equals_its_naive_twin(target: Target) -> None:
    records = [*make_records(60), *broken_records()]
    together = scores(target.attack, records)
    for record, score in zip(records, together, strict=True):
        assert agree(score, target.naive(record))
        assert target.attack.score(record) == score
    assert any(isinstance(score, float) for score in together)
    assert any(isinstance(score, Unscored) for score in together)


@pytest.mark.parametrize("target", TWINS, ids=str)
def test_needs_are_what_is_used(target: Target) -> None:
    """A record with nothing but the declared needs scores the same, and one without any of them does not score."""
    record = make_records(1, seed=8)[0]
    score = target.attack.score(record)
    assert isinstance(score, float)
    needs = target.attack.needs

    def only(kept: set[tuple[Role, View]]) -> RecordSignals:
        return replace(
            record,
            tokens={key: value for key, value in record.tokens.items() if key in kept},
            neighbours={role: value for role, value in record.neighbours.items() if (role, View.NEIGHBOURS) in kept},
            population={role: value for role, value in record.population.items() if (role, View.POPULATION) in kept},
            probed={role: value for role, value in record.probed.items() if (role, View.PROBED) in kept},
            gradients={role: value for role, value in record.gradients.items() if (role, View.GRADIENT) in kept},
            continued={role: value for role, value in record.continued.items() if (role, View.CONTINUED) in kept},
            similarities={role: of for role, of in record.similarities.items() if (role, View.SIMILARITY) in kept},
        )

    declared = {(need.role, need.view) for need in needs}
    assert target.attack.score(only(declared)) == score
    for need in declared:
        assert isinstance(target.attack.score(only(declared - {need})), Unscored)


def test_the_table_covers_every_built_in_attack() -> None:
    missing = [attack.name for attack in builtin_attacks() if attack not in {type(each.attack) for each in TARGETS}]
    assert missing == [], "its twin in tests/attacks/naive.py, and a line of TARGETS in tests/attacks/targets.py"
    assert len({str(target) for target in TARGETS}) == len(TARGETS)


def test_the_contract_leaves_the_score_to_the_attack() -> None:
    record = make_records(1)[0]
    with pytest.raises(NotImplementedError):
        Attack().score_record(record)
    with pytest.raises(NotImplementedError):
        _ = Attack().needs
    with pytest.raises(NotImplementedError):
        BlindAttack().score_all([], np.array([], dtype=bool), [], 0)
    assert BlindAttack().needs == frozenset()
