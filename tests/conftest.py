"""Fixtures and marks that all tests share."""

import pytest


@pytest.fixture(scope="session")
def fbgemm_library() -> None:
    """FBGEMM's operators, loaded once, and torch on one thread."""
    import torch

    from narsil_graph.engine import fbgemm

    torch.set_num_threads(1)
    fbgemm.load_library()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked cuda where there is no such device. torch is imported only if something is so marked."""
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
