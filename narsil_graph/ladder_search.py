"""The cheapest choice of boundaries among sorted sizes, under a limit on their number and on what they weigh: exact.

Boundary j, a size, serves the sizes above the boundary before it, at ``costs[j]`` a request. So all the requests from
size i up to boundary j, i excluded, cost ``costs[j] * (before[j + 1] - before[i + 1])``. The last size is a boundary.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Rows of the table that are minimised at a time: wide enough for numpy, small enough for the cache.
BLOCK = 64
BISECTIONS = 12
# How much of the gap between the bound and the best choice known is searched first, and how it then grows.
FIRST_SHARE, GROWTH = 1 / 256, 2.0
# Sums of the same costs in another order differ by this much at most.
ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sorted sizes: what a request costs at each as a boundary (never decreasing), requests, a boundary's weight."""

    costs: Floats
    counts: Floats
    weights: Floats

    def __post_init__(self) -> None:
        if not len(self.costs) == len(self.counts) == len(self.weights) > 0:
            raise ValueError("want as many costs as counts and weights, and at least one")
        if (np.diff(self.costs) < 0).any() or self.costs[0] <= 0:
            raise ValueError("want positive costs that never decrease")
        if (self.counts < 0).any() or (self.weights < 0).any():
            raise ValueError("want counts and weights of at least 0")


@dataclass(frozen=True, slots=True)
class Bound:
    """For the price of a unit of weight: what serving the sizes from i on costs at least, weights included.

    ``rest[k, i]`` is for at most k boundaries, ``first[k, i]`` the end (one past the boundary) of the first of them.
    """

    price: float
    rest: Floats
    first: Ints

    def choice(self) -> list[int]:
        """The ends of the cheapest ladder for this price, with no more boundaries than it needs."""
        last = self.rest.shape[1] - 1
        least = int(np.flatnonzero(self.rest[:, 0] <= self.rest[-1, 0] * (1 + ROUNDING))[0])
        ends, end = list[int](), 0
        while end < last:
            end = int(self.first[least, end])
            ends.append(end)
            least -= 1
        return ends


def cheapest(sizes: Sizes, *, boundaries_max: int, weight_max: float = np.inf) -> list[int] | None:
    """The indices of the boundaries that cost least in all, or None where the last size alone weighs too much.

    O(boundaries * sizes^2) at worst and far less as a rule; with a weight that binds, some twenty times that.
    """
    if sizes.weights[-1] > weight_max:
        return None
    before = np.concatenate([[0.0], np.cumsum(sizes.counts)])
    best = bound(sizes, before, boundaries_max, 0.0)
    ends = best.choice()
    if _weight(sizes, ends) > weight_max:
        best, ends = _dearest_useful(sizes, before, boundaries_max, weight_max)
        ends = _within(sizes, before, best, _cost(sizes, before, ends), weight_max) or ends
    return [end - 1 for end in ends]


def bound(sizes: Sizes, before: Floats, boundaries_max: int, price: float) -> Bound:
    """The dynamic programme over the number of boundaries left, backwards from the last size.

    The table costs[j] * (before[j+1] - before[i]) + rest[j+1] is Monge, because costs never decrease and neither does
    ``before``: the best first boundary moves up with i, so a block of sizes need not look beyond that of the next one.
    """
    last, added = len(sizes.costs), price * sizes.weights
    rest = np.full((boundaries_max + 1, last + 1), np.inf)
    rest[:, last] = 0.0
    first = np.full((boundaries_max + 1, last + 1), last)
    for left in range(1, boundaries_max + 1):
        after = sizes.costs * before[1:] + added + rest[left - 1, 1:]
        high = last
        for begin in range((last - 1) // BLOCK * BLOCK, -1, -BLOCK):
            rows = np.arange(begin, min(begin + BLOCK, last))
            table = after[begin:high] - before[rows, None] * sizes.costs[begin:high]
            # A boundary below size i does not serve it.
            square = len(rows)
            table[:, :square][np.tri(square, min(square, high - begin), -1, bool)] = np.inf
            chosen = table.argmin(1)
            rest[left, rows] = table[np.arange(square), chosen]
            first[left, rows] = chosen + begin + 1
            high = int(chosen[0]) + begin + 1 if left > 1 else last
    return Bound(price, rest, first)


def _dearest_useful(sizes: Sizes, before: Floats, boundaries_max: int, weight_max: float) -> tuple[Bound, list[int]]:
    """Bisect for the price at which the weight just fits: its bound, and the cheapest choice met that does fit."""
    low = 0.0
    high = float(before[-1] * sizes.costs[-1] / max(weight_max, sizes.weights.max()))
    fits = bound(sizes, before, boundaries_max, high)
    while _weight(sizes, fits.choice()) > weight_max:
        low, high = high, high * 8
        fits = bound(sizes, before, boundaries_max, high)
    found = [fits]
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        found.append(bound(sizes, before, boundaries_max, middle))
        if _weight(sizes, found[-1].choice()) > weight_max:
            low = middle
        else:
            high = middle
    fitting = [ends for made in found if _weight(sizes, ends := made.choice()) <= weight_max]
    tightest = max(found, key=lambda made: made.rest[-1, 0] - made.price * weight_max)
    return tightest, min(fitting, key=lambda ends: _cost(sizes, before, ends))


def _within(sizes: Sizes, before: Floats, best: Bound, known: float, weight_max: float) -> list[int] | None:
    """The cheapest choice that costs at most ``known`` and weighs at most ``weight_max``.

    Searched in a growing part of the gap above the bound: what costs no more than the limit is never cut off, so the
    first choice found is the cheapest of all.
    """
    least = float(best.rest[-1, 0]) - best.price * weight_max
    share = FIRST_SHARE
    while True:
        limit = min(least + (known - least) * share, known) + ROUNDING * known
        ends = _pareto(sizes, before, best, limit, weight_max)
        if ends is not None or share >= 1:
            return ends
        share *= GROWTH


@dataclass(slots=True)
class Partial:
    """Ladders that serve the sizes below ``ends``, each from the one of the layer before that ``parents`` tells."""

    ends: Ints
    costs: Floats
    weights: Floats
    parents: Ints


def _pareto(sizes: Sizes, before: Floats, best: Bound, limit: float, weight_max: float) -> list[int] | None:
    """The cheapest choice of at most ``limit``, or None: layer by layer, of each end only what is not dominated."""
    last = len(sizes.costs)
    layers = [Partial(np.zeros(1, np.int64), np.zeros(1), np.zeros(1), np.zeros(1, np.int64))]
    found, found_cost = None, limit
    for left in range(len(best.rest) - 2, -1, -1):
        if not len(layers[-1].ends):
            break
        layer = _undominated(_longer(sizes, before, best, layers[-1], left, limit, weight_max))
        layers.append(layer)
        for index in np.flatnonzero(layer.ends == last):
            if layer.costs[index] <= found_cost:
                found, found_cost = (len(layers) - 1, int(index)), float(layer.costs[index])
    if found is None:
        return None
    depth, place = found
    ends = list[int]()
    for layer in reversed(layers[1 : depth + 1]):
        ends.append(int(layer.ends[place]))
        place = int(layer.parents[place])
    return ends[::-1]


def _longer(
    sizes: Sizes, before: Floats, best: Bound, layer: Partial, left: int, limit: float, weight_max: float
) -> Iterator[Partial]:
    """Every ladder of ``layer`` with one boundary more, but those that cannot end within the limits."""
    last, price = len(sizes.costs), best.price
    # What must still follow: the largest size, unless it is the boundary itself.
    closing = np.where(np.arange(1, last + 1) == last, 0.0, sizes.weights[-1])
    lightest = weight_max - sizes.weights - closing
    parents = np.arange(len(layer.ends))
    for group in np.split(parents, np.flatnonzero(np.diff(layer.ends)) + 1):
        begin = int(layer.ends[group[0]])
        steps = sizes.costs[begin:] * (before[begin + 1 :] - before[begin])
        bounds = steps + price * (sizes.weights[begin:] - weight_max) + best.rest[left, begin + 1 :]
        priced = layer.costs[group] + price * layer.weights[group]
        # Few sizes are within reach of even the best of the group: the rest need no table.
        near = np.flatnonzero(bounds <= limit - priced.min())
        fits = layer.weights[group, None] <= lightest[begin:][near]
        rows, columns = np.nonzero(fits & (priced[:, None] + bounds[near] <= limit))
        chosen = near[columns]
        yield Partial(
            chosen + begin + 1,
            layer.costs[group][rows] + steps[chosen],
            layer.weights[group][rows] + sizes.weights[begin:][chosen],
            group[rows],
        )


def _undominated(parts: Iterator[Partial]) -> Partial:
    """Of the ladders with the same end, those than which none is both cheaper and lighter."""
    found = list(parts)
    ends = np.concatenate([part.ends for part in found])
    costs = np.concatenate([part.costs for part in found])
    weights = np.concatenate([part.weights for part in found])
    parents = np.concatenate([part.parents for part in found])
    order = np.lexsort((costs, weights, ends))
    begins = np.flatnonzero(np.diff(ends[order], prepend=-1))
    kept = list[Ints]()
    for group in np.split(order, begins[1:]):
        cheapest_before = np.minimum.accumulate(np.concatenate([[np.inf], costs[group]]))[:-1]
        kept.append(group[costs[group] < cheapest_before])
    chosen = np.concatenate(kept)
    return Partial(ends[chosen], costs[chosen], weights[chosen], parents[chosen])


def _weight(sizes: Sizes, ends: list[int]) -> float:
    return float(sizes.weights[np.array(ends) - 1].sum())


def _cost(sizes: Sizes, before: Floats, ends: list[int]) -> float:
    begins = np.array([0, *ends[:-1]])
    return float((sizes.costs[np.array(ends) - 1] * (before[ends] - before[begins])).sum())
