"""Whether a change moved a metric, and by how much: runs in two groups by a key of their manifests.

A run counts once, by its median: values within a run depend on each other, and pooled they would show what is not
there. Chances are corrected for the number of metrics (Holm, 1979). Must not judge a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..contracts import UsageError
from .intervals import CONFIDENCE, brief, difference, median, median_interval
from .measures import samples
from .record import Record


def compare(runs: Sequence[Path], by: str) -> dict[str, Any]:
    """The document of `brownout compare`; UsageError where the key does not make two groups."""
    groups: dict[str, list[dict[str, float]]] = {}
    for run in runs:
        with Record(run) as record:
            value = _value(record.history.manifest, by, run)
            medians = {name: median(sorted(values)) for name, values in samples(record).items() if values}
        groups.setdefault(value, []).append(medians)
    if len(groups) != 2:
        raise UsageError(
            f"--by {by}: makes {len(groups)} groups of these {len(runs)} runs ({', '.join(groups)}); two are compared"
        )
    (first, before), (second, after) = groups.items()
    names = sorted({name for runs_of in groups.values() for medians in runs_of for name in medians})
    metrics = [_metric(name, _of(before, name), _of(after, name)) for name in names]
    _correct([metric for metric in metrics if metric["chance"] is not None])
    return {"by": by, "groups": {first: len(before), second: len(after)}, "metrics": metrics}


def _value(manifest: Mapping[str, Any], by: str, run: Path) -> str:
    """A key of the manifest; of a table in it by a dot, as in timing.gossip_period_ms."""
    found: Any = manifest
    for part in by.split("."):
        if not isinstance(found, Mapping) or part not in found:
            raise UsageError(f"--by {by}: the manifest of {run} has no such key; it has {', '.join(manifest)}")
        found = found[part]
    return str(found)


def _of(runs: Sequence[Mapping[str, float]], name: str) -> list[float]:
    return [medians[name] for medians in runs if name in medians]


def _metric(name: str, before: list[float], after: list[float]) -> dict[str, Any]:
    intervals = [median_interval(values) for values in (before, after)]
    change = difference(before, after)
    return {
        "metric": name,
        "before": intervals[0].document() if intervals[0] else None,
        "after": intervals[1].document() if intervals[1] else None,
        "shift": brief(change.shift) if change else None,
        "low": brief(change.low) if change else None,
        "high": brief(change.high) if change else None,
        "chance": change.chance if change else None,
        "moved": False,
    }


def _correct(metrics: list[dict[str, Any]]) -> None:
    """Holm: the least chance times the number of metrics, the next times one less, and none below one before it."""
    least = 0.0
    for number, metric in enumerate(sorted(metrics, key=lambda metric: float(metric["chance"]))):
        least = min(1.0, max(least, metric["chance"] * (len(metrics) - number)))
        metric["chance"] = brief(least)
        metric["moved"] = least <= 1 - CONFIDENCE
