"""Flash of the virtual lab's boards: the journal region of a board without power can be erased.

labctl flash wipe-journal BOARD...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..contracts import Support
from ..labctl import LabControl

KINDS = ("wipe", "restore")


class VirtualStorage:
    """Satisfies contracts.Storage."""

    def __init__(self, control: LabControl, support: Mapping[str, Support]) -> None:
        self._control = control
        self.supports: Mapping[str, Support] = {kind: support[kind] for kind in KINDS}

    def wipe(self, boards: Sequence[str]) -> None:
        self._control.ask_by_board(list(boards), "flash", "wipe-journal")
