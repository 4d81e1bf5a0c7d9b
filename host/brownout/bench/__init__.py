"""`brownout bench`: the figures that the project holds itself to, each beside what it is compared to, in one run.

A figure that is missed stays in the table. Must not be a test: times depend on the machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from rich.console import Console

from ..contracts import UsageError
from . import (
    checking,
    decision,
    flashing,
    fleet,
    gateway,
    heap,
    journal,
    paced_flashing,
    protocols,
    publish,
    replay,
    reporting,
    simulator,
)
from .figures import Figure, document, print_table
from .workbench import Workbench, machine

PARTS: dict[str, Callable[[Workbench], list[Figure]]] = {
    "journal": journal.measure,
    "publish": publish.measure,
    "heap": heap.measure,  # before the boards that it shares with the decisions have seen any load
    "decision": decision.measure,
    "flash": flashing.measure,
    "fleet": fleet.measure,
    "gateway": gateway.measure,
    "gateway-flash": paced_flashing.measure,
    "checkers": checking.measure,
    "sim": simulator.measure,
    "replay": replay.measure,
    "report": reporting.measure,
    "protocols": protocols.measure,
}

WIDE = 170


def main(names: Sequence[str], as_json: bool) -> int:
    """Measure the named parts, or all; print a table, or with `as_json` only the document. Returns the exit code."""
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise UsageError(f"bench: unknown measurement {unknown[0]!r}; allowed: {', '.join(PARTS)}")
    status = Console(stderr=True)

    def progress(what: str, done: int, total: int) -> None:
        if done == 0 and not as_json:
            status.print(f"[dim]{what} ...[/]", highlight=False)

    figures: list[Figure] = []
    on = machine()
    with Workbench(progress) as bench:
        for name in names or PARTS:
            figures += PARTS[name](bench)
    if as_json:
        print(json.dumps(document(figures, on), indent=1))
    else:
        console = Console()
        if not console.is_terminal:
            console.width = WIDE  # a table in a file is not to be folded
        print_table(figures, on, console)
    return 0
