"""FBGEMM is loaded without its package, fits its torch, and reads the rows that narsil_graph.model.rows writes."""

import importlib.metadata
import importlib.util
import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from narsil_graph.engine import fbgemm
from narsil_graph.engine.fbgemm import LibraryError, LookupTable, bind_lookup, check_pair
from narsil_graph.model.rows import dequantise, quantise
from narsil_graph.model.spec import Pooling, RowFormat

ROWS, DIM = 40, 12


def sample(spread: float = 1.0) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((ROWS, DIM), np.float32) * np.float32(spread)


def looked_up(
    stored: NDArray[np.uint8], row_format: RowFormat, bags: list[list[int]], pooling: Pooling = Pooling.SUM
) -> NDArray[np.float32]:
    """FBGEMM's float32 [bags, dim] for one table."""
    lookup = bind_lookup(
        weights=torch.from_numpy(stored).view(-1),
        tables=[LookupTable(0, len(stored), row_format)],
        dim=DIM,
        pooling=pooling,
        output=torch.float32,
    )
    indices = torch.tensor([value for bag in bags for value in bag], dtype=torch.int32)
    offsets = torch.tensor(np.cumsum([0, *map(len, bags)]), dtype=torch.int32)
    found: NDArray[np.float32] = lookup(indices, offsets).numpy()
    return found


@pytest.mark.parametrize("row_format", list(RowFormat))
@pytest.mark.parametrize("spread", [1e-3, 0.1, 30.0])
def test_fbgemm_reads_the_value_that_dequantise_states_bit_for_bit(row_format: RowFormat, spread: float) -> None:
    stored = quantise(sample(spread), row_format)
    found = looked_up(stored, row_format, [[row] for row in range(ROWS)])
    assert found.tobytes() == dequantise(stored, row_format).tobytes()


@pytest.mark.parametrize("row_format", list(RowFormat))
@pytest.mark.parametrize("pooling", list(Pooling))
def test_bag_pools_its_rows_and_empty_bag_is_zero(row_format: RowFormat, pooling: Pooling) -> None:
    stored = quantise(sample(), row_format)
    found = looked_up(stored, row_format, [[1, 5, 7], [], [2, 2]], pooling)
    values = dequantise(stored, row_format).astype(np.float64)
    expected = np.stack([values[[1, 5, 7]].sum(axis=0), np.zeros(DIM), 2 * values[2]])
    if pooling is Pooling.MEAN:
        expected /= [[3], [1], [2]]
    assert np.allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert not found[1].any()


def test_tables_of_several_formats_share_one_lookup() -> None:
    parts = {row_format: quantise(sample(), row_format) for row_format in RowFormat}
    flat = np.concatenate([part.ravel() for part in parts.values()])
    begins = np.cumsum([0, *(part.nbytes for part in parts.values())])
    lookup = bind_lookup(
        weights=torch.from_numpy(flat),
        tables=[LookupTable(int(begin), ROWS, f) for begin, f in zip(begins, parts, strict=False)],
        dim=DIM,
        pooling=Pooling.SUM,
        output=torch.float32,
    )
    ids = np.array([3, 39, 0, 17, 8, 8, 20, 1], np.int32)
    found = lookup(torch.from_numpy(ids), torch.arange(9, dtype=torch.int32)).numpy().reshape(2, 4, DIM)
    for number, (row_format, part) in enumerate(parts.items()):
        assert np.array_equal(found[:, number], dequantise(part[ids[2 * number : 2 * number + 2]], row_format))


def test_sample_weights_scale_each_row() -> None:
    stored = quantise(sample(), RowFormat.FP32)
    lookup = bind_lookup(
        weights=torch.from_numpy(stored).view(-1),
        tables=[LookupTable(0, ROWS, RowFormat.FP32)],
        dim=DIM,
        pooling=Pooling.SUM,
        output=torch.float32,
    )
    indices, offsets = torch.tensor([4, 9], dtype=torch.int32), torch.tensor([0, 2], dtype=torch.int32)
    found = lookup(indices, offsets, torch.tensor([0.5, 2.0])).numpy()
    assert np.allclose(found, 0.5 * sample()[4] + 2.0 * sample()[9], atol=1e-6)


@pytest.mark.parametrize(
    ("torch_version", "fbgemm_version"),
    [("2.11.0+cu130", "1.6.0"), ("2.12.0", "1.7.0"), ("2.13.0+cpu", "1.8.0"), ("2.13.1", "1.8.0.post1")],
)
def test_right_pair_is_accepted(torch_version: str, fbgemm_version: str) -> None:
    check_pair(torch_version, fbgemm_version)


@pytest.mark.parametrize(
    ("torch_version", "fbgemm_version"),
    [("2.13.0", "1.6.0"), ("2.11.0+cu130", "1.8.0"), ("2.13.0", "1.80.0"), ("2.1.0", "1.6.0"), ("2.14.0", "1.9.0")],
)
def test_wrong_pair_is_refused_and_told_the_right_ones(torch_version: str, fbgemm_version: str) -> None:
    with pytest.raises(LibraryError, match=r"do not fit; the pairs are .*torch 2\.13 with FBGEMM 1\.8") as refused:
        check_pair(torch_version, fbgemm_version)
    assert torch_version in str(refused.value)
    assert fbgemm_version in str(refused.value)


def test_library_is_loaded_without_importing_its_package() -> None:
    fbgemm.load_library()
    assert hasattr(torch.ops.fbgemm, "int_nbit_split_embedding_codegen_lookup_function")
    assert "fbgemm_gpu" not in sys.modules


def test_absent_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_name: str) -> None:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", absent)
    with pytest.raises(LibraryError, match=r"pip install 'narsil-graph\[cpu\]'"):
        fbgemm.load_library()


def test_library_of_another_torch_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(_name: str) -> str:
        return "1.5.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(LibraryError, match=r"FBGEMM 1\.5\.0 do not fit"):
        fbgemm.load_library()
