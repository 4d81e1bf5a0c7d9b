"""Messages on their way, in virtual time: from board to broker to board, in order within a pair unless told otherwise.

The rules that faults set are judged by the very code that judges them in the virtual lab (link_rules.py), at the same
place: on the way down to the receiver, and for what boards tell the host on the way up. A broker is a hop that can die
(what it had is lost, connections end) or stall (what it had comes late). There is one, or one at each site, and a
bridge between two of them takes its time and can be cut. Must not look into messages beyond that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from ..contracts import LinkCount, LinkRule
from ..link_rules import HOST, RuleBook, read_header
from ..protocols import MESSAGES
from ..rig import SimSpec
from ..sites import Sites
from .engine import Engine

TOPIC_BYTES = 16  # of an MQTT packet beside its payload, for lines with a bandwidth
MOST_HELD = 1000  # messages that one rule keeps back


@dataclass(frozen=True)
class Weather:
    """What the network does to messages by itself, in percent of them.

    late_ms: how late a late one is at most. until_s: when it ends, on the simulation's clock; None: never.
    """

    loss_percent: float = 0.0
    duplicate_percent: float = 0.0
    late_percent: float = 0.0
    late_ms: float = 200.0
    until_s: float | None = None

    @property
    def calm(self) -> bool:
        return not (self.loss_percent or self.duplicate_percent or self.late_percent)


@dataclass(frozen=True)
class Struck:
    """One message that the weather met, by what finds it again: the nth of its kind and height on its directed pair.

    action: drop | duplicate | hold. for_s: how late a held one came.
    """

    action: str
    kind: str
    height: int | None
    source: str
    target: str
    nth: int
    at_s: float
    for_s: float = 0.0


ONE = ("",)  # the way through a broker that is the only one


@dataclass(slots=True)
class Hop:
    """A broker, or a bridge between two."""

    up: bool = True
    stalled: bool = False
    deaths: int = 0


@dataclass(slots=True)
class Parcel:
    """One message on one directed pair. deliver(data) is called where it arrives."""

    source: str
    target: str
    data: bytes
    deliver: Callable[[bytes], None]
    via: tuple[str, ...]  # the brokers on its way
    deaths: int  # of these brokers and of the bridges between them, when it was sent
    seen: set[str] | None = None
    holders: set[str] | None = None


class Network:
    """on_broker(site, up) is called when a broker comes or goes; the site of one that is the only one is empty."""

    def __init__(
        self,
        engine: Engine,
        spec: SimSpec,
        boards: Sequence[str],
        seed: int,
        weather: Weather | None = None,
        sites: Sites | None = None,
    ) -> None:
        self.engine = engine
        self.rules = RuleBook(boards, seed)
        self.brokers = {site: Hop() for site in (ONE if sites is None else sites.names)}
        self.bridges = {bridge: Hop() for bridge in (() if sites is None else sites.bridges)}
        self.parted: set[tuple[str, str]] = set()  # (board, site) whose link has died
        self._sites = sites
        self.weather = weather or Weather()
        self.on_broker: Callable[[str, bool], None] | None = None
        self.sent = 0
        self.lost = 0
        self.struck: list[Struck] = []
        self._seen: dict[tuple[str, str, int, int | None], int] = {}
        self._random = Random(f"{seed} network")
        self._hop_ns = _latency(spec, self._random)
        self._last_ns: dict[tuple[str, str], int] = {}  # when the last message of a pair arrives
        self._waiting: list[Parcel] = []  # behind a stalled broker
        self._ways: dict[tuple[str, ...], tuple[list[Hop], int]] = {}
        self._held: deque[Parcel] = deque()
        self._held_by: dict[str, int] = {}

    # Sending.

    def send(
        self,
        source: str,
        target: str,
        data: bytes,
        deliver: Callable[[bytes], None],
        depart_ns: int,
        hops: int = 2,
        via: tuple[str, ...] = ONE,
    ) -> None:
        """Send one message through these brokers; deliver(data) is called when it arrives, if it does."""
        way, between_ns = self._ways.get(via) or self._way(via)
        if not all(hop.up for hop in way):
            self.lost += 1
            return
        self.sent += 1
        hop_ns = self._hop_ns
        arrive_ns = depart_ns + hop_ns() + (hop_ns() if hops == 2 else 0)
        for _bridge in via[1:]:
            arrive_ns += hop_ns()
        arrive_ns += between_ns
        parcel = Parcel(source, target, data, deliver, via, _deaths(way))
        weather = self.weather
        if self._weather_reigns() and source != HOST and target != HOST:
            draw = self._random.random
            nth = self._count(parcel)
            if draw() * 100 < weather.loss_percent:
                self._strike("drop", parcel, nth)
                self.lost += 1
                return
            if draw() * 100 < weather.duplicate_percent:
                self._strike("duplicate", parcel, nth)
                self.engine.at(arrive_ns + hop_ns(), self._arrive, parcel)
            if draw() * 100 < weather.late_percent:  # overtaken by others
                late_ns = int(draw() * weather.late_ms * 1e6)
                self._strike("hold", parcel, nth, late_ns / 1e9)
                self.engine.at(arrive_ns + late_ns, self._arrive, parcel)
                return
        pair = (source, target)
        last_ns = self._last_ns.get(pair, 0)
        if arrive_ns <= last_ns:
            arrive_ns = last_ns + 1
        self._last_ns[pair] = arrive_ns
        self.engine.at(arrive_ns, self._arrive, parcel)

    def _way(self, via: tuple[str, ...]) -> tuple[list[Hop], int]:
        """The brokers and bridges of a way, and what the bridges take."""
        way = [self.brokers[site] for site in via]
        between_ns = 0
        if self._sites is not None:
            way += [self.bridge(pair) for pair in pairwise(via)]
            between_ns = int(self._sites.between_ms(via) * 1e6)
        self._ways[via] = way, between_ns
        return way, between_ns

    def bridge(self, between: Sequence[str]) -> Hop:
        first, last = between
        return self.bridges[(first, last) if (first, last) in self.bridges else (last, first)]

    def _weather_reigns(self) -> bool:
        weather = self.weather
        return not weather.calm and (weather.until_s is None or self.engine.now_ns < weather.until_s * 1e9)

    def _count(self, parcel: Parcel) -> int:
        """The number of this message among those of its kind and height on its pair."""
        kind, height = read_header(parcel.data)
        entry = (parcel.source, parcel.target, kind, height)
        self._seen[entry] = self._seen.get(entry, 0) + 1
        return self._seen[entry]

    def _strike(self, action: str, parcel: Parcel, nth: int, for_s: float = 0.0) -> None:
        kind, height = read_header(parcel.data)
        if kind not in MESSAGES:
            return  # what a malicious board made unreadable has no name to be struck by once more
        at_s = self.engine.now_ns / 1e9
        self.struck.append(Struck(action, MESSAGES[kind][1], height, parcel.source, parcel.target, nth, at_s, for_s))

    def _arrive(self, parcel: Parcel) -> None:
        way = self._ways[parcel.via][0]
        if parcel.deaths != _deaths(way):
            self.lost += 1
        elif any(hop.stalled for hop in way):
            self._waiting.append(parcel)
        elif self.rules.judges:
            self._judge(parcel)
        else:
            parcel.deliver(parcel.data)

    def _judge(self, parcel: Parcel) -> None:
        now_s = self.engine.now_ns / 1e9
        size = len(parcel.data) + TOPIC_BYTES
        verdict = self.rules.judge(parcel.source, parcel.target, parcel.data, size, now_s, seen=parcel.seen)
        if verdict is None:
            parcel.deliver(parcel.data)
        elif verdict.drop:
            self.lost += 1
        elif verdict.holders:
            self._hold(parcel, verdict.holders)
        elif verdict.delay_s > 0:
            self.engine.at(self.engine.now_ns + int(verdict.delay_s * 1e9), self._late, parcel, verdict.copies)
        else:
            self._deliver(parcel, verdict.copies)

    def _late(self, parcel: Parcel, copies: int) -> None:
        if parcel.deaths == _deaths(self._ways[parcel.via][0]):
            self._deliver(parcel, copies)
        else:
            self.lost += 1

    @staticmethod
    def _deliver(parcel: Parcel, copies: int) -> None:
        for _ in range(1 + copies):
            parcel.deliver(parcel.data)

    # Rules.

    def apply(self, rules: Sequence[LinkRule]) -> None:
        self._release(self.rules.clear([rule.id for rule in rules]))
        self.rules.apply(rules)

    def clear(self, ids: Iterable[str] | None = None) -> None:
        self._release(self.rules.clear(None if ids is None else list(ids)))

    def counts(self) -> list[LinkCount]:
        return [LinkCount(**entry) for entry in self.rules.counts()]

    def _hold(self, parcel: Parcel, holders: set[str]) -> None:
        holders = {rule for rule in holders if self._held_by.get(rule, 0) < MOST_HELD}
        if not holders:
            self.lost += 1
            return
        for rule in sorted(holders):
            self._held_by[rule] = self._held_by.get(rule, 0) + 1
        parcel.holders = holders
        parcel.seen = (parcel.seen or set()) | self.rules.ids()
        self._held.append(parcel)

    def _release(self, gone: list[str]) -> None:
        """Let go of what only these rules kept back, in the order in which it came."""
        if not gone:
            return
        for rule in gone:
            self._held_by.pop(rule, None)
        waiting, self._held = self._held, deque()
        for parcel in waiting:
            assert parcel.holders is not None and parcel.seen is not None
            parcel.holders.difference_update(gone)
            parcel.seen.difference_update(gone)
            if parcel.holders:
                self._held.append(parcel)
            else:
                self.engine.at(self.engine.now_ns, self._judge, parcel)

    # The brokers and bridges. Where no site is named, all brokers are meant.

    def _named(self, site: str | None) -> list[str]:
        return list(self.brokers) if site is None else [site]

    def kill(self, site: str | None = None) -> None:
        for name in self._named(site):
            broker = self.brokers[name]
            if broker.up:
                broker.up = broker.stalled = False
                broker.deaths += 1
                self._waiting = [parcel for parcel in self._waiting if name not in parcel.via]
                self._tell(name, False)

    def stall(self, site: str | None = None) -> None:
        for name in self._named(site):
            self.brokers[name].stalled = self.brokers[name].up

    def start(self, site: str | None = None) -> None:
        for name in self._named(site):
            broker = self.brokers[name]
            broker.stalled = False
            if not broker.up:
                broker.up = True
                self._tell(name, True)
        waiting, self._waiting = self._waiting, []
        for parcel in waiting:
            self.engine.at(self.engine.now_ns, self._arrive, parcel)

    def cut(self, between: Sequence[str]) -> None:
        """Cut a bridge: what is on it is lost."""
        bridge = self.bridge(between)
        bridge.deaths += bridge.up
        bridge.up = False

    def join(self, between: Sequence[str]) -> None:
        self.bridge(between).up = True

    def _tell(self, site: str, up: bool) -> None:
        if self.on_broker is not None:
            self.on_broker(site, up)

    def answers(self, site: str | None = None) -> bool:
        """Whether that broker serves; where none is named, whether any does."""
        return any(self.brokers[name].up and not self.brokers[name].stalled for name in self._named(site))

    @property
    def up(self) -> bool:
        return any(broker.up for broker in self.brokers.values())

    @property
    def stalled(self) -> bool:
        return any(broker.stalled for broker in self.brokers.values())


def _deaths(way: Iterable[Hop]) -> int:
    return sum(hop.deaths for hop in way)


def _latency(spec: SimSpec, random: Random) -> Callable[[], int]:
    """Draws of one hop's latency in nanoseconds."""
    low_ns, high_ns = (int(bound * 1e6) for bound in spec.latency_ms)
    draw = random.random
    if spec.latency == "constant":
        return lambda: low_ns
    if spec.latency == "uniform":
        return lambda: low_ns + int(draw() * (high_ns - low_ns))
    return lambda: low_ns + int(min(random.expovariate(1.0), 20.0) * high_ns)
