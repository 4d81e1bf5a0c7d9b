"""Membership with local health in virtual time: slow boards hold fewer of the healthy for dead, the dead are found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from brownout.checkers.membership import bound_ns
from brownout.checkers.run import Run
from brownout_node.core import schema
from cluster import Cluster
from history_builder import World

BOARDS = 16
SLOW = (3, 9, 14)
LATE_MS = 2500
FOR_MS = 120_000
SUSPICION_MS = 1000


class Busy(Cluster):
    """Boards of which some take their messages late: what arrived waits, while their timers go on."""

    def __init__(self, seed: int, protocol: str, slow: tuple[int, ...] = SLOW, **keys: Any) -> None:
        self.slow = slow
        self.waits: dict[int, int] = dict.fromkeys(slow, 0)
        super().__init__(seed, 7, BOARDS - 7, protocols=[protocol], suspicion_ms=SUSPICION_MS, **keys)

    def _deliver(self, source: int, target: int, data: bytes) -> None:
        if target not in self.waits:
            super()._deliver(source, target, data)
            return
        # In order: nothing overtakes what came before it.
        self.waits[target] = max(self.waits[target], self.now_ms + self.random.randint(0, LATE_MS))
        deliver: Callable[..., None] = super()._deliver
        self._at(self.waits[target], deliver, source, target, data)

    def deaths(self, about: Callable[[int], bool] = lambda board: True) -> list[Any]:
        return [
            event
            for event in self.events
            if event.name == "member" and event.fields["state"] == schema.DEAD and about(event.fields["board"])
        ]

    def holds_for_dead(self, board: int, other: int) -> bool:
        membership = self.node(board).protocol("membership")
        return membership.state_of(other) == schema.DEAD


def false_deaths(protocol: str, seed: int) -> int:
    cluster = Busy(seed, protocol)
    cluster.run(FOR_MS)
    return len(cluster.deaths(lambda board: board not in SLOW))


def test_slow_boards_hold_at_most_a_fiftieth_of_the_healthy_for_dead() -> None:
    plain = sum(false_deaths("membership", seed) for seed in range(1, 5))
    local = sum(false_deaths("lifeguard", seed) for seed in range(1, 5))
    assert plain >= 200, "too few to tell"
    assert 50 * local <= plain, f"{local} with local health, {plain} without"


@pytest.mark.parametrize("slow", [(), SLOW], ids=["all healthy", "some slow"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_who_is_dead_is_found_by_every_healthy_board(slow: tuple[int, ...], seed: int) -> None:
    cluster = Busy(seed, "lifeguard", slow)
    cluster.run(20_000)
    gone = 5
    cluster.power_off(gone)
    healthy = [board for board in cluster.boards if board not in (gone, *slow)]

    def found() -> bool:
        return all(cluster.holds_for_dead(board, gone) for board in healthy)

    began_ms = cluster.now_ms
    made = World(voters=7, learners=BOARDS - 7)
    made.boot()
    history = made.history(protocols=["lifeguard"], timing={"probe_period_ms": 500, "suspicion_ms": SUSPICION_MS})
    assert cluster.run_until(found, bound_ns(Run(history)) // 1_000_000)
    assert cluster.now_ms - began_ms < 15_000, "confirmations bring the suspicion's time down"


def test_a_board_that_hears_nobody_doubts_itself_and_recovers() -> None:
    cluster = Busy(1, "lifeguard", ())
    cluster.isolate(2)
    cluster.run(15_000)
    lonely = cluster.node(2).protocol("membership")
    assert lonely.health == 8
    cluster.heal()
    assert cluster.run_until(lambda: lonely.health == 0, 60_000)
    assert cluster.run_until(
        lambda: not any(cluster.holds_for_dead(a, b) for a in cluster.boards for b in cluster.boards if a != b), 20_000
    )


def test_helpers_without_an_answer_say_so_and_their_word_clears_the_asker() -> None:
    cluster = Busy(1, "lifeguard", ())
    nacks: list[Any] = []
    cluster.on_sent.append(lambda sent: nacks.append(sent) if sent.kind == 184 else None)
    cluster.power_off(5)
    cluster.run(4000)
    assert nacks and all(sent.fields[1] == 5 for sent in nacks)
    assert max(cluster.node(board).protocol("membership").health for board in cluster.boards if board != 5) <= 1


def test_independent_suspicions_shorten_the_wait() -> None:
    cluster = Busy(1, "lifeguard", ())
    lifeguard = cluster.node(1).protocol("membership")
    index = lifeguard._index[5]
    lifeguard._change(index, schema.SUSPECT, lifeguard._incarnations[index])
    waits = []
    for peer in (6, 6, 7, 8, 9):
        waits.append(lifeguard._deadlines[index] - cluster.now_ms)
        incarnation = lifeguard._incarnations[index]
        lifeguard._hear_from(lifeguard._index[peer], [(5, 3, incarnation)])
    waits.append(lifeguard._deadlines[index] - cluster.now_ms)
    assert waits == [6000, 3500, 3500, 2040, 1000, 1000]
