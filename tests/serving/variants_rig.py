"""Variants around the scripted accelerator: a shadow, a split, and what the server tells of them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narsil_graph.engine.engine import Engine
from narsil_graph.engine.launcher import Slot
from narsil_graph.lazy_capture import LazyCapture
from narsil_graph.metrics import Counters
from narsil_graph.model.weights import Model
from narsil_graph.replies import Replies
from narsil_graph.schedule import Schedule
from narsil_graph.variants import Comparison, Split, Variant
from narsil_graph.variants_tally import Tally
from narsil_transport.batcher import Batcher, Mode
from narsil_transport.buckets import BucketLadder
from narsil_transport.cost import CostModel, LaunchCost
from narsil_transport.router import Route, Router
from narsil_transport.wire import InferRequest, MetadataReply
from tests.serving.scripted import METADATA, Bench, Scripted, scheduled


class Shifted(Scripted):
    """Scores each row higher than the main model does."""

    def scores(self, slot: Slot) -> NDArray[np.float32]:
        return super().scores(slot) + np.float32(0.25)


def engine_of(model: Model, launcher: Scripted) -> Engine:
    engine = Engine(launcher, BucketLadder.from_rows((8,), ids_per_row=len(model.spec.sparse_features)))
    for bucket in engine.ladder.buckets:
        engine.capture(bucket)
    launcher.calls.clear()
    return engine


def shadow(
    model: Model,
    launcher: Scripted,
    *,
    queue_rows_max: int = 1 << 16,
    name: str = "B",
    expendable: bool = False,
) -> Variant:
    engine = engine_of(model, launcher)
    cost = CostModel({bucket: LaunchCost(1000, 1000) for bucket in engine.ladder.buckets})
    batcher = Batcher(ladder=engine.ladder, cost=cost, mode=Mode.WORKER, queue_rows_max=queue_rows_max)
    schedule, tally = Schedule(batcher, cost, lanes=engine.lanes), Tally(name)
    return Variant(
        model=model,
        engine=engine,
        schedule=schedule,
        counters=Counters(eager=False),
        lazy=LazyCapture(engine, lambda bucket: None),
        answers=Comparison(schedule, tally),
        tally=tally,
        share=0.0,
        expendable=expendable,
    )


def split(model: Model, launcher: Scripted, router: Router, counters: Counters) -> Variant:
    engine = engine_of(model, launcher)
    schedule, tally = scheduled(engine, mode=Mode.WORKER), Tally("B")
    return Variant(
        model=model,
        engine=engine,
        schedule=schedule,
        counters=Counters(eager=False),
        lazy=LazyCapture(engine, lambda bucket: None),
        answers=Replies(router, schedule=schedule, counters=counters, version="new", tally=tally),
        tally=tally,
        share=0.5,
    )


def shadowed_by(*variants: Variant) -> Callable[[Router, Counters], Sequence[Variant]]:
    return lambda router, counters: variants


def halved_by(model: Model, launcher: Scripted) -> Callable[[Router, Counters], Sequence[Variant]]:
    return lambda router, counters: [split(model, launcher, router, counters)]


def told(local: Bench) -> dict[str, Any]:
    """What METADATA says of the variants."""
    local.peer.send_frames(METADATA)
    local.turns(1)
    (reply,) = (reply for reply in local.replies() if isinstance(reply, MetadataReply))
    variants: dict[str, Any] = reply.meta.get("variants", {})
    return variants


def keyed(request: InferRequest, key: str) -> InferRequest:
    return replace(request, key=key)


def chosen(variants: Sequence[Variant], key: str | None, *, request_id: int = 1) -> str:
    """The name of the one of these that a request of the key goes to."""
    main, *others = variants
    request = InferRequest(request_id, "", None, None, np.zeros((1, 1), np.float32), None, None, None, key=key)
    tally = Split(main, others).choose(request, Route(b"peer", False)).tally
    assert tally is not None
    return tally.name


def key_of(local: Bench, name: str) -> str:
    """A key that goes to the variant of this name."""
    return next(key for key in map(str, range(1000)) if chosen(local.server.variants, key) == name)


def parts(model: Model, *shares: tuple[str, float]) -> list[Variant]:
    """The main variant and others with these shares, to be chosen from."""
    named = [("A", 1.0 - sum(share for _, share in shares)), *shares]
    return [replace(shadow(model, Scripted(model.spec), name=name), share=share) for name, share in named]
