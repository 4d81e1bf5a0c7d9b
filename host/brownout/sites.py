"""Sites: boards far apart, a broker for each place, bridges between them, and the routes that a board knows.

Pure data with what follows from it; the table [sites] of a campaign is read here. The bridges form a line in the order
of the sites: MQTT bridges know no routes, and a ring of them would carry every message round for ever. The host stands
at every site, with a connection to each broker, and what it says and hears crosses no bridge. Must not act.

    [sites]
    boards = { north = ["b1", "b2", "b3"], south = ["b4", "b5"] }   # others: at the first site
    latency_ms = [15]               # of each bridge, one way; one number: of all
    second = ["b1", "b2", "b4"]     # boards that know a second broker; left out: all
    serial = ["b5"]                 # boards whose last route is their cable; left out: none
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from brownout_node.transport.routes import CABLE

from .contracts import UsageError
from .document import Table

LEAST, MOST = 2, 8
LONGEST_MS = 10_000.0


@dataclass(frozen=True)
class Sites:
    """boards: site -> those that are there by name, in the line's order. latency_ms: one for each bridge.

    second: None: every board knows a second broker.
    """

    boards: Mapping[str, tuple[str, ...]]
    latency_ms: tuple[float, ...]
    second: tuple[str, ...] | None = None
    serial: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.boards)

    @property
    def bridges(self) -> tuple[tuple[str, str], ...]:
        return tuple(zip(self.names, self.names[1:], strict=False))

    def home(self, board: str) -> str:
        """The site that the board is at."""
        return next((site for site, boards in self.boards.items() if board in boards), self.names[0])

    def at(self, site: str, boards: Iterable[str]) -> tuple[str, ...]:
        """Those of the boards that are there."""
        return tuple(board for board in boards if self.home(board) == site)

    def neighbour(self, site: str) -> str:
        """The site whose broker is the second one for boards of this: the nearest, the earlier of two."""
        place = self.names.index(site)
        before = self.latency_ms[place - 1] if place else None
        after = self.latency_ms[place] if place < len(self.latency_ms) else None
        if before is None or (after is not None and after < before):
            return self.names[place + 1]
        return self.names[place - 1]

    def routes(self, board: str) -> tuple[str, ...]:
        """The names of the board's routes, its own broker first."""
        home = self.home(board)
        second = (self.neighbour(home),) if self.second is None or board in self.second else ()
        return (home, *second, *((CABLE,) if board in self.serial else ()))

    def path(self, source: str, target: str) -> tuple[str, ...]:
        """The brokers from one site to another, both included."""
        first, last = self.names.index(source), self.names.index(target)
        step = 1 if last >= first else -1
        return tuple(self.names[place] for place in range(first, last + step, step))

    def between_ms(self, path: Iterable[str]) -> float:
        """What the bridges on that path take."""
        places = [self.names.index(site) for site in path]
        return sum(self.latency_ms[min(pair)] for pair in zip(places, places[1:], strict=False))

    def with_boards(self, left: Callable[[Sequence[str]], tuple[str, ...]]) -> Sites:
        """The same with other boards: what `left` makes of each list of names."""
        boards = {site: left(names) for site, names in self.boards.items()}
        second = None if self.second is None else left(self.second)
        return replace(self, boards=boards, second=second, serial=left(self.serial))

    def among(self, boards: Iterable[str]) -> Sites:
        """The same with no other boards than these."""
        kept = set(boards)
        return self.with_boards(lambda names: tuple(name for name in names if name in kept))

    def to_document(self) -> dict[str, Any]:
        """Plain data, the sites in their order."""
        return {
            "boards": [[site, list(boards)] for site, boards in self.boards.items()],
            "latency_ms": list(self.latency_ms),
            "second": None if self.second is None else list(self.second),
            "serial": list(self.serial),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Sites:
        second = document["second"]
        return cls(
            {site: tuple(boards) for site, boards in document["boards"]},
            tuple(document["latency_ms"]),
            None if second is None else tuple(second),
            tuple(document["serial"]),
        )


def routes_of(names: Sequence[str], addresses: Mapping[str, tuple[str, int]]) -> list[list[Any]]:
    """A board's routes as its config.json has them; the first is the broker that `mqtt` says."""
    first, *others = names
    return [[first], *([name] if name == CABLE else [name, *addresses[name]] for name in others)]


def read_sites(table: Table) -> Sites:
    """The table [sites]. UsageError names what is wrong in it."""
    table.only("boards", "latency_ms", "second", "serial")
    places = table.table("boards")
    boards: dict[str, tuple[str, ...]] = {}
    for site in places.values:
        if not site.isascii() or not site.replace("-", "").isalnum() or site != site.lower() or len(site) > 32:
            raise places.error(site, "the name of a site", "up to 32 of a-z, 0-9 and -")
        if site == CABLE:
            raise places.error(site, "the name of a site", f"any but {CABLE}, which is the route by cable")
        boards[site] = _names(places, site)
    if not LEAST <= len(boards) <= MOST:
        raise table.error("boards", f"{len(boards)} sites", f"{LEAST} to {MOST}")
    placed = [board for names in boards.values() for board in names]
    for board in placed:
        if placed.count(board) > 1:
            raise table.error("boards", f"{board!r} is at two places", "each board once")
    return Sites(
        boards,
        _latencies(table, len(boards) - 1),
        _names(table, "second") if "second" in table else None,
        _names(table, "serial"),
    )


def _names(table: Table, key: str) -> tuple[str, ...]:
    names: tuple[str, ...] = () if table.values.get(key) == [] else table.texts(key, (), what="a list of board names")
    return names


def _latencies(table: Table, bridges: int) -> tuple[float, ...]:
    value = table.values.get("latency_ms", 0.0)
    listed = list(value) if isinstance(value, list) else [value] * bridges
    fine = all(type(entry) in (int, float) and 0 <= entry <= LONGEST_MS for entry in listed)
    if not fine or len(listed) != bridges:
        allowed = f"milliseconds from 0 to {LONGEST_MS:.0f}, one number or a list of {bridges}, one for each bridge"
        raise table.error("latency_ms", repr(value), allowed)
    return tuple(float(entry) for entry in listed)


def check_boards(sites: Sites, names: Iterable[str], source: str) -> None:
    """UsageError where a board is named that the run does not have, or one has no route but one."""
    known = list(names)
    for key, named in (
        ("boards", [board for boards in sites.boards.values() for board in boards]),
        ("second", sites.second or ()),
        ("serial", sites.serial),
    ):
        for board in named:
            if board not in known:
                raise UsageError(f"{source}: sites.{key}: unknown board {board!r}; allowed: {', '.join(known)}")
