"""Learns whether the switches of a bench do what they say: which port feeds which board, how fast, and which ones lie.

One outlet at a time goes off and on again, while every board's serial port is watched: a port that stays is fed all
the same, a port of another board that goes is ganged or cross-wired. What could not be proven is named, and a bench
must not use it. Writes nothing but the result beside the rig file. Boards lose power: nothing else may run there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .contracts import Progress, RigError
from .fault_kinds import KINDS
from .faults import Plan
from .rig import Rig

SETTLES_WITHIN_S = 4.0
LOOK_S = 0.01


class Power(Protocol):
    """What is asked of bench_power.BenchPower."""

    def switch_only(self, board: str, on: bool) -> bool: ...


@dataclass
class Finding:
    """What was learnt of one board's outlet. verdict: proven | lies | ganged | dead | failed."""

    board: str
    outlet: str
    verdict: str = "proven"
    off_ms: float | None = None
    on_ms: float | None = None
    also: list[str] = field(default_factory=list)  # other boards that went dark with it
    detail: str = ""


def qualify(
    outlets: Mapping[str, str], power: Power, enumerated: Callable[[str], bool], progress: Progress
) -> list[Finding]:
    """Try every outlet. outlets: board -> where it is fed; all boards have power and their ports are there."""
    findings = []
    boards = list(outlets)
    for done, board in enumerate(boards):
        progress("qualifying", done, len(boards))
        findings.append(_try(board, outlets[board], boards, power, enumerated))
    progress("qualifying", len(boards), len(boards))
    return findings


def _try(board: str, outlet: str, boards: Sequence[str], power: Power, enumerated: Callable[[str], bool]) -> Finding:
    finding = Finding(board, outlet)
    if not enumerated(board):
        finding.verdict, finding.detail = "dead", "its serial port is not there although its outlet is on"
        return finding
    before = {other for other in boards if enumerated(other)}
    try:
        finding.off_ms = _switch(board, False, power, lambda: not enumerated(board))
        gone = sorted(other for other in before - {board} if not enumerated(other))
        finding.on_ms = _switch(board, True, power, lambda: all(enumerated(other) for other in (board, *gone)))
    except RigError as error:
        finding.verdict, finding.detail = "failed", str(error)
        return finding
    if finding.off_ms is None:
        finding.verdict = "lies"
        finding.detail = f"the switch says off, and the board is still there after {SETTLES_WITHIN_S:.0f} s"
    elif gone:
        finding.verdict, finding.also = "ganged", gone
        finding.detail = f"{', '.join(gone)} went dark with it"
    elif finding.on_ms is None:
        finding.verdict = "dead"
        finding.detail = f"its port did not come back within {SETTLES_WITHIN_S:.0f} s of power"
    return finding


def _switch(board: str, on: bool, power: Power, reached: Callable[[], bool]) -> float | None:
    """Milliseconds until the board's side shows it; None where it never does."""
    began_s = time.monotonic()
    power.switch_only(board, on)
    while not reached():
        if time.monotonic() - began_s > SETTLES_WITHIN_S:
            return None
        time.sleep(LOOK_S)
    return round((time.monotonic() - began_s) * 1000, 1)


def result_path(rig_file: str) -> Path:
    return Path(rig_file).with_suffix(".qualified.json")


def write_result(rig_file: str, findings: Sequence[Finding]) -> Path:
    path = result_path(rig_file)
    document = {
        "rig": Path(rig_file).name,
        "qualified_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "boards": {finding.board: asdict(finding) for finding in findings},
    }
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return path


def refuse_unproven(plan: Plan, rig: Rig) -> None:
    """RigError where a plan cuts the power of a board whose outlet could not be proven."""
    wrong = unproven(rig.source)
    for fault in plan.faults:
        if KINDS[fault.kind].group != "power" and fault.kind != "wipe":
            continue
        for board in fault.boards or tuple(board.name for board in plan.boards):  # drawn only when the run is under way
            if board in wrong:
                raise RigError(
                    f"fault {fault.id} ({fault.kind}) may cut the power of {board}, whose outlet could not be proven "
                    f"({wrong[board]}); feed it by another one and run `brownout rig qualify` again, or say "
                    "--trust-switches and get `unknown`"
                )


def unproven(rig_file: str) -> dict[str, str]:
    """board -> why its outlet is not to be used, as the last `rig qualify` found; empty where nobody ever asked."""
    try:
        document: dict[str, Any] = json.loads(result_path(rig_file).read_text(encoding="utf-8"))
        boards = document["boards"].items()
        return {
            board: f"{entry['verdict']}: {entry['detail']}" for board, entry in boards if entry["verdict"] != "proven"
        }
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RigError(
            f"{result_path(rig_file)} cannot be read ({error}); brownout rig qualify writes it anew"
        ) from None
