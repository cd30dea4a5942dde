"""One real MLflow server for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from running_mlflow import Server, running_mlflow


@pytest.fixture(scope="session")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("mlflow")
    with running_mlflow(home) as server:
        yield server
