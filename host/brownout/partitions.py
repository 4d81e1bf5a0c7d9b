"""Partitions as plain data, computed by pure functions: who may no longer hear whom.

A cut is (sources, targets): messages from any of the first to any of the second are lost. Every function takes names
and a seeded random stream and returns groups or cuts; nothing here applies them. See Jepsen's nemesis for the shapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

Names = tuple[str, ...]
Cut = tuple[Names, Names]
REST = "*"  # everything that the other side of a cut does not name, the host included


def between(groups: Sequence[Sequence[str]]) -> list[Cut]:
    """No group hears another; boards that no group names hear everybody."""
    return [(tuple(one), tuple(other)) for one in groups for other in groups if one is not other and one and other]


def halves(boards: Sequence[str], random: Random) -> list[Names]:
    """Two groups of the same size, the first larger by one where the number is odd."""
    order = random.sample(boards, len(boards))
    middle = (len(order) + 1) // 2
    return [_as_in(boards, order[:middle]), _as_in(boards, order[middle:])]


def majority_minority(voters: Sequence[str], others: Sequence[str], random: Random) -> list[Names]:
    """A smallest majority of the voters with half of the other boards, and the rest."""
    order = random.sample(voters, len(voters))
    majority = len(order) // 2 + 1
    with_majority, with_minority = halves(others, random)
    return [
        _as_in(voters, order[:majority]) + with_majority,
        _as_in(voters, order[majority:]) + with_minority,
    ]


def ring(voters: Sequence[str], random: Random) -> list[Cut]:
    """Every voter hears a majority, and no two of them the same one: its neighbours in a ring. Needs four or more."""
    order = random.sample(voters, len(voters))
    count = len(order)
    reach = (count // 2 + 1) // 2  # neighbours heard on each side; with itself a majority
    cuts = []
    for at, source in enumerate(order):
        heard = {order[(at + step) % count] for step in range(-reach, reach + 1)}
        deaf = tuple(name for name in voters if name not in heard)
        if deaf:
            cuts.append(((source,), deaf))
    return sorted(cuts)


def bridge(voters: Sequence[str], others: Sequence[str], random: Random) -> tuple[list[Cut], str]:
    """Two halves that hear each other only through one voter; returns that voter too. Needs three voters or more."""
    order = random.sample(voters, len(voters))
    middle, rest = order[0], [name for name in voters if name != order[0]]
    left, right = halves(rest, random)
    more_left, more_right = halves(others, random)
    return between([left + more_left, right + more_right]), middle


def isolate(boards: Iterable[str]) -> list[Cut]:
    """Each of the boards hears nobody and is heard by nobody, each other and the host included."""
    return [cut for board in boards for cut in (((board,), (REST,)), ((REST,), (board,)))]


def one_way(sources: Iterable[str], targets: Iterable[str]) -> list[Cut]:
    """The targets no longer hear the sources; the other direction stands."""
    return [(tuple(sources), tuple(targets))]


def touching(boards: Sequence[str], everybody: Sequence[str]) -> list[Cut]:
    """Every directed pair of boards that has one of `boards` at either end; the host is left out."""
    rest = tuple(name for name in everybody if name not in boards)
    return [(tuple(boards), tuple(everybody))] + ([(rest, tuple(boards))] if rest else [])


def _as_in(order: Sequence[str], chosen: Iterable[str]) -> Names:
    """The chosen names in the order of the rig, which is easier to read than the order of the draw."""
    members = set(chosen)
    return tuple(name for name in order if name in members)
