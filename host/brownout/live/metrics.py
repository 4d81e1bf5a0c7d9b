"""The figures of the runs that are followed, for Prometheus: text exposition by prometheus-client.

Each series names its run by campaign, seed and folder. Must not keep anything: every scrape asks the pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from .curves import LATENCY_BOUNDS_MS
from .follow import Follower

if TYPE_CHECKING:
    from .picture import Picture

RUN = ("run", "campaign", "seed")
STATES = ("not heard", "up", "off")
STAGES = ("to come", "planned", "applied", "proven", "unproven", "healed")
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


class Runs(Collector):
    """Asks the followers when it is collected."""

    def __init__(self, followers: Iterable[Follower]) -> None:
        self._followers = list(followers)

    def collect(self) -> Iterator[Metric]:
        families = _families()
        for follower in self._followers:
            follower.see(partial(_add, families, follower))
        yield from families.values()


def exposition(followers: Iterable[Follower]) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Runs(followers))
    return generate_latest(registry)


def _families() -> dict[str, Any]:
    def gauge(name: str, text: str, *labels: str) -> None:
        made[name] = GaugeMetricFamily(f"brownout_{name}", text, labels=(*RUN, *labels))

    def counter(name: str, text: str, *labels: str) -> None:
        made[name] = CounterMetricFamily(f"brownout_{name}", text, labels=(*RUN, *labels))

    made: dict[str, Any] = {}
    gauge("run_going", "1 while the run goes on")
    gauge("boards", "Boards by what is known of their power", "state")
    gauge("board_up", "1 of a board that has power and has booted", "board")
    gauge("board_height", "Height that a board decided last", "board")
    counter("events_received", "Events received from boards, each once")
    counter("events_lost", "Events that fell out of the bounded rings of boards")
    gauge("events_missing", "Events that have not come though later ones of the same boot have")
    counter("decisions", "Heights decided")
    counter("conflicts", "Decisions and states that contradict an earlier one of the same height")
    counter("operations", "Client operations by how they ended", "outcome")
    gauge("faults", "Faults by stage", "stage")
    gauge("different_digests", "Different states that boards told last; 1 where they agree", "protocol")
    gauge("ingestion_lag_seconds", "From the host's receipt of the newest event until it was read here, last batch")
    made["decision_latency"] = HistogramMetricFamily(
        "brownout_decision_latency_seconds", "From a proposal to its decision, on the proposer's clock", labels=RUN
    )
    return made


def _add(families: dict[str, Any], follower: Follower, picture: Picture) -> None:
    run = [str(picture.run.get(key, "")) for key in ("name", "campaign", "seed")]

    def add(name: str, value: float, *labels: str) -> None:
        families[name].add_metric([*run, *labels], value)

    totals = picture.snapshot()["totals"]
    add("run_going", not follower.ended)
    states = [board["state"] for board in picture.boards.values()]
    for state in STATES:
        add("boards", states.count(state), state)
    for name, board in picture.boards.items():
        add("board_up", board["state"] == "up", name)
        if board["height"] is not None:
            add("board_height", board["height"], name)
    add("events_received", totals["received"])
    add("events_lost", totals["lost"])
    add("events_missing", totals["missing"])
    add("decisions", totals["decisions"])
    add("conflicts", totals["conflicts"])
    for outcome in ("ok", "fail", "info"):
        add("operations", totals[outcome], outcome)
    stages = [fault["stage"] for fault in picture.faults.values()]
    for stage in STAGES:
        add("faults", stages.count(stage), stage)
    for protocol, told in picture.digests.items():
        add("different_digests", len(set(told.values())), protocol)
    add("ingestion_lag_seconds", follower.lag_s)
    histogram, reached, buckets = picture.decision_latency, 0, []
    for bound_ms, count in zip(LATENCY_BOUNDS_MS, histogram.counts, strict=False):
        reached += count
        buckets.append((str(bound_ms / 1000), reached))
    buckets.append(("+Inf", reached + histogram.counts[-1]))
    families["decision_latency"].add_metric(run, buckets=buckets, sum_value=histogram.sum_ms / 1000)
