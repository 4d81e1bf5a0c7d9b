"""Every event of a run as Parquet, in the order of time; the columns are those of `table.py`. Must not judge a run."""

from __future__ import annotations

from pathlib import Path

from . import table

SUFFIX = ".parquet"


def export(run: Path, out: Path) -> Path:
    return table.write(run, out, "FORMAT parquet, COMPRESSION zstd")
