"""Clocks, flash and heap of the virtual lab's boards, beyond having power.

labctl clock adjust PPM MS BOARD...    labctl clock reset BOARD...
labctl flash refuse WAY MASK AFTER BOARD...
labctl memory press KIB BOARD...       labctl memory release BOARD...
labctl flash headers BOARD             labctl flash flip BITS BOARD    BITS: position.bit,position.bit,...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..contracts import Support
from ..labctl import LabControl

KINDS = ("bitrot", "full", "worn", "skew", "drift", "jump", "pressure")
MOST_BITS = 500  # of one command line


class VirtualConditions:
    """Satisfies contracts.Conditions."""

    def __init__(self, control: LabControl, support: Mapping[str, Support]) -> None:
        self._control = control
        self.supports: Mapping[str, Support] = {kind: support[kind] for kind in KINDS}

    def clock(self, boards: Sequence[str], *, ppm: int, ms: int) -> None:
        self._control.ask_by_board(list(boards), "clock", "adjust", str(ppm), str(ms))

    def headers(self, board: str) -> list[bytes]:
        answer = self._control.ask_by_board([board], "flash", "headers")
        return [bytes.fromhex(header) for header in answer[board]["headers"]]

    def flip(self, board: str, bits: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for first in range(0, len(bits), MOST_BITS):
            words = ",".join(f"{position}.{bit}" for position, bit in bits[first : first + MOST_BITS])
            answer = self._control.ask_by_board([board], "flash", "flip", words)
            found += [(before, after) for before, after in answer[board]["bytes"]]
        return found

    def refuse(self, boards: Sequence[str], way: str, sectors: Sequence[int], after: int) -> None:
        mask = sum(1 << sector for sector in sectors)
        self._control.ask_by_board(list(boards), "flash", "refuse", way or "none", f"{mask:x}", str(after))

    def refused(self, boards: Sequence[str]) -> dict[str, int]:
        answer = self._control.ask_by_board(list(boards), "power", "state")
        return {board: int(answer[board]["flash"]["refused"]) for board in boards}

    def press(self, boards: Sequence[str], kib: int | None, draw: int) -> None:
        words = ("release",) if kib is None else ("press", str(kib))
        self._control.ask_by_board(list(boards), "memory", *words)

    def pressed(self, boards: Sequence[str]) -> dict[str, int]:
        answer = self._control.ask_by_board(list(boards), "power", "state")
        return {board: int(answer[board]["held"]) for board in boards}

    def heal(self) -> list[str]:
        self._control.ask("flash", "refuse", "none", "0", "0", "all")
        self._control.ask("memory", "release", "all")
        answer = self._control.ask("clock", "reset", "all")
        wrong = [board for board, found in answer.items() if found["was"]["ppm"]]
        return [f"clocks run as they should: {', '.join(wrong)}"] if wrong else []
