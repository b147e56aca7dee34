"""One module per group of commands; heavy imports happen inside the functions that need them."""

from pathlib import Path

import click

DEMO_MODEL = Path(__file__).parents[1] / "model" / "demo.safetensors"
BUCKETS = "1,2,4,8,16,32,64,100,128,192,256,384,512"
PRECISIONS = ("f32", "bf16", "int8")
MODEL_PATH = click.Path(path_type=Path, dir_okay=False)
