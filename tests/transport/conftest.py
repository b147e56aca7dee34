"""Hypothesis without its clocks, for on a shared machine they measure the neighbours; segments that leave no file."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, settings

from narsil_transport.segments import Segments
from tests.transport.segment_files import REQUEST_BYTES_MAX, File, Make, created

settings.register_profile("transport", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("transport")


@pytest.fixture
def make() -> Iterator[Make]:
    with ExitStack() as files:
        yield lambda: files.enter_context(created())


@pytest.fixture
def segments() -> Iterator[Segments]:
    held = Segments(REQUEST_BYTES_MAX)
    yield held
    held.close()


@pytest.fixture
def file(make: Make) -> File:
    return make()
