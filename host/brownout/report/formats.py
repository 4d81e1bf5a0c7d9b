"""A run's verdict and figures as JSON, Markdown or JUnit XML: text for other programs and for comments. Judges nothing
but where no verdict was written yet.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..analysis.measures import measure
from ..analysis.record import Record
from ..checkers import judge
from ..store import VERDICT, load, read_document

# Of sites: what each fault of a broker or of a bridge cost, and each change of route.
OUTAGE_KEYS: Sequence[str] = (
    *("fault", "kind", "where", "lasted_ms"),
    *("rerouted", "longest_gap_ms", "decision_gap_ms", "answer_gap_ms"),
)
CHANGE_KEYS: Sequence[str] = ("board", "at_s", "from", "to", "gap_ms", "fault", "heard_ms")
ANOMALY_KEYS = ("kind", "board", "at_s", "detail")


def render(run: Path, form: str) -> str:
    """The text of a run's report; form: json, md or junit."""
    verdict = read_document(run, VERDICT) if (run / VERDICT).exists() else judge(load(run))
    if form == "junit":
        return _junit(run, verdict)
    with Record(run) as record:
        analysis = measure(record)
    if form == "json":
        return json.dumps({**verdict, "analysis": analysis}, indent=1, ensure_ascii=False, allow_nan=False)
    return _markdown(run, verdict, analysis)


def _junit(run: Path, verdict: dict[str, Any]) -> str:
    """A check is a test case; what is unknown is an error, since nobody may take it for passed."""
    checks = verdict["checks"]
    suite = ElementTree.Element("testsuite", name=f"brownout {run.resolve().name}", tests=str(len(checks)))
    for name, counted in (("failures", "invalid"), ("errors", "unknown")):
        suite.set(name, str(sum(check["verdict"] == counted for check in checks)))
    for check in checks:
        case = ElementTree.SubElement(suite, "testcase", classname="brownout", name=check["name"])
        if check["verdict"] != "valid":
            kind = "failure" if check["verdict"] == "invalid" else "error"
            found = ElementTree.SubElement(case, kind, message=_printable(check["detail"]))
            found.text = _printable("\n".join(json.dumps(entry) for entry in check["evidence"]))
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suite, encoding="unicode")


def _printable(text: str) -> str:
    """Without what XML 1.0 cannot hold."""
    return "".join(one if one in "\t\n" or (one >= " " and one not in "\ufffe\uffff") else "?" for one in text)


def _markdown(run: Path, verdict: dict[str, Any], analysis: dict[str, Any]) -> str:
    parts = [f"# {_cell(run.resolve().name)}: {verdict['verdict']}"]
    wrong = [check for check in verdict["checks"] if check["verdict"] != "valid"]
    for check in wrong:
        evidence = "\n".join(json.dumps(entry, ensure_ascii=False) for entry in check["evidence"])
        parts.append(f"**{check['name']}: {check['verdict']}.** {_cell(check['detail'])}")
        parts.append("\n".join(f"    {line}" for line in evidence.splitlines()) or "No evidence was recorded.")
    parts.append(
        _table(("Check", "Verdict", "Detail"), ((c["name"], c["verdict"], c["detail"]) for c in verdict["checks"]))
    )
    metrics = ((name, f["median"], f["low"], f["high"], f["count"]) for name, f in analysis["metrics"].items() if f)
    parts.append(_table(("Metric", "Median", "Low", "High", "Count"), metrics))
    if analysis["faults"]:
        keys = ("fault", "kind", "lasted_ms", "unavailable_ms", "converged_ms")
        parts.append(_table(keys, ([row[key] for key in keys] for row in analysis["faults"])))
    routes = verdict.get("metrics", {}).get("reroutes", {})
    for head, told in ((OUTAGE_KEYS, routes.get("outages")), (CHANGE_KEYS, routes.get("changes"))):
        if told:
            parts.append(_table(head, [[row[key] for key in head] for row in told]))
    found = verdict.get("metrics", {}).get("anomalies", {}).get("found", ())
    if found:
        rows = ([anomaly[key] for key in ANOMALY_KEYS] for anomaly in found)
        parts.append(_table(("Anomaly", "Board", "At s", "What"), rows))
    return "\n\n".join(parts)


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(value) for value in line)} |" for line in lines)


def _cell(value: Any) -> str:
    return "" if value is None else " ".join(str(value).split()).replace("|", "\\|")
