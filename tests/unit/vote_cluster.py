"""What the tests of single behaviours of the vote share: a small cluster, one command at a time, what was told."""

from __future__ import annotations

import itertools

from brownout_node.core import schema
from cluster import Cluster, Event, Sent
from vote_checks import Promises

PUT, GET, CAS = schema.PUT, schema.GET, schema.CAS
VOTES = (schema.PROPOSAL, schema.PREVOTE, schema.PRECOMMIT)
FAR_MS = 3000
REQUESTS = itertools.count(1)  # never falls, so that any client of any test can take the next


def make(voters: int = 5, learners: int = 0, **options) -> Cluster:
    cluster = Cluster(options.pop("seed", 1), voters, learners, protocols=["vote"], **options)
    Promises(cluster)
    return cluster


def vote_of(cluster: Cluster, board: int):
    return cluster.node(board).protocol("vote")


def events(cluster: Cluster, name: str, **fields) -> list[Event]:
    return [event for event in cluster.events if event.name == name and fields.items() <= event.fields.items()]


def ask(
    cluster: Cluster, board: int, operation: int, key: str, value=None, expected=None, *, client=1001, request=None
):
    """One command through `board`, run until it is answered: (status, value)."""
    if request is None:
        request = next(REQUESTS)
    seen = len(cluster.replies)
    assert cluster.command(board, client, request, operation, key, value, expected)

    def answers():
        return [row for row in cluster.replies[seen:] if (row.client, row.request) == (client, request)]

    assert cluster.run_until(lambda: bool(answers()), 10000), f"request {request} was not answered"
    return answers()[0].status, answers()[0].value


def proposer_of(cluster: Cluster, round_: int = 0) -> int:
    return vote_of(cluster, cluster.running[0]).proposer(round_)


def same_state(cluster: Cluster, within_ms: int = FAR_MS) -> bool:
    def same() -> bool:
        votes = [vote_of(cluster, board) for board in cluster.running]
        return len({(vote.register.next_height, vote.digest()) for vote in votes}) == 1

    return cluster.run_until(same, within_ms)


def fill(cluster: Cluster, count: int, boards: tuple[int, ...] = (1, 2)) -> None:
    for number in range(count):
        key, value = f"key-{number % 40:02}" + "k" * 20, f"{number} " + "v" * 50
        ask(cluster, boards[number % len(boards)], PUT, key, value, client=1001 + number % 30)


def wiped(cluster: Cluster, board: int) -> None:
    cluster.power_off(board)
    cluster.wipe(board)
    cluster.power_on(board)


def votes_sent(cluster: Cluster, board: int) -> list[Sent]:
    return [row for row in cluster.sent if row.source == board and row.kind in VOTES]
