from __future__ import annotations

from pathlib import Path

import pytest

from tests.perturb.fakes import SENTINELS, fill_word, save_t5, tiny_t5_tokenizer, transitions


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
    for k in range(SENTINELS - 1):
        table["▁" + fill_word(k)] = {f"<extra_id_{k + 1}>": 1.0}
    return save_t5(tmp_path_factory.mktemp("monotonous"), table)
