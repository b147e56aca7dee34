"""One module per group of commands; heavy imports happen inside the functions that need them."""

from pathlib import Path

import click

DEMO_MODEL = Path(__file__).parents[1] / "model" / "demo.safetensors"
# Whole hundreds, because that is how many candidates rankers ask for; a CPU gains nothing from larger batches.
BUCKETS = "1,2,4,8,16,32,64,100,128,200,256,300,400"
# Far beyond what pays; it only keeps a slip of the finger from asking for all memory.
BUCKET_ROWS_MAX = 65536
PRECISIONS = ("f32", "bf16", "int8")
MODEL_PATH = click.Path(path_type=Path, dir_okay=False)
