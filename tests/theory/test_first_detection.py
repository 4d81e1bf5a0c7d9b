"""The firmware's membership finds out who is gone as soon as the theory of SWIM says.

Model: A. Das, I. Gupta, A. Motivala, "SWIM: Scalable Weakly-consistent Infection-style Process Group Membership
Protocol", DSN 2002. In every protocol period each of n - 1 live boards probes one of its n - 1 others, uniformly at
random: the first that finds the board that is gone does so in a period that is distributed geometrically. Shipped
boards probe in shuffled laps instead, whose mean is exact too. Means of the firmware's own membership.py, with its
helpers, are compared by a 99.9% confidence interval; everything is seeded.
"""

from __future__ import annotations

import math

import cbor2
import pytest
from brownout_node.core import schema
from reference_models import detection_deviation, detection_mean, detection_mean_of_laps, half_width
from rounds import Rounds

PERIOD_MS = 1000
TIMEOUT_MS = 400
KEYS = {
    "protocols": ["membership"],
    "probe_period_ms": PERIOD_MS,
    "probe_timeout_ms": TIMEOUT_MS,
    "suspicion_ms": 600_000,
}
MOST_PERIODS = 60


def periods_until_suspected(count: int, seed: int, random_order: int) -> int:
    """Protocol periods from the first, when a board is gone, to the end of that in which it was found out."""
    gone = seed % count + 1
    boards = Rounds(count, seed, PERIOD_MS, gone, random_order=random_order, **KEYS)
    for period in range(1, MOST_PERIODS):
        # It began with the last tick: helpers are asked at the time-out, and the next tick ends it.
        boards.now_ms += TIMEOUT_MS
        boards.tick()
        boards.now_ms += PERIOD_MS - TIMEOUT_MS
        boards.tick()
        if suspected(boards.events, gone):
            return period
    raise AssertionError("never found out")


def suspected(events: list[bytes], gone: int) -> bool:
    """By the events: what boards believe may change again before the tick is over."""
    for data in events:
        _boot, _sequence, _now_ms, _stamp, kind, *fields = cbor2.loads(data)
        if kind == schema.MEMBER and fields[:2] == [gone, schema.SUSPECT]:
            return True
    events.clear()
    return False


def mean_periods(count: int, losses: int, random_order: int) -> float:
    return sum(periods_until_suspected(count, seed, random_order) for seed in range(losses)) / losses


@pytest.mark.parametrize(("count", "losses"), [(3, 1500), (8, 500), (16, 300), (64, 80)])
def test_random_probes_find_out_when_swim_says(count: int, losses: int) -> None:
    exact = detection_mean(count)
    width = half_width([detection_deviation(count)], losses)
    assert width < 0.25 * exact, "too few losses to say much"
    mean = mean_periods(count, losses, random_order=1)
    assert abs(mean - exact) < width, (mean, exact, width)


def test_many_boards_come_near_the_limit_of_the_paper() -> None:
    """The paper's e / (e - 1) is the formula's limit."""
    assert abs(detection_mean(100_000) - math.e / (math.e - 1)) < 1e-4


def test_laps_are_told_from_random_probes_and_have_their_own_mean() -> None:
    """With three boards a lap ends after two periods, where random probes may still miss."""
    losses = 1500
    mean = mean_periods(3, losses, random_order=0)
    width = half_width([detection_deviation(3)], losses)  # laps vary less
    assert abs(mean - detection_mean_of_laps(3)) < width
    assert abs(mean - detection_mean(3)) > width
