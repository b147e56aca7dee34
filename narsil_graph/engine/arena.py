"""The static input of one slot: where a batch's rows are laid before a launch, and what its padding is."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from narsil_transport.buckets import Bucket
from narsil_transport.wire import InferRequest

Int32s = NDArray[np.int32]
# Rows begin to end of an admitted request.
RowRange = tuple[InferRequest, int, int]
Bytes = NDArray[np.uint8]

# i4 each: the launch's sequence word, and three that keep what follows aligned.
HEADER_WORDS = 4
# What the widest vector loads of a device want of an address.
SECTION_ALIGNMENT_BYTES = 16


@dataclass(frozen=True, slots=True)
class ArenaLayout:
    """Where each section of a bucket's input lies in one run of bytes, so that one copy carries it all."""

    rows: int
    ids: int
    dense_width: int
    bags: int

    @property
    def dense_begin(self) -> int:
        return HEADER_WORDS * 4

    @property
    def values_begin(self) -> int:
        return _aligned(self.dense_begin + self.rows * self.dense_width * 4)

    @property
    def offsets_begin(self) -> int:
        return _aligned(self.values_begin + self.ids * 4)

    @property
    def size_bytes(self) -> int:
        return _aligned(self.offsets_begin + (self.rows * self.bags + 1) * 4)

    def prefix_bytes(self, ids: int) -> int:
        """The bytes up to the end of the first ``ids`` values: what a batch without bags has to copy."""
        return self.values_begin + ids * 4


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // SECTION_ALIGNMENT_BYTES) * SECTION_ALIGNMENT_BYTES


def pageable(size_bytes: int) -> Bytes:
    """Zeroed host memory for a launcher that reads the arena where it lies."""
    return np.zeros(size_bytes, np.uint8)


class Arena:
    """Preallocated inputs for one bucket, in sample-major order, as views of one run of bytes.

    ``dense`` f4 [rows, D]; ``values`` i4 [ids]; ``offsets`` i4 [rows * bags + 1], where ``bags`` is the features of a
    row plus ``lead`` empty bags before them (the plan's lookup leaves room for the dense vector that way). Bag k of
    row r is values[offsets[r*bags+k] : offsets[r*bags+k+1]]. ``id_bases`` i4 [T] is added to each feature's ids, so
    that tables laid one after another can be looked up as one. ``header`` i4 [4] is its launcher's. ``allocate``
    gives uint8 [size] of zeros, 16-byte aligned.
    """

    def __init__(
        self,
        bucket: Bucket,
        *,
        dense_width: int,
        id_bases: Int32s,
        lead: int,
        allocate: Callable[[int], Bytes] = pageable,
    ) -> None:
        self.bucket = bucket
        self.rows = 0
        self.ids = 0
        self.one_hot = True
        self._features = len(id_bases)
        self._lead = lead
        self._bags = self._features + lead
        self._id_bases = id_bases
        self.layout = layout = ArenaLayout(bucket.rows, bucket.ids, dense_width, self._bags)
        memory = allocate(layout.size_bytes)
        self.header = memory[: layout.dense_begin].view(np.int32)
        dense = memory[layout.dense_begin :][: bucket.rows * dense_width * 4]
        self.dense = dense.view(np.float32).reshape(bucket.rows, dense_width)
        self.values = memory[layout.values_begin :][: bucket.ids * 4].view(np.int32)
        self.offsets = memory[layout.offsets_begin :][: (bucket.rows * self._bags + 1) * 4].view(np.int32)
        bag_of_row = np.maximum(np.arange(self._bags, dtype=np.int32) - lead, 0)
        row_begins = np.arange(bucket.rows, dtype=np.int32) * self._features
        self._one_hot_offsets = (row_begins[:, None] + bag_of_row).ravel()

    def fill(self, pieces: Iterable[RowRange]) -> None:
        """Lay the pieces one after another and define everything behind them.

        The pieces have been admitted: ids are in range and the rows and ids fit the bucket.
        """
        row = ids = 0
        self.one_hot = True
        for request, begin, end in pieces:
            rows = end - begin
            self.dense[row : row + rows] = request.dense[begin:end]
            if request.ids is not None:
                ids = self._fill_one_hot(request.ids[begin:end], row, ids)
            else:
                self.one_hot = False
                ids = self._fill_bags(request, begin, end, row, ids)
            row += rows
        self.rows, self.ids = row, ids
        # Padding rows repeat the last offset: an empty bag pools to zero and reads no id, so no row can see another's
        # padding (tests/engine/test_arena.py poisons the arena and demands bit-equal scores).
        self.offsets[row * self._bags :] = ids
        self.dense[row:] = 0.0
        self.values[ids:] = 0

    def _fill_one_hot(self, ids: NDArray[np.integer], row: int, begin: int) -> int:
        rows = len(ids)
        end = begin + ids.size
        # Admission has checked the range, so a cast from int64 loses nothing.
        out = self.values[begin:end].reshape(rows, self._features)
        np.add(ids, self._id_bases, out=out, casting="unsafe")
        bags = slice(row * self._bags, (row + rows) * self._bags)
        np.add(self._one_hot_offsets[: rows * self._bags], begin, out=self.offsets[bags])
        return end

    def _fill_bags(self, request: InferRequest, first: int, last: int, row: int, begin: int) -> int:
        assert request.lengths is not None and request.values is not None
        lengths = request.lengths[first:last].ravel()
        skipped = int(request.lengths[:first].sum())
        ends = np.cumsum(lengths, dtype=np.int32)
        count = int(ends[-1])
        values = request.values[skipped : skipped + count]
        bases = np.repeat(np.tile(self._id_bases, last - first), lengths)
        np.add(values, bases, out=self.values[begin : begin + count], casting="unsafe")
        starts = (ends - lengths + begin).reshape(last - first, self._features)
        bags = self.offsets[row * self._bags : (row + last - first) * self._bags].reshape(last - first, self._bags)
        bags[:, self._lead :] = starts
        bags[:, : self._lead] = starts[:, :1]
        return begin + count
