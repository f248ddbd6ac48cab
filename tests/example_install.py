"""Installs `tests/example_plugin` into a folder, as pip does for a user; shared by the tests that run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parent / "example_plugin"


def install_example(folder: Path) -> dict[str, str]:
    """Build and install the distribution into `folder`; returns the environment in which Python finds it."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(folder), str(EXAMPLE)], check=True, capture_output=True, text=True)
    path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]  # a checkout may be tested from there
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
