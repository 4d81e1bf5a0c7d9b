"""brownout compare: did a change move a metric, and by how much."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .common import json_option, out, print_document


@click.command()
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--by", required=True, metavar="KEY", help="Key of the manifest that tells the two groups apart.")
@json_option
def compare(runs: tuple[Path, ...], by: str, as_json: bool) -> None:
    """Compare the metrics of RUNS, in two groups by a key of their manifests, such as timing.gossip_period_ms.

    A run counts once in each metric, by its median; six runs a group or more can show something.
    """
    from ..analysis.compare import compare as compare_runs

    document = compare_runs(runs, by)
    if as_json:
        print_document(document)
        return
    from rich.markup import escape
    from rich.table import Column, Table

    first, second = document["groups"]
    table = Table(
        Column("metric", no_wrap=True), escape(first), escape(second), "shift", "95 % interval", "by chance", "moved"
    )
    for metric in document["metrics"]:
        sides = [_number(metric[side] and metric[side]["median"]) for side in ("before", "after")]
        interval = f"{_number(metric['low'])} .. {_number(metric['high'])}"
        moved = "yes" if metric["moved"] else "not shown"
        table.add_row(metric["metric"], *sides, _number(metric["shift"]), interval, _number(metric["chance"]), moved)
    out().print(table)


def _number(value: Any) -> str:
    return "?" if value is None else f"{value:.4g}"
