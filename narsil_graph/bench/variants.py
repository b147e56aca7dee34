"""One text to a server that can be asked: attached to, started here, or a foreign one's adapter."""

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

from narsil_client.curve import Curve
from narsil_graph.bench.listeners import listeners
from narsil_graph.bench.narsil import common_spec, narsil_subject
from narsil_graph.bench.subject import Started, Starting
from narsil_graph.errors import Failure, UsageFailure
from narsil_graph.model.spec import ModelSpec
from narsil_graph.model.weights import load_model

# Loading, capturing and checking the largest models that were tried takes a tenth of it.
START_S = 300.0
STOP_S = 15.0
POLL_S = 0.02
WANTED = "want tcp://HOST:PORT[,tcp://...], ipc://PATH, 'serve: OPTIONS', FILE.toml or adapter:MODULE[:MODEL]"


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers, and what its model takes."""

    started: Started
    spec: ModelSpec


@dataclass(frozen=True, slots=True)
class Variant:
    """A server as `text` names it. Each `start` makes another one, that ends with the context, or attaches anew."""

    text: str
    start: Callable[[], AbstractContextManager[Running]]


def parse_variant(text: str, model: Path, *, curve: Curve | None = None) -> Variant:
    """`model` is served where the text names none; `curve` are the keys for an endpoint that is there.

    Nothing is started yet; raises UsageFailure.
    """
    if text.startswith(("tcp://", "ipc://")):
        return Variant(text, partial(_attached, text.split(","), curve))
    kind, _, rest = text.partition(":")
    if kind == "serve":
        try:
            options = shlex.split(rest)
        except ValueError as error:
            raise UsageFailure(f"{text!r} cannot be split into options: {error}") from None
        return Variant(text, partial(_served, ["--model", str(model), *options]))
    if kind == "adapter" and rest:
        module, _, own_model = rest.partition(":")
        path = Path(own_model) if own_model else model
        return Variant(text, partial(_adapted, _adapter(module), path))
    if text.endswith(".toml"):
        if not Path(text).is_file():
            raise UsageFailure(f"there is no file {text}")
        return Variant(text, partial(_served, ["--config", text]))
    raise UsageFailure(f"{WANTED}, got {text!r}")


@contextmanager
def _attached(endpoints: Sequence[str], curve: Curve | None) -> Generator[Running]:
    yield _reached(endpoints, listeners(*endpoints), curve)


@contextmanager
def _served(options: Sequence[str]) -> Generator[Running]:
    with tempfile.TemporaryDirectory(prefix="narsil-") as name:
        folder = Path(name)
        ready = folder / "ready"
        # First, so that options may name another endpoint; the last of a flag counts.
        own = ["--bind", f"ipc://{folder}/s", *options, "--ready-file", str(ready)]
        log_path = folder / "log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "narsil_graph", "serve", *own], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            _await_ready(process, ready, log_path)
            endpoints = [word for word in ready.read_text().split() if "://" in word]
            try:
                yield _reached(endpoints, family(process.pid))
            except Failure:
                # Whatever failed, a server that is not there any more says why.
                if process.poll() is not None:
                    raise Failure(_last_words(process, log_path)) from None
                raise
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await_ready(process: subprocess.Popen[bytes], ready: Path, log: Path) -> None:
    end = time.monotonic() + START_S
    while not ready.exists():
        if process.poll() is not None:
            raise UsageFailure(_last_words(process, log))
        if time.monotonic() > end:
            raise Failure(f"a server was not ready after {START_S:.0f} s")
        time.sleep(POLL_S)


def _last_words(process: subprocess.Popen[bytes], log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    # What any server says on its way is not why this one ended.
    words = ["it said nothing", *(line for line in lines if not line.startswith(("captured ", "ready ")))]
    return f"a server that was started ended with code {process.returncode}: {words[-1]}"


@contextmanager
def _adapted(start: Callable[[Path], Starting], model: Path) -> Generator[Running]:
    spec = load_model(model).spec
    with start(model) as started:
        yield Running(started, spec)


def _adapter(module: str) -> Callable[[Path], Starting]:
    # An installed command's path lacks the working directory, where adapters are.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        start: Callable[[Path], Starting] = import_module(module).start
    # The last two are what it says to no name and to a relative one.
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UsageFailure(f"{module} is no adapter: {error}") from None
    return start


def _reached(endpoints: Sequence[str], pids: tuple[int, ...], curve: Curve | None = None) -> Running:
    return Running(Started(partial(narsil_subject, endpoints, curve=curve), pids), common_spec(endpoints, curve=curve))


def family(pid: int) -> tuple[int, ...]:
    """The process and all that come from it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # Behind the name, which may hold anything, come the state and the parent.
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    found = [pid]
    for parent in found:
        found += [child for child, its in parents.items() if its == parent]
    return tuple(found)
