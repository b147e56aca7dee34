"""The model's dense part as traced and frozen TorchScript: a peer to measure against."""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from narsil_graph.engine.eager import Layers, layer_tensors
from narsil_graph.model.weights import Model


def torchscript_forward(model: Model) -> Callable[[Tensor, Tensor], NDArray[np.float32]]:
    """Maps dense f32 [n, D] and pooled f32 [n, T*dim] to scores f32 [n], on torch's threads."""
    spec = model.spec
    example = torch.zeros(8, len(spec.dense_features)), torch.zeros(8, (spec.vectors - 1) * spec.dim)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        traced = torch.jit.trace(DensePart(model).eval(), example)  # type: ignore[no-untyped-call]
        frozen = torch.jit.freeze(traced)

    def forward(dense: Tensor, pooled: Tensor) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = frozen(dense, pooled).numpy()
        return scores

    return forward


class DensePart(nn.Module):
    """Everything behind the lookup, written the ordinary way."""

    left: Tensor
    right: Tensor

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.vectors, self.dim = model.spec.vectors, model.spec.dim
        self.dense_arch = _layers(layer_tensors(model, "dense"), relu_last=True)
        self.over_arch = _layers(layer_tensors(model, "over"), relu_last=False)
        left, right = torch.triu_indices(self.vectors, self.vectors, offset=1)
        self.register_buffer("left", left)
        self.register_buffer("right", right)

    def forward(self, dense: Tensor, pooled: Tensor) -> Tensor:
        bottom = self.dense_arch(dense)
        vectors = torch.cat([bottom, pooled], dim=1).view(-1, self.vectors, self.dim)
        dots = torch.bmm(vectors, vectors.transpose(1, 2))[:, self.left, self.right]
        logits = self.over_arch(torch.cat([bottom, dots], dim=1))
        return torch.sigmoid(logits).view(-1)


def _layers(layers: Layers, *, relu_last: bool) -> nn.Sequential:
    modules: list[nn.Module] = []
    for number, (weight, bias) in enumerate(layers):
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.weight = nn.Parameter(weight, requires_grad=False)
        linear.bias = nn.Parameter(bias, requires_grad=False)
        modules.append(linear)
        if relu_last or number + 1 < len(layers):
            modules.append(nn.ReLU())
    return nn.Sequential(*modules)
