"""The band holds every pair of vectors, and every way to multiply them gives the same products."""

import numpy as np
import pytest
import torch

from narsil_graph.engine.cpu_interaction import Band, bound, product_candidates

VECTORS = pytest.mark.parametrize("vectors", [2, 3, 4, 5, 27, 28])


def products_naming_pairs(vectors: int) -> torch.Tensor:
    """[1, F, F] whose element (i, j) is the number of the pair {i, j}, and -1 on the diagonal."""
    numbers = torch.full((vectors, vectors), -1.0)
    left, right = torch.triu_indices(vectors, vectors, offset=1)
    numbers[left, right] = numbers[right, left] = torch.arange(len(left), dtype=torch.float32)
    return numbers[None].contiguous()


@VECTORS
def test_band_holds_every_pair_and_no_square(vectors: int) -> None:
    held = Band(vectors).window(products_naming_pairs(vectors)).reshape(-1).tolist()
    pairs = vectors * (vectors - 1) // 2
    assert set(held) == set(range(pairs))
    assert len(held) == Band(vectors).width < pairs + vectors


@VECTORS
def test_relaid_weights_use_every_pair_once(vectors: int) -> None:
    dim, pairs = 4, vectors * (vectors - 1) // 2
    weight = torch.rand(3, dim + pairs, generator=torch.Generator().manual_seed(0)) + 1.0
    band = Band(vectors)
    relaid = band.relay(weight, dim)
    assert torch.equal(relaid[:, :dim], weight[:, :dim])
    assert int((relaid[0] != 0).sum()) == dim + pairs
    held = band.window(products_naming_pairs(vectors)).reshape(-1)
    by_pair = torch.zeros(3, pairs).index_add_(1, held.long(), relaid[:, dim:])
    assert torch.equal(by_pair, weight[:, dim:])


@VECTORS
def test_window_lands_in_order_behind_the_dense_vector(vectors: int) -> None:
    band = Band(vectors)
    over_in = torch.full((2, 4 + band.width), -7.0)
    window = band.window(torch.cat([products_naming_pairs(vectors), products_naming_pairs(vectors) + 1000]))
    band.destination(over_in[:, 4:]).copy_(window)
    assert (over_in[:, :4] == -7.0).all()
    assert torch.equal(over_in[:, 4:], window.reshape(2, -1))


@VECTORS
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_every_product_candidate_gives_the_dots_of_float64(vectors: int, dtype: torch.dtype, tolerance: float) -> None:
    rows = torch.randn(5, vectors, 8, generator=torch.Generator().manual_seed(vectors)).to(dtype)
    exact = np.einsum("nid,njd->nij", rows.double().numpy(), rows.double().numpy())
    products = torch.zeros(5, vectors, vectors, dtype=dtype)
    held, exact_held = (Band(vectors).window(either) for either in (products, torch.from_numpy(exact)))
    for candidate in bound(product_candidates(products), rows):
        products.fill_(float("nan"))
        candidate.run()
        assert float((held.double() - exact_held).abs().max()) <= tolerance * np.abs(exact).max(), candidate.name


def test_product_candidates_leave_the_global_precision_as_it_was() -> None:
    before = torch.get_float32_matmul_precision()
    rows, products = torch.ones(2, 3, 4), torch.zeros(2, 3, 3)
    for candidate in bound(product_candidates(products), rows):
        candidate.run()
        assert torch.get_float32_matmul_precision() == before
