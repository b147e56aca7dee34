"""Requests and limits that the transport tests share."""

import numpy as np

from narsil_transport.admission import Admitted, ModelLimits, admit
from narsil_transport.wire import InferRequest, Priority

FEATURES = 3


def limits(*, rows_max: int = 64, ids_per_row_max: int = 8, allow_nonfinite: bool = False) -> ModelLimits:
    return ModelLimits(
        name="dlrm",
        dense_width=2,
        table_rows=np.array([10, 20, 5]),
        feature_names=("user", "item", "country"),
        rows_max=rows_max,
        ids_per_row_max=ids_per_row_max,
        allow_nonfinite=allow_nonfinite,
    )


def one_hot(
    rows: int,
    *,
    request_id: int = 1,
    deadline_us: int | None = None,
    priority: Priority = Priority.INTERACTIVE,
) -> InferRequest:
    dense = np.zeros((rows, 2), np.float32)
    ids = np.ones((rows, FEATURES), np.int32)
    return InferRequest(request_id, "", deadline_us, None, dense, ids, None, None, priority)


def multi_hot(lengths: list[list[int]], values: list[int], *, request_id: int = 1) -> InferRequest:
    dense = np.zeros((len(lengths), 2), np.float32)
    bags = np.array(lengths, np.int32).reshape(len(lengths), FEATURES)
    return InferRequest(request_id, "", None, None, dense, None, bags, np.array(values, np.int64))


def admitted(request: InferRequest, *, now_ns: int = 0, within: ModelLimits | None = None) -> Admitted:
    entered = admit(request, limits=within or limits(), now_ns=now_ns, route=None)
    assert isinstance(entered, Admitted), entered
    return entered
