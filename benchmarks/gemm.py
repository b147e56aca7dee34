"""What this hardware multiplies at best, in the arithmetic of each precision, on one large matrix."""

import time
from collections.abc import Callable

import torch

M, N, K = 2048, 1024, 1024
REPEATS = 15


def peaks_gflops() -> dict[str, float]:
    """The best of REPEATS multiplications on torch's threads, 1e9 operations/s: f32 by MKL and oneDNN, bf16, int8."""
    x, weight = torch.rand(M, K), torch.rand(N, K)
    out = torch.empty(M, N)
    kinds: dict[str, Callable[[], Callable[[], object]]] = {
        "f32 mkl": lambda: lambda: torch.mm(x, weight.t(), out=out),
        "f32 onednn": lambda: _onednn(x, weight),
        "bf16 onednn": lambda: _onednn(x.bfloat16(), weight.bfloat16()),
        "int8 onednn": _int8,
    }
    found: dict[str, float] = {}
    for name, make in kinds.items():
        try:
            run = make()
            found[name] = _best(run)
        except (AttributeError, RuntimeError) as error:
            print(f"# no {name} multiplication here: {str(error).splitlines()[0]}")
    return found


def _best(run: Callable[[], object]) -> float:
    run()
    best_ns = float("inf")
    for _ in range(REPEATS):
        begin = time.perf_counter_ns()
        run()
        best_ns = min(best_ns, time.perf_counter_ns() - begin)
    return 2 * M * N * K / best_ns


@torch.inference_mode()
def _onednn(x: torch.Tensor, weight: torch.Tensor) -> Callable[[], object]:
    packed = torch.ops.mkldnn._reorder_linear_weight.default(weight, M)
    bias = torch.zeros(N, dtype=x.dtype)
    return torch.inference_mode()(lambda: torch.ops.mkldnn._linear_pointwise.default(x, packed, bias, "relu", [], ""))


def _int8() -> Callable[[], object]:
    x = torch.randint(0, 255, (M, K), dtype=torch.uint8)
    weight = torch.randint(-127, 127, (N, K), dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack.default(weight, [M, K])
    scales, zeros, bias = torch.full((N,), 0.01), torch.zeros(N, dtype=torch.int64), torch.zeros(N)
    linear = torch.ops.onednn.qlinear_pointwise.default
    return lambda: linear(x, 0.01, 0, packed, scales, zeros, bias, 0.1, 0, torch.uint8, "relu", [], "")
