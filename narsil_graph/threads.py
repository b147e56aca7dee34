"""Thread settings that libraries read once, when they load: set them before numpy and torch are imported."""

import os

# libgomp's threads spin at every barrier; beside one busy neighbour an unbounded spin made a two-thread server 50x
# slower. A bounded one costs some of the quiet machine's speed (benchmarks/RESULTS.md shows both); this one is long
# enough for the gaps between a forward's layers, over which its threads would otherwise fall asleep.
GOMP_SPIN_COUNT = "3000"


def prepare(threads: int) -> None:
    """Bound OpenMP's spinning and keep OpenBLAS to the calling thread; the user's own settings win."""
    os.environ.setdefault("GOMP_SPINCOUNT", GOMP_SPIN_COUNT)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    # OpenBLAS has a pool of its own, which would fight OpenMP's for the same cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def pin_torch(threads: int) -> None:
    """Set torch's threads and fail loudly on numbers it would refuse."""
    import torch

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
