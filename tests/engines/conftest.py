from __future__ import annotations

import pytest

from tests.models.models import save_base


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder with a tiny base; adapters are added as tests ask for them."""
    folder = tmp_path_factory.mktemp("models")
    save_base(folder)
    return folder
