"""What simulated boards' clocks, flash and heap are like: the switch for faults of them. Must not draw anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from ..contracts import Support
from .board import SimBoard
from .flash import BLOCK_BYTES

MOST_REQUESTS = 64  # for memory, before one fails


class SimConditions:
    """Satisfies contracts.Conditions."""

    def __init__(self, boards: Mapping[str, SimBoard], support: Mapping[str, Support]) -> None:
        self._boards = boards
        self.supports = support

    def clock(self, boards: Sequence[str], *, ppm: int, ms: int) -> None:
        for board in boards:
            self._boards[board].adjust_clock(ppm, ms)

    def headers(self, board: str) -> list[bytes]:
        data = self._boards[board].flash.data
        return [bytes(data[at : at + 16]) for at in range(0, len(data), BLOCK_BYTES)]

    def flip(self, board: str, bits: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        flash = self._boards[board].flash
        found = []
        for position, bit in bits:
            before = flash.data[position]
            flash.flip(position, bit)
            found.append((before, flash.data[position]))
        return found

    def refuse(self, boards: Sequence[str], way: str, sectors: Sequence[int], after: int) -> None:
        for board in boards:
            self._boards[board].flash.refuse(way, frozenset(sectors), after)

    def refused(self, boards: Sequence[str]) -> dict[str, int]:
        return {board: self._boards[board].flash.refused for board in boards}

    def press(self, boards: Sequence[str], kib: int | None, draw: int) -> None:
        for board in boards:
            # No heap is modelled: the board goes on for a while, and then one request for memory fails.
            after = None if kib is None else Random(f"{draw} {board}").randrange(MOST_REQUESTS)
            self._boards[board].press(after)

    def pressed(self, boards: Sequence[str]) -> dict[str, int]:
        return {board: self._boards[board].requests_refused for board in boards}

    def heal(self) -> list[str]:
        healed = []
        for name, board in self._boards.items():
            if board.flash.way:
                board.flash.refuse("", frozenset(), 0)
                healed.append(f"flash works again: {name}")
            if board.requests_left is not None:
                board.press(None)
                healed.append(f"memory is free again: {name}")
            if board.drift_ppm:
                board.adjust_clock(-board.drift_ppm, 0)
                healed.append(f"clock runs as it should: {name}")
        return healed
