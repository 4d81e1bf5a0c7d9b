"""Raspberry Pi Pico and other RP2 boards: the end of the flash for the journal.

The journal takes the last 128 KiB of the storage that MicroPython gives to its file system. The file system must end
before: firmware frozen with our manifest mounts it so. On a stock build it covers everything; then the board keeps
its journal in RAM and is a learner after every boot. Must not write anywhere else.
"""

import os

import machine
import rp2

from . import chip, common

_PAGE = 256


class FlashRegion:
    """A stretch of the flash. The hardware programs whole pages, so a piece is padded with FF, which changes no bit."""

    def __init__(self, start, size):
        self._flash = rp2.Flash(start=start, len=size)
        self.readblocks = self._flash.readblocks
        self.ioctl = self._flash.ioctl
        self._page = bytearray(_PAGE)

    def writeblocks(self, block, buf, offset):
        buf = memoryview(buf)
        done = 0
        while done < len(buf):
            within = (offset + done) % _PAGE
            size = min(_PAGE - within, len(buf) - done)
            for place in range(_PAGE):
                self._page[place] = 0xFF
            self._page[within : within + size] = buf[done : done + size]
            self._flash.writeblocks(block, self._page, offset + done - within)
            done += size


class Port(chip.Port):
    name = "rp2"
    watchdog_timer = -1

    def flash_region(self):
        flash = rp2.Flash()
        size = flash.ioctl(5, 0)
        first = flash.ioctl(4, 0) - common.JOURNAL_BLOCKS
        files = os.statvfs("/")
        if files[1] * files[2] > first * size:
            return chip.MemoryRegion()
        return FlashRegion(first * size, common.JOURNAL_BLOCKS * size)

    def console(self):
        return common.Console(64, 256)  # a USB packet; its driver holds 256 bytes

    def power_off(self):
        machine.reset()  # it cannot let go of its supply; memory is lost all the same
