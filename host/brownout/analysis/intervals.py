"""How sure a figure is: intervals of medians, and whether two groups differ. Pure arithmetic, the same each time.

The bootstrap of a median needs no drawing: how often each order statistic is the median of a resample is a binomial
sum (Efron, 1979), so the interval is what endless resampling would give. Must not know where values come from.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

CONFIDENCE = 0.95
EXACT_UP_TO = 20_000  # ways to share the values out; more are drawn
DRAWS = 20_000
MOST_VALUES = 2_000  # of a sample: above it, evenly spaced order statistics stand for all


@dataclass(frozen=True)
class Interval:
    """A median with the bounds of its bootstrap interval."""

    median: float
    low: float
    high: float
    count: int

    def document(self) -> dict[str, float | int | None]:
        return {"median": brief(self.median), "low": brief(self.low), "high": brief(self.high), "count": self.count}


def brief(value: float) -> float | None:
    """Six digits; None of what is endless, which JSON cannot say."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def median(ordered: Sequence[float]) -> float:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """None of no values. Of a single one the interval is endless: low and high are -inf and inf."""
    ordered = sorted(values)
    if not ordered:
        return None
    if len(ordered) == 1:
        return Interval(ordered[0], -math.inf, math.inf, 1)
    weights = median_weights(len(ordered))
    tail = (1 - confidence) / 2
    low = _quantile(ordered, weights, tail)
    high = _quantile(ordered, weights, 1 - tail)
    return Interval(median(ordered), low, high, len(ordered))


def median_weights(count: int) -> list[float]:
    """How often the k-th smallest of `count` values is the (lower) middle one of a resample of as many."""
    rank = (count + 1) // 2
    below = [_at_least(count, rank, k / count) for k in range(count + 1)]
    return [below[k + 1] - below[k] for k in range(count)]


def _at_least(count: int, rank: int, share: float) -> float:
    """The chance of at least `rank` out of `count` where each has the chance `share`."""
    if share <= 0.0 or share >= 1.0:
        return share
    if count > 400:  # the normal law with the correction for continuity: off by less than 1 in 1,000 there
        spread = math.sqrt(count * share * (1 - share))
        return 0.5 * math.erfc((rank - 0.5 - count * share) / (spread * math.sqrt(2)))
    log_share, log_rest = math.log(share), math.log1p(-share)
    return min(
        1.0,
        math.fsum(
            math.exp(
                math.lgamma(count + 1)
                - math.lgamma(k + 1)
                - math.lgamma(count - k + 1)
                + k * log_share
                + (count - k) * log_rest
            )
            for k in range(rank, count + 1)
        ),
    )


def _quantile(ordered: Sequence[float], weights: Sequence[float], share: float) -> float:
    passed = 0.0
    for value, weight in zip(ordered, weights, strict=True):
        passed += weight
        if passed >= share - 1e-12:
            return value
    return ordered[-1]


# Two groups.


@dataclass(frozen=True)
class Difference:
    """b's median less a's, its bootstrap interval, and how often chance alone would make as much of one."""

    shift: float
    low: float
    high: float
    chance: float
    exact: bool  # all ways of sharing the values out were looked at, not a drawn part of them

    @property
    def moved(self) -> bool:
        return self.chance <= 1 - CONFIDENCE


def difference(a: Sequence[float], b: Sequence[float], *, seed: int = 1) -> Difference | None:
    """Permutation test on the difference of means of ranks' scores and a bootstrap of the difference of medians.

    None where either group is empty. The test asks the mean of ranks (as Mann and Whitney do), which a single outlier
    does not move; with three values each the least chance that can come of it is 0.1, and nothing can be shown.
    """
    if not a or not b:
        return None
    ranks = _ranks([*a, *b])
    observed = abs(_lean(ranks, range(len(a)), len(a)))
    ways = math.comb(len(ranks), len(a))
    exact = ways <= EXACT_UP_TO
    choices = combinations(range(len(ranks)), len(a)) if exact else _drawn(len(ranks), len(a), seed)
    as_much = total = 0
    for chosen in choices:
        total += 1
        as_much += abs(_lean(ranks, chosen, len(a))) >= observed - 1e-9
    chance = as_much / total if exact else (as_much + 1) / (total + 1)
    low, high = _shift_interval(sorted(a), sorted(b), seed)
    return Difference(median(sorted(b)) - median(sorted(a)), low, high, chance, exact)


def _drawn(count: int, part: int, seed: int) -> Iterator[Sequence[int]]:
    draw = random.Random(seed)
    indices = range(count)
    for _ in range(DRAWS):
        yield draw.sample(indices, part)


def _ranks(values: Sequence[float]) -> list[float]:
    """From 1; of values that are equal, the middle of theirs."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    ranks = [0.0] * len(values)
    first = 0
    while first < len(order):
        last = first
        while last + 1 < len(order) and values[order[last + 1]] == values[order[first]]:
            last += 1
        for index in order[first : last + 1]:
            ranks[index] = (first + last) / 2 + 1
        first = last + 1
    return ranks


def _lean(ranks: Sequence[float], chosen: Sequence[int], part: int) -> float:
    """How far the sum of the chosen ranks is from what it is on average."""
    return math.fsum(ranks[index] for index in chosen) - part * (len(ranks) + 1) / 2


def _shift_interval(a: Sequence[float], b: Sequence[float], seed: int) -> tuple[float, float]:
    """The bootstrap interval of the difference of medians; endless where a group has one value."""
    if len(a) < 2 or len(b) < 2:
        return -math.inf, math.inf
    draw = random.Random(seed)
    pick: Callable[[Sequence[float]], list[float]] = lambda group: draw.choices(  # noqa: E731
        group, weights=median_weights(len(group)), k=4_000
    )
    shifts = sorted(second - first for first, second in zip(pick(a), pick(b), strict=True))
    cut = int(len(shifts) * (1 - CONFIDENCE) / 2)
    return shifts[cut], shifts[-1 - cut]
