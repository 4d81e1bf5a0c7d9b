"""Carries out the faults of sites: a broker dies, a bridge between two sites is cut, a board's link to a broker dies.

As injector.py for the others: applied, proven from a second side, healed, and the healing seen. The second side of a
broker is a connection that it no longer accepts, beside the other sites' brokers that still do; that of a bridge is a
message that the host puts to the one broker and waits for at the other, both ways; that of a board's link is a
connection that it no longer takes, though the broker itself does. Must not judge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .history import FaultStage

if TYPE_CHECKING:
    from .injector import FaultLife

BROKER_WITHIN_S = 5.0  # how long a broker may take to be seen dead, or serving again
PROBE_WITHIN_S = 1.0  # beyond the bridges' own latency, for a message to come through
JOINED_WITHIN_S = 10.0  # mosquitto's bridges try again each second or two
MOST_MS = 5000.0


def run(life: FaultLife) -> None:
    if life.fault.kind == "broker":
        _broker(life)
    elif life.fault.kind == "uplink":
        _uplink(life)
    else:
        _bridge(life)


def _broker(life: FaultLife) -> None:
    bed = life.bed
    site = str(life.fault.parameters["site"])
    others = [name for name in bed.sites.names if name != site]
    bed.broker.kill(site)
    life.note(FaultStage.APPLIED, {"site": site})
    refused = bed.broker_of_site_answers(site, answers=False, within_s=BROKER_WITHIN_S)
    state = bed.broker.state(site)
    alive = {name: bed.broker_of_site_answers(name, answers=True, within_s=0.5) for name in others}
    # The others may be down by faults of their own; that this one is, and alone by us, its own state says.
    evidence = {"site": site, "state": state, "answers_a_connection": not refused, "others_answer": alive}
    life.proof(refused and not state["running"], evidence)
    life.last()
    bed.broker.start(site)
    back = bed.broker_of_site_answers(site, answers=True, within_s=BROKER_WITHIN_S)
    life.note(FaultStage.HEALED, {"site": site, "state": bed.broker.state(site), "answers_a_connection": back})


def _bridge(life: FaultLife) -> None:
    bed = life.bed
    first, last = (str(site) for site in life.fault.parameters["between"])
    within_s = PROBE_WITHIN_S + min(MOST_MS, bed.sites.between_ms((first, last))) / 1e3
    before = bed.crosses(first, last, within_s)
    bed.broker.cut((first, last))
    life.note(FaultStage.APPLIED, {"between": [first, last], "crossed_before": before})
    crossed = {f"{one} -> {other}": bed.crosses(one, other, within_s) for one, other in ((first, last), (last, first))}
    life.proof(not any(crossed.values()), {"between": [first, last], "crossed": crossed})
    life.last()
    bed.broker.join((first, last))
    until_ns = bed.now_ns() + int(JOINED_WITHIN_S * 1e9)
    joined = False
    while not joined and bed.now_ns() < until_ns and not life.injector.stop.is_set():
        joined = bed.crosses(first, last, within_s) and bed.crosses(last, first, within_s)
    life.note(FaultStage.HEALED, {"between": [first, last], "crosses_again": joined})


def _uplink(life: FaultLife) -> None:
    bed = life.bed
    site = str(life.fault.parameters["site"])
    bed.broker.part(site, life.boards)
    life.note(FaultStage.APPLIED, {"site": site})
    gone = {board: not bed.uplink_answers(board, site) for board in life.boards}
    alive = bed.broker_of_site_answers(site, answers=True, within_s=0.5)
    life.proof(all(gone.values()), {"site": site, "takes_no_connection": gone, "broker_answers": alive})
    life.last()
    bed.broker.rejoin(site, life.boards)
    back = {board: bed.uplink_answers(board, site) for board in life.boards}
    life.note(FaultStage.HEALED, {"site": site, "takes_a_connection": back})
