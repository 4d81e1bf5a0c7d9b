"""The firmware's own journal on an emulated flash, as the journal of a Board in the cluster."""

from __future__ import annotations

from collections.abc import Sequence

import nor
from brownout_node.storage.journal import Journal, format_genesis
from cluster import CLUSTER, PowerCut

BLOCKS = 32
BLOCK_BYTES = 4096


class NorJournal:
    """Power can go at any byte that is programmed, or in an erase: see cut_within()."""

    def __init__(self, board: int) -> None:
        self.device = nor.Nor(BLOCKS, BLOCK_BYTES, seed=board)
        format_genesis(self.device, CLUSTER, board)
        self.appends = 0
        self.cuts = 0
        self.open()

    def open(self) -> None:
        self.device.cut_at = None
        self.journal = Journal(self.device)
        self.journal.open()
        self.condition = self.journal.condition
        self.get, self.keys = self.journal.get, self.journal.keys

    def append(self, records: Sequence[tuple[int, bytes | None]]) -> None:
        self.appends += 1
        try:
            self.journal.append(records)
        except nor.PowerCut:
            self.cuts += 1
            raise PowerCut from None

    def cut_within(self, ticks: int) -> None:
        """Cut the power after that many more programmed bytes; an erase counts as 32."""
        self.device.cut_at = self.device.ticks + ticks

    def wipe(self) -> None:
        for block in range(BLOCKS):
            self.device.ioctl(6, block)
