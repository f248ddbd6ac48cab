"""A finished audit is served again from a full or read-only disk; one that is not ends in one line."""

from __future__ import annotations

import pytest

from spvmia_plugin.errors import SpvmiaError
from tests.disks import small_disk

TASK = "spv_mia_custom"


def scores(result):
    (samples,) = result["samples"].values()
    return {sample["doc"]["id"]: sample["resps"] for sample in samples}


@pytest.mark.parametrize("how", ["full", pytest.param("read-only", marks=pytest.mark.slow)])
def test_a_warm_store_serves_an_audit(evaluate, options, tmp_path, monkeypatch, caplog, how):
    from spvmia_plugin.models.hf_backend import HFBackend

    with small_disk(tmp_path / "disk", "32m") as disk:
        metadata = {**options, "mia_cache_dir": str(disk.place / "cache")}
        expected = scores(evaluate([TASK], metadata, log_samples=True))
        disk.fill() if how == "full" else disk.freeze()
        with monkeypatch.context() as patch:
            for name in ("generate", "train_reference", "sample_replacements", "score"):
                patch.setattr(HFBackend, name, None)  # nothing is computed
            assert scores(evaluate([TASK], metadata, log_samples=True)) == expected
        told = [line for line in caplog.messages if "cannot be written" in line]
        assert told == [
            f"mia_cache_dir: {disk.place}/cache cannot be written: what it holds is used, and nothing is kept"
        ]
        with pytest.raises(
            SpvmiaError, match=r"^mia_cache_dir.* expected a folder that can be written, got "
        ) as caught:
            evaluate([TASK], {**metadata, "mia_seed": 1})
        assert "is kept, and the same command continues from it" in str(caught.value)
        if how == "full":
            disk.free()
            assert scores(evaluate([TASK], metadata, log_samples=True)) == expected


def test_a_cold_store_is_told_before_any_work(evaluate, options, tmp_path, monkeypatch):
    from spvmia_plugin.models.hf_backend import HFBackend

    with small_disk(tmp_path / "disk", "1m") as disk:
        (disk.place / "cache").mkdir()
        disk.freeze()
        monkeypatch.setattr(HFBackend, "generate", None)
        with pytest.raises(
            SpvmiaError, match=r"^mia_cache_dir: expected a folder that can be written, got .*\(?Read-only"
        ):
            evaluate([TASK], {**options, "mia_cache_dir": str(disk.place / "cache")})
