"""Feature files: an .npz with dense, and ids or lengths + values; a scores file has scores."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narsil_graph.errors import Failure
from narsil_graph.limits import limits_of
from narsil_graph.model.spec import ModelSpec
from narsil_transport.admission import Admitted, admit
from narsil_transport.wire import InferRequest

NAMES = ("dense", "ids", "lengths", "values")
# In-process scoring has no queue to protect; these only bound what one mistake can allocate.
ROWS_MAX = 1 << 20
IDS_PER_ROW_MAX = 1 << 20


def read_features(path: Path) -> InferRequest:
    """The features in the .npz at ``path``; a Failure names what is missing or of the wrong kind."""
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it is a single array")
        with file:
            # A member that is no array comes as bytes: it is refused below, as an array of no dimensions.
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise Failure(f"cannot read {path} as an .npz file: {error}") from None
    unknown = sorted(set(arrays) - set(NAMES))
    if unknown:
        raise Failure(f"{path} has the array {unknown[0]!r}; want dense, and ids or lengths + values")
    kinds = set(arrays) - {"dense"}
    if "dense" not in arrays or kinds not in ({"ids"}, {"lengths", "values"}):
        raise Failure(f"{path} has {sorted(arrays) or 'nothing'}; want dense, and ids or lengths + values")
    return InferRequest(
        request_id=0,
        model="",
        deadline_us=None,
        traceparent=None,
        dense=_array(path, "dense", arrays["dense"], np.dtype(np.float32), 2),
        ids=_array(path, "ids", arrays["ids"], np.dtype(np.int64), 2) if "ids" in arrays else None,
        lengths=_array(path, "lengths", arrays["lengths"], np.dtype(np.int32), 2) if "lengths" in arrays else None,
        values=_array(path, "values", arrays["values"], np.dtype(np.int64), 1) if "values" in arrays else None,
    )


def _array(path: Path, name: str, array: NDArray[np.generic], dtype: np.dtype[np.generic], ndim: int) -> NDArray[Any]:
    if array.ndim != ndim or array.dtype.kind not in ("f" if dtype.kind == "f" else "iu"):
        raise Failure(f"{path}: {name} is {array.dtype} {list(array.shape)}, want {ndim} dimensions of {dtype}")
    # What overflows float32 becomes infinite, which is refused by row and column.
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(array, dtype)
    if dtype.kind == "i" and not np.array_equal(cast, array):
        raise Failure(f"{path}: {name} has a value that {dtype} cannot hold")
    return cast


def admitted(spec: ModelSpec, request: InferRequest) -> Admitted:
    """``request`` as a server of this model would admit it, else a Failure with the refusal's words."""
    if request.rows > ROWS_MAX:
        raise Failure(f"the file has {request.rows} rows, at most {ROWS_MAX} are scored at once")
    limits = limits_of(spec, rows_max=max(request.rows, 1), ids_per_row_max=IDS_PER_ROW_MAX)
    outcome = admit(request, limits=limits, now_ns=0, route=None)
    if not isinstance(outcome, Admitted):
        raise Failure(f"{outcome.status.name}: {outcome.detail}")
    return outcome
