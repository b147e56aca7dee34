"""One module per group of commands; heavy imports happen inside the functions that need them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from narsil_graph.build import EngineConfig

DEMO_MODEL = Path(__file__).parents[1] / "model" / "demo.safetensors"
# Whole hundreds, because that is how many candidates rankers ask for. A CPU gains nothing from larger batches; a GPU
# runs 2,000 rows in little more time than 100.
BUCKETS = {
    "cpu": "1,2,4,8,16,32,64,100,128,200,256,300,400",
    "cuda": "1,2,4,8,16,32,64,100,128,200,256,400,512,800,1024,1600,2048",
}
# Far beyond what pays; it only keeps a slip of the finger from asking for all memory.
BUCKET_ROWS_MAX = 65536
PRECISIONS = ("f32", "tf32", "bf16", "fp16", "int8")
MODEL_PATH = click.Path(path_type=Path, dir_okay=False)
POSITIVE = click.IntRange(min=1)
Command = TypeVar("Command", bound=Callable[..., Any])


def parse_bucket_rows(context: click.Context, option: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    """Row counts such as 1,2,4 as a tuple; None stays, for the default depends on the device."""
    from narsil_transport.buckets import parse_rows

    if text is None:
        return None
    try:
        rows = parse_rows(text)
        if rows[-1] > BUCKET_ROWS_MAX:
            raise ValueError(f"want buckets of at most {BUCKET_ROWS_MAX} rows, got {rows[-1]}")
        return rows
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_OPTIONS = (
    click.option("--device", type=click.Choice(["cpu", "cuda"]), default=None, envvar="NARSIL_DEVICE",
                 show_default="cuda where torch is built for it", help="Where batches run."),
    click.option("--buckets", default=None, envvar="NARSIL_BUCKETS", callback=parse_bucket_rows,
                 show_default=f"{BUCKETS['cpu']}; on cuda to 2048", help="The batch sizes to capture."),
    click.option("--ids-per-row", type=POSITIVE, default=None, envvar="NARSIL_IDS_PER_ROW",
                 show_default="four per feature", help="Room for ids per row of a bucket (multi-hot)."),
    click.option("--engine", type=click.Choice(["plan", "eager"]), default="plan", envvar="NARSIL_ENGINE",
                 help="plan: captured, as CUDA graphs or a CPU plan."),
    click.option("--precision", type=click.Choice(PRECISIONS), default="f32", envvar="NARSIL_PRECISION",
                 help="Arithmetic of the dense layers; int8 on cpu only, tf32 and fp16 on cuda only."),
    click.option("--kernels", type=click.Choice(["fbgemm", "triton"]), default="fbgemm", envvar="NARSIL_KERNELS",
                 help="What gathers and multiplies embeddings on cuda."),
    click.option("--lanes", type=POSITIVE, default=1, envvar="NARSIL_LANES",
                 help="Streams of launches on cuda, each with its own graphs."),
    click.option("--slots", type=POSITIVE, default=2, envvar="NARSIL_SLOTS",
                 help="Launches that a lane on cuda takes before the first is read."),
    click.option("--completion", type=click.Choice(["event", "sequence"]), default="event", envvar="NARSIL_COMPLETION",
                 help="How a launch on cuda is seen to be over: its event, or first the word its copy out echoes."),
    click.option("--graph-memory", type=POSITIVE, default=None, envvar="NARSIL_GRAPH_MEMORY",
                 metavar="MIB", help="Refuse to start where the graphs need more device memory than this."),
)  # fmt: skip


def engine_options(command: Command) -> Command:
    """The options that say how batches are run; ``engine_config`` takes them out of the command's arguments."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def engine_config(options: dict[str, Any]) -> "EngineConfig":
    """The engine's own of ``options``, which are removed from it. Raises UsageFailure where they contradict."""
    from narsil_graph.build import EngineConfig
    from narsil_graph.engine.cuda_support import default_device
    from narsil_graph.engine.graph_options import Completion, Kernels
    from narsil_graph.engine.launcher import Precision
    from narsil_transport.buckets import parse_rows

    device = options.pop("device") or default_device()
    return EngineConfig(
        device=device,
        bucket_rows=options.pop("buckets") or parse_rows(BUCKETS[device]),
        precision=Precision(options.pop("precision")),
        kernels=Kernels(options.pop("kernels")),
        completion=Completion(options.pop("completion")),
        graph_memory_mib=options.pop("graph_memory"),
        **{name: options.pop(name) for name in ("ids_per_row", "engine", "lanes", "slots")},
    )
