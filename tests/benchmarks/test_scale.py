"""The benchmark of many records runs under every attack that there is: what none asks for any more breaks unseen."""

from __future__ import annotations

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))  # as `python benchmarks/x.py` has it

import scale

from spvmia_plugin.plugins import load_registry


def test_the_audit_of_many_records_scores_them_under_every_attack_that_its_backend_can(tmp_path):
    for seed, (part, many) in enumerate({"members": 30, "nonmembers": 30, "prompts": 120, "candidate": 20}.items()):
        scale.write_texts(tmp_path / f"{part}.jsonl", many, seed)
    told = scale.measure(scale.ROOT, ["--what", "audit", "--folder", str(tmp_path)])
    assert 0 < told["memory_mb"] < 2000
    scored = {name for name, auroc in told["aurocs"].items() if math.isfinite(auroc)}
    assert scored == set(told["aurocs"])
    # The rest need gradients, a second model or many drafts, and are no members of the group.
    assert set(load_registry().attacks) - {name.removesuffix("_mia_custom") for name in scored} == {
        *("grad_norm", "ngram", "premia", "semantic")
    }


def test_a_word_of_the_benchmark_is_a_token_and_any_other_word_one_too():
    from scale_backend import CAPITAL, Arithmetic

    backend = Arithmetic(None, None)
    assert backend.encode("W7 w7 w19999") == [CAPITAL + 7, 7, 19999]
    assert backend.decode(backend.encode("W7 w12")) == "W7 w12"
    (strange,) = backend.encode("word")
    assert 0 <= strange < 20_000
