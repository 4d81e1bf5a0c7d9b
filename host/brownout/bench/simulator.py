"""The simulator: its engine beside SimPy and a bare heap, how far it runs ahead of real time, and a swarm on two cores.

The mix of events is that of a run (split-brain, seed 1, counted): timers that arm themselves again, and for each firing
14 calls that come once, such as messages. SimPy has a process for each timer and each call, as its users write it; the
bare loop only pops and pushes, and calls nothing. Must not measure anything twice to pick the better.
"""

from __future__ import annotations

import cProfile
import heapq
import os
import pstats
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..campaign_file import Campaign, load_campaign, parse_campaign
from ..document import Table
from ..faults import plan
from ..rig import Rig, load_rig
from ..sim.engine import Engine
from ..sim.explore import explore
from ..sim.runs import Simulated, simulate
from ..sim.transcript import Recorder
from .figures import Figure, Sample
from .workbench import Workbench

TIMERS = 100
ONCE = 14  # calls for each firing of a timer
UNTIL_NS = 60_000_000
PERIODS_NS = [1_000_000 + number * 7919 for number in range(TIMERS)]
AFTER_NS = [300_000 + number * 1009 for number in range(ONCE)]
TURNS = 5
IDLE_S = 60.0
SEEDS = 100
SWARM_TURNS = 2
INPUTS = (b"R", b"T")  # of a transcript: receive (commands too), tick


def measure(bench: Workbench) -> list[Figure]:
    rig = load_rig("sim")
    bench.progress("the engine beside SimPy and a bare heap", 0, 1)
    figures = [*_engine(), _share(rig)]
    bench.progress("idle and loaded clusters", 0, 1)
    figures += [_idle(rig, 5, 400.0), _idle(rig, 100, 20.0), _loaded(rig)]
    bench.progress("a swarm on one core and on two", 0, 1)
    return [*figures, _swarm(rig)]


# The engine alone.


def _engine() -> list[Figure]:
    try:
        import simpy  # noqa: F401
    except ImportError:
        theirs: list[float] = []
    else:
        theirs = [_with_simpy()]
    ours, bare = [], []
    for _ in range(TURNS):
        ours.append(_with_engine())
        bare.append(_with_heap())
        if theirs:
            theirs.append(_with_simpy())
    note = f"{TIMERS} timers, each with {ONCE} single calls a firing, {TURNS} turns"
    return [
        _rate("engine, events per second", ours, theirs, "SimPy processes", 2.0, note if theirs else "no simpy here"),
        _rate("engine, events per second", ours, bare, "a bare heapq loop", 0.5, note),
    ]


def _rate(name: str, ours: list[float], theirs: list[float], compared_to: str, target: float, note: str) -> Figure:
    mine = Sample.of(ours)
    other = Sample.of(theirs) if theirs else None
    return Figure(
        name,
        mine.median,
        "/s",
        target,
        mine.count,
        compared_to=compared_to,
        compared_value=None if other is None else other.median,
        at_least=True,
        note=note,
    )


def _with_engine() -> float:
    engine = Engine()

    def once(_number: int) -> None:
        pass

    def fire(timer: int) -> None:
        for number in range(ONCE):
            engine.at(engine.now_ns + AFTER_NS[number], once, number)
        engine.at(engine.now_ns + PERIODS_NS[timer], fire, timer)

    for timer in range(TIMERS):
        engine.at(timer, fire, timer)
    began = time.perf_counter()
    engine.run(UNTIL_NS)
    return engine.calls / (time.perf_counter() - began)


def _with_heap() -> float:
    heap = [(timer, timer, True) for timer in range(TIMERS)]
    order, events = TIMERS, 0
    began = time.perf_counter()
    while heap[0][0] <= UNTIL_NS:
        now, last, is_timer = heapq.heappop(heap)
        events += 1
        if is_timer:
            for number in range(ONCE):
                order += 1
                heapq.heappush(heap, (now + AFTER_NS[number], order, False))
            order += 1
            heapq.heappush(heap, (now + PERIODS_NS[last % TIMERS], order, True))
    return events / (time.perf_counter() - began)


def _with_simpy() -> float:
    import simpy

    environment = simpy.Environment()
    events = 0

    def once(number: int) -> Iterator[Any]:
        nonlocal events
        yield environment.timeout(AFTER_NS[number])
        events += 1

    def fire(timer: int) -> Iterator[Any]:
        nonlocal events
        yield environment.timeout(timer)
        while True:
            events += 1
            for number in range(ONCE):
                environment.process(once(number))
            yield environment.timeout(PERIODS_NS[timer])

    for timer in range(TIMERS):
        environment.process(fire(timer))
    began = time.perf_counter()
    environment.run(UNTIL_NS)
    return events / (time.perf_counter() - began)


def _share(rig: Rig) -> Figure:
    """The engine's own time and the heap's in the profile of one whole run, judged and all."""
    the_plan = plan(load_campaign("split-brain"), rig, 1)
    profile = cProfile.Profile()
    profile.runcall(simulate, the_plan, rig)
    rows = pstats.Stats(profile).stats.items()  # type: ignore[attr-defined]
    total = sum(row[2] for _, row in rows)
    mine = sum(row[2] for place, row in rows if place[0].endswith("sim/engine.py") or "heapq" in place[2])
    return Figure(
        "engine, share of a run", 100 * mine / total, "%", 25.0, 1, measure="value", note="split-brain, seed 1"
    )


# Whole clusters.


def _cluster(boards: int, seconds: float, operations_per_s: float) -> Campaign:
    voters = min(5, boards)
    return parse_campaign(
        Table(
            {
                "campaign": {
                    "name": "cluster",
                    "duration_s": seconds,
                    "voters": voters,
                    "learners": boards - voters,
                },
                "timing": {"gossip_period_ms": 200},
                "workload": {"operations_per_s": operations_per_s, "rumours_per_s": operations_per_s / 5},
            },
            "bench",
        )
    )


def _timed(work: Callable[[], Simulated]) -> tuple[Simulated, float]:
    began = time.perf_counter()
    done = work()
    return done, time.perf_counter() - began


def _idle(rig: Rig, boards: int, target: float) -> Figure:
    the_plan = plan(_cluster(boards, IDLE_S, 0.0), rig, 1)
    speeds = []
    for _ in range(3):
        done, took_s = _timed(lambda: simulate(the_plan, rig))
        speeds.append(int(done.history.manifest["ended_ns"]) / 1e9 / took_s)
    return Figure(
        f"{boards} idle boards, times real time",
        Sample.of(speeds).median,
        "×",
        target,
        len(speeds),
        measure="value",
        at_least=True,
        note="gossip each 200 ms, membership and vote loaded; boots, telemetry and checks are in it",
    )


def _loaded(rig: Rig) -> Figure:
    """What boards take for each second of the host's; counted in a run of its own, which is the same run."""
    the_plan = plan(_cluster(5, 20.0, 100.0), rig, 1)
    recorder = Recorder()
    simulate(the_plan, rig, parts=recorder.parts)
    inputs = sum(_inputs(transcript.items) for transcript in recorder.transcripts.values())
    rates = [inputs / _timed(lambda: simulate(the_plan, rig))[1] for _ in range(3)]
    return Figure(
        "5 boards under load, inputs per second",
        Sample.of(rates).median,
        "/s",
        1000.0,
        len(rates),
        measure="value",
        at_least=True,
        note="messages, ticks and commands that boards took; 100 operations and 20 rumours a second, checks included",
    )


def _inputs(transcript: bytearray) -> int:
    """How many messages, ticks and commands a board was given; items are a tag, a length of 4 bytes, a payload."""
    found, at = 0, 0
    while at < len(transcript):
        found += transcript[at : at + 1] in INPUTS
        at += 5 + int.from_bytes(transcript[at + 1 : at + 5], "little")
    return found


def _swarm(rig: Rig) -> Figure:
    """The same seeds by one process and by two, in turns."""
    campaign = load_campaign("split-brain")
    one, two = [], []
    for turn in range(SWARM_TURNS):
        seeds = range(turn * SEEDS + 1, (turn + 1) * SEEDS + 1)
        one.append(SEEDS / explore(campaign, seeds, rig, jobs=1, stop_at_first=False).seconds)
        two.append(SEEDS / explore(campaign, seeds, rig, jobs=2, stop_at_first=False).seconds)
    return Figure(
        "explore on 2 processes, seeds per second",
        Sample.of(two).median,
        "/s",
        1.8,
        SWARM_TURNS,
        compared_to="one process",
        compared_value=Sample.of(one).median,
        at_least=True,
        note=f"{SEEDS} seeds of split-brain a turn, on {os.cpu_count()} cores, the start of the processes included",
    )
