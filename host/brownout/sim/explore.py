"""A swarm over the simulator: many seeds, all cores or a Dask cluster, and what they found.

    explore(campaign, range(1, 1001))  ->  Found

A worker draws a run (swarm.py), simulates and judges it, and sends back a few words; nobody keeps a history. The same
campaign and seed give the same run anywhere, so that a violation is replayed from its seed alone. Must not print, and
must not write anything.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..campaign_file import Campaign
from ..contracts import RigError, UsageError
from ..faults import Plan, check_support, plan
from ..rig import Rig
from .network import Weather
from .runs import simulate
from .swarm import draw

TASK_SEEDS = 2  # one task's: many enough to pay for its way to a worker, few enough to stop soon
AHEAD = 3  # tasks under way for each worker
DASK_WITHIN_S = 10  # for a scheduler to answer
LOOK_S = 0.5


@dataclass(frozen=True)
class Tried:
    """One seed of a swarm. violated, unknown: names of checks. detail: the first violated check's finding.

    unproven: whether a fault met nothing. That is no doubt about a run here, where the switches are models: a swarm
    throws its faults blindly. So the check `faults` alone does not make a seed unknown.
    """

    seed: int
    verdict: str
    violated: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    detail: str = ""
    seconds: float = 0.0  # of this process's processor time
    calls: int = 0
    unproven: bool = False

    @property
    def violates(self) -> bool:
        return self.verdict == "invalid"


@dataclass
class Found:
    """What a swarm came to. ended: all seeds | first violation | time limit | interrupted."""

    campaign: str
    tried: int = 0
    violations: list[Tried] = field(default_factory=list)
    unknown: list[Tried] = field(default_factory=list)
    checks_unknown: Counter[str] = field(default_factory=Counter)
    unproven: int = 0  # seeds with a fault that met nothing
    seconds: float = 0.0
    processor_seconds: float = 0.0
    calls: int = 0
    ended: str = "all seeds"

    def add(self, tried: Tried) -> None:
        self.tried += 1
        self.processor_seconds += tried.seconds
        self.calls += tried.calls
        self.unproven += tried.unproven
        if tried.violates:
            self.violations.append(tried)
        elif tried.verdict == "unknown":
            self.unknown.append(tried)
            self.checks_unknown.update(tried.unknown)


def planned(campaign: Campaign, rig: Rig, seed: int) -> tuple[Plan, Weather]:
    """The plan and the weather that this seed stands for. UsageError where the campaign cannot be drawn from."""
    drawn = draw(campaign, seed)
    return plan(drawn.campaign, rig, seed), drawn.weather


def try_seed(campaign: Campaign, rig: Rig, seed: int) -> Tried:
    """Simulate one seed and judge it. An error of the simulator itself is a finding too."""
    began = time.process_time()
    the_plan, weather = planned(campaign, rig, seed)
    try:
        simulated = simulate(the_plan, rig, weather=weather)
    except UsageError:
        raise
    except RigError as error:
        return Tried(seed, "unknown", (), ("rig",), str(error), time.process_time() - began)
    except Exception as error:
        told = traceback.format_exception_only(error)[-1].strip()
        return Tried(seed, "invalid", ("simulator",), (), told, time.process_time() - began)
    checks = simulated.document["checks"]
    violated = tuple(check["name"] for check in checks if check["verdict"] == "invalid")
    open_checks = [check["name"] for check in checks if check["verdict"] == "unknown"]
    unknown = tuple(name for name in open_checks if name != "faults")
    named = next((check for check in checks if check["name"] in (violated or unknown)), None)
    return Tried(
        seed,
        "invalid" if violated else "unknown" if unknown else "valid",
        violated,
        unknown,
        "" if named is None else str(named["detail"]),
        time.process_time() - began,
        simulated.calls,
        "faults" in open_checks,
    )


def try_seeds(campaign: Campaign, rig: Rig, seeds: Sequence[int], stop_at_first: bool) -> list[Tried]:
    """What a worker does."""
    found = []
    for seed in seeds:
        found.append(try_seed(campaign, rig, seed))
        if stop_at_first and found[-1].violates:
            break
    return found


class Workers(Protocol):
    """Who tries seeds: this process, its children, or a Dask cluster. `close` gives up what has not begun."""

    def results(self, tasks: Iterator[list[int]]) -> Iterator[list[Tried]]: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Order:
    """What every task of a swarm shares. until: of time.monotonic, None without a limit."""

    campaign: Campaign
    rig: Rig
    stop_at_first: bool
    until: float | None


def explore(
    campaign: Campaign,
    seeds: Iterable[int],
    rig: Rig,
    *,
    jobs: int | None = None,
    time_limit_s: float | None = None,
    stop_at_first: bool = True,
    progress: Callable[[Found], None] = lambda _found: None,
    dask: str | None = None,
) -> Found:
    """Try seeds until they or the time are over, or (stop_at_first) one violates. UsageError before anything starts.

    jobs: processes, all cores if None; 1 is this very process. On KeyboardInterrupt what was found so far is returned,
    with `ended` saying so.
    """
    if rig.simulated is None:
        raise UsageError(f"{rig.source}: rig {rig.name!r} has no [sim]; only simulated boards can be explored")
    check_support(campaign, rig)
    found = Found(campaign.name)
    began = time.monotonic()
    order = Order(campaign, rig, stop_at_first, None if time_limit_s is None else began + time_limit_s)
    try:
        workers = _workers(order, jobs, dask)
        try:
            _collect(found, workers.results(_tasks(seeds, order)), stop_at_first, began, progress)
        finally:
            workers.close()
    except KeyboardInterrupt:
        found.ended = "interrupted"
    if found.ended == "all seeds" and order.until is not None and time.monotonic() >= order.until:
        found.ended = "time limit"
    found.seconds = time.monotonic() - began
    found.violations.sort(key=lambda tried: tried.seed)
    return found


def _tasks(seeds: Iterable[int], order: Order) -> Iterator[list[int]]:
    """The seeds in small portions, until the time is over."""
    left = iter(seeds)
    while portion := list(itertools.islice(left, TASK_SEEDS)):
        if order.until is not None and time.monotonic() >= order.until:
            return
        yield portion


def _collect(
    found: Found,
    results: Iterator[list[Tried]],
    stop_at_first: bool,
    began: float,
    progress: Callable[[Found], None],
) -> None:
    for portion in results:
        for tried in portion:
            found.add(tried)
        found.seconds = time.monotonic() - began
        progress(found)
        if stop_at_first and found.violations:
            found.ended = "first violation"
            return


def _workers(order: Order, jobs: int | None, dask: str | None) -> Workers:
    if dask is not None:
        return DaskWorkers(order, dask)
    count = jobs or os.cpu_count() or 1
    return ThisProcess(order) if count == 1 else Processes(order, count)


class ThisProcess:
    def __init__(self, order: Order) -> None:
        self._order = order

    def results(self, tasks: Iterator[list[int]]) -> Iterator[list[Tried]]:
        for seeds in tasks:
            for seed in seeds:
                yield [try_seed(self._order.campaign, self._order.rig, seed)]

    def close(self) -> None:
        """Nothing is left."""


class Processes:
    """Fresh interpreters, which import the firmware by the same path as this one."""

    def __init__(self, order: Order, count: int) -> None:
        self._order = order
        self._count = count
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(count, mp_context=context, initializer=_ignore_interrupts)

    def results(self, tasks: Iterator[list[int]]) -> Iterator[list[Tried]]:
        order = self._order
        running = set()
        for seeds in tasks:
            running.add(self._pool.submit(try_seeds, order.campaign, order.rig, seeds, order.stop_at_first))
            while len(running) >= self._count * AHEAD:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def _ignore_interrupts() -> None:
    """Ctrl-C goes to every process of the terminal; the one that collects decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class DaskWorkers:
    """A Dask cluster; its workers need the same version of Brownout installed."""

    def __init__(self, order: Order, address: str) -> None:
        try:
            from distributed import Client
        except ImportError:
            raise UsageError("--dask needs Dask's `distributed`; install brownout[dask]") from None
        self._order = order
        try:
            self._client = Client(address, timeout=DASK_WITHIN_S)
        except (OSError, ValueError, TimeoutError) as error:
            raise UsageError(f"--dask: no scheduler answers at {address!r}: {error}") from None

    def results(self, tasks: Iterator[list[int]]) -> Iterator[list[Tried]]:
        from distributed import as_completed

        order, client = self._order, self._client
        campaign, rig = client.scatter([order.campaign, order.rig], broadcast=True)
        most = AHEAD * max(1, sum(client.nthreads().values()))
        first = list(itertools.islice(tasks, most))

        def submit(seeds: list[int]) -> Any:
            return client.submit(try_seeds, campaign, rig, seeds, order.stop_at_first, pure=False)

        completed = as_completed([submit(seeds) for seeds in first])
        for future in completed:
            yield future.result()
            for seeds in itertools.islice(tasks, 1):
                completed.add(submit(seeds))

    def close(self) -> None:
        self._client.close()
