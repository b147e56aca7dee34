"""A chain of dense layers in 8-bit integers on a CPU: unsigned activations, per-channel signed weights, oneDNN."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from narsil_graph.engine.cpu_dense import Step, run_and_project, run_into
from narsil_graph.engine.forward import Layers
from narsil_graph.engine.pick import Candidate
from narsil_graph.engine.scratch import Scratch
from narsil_graph.errors import Failure

Range = tuple[float, float]


class Int8Unavailable(Failure):
    """This torch or this CPU cannot run 8-bit layers; the message says why in one sentence."""


class Int8Chain:
    """Layers with ReLU between them (and after the last when ``relu_last``), their inputs quantised by ``ranges``.

    Quantisation is static: a row's score must not depend on the rows beside it, as it would if each batch were scaled
    by its own largest value. The first layer stays in float32 when ``float_first`` (raw features have no sane range),
    and so does a last layer of width 1.
    """

    def __init__(
        self, layers: Layers, ranges: Sequence[Range], scratch: Scratch, *, relu_last: bool, float_first: bool
    ) -> None:
        self._scratch = scratch
        self._relu_last = relu_last
        self._first = layers[0] if float_first else None
        self._head = layers[-1] if len(layers[-1][0]) == 1 else None
        begin, end = int(float_first), len(layers) - int(self._head is not None)
        self._layers = layers[begin:end]
        self._scales = [_scale_and_zero(low_high) for low_high in ranges[begin:end]]
        self._packed: list[tuple[Tensor, Tensor, Tensor]] = []

    def candidates(self, source: Tensor, target: Tensor) -> list[Candidate]:
        """Bind to ``source`` float [rows, in] and ``target`` [rows, out]. Raises Int8Unavailable."""
        try:
            if not self._packed:
                self._packed = [_pack(weight, len(source)) for weight, _ in self._layers]
            steps = self._steps(len(source))
            run = partial(run_into, steps, source, target)
            if self._head is not None:
                weight, bias = self._head
                run = partial(run_and_project, steps, source, target, weight.t().contiguous(), bias)
            run()
        except (AttributeError, RuntimeError) as error:
            raise Int8Unavailable(f"8-bit dense layers do not run here: {str(error).splitlines()[0]}") from None
        return [Candidate("onednn", run)]

    def last_resort(self, source: Tensor, target: Tensor) -> Candidate | None:
        """None: a bucket whose only 8-bit kernel depends on a row's place is left to float32."""
        return None

    def _steps(self, rows: int) -> list[Step]:
        steps: list[Step] = []
        width = self._layers[0][0].shape[1] if self._layers else 0
        if self._first is not None:
            steps.append(partial(_float_linear, *self._first))
        if self._layers:
            scale, zero = self._scales[0]
            steps.append(Quantise(self._scratch, rows, width, scale, zero))
        linear = torch.ops.onednn.qlinear_pointwise.default
        for number, ((_, bias), packed) in enumerate(zip(self._layers, self._packed, strict=True)):
            last = number + 1 == len(self._layers)
            relu = not last or self._relu_last or self._head is not None
            out = (1.0, 0, torch.float32) if last else (*self._scales[number + 1], torch.uint8)
            steps.append(partial(_int8_linear, linear, self._scales[number], packed, bias, out, relu))
        return steps


class Quantise:
    """Round float [rows, width] to uint8 codes of ``scale`` and ``zero``, in static buffers."""

    def __init__(self, scratch: Scratch, rows: int, width: int, scale: float, zero: int) -> None:
        # Half is added so that the truncating cast rounds; the clamp keeps it in the codes' range.
        # Half is added so that the truncating cast rounds.
        self._shift = zero + 0.5
        # Of one dimension, so that bfloat16 times it is float32; a plain number would be rounded to bfloat16.
        self._inverse = torch.tensor([1.0 / scale])
        self._scaled = scratch.take("scaled", rows, width)
        self._codes = scratch.take("codes", rows, width, dtype=torch.uint8)

    def __call__(self, x: Tensor) -> Tensor:
        # Two operations, not one with a factor: fused in vectors but not in a loop's scalar rest, that would make a
        # value's code depend on its place.
        torch.mul(x, self._inverse, out=self._scaled)
        return self._codes.copy_(self._scaled.add_(self._shift).clamp_(0.0, 255.0))


def _scale_and_zero(low_high: Range) -> tuple[float, int]:
    low, high = min(low_high[0], 0.0), max(low_high[1], 0.0)
    scale = (high - low) / 255 or 1.0
    return scale, round(-low / scale)


def _pack(weight: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    scales = (weight.abs().amax(dim=1) / 127).clamp_(min=1e-12)
    codes = torch.round(weight / scales[:, None]).to(torch.int8)
    packed = torch.ops.onednn.qlinear_prepack.default(codes, [rows, weight.shape[1]])
    return packed, scales, torch.zeros(len(weight), dtype=torch.int64)


def _float_linear(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    return F.linear(x.float(), weight, bias).relu_()


def _int8_linear(
    linear: Callable[..., Tensor],
    scale_and_zero: tuple[float, int],
    packed: tuple[Tensor, Tensor, Tensor],
    bias: Tensor,
    out: tuple[float, int, torch.dtype],
    relu: bool,
    x: Tensor,
) -> Tensor:
    weight, weight_scales, weight_zeros = packed
    scale, zero = scale_and_zero
    out_scale, out_zero, out_dtype = out
    activation = "relu" if relu else "none"
    return linear(
        x, scale, zero, weight, weight_scales, weight_zeros, bias, out_scale, out_zero, out_dtype, activation, [], ""
    )
