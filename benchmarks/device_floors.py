"""What this device does at best: copies to and from it, copies within it, large multiplications."""

from dataclasses import dataclass

import torch

from benchmarks.device_clock import GRAPH_PRECISIONS, Captures, Rig, Rows
from narsil_graph.engine.forward import DTYPES
from narsil_graph.engine.launcher import Precision

COPY_BYTES = 64 * 2**20
# Larger than any cache, so that it is memory that is measured.
DEVICE_COPY_BYTES = 2**30
SIDE = 8192
SMALL_SIDE, SMALL_BYTES = 64, 2**16


@dataclass(frozen=True, slots=True)
class Floors:
    """Bytes per microsecond (that is MB/s) of a large copy in each direction, microseconds of a tiny one.

    ``device_bytes_per_us`` counts bytes read and written. ``operations_per_us`` is by precision, for one large product
    of random matrices: 2 * side^3 over its time.
    """

    h2d_bytes_per_us: float
    d2h_bytes_per_us: float
    h2d_4_bytes_us: float
    d2h_4_bytes_us: float
    device_bytes_per_us: float
    operations_per_us: dict[Precision, float]

    def rows(self) -> Rows:
        found: Rows = [
            {"floor": "host to device, 64 MiB, GB/s", "value": self.h2d_bytes_per_us / 1e3},
            {"floor": "device to host, 64 MiB, GB/s", "value": self.d2h_bytes_per_us / 1e3},
            {"floor": "host to device, 4 bytes, us", "value": self.h2d_4_bytes_us},
            {"floor": "device to host, 4 bytes, us", "value": self.d2h_4_bytes_us},
            {"floor": "device to device, in + out, GB/s", "value": self.device_bytes_per_us / 1e3},
        ]
        for precision, operations in self.operations_per_us.items():
            found.append({"floor": f"{precision.value} product, TFLOP/s", "value": operations / 1e6})
        return found


def measure_floors(rig: Rig) -> Floors:
    """All of it as captured graphs, so that no launch from the host is in the times."""
    captures = Captures(rig)
    size, repeats = rig.count(COPY_BYTES, SMALL_BYTES), rig.count(100, 2)
    pinned = rig.device.pinned(size)
    resident = rig.device.place(torch.zeros(size, dtype=torch.uint8))

    def copy_us(to: torch.Tensor, source: torch.Tensor, count: int) -> float:
        return captures.us(lambda: to.copy_(source, non_blocking=True), repeats=count, replays=rig.count(10, 1))

    large = rig.device.place(torch.zeros(rig.count(DEVICE_COPY_BYTES, SMALL_BYTES), dtype=torch.uint8))
    other = rig.device.place(torch.zeros_like(large, device="cpu"))
    return Floors(
        h2d_bytes_per_us=size / copy_us(resident, pinned, 4),
        d2h_bytes_per_us=size / copy_us(pinned, resident, 4),
        h2d_4_bytes_us=copy_us(resident[:4], pinned[:4], repeats),
        d2h_4_bytes_us=copy_us(pinned[:4], resident[:4], repeats),
        device_bytes_per_us=2 * large.nbytes / copy_us(other, large, 4),
        operations_per_us={precision: _multiplied(rig, captures, precision) for precision in GRAPH_PRECISIONS},
    )


def _multiplied(rig: Rig, captures: Captures, precision: Precision) -> float:
    side = rig.count(SIDE, SMALL_SIDE)
    rig.device.allow_tf32(precision is Precision.TF32)
    # Random: zeros multiply faster, for they draw less power.
    values = torch.randn(side, side).to(DTYPES[precision])
    left, right, out = (rig.device.place(part) for part in (values, values.t(), torch.empty_like(values)))
    us = captures.us(lambda: torch.mm(left, right, out=out), repeats=2, replays=rig.count(5, 1))
    return 2 * side**3 / us
