"""How far a run on boards and the same run in the simulator are apart, and the simulated times that bring them nearest.

The plan of the run, its campaign with every fault and operation that the seed has drawn, is simulated again with other
times for a hop of the network and for a board's work on a message. Compared are whole distributions, by their
two-sample Kolmogorov-Smirnov distance: the largest difference between the shares of both samples up to any value, 0 for
the same and 1 for samples that nowhere overlap. Must not write anything, and must not fit what no sample tells of.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from ..analysis.convergence import item_spreads
from ..analysis.distribution import percentile
from ..analysis.latency import decision_times, operation_latencies
from ..contracts import UsageError
from ..fault_kinds import KINDS
from ..faults import Plan
from ..history import History
from ..operations import GOSSIP_OPERATIONS, LOG_OPERATIONS, UNASKED
from ..rig import Rig, SimSpec
from ..store import load
from .explicit import read_plan
from .runs import simulate

CONVERGENCE = "gossip until all boards"
LEAST_SAMPLES = 10  # of a distribution that is fitted to
FACTORS = (2.0, 1.4, 1.15)  # by which a time is tried longer and shorter, pass by pass
MOST_TRIES = 60
SHORTEST_MS, LONGEST_MS = 0.001, 1000.0
SHORTEST_TOLD_MS = 0.1  # what is shorter counts as this where logarithms are compared
PERCENTS = range(5, 100, 5)

Samples = Mapping[str, Sequence[float]]  # sorted milliseconds by what they are of
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Times:
    """What is fitted. A hop takes low_ms and up to spread_ms more (uniform), or as much on average (exponential)."""

    latency: str
    low_ms: float
    spread_ms: float
    work_ms: float

    @classmethod
    def of(cls, spec: SimSpec) -> Times:
        low_ms, high_ms = spec.latency_ms
        if spec.latency == "exponential":
            return cls("exponential", low_ms, high_ms, spec.work_ms)
        spread_ms = 0.0 if spec.latency == "constant" else high_ms - low_ms
        return cls("uniform", low_ms, spread_ms, spec.work_ms)

    @property
    def hop_ms(self) -> float:
        """A hop's mean."""
        return self.low_ms + (self.spread_ms if self.latency == "exponential" else self.spread_ms / 2)

    def as_latency(self, latency: str) -> Times:
        """Hops of the same mean, drawn otherwise."""
        if latency == self.latency:
            return self
        if latency == "uniform":
            return replace(self, latency=latency, spread_ms=2 * self.spread_ms)
        return replace(self, latency=latency, low_ms=self.hop_ms / 3, spread_ms=2 * self.hop_ms / 3)

    def times(self, factor: float, *names: str) -> Times:
        """The named times, all if none is named, so much longer."""
        names = names or ("low_ms", "spread_ms", "work_ms")
        longer = {name: max(getattr(self, name), SHORTEST_MS) * factor for name in names}
        return replace(self, **{name: round(min(LONGEST_MS, max(SHORTEST_MS, ms)), 3) for name, ms in longer.items()})

    def applied(self, spec: SimSpec) -> SimSpec:
        high_ms = self.spread_ms if self.latency == "exponential" else self.low_ms + self.spread_ms
        latency_ms = (self.low_ms, round(max(self.low_ms, high_ms), 3))  # a rig file has the lower one first
        return replace(spec, latency=self.latency, latency_ms=latency_ms, work_ms=self.work_ms)


@dataclass(frozen=True)
class Comparison:
    """One distribution on boards and in the simulator, before and after the fit."""

    name: str
    fitted_to: bool  # else it has too few samples, and is only shown
    samples: int
    median_ms: float
    samples_before: int
    median_before_ms: float | None
    distance_before: float
    samples_after: int
    median_after_ms: float | None
    distance_after: float


@dataclass(frozen=True)
class Calibrated:
    """before, after: the [sim] tables. tries: simulated runs."""

    before: SimSpec
    after: SimSpec
    comparisons: tuple[Comparison, ...]
    tries: int


def kolmogorov_smirnov(one: Iterable[float], other: Iterable[float]) -> float:
    """The two-sample distance; 1 where one sample is empty and the other is not."""
    first, second = sorted(one), sorted(other)
    if not first or not second:
        return float(bool(first) != bool(second))
    return max(
        abs(bisect_right(first, value) / len(first) - bisect_right(second, value) / len(second))
        for value in {*first, *second}
    )


def read_run(folder: Path) -> tuple[History, Plan]:
    """UsageError where this is no finished run on boards, or one in which no operation was done."""
    history = load(folder)
    if history.manifest.get("rung") == "sim":
        raise UsageError(f"{folder}: this run was simulated; calibrate takes a run on virtual or real boards")
    if "boards" not in history.plan or not history.manifest.get("finished"):
        raise UsageError(f"{folder}: this run did not come to its end; its times cannot be compared")
    if not operation_latencies(history):
        raise UsageError(f"{folder}: in this run no operation was done; there is nothing to fit to")
    return history, read_plan(dict(history.plan))


def samples(history: History) -> Samples:
    """Sorted milliseconds of everything that calibration compares."""
    decisions = decision_times(history)
    found: dict[str, list[float]] = {
        "log operations": [],
        "gossip operations": [],
        "other operations": [],
        "decisions on the proposer's clock": [d.own_ms for d in decisions if d.own_ms is not None],
        "decisions until all voters": [d.all_ms for d in decisions if d.all_ms is not None],
        CONVERGENCE: [s.all_ms for s in item_spreads(history) if s.all_ms is not None],
    }
    for name, values in operation_latencies(history).items():
        found[f"{_place(name)} operations"] += values
    return {name: sorted(values) for name, values in found.items() if values}


def _place(operation: str) -> str:
    if operation in LOG_OPERATIONS:
        return "log"
    return "gossip" if operation in (*GOSSIP_OPERATIONS, *UNASKED) else "other"


def calibrate(history: History, plan: Plan, rig: Rig, progress: Progress | None = None) -> Calibrated:
    """Fit a simulated rig's times to a run. UsageError where the rig is none, or the run has too few samples."""
    if rig.simulated is None:
        raise UsageError(f"{rig.source}: rig {rig.name!r} has no [sim]; only simulated boards can be fitted")
    before = rig.simulated
    measured = samples(history)
    names = [name for name, values in measured.items() if len(values) >= LEAST_SAMPLES]
    if not names:
        raise UsageError(f"the run has no {LEAST_SAMPLES} operations, decisions or updates of one kind; too few to fit")
    the_plan = replace(plan, rig=rig.name, rung=rig.rung)
    seen: dict[SimSpec, Samples] = {}

    def simulated(spec: SimSpec) -> Samples:
        if spec not in seen:
            seen[spec] = samples(simulate(the_plan, replace(rig, simulated=spec)).history)
            if progress is not None:
                progress("calibrate", min(len(seen), MOST_TRIES - 1), MOST_TRIES)
        return seen[spec]

    def distance(times: Times) -> float:
        other = simulated(times.applied(before))
        return sum(_apart(measured[name], other.get(name, ())) for name in names) / len(names)

    after = _fit(before, _ratio(measured, simulated(before), names), distance, lambda: len(seen) >= MOST_TRIES)
    both = simulated(before), simulated(after)
    comparisons = tuple(_compare(name, name in names, values, *both) for name, values in measured.items())
    return Calibrated(before, after, comparisons, len(seen))


def _fit(before: SimSpec, ratio: float, distance: Callable[[Times], float], enough: Callable[[], bool]) -> SimSpec:
    """From the best of some starts one time after the other, in smaller and smaller steps.

    The starts: the rig's own times; all longer by the ratio of the medians; and a board's work alone, by its square,
    since little else than the number of messages tells work from hops, and a search may end between the two.
    """
    start = Times.of(before)
    if distance(start) == 0:
        return before
    longer = start.times(ratio), start.times(ratio**2, "work_ms")
    drawn = [times.as_latency(latency) for times in longer for latency in ("uniform", "exponential")]
    best = min((start, *drawn), key=distance)
    for factor in FACTORS:
        better = True
        while better and not enough():
            better = False
            for name in ("low_ms", "spread_ms", "work_ms"):
                for candidate in (best.times(factor, name), best.times(1 / factor, name)):
                    if not enough() and distance(candidate) < distance(best):
                        best, better = candidate, True
                        break
    return best.applied(before) if best != start else before


def _ratio(measured: Samples, simulated: Samples, names: Sequence[str]) -> float:
    """How many times longer things took on boards. What waits for a period of gossip says nothing of it."""
    logs = [
        math.log(max(median(measured[name]), SHORTEST_TOLD_MS) / max(median(simulated[name]), SHORTEST_TOLD_MS))
        for name in names
        if name != CONVERGENCE and name in simulated
    ]
    return math.exp(sum(logs) / len(logs)) if logs else 1.0


def _apart(one: Sequence[float], other: Sequence[float]) -> float:
    """What the fit makes small: the KS distance, and for samples that do not overlap yet the factor between them."""
    if not other:
        return 2.0
    factors = [
        abs(
            math.log(
                max(percentile(one, percent), SHORTEST_TOLD_MS) / max(percentile(other, percent), SHORTEST_TOLD_MS)
            )
        )
        for percent in PERCENTS
    ]
    return kolmogorov_smirnov(one, other) + min(1.0, sum(factors) / len(factors))


def _compare(name: str, fitted_to: bool, values: Sequence[float], before: Samples, after: Samples) -> Comparison:
    earlier, later = before.get(name, ()), after.get(name, ())
    return Comparison(
        name,
        fitted_to,
        len(values),
        round(median(values), 3),
        len(earlier),
        round(median(earlier), 3) if earlier else None,
        round(kolmogorov_smirnov(values, earlier), 3),
        len(later),
        round(median(later), 3) if later else None,
        round(kolmogorov_smirnov(values, later), 3),
    )


def rig_text(rig: Rig, spec: SimSpec, comment: str) -> str:
    """A rig file with that [sim]."""
    table = {name: getattr(spec, name) for name in SimSpec.__dataclass_fields__ if name != "model"}
    head = {"name": "calibrated", "rung": rig.rung, "bed": rig.bed, "description": comment[:400]}
    support = {kind: str(rig.support[kind]) for kind in KINDS if kind in rig.support}
    tables = {"rig": head, "sim": table, "faults": support}
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in entries.items())
        for name, entries in tables.items()
    )


def _toml(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
