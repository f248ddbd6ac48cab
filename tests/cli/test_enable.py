"""`spvmia enable` and `disable` against an lm_eval made of a few empty files; the real ones are in `tox -e pkg`."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import sys
from pathlib import Path

import pytest

from spvmia_plugin import __version__
from spvmia_plugin.errors import SpvmiaError
from spvmia_plugin.harness import enable as module
from spvmia_plugin.harness.enable import STAMP, check_version, disable, enable, enabled, harness_tasks, tasks_folder


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that `enable` writes, in an lm_eval that comes first on the path."""
    return _fake_harness(tmp_path, monkeypatch) / "tasks" / "spv_mia"


def _fake_harness(site: Path, monkeypatch: pytest.MonkeyPatch, version: str = "0.4.13") -> Path:
    package = site / "lm_eval"
    (package / "tasks").mkdir(parents=True)
    (package / "__init__.py").touch()
    info = site / f"lm_eval-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: lm_eval\nVersion: {version}\n")
    monkeypatch.delitem(sys.modules, "lm_eval", raising=False)
    monkeypatch.syspath_prepend(str(site))
    return package


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_copies_the_task_files_and_says_where(target: Path) -> None:
    said = enable()

    assert str(target) in said
    assert __version__ in said
    assert _names(target) == _names(tasks_folder()) | {".gitignore", STAMP}
    assert (target / "spv_mia_custom.yaml").read_bytes() == (tasks_folder() / "spv_mia_custom.yaml").read_bytes()
    assert (target / ".gitignore").read_text().splitlines()[-1] == "*"
    assert enabled() == "current"


def test_twice_is_once(target: Path) -> None:
    enable()
    before = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}

    assert enable().startswith("already enabled")
    assert {path.name: path.stat().st_mtime_ns for path in target.iterdir()} == before


def test_disable_leaves_nothing_behind(target: Path) -> None:
    enable()

    assert disable() == f"disabled: removed {target}"
    assert _names(target.parent) == set()
    assert enabled() == "no"
    assert disable().startswith("not enabled")


def test_brings_an_older_copy_up_to_date(target: Path) -> None:
    enable()
    stamp = json.loads((target / STAMP).read_text())
    (target / STAMP).write_text(json.dumps({**stamp, "version": "0.0.1", "files": [*stamp["files"], "gone.yaml"]}))
    (target / "gone.yaml").write_text("task: gone\n")
    (target / "spv_mia_custom.yaml").write_text("task: old\n")
    assert enabled() == "outdated"

    assert "brought up to date from 0.0.1" in enable()
    assert enabled() == "current"
    assert not (target / "gone.yaml").exists()
    assert disable().startswith("disabled: removed")


def test_repairs_a_copy_that_was_cut_short(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = module._replace
    written: list[Path] = []

    def full_disk(path: Path, data: bytes) -> None:
        written.append(path)
        if len(written) > 5:
            raise OSError(28, "No space left on device")
        replace(path, data)

    monkeypatch.setattr(module, "_replace", full_disk)
    with pytest.raises(SpvmiaError, match=r"cannot write to .* \(No space left on device\); use 'spvmia run'"):
        enable()
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(target.parents[2]))
    monkeypatch.delitem(sys.modules, "lm_eval", raising=False)

    assert "brought up to date from unfinished" in enable()
    assert enabled() == "current"
    assert disable() == f"disabled: removed {target}"


def test_takes_an_empty_folder(target: Path) -> None:
    target.mkdir()  # what `git clean` leaves in a checkout
    assert enable().startswith("enabled")


@pytest.mark.parametrize("kind", ["folder", "link", "file", "broken stamp", "escaping stamp"])
def test_refuses_what_is_not_ours(target: Path, tmp_path: Path, kind: str) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious.yaml").touch()
    if kind == "link":
        target.symlink_to(other)
        (other / STAMP).write_text(json.dumps({"version": __version__, "files": ["precious.yaml"]}))
    elif kind == "file":
        target.touch()
    else:
        target.mkdir()
        (target / "theirs.yaml").touch()
        if kind == "broken stamp":
            (target / STAMP).write_text("{")
        if kind == "escaping stamp":
            names = ["theirs.yaml", os.path.relpath(other / "precious.yaml", target)]
            (target / STAMP).write_text(json.dumps({"version": __version__, "files": names}))

    with pytest.raises(SpvmiaError, match=r"somebody else's; .*spvmia run.*--include_path \"\$\(spvmia tasks\)\""):
        enable()
    with pytest.raises(SpvmiaError, match="was not written by 'spvmia enable'"):
        disable()
    assert (other / "precious.yaml").exists()


def test_disable_leaves_files_of_others(target: Path) -> None:
    enable()
    (target / "mine.yaml").touch()

    assert disable() == f"disabled; left in {target} what is not ours: mine.yaml"
    assert _names(target) == {"mine.yaml"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_refuses_where_it_may_not_write(target: Path) -> None:
    target.parent.chmod(0o555)
    with pytest.raises(SpvmiaError, match=r"cannot write to .* \(Permission denied\); use 'spvmia run'"):
        enable()


def test_says_which_lm_eval_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_harness(tmp_path, monkeypatch, version="0.4.11")
    assert "warning: expected lm_eval >= 0.4.13, got 0.4.11" in enable()


def test_an_lm_eval_without_a_version_is_taken_as_it_is(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(module.importlib.metadata, "version", unknown)
    assert "warning" not in enable()


def test_an_lm_eval_that_finds_them_by_itself_gets_no_copy(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_contents", lambda _: {"spv_mia_custom.yaml": b"", STAMP: b"{}"})
    monkeypatch.setattr(module, "tasks_folder", lambda: tmp_path / "checkout" / "tasks")
    (target.parent / "manager.py").write_text("entry_points(group='lm_eval.tasks')\n")
    assert enable().startswith("enabled")  # the entry point names a folder of the wheel, and a checkout has none
    stamp = {"version": "0.0.1", "files": ["spv_mia_custom.yaml", STAMP]}
    (target / STAMP).write_text(json.dumps(stamp))

    monkeypatch.setattr(module, "tasks_folder", lambda: Path(module.__file__).resolve().parents[1] / "tasks")
    assert enable().splitlines() == [
        f"nothing to copy: this lm_eval finds 1 tasks and groups of spvmia-plugin {__version__}",
        f"disabled: removed {target}",
        "list them with: lm_eval ls tasks",
    ]
    assert enabled() == "current"
    assert len(enable().splitlines()) == 2


def test_without_lm_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SpvmiaError, match=r"this Python cannot import it; run pip install 'lm-eval\[hf\]>=0.4.13'"):
        enable()


def test_an_lm_eval_that_is_an_empty_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = _fake_harness(tmp_path, monkeypatch)
    (package / "__init__.py").unlink()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if "editable" not in repr(finder)])
    with pytest.raises(SpvmiaError, match=r"expected a package, got a folder without __init__.py"):
        harness_tasks()


def test_says_once_that_a_task_is_of_another_version(caplog: pytest.LogCaptureFixture) -> None:
    module._warn_once.cache_clear()
    source = {"config_source": "/x/lm_eval/tasks/spv_mia/spv_mia_custom.yaml"}
    with caplog.at_level(logging.WARNING):
        check_version({**source, "spvmia_version": __version__})
        check_version(source)  # written by hand
        assert caplog.messages == []
        check_version({**source, "spvmia_version": "0.0.1"})
        check_version({**source, "spvmia_version": "0.0.1"})

    assert len(caplog.messages) == 1
    assert "/x/lm_eval/tasks/spv_mia: task files were written by spvmia-plugin 0.0.1" in caplog.text
    assert "run 'spvmia enable'" in caplog.text


def test_a_stamp_that_cannot_be_read_is_not_taken_for_somebody_elses(target: Path) -> None:
    """Else the advice would be to rename a folder that is ours."""
    (target / STAMP).mkdir(parents=True)
    for command in (enable, disable, enabled):
        with pytest.raises(SpvmiaError, match=rf"cannot read .*{STAMP} \(Is a directory\)"):
            command()
