"""The model of these tests; each starts the servers that it attacks."""

import pytest

from narsil_graph.model.weights import Model, load_model
from tests.serving.processes import DEMO


@pytest.fixture(scope="session")
def model() -> Model:
    return load_model(DEMO)
