"""What a second route promises: a board whose broker, or whose link to it, dies hears the others again within the
bound, by another route.

A board says so itself, with the first message that came by the new route; one that is connected and hears nothing, as
after it forgot to subscribe, has not come back. Where the broker was back before the bound, being connected to it again
will do. Only boards that nothing else troubled meanwhile are judged, and only where their record has no hole.
"""

from __future__ import annotations

from ..history import Check, FaultStage
from ..sites import Sites
from .evidence import Findings, fault, step
from .run import BROKER_KINDS, Boot, Outage, Run

SETTLED_NS = 1_500_000_000  # a board whose route changed so shortly before may be on its way anyway
MESSAGE_KINDS = frozenset({"drop", "hold"})
DEFAULT_WITHIN_S = 3.0


def check(run: Run) -> Check:
    findings = Findings("sites")
    sites = Sites.from_document(run.history.plan["sites"])
    within_ns = int(float(run.history.plan["checks"].get("reroute_within_s", DEFAULT_WITHIN_S)) * 1e9)
    judged = 0
    for outage in run.outages:
        if outage.kind not in ("broker", "uplink") or not _proven(run, outage):
            continue
        site = str(outage.applied.evidence["site"])
        for board in run.boards if outage.kind == "broker" else sorted(outage.boards):
            boot = _boot_at(run, board, outage.from_ns)
            if boot is None or len(sites.routes(board)) < 2 or _route(boot, sites, outage.from_ns) != site:
                continue
            if _troubled(run, sites, board, outage, within_ns) or not _heard_beyond(boot, outage.from_ns + within_ns):
                continue
            judged += 1
            _judge(boot, outage, site, within_ns, findings)
    findings.metrics |= {"boards_judged": judged}
    return findings.check(
        f"{judged} times the way to a board's broker died, and it was back within {within_ns / 1e9:g} s"
    )


def _judge(boot: Boot, outage: Outage, site: str, within_ns: int, findings: Findings) -> None:
    until_ns = outage.from_ns + within_ns
    short = outage.until_ns is not None and outage.until_ns < until_ns
    later = [event for event in boot.events if outage.from_ns < event.received_ns <= until_ns]
    back = ("rerouted", "connected") if short else ("rerouted",)
    if not any(event.kind in back for event in later):
        findings.wrong(
            f"{boot.board} knows a second route, and {within_ns / 1e9:g} s after its way to {site} died it had heard "
            "nobody by it",
            fault(outage.applied),
            *[step(event) for event in later if event.kind in ("rerouted", "connected")],
        )


def _proven(run: Run, outage: Outage) -> bool:
    return any(record.id == outage.fault and record.stage is FaultStage.PROVEN for record in run.history.faults)


def _boot_at(run: Run, board: str, at_ns: int) -> Boot | None:
    """The life that the board was in, if it had begun a while before."""
    begun = [boot for boot in run.boots.get(board, ()) if boot.began_ns < at_ns - SETTLED_NS]
    return begun[-1] if begun else None


def _route(boot: Boot, sites: Sites, at_ns: int) -> str | None:
    """The route that the board had then, by its own word; None where it had none, or was just changing it."""
    told = [event for event in boot.events if event.kind in ("connected", "rerouted") and event.received_ns <= at_ns]
    if not told or told[-1].received_ns > at_ns - SETTLED_NS:
        return None
    moves = [event for event in told if event.kind == "rerouted"]
    return str(moves[-1].fields["to"]) if moves else sites.home(boot.board)


def _troubled(run: Run, sites: Sites, board: str, outage: Outage, within_ns: int) -> bool:
    """Whether another fault met the board or a broker then, or left nobody whom it could have heard."""
    from_ns = outage.from_ns - SETTLED_NS
    others = [
        other for other in run.outages if other is not outage and other.overlaps(from_ns, outage.from_ns + within_ns)
    ]
    if any(board in other.boards or other.kind in BROKER_KINDS | MESSAGE_KINDS for other in others):
        return True
    site = str(outage.applied.evidence["site"])
    reachable = [
        name
        for name in run.boards
        if name != board
        and (sites.home(name) != site or len(sites.routes(name)) > 1)
        and not any(name in other.boards for other in others)
    ]
    return not reachable


def _heard_beyond(boot: Boot, until_ns: int) -> bool:
    """Whether all is known of what this life told up to then."""
    return any(event.sequence <= boot.whole_until and event.received_ns > until_ns for event in boot.events)
