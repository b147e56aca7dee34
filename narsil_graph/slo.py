"""Holding a latency objective: which batch cap and admission margin keep the measured p99 at or under it. Pure.

It never lingers. A lane that takes what is queued whenever it is free grows its batches with the load until they are
full, so a wait could only buy throughput where launches are committed before the device is free; and there, once the
cap allows for the launches ahead, waiting up to a tenth of what the objective leaves changed the simulated goodput by
less than half a percent. Callers who ask again only once they are answered gained six percent at best, and lost a
third where four of them kept a lane idle by it.
"""

from math import sqrt

from narsil_transport.batcher import Settings
from narsil_transport.buckets import BucketLadder
from narsil_transport.cost import CostModel

ADJUST_NS = 100_000_000
# A verdict that the objective holds takes a second and this many answers, a slow server's up to five seconds.
PERIOD_NS = 1_000_000_000
PERIOD_NS_MAX = 5_000_000_000
ANSWERS_MIN = 100
# Equal bins, of 1/128 of the objective up to twice it: the latencies that decide lie near it.
BINS_PER_SLO = 128
BIN_LAST = 2 * BINS_PER_SLO
# On less evidence than that, more must be late than chance makes of 1 %: by so many standard deviations.
DEVIATIONS = 3
# Fractions of the objective. Between low and high nothing moves, and a violation aims at the middle. High is below
# 1, for just under it a batcher may be saving each request at its last moment, by launches too small to catch up.
BAND_LOW = 0.75
BAND_MIDDLE = 0.84
BAND_HIGH = 0.92
BIN_HIGH = int(BAND_HIGH * BINS_PER_SLO) + 1
# A widening is bounded, so that one stall does not close the door; a narrowing is less than the band, so that it cannot
# leap it.
WIDEN_MIN = 1 / 40
WIDEN_MAX = 1 / 5
NARROW = 1 / 20
# After so many widenings without a good period between them, smaller batches are tried.
WIDENINGS_MAX = 4
# Good periods before the margin is narrowed; so many times as long before larger batches are tried. Doubled whenever a
# violation follows on such easing, and as at first once the p99 falls to a half: that is another load.
PATIENCE_MAX = 64
RAISE_PATIENCE = 4
BAND_FAR = 0.5
# How far the cost of the cap's bucket may drift above what chose it, so that the cap does not flutter.
CAP_SLACK = 1.1


class SloController:
    """Counts the latencies of answers, and turns them into the batcher's settings.

    `slots` is how many launches a lane takes before the first is read: a request waits for those and its own, and the
    batches are capped so that this keeps the objective. `settings` are those to begin with, and then what `adjust` last
    gave. `cost` knows every bucket of `ladder`. Raises ValueError where the objective is less than a launch of the
    smallest bucket takes.
    """

    __slots__ = (
        "_adjust_at_ns",
        "_began_ns",
        "_cap",
        "_changed_ns",
        "_cost",
        "_counts",
        "_eased",
        "_good",
        "_ladder",
        "_margin_ns",
        "_patience",
        "_slots",
        "_widenings",
        "settings",
        "slo_ns",
    )

    def __init__(self, *, slo_p99_ns: int, cost: CostModel, ladder: BucketLadder, slots: int = 1) -> None:
        least_ns = cost.tail_ns(ladder.buckets[0])
        if slo_p99_ns < least_ns:
            raise ValueError(
                f"want a p99 of at least {least_ns / 1e3:.0f} us, which a launch of the smallest bucket takes, "
                f"got {slo_p99_ns / 1e3:.0f} us"
            )
        self.slo_ns = slo_p99_ns
        self._cost = cost
        self._ladder = ladder
        self._slots = slots
        self._margin_ns = 0
        self._changed_ns = self._began_ns = self._adjust_at_ns = 0
        self._good = self._widenings = 0
        self._patience = 1
        self._eased = False
        self._counts = [0] * (BIN_LAST + 1)
        self._cap = 0
        while self._fits(self._cap + 1):
            self._cap += 1
        self.settings = self._chosen()

    def observe(self, latency_ns: int, now_ns: int) -> None:
        """Count an answer that left now, `latency_ns` after its request came."""
        # A request that came before the last change was not admitted by it.
        if now_ns - latency_ns >= self._changed_ns:
            index = latency_ns * BINS_PER_SLO // self.slo_ns
            self._counts[index if index < BIN_LAST else BIN_LAST] += 1

    def adjust(self, now_ns: int) -> Settings | None:
        """The settings to use from now on, or None where they stay. Looks once in 100 ms."""
        if now_ns < self._adjust_at_ns:
            return None
        self._adjust_at_ns = now_ns + ADJUST_NS
        answers, late = sum(self._counts), sum(self._counts[BIN_HIGH:])
        age_ns = now_ns - self._began_ns
        # Without a single answer the margin may be what keeps them all out.
        over = (age_ns >= PERIOD_NS and not 0 < answers < ANSWERS_MIN) or age_ns >= PERIOD_NS_MAX
        expected = max(answers, ANSWERS_MIN) / 100
        chance = 0.0 if over and answers >= ANSWERS_MIN else DEVIATIONS * sqrt(expected)
        if late > expected + chance:
            self._widen(self._p99(answers) - BAND_MIDDLE)
        elif over:
            self._relax(self._p99(answers))
        else:
            return None
        self._counts = [0] * (BIN_LAST + 1)
        self._began_ns = now_ns
        before, self.settings = self.settings, self._chosen()
        if self.settings == before:
            return None
        self._changed_ns = now_ns
        return self.settings

    def _widen(self, excess: float) -> None:
        """The p99 lies above the middle of the band by this fraction of the objective."""
        if self._eased:
            self._patience = min(2 * self._patience, PATIENCE_MAX)
        self._eased = False
        self._good = 0
        self._widenings += 1
        margin_ns = self._margin_ns + int(self.slo_ns * min(max(excess, WIDEN_MIN), WIDEN_MAX))
        self._margin_ns = min(margin_ns, self._margin_max_ns())
        if self._cap and (self._widenings >= WIDENINGS_MAX or margin_ns > self._margin_ns):
            self._step(-1)
            self._widenings = 0

    def _relax(self, p99: float) -> None:
        """A period has passed in which the objective held: the p99 was this fraction of it."""
        self._widenings = 0
        self._good += 1
        if p99 < BAND_FAR:
            self._patience = 1
        if self._cap and not self._fits(self._cap, CAP_SLACK):
            self._step(-1)
        elif self._good >= RAISE_PATIENCE * self._patience and self._fits(self._cap + 1):
            self._step(1)
            self._good = 0
            self._eased = True
        elif p99 < BAND_LOW and self._margin_ns and self._good % self._patience == 0:
            self._margin_ns = max(self._margin_ns - int(self.slo_ns * NARROW), 0)
            self._eased = True

    def _step(self, by: int) -> None:
        """Take the next cap. The margin, which is for launches that outgrow their prediction, goes with its cost."""
        before_ns = self._cap_ns()
        self._cap += by
        self._margin_ns = min(self._margin_ns * self._cap_ns() // before_ns, self._margin_max_ns())

    def _cap_ns(self) -> int:
        return self._cost.tail_ns(self._ladder.buckets[self._cap])

    def _margin_max_ns(self) -> int:
        """What is left of the objective must hold a launch, or nothing would be admitted."""
        return max(self.slo_ns - self._cap_ns(), 0)

    def _fits(self, cap: int, slack: float = 1.0) -> bool:
        """Whether a launch of this bucket and those that a lane may have taken before it keep the objective."""
        buckets = self._ladder.buckets
        return cap < len(buckets) and (1 + self._slots) * self._cost.tail_ns(buckets[cap]) <= self.slo_ns * slack

    def _p99(self, answers: int) -> float:
        """The upper edge of the bin that holds the p99, as a fraction of the objective; 0 without an answer."""
        beyond = answers // 100
        for index in range(BIN_LAST, -1, -1):
            beyond -= self._counts[index]
            if beyond < 0:
                return (index + 1) / BINS_PER_SLO
        return 0.0

    def _chosen(self) -> Settings:
        return Settings(rows_max=self._ladder.buckets[self._cap].rows, margin_ns=self._margin_ns)
