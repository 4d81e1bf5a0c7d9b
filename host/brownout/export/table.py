"""Every event of a run as one table, with the host's time of each by its board's clock: what CSV and Parquet share.

at_ns is nanoseconds of the host's clock, bound_ns how far off it may be (empty: nothing bounds it). Events never pass
through Python. Must not judge a run.
"""

from __future__ import annotations

from pathlib import Path

from ..analysis.record import Record

COLUMNS = "at_ns, bound_ns, board, boot, sequence, now_ms, kind, fields, received_ns, channel"


def write(run: Path, out: Path, options: str) -> Path:
    quoted = str(out).replace("'", "''")
    with Record(run) as record:
        record.tables.execute(
            f"COPY (SELECT {COLUMNS} FROM timed ORDER BY at_ns, board, boot, sequence) TO '{quoted}' ({options})"
        )
    return out
