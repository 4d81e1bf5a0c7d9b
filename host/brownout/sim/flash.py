"""A model of NOR flash as a MicroPython block device: programs only clear bits, erases take a block, both can be cut.

What it can do to a board: lose power inside an operation after so many bytes of it, answer for a write that never
happened, forget bits, wear out. Must not know what is written. One erase or program counts as one operation.
"""

from __future__ import annotations

import errno

BLOCK_BYTES = 4096
BLOCKS = 32  # of a journal region, as on a virtual board


class PowerLost(Exception):
    """The supply went away in the middle of something."""


class SimFlash:
    """One region. programs, erases: counts. busy_ns: time that operations took; whoever wants it takes it back to 0."""

    def __init__(self, program_ns: int = 0, erase_ns: int = 0, blocks: int = BLOCKS) -> None:
        self.blocks = blocks
        self.data = bytearray(b"\xff" * (blocks * BLOCK_BYTES))
        self.programs = 0
        self.erases = 0
        self.busy_ns = 0
        self.worn: set[int] = set()
        self.way = ""  # in which erases and programs of `sectors` go wrong: contracts.Conditions.refuse
        self.sectors: frozenset[int] = frozenset()
        self.refused = 0
        self._wrong_from = 0  # number of the operation
        self.lost_writes = 0  # of the next programs, how many are acknowledged and never happen
        self._program_ns = program_ns
        self._erase_ns = erase_ns
        self._cut_at = 0  # number of the operation inside which power fails; 0: none
        self._cut_byte = 0

    # The block device.

    def readblocks(self, block: int, buffer: bytearray | memoryview, offset: int = 0) -> None:
        at = block * BLOCK_BYTES + offset
        buffer[:] = self.data[at : at + len(buffer)]

    def writeblocks(self, block: int, buffer: bytes | bytearray | memoryview, offset: int = 0) -> None:
        size = len(buffer)
        self.programs += 1
        self.busy_ns += self._program_ns
        done, cut = self._begin(size)
        if block in self.worn:
            raise OSError(errno.EIO, f"program of block {block} failed")
        if self._refuses(block):
            return
        if self.lost_writes:
            self.lost_writes -= 1
        else:
            self._program(block * BLOCK_BYTES + offset, bytes(buffer[:done]))
        if cut:
            raise PowerLost

    def ioctl(self, operation: int, argument: int) -> int:
        if operation == 4:
            return self.blocks
        if operation == 5:
            return BLOCK_BYTES
        if operation == 6:
            self._erase(argument)
        return 0

    def _program(self, at: int, new: bytes) -> None:
        old = self.data[at : at + len(new)]
        if old.count(0xFF) != len(new):
            cleared = int.from_bytes(old, "big") & int.from_bytes(new, "big")
            new = cleared.to_bytes(len(new), "big")
        self.data[at : at + len(new)] = new

    def _erase(self, block: int) -> None:
        self.erases += 1
        self.busy_ns += self._erase_ns
        done, cut = self._begin(BLOCK_BYTES)
        if block in self.worn:
            raise OSError(errno.EIO, f"erase of block {block} failed")
        if self._refuses(block):
            return
        at = block * BLOCK_BYTES
        self.data[at : at + done] = b"\xff" * done
        if cut:
            raise PowerLost

    # What may happen to it.

    @property
    def operations(self) -> int:
        return self.programs + self.erases

    @property
    def armed(self) -> bool:
        return self._cut_at > 0

    def cut(self, operation: int, byte: int) -> None:
        """Lose power inside the `operation`-th operation from now (1 is the next) after `byte` bytes; 0 disarms."""
        self._cut_at = self.operations + operation if operation else 0
        self._cut_byte = byte

    def _begin(self, size: int) -> tuple[int, bool]:
        """How many bytes of this operation come to be, and whether power fails then."""
        if self._cut_at == 0 or self.operations < self._cut_at:
            return size, False
        self._cut_at = 0
        return min(self._cut_byte, size), True

    def refuse(self, way: str, sectors: frozenset[int], after: int) -> None:
        """Let operations on these blocks go wrong, from the `after`-th from now on."""
        self.way, self.sectors = way, sectors
        self.refused = 0
        self._wrong_from = self.operations + after

    def _refuses(self, block: int) -> bool:
        """Whether nothing happens, silently; OSError where it is told."""
        if not self.way or block not in self.sectors or self.operations < self._wrong_from:
            return False
        self.refused += 1
        if self.way != "sticks":
            raise OSError(errno.ENOSPC if self.way == "full" else errno.EIO, f"block {block}")
        return True

    def wipe(self) -> None:
        self.data[:] = b"\xff" * len(self.data)

    def flip(self, position: int, bit: int) -> None:
        """Turn one bit over, as ageing does."""
        self.data[position] ^= 1 << bit
