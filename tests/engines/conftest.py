from __future__ import annotations

import pytest

from tests.engines.servers import completions_lm
from tests.engines.tiny_server import TinyServer, load
from tests.models.models import save_adapter, save_base
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder with a tiny base and a LoRA target; other adapters are added as tests ask for them."""
    folder = tmp_path_factory.mktemp("models")
    save_adapter(folder, save_base(folder), "lora")
    return folder


@pytest.fixture(scope="session")
def served(models):
    """The target and its base, in memory, by the names that they are served by."""
    base = str(models / "base")
    return {"target": load(base, str(models / "lora")), "base": load(base)}


@pytest.fixture
def serve(models, served):
    """Start a server of both with some faults, and give it with the harness's LM for it."""
    running = []

    def start(*, lm=None, more=(), **faults):
        server = TinyServer({**served, **dict(more)}, tiny_tokenizer(), base_folder=str(models / "base"), **faults)
        running.append(server.__enter__())
        return server, completions_lm(server.url, models / "base", **(lm or {}))

    yield start
    for server in running:
        server.__exit__()
