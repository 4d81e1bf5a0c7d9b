"""The vote under everything at once, seed by seed; and the same checks against replicas that are broken on purpose.

A failing seed is replayed by calling `storm(seed, ...)` with the arguments of its case.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from brownout_node.core import schema, vote
from cluster import Cluster
from nor_journal import NorJournal
from vote_checks import Clients, Promises, Violation, check_liveness, check_safety

WEATHER = {"latency_ms": (1, 30), "loss_percent": 20, "duplicate_percent": 10, "late_percent": 5, "late_ms": 800}
CASES = {
    "five voters, a learner": {"voters": 5, "learners": 1},
    "three voters": {"voters": 3},
    "four voters, two learners": {"voters": 4, "learners": 2},
    "weights": {"weights": [3, 1, 1, 2, 2]},
    "seven voters": {"voters": 7},
    "two voters": {"voters": 2},
    "one voter, a learner": {"voters": 1, "learners": 1},
}
SEEDS = 20


def storm(
    seed: int,
    *,
    for_ms: int = 15000,
    wipes: bool = False,
    protocol: str = "vote",
    weather: dict = WEATHER,
    clients: int = 3,
    keys: int = 3,
    **case,
) -> Cluster:
    """One run: a storm, then calm; every check at the end of each."""
    cluster = Cluster(seed, protocols=[protocol], **weather, **case)
    Promises(cluster)
    load = Clients(cluster, clients, keys=keys)

    def may_wipe(board: int) -> bool:
        # What quorums still hold must survive: no more boards without standing than a minority, nobody else off.
        states = [cluster.boards[voter].node for voter in cluster.voters if voter != board]
        unfit = [node for node in states if node is None or not node.protocols[0].voting]
        return wipes and 2 * (len(unfit) + 1) < len(cluster.voters)

    cluster.storm(for_ms, may_wipe=may_wipe)
    check_safety(cluster, load)
    cluster.calm()
    check_liveness(cluster, load)
    check_safety(cluster, load)
    return cluster


@pytest.mark.parametrize("case", CASES)
def test_safe_in_a_storm_and_live_after_it(case: str) -> None:
    for seed in range(SEEDS):
        storm(seed, **CASES[case])


def test_wiped_voters_come_back_without_harm() -> None:
    admitted = 0
    for seed in range(SEEDS):
        cluster = storm(1000 + seed, wipes=True)
        voters = [cluster.node(board).protocols[0] for board in cluster.voters]
        assert cluster.run_until(lambda voters=voters: all(voter.voting for voter in voters), 10000), f"seed {seed}"
        admitted += sum(event.name == "admitted" for event in cluster.events)
    assert admitted > SEEDS // 2, "hardly a board was ever wiped: the storm does not test what it says"


def test_safe_with_many_clients_and_copies_of_the_state() -> None:
    pages = 0
    for seed in range(4):
        weather = {**WEATHER, "latency_ms": (1, 12), "loss_percent": 5}
        cluster = storm(seed, for_ms=30000, wipes=True, weather=weather, clients=16, keys=70, voters=5, learners=2)
        pages += sum(sent.kind == schema.STATE_PAGE for sent in cluster.sent)
    assert pages > 50


def test_safe_where_power_goes_at_any_byte_of_the_flash() -> None:
    cuts = 0
    for seed in range(10):
        cluster = Cluster(seed, 3, 1, protocols=["vote"], journal=NorJournal, **WEATHER)
        Promises(cluster)
        clients = Clients(cluster)
        for _ in range(40):
            board = cluster.random.choice(list(cluster.boards))
            cluster.boards[board].journal.cut_within(cluster.random.randrange(300))
            cluster.run(cluster.random.randrange(700))
            for state in cluster.boards.values():
                assert state.journal.condition == schema.JOURNAL_VALID
                cluster.power_on(state.board)
        for state in cluster.boards.values():
            state.journal.device.cut_at = None
        check_safety(cluster, clients)
        cluster.calm()
        check_liveness(cluster, clients)
        check_safety(cluster, clients)
        cuts += sum(state.journal.cuts for state in cluster.boards.values())
    assert cuts > 100


def test_a_storm_cuts_power_between_the_effects_of_a_step() -> None:
    cuts = sum(board.cuts for seed in range(5) for board in storm(seed, voters=5).boards.values())
    assert cuts > 20


def test_the_same_seed_gives_the_same_run() -> None:
    first, second = storm(3, voters=5), storm(3, voters=5)
    assert first.sent == second.sent
    assert first.events == second.events


# Replicas that are broken on purpose: the checks above must notice each of them.


def broken(name: str, replacements: list[tuple[str, str]]) -> str:
    """Load vote.py with pieces of its source replaced, as a protocol of its own name."""
    source = Path(vote.__file__).read_text(encoding="utf-8")
    for old, new in replacements:
        assert source.count(old) == 1, f"vote.py no longer holds, once, what {name} breaks: {old!r}"
        source = source.replace(old, new)
    protocol = f"broken_{name}"
    module = ModuleType(f"brownout_node.core.{protocol}")
    module.__package__ = "brownout_node.core"
    exec(compile(source, f"{protocol}.py", "exec"), module.__dict__)
    sys.modules[module.__name__] = module
    return protocol


def send_before_persist(node, journal, send, emit, after=None) -> bool:
    ready = node.take_ready()
    if ready is None:
        return False
    records, messages, events = ready
    for to, data in messages:
        send(to, data)
    if records:
        journal.append(records)
    for data in events:
        emit(data)
    return True


def persist_never(node, journal, send, emit, after=None) -> bool:
    ready = node.take_ready()
    if ready is None:
        return False
    for to, data in ready[1]:
        send(to, data)
    for data in ready[2]:
        emit(data)
    return True


BROKEN = {
    "quorum_one_short": [("return 2 * weight > ", "return 2 * (weight + 1) > ")],
    "forgets_lock": [("_, self.locked_round, self.locked, self.valid_round, self.valid = row", "pass")],
    "forgets_votes": [("if row[0] != height:\n            return", "return")],
    "wiped_votes": [
        (
            "self.voting = has_standing(node.config, stored, self.register.next_height)",
            "self.voting = node.config.is_voter",
        )
    ],
    "ignores_lock": [("if self.locked is None or self.locked == value_id or", "if True or")],
}


def first_seed_that_tells(run: Callable[[int], Cluster], seeds: int) -> tuple[int, str]:
    for seed in range(seeds):
        try:
            run(seed)
        except Violation as violation:
            return seed, str(violation)
    raise AssertionError(f"{seeds} storms, and nothing was noticed")


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_replica_is_noticed(name: str) -> None:
    protocol = broken(name, BROKEN[name])
    seed, what = first_seed_that_tells(lambda seed: storm(seed, voters=5, wipes=True, protocol=protocol), 60)
    print(f"{name}: seed {seed}: {what}")


@pytest.mark.parametrize("step", [send_before_persist, persist_never])
def test_a_broken_order_of_effects_is_noticed(step: Callable[..., bool]) -> None:
    seed, what = first_seed_that_tells(lambda seed: storm(seed, voters=5, step=step), 60)
    print(f"seed {seed}: {what}")
