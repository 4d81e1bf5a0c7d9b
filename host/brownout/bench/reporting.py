"""Analysis and report of a run of a million events: how long, and how much memory, in a process of its own.

The run is a simulated one told many times over, each time later: boots, heights, requests and stamps go on where the
last time ended, so that nothing collapses. Must not measure the making.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb

from .. import campaign
from ..campaign_file import load_campaign
from ..rig import load_rig
from ..store import EVENT_COLUMNS, EVENTS, FAULTS, GAPS, MANIFEST, OPERATIONS, PLAN, VERDICT, read_document
from .figures import Figure
from .workbench import Workbench

EVENTS_WANTED = 1_000_000
CAMPAIGNS = ("blackout", "fifty-boards")
SEED = 1
MOST_S = 30.0
MOST_MIB = 1024.0
WITHIN_S = 600.0
BOOTS_APART = 100  # farther than boots of one count are
# What is counted on from one time to the next, by the step of its count.
STEPS = {"height": "heights", "next": "heights", "first": "heights", "next_height": "heights", "request": "requests"}
TIMES = ("time_ns", "at_ns", "planned_ns")
MEASURED = """
import json, resource, sys, time
from pathlib import Path
from brownout.analysis.measures import measure
from brownout.analysis.record import Record
from brownout.report import write_report
folder, began = Path(sys.argv[1]), time.perf_counter()
with Record(folder) as record:
    found = measure(record)
analysed = time.perf_counter()
page = write_report(folder)
print(json.dumps({
    "events": found["events"], "analysis_s": analysed - began, "report_s": time.perf_counter() - analysed,
    "most_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "page_mib": page.stat().st_size / 2**20,
}))
"""


def measure(bench: Workbench) -> list[Figure]:
    figures: list[Figure] = []
    for place, name in enumerate(CAMPAIGNS):
        bench.progress("analysis and report of a million events", place, len(CAMPAIGNS))
        run = campaign.run(load_campaign(name), load_rig("sim"), SEED, bench.folder / "sim").folder
        folder = told_again(run, bench.folder / f"million-{name}", EVENTS_WANTED)
        figures += _figures(name, _measured(folder))
    return figures


def _measured(folder: Path) -> dict[str, Any]:
    """What the process that analyses says of itself: resident memory is that of this work alone."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(folder)], capture_output=True, text=True, timeout=WITHIN_S, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _figures(name: str, found: dict[str, Any]) -> list[Figure]:
    took_s = found["analysis_s"] + found["report_s"]
    note = f"{found['events']:,} events; analysis {found['analysis_s']:.1f} s, report {found['report_s']:.1f} s"
    return [
        Figure(f"analysis and report, {name}", took_s, "s", MOST_S, 1, measure="value", note=note),
        Figure(f"its memory, {name}", found["most_mib"], "MiB", MOST_MIB, 1, measure="value"),
        Figure(f"its page, {name}", found["page_mib"], "MiB", 5, 1, measure="value"),
    ]


# The making.


def told_again(run: Path, folder: Path, events: int) -> Path:
    """A folder with at least so many events: those of `run` as often as that takes, with its operations and faults."""
    folder.mkdir()
    manifest, plan = read_document(run, MANIFEST), read_document(run, PLAN)
    span_ns = int(manifest["ended_ns"])
    with duckdb.connect() as tables:
        tables.execute(f"CREATE VIEW told AS SELECT * FROM read_parquet('{run / EVENTS}')")
        row = tables.execute(
            "SELECT count(*), max(CAST(coalesce(fields->>'height', '0') AS BIGINT)),"
            " max(CAST(coalesce(fields->>'request', '0') AS BIGINT)),"
            " max(CAST(coalesce(fields->>'stamp', '0') AS BIGINT)) FROM told"
        ).fetchone()
        assert row is not None, "an aggregate has one row"
        times = -(-events // row[0])
        steps = {"heights": row[1] + 1, "requests": row[2] + 1, "stamps": row[3] + 1}
        _events(tables, folder, times, span_ns, steps)
    _lines(run / OPERATIONS, folder / OPERATIONS, times, span_ns, steps)
    _lines(run / FAULTS, folder / FAULTS, times, span_ns, steps)
    shutil.copy(run / VERDICT, folder / VERDICT)
    (folder / GAPS).touch()
    faults = [_later(fault, turn, span_ns) for turn in range(times) for fault in plan["faults"]]
    (folder / PLAN).write_text(json.dumps({**plan, "faults": faults}))
    late = {name: manifest[name] + (times - 1) * span_ns for name in ("healed_ns", "ended_ns")}
    (folder / MANIFEST).write_text(json.dumps({**manifest, **late}))
    return folder


def _later(fault: dict[str, Any], turn: int, span_ns: int) -> dict[str, Any]:
    return {**fault, "id": f"{fault['id']}-{turn}", "at_s": fault["at_s"] + turn * span_ns / 1e9}


def _events(tables: duckdb.DuckDBPyConnection, folder: Path, times: int, span_ns: int, steps: dict[str, int]) -> None:
    """Only the fields that are counted on are replaced; JSON of several thousand bytes a row is not parsed twice."""
    tables.execute("CREATE TABLE counted AS SELECT *, CAST(fields AS VARCHAR) AS text FROM told")
    changed = "text"
    for name, step in {**STEPS, "stamp": "stamps"}.items():
        value = f"regexp_extract(text, '\"{name}\":([0-9]+)', 1)"
        later = f"'\"{name}\":' || CAST(CAST({value} AS BIGINT) + turn * {steps[step]} AS VARCHAR)"
        changed = (
            f"CASE WHEN {value} <> '' THEN regexp_replace({changed}, '\"{name}\":[0-9]+', {later}) ELSE {changed} END"
        )
    columns = {
        **{name: name for name in EVENT_COLUMNS},
        "boot": f"boot + turn * {BOOTS_APART}",
        "stamp": f"stamp + turn * {steps['stamps']}",
        "fields": f"CAST({changed} AS JSON)",
        "received_ns": f"received_ns + turn * {span_ns}",
    }
    chosen = ", ".join(f"{value} AS {name}" for name, value in columns.items())
    tables.execute(
        f"COPY (SELECT {chosen} FROM counted, (SELECT unnest(range({times})) AS turn)"
        f" ORDER BY board, received_ns, sequence) TO '{folder / EVENTS}' (FORMAT parquet, COMPRESSION zstd)"
    )


def _lines(source: Path, target: Path, times: int, span_ns: int, steps: dict[str, int]) -> None:
    """Operations or faults, each time under other names."""
    lines = [json.loads(line) for line in source.read_text().splitlines()]
    with target.open("w") as file:
        for turn in range(times):
            for line in lines:
                late = {name: line[name] + turn * span_ns for name in TIMES if line.get(name) is not None}
                if "request" in line:
                    late["request"] = line["request"] + turn * steps["requests"]
                if "index" in line:
                    late["index"] = line["index"] + turn * len(lines)
                if "id" in line:
                    late["id"] = f"{line['id']}-{turn}"
                file.write(json.dumps({**line, **late}) + "\n")
