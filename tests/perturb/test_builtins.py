from __future__ import annotations

import subprocess
import sys

from spvmia_plugin.perturb import BUILTIN_PERTURBATIONS


def test_names() -> None:
    assert [kind.name for kind in BUILTIN_PERTURBATIONS] == ["mask_fill", "causal", "embedding"]


def test_importing_them_loads_no_torch() -> None:
    code = "import sys, spvmia_plugin.perturb; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
