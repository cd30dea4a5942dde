"""A place with models and engines, written once."""

import pytest
from trtllm_specs import Place, write_place


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A model, a draft model, an empty folder for engines."""
    return write_place(tmp_path_factory.mktemp("trtllm"))
