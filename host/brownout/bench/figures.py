"""A measured figure, what it is compared to and what it has to reach; as a table and as a document.

Must not measure anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from ..analysis.distribution import percentile


@dataclass(frozen=True)
class Sample:
    """A median and a 99th percentile of n measurements; a figure that is a count or a mean has no percentile."""

    median: float
    p99: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Sample:
        ordered = sorted(values)
        return cls(percentile(ordered, 50), percentile(ordered, 99), len(ordered))


@dataclass(frozen=True)
class Figure:
    """One line of the table. `measure` is what is held to the target: "ratio" or "value"."""

    name: str
    value: float | None  # None: it could not be measured; the note says why
    unit: str
    target: float
    samples: int
    p99: float | None = None
    compared_to: str = ""
    compared_value: float | None = None
    compared_p99: float | None = None
    measure: str = "ratio"
    exact: bool = False  # the target is to be met, not to be stayed below
    strict: bool = False  # to be stayed below, not at
    at_least: bool = False  # the target is to be met or passed: the more the better
    note: str = ""

    @property
    def ratio(self) -> float | None:
        if self.value is None or not self.compared_value:
            return None
        return self.value / self.compared_value

    @property
    def reached(self) -> bool:
        measured = self.ratio if self.measure == "ratio" else self.value
        if measured is None:
            return False
        if self.exact:
            return measured == self.target
        if self.at_least:
            return measured >= self.target
        return measured < self.target if self.strict else measured <= self.target

    @property
    def target_text(self) -> str:
        sign = "=" if self.exact else "≥" if self.at_least else "<" if self.strict else "≤"
        return f"{sign} {self.target:g} {'×' if self.measure == 'ratio' else self.unit}"

    def document(self) -> dict[str, Any]:
        entry = asdict(self)
        entry |= {"ratio": self.ratio, "target": self.target_text, "target_value": self.target, "reached": self.reached}
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in entry.items()}


def side_by_side(
    name: str, ours: Sequence[float], theirs: Sequence[float], *, unit: str, compared_to: str, target: float, note: str
) -> Figure:
    """The ratio of two medians, of samples that were taken in turns."""
    mine, other = Sample.of(ours), Sample.of(theirs)
    return Figure(
        name,
        mine.median,
        unit,
        target,
        mine.count,
        p99=mine.p99,
        compared_to=compared_to,
        compared_value=other.median,
        compared_p99=other.p99,
        note=note,
    )


def document(figures: Sequence[Figure], machine: str) -> dict[str, Any]:
    return {"figures": [figure.document() for figure in figures], "machine": machine}


def _number(value: float | None, unit: str = "") -> str:
    if value is None:
        return "–"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{text} {unit}".strip()


def print_table(figures: Sequence[Figure], machine: str, console: Console) -> None:
    table = Table(title=f"brownout bench · {machine}", title_justify="left", expand=False)
    for heading, justify in (
        ("figure", "left"),
        ("median", "right"),
        ("p99", "right"),
        ("compared to", "left"),
        ("median", "right"),
        ("p99", "right"),
        ("ratio", "right"),
        ("target", "right"),
        ("", "left"),
        ("n", "right"),
    ):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for figure in figures:
        table.add_row(
            figure.name,
            _number(figure.value, figure.unit),
            _number(figure.p99),
            figure.compared_to,
            _number(figure.compared_value),
            _number(figure.compared_p99),
            _number(figure.ratio),
            figure.target_text,
            "[green]reached[/]" if figure.reached else "[red]missed[/]",
            f"{figure.samples:,}",
        )
    console.print(table)
    for figure in figures:
        if figure.note:
            console.print(f"[bold]{figure.name}[/]: {figure.note}", highlight=False)
