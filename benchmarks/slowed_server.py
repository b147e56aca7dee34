"""`narsil-graph` with every launch of a CPU plan made longer: what a comparison is to find.

python benchmarks/slowed_server.py PERCENT serve --model MODEL ...
"""

import sys
import time

from narsil_graph import threads


def slow_down(percent: float) -> None:
    """Each launch then computes for so much longer, whatever it took."""
    # After threads.prepare: this loads the libraries that read its settings once.
    from narsil_graph.engine.cpu_plan import CpuPlan
    from narsil_graph.engine.launcher import Slot

    launch = CpuPlan.launch

    def slower(self: CpuPlan, slot: Slot) -> None:
        begin_ns = time.perf_counter_ns()
        launch(self, slot)
        now_ns = time.perf_counter_ns()
        end_ns = now_ns + int((now_ns - begin_ns) * percent / 100)
        while time.perf_counter_ns() < end_ns:
            pass

    CpuPlan.launch = slower  # type: ignore[assignment,method-assign]


def main() -> None:
    percent = float(sys.argv.pop(1))
    threads.prepare(1)
    slow_down(percent)
    from narsil_graph.__main__ import main as serve

    serve()


if __name__ == "__main__":
    main()
