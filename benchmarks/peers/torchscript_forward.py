"""The model as traced and frozen TorchScript: its dense part on the CPU, and the whole forward on any device."""

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from narsil_graph.engine.arena import Arena
from narsil_graph.engine.eager import ROW_ALIGNMENT_BYTES
from narsil_graph.engine.forward import Layers, flat_rows, layer_tensors, table_batched_lookup
from narsil_graph.engine.launcher import Launcher, Slot
from narsil_graph.model.weights import Model
from narsil_transport.buckets import Bucket

# Frozen in the calls that profile, specialise and compile it; then as often again.
WARM_CALLS = 20


def torchscript_forward(model: Model) -> Callable[[Tensor, Tensor], NDArray[np.float32]]:
    """Maps dense f32 [n, D] and pooled f32 [n, T*dim] to scores f32 [n], on torch's threads."""
    spec = model.spec
    example = torch.zeros(8, len(spec.dense_features)), torch.zeros(8, (spec.vectors - 1) * spec.dim)
    frozen = _frozen(DensePart(model), example)

    def forward(dense: Tensor, pooled: Tensor) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = frozen(dense, pooled).numpy()
        return scores

    return forward


class TorchScriptForward(Launcher):
    """Launches copy a batch with one id per bag to ``device``, run the frozen forward, and copy the scores back."""

    eager = True

    def __init__(self, model: Model, device: torch.device, dtype: torch.dtype) -> None:
        self._spec = model.spec
        self._device = device
        self._module = WholeForward(model, device, dtype)

    def capture(self, bucket: Bucket) -> tuple[Slot, ...]:
        """Trace at the bucket's rows, and run until TorchScript has compiled what it will."""
        features, width = len(self._spec.sparse_features), len(self._spec.dense_features)
        arena = Arena(bucket, dense_width=width, id_bases=np.zeros(features, np.int32), lead=0)
        scores = np.zeros(bucket.rows, np.float32)
        dense, ids = torch.from_numpy(arena.dense), torch.from_numpy(arena.values[: bucket.rows * features])
        frozen = _frozen(self._module, (dense.to(self._device), ids.view(-1, features).to(self._device)))
        slot = Slot(
            arena=arena, program=partial(self._score, frozen, arena, scores), scores=scores, kernels="torchscript"
        )
        arena.rows, arena.ids = bucket.rows, bucket.rows * features
        for _ in range(WARM_CALLS):
            self.launch(slot)
        return (slot,)

    def _score(self, frozen: Callable[..., Tensor], arena: Arena, scores: NDArray[np.float32]) -> None:
        dense = torch.from_numpy(arena.dense[: arena.rows]).to(self._device)
        ids = torch.from_numpy(arena.values[: arena.ids].reshape(arena.rows, -1)).to(self._device)
        scores[: arena.rows] = frozen(dense, ids).cpu().numpy()


def _frozen(module: nn.Module, example: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        traced = torch.jit.trace(module.eval(), example)  # type: ignore[no-untyped-call]
        frozen: Callable[..., Tensor] = torch.jit.freeze(traced)
    return frozen


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


class WholeForward(nn.Module):
    """Reorder, FBGEMM's lookup by its operator, and the dense part in ``dtype``; one id in every bag."""

    def __init__(self, model: Model, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        alignment_bytes = ROW_ALIGNMENT_BYTES[device.type]
        stored, begins = flat_rows(model, alignment_bytes)
        self._dtype = dtype
        self._lookup = table_batched_lookup(model.spec, stored.to(device), begins, dtype, alignment_bytes)
        self.dense_part = DensePart(model).to(device, dtype)

    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        """Scores f32 [n] of dense f32 [n, D] and ids int32 [n, T]."""
        indices = ids.t().reshape(-1)
        offsets = torch.arange(indices.shape[0] + 1, dtype=torch.int32, device=ids.device)
        scores: Tensor = self.dense_part(dense.to(self._dtype), self._lookup(indices, offsets))
        return scores.float()


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
