"""A kept lab whose boards run: listened to and talked to, neither flashed nor restarted. For saving and restoring.

Must not change anything on a board by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from brownout_node.core import schema

from .bed import Bed, by_hand
from .contracts import UsageError
from .rig import Rig, load_rig

OPENS_WITHIN_S = 5.0
DESCRIBES_WITHIN_S = 5.0


class Attached(Bed):
    """Its boards are those that have power. directory: for what comes by their cables. Use as a context manager."""

    def __init__(self, rig: Rig, directory: Path, cluster: int) -> None:
        super().__init__(rig, by_hand(rig), directory=directory, cluster=cluster, seed=0)

    def _come_up(self) -> None:
        self.attach(self._start_lab())
        states = self.power.state(self.names)
        self.boards = tuple(board for board in self.boards if states[board.name].on)
        self.names = tuple(board.name for board in self.boards)
        self._listen()
        self.hub.start()
        self._stack.callback(self.hub.close)
        for name in self.names:
            self.hub.wait_open(name, True, OPENS_WITHIN_S)

    def firmware_of(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """The firmware's files and their hashes, as these boards tell them; a board that does not is left out."""
        asked = {name: self.command(name, schema.DESCRIBE, lambda number: (number,)) for name in names}
        told: dict[str, dict[str, str]] = {}
        for name, request in asked.items():
            files = self.watch.wait_for_description(name, request, DESCRIBES_WITHIN_S)
            if files:
                told[name] = files
        return told


def kept_rig(name: str) -> tuple[Rig, Path]:
    """A rig that stays up by itself, and the folder of its lab."""
    rig = load_rig(name)
    if rig.lab is None:
        raise UsageError(
            f"{rig.source}: rig {rig.name!r} exists only while a campaign runs; start one that stays with "
            "`brownout lab up`, and use --rig lab"
        )
    return rig, rig.lab
