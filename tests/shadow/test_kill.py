"""`spvmia shadow`, killed by `kill -9` in every step, ends with the weights of a run that nobody killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from spvmia_plugin.attacks.weights import FILE, read_weights
from spvmia_plugin.shadow import ShadowConfig, make_shadows
from spvmia_plugin.training.config import FinetuneConfig
from spvmia_plugin.training.finetune import UNFINISHED_NAME, finetune
from tests.data.builders import write_texts
from tests.shadow.test_shadow import AUDIT
from tests.tiny import save_tiny, tiny_texts

STEPS = {
    "fine-tuning": lambda output: (output / "shadow_1" / UNFINISHED_NAME).is_file(),
    "audit": lambda output: any((output / "store").glob("*.sqlite*")),
    "a reference of the audit": lambda output: any((output / "store" / "references").glob("*")),
}
"""What shows that a step has begun."""


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tmp_path):
    base = save_tiny(tmp_path / "tiny")
    data = write_texts(tmp_path / "d.jsonl", tiny_texts(300, words=(12, 18)))
    finetune(
        FinetuneConfig(
            str(base), str(data), tmp_path / "target", members=55, nonmembers=52, prompts=20, block_size=0, epochs=2
        ),
        lambda line: None,
    )
    whole = make_shadows(ShadowConfig(tmp_path / "target", tmp_path / "whole", metadata=AUDIT), lambda line: None)
    output = tmp_path / "killed"
    command = [sys.executable, "-m", "spvmia_plugin", "shadow", "--target", str(tmp_path / "target")]
    command += ["--output", str(output), "--metadata", json.dumps(AUDIT), "--device", "cpu"]
    for has_begun in STEPS.values():
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 300
        while not has_begun(output) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        assert process.poll() is None, "it ended before the step was seen"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (output / FILE).exists()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "fine-tuning" not in done.stdout  # the target of the step was whole
    assert read_weights(output / FILE).digest == whole.fitted.weights.digest
