"""The callback where our dependencies are not: imported without them, and run in environments of other versions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

import spvmia_plugin
from spvmia_plugin.data.manifest import read_manifest
from spvmia_plugin.data.rebuilt import rebuild
from spvmia_plugin.data.weights import check_weights
from tests.launch import two_processes

from .foreign import prepare

SCRIPT = Path(__file__).parent / "foreign.py"
OURS = (
    *("pluggy", "lm_eval", "peft", "datasets", "typer", "platformdirs", "scipy", "sklearn", "pyarrow", "matplotlib"),
    *("trl", "gguf"),
)
"""What we depend on and transformers does not."""


def checked(folder: Path, end_token: bool) -> None:
    manifest = read_manifest(folder / "out")
    assert manifest.trainer["data"] == "matched"
    assert (manifest.data.format, manifest.data.end_token) == ("text", end_token)
    assert check_weights(manifest.weights, folder / "out", folder) == "matched"
    records, _ = rebuild(manifest, {})
    assert len(records["members"]) == 30
    for checkpoint in (folder / "out").glob("checkpoint-*"):
        assert read_manifest(checkpoint).fingerprint == manifest.fingerprint


def test_it_imports_and_runs_without_our_dependencies(tmp_path):
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({OURS!r})); sys.path.insert(0, {str(SCRIPT.parent)!r})\n"
        "import foreign; from pathlib import Path\n"
        f"foreign.main(Path({str(tmp_path)!r}), 'plain')\n"
        "import json; print(json.dumps([name for name in sys.modules if name.startswith('spvmia_plugin')]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    checked(tmp_path, end_token=False)
    rooms = {name.split(".")[1] for name in json.loads(done.stdout.splitlines()[-1]) if "." in name}
    assert rooms <= {"config", "data", "errors", "paraphrases", "protocols", "records", "seeds", "trainers", "util"}


@pytest.mark.slow
def test_of_two_processes_the_first_writes(tmp_path):
    prepare(tmp_path)
    (first, said), (second, other) = two_processes([str(SCRIPT), str(tmp_path), "plain"], {"PYTHONPATH": os.getcwd()})
    assert (first, second) == (0, 0), said + other
    checked(tmp_path, end_token=False)
    assert "spvmia: membership manifest: 30 members" in said
    assert "spvmia:" not in other
    assert read_manifest(tmp_path / "out").settings["batch_size"] == 16


def test_the_package_itself_stays_light():
    program = (
        "import sys, spvmia_plugin; assert 'transformers' not in sys.modules and 'torch' not in sys.modules\n"
        "from spvmia_plugin.trainers import building, declared, existing, facts, places, seen\n"
        "print(sorted({'numpy', 'torch', 'transformers', 'datasets', 'pluggy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def lay_down(site: Path) -> None:
    """Put the package that is tested, an installed wheel or the checkout, where `pip install --no-deps` would."""
    package = Path(spvmia_plugin.__file__).parent
    shutil.copytree(package, site / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    found = distribution("spvmia-plugin").locate_file(f"spvmia_plugin-{spvmia_plugin.__version__}.dist-info")
    shutil.copytree(str(found), site / Path(str(found)).name)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["==4.56.2", ""])
def test_it_runs_beside_other_versions_installed_without_dependencies(version, tmp_path):
    """`SPVMIA_TRAINER_VENVS=4.56.2:FOLDER,:FOLDER` names environments that are there already."""
    given = dict(pair.split(":", 1) for pair in os.environ.get("SPVMIA_TRAINER_VENVS", "").split(",") if pair)
    place = Path(given.get(version.removeprefix("=="), tmp_path / "venv"))
    python = str(place / "bin" / "python")
    if not place.exists():
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "torch==2.13.0", f"transformers[torch]{version}", "jinja2"],
            check=True,
        )
        lay_down(Path(*sorted((place / "lib").glob("python*/site-packages"))))
    kinds = ["plain"]
    if subprocess.run([python, "-c", "import trl"], capture_output=True, check=False).returncode == 0:
        kinds.append("trl")
    for kind in kinds:
        folder = tmp_path / kind
        folder.mkdir()
        done = subprocess.run([python, str(SCRIPT), str(folder), kind], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        checked(folder, end_token=kind == "trl")
