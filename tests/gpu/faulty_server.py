"""`narsil-graph` whose graph launches come with a device assertion once a batch's first dense value asks for it."""

import torch

from narsil_graph.__main__ import main
from narsil_graph.engine.cuda_graph import CudaGraphs, GraphSlot
from narsil_graph.engine.launcher import Slot

ASKED_BY = 12345.0
healthy = CudaGraphs.launch


def launch(graphs: CudaGraphs, slot: Slot) -> None:
    """A launch as it should be, and perhaps an index out of range behind it, before the mark that is waited for."""
    healthy(graphs, slot)
    if slot.arena.dense[0, 0] == ASKED_BY:
        assert isinstance(slot, GraphSlot)
        # On the lane's stream, which a replay leaves the current one.
        beyond = torch.full((1,), 99, dtype=torch.int64, device="cuda")
        torch.zeros(4, device="cuda").index_select(0, beyond)
        slot.event.record()


if __name__ == "__main__":
    CudaGraphs.launch = launch  # type: ignore[assignment, method-assign]
    main()
