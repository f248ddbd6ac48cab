"""An audit in a precision that this CPU is slow in says so before its work, and once."""

from __future__ import annotations

import pytest

from spvmia_plugin.models import precision


@pytest.mark.parametrize(("dtype", "times"), [("bfloat16", 1), ("float32", 0)])
def test_a_slow_precision_is_told_before_the_plan(evaluate, options, monkeypatch, capsys, dtype, times):
    monkeypatch.setattr(precision, "is_slow_in", lambda dtype: dtype.itemsize == 2)
    evaluate(["loss_mia_custom", "zlib_mia_custom"], options, model_args={"dtype": dtype})
    said = capsys.readouterr().err
    line = "spvmia: warning: this CPU has no instructions for bfloat16"
    before, _, _ = said.partition("stage ")
    assert " ".join(before.split()).count(line) == " ".join(said.split()).count(line) == times
    assert ("pass dtype=float32 in --model_args" in " ".join(said.split())) is (times == 1)
