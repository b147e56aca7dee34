"""The demo model, and one running server that the tests of requests share."""

from collections.abc import Iterator

import pytest

from narsil_graph.model.weights import Model, load_model
from tests.serving.peers import Peer
from tests.serving.processes import DEMO, ServerProcess

BUCKETS = "1,8,64"


@pytest.fixture(scope="session")
def model() -> Model:
    return load_model(DEMO)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Batch mode, float32 plan, small buckets; every test must leave it alive."""
    with ServerProcess(tmp_path_factory.mktemp("served"), "--buckets", BUCKETS) as running:
        yield running
        assert running.stop() == 0, running.log


@pytest.fixture
def peer(server: ServerProcess) -> Iterator[Peer]:
    with Peer(server.endpoint) as connected:
        yield connected
