from __future__ import annotations

from pathlib import Path

import pytest

from tests.perturb.fakes import save_t5, tiny_t5_tokenizer, transitions


@pytest.fixture(scope="session")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 that fills every mask."""
    return save_t5(tmp_path_factory.mktemp("t5"), transitions(tiny_t5_tokenizer()))


@pytest.fixture(scope="session")
def stuttering_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 that ends after each fill word with probability 0.5."""
    return save_t5(tmp_path_factory.mktemp("stuttering"), transitions(tiny_t5_tokenizer(), stop=0.5))


@pytest.fixture(scope="session")
def silent_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 that ends at once."""
    return save_t5(tmp_path_factory.mktemp("silent"), {"<pad>": {"</s>": 1.0}})


@pytest.fixture(scope="session")
def monotonous_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 with a single word a mask."""
    table = transitions(tiny_t5_tokenizer(), words=["a"])
    table["▁fill0a"] = {"<extra_id_1>": 1.0}
    return save_t5(tmp_path_factory.mktemp("monotonous"), table)
