"""Eager PyTorch + FBGEMM behind NVIDIA Triton's Python backend, with Triton's dynamic batching.

MODEL=FILE python -m benchmarks.peers.triton_server PORT
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from signal import SIGTERM, signal
from tempfile import TemporaryDirectory

from benchmarks.peers.batched import announce
from narsil_graph.model.weights import load_model

# Of a request too: Triton refuses larger ones.
ROWS_MAX = 800
# Takes what is there.
WAIT_US = 0
# A process per core, each with one thread of torch: faster than one process on two cores.
WORKERS = len(os.sched_getaffinity(0))
NAME = "dlrm"
CONFIG = """
backend: "python"
max_batch_size: {rows_max}
dynamic_batching {{ max_queue_delay_microseconds: {wait_us} }}
instance_group [ {{ count: {workers} kind: KIND_CPU }} ]
input [ {{ name: "DENSE" data_type: TYPE_FP32 dims: [ {dense_width} ] }},
        {{ name: "IDS" data_type: TYPE_INT32 dims: [ {features} ] }} ]
output [ {{ name: "SCORES" data_type: TYPE_FP32 dims: [ 1 ] }} ]
"""


def main() -> None:
    address = f"127.0.0.1:{sys.argv[1]}"
    with TemporaryDirectory() as folder:
        _write_model(Path(folder, NAME), Path(os.environ["MODEL"]))
        server = subprocess.Popen(_command(folder, sys.argv[1]), env={**os.environ, "PATH": _path()})
        signal(SIGTERM, lambda number, frame: server.terminate())
        announce(f"http://{address}/v2/models/{NAME}/ready", f"http://{address}/v2/models/{NAME}/infer")
        sys.exit(server.wait())


def _write_model(folder: Path, model: Path) -> None:
    spec = load_model(model).spec
    (folder / "1").mkdir(parents=True)
    # The stub does not look at PYTHONPATH.
    script = f"import sys\n\nsys.path += {sys.path}\n\nfrom benchmarks.peers.triton_model import TritonPythonModel\n"
    (folder / "1" / "model.py").write_text(script)
    widths = {"dense_width": len(spec.dense_features), "features": len(spec.sparse_features)}
    text = CONFIG.format(rows_max=ROWS_MAX, wait_us=WAIT_US, workers=WORKERS, **widths)
    (folder / "config.pbtxt").write_text(text)


def _command(repository: str, port: str) -> list[str]:
    """The server that comes with nvidia-pytriton, without its proxy: the model runs in Triton's own Python backend."""
    found = importlib.util.find_spec("pytriton")
    assert found is not None and found.origin is not None
    triton = Path(found.origin).parent / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    backends = _with_stub(triton, version)
    options = {
        "model-repository": repository,
        "backend-directory": backends,
        "http-address": "127.0.0.1",
        "http-port": port,
        "http-thread-count": len(os.sched_getaffinity(0)),
        "allow-grpc": "false",
        "allow-metrics": "false",
    }
    return [str(triton / "bin" / "tritonserver"), *(f"--{name}={value}" for name, value in options.items())]


def _with_stub(triton: Path, version: str) -> Path:
    """The backends' folder, with the stub of this version of Python where the Python backend looks for it."""
    stub = triton / "backends" / "python" / "triton_python_backend_stub"
    if not stub.exists():
        stub.symlink_to(triton / "python_backend_stubs" / version / stub.name)
    return triton / "backends"


def _path() -> str:
    """The stub is an interpreter without a home: it takes that of the first python3 in PATH."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


if __name__ == "__main__":
    main()
