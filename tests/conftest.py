"""What all tests share: no network, no progress bars, one thread; `from tests.tiny import ...` works everywhere."""

from __future__ import annotations

import gc
import logging
import os
import sys

# Set before anything imports the libraries that read them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest

from spvmia_plugin.web import drawing
from tests.browser import browser  # noqa: F401 - a fixture

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


def pytest_collection_finish() -> None:
    """What was imported so far stays for good, so that no collection looks at it again: accelerate collects after each
    training, which took a quarter of the tests' time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: one more than there are processors, since tests wait for servers, browsers and processes of their own;
    four at most, each with a model and its libraries in memory."""
    return min(4, (os.cpu_count() or 1) + 1)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages whose pictures are blank: drawing takes a second, and most tests are about words."""
    monkeypatch.setattr(drawing, "svg", lambda _: '<svg viewBox="0 0 1 1" xmlns="http://www.w3.org/2000/svg"></svg>')


@pytest.fixture(autouse=True)
def harness_logging():
    """What the harness's command sets up for its process (once) is taken back: its handler would write to a stderr
    that pytest has closed by the next test, and logging then prints the record's arguments, secrets among them."""
    yield
    if "lm_eval" in sys.modules:
        import lm_eval.utils

        logger = logging.getLogger("lm_eval")
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
        lm_eval.utils._LOGGING_CONFIGURED = False
