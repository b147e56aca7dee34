"""The fused kernel of ``--kernels triton``: gather, dequantise, pool, interact and concatenate, one program per row.

It calls only Triton's builtins, none of Triton's own jitted functions (``tl.max``, ``tl.interleave``): those are
bound to the compiler or to the interpreter when triton is imported, this module when it is imported itself, so that
one process can hold it both ways.
"""
# Triton is there on Linux only, and its own types do not know what its compiler makes of a pointer or a shape.
# pyright: reportMissingImports=false, reportUnknownParameterType=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def _larger(one: tl.tensor, other: tl.tensor) -> tl.tensor:
    return tl.maximum(one, other)


@triton.jit  # type: ignore[untyped-decorator]
def _stored(
    ids: tl.tensor,
    there: tl.tensor,
    first_column: tl.tensor,
    begin: tl.tensor,
    last: tl.tensor,
    cells: tl.tensor,
    heads: tl.tensor,
    DIM: tl.constexpr,
    STEP: tl.constexpr,
    ROW_UNITS: tl.constexpr,
    FORMAT: tl.constexpr,
) -> tl.tensor:
    """Float32 [TILE, STEP]: some columns of one stored row per vector. Columns from DIM on hold anything finite."""
    # Multiplied by cells per unit below, which tells the compiler that rows begin at 16 bytes.
    unit = begin + tl.minimum(tl.maximum(ids, 0), last).to(tl.int64) * ROW_UNITS
    QUANTISED: tl.constexpr = FORMAT == "int8" or FORMAT == "int4"
    # Scale and bias are the first four bytes of a quantised row.
    CELLS_PER_UNIT: tl.constexpr = 128 // cells.dtype.element_ty.primitive_bitwidth
    row_cells = cells + (unit * CELLS_PER_UNIT + (4 if QUANTISED else 0))[:, None]
    if FORMAT == "int4":
        byte = first_column // 2 + tl.arange(0, STEP // 2)
        pairs = tl.load(row_cells + byte[None, :], mask=there[:, None] & (byte < DIM // 2)[None, :], other=0)
        codes = tl.reshape(tl.join(pairs & 15, pairs >> 4), (pairs.shape[0], STEP))
    else:
        column = first_column + tl.arange(0, STEP)
        codes = tl.load(row_cells + column[None, :], mask=there[:, None] & (column < DIM)[None, :], other=0)
    values = codes.to(tl.float32)
    if QUANTISED:
        scale = tl.load(heads + unit * 8, mask=there, other=0.0).to(tl.float32)
        bias = tl.load(heads + unit * 8 + 1, mask=there, other=0.0).to(tl.float32)
        values = values * scale[:, None] + bias[:, None]
    return values


@triton.jit  # type: ignore[untyped-decorator]
def _vectors(
    vector: tl.tensor,
    first_column: tl.tensor,
    row: tl.tensor,
    bottom: tl.tensor,
    cells: tl.tensor,
    heads: tl.tensor,
    begins: tl.tensor,
    last_rows: tl.tensor,
    means: tl.tensor,
    values: tl.tensor,
    offsets: tl.tensor,
    FEATURES: tl.constexpr,
    DIM: tl.constexpr,
    STEP: tl.constexpr,
    ROW_UNITS: tl.constexpr,
    FORMAT: tl.constexpr,
    ONE_ID: tl.constexpr,
) -> tl.tensor:
    """[TILE, STEP] of bottom's dtype: some columns of some of one row's vectors, 0 where there is none."""
    feature = vector - 1
    there = (vector > 0) & (vector <= FEATURES)
    begin = tl.load(begins + feature, mask=there, other=0)
    last = tl.load(last_rows + feature, mask=there, other=0)
    bag = row * FEATURES + feature
    if ONE_ID:
        ids = tl.load(values + bag, mask=there, other=0)
        pooled = _stored(ids, there, first_column, begin, last, cells, heads, DIM, STEP, ROW_UNITS, FORMAT)
    else:
        start = tl.load(offsets + bag, mask=there, other=0)
        length = tl.load(offsets + bag + 1, mask=there, other=0) - start
        pooled = tl.full((vector.shape[0], STEP), 0.0, tl.float32)
        for place in range(tl.reduce(length, 0, _larger)):
            inside = there & (place < length)
            ids = tl.load(values + start + place, mask=inside, other=0)
            found = _stored(ids, inside, first_column, begin, last, cells, heads, DIM, STEP, ROW_UNITS, FORMAT)
            pooled += found
        mean = tl.load(means + feature, mask=there, other=0)
        pooled = pooled / tl.maximum(length * mean, 1).to(tl.float32)[:, None]
    column = first_column + tl.arange(0, STEP)
    dense = tl.load(bottom + row * DIM + column, mask=column < DIM, other=0.0)
    chosen = tl.where((vector == 0)[:, None], dense[None, :], pooled.to(bottom.dtype.element_ty))
    return tl.where((column < DIM)[None, :], chosen, 0.0)


@triton.jit  # type: ignore[untyped-decorator]
def narsil_gather_interact(
    top: tl.tensor,
    bottom: tl.tensor,
    cells: tl.tensor,
    heads: tl.tensor,
    begins: tl.tensor,
    last_rows: tl.tensor,
    means: tl.tensor,
    values: tl.tensor,
    offsets: tl.tensor,
    FEATURES: tl.constexpr,
    DIM: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
    ROW_UNITS: tl.constexpr,
    FORMAT: tl.constexpr,
    ONE_ID: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """Write ``top`` [B, DIM + pairs]; the grid is (B, tiles, tiles) and the tiles below the diagonal do nothing.

    ``cells`` and ``heads`` are the rows as the stored type and as float16; ``begins`` and ROW_UNITS count 16 bytes.
    """
    if tl.program_id(2) < tl.program_id(1):
        return
    VECTORS: tl.constexpr = FEATURES + 1
    row, tile = tl.program_id(0).to(tl.int64), tl.arange(0, TILE)
    left, right = tl.program_id(1) * TILE + tile, tl.program_id(2) * TILE + tile
    out = top + row * (DIM + VECTORS * FEATURES // 2)
    dots = tl.full((TILE, TILE), 0.0, tl.float32)
    for first in range(0, DIM, STEP):
        lefts = _vectors(
            left, first, row, bottom, cells, heads, begins, last_rows, means, values, offsets,
            FEATURES, DIM, STEP, ROW_UNITS, FORMAT, ONE_ID,
        )  # fmt: skip
        if VECTORS > TILE:
            rights = _vectors(
                right, first, row, bottom, cells, heads, begins, last_rows, means, values, offsets,
                FEATURES, DIM, STEP, ROW_UNITS, FORMAT, ONE_ID,
            )  # fmt: skip
        else:
            rights = lefts
        dots = tl.dot(lefts, tl.trans(rights), dots, input_precision=PRECISION)
        column = first + tl.arange(0, STEP)
        mine = (column < DIM) & (tl.program_id(2) == 0)
        tl.store(out + column, tl.load(bottom + row * DIM + column, mask=mine, other=0.0), mask=mine)
    i, j = left[:, None], right[None, :]
    # Rows 0 … i-1 of the triangle hold VECTORS-1, VECTORS-2, … pairs.
    pair = i * VECTORS - i * (i + 1) // 2 + j - i - 1
    tl.store(out + DIM + pair, dots.to(top.dtype.element_ty), mask=(i < j) & (j < VECTORS))
