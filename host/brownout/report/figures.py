"""The report's drawings: what clients saw, faults, one lane per board, convergence, latencies.

Each is a function from a record to SVG, or to nothing where there is nothing to draw. The first three share one time
axis, so that an outage can be followed down the page. Must not judge: what is evidence the verdict says.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ..analysis.convergence import mean_curve
from ..analysis.distribution import percentile
from ..analysis.latency import operation_latencies
from ..analysis.measures import own_decisions, updates
from ..analysis.record import Record
from ..checkers.run import BROKER_KINDS, DARK_KINDS, Outage, Run
from ..history import FaultRecord, FaultStage, Outcome
from . import svg
from .svg import GUTTER, RIGHT, WIDTH, Scale

CURVES = ("put", "get", "cas", "write", "delete", "read")
COLUMNS = """
SELECT board, CASE WHEN caught_up THEN 'caught_up' ELSE kind END AS seen, CAST(at_ns AS BIGINT) // ? AS place
FROM votes WHERE kind IN ('prevoted', 'precommitted', 'decided') GROUP BY ALL
"""
MOST_FAULTS = 100  # drawn in rows of their own; the table below has all
PLACES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")  # styles of curves


def shade_of(kind: str) -> str:
    """The style of a fault's shade: by what it takes away."""
    if kind in DARK_KINDS:
        return "power"
    if kind in BROKER_KINDS:
        return "broker"
    return "serial" if kind == "unplug" else "link"


def seconds(at_ns: int | None) -> str:
    return "–" if at_ns is None else f"{at_ns / 1e9:.2f} s"


# What clients saw.


def operations_figure(run: Run) -> Markup | None:
    """Operations by the moment they were asked, stacked by how they ended."""
    operations = run.history.operations
    if not operations:
        return None
    scale = svg.time_scale(run.ended_ns)
    columns = 120
    bins: list[dict[str, int]] = [defaultdict(int) for _ in range(columns)]
    for operation in operations:
        index = min(columns - 1, int(operation.invoked_ns / max(1, run.ended_ns) * columns))
        refused = operation.outcome is Outcome.FAIL and operation.status != "mismatch"
        bins[index]["open" if operation.outcome is Outcome.INFO else "refused" if refused else "done"] += 1
    most = max(sum(bin.values()) for bin in bins)
    height, top, bottom = 128.0, 10.0, 104.0
    parts = [_fault_shades(run, scale, top, bottom), svg.time_axis(scale, top, bottom)]
    for tick in Scale(0, most, 0, 1).ticks(3):
        y = bottom - (bottom - top) * tick / most
        parts.append(svg.text(GUTTER - 8, y + 4, svg.number(tick), "tick", "end"))
    width = (WIDTH - RIGHT - GUTTER) / columns
    span_s = run.ended_ns / 1e9 / columns
    for index, bin in enumerate(bins):
        y = bottom
        for name in ("done", "refused", "open"):
            if bin[name]:
                tall = (bottom - top) * bin[name] / most
                y -= tall
                title = f"{index * span_s:.1f} s: {bin[name]} {name}"
                parts.append(svg.box(GUTTER + index * width + 0.5, round(y, 1), width - 1, round(tall, 1), name, title))
    return svg.figure(height, "Client operations over time, by how they ended", parts)


def _fault_shades(run: Run, scale: Scale, top: float, bottom: float) -> Markup:
    parts = []
    for outage in run.outages:
        start, end = scale(outage.from_ns / 1e9), scale((outage.until_ns or run.ended_ns) / 1e9)
        parts.append(svg.box(start, top, end - start, bottom - top, f"shade {shade_of(outage.kind)}"))
    return Markup("").join(parts)


# Faults.


def fault_lives(run: Run) -> list[dict[str, Any]]:
    """One row for each fault: its stages with times, whom it met, and the evidence of its proof."""
    lives: dict[str, list[FaultRecord]] = defaultdict(list)
    for record in run.history.faults:
        lives[record.id].append(record)
    planned = {entry["id"]: entry for entry in run.history.plan.get("faults", ()) if "id" in entry}
    began_ns = int(run.history.manifest.get("began_ns") or 0)  # a plan counts from there
    rows = []
    for name in sorted(set(lives) | set(planned)):
        records = lives.get(name, [])
        entry = planned.get(name, {})
        at: dict[FaultStage, int] = {}
        for record in records:
            at.setdefault(record.stage, record.at_ns)
        planned_ns = began_ns + int(float(entry["at_s"]) * 1e9) if "at_s" in entry else at.get(FaultStage.PLANNED)
        proof = next((r for r in records if r.stage in (FaultStage.UNPROVEN, FaultStage.PROVEN)), None)
        unproven = any(record.stage is FaultStage.UNPROVEN for record in records)
        rows.append(
            {
                "id": name,
                "kind": records[0].kind if records else str(entry.get("kind", "")),
                "boards": sorted({board for record in records for board in record.boards}),
                "support": records[0].support if records else "",
                "planned_ns": planned_ns,
                "applied_ns": at.get(FaultStage.APPLIED),
                "proven_ns": at.get(FaultStage.PROVEN),
                "healed_ns": at.get(FaultStage.HEALED),
                "unproven": unproven,
                "evidence": _proof(proof.evidence) if proof else {},
            }
        )
    return sorted(rows, key=lambda row: (row["applied_ns"] or row["planned_ns"] or 0, row["id"]))


def _proof(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """The evidence of a proof; counters of many directed pairs are added up."""
    pairs = {name: count for name, count in evidence.items() if " -> " in name and isinstance(count, Mapping)}
    rest = {name: value for name, value in evidence.items() if name not in pairs}
    if pairs:
        rest["directed pairs"] = len(pairs)
        for word in ("matched", "passed"):
            rest[f"messages {word}"] = sum(int(count.get(word, 0)) for count in pairs.values())
    return rest


def faults_figure(run: Run) -> Markup | None:
    """A row for each fault: a ring where it was planned, a bar while it lasted, a filled mark where it was proven."""
    every = fault_lives(run)
    if not every:
        return None
    rows = every[:MOST_FAULTS]
    scale = svg.time_scale(run.ended_ns)
    pitch = 24.0
    top = 6.0
    bottom = top + pitch * len(rows)
    parts = [svg.time_axis(scale, top, bottom)]
    for index, row in enumerate(rows):
        y = top + pitch * index
        parts.append(svg.text(GUTTER - 10, y + 16, f"{row['id']} {row['kind']}", "name", "end"))
        applied, healed = row["applied_ns"], row["healed_ns"]
        if applied is not None:
            start, end = scale(applied / 1e9), scale((healed or run.ended_ns) / 1e9)
            told = f"{row['id']} {row['kind']} {', '.join(row['boards'])}: {seconds(applied)} to {seconds(healed)}"
            style = f"bar {shade_of(row['kind'])}" + (" open-end" if healed is None else "")
            parts.append(svg.box(start, y + 5, end - start, 14, style, told, 2))
        if row["planned_ns"] is not None:
            x = scale(row["planned_ns"] / 1e9)
            parts.append(Markup('<circle cx="{}" cy="{}" r="4" class="planned"/>').format(x, y + 12))
        if row["proven_ns"] is not None and not row["unproven"]:
            x = scale(row["proven_ns"] / 1e9)
            parts.append(Markup('<path d="M{} {}l4 5 -4 5 -4 -5z" class="proven"/>').format(x, y + 7))
        elif row["unproven"]:
            x = scale((applied or row["planned_ns"] or 0) / 1e9)
            parts.append(svg.text(x + 8, y + 16, "not proven", "alarm"))
    title = "Faults over time" if len(rows) == len(every) else f"The first {len(rows)} of {len(every)} faults over time"
    return svg.figure(bottom + 24, title, parts)


# Boards.


def lanes_figure(record: Record, evidence: Sequence[Mapping[str, Any]]) -> Markup | None:
    """One lane per board: boots, votes and decisions, on the shade of the faults that met it; evidence ringed."""
    run = record.run
    if not run.boards:
        return None
    scale = svg.time_scale(run.ended_ns)
    pitch = 30.0 if len(run.boards) <= 16 else 15.0
    top = 6.0
    bottom = top + pitch * len(run.boards)
    shades, marks = [], []
    seen = _votes_seen(record, scale)
    for index, board in enumerate(run.boards):
        y = top + pitch * index
        shades.append(_lane_shades(run, board, scale, y, pitch))
        marks.append(_lane(run, board, seen[board], scale, y, pitch))
        for entry in evidence:
            if entry.get("board") == board and "step" in entry:
                x = scale(float(entry["at_s"]))
                title = f"{board} {entry['step']}, boot {entry['boot']}, event {entry['sequence']}"
                ring = '<circle cx="{}" cy="{}" r="{}" class="ring"><title>{}</title></circle>'
                marks.append(Markup(ring).format(x, y + pitch / 2, pitch * 0.42, title))
    parts = [*shades, svg.time_axis(scale, top, bottom), *marks]
    return svg.figure(bottom + 24, "One lane per board: boots, votes and decisions over time", parts)


def _votes_seen(record: Record, scale: Scale) -> dict[str, dict[str, list[float]]]:
    """Board -> kind -> where there is at least one, to half a pixel: more cannot be seen of millions."""
    column_ns = max(1, round(record.run.ended_ns / (2 * WIDTH)))
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for board, kind, column in record.rows(COLUMNS, column_ns):
        found[board][kind].append(scale(column * column_ns / 1e9))
    return found


def _lane_shades(run: Run, board: str, scale: Scale, y: float, pitch: float) -> Markup:
    parts = []
    starts = sorted(boot.began_ns for boot in run.boots.get(board, ()))
    for outage in run.outages:
        if board in outage.boards or outage.kind in BROKER_KINDS:
            start, end = scale(outage.from_ns / 1e9), scale(_over_ns(run, outage, starts) / 1e9)
            title = f"{outage.fault} {outage.kind}"
            parts.append(svg.box(start, y + 1, end - start, pitch - 2, f"shade {shade_of(outage.kind)}", title))
    return Markup("").join(parts)


def _over_ns(run: Run, outage: Outage, starts: Sequence[int]) -> int:
    """When a board that started at `starts` had power again: its boot comes before the fault is noted as healed."""
    until_ns = outage.until_ns or run.ended_ns
    if outage.kind not in DARK_KINDS or outage.kind == "power_flap":
        return until_ns
    place = bisect_right(starts, outage.from_ns)
    return min(until_ns, starts[place]) if place < len(starts) else until_ns


def _lane(run: Run, board: str, seen: Mapping[str, list[float]], scale: Scale, y: float, pitch: float) -> Markup:
    middle = y + pitch / 2
    small = pitch < 20
    parts = [
        svg.line(GUTTER, y + pitch, WIDTH - RIGHT, y + pitch, "rule"),
        svg.text(GUTTER - 10, middle + 4, board, "name small" if small else "name", "end"),
        svg.ticks_path(seen.get("prevoted", ()), y + pitch * 0.14, pitch * 0.21, "vote prevote"),
        svg.ticks_path(seen.get("precommitted", ()), y + pitch * 0.38, pitch * 0.21, "vote precommit"),
        svg.dots(seen.get("caught_up", ()), y + pitch * 0.77, 1.5 if small else 2.2, "decision late"),
        svg.dots(seen.get("decided", ()), y + pitch * 0.77, 1.5 if small else 2.2, "decision"),
    ]
    boots = [boot.start.received_ns for boot in run.boots.get(board, ()) if boot.start is not None]
    for x in sorted({round(scale(at_ns / 1e9)) for at_ns in boots}):
        parts.append(Markup('<path d="M{} {}v{}" class="boot"/>').format(x, y + 3, pitch - 6))
        parts.append(Markup('<path d="M{} {}l6 3.5 -6 3.5z" class="boot flag"/>').format(x, y + 3))
    return Markup("").join(parts)


# Spread and latency.


def convergence_figure(record: Record) -> Markup | None:
    """The mean share of boards that have an update, by time since it was written."""
    curve = mean_curve([after for _, _, after in updates(record)], len(record.run.boards))
    if not curve:
        return None
    height, top, bottom = 260.0, 12.0, 224.0
    across = Scale(0, max(curve[-1][0], 1e-3), GUTTER, WIDTH - RIGHT)
    up = Scale(0, 1, bottom, top)
    parts = _axes(across, up, top, bottom, "ms")
    points = [(across(at_ms), up(share)) for at_ms, share in curve]
    area = " ".join(f"{x:g},{y:g}" for x, y in [(points[0][0], bottom), *points, (points[-1][0], bottom)])
    parts.append(Markup('<polygon points="{}" class="area"/>').format(area))
    parts.append(svg.polyline(points, "curve first"))
    for share, label in ((0.5, "half"), (0.9, "nine tenths")):
        at_ms = next((at for at, reached in curve if reached >= share), None)
        if at_ms is not None:
            parts.append(svg.line(across(at_ms), up(share), across(at_ms), bottom, "drop"))
            beyond = across(at_ms) > WIDTH * 0.8
            x = across(at_ms) + (-6 if beyond else 6)
            said = f"{label} after {at_ms:.0f} ms"
            parts.append(svg.text(x, up(share) + (-8 if beyond else 14), said, "label", "end" if beyond else "start"))
    return svg.figure(height, "Mean share of boards that have a gossip update, by time since it was written", parts)


def _axes(across: Scale, up: Scale, top: float, bottom: float, unit: str) -> list[Markup]:
    parts = []
    for tick in across.ticks(10):
        parts.append(svg.line(across(tick), top, across(tick), bottom, "grid"))
        parts.append(svg.text(across(tick), bottom + 16, f"{svg.number(tick)} {unit}", "tick", "middle"))
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(svg.line(GUTTER, up(share), WIDTH - RIGHT, up(share), "grid"))
        parts.append(svg.text(GUTTER - 8, up(share) + 4, f"{share * 100:.0f}%", "tick", "end"))
    return parts


def latency_samples(record: Record) -> dict[str, list[float]]:
    """What is drawn and tabled as latency: name -> sorted milliseconds."""
    latencies = operation_latencies(record.history)
    found = {"decision": own_decisions(record), **{name: latencies.get(name, ()) for name in CURVES}}
    return {name: sorted(values) for name, values in found.items() if values}


def latency_figure(samples: Mapping[str, Sequence[float]]) -> Markup | None:
    """The share of decisions and operations that took at most so long, on a logarithmic axis."""
    if not samples:
        return None
    height, top, bottom = 280.0, 12.0, 244.0
    lowest = max(0.1, min(values[0] for values in samples.values()))
    highest = max(max(values[-1] for values in samples.values()), lowest * 10)
    across = Scale(_below(lowest), highest, GUTTER, WIDTH - RIGHT, True)
    up = Scale(0, 1, bottom, top)
    parts = _axes(across, up, top, bottom, "ms")
    for place, (name, values) in enumerate(samples.items()):
        shown = values if len(values) <= 200 else [percentile(values, rank / 2) for rank in range(1, 201)]
        points = [(across(shown[0]), up(0.0))]
        for rank, value in enumerate(shown, start=1):
            points.append((across(value), points[-1][1]))
            points.append((across(value), up(rank / len(shown))))
        title = f"{name}: half within {percentile(values, 50):.1f} ms, 99 of 100 within {percentile(values, 99):.1f} ms"
        parts.append(svg.polyline(points, f"curve {PLACES[place]}", title))
    return svg.figure(height, "Share of decisions and operations that took at most so long", parts)


def _below(value: float) -> float:
    """The next lower of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= value * 1.000001)


def latency_legend(samples: Mapping[str, Sequence[float]]) -> list[tuple[str, str]]:
    """(style, name) in the order of the curves."""
    return list(zip(PLACES, samples, strict=False))
