"""What all tests share: no network, no progress bars, one thread; `from tests.tiny import ...` works everywhere."""

from __future__ import annotations

import os

# Set before anything imports the libraries that read them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.browser import browser  # noqa: F401 - a fixture
