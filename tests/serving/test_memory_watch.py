"""Memory by the numbers: refuse near the limit, cut at it, and give back what is free before either."""

from dataclasses import dataclass, field

from narsil_graph.memory_watch import CUT_NS, LOOK_NS, TRIM_NS, MemoryWatch, Pressure, resident_bytes, trim

LIMIT = 1000
NONE, REFUSE, CUT = Pressure.NONE, Pressure.REFUSE, Pressure.CUT


@dataclass
class Memory:
    """What is resident, of which a trim gives back what is ``free``."""

    resident: int
    free: int = 0
    looks: int = 0
    trims: list[int] = field(default_factory=list[int])

    def read(self) -> int:
        self.looks += 1
        return self.resident

    def trim(self) -> None:
        self.trims.append(self.resident)
        self.resident -= self.free
        self.free = 0

    def watch(self) -> MemoryWatch:
        return MemoryWatch(LIMIT, resident_bytes=self.read, trim=self.trim)


def test_work_is_refused_from_nine_tenths_and_connections_are_cut_at_the_limit() -> None:
    for resident, pressure in ((0, NONE), (899, NONE), (900, REFUSE), (999, REFUSE), (1000, CUT), (5000, CUT)):
        assert Memory(resident).watch().look(LOOK_NS) is pressure


def test_memory_is_read_once_in_a_while_and_the_verdict_stands_in_between() -> None:
    memory = Memory(950)
    watch = memory.watch()
    assert watch.look(LOOK_NS) is REFUSE
    looks, memory.resident = memory.looks, 10
    assert watch.look(2 * LOOK_NS - 1) is REFUSE and memory.looks == looks
    assert watch.look(2 * LOOK_NS) is NONE and memory.looks == looks + 1


def test_connections_are_cut_once_in_a_while_and_work_is_refused_meanwhile() -> None:
    memory = Memory(2000)
    watch = memory.watch()
    said = [watch.look(LOOK_NS + at_ns) for at_ns in (0, 1, LOOK_NS, CUT_NS - LOOK_NS, CUT_NS, CUT_NS + LOOK_NS)]
    assert said == [CUT, REFUSE, REFUSE, REFUSE, CUT, REFUSE]
    assert watch.cuts == 2


def test_what_is_free_is_given_back_before_anyone_is_refused() -> None:
    memory = Memory(1500, free=1000)
    assert memory.watch().look(LOOK_NS) is NONE
    assert memory.trims == [1500]


def test_heap_is_walked_seldom_but_at_once_after_a_cut() -> None:
    memory = Memory(950)
    watch = memory.watch()
    for at_ns in range(0, TRIM_NS, LOOK_NS):
        watch.look(LOOK_NS + at_ns)
    assert memory.trims == [950]
    memory.resident = 1200
    assert watch.look(LOOK_NS + TRIM_NS) is CUT
    memory.free = 1100
    assert watch.look(2 * LOOK_NS + TRIM_NS) is NONE
    assert memory.trims == [950, 1200, 1200]


def test_nothing_is_trimmed_while_there_is_room() -> None:
    memory = Memory(899)
    memory.watch().look(LOOK_NS)
    assert memory.trims == []


def test_this_process_is_measured_and_trimmed() -> None:
    block = bytes(range(256)) * (64 << 12)
    assert resident_bytes() > len(block)
    trim()
    assert resident_bytes() > len(block)
