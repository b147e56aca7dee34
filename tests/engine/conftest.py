"""Every engine test runs on loaded FBGEMM operators and one thread."""

import pytest


@pytest.fixture(autouse=True)
def _operators(fbgemm_library: None) -> None:
    """Nothing more than the session's one load."""
