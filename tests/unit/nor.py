"""A NOR flash in memory, for the journal's tests: bits only fall until a block is erased, and power can go at any byte.

Every programmed byte, and every 32nd part of an erase, is a tick; at tick `cut_at` PowerCut is raised, with the byte
half programmed, or the erase half done and rubbish in the cells.
"""

from __future__ import annotations

import random


class PowerCut(BaseException):
    """The supply is gone. Not an Exception: nothing on the board could catch it."""


class Nor:
    def __init__(self, blocks: int = 8, size: int = 512, image: bytes | None = None, seed: int = 0) -> None:
        self.blocks = blocks
        self.size = size
        self.cells = bytearray(image if image is not None else b"\xff" * (blocks * size))
        self.random = random.Random(seed)
        self.ticks = 0
        self.cut_at: int | None = None
        self.programs = 0
        self.erases = 0

    def _tick(self) -> bool:
        self.ticks += 1
        return self.cut_at is not None and self.ticks >= self.cut_at

    def ioctl(self, operation: int, argument: int) -> int:
        if operation == 4:
            return self.blocks
        if operation == 5:
            return self.size
        assert operation == 6
        self._erase(argument)
        return 0

    def _erase(self, block: int) -> None:
        assert 0 <= block < self.blocks
        start = block * self.size
        step = self.size // 32
        for part in range(32):
            if self._tick():
                # Some cells are erased, some are not, some are neither; the header may be among those that are not.
                for at in range(start, start + self.size):
                    choice = self.random.random()
                    if at < start + part * step or choice < 0.2:
                        self.cells[at] = 0xFF
                    elif choice < 0.3:
                        self.cells[at] |= self.random.randrange(256)
                raise PowerCut
        self.cells[start : start + self.size] = b"\xff" * self.size
        self.erases += 1

    def readblocks(self, block: int, buffer: bytearray, offset: int) -> None:
        assert 0 <= block < self.blocks
        assert 0 <= offset <= offset + len(buffer) <= self.size
        start = block * self.size + offset
        buffer[:] = self.cells[start : start + len(buffer)]

    def writeblocks(self, block: int, buffer: bytes, offset: int) -> None:
        assert 0 <= block < self.blocks
        assert 0 <= offset < offset + len(buffer) <= self.size
        self.programs += (offset + len(buffer) - 1) // 256 - offset // 256 + 1
        start = block * self.size + offset
        for at, byte in enumerate(bytes(buffer), start):
            assert self.cells[at] & byte == byte, "a bit was to rise without an erase"
            if self._tick():
                self.cells[at] &= byte | self.random.randrange(256)
                raise PowerCut
            self.cells[at] &= byte
