"""Serial cables of the virtual lab: an unplugged one has no port, and what its board says is lost.

labctl cable unplug|plug|state BOARD...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..contracts import RigError, Support
from ..labctl import LabControl

KINDS = ("unplug",)


class VirtualCable:
    """Satisfies contracts.Cable."""

    def __init__(self, control: LabControl, support: Mapping[str, Support]) -> None:
        self._control = control
        self.supports: Mapping[str, Support] = {kind: support[kind] for kind in KINDS}

    def unplug(self, boards: Sequence[str]) -> None:
        self._move("unplug", boards, plugged=False)

    def plug(self, boards: Sequence[str]) -> None:
        self._move("plug", boards, plugged=True)

    def _move(self, action: str, boards: Sequence[str], *, plugged: bool) -> None:
        states = self._control.ask_by_board(list(boards), "cable", action)
        wrong = [board for board in boards if states[board].get("plugged") is not plugged]
        if wrong:
            raise RigError(f"cable {action}: that of {', '.join(wrong)} did not move", definite=False)

    def state(self, boards: Sequence[str]) -> dict[str, bool]:
        states = self._control.ask_by_board(list(boards), "cable", "state")
        return {board: bool(state["plugged"]) for board, state in states.items()}
