"""What CUDA would not capture, or would capture wrongly, the tape device refuses by name."""

import pytest
import torch

from narsil_graph.engine.launcher import DeviceFault
from tests.engine.tape import TapeDevice
from tests.engine.tape_rig import ROWS, WIDTH, Operation, Rig, some_rows

WAITING: dict[str, tuple[Operation, str]] = {
    "item": (lambda x: x * x.sum().item(), "_local_scalar_dense"),
    "branch": (lambda x: x if x.sum() > 0 else -x, "_local_scalar_dense"),
    "nonzero": (lambda x: x.nonzero().float(), "nonzero"),
    "masked_select": (lambda x: x.masked_select(x > 0), "masked_select"),
    "mask": (lambda x: x[x > 0], "index.Tensor"),
    "unique": (lambda x: torch.unique_consecutive(x), "unique_consecutive"),
    "repeats": (lambda x: torch.repeat_interleave(x.int()[0]).float(), "repeat_interleave"),
    "equal": (lambda x: x * torch.equal(x, x), "equal"),
    "numpy": (lambda x: x * float(x.numpy().sum()), "numpy"),
    "tolist": (lambda x: x * x.tolist()[0][0], "tolist"),
    "cpu": (lambda x: x.cpu(), "cpu"),
}


@pytest.mark.parametrize("verb", ["warm_up", "capture"])
@pytest.mark.parametrize(("operation", "name"), list(WAITING.values()), ids=list(WAITING))
def test_waiting_for_the_device_is_refused_by_name(operation: Operation, name: str, verb: str) -> None:
    rig = Rig(operation)
    run = rig.lane.warm_up if verb == "warm_up" else rig.lane.capture
    with pytest.raises(DeviceFault, match=rf"{name}.* waits for the device"):
        run(rig.program)


def test_repeats_of_known_number_are_no_wait() -> None:
    device = TapeDevice()
    counts = device.place(torch.tensor([1, 3, 0, 2]))
    rig = Rig(lambda x: x.repeat_interleave(counts, dim=0, output_size=6), device=device)
    result = rig.score(rig.capture(), some_rows(0))
    assert torch.equal(result, some_rows(0)[[0, 1, 1, 1, 3, 3]])


def test_a_copy_that_blocks_is_refused() -> None:
    rig = Rig(lambda x: x)
    with pytest.raises(DeviceFault, match=r"copy_.* not non_blocking"):
        rig.lane.warm_up(lambda: rig.resident.copy_(rig.pinned))


def test_a_copy_that_changes_dtype_on_the_host_is_refused() -> None:
    rig = Rig(lambda x: x)
    with pytest.raises(DeviceFault, match=r"copy_.* changes dtype"):
        rig.lane.capture(lambda: rig.resident.copy_(rig.pinned.view(torch.int32), non_blocking=True))


def test_pageable_memory_is_refused() -> None:
    rig, pageable = Rig(lambda x: x), torch.ones(ROWS, WIDTH)
    for program in (lambda: rig.resident.copy_(pageable, non_blocking=True), lambda: rig.resident + pageable):
        with pytest.raises(DeviceFault, match="neither pinned nor on the device"):
            rig.lane.warm_up(program)


def test_work_on_pinned_memory_is_refused() -> None:
    rig = Rig(lambda x: x)
    for program in (rig.pinned.zero_, lambda: rig.pinned * 2, lambda: rig.resident + rig.pinned):
        with pytest.raises(DeviceFault, match="works on pinned memory"):
            rig.lane.warm_up(program)


def test_a_copy_within_pinned_memory_is_refused() -> None:
    rig = Rig(lambda x: x)
    with pytest.raises(DeviceFault, match="copies within pinned memory"):
        rig.lane.capture(lambda: rig.result.copy_(rig.pinned, non_blocking=True))


def test_pinned_memory_during_capture_is_refused_and_the_lane_lost() -> None:
    rig = Rig(lambda x: x)
    with pytest.raises(DeviceFault, match="pinned memory allocated during capture"):
        rig.lane.capture(lambda: rig.device.pinned(4))
    with pytest.raises(DeviceFault, match="has failed before"):
        rig.capture()
    rig.device.pinned(4)


def test_other_calls_during_capture_are_refused() -> None:
    rig = Rig(lambda x: x)
    with pytest.raises(DeviceFault, match="synchronize during capture"):
        rig.lane.capture(rig.event.synchronize)


def test_freeing_one_graph_breaks_the_others_of_its_pool() -> None:
    rig = Rig(lambda x: x)
    graph = rig.capture()
    rig.capture()
    with pytest.raises(DeviceFault, match="freed while others live"):
        graph.replay()
