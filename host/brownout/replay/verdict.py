"""What a replay came to, as a document; and whether the replayed boards break what the recorded ones broke.

Must not replay anything itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from .. import checkers
from ..board_events import decode_events
from ..history import BoardEvent
from .engine import LOCAL, BootResult, Replay
from .recording import FLIGHT, Recording

KEPT = frozenset((FLIGHT, "boot", "trapped"))  # events that tell what a replay has no part in


def document(recording: Recording, replay: Replay, results: Sequence[BootResult]) -> dict[str, Any]:
    """What `brownout replay --json` prints."""
    differences = sorted(
        (result.difference for result in results if result.difference is not None), key=lambda found: found.step
    )
    open_ends = [result for result in results if result.why is not None]
    told = "differs" if differences else "unknown" if open_ends else "faithful"
    rows = [{**asdict(result), "difference": None} for result in results]
    return {
        "replay": told,
        "steps": sum(result.steps for result in results),
        "replayed": sum(result.replayed for result in results),
        "inputs": sum(result.inputs for result in results),
        "boards": list(recording.boards),
        "first": f"{differences[0].step} of {differences[0].board}" if differences else None,
        "differences": [_plain(asdict(found)) for found in differences],
        "violated": violated(recording, replay),
        "boots": rows,
    }


def violated(recording: Recording, replay: Replay) -> list[str]:
    """The checks that the run violates when its boards' events are those of the replay."""
    history = recording.history
    made = _made(replay)
    events = [_replayed(event, made) for event in history.events]
    judged = checkers.judge(replace(history, events=events))
    return [check["name"] for check in judged["checks"] if check["verdict"] == "invalid"]


def _made(replay: Replay) -> dict[tuple[str, int, int], tuple[str, dict[str, Any]]]:
    """(board, boot, number) -> kind and fields, of what the replayed protocols reported."""
    made = {}
    for name, board in replay.boards.items():
        for boot, events in board.made.items():
            for _boot, sequence, _now_ms, _stamp, kind, fields in decode_events(b"".join(events)):
                if fields.get("transport") != LOCAL[0]:
                    made[name, boot, sequence] = (kind, fields)
    return made


def _replayed(event: BoardEvent, made: dict[tuple[str, int, int], tuple[str, dict[str, Any]]]) -> BoardEvent:
    found = made.get((event.board, event.boot, event.sequence))
    if found is None or event.kind in KEPT:
        return event
    return replace(event, kind=found[0], fields=found[1])


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key.hex() if isinstance(key, bytes) else key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).hex()
    return value if isinstance(value, (int, str, float, type(None))) else repr(value)
