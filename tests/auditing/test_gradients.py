"""Norms of gradients in an audit: asked once for each loss, kept, planned, resumed, refused where there are none."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from spvmia_plugin.auditing.scorer import Scorer
from spvmia_plugin.auditing.sequences import Inputs
from spvmia_plugin.auditing.sheets import Sheet
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.protocols import Backend, BackendFeatures
from spvmia_plugin.signals import Role, View
from tests.auditing.fakes import FakeBackend, make_data
from tests.auditing.test_plan import planned
from tests.auditing.test_probes import chatting
from tests.auditing.test_run import run

DATA = make_data(6)


def scores(outcome):
    return {record_id: each.score for record_id, each in outcome.results["grad_norm_mia_custom"].items()}


def test_every_record_has_the_norm_of_its_own_loss(tmp_path):
    outcome, backend = run(tmp_path, ["grad_norm", "loss"], data=DATA)
    inputs = Inputs(FakeBackend(), DATA)
    for record in DATA.records:
        (norm,) = FakeBackend().gradient_norms(Role.TARGET, [inputs.of(record, View.TEXT).item], [None])
        found = outcome.results["grad_norm_mia_custom"][record.id]
        assert found.score == pytest.approx(-np.log(norm))
        assert found.target == outcome.results["loss_mia_custom"][record.id].target
        assert found.n_tokens == 40
    assert set(backend.differentiated.values()) == set(backend.scored.values()) == {1}
    assert {role for role, _, _ in backend.differentiated} == {Role.TARGET}
    assert outcome.stages["gradients: target"].seconds > 0


def test_equal_records_are_differentiated_once(tmp_path):
    records = [dataclasses.replace(record, text="x" * 40) for record in DATA.records[:4]]
    data = dataclasses.replace(DATA, records=(*records, *DATA.records[4:]))
    outcome, backend = run(tmp_path, ["grad_norm"], data=data)
    assert set(backend.differentiated.values()) == {1}
    assert len(backend.differentiated) == len(data.records) - 3
    assert len({scores(outcome)[record.id] for record in records}) == 1


def test_a_second_run_differentiates_nothing(tmp_path):
    first, _ = run(tmp_path, ["grad_norm"], data=DATA)
    second, backend = run(tmp_path, ["grad_norm"], data=DATA)
    assert not backend.differentiated
    assert scores(first) == scores(second)


class Killed(Exception):
    pass


class Dying(FakeBackend):
    def gradient_norms(self, role, inputs, counted, *, on_done=None, done=()):
        left = [5]

        def keep(batch):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            on_done(batch)

        return super().gradient_norms(role, inputs, counted, on_done=keep, done=done)


def to_do(capsys):
    """(how many of the 12 texts are in the store, tokens of the others), as the plan counts them."""
    stage = planned(capsys.readouterr().err)["gradients: target"]
    assert stage.count == 12
    return stage.kept, stage.tokens


def test_a_killed_run_goes_on_where_it_was(tmp_path, capsys):
    whole, _ = run(tmp_path / "whole", ["grad_norm"], data=DATA, quiet=False)
    assert to_do(capsys) == (0, 12 * 40)
    with pytest.raises(Killed):
        run(tmp_path / "killed", ["grad_norm"], data=DATA, backend=Dying())
    capsys.readouterr()
    rest, backend = run(tmp_path / "killed", ["grad_norm"], data=DATA, quiet=False)
    assert to_do(capsys) == (5, 7 * 40)
    assert len(backend.differentiated) == 7
    assert scores(rest) == scores(whole)
    run(tmp_path / "killed", ["grad_norm"], data=DATA, quiet=False)
    assert to_do(capsys) == (12, 0)


def test_it_is_planned_as_three_scored_tokens_each(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Scorer, "measure", lambda self, requests: 10.0)
    run(tmp_path, ["grad_norm"], data=DATA, quiet=False)
    stages = planned(capsys.readouterr().err)
    assert stages["gradients: target"] == (12, 0, 480, "2 min")  # 480 * 3 / 10
    assert stages["scoring: target"] == (12, 0, 480, "48 s")


def test_a_backend_without_weights_refuses_it_by_name(tmp_path):
    backend = FakeBackend(features=BackendFeatures())  # a plugin's that says nothing of gradients
    with pytest.raises(SpvmiaError) as error:
        run(tmp_path, ["grad_norm", "loss", "icp"], data=DATA, backend=backend)
    assert str(error.value) == (
        "--model: 'fake' lacks what these attacks need, so they can't run: grad_norm_mia_custom; these can run: "
        "icp_mia_custom, loss_mia_custom; gradients need the model's weights, in memory and not packed beyond "
        "training: leave these attacks out, or load the model so with '--model hf'"
    )
    assert not backend.scored
    with pytest.raises(SpvmiaError, match="use '--model hf' or a backend plugin"):
        run(tmp_path, ["grad_norm"], data=DATA, backend=FakeBackend(features=BackendFeatures(False, gradients=False)))


def test_a_model_without_a_way_back_is_refused_before_anything_is_scored(tmp_path):
    class OneWay(FakeBackend):
        def check_gradients(self, role):
            raise SpvmiaError("target: no way back")

    backend = OneWay()
    with pytest.raises(SpvmiaError, match="no way back"):
        run(tmp_path, ["grad_norm"], data=DATA, backend=backend)
    assert not backend.scored
    run(tmp_path, ["loss"], data=DATA, backend=OneWay())  # nobody asks
    run(tmp_path, ["grad_norm"], data=DATA)
    run(tmp_path, ["grad_norm"], data=DATA, backend=OneWay())  # of this model it is known


def test_what_a_backend_does_not_say():
    made = Backend(None, None)
    made.name = "mine"
    made.check_gradients(Role.TARGET)
    assert not made.features.gradients
    with pytest.raises(SpvmiaError, match="--model: mine gives no"):
        made.gradient_norms(Role.TARGET, [], [])


@pytest.mark.parametrize(
    ("length", "reason"),
    [(41, None), (42, "the record exceeds the model's context, so its loss has no gradient in one piece")],
)
def test_a_record_longer_than_the_context_has_a_reason(tmp_path, length, reason):
    records = (dataclasses.replace(DATA.records[0], text="a" * length), *DATA.records[1:])
    data = dataclasses.replace(DATA, records=records)
    outcome, backend = run(tmp_path, ["grad_norm"], data=data, backend=FakeBackend(max_length=40))
    assert outcome.results["grad_norm_mia_custom"][records[0].id].reason == reason
    assert len(backend.differentiated) == 12 - (reason is not None)


@pytest.mark.parametrize("text", ["", "a"])
def test_a_record_without_a_scored_token_has_a_reason(text):
    inputs = Inputs(FakeBackend(), DATA)
    assert inputs.of(dataclasses.replace(DATA.records[0], text=text), View.GRADIENT) == "no scored tokens"


def test_of_conversations_the_loss_is_that_of_the_tokens_that_carried_it():
    backend, data = chatting()
    record = data.records[0]
    sheet = Sheet(record, Inputs(backend, data))
    found = sheet.differentiated()
    assert found.item.token_ids == record.rendered.token_ids
    assert found.mask.tolist() == list(record.rendered.counted[1:])
    assert sheet.sequences([View.GRADIENT]) == [found.item]  # whose tokens the model has to have
    sheet.take_gradient(Role.TARGET, 2.0)
    sheet.fill(Role.TARGET, [View.GRADIENT], {})
    assert sheet.signals({}).gradient_of(Role.TARGET) == 2.0
    assert dict(sheet.under_other_mask({}).gradients) == {}  # of that mask it is not known
    reason = dataclasses.replace(record, rendered=dataclasses.replace(record.rendered, reason="no answer"))
    assert Sheet(reason, Inputs(backend, data)).differentiated() is None
    nothing = dataclasses.replace(record.rendered, counted=(False,) * len(record.rendered.counted))
    bare = dataclasses.replace(record, rendered=nothing)
    assert Inputs(backend, data).of(bare, View.GRADIENT) == "no scored tokens"


def test_another_mask_is_another_loss(tmp_path):
    """One sequence under two masks: two norms in one store."""
    found = {}
    for loss_on in ("completion", "all"):
        backend, data = chatting(loss_on=loss_on)
        outcome, _ = run(tmp_path, ["grad_norm"], data=data, backend=backend, mia_block_size=0)
        assert len(backend.differentiated) == 1
        found[loss_on] = scores(outcome)["f:1"]
    assert found["completion"] != found["all"]
