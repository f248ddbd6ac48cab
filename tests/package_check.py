"""Installs the built wheel as a user would and checks what lm_eval makes of it; `tox -e pkg` runs this.

    python tests/package_check.py DIST_FOLDER

In a new virtual environment, beside a regular and beside an editable lm_eval: the stock `lm_eval ls tasks` lists our
tasks after `spvmia enable`; `import lm_eval` works before, after, and after `pip uninstall`; `spvmia disable` leaves
nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

# What finding and listing tasks needs. The whole of the dependencies is resolved where the tests run in this wheel.
NEEDED = ("lm_eval>=0.4.13", "platformdirs", "pluggy", "rich", "typer")


class Python:
    """A virtual environment and the commands in it."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=True)
        self.bin = folder / "bin"
        self.elsewhere = folder  # not the checkout, whose packages a Python started there would import

    def run(self, program: str, *arguments: str) -> str:
        """Standard output of a command; its standard error is shown if it fails."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
        result = subprocess.run(
            [self.bin / program, *arguments],
            cwd=self.elsewhere,
            env={**environment, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise SystemExit(f"{program} {' '.join(arguments)} ended with {result.returncode}:\n{result.stderr}")
        return result.stdout

    def pip(self, *arguments: str) -> None:
        """Run pip."""
        self.run("python", "-m", "pip", "--quiet", *arguments)

    def harness(self) -> Path:
        """Import lm_eval, and return its folder."""
        return Path(self.run("python", "-c", "import lm_eval; print(lm_eval.__file__)").strip()).parent


def say(line: str) -> None:
    """Report a step as it is done."""
    print(line, flush=True)


def expect(condition: bool, what: str) -> None:
    """End the check if something is not as it should be."""
    if not condition:
        raise SystemExit(f"package check failed: {what}")


def check_contents(wheel: Path) -> list[str]:
    """What the wheel carries; returns the names of its tasks and groups."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        index = archive.read("spvmia_plugin/data/training_templates/index.json")
    expect(all(name.startswith(("spvmia_plugin/", "spvmia_plugin-")) for name in names), "files outside the package")
    expect(not any(name.endswith(".pth") for name in names), "a .pth file in the wheel")
    training = "spvmia_plugin/data/training_templates"
    files = ("py.typed", "tasks/_common_yaml", "cli/main.py")
    for needed in (*(f"spvmia_plugin/{file}" for file in files), f"{training}/index.json", f"{training}/NOTICE.md"):
        expect(needed in names, f"no {needed} in the wheel")
    for name in json.loads(index).values():
        expect(f"{training}/{name}.jinja" in names, f"no {training}/{name}.jinja in the wheel")
    expect(any(name.endswith("licenses/LICENSE") for name in names), "no licence in the wheel")
    return [Path(name).stem for name in names if name.startswith("spvmia_plugin/tasks/") and name.endswith(".yaml")]


def snapshot(folder: Path) -> set[str]:
    """Names of the files and folders below `folder`, compiled modules aside."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts}


def check_cycle(python: Python, wheel: Path, tasks: list[str]) -> None:
    """Enable, list, disable; then uninstall while enabled."""
    harness = python.harness()
    before = snapshot(harness)
    say(python.run("spvmia", "enable").splitlines()[0])
    expect(python.run("spvmia", "enable").startswith("already enabled"), "enabling twice is not once")
    listed = python.run("lm_eval", "ls", "tasks")
    missing = [task for task in tasks if f"|{task} " not in listed]
    expect(not missing, f"lm_eval ls tasks does not list {missing}")
    expect(python.harness() == harness, "import lm_eval gives another folder")
    python.run("spvmia", "disable")
    expect(snapshot(harness) == before, "spvmia disable left something behind")
    say(f"{len(tasks)} tasks and groups listed; nothing left after spvmia disable")

    python.run("spvmia", "enable")
    python.pip("uninstall", "--yes", "spvmia-plugin")
    expect(python.harness() == harness, "import lm_eval fails after pip uninstall")
    python.run("lm_eval", "validate", "--tasks", "arc_easy,spv_mia_custom")  # listed still, and in nobody's way
    python.pip("install", "--no-deps", str(wheel))
    python.run("spvmia", "disable")
    expect(snapshot(harness) == before, "spvmia disable left something behind after a new installation")
    say("import lm_eval and lm_eval itself work after pip uninstall")


def make_editable(python: Python, folder: Path) -> Path:
    """Put an editable lm_eval of the same version in place of the regular one; returns its checkout."""
    version = python.run("python", "-c", "import importlib.metadata as m; print(m.version('lm_eval'))").strip()
    python.pip("download", "--no-deps", "--no-binary", "lm_eval", "--dest", str(folder), f"lm_eval=={version}")
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as source:
        source.extractall(folder, filter="data")
    (checkout,) = (path for path in folder.iterdir() if path.is_dir())
    python.pip("uninstall", "--yes", "lm_eval")
    python.pip("install", "--no-deps", "--editable", str(checkout))
    return checkout


def check_checkout_stays_clean(python: Python, checkout: Path) -> None:
    """Git sees nothing of an enabled copy in a checkout of lm_eval."""
    git = ["git", "-C", str(checkout), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    (checkout / ".gitignore").write_text("__pycache__/\n*.egg-info/\n")
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "as downloaded"]):
        subprocess.run([*git, *command], check=True)
    python.run("spvmia", "enable")
    status = subprocess.run([*git, "status", "--porcelain"], check=True, capture_output=True, text=True).stdout
    expect(status == "", f"git status in the checkout says {status}")
    python.run("spvmia", "disable")
    say("git status of the checkout stays clean")


def main() -> None:
    """Check the wheel in the folder named on the command line."""
    (wheel,) = Path(sys.argv[1]).resolve().glob("*.whl")
    tasks = check_contents(wheel)
    with tempfile.TemporaryDirectory() as scratch:
        python = Python(Path(scratch) / "venv")
        python.pip("install", "--no-compile", *NEEDED)
        python.pip("install", "--no-deps", str(wheel))
        say("beside a regular lm_eval:")
        check_cycle(python, wheel, tasks)
        say("beside an editable lm_eval:")
        source = Path(scratch) / "source"
        source.mkdir()
        checkout = make_editable(python, source)
        expect(checkout in python.harness().parents, "the editable lm_eval is not the one imported")
        check_cycle(python, wheel, tasks)
        check_checkout_stays_clean(python, checkout)
    say("the package installs, enables, disables and uninstalls cleanly")


if __name__ == "__main__":
    main()
