"""The model's dense part in ONNX Runtime: a peer to measure against, behind the same FBGEMM lookup as the others."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from narsil_graph.model.weights import LinearLayer, Model


def onnx_forward(model: Model, *, threads: int) -> Callable[[Tensor, Tensor], NDArray[np.float32]]:
    """Maps dense f32 [n, D] and pooled f32 [n, T*dim] to scores f32 [n], on ``threads`` threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(_graph(model), options, providers=["CPUExecutionProvider"])

    def forward(dense: Tensor, pooled: Tensor) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = session.run(None, {"dense": dense.numpy(), "pooled": pooled.numpy()})[0]
        return scores.ravel()

    return forward


def _graph(model: Model) -> bytes:
    spec = model.spec
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def constant(name: str, value: NDArray[np.generic]) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    def op(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def layers(x: str, arch: str, weights: Sequence[LinearLayer], *, relu_last: bool) -> str:
        for number, layer in enumerate(weights):
            weight = constant(f"{arch}_{number}_w", np.ascontiguousarray(layer.weight))
            bias = constant(f"{arch}_{number}_b", np.ascontiguousarray(layer.bias))
            x = op("Gemm", [x, weight, bias], f"{arch}_{number}", transB=1)
            if relu_last or number + 1 < len(weights):
                x = op("Relu", [x], f"{arch}_{number}_relu")
        return x

    bottom = layers("dense", "dense_arch", model.dense_layers, relu_last=True)
    flat = op("Concat", [bottom, "pooled"], "flat", axis=1)
    shape = constant("vector_shape", np.array([-1, spec.vectors, spec.dim], np.int64))
    vectors = op("Reshape", [flat, shape], "vectors")
    transposed = op("Transpose", [vectors], "transposed", perm=[0, 2, 1])
    products = op("MatMul", [vectors, transposed], "products")
    square = constant("square_shape", np.array([-1, spec.vectors**2], np.int64))
    left, right = np.triu_indices(spec.vectors, 1)
    pairs = constant("pairs", (left * spec.vectors + right).astype(np.int64))
    dots = op("Gather", [op("Reshape", [products, square], "square"), pairs], "dots", axis=1)
    logit = layers(op("Concat", [bottom, dots], "over_in", axis=1), "over_arch", model.over_layers, relu_last=False)
    op("Sigmoid", [logit], "scores")
    inputs = [
        helper.make_tensor_value_info("dense", TensorProto.FLOAT, [None, len(spec.dense_features)]),
        helper.make_tensor_value_info("pooled", TensorProto.FLOAT, [None, (spec.vectors - 1) * spec.dim]),
    ]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, 1])]
    graph = helper.make_graph(nodes, "dlrm", inputs, outputs, constants)
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    serialised: bytes = built.SerializeToString()
    return serialised
