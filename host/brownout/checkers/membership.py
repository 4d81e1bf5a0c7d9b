"""Failure detection: nobody who lives is left for dead (accuracy), and who is gone is found out in time (completeness).

SWIM may be wrong for a while, so accuracy is judged at the end, after the bound for convergence; completeness for
outages that outlast what the protocol's own periods allow, at observers that no fault touched meanwhile.
"""

from __future__ import annotations

from brownout_node.core import schema

from ..history import BoardEvent, Check, FaultStage
from .evidence import Findings, fault, step
from .run import BROKER_KINDS, DARK_KINDS, Outage, Run

SLACK_NS = 500_000_000  # late ticks, and a switch that takes its time
DEFAULT_TIMING = {"probe_period_ms": 500, "suspicion_ms": 2000}


def check(run: Run) -> Check:
    findings = Findings("membership")
    if not run.by_kind.get("member"):
        findings.metrics["outages_checked"] = 0
        if any(_dark_pairs(run)):
            findings.open("boards were without power for longer than the bound, and no board told of any change")
        return findings.check("no board was held for anything but alive")
    views = _views(run)
    _accuracy(run, views, findings)
    _completeness(run, views, findings)
    checked = findings.metrics["outages_checked"]
    return findings.check(
        f"nobody who lives is left for dead; {checked} outages seen from each observer were found out"
    )


def bound_ns(run: Run) -> int:
    """How long a board may be gone before every observer must hold it for dead, by its own probes alone.

    Between two probes of one board lie at most two laps over the n - 1 others, less one; the period of the probe that
    finds nobody follows, then the suspicion.
    """
    timing = {**DEFAULT_TIMING, **run.history.manifest.get("timing", {})}
    return two_laps_ns(run) + int(timing["suspicion_ms"] * 1_000_000) * _drawn_out(run)[1]


def two_laps_ns(run: Run) -> int:
    """How long one board may wait for another's probe: whoever holds it for dead by itself is put right then."""
    timing = {**DEFAULT_TIMING, **run.history.manifest.get("timing", {})}
    periods = 2 * max(1, len(run.boards) - 1) * _drawn_out(run)[0]
    return int(periods * timing["probe_period_ms"] * 1_000_000) + SLACK_NS


def _drawn_out(run: Run) -> tuple[int, int]:
    """How many times longer periods and suspicions may become, for want of health and of confirmations."""
    if "lifeguard" not in run.protocols:
        return 1, 1
    chosen = run.history.plan.get("options", {}).get("lifeguard", {})
    return 1 + int(chosen.get("health_most", 8)), int(chosen.get("suspicion_most", 6))


def _views(run: Run) -> dict[tuple[str, str], list[BoardEvent]]:
    """(observer, observed) -> changes in the observer's own order."""
    views: dict[tuple[str, str], list[BoardEvent]] = {}
    for event in run.of("member"):
        observed = run.names.get(event.fields["board"])
        if observed is not None and observed != event.board:
            views.setdefault((event.board, observed), []).append(event)
    return views


def _accuracy(run: Run, views: dict[tuple[str, str], list[BoardEvent]], findings: Findings) -> None:
    live = set(run.live_boards())
    waited_ns = run.ended_ns - run.healed_ns
    wrongly = 0
    deaths = 0
    for (observer, observed), changes in sorted(views.items()):
        deaths += sum(event.fields["state"] == schema.DEAD for event in changes)
        last_boot = run.last_boot(observer)
        last = changes[-1]
        if last_boot is None or last.boot != last_boot.number or not {observer, observed} <= live:
            continue
        if last.fields["state"] != schema.DEAD or _hidden(run, last):
            continue
        wrongly += 1
        detail = f"{observer} still holds {observed} for dead, which runs, {waited_ns / 1e9:.1f} s after the last heal"
        if not run.finished or waited_ns < max(run.converge_ns, two_laps_ns(run)):
            findings.open(detail + "; the run ended before the bound", step(last))
        else:
            findings.wrong(detail, step(last))
    findings.metrics["deaths_declared"] = deaths
    findings.metrics["wrongly_dead_at_the_end"] = wrongly


def _hidden(run: Run, last: BoardEvent) -> bool:
    """Whether a later change may hide in a gap of the record."""
    return any(
        (gap.board, gap.boot) == (last.board, last.boot) and gap.last > last.sequence for gap in run.history.gaps
    )


def _dark_pairs(run: Run) -> list[tuple[Outage, str, str, int]]:
    """(outage, observer, board that is gone, until when) for what must have been found out."""
    bound = bound_ns(run)
    pairs: list[tuple[Outage, str, str, int]] = []
    proven = {record.id for record in run.history.faults if record.stage is FaultStage.PROVEN}
    for outage in run.outages:
        until_ns = outage.until_ns if outage.until_ns is not None else run.ended_ns
        if outage.kind in DARK_KINDS and outage.fault not in proven:
            continue  # nobody knows whether the power ever went: a switch may lie, and what was armed may not spring
        if outage.kind in DARK_KINDS:
            for gone in sorted(outage.boards):
                until = _back_ns(run, gone, outage.from_ns, until_ns)
                if until - outage.from_ns >= bound and outage.kind != "power_flap":
                    observers = [board for board in run.boards if board not in outage.boards]
                    pairs.extend((outage, observer, gone, until) for observer in observers)
        elif outage.cut_pairs and until_ns - outage.from_ns >= bound:
            pairs.extend((outage, one, other, until_ns) for one, other in _apart(run, outage))
    return [pair for pair in pairs if _undisturbed(run, *pair)]


def _back_ns(run: Run, board: str, from_ns: int, until_ns: int) -> int:
    """When the board was there again: the start of its next life comes before the fault is noted as healed."""
    starts = [boot.began_ns for boot in run.boots.get(board, ()) if from_ns < boot.began_ns < until_ns]
    return min(starts, default=until_ns)


def _apart(run: Run, outage: Outage) -> list[tuple[str, str]]:
    """Pairs of boards between which no path was left, not even through others."""
    reach = {board: {board} for board in run.boards}
    for one in run.boards:
        waiting = [one]
        while waiting:
            here = waiting.pop()
            for there in run.boards:
                cut = {(here, there), (there, here)} & outage.cut_pairs
                if not cut and there not in reach[one]:
                    reach[one].add(there)
                    waiting.append(there)
    return [(one, other) for one in run.boards for other in run.boards if other not in reach[one]]


def _undisturbed(run: Run, outage: Outage, observer: str, gone: str, until_ns: int) -> bool:
    """Whether the observer ran through all of it, connected, and no other fault touched either."""
    for other in run.outages:
        if other.fault == outage.fault or not other.overlaps(outage.from_ns, until_ns):
            continue
        if other.kind in BROKER_KINDS or {observer, gone} & other.boards:
            return False
    if observer not in run.boots or any(gap.board == observer for gap in run.history.gaps):
        return False
    boots = run.boots[observer]
    return not any(outage.from_ns < boot.began_ns < until_ns for boot in boots) and boots[0].began_ns < outage.from_ns


def _told_ns(run: Run, event: BoardEvent) -> int:
    """When the board noted the event, going by what came soonest of that life."""
    boot = next(boot for boot in run.boots[event.board] if boot.number == event.boot)
    return boot.began_ns + event.now_ms * 1_000_000


def _completeness(run: Run, views: dict[tuple[str, str], list[BoardEvent]], findings: Findings) -> None:
    pairs = _dark_pairs(run)
    findings.metrics["outages_checked"] = len(pairs)
    findings.metrics["detection_bound_s"] = round(bound_ns(run) / 1e9, 3)
    delays = []
    for outage, observer, gone, until_ns in pairs:
        # By the observer's own clock: membership events go over MQTT, which the outage may have held up.
        view = [(_told_ns(run, event), event) for event in views.get((observer, gone), ())]
        changes = [event for told_ns, event in view if told_ns <= until_ns]
        during = [event for told_ns, event in view if outage.from_ns <= told_ns <= until_ns]
        dead = next((event for event in during if event.fields["state"] == schema.DEAD), None)
        if dead is not None:
            delays.append((_told_ns(run, dead) - outage.from_ns) / 1e9)
        elif not changes or during or changes[-1].fields["state"] != schema.DEAD:
            findings.wrong(
                f"{observer} never held {gone} for dead, gone for {(until_ns - outage.from_ns) / 1e9:.1f} s",
                fault(outage.applied),
                *[step(event) for event in changes[-2:]],
            )
    if delays:
        delays.sort()
        findings.metrics["detection_median_s"] = round(delays[len(delays) // 2], 3)
        findings.metrics["detection_worst_s"] = round(delays[-1], 3)
