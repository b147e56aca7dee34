"""What the command line says of further models: `--variant`, and what each is for, `--shadow` or `--split`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from narsil_graph.build import EngineConfig
from narsil_graph.engine.graph_options import Kernels
from narsil_graph.engine.launcher import Precision
from narsil_graph.errors import UsageFailure
from narsil_graph.model.spec import ModelSpec
from narsil_graph.variants import MAIN

_NAME = re.compile(r"[A-Za-z0-9_-]{1,16}")
_SETTINGS = {"precision": Precision, "kernels": Kernels}
_WANT = "want NAME=MODEL[,precision=...][,kernels=...], as in B=new.safetensors,precision=bf16"


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantConfig:
    """A model beside the main one. `share` of the requests are its own, in (0, 1), or it is a shadow: 0."""

    name: str
    model: Path
    engine: EngineConfig
    share: float

    def line(self) -> str:
        """One word for the ready line."""
        return f"{self.name}:{self.engine.precision.value}:{f'{self.share:.6g}' if self.share else 'shadow'}"


def parse_variants(
    variants: Sequence[str], *, shadows: Sequence[str], splits: Sequence[str], engine: EngineConfig
) -> tuple[VariantConfig, ...]:
    """The variants in the order given, each run as `engine` says but for its own settings.

    Raises UsageFailure where a text is malformed, or a variant is not exactly one of shadow and split.
    """
    shares = {**dict.fromkeys(shadows, 0.0), **dict(map(_split, splits))}
    asked = [*shadows, *(text.partition("=")[0] for text in splits)]
    for name in asked:
        if asked.count(name) > 1:
            raise UsageFailure(f"{name} is in --shadow or --split twice: a variant has one use")
    parsed: dict[str, VariantConfig] = {}
    for text in variants:
        name, path, settings = _parts(text)
        if name in parsed:
            raise UsageFailure(f"--variant {name} is there twice")
        if name not in shares:
            raise UsageFailure(f"--variant {name} is never used: say --shadow {name} or --split {name}=10%")
        own = _engine(text, engine, settings)
        parsed[name] = VariantConfig(name=name, model=Path(path), engine=own, share=shares[name])
    for name in asked:
        if name not in parsed:
            raise UsageFailure(f"--shadow or --split names {name}, of which there is no --variant {name}=MODEL")
    if sum(shares.values()) >= 1.0:
        raise UsageFailure("--split leaves the main model no requests: the shares want to be below 100% together")
    return tuple(parsed.values())


def difference_of(main: ModelSpec, other: ModelSpec) -> str | None:
    """Why a request for ``main`` may be none for ``other``, in a clause; None where any is."""
    for what, ours, theirs in (
        ("dense features", main.dense_features, other.dense_features),
        ("sparse features", *([feature.name for feature in spec.sparse_features] for spec in (main, other))),
        ("table sizes", *([table.rows for table in spec.feature_tables] for spec in (main, other))),
    ):
        if list(ours) != list(theirs):
            wrong = next((pair for pair in zip(ours, theirs, strict=False) if pair[0] != pair[1]), None)
            detail = (
                f"{len(theirs)} instead of {len(ours)}" if wrong is None else f"{wrong[1]!r} instead of {wrong[0]!r}"
            )
            return f"it has other {what} ({detail})"
    return None


def _parts(text: str) -> tuple[str, str, list[str]]:
    name, _, rest = text.partition("=")
    path, *settings = rest.split(",")
    if not _NAME.fullmatch(name) or not path:
        raise UsageFailure(f"--variant {text!r}: {_WANT}")
    if name == MAIN:
        raise UsageFailure(f"--variant {text!r}: {MAIN} is the model of --model")
    return name, path, settings


def _engine(text: str, engine: EngineConfig, settings: Sequence[str]) -> EngineConfig:
    changes: dict[str, object] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in _SETTINGS or key in changes:
            raise UsageFailure(f"--variant {text!r}: {_WANT}")
        try:
            changes[key] = _SETTINGS[key](value)
        except ValueError:
            raise UsageFailure(f"--variant {text!r}: there is no {key} {value!r}") from None
    return replace(engine, **changes)  # type: ignore[arg-type]  # each key has its own type, by _SETTINGS


def _split(text: str) -> tuple[str, float]:
    name, _, share = text.partition("=")
    try:
        percent = float(share.removesuffix("%")) if share.endswith("%") else 0.0
    except ValueError:
        percent = 0.0
    if not 0.0 < percent < 100.0:
        raise UsageFailure(f"--split {text!r}: want NAME=PERCENT%, between 0% and 100%, as in B=10%")
    return name, percent / 100.0
