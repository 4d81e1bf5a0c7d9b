"""Writes a run's report: one `report.html` that opens offline, verdict and evidence first.

Reads a run's folder and its verdict; judges only where no verdict was written yet. The page holds everything it needs
(drawings, the events, style, scripts), fetches nothing, and says in tables what its drawings show.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import jinja2

from ..analysis.record import Record
from ..checkers import judge
from ..store import REPORT, VERDICT, load, read_document
from . import diagram, figures, page

__all__ = ["write_report"]


def write_report(folder: Path) -> Path:
    """Write `report.html` into the folder of a run, complete or interrupted; return its path."""
    verdict = read_document(folder, VERDICT) if (folder / VERDICT).exists() else judge(load(folder))
    path = folder / REPORT
    draft = path.with_suffix(".draft")
    with Record(folder) as record:
        draft.write_text(_render(record, verdict, folder), encoding="utf-8")
    draft.replace(path)
    return path


def _render(record: Record, verdict: dict[str, Any], folder: Path) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["seconds"] = figures.seconds
    environment.filters["brief"] = page.brief
    run = record.run
    checks = page.checks(verdict)
    evidence = [entry for check in checks if check["verdict"] != "valid" for entry in check["evidence"]]
    samples = figures.latency_samples(record)
    drawings = {
        "operations": figures.operations_figure(run),
        "faults": figures.faults_figure(run),
        "lanes": figures.lanes_figure(record, evidence),
        "convergence": figures.convergence_figure(record),
        "latency": figures.latency_figure(samples),
    }
    drawn = diagram.document(record, evidence)
    return environment.get_template("page.html").render(
        style=_part("style.css"),
        pens=_part("pens.js"),
        script=_part("diagram.js"),
        folder=shlex.quote(str(folder)),
        diagram=_of_diagram(drawn),
        manifest=run.history.manifest,
        verdict=verdict,
        checks=checks,
        summary=page.summary(verdict),
        facts=page.facts(run),
        boards=page.boards(record),
        gateway=page.gateway(run),
        faults=figures.fault_lives(run),
        recovery=verdict.get("metrics", {}).get("recovery", []),
        spreads=page.spreads(verdict),
        latencies=page.latencies(verdict),
        anomalies=verdict.get("metrics", {}).get("anomalies", {}),
        failover=verdict.get("metrics", {}).get("failover", {}),
        reroutes=verdict.get("metrics", {}).get("reroutes", {}),
        legend=figures.latency_legend(samples),
        operations=page.operations(run),
        counters=page.counters(folder),
        drawings=drawings,
    )


def _part(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _of_diagram(document: dict[str, Any]) -> dict[str, Any]:
    """What the page says of the diagram, and its data."""
    return {
        "packed": diagram.packed(document),
        "one_in": document["one_in"],
        "count": document["count"],
        "proofs": len(document["evidence"]),
        "groups": [name for name in (*diagram.GROUPS, "other") if name in document["groups"]],
    }
