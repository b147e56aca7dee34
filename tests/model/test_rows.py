"""What a stored row stands for, and how far that is from the value that was stored."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from narsil_graph.model.rows import dequantise, quantise
from narsil_graph.model.spec import RowFormat

QUANTISED = {RowFormat.INT8: 255, RowFormat.INT4: 15}
HALF_STEP, HALF_SUBNORMAL_STEP = 2.0**-11, 2.0**-25


def half_error(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far rounding to float16 may move ``value``."""
    return np.maximum(np.abs(value) * HALF_STEP, HALF_SUBNORMAL_STEP)


def error_bound(values: NDArray[np.float32], levels: int) -> NDArray[np.float64]:
    """Half a step, and at the far end of the range what the rounding of scale and bias loses."""
    low, high = values.min(axis=1).astype(np.float64), values.max(axis=1).astype(np.float64)
    bias_error = half_error(low)
    scale = (high - low + bias_error) / levels
    scale = scale + half_error(scale)
    return np.asarray(scale / 2 + levels * half_error(scale) + bias_error)


@pytest.mark.parametrize("row_format", list(RowFormat))
@pytest.mark.parametrize("dim", [4, 12, 64])
def test_stored_row_has_the_bytes_of_its_format(row_format: RowFormat, dim: int) -> None:
    rows = quantise(np.ones((3, dim), np.float32), row_format)
    assert rows.dtype == np.uint8
    assert rows.shape == (3, row_format.row_bytes(dim))


def test_fp32_is_exact() -> None:
    values = np.random.default_rng(0).standard_normal((5, 8), np.float32)
    assert dequantise(quantise(values, RowFormat.FP32), RowFormat.FP32).tobytes() == values.tobytes()


def test_fp16_is_the_nearest_half() -> None:
    values = np.random.default_rng(0).standard_normal((5, 8), np.float32)
    assert np.array_equal(dequantise(quantise(values, RowFormat.FP16), RowFormat.FP16), np.float16(values))


@pytest.mark.parametrize("row_format", list(QUANTISED))
@given(seed=st.integers(0, 10_000), spread=st.floats(1e-5, 100.0), middle=st.floats(-100.0, 100.0))
def test_quantised_error_is_at_most_half_a_step(row_format: RowFormat, seed: int, spread: float, middle: float) -> None:
    noise = np.random.default_rng(seed).standard_normal((4, 8))
    values = (noise * spread + middle).astype(np.float32)
    error = np.abs(dequantise(quantise(values, row_format), row_format).astype(np.float64) - values).max(axis=1)
    assert (error <= error_bound(values, QUANTISED[row_format]) * (1 + 1e-6)).all()


@pytest.mark.parametrize("row_format", list(QUANTISED))
@pytest.mark.parametrize("constant", [0.0, 1.0, -3.25, 100.03, -1e-6])
def test_constant_row_is_stored_to_half_precision(row_format: RowFormat, constant: float) -> None:
    values = np.full((2, 8), constant, np.float32)
    assert np.allclose(dequantise(quantise(values, row_format), row_format), values, rtol=HALF_STEP, atol=3.1e-5)


@pytest.mark.parametrize("row_format", list(QUANTISED))
def test_zero_row_is_exactly_zero(row_format: RowFormat) -> None:
    assert not dequantise(quantise(np.zeros((2, 8), np.float32), row_format), row_format).any()


def test_int8_row_is_scale_bias_codes() -> None:
    row = np.frombuffer(np.array([0.5, -1.0], np.float16).tobytes() + bytes([0, 1, 2, 255]), np.uint8)
    assert dequantise(row[None], RowFormat.INT8).tolist() == [[-1.0, -0.5, 0.0, 126.5]]


def test_int4_packs_the_first_code_in_the_lower_half() -> None:
    row = np.frombuffer(np.array([1.0, 0.0], np.float16).tobytes() + bytes([0x21, 0xF3]), np.uint8)
    assert dequantise(row[None], RowFormat.INT4).tolist() == [[1.0, 2.0, 3.0, 15.0]]


@pytest.mark.parametrize("row_format", list(QUANTISED))
def test_codes_are_kept_by_another_round(row_format: RowFormat) -> None:
    levels = QUANTISED[row_format]
    # A row that spans all levels at a step and a least value that float16 holds is stored without loss.
    values = np.stack([np.arange(8), levels - np.arange(8)], axis=1).reshape(2, 8).astype(np.float32) * 0.25 - 2.0
    values[:, 0], values[:, 1] = -2.0, levels * 0.25 - 2.0
    assert np.array_equal(dequantise(quantise(values, row_format), row_format), values)


@pytest.mark.parametrize("row_format", list(RowFormat))
def test_rows_of_a_table_inside_another_array_are_read(row_format: RowFormat) -> None:
    stored = quantise(np.random.default_rng(0).standard_normal((6, 8), np.float32), row_format)
    assert np.array_equal(dequantise(stored[1::2], row_format), dequantise(stored, row_format)[1::2])
