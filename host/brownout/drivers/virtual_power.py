"""Power switches of the virtual lab: off is SIGKILL, and the lab's kernel is asked what became of the process.

labctl power off|on|state BOARD...    labctl power cut-mid-write BOARD OPERATION BYTE    labctl reset BOARD...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..contracts import PowerState, RigError, Support
from ..labctl import LabControl

KINDS = ("cut", "cycle", "power_flap", "blackout", "reset", "cut_mid_write")


class VirtualPower:
    """Satisfies contracts.Power."""

    def __init__(self, control: LabControl, support: Mapping[str, Support]) -> None:
        self._control = control
        self.supports: Mapping[str, Support] = {kind: support[kind] for kind in KINDS}

    def off(self, boards: Sequence[str]) -> None:
        self._switch("off", boards, on=False)

    def on(self, boards: Sequence[str]) -> None:
        self._switch("on", boards, on=True)

    def _switch(self, action: str, boards: Sequence[str], *, on: bool) -> None:
        states = self._control.ask_by_board(list(boards), "power", action)
        wrong = [board for board in boards if states[board].get("on") is not on]
        # A board that is switched on may lose power again at once: an armed cut, a trap. That is no failure to switch.
        if wrong and not on:
            raise RigError(f"power {action}: {', '.join(wrong)} still says it is on", definite=False)

    def state(self, boards: Sequence[str]) -> dict[str, PowerState]:
        states = self._control.ask_by_board(list(boards), "power", "state")
        return {
            board: PowerState(board, bool(state["on"]), {key: value for key, value in state.items() if key != "on"})
            for board, state in states.items()
        }

    def reset(self, boards: Sequence[str]) -> None:
        self._control.ask_by_board(list(boards), "reset")

    def cut_mid_write(self, board: str, *, operation: int, byte: int) -> None:
        self._control.ask("power", "cut-mid-write", board, str(operation), str(byte))
