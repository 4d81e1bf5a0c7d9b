"""What clients ask for: each operation of a protocol, and how its key, value and expectation are drawn.

An operation without a row here, such as one of a protocol of one's own, is drawn as a write of a value that is unique.
Must not know what an answer means for a verdict.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from . import protocols

LOG_OPERATIONS = ("put", "get", "cas")
GOSSIP_OPERATIONS = ("write", "delete")  # drawn as rumours, at a rate of their own
UNASKED = ("read",)  # of one board alone: nothing follows from the answer


@dataclass(frozen=True)
class Turn:
    """What an operation is drawn from. keys: how many; seen: what this client saw last, by key."""

    random: random.Random
    client: int
    request: int
    keys: int
    seen: Mapping[str, str | None]


Draw = Callable[[Turn, str], str | None]


def unique(turn: Turn, _key: str) -> str:
    """A value that no other operation of the run has."""
    return f"c{turn.client}-{turn.request}"


def seen(turn: Turn, key: str) -> str | None:
    """What the client saw last of the key."""
    return turn.seen.get(key)


def numbered(turn: Turn) -> str:
    return f"k{turn.random.randrange(turn.keys)}"


@dataclass(frozen=True)
class ClientOperation:
    """One operation. key, value, expected: how they are drawn; None where it has none.

    again: boards carry a request out once, so another board may be asked the same. weight: its share where a campaign
    gives no mix; 0 where it has to be named. closing: the keys, of so many, that are read once more after the run.
    """

    name: str
    key: Callable[[Turn], str] = numbered
    value: Draw | None = unique
    expected: Draw | None = None
    again: bool = True
    weight: float = 1.0
    closing: Callable[[int], list[str]] | None = None


def all_keys(count: int) -> list[str]:
    return [f"k{number}" for number in range(count)]


def amount(turn: Turn, _key: str) -> str:
    """What is added to a counter, or taken from it."""
    return str(turn.random.choice((-3, -2, -1, 1, 2, 3, 5, 8)))


def element(turn: Turn, _key: str) -> str:
    """One of few elements, so that boards add and remove the same ones at the same time."""
    return f"e{turn.random.randrange(6)}"


def colour(turn: Turn, _key: str) -> str:
    """One of three, for clients that want different ones."""
    return turn.random.choice(("red", "green", "blue"))


def transfer(turn: Turn, key: str) -> str:
    """To another account, and how much; now and then more than there is."""
    others = [other for other in all_keys(turn.keys) if other != key]
    target = turn.random.choice(others) if others else f"{key}-2"
    return f"{target}:{turn.random.choice((1, 2, 5, 10, 20, 60))}"


def voter(turn: Turn) -> str:
    """A board's number, as bonds name it; where boards are fewer than keys it may be nobody's."""
    return str(1 + turn.random.randrange(turn.keys))


def stake(turn: Turn, _key: str) -> str:
    """How much moves; now and then more than there is."""
    return str(turn.random.choice((1, 2, 3, 5, 8, 13, 30)))


_MIRROR = (
    ClientOperation("increment", value=amount, weight=4, again=False),
    ClientOperation("add", value=element, weight=2, again=False),
    ClientOperation("remove", value=element, weight=1, again=False),
    ClientOperation("assign", weight=1, again=False),
    ClientOperation("count", value=None, closing=all_keys),
    ClientOperation("members", value=None, closing=all_keys),
    ClientOperation("recall", value=None, closing=all_keys),
)
_SAMPLING = (
    ClientOperation("choose", value=colour, weight=4),
    ClientOperation("chosen", value=None, closing=all_keys),
)
_WORK = (ClientOperation("post"),)
_BANK = (
    ClientOperation("transfer", value=transfer, weight=4),
    ClientOperation("balance", value=None, weight=1, closing=all_keys),
)
_STAKE = (
    ClientOperation("bond", key=voter, value=stake, weight=3),
    ClientOperation("unbond", key=voter, value=stake, weight=2),
)
_BREAKER = (  # an operator's, one now and then where a mix names them
    ClientOperation("trip", value=None, weight=0, again=False),
    ClientOperation("reset", value=None, weight=0, again=False),
)
_HAND_OVER = (ClientOperation("hand_over", value=None, weight=0, again=False),)  # an operator's, too

_ROWS = (
    ClientOperation("put", weight=4),
    ClientOperation("get", value=None, weight=4, closing=all_keys),
    ClientOperation("cas", expected=seen, weight=2),
    ClientOperation("write", weight=0, again=False),
    ClientOperation("delete", value=None, weight=0, again=False),
    ClientOperation("bput", weight=4),
    ClientOperation("bget", value=None, weight=4, closing=all_keys),
    *_MIRROR,
    *_SAMPLING,
    *_WORK,
    *_BANK,
    *_STAKE,
    *_BREAKER,
    *_HAND_OVER,
)
_BY_NAME = {row.name: row for row in _ROWS}


def row_of(name: str) -> ClientOperation:
    """The row of that operation; one that knows nothing of it where there is none."""
    return _BY_NAME.get(name, ClientOperation(name, again=False))


def of_clients(names: Iterable[str]) -> tuple[str, ...]:
    """The operations that a campaign with these protocols may list."""
    return tuple(name for name in protocols.operations_of(names) if name not in UNASKED)


def in_mixes(names: Iterable[str]) -> tuple[str, ...]:
    """Those that a mix may name."""
    return tuple(name for name in of_clients(names) if name not in GOSSIP_OPERATIONS)


def default_mix(names: Iterable[str]) -> dict[str, float]:
    weights = {name: row_of(name).weight for name in in_mixes(names)}
    return {name: weight for name, weight in weights.items() if weight}


def closing_reads(names: Iterable[str], keys: int) -> list[tuple[str, str]]:
    """(operation, key) of each read that ends a run."""
    rows = [row_of(name) for name in of_clients(names)]
    return [(row.name, key) for row in rows if row.closing is not None for key in row.closing(keys)]
