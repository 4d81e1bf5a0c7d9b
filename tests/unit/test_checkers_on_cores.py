"""The checkers on what the real protocols told in storms of faults: they accuse no sound replica, and find broken ones.

A failing seed is replayed by calling `storm(seed, ...)` with the arguments of its case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import brownout_node.core.gossip
import brownout_node.core.vote  # noqa: F401  (both are loaded so that `broken` finds their sources)
import pytest
from brownout.checkers import judge
from core_runs import RecordedCluster, broken, storm

PROTOCOLS = ["membership", "gossip", "vote"]
CASES: dict[str, dict[str, Any]] = {
    "five voters, two learners": {"voters": 5, "learners": 2},
    "three voters": {"voters": 3},
    "weights": {"voters": 5, "weights": [3, 1, 1, 2, 2]},
    "five voters, wipes": {"voters": 5, "wipes": True},
}
SEEDS = 4


def accusations(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(check["name"], check["detail"]) for check in document["checks"] if check["verdict"] == "invalid"]


@pytest.mark.parametrize("case", CASES)
def test_no_sound_replica_is_accused(case: str) -> None:
    for seed in range(SEEDS):
        cluster = storm(seed, **CASES[case])
        document = judge(cluster.history())
        assert accusations(document) == [], f"seed {seed}"
        checks = {check["name"]: check for check in document["checks"]}
        assert checks["linearizability"]["metrics"]["operations"] > 20
        assert checks["voting"]["metrics"]["decisions_recounted"] > 10
        assert checks["gossip"]["metrics"]["converged_after_s"] < 10


def send_before_persist(node: Any, journal: Any, send: Any, emit: Any, after: Any = None) -> bool:
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


# name -> protocol, what is replaced in it, the checks of which one must tell
BROKEN: dict[str, tuple[str, list[tuple[str, str]], set[str]]] = {
    "quorum_one_short": ("vote", [("return 2 * weight > ", "return 2 * (weight + 1) > ")], {"voting"}),
    "forgets_lock": (
        "vote",
        [("_, self.locked_round, self.locked, self.valid_round, self.valid = row", "pass")],
        {"promises"},
    ),
    "forgets_votes": ("vote", [("if row[0] != height:\n            return", "return")], {"promises", "voting"}),
    "wiped_votes": (
        "vote",
        [
            (
                "self.voting = has_standing(node.config, stored, self.register.next_height)",
                "self.voting = node.config.is_voter",
            )
        ],
        {"voting"},
    ),
    "resurrects": (
        "gossip",
        [
            ("self._hold(wire)\n            self.node.emit", "self._drop(wire)\n            self.node.emit"),
            ("newer = self.vector.get(line, 0) < number", "newer = True"),
            (
                "    def _hold(self, wire):",
                "    def _drop(self, wire):\n        self._hold(wire)\n"
                "        if wire[1] is None:\n            self._forget(wire[0])\n\n    def _hold(self, wire):",
            ),
        ],
        {"gossip"},
    ),
}


def told_within(seeds: int, checks: set[str], run: Callable[[int], RecordedCluster]) -> str:
    for seed in range(seeds):
        told = [detail for name, detail in accusations(judge(run(seed).history())) if name in checks]
        if told:
            return told[0]
    raise AssertionError(f"{seeds} storms, and none of {sorted(checks)} told")


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_replica_is_found(name: str) -> None:
    protocol, replacements, checks = BROKEN[name]
    changed = broken(protocol, name, replacements)
    protocols = [changed if other == protocol else other for other in PROTOCOLS]
    detail = told_within(6, checks, lambda seed: storm(seed, wipes=True, protocols=protocols))
    assert "b" in detail


def test_a_replica_that_answers_before_it_persists_is_found() -> None:
    def run(seed: int) -> RecordedCluster:
        cluster = RecordedCluster(seed, 3, step=send_before_persist, latency_ms=(1, 5))
        cluster.run(500)
        cluster.clients(3, 8000)
        for number in range(12):
            # A trap: power goes between the effects of one of the next steps.
            board = number % 3 + 1
            cluster.at(800 + 500 * number, cluster.power_off_within, board, cluster.load.randrange(30))
            cluster.at(1150 + 500 * number, cluster.power_on, board)
        cluster.run(9000)
        cluster.calm()
        cluster.run(9000)
        return cluster

    told_within(20, {"promises", "voting", "durability"}, run)
