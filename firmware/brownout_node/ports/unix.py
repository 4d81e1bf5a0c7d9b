"""MicroPython's unix port: a virtual board on its boot ROM, or a Raspberry Pi and the like.

On a virtual board the ROM left the module `brownout_rom` (flash, reset_cause, power_off, ticks_ms). Without it, the
journal is a file beside the firmware, and power_off ends the process. Must not touch anything else of the host.
"""

import asyncio
import os
import sys
import time

from . import common

try:
    import brownout_rom as rom
except ImportError:
    rom = None

_JOURNAL = "journal.bin"
_BLOCK = 4096
_BLANK = b"\xff" * 256  # in pieces: a whole block may find no place on a board's heap
_BREAKING = 1, 10  # places of the quit and the suspend character in termios' list: bytes of frames must not end us
_LEAST, _TIME = (6, 5) if sys.platform == "linux" else (16, 17)


class FileRegion:
    """A journal region in a file, made blank when it is missing, synchronised at every write."""

    def __init__(self, name, blocks):
        self._blocks = blocks
        try:
            self._file = open(name, "r+b")
        except OSError:
            self._file = open(name, "w+b")
            for _ in range(blocks * 16):
                self._file.write(_BLANK)

    def readblocks(self, block, buf, offset=0):
        self._file.seek(block * _BLOCK + offset)
        self._file.readinto(buf)

    def writeblocks(self, block, buf, offset=0):
        self._file.seek(block * _BLOCK + offset)
        self._file.write(buf)
        self._file.flush()

    def ioctl(self, operation, argument):
        if operation == 4:
            return self._blocks
        if operation == 5:
            return _BLOCK
        if operation == 6:
            for offset in range(0, _BLOCK, 256):
                self.writeblocks(argument, _BLANK, offset)
        return 0


class Terminal(common.Console):
    """A terminal, set so that a read takes what there is: no echo, no line editing, only Ctrl-C keeps its meaning."""

    def __init__(self, settings):
        super().__init__(1024, 8192)
        self._settings = settings
        self._buffer = bytearray(512)
        changed = list(settings)
        changed[0] = changed[1] = 0
        changed[3] = 1  # ISIG
        changed[6] = list(settings[6])
        for place in _BREAKING:
            changed[6][place] = b"\0"
        changed[6][_LEAST] = changed[6][_TIME] = 0
        self._set(changed)

    def _set(self, settings):
        import termios

        termios.tcsetattr(0, termios.TCSANOW, settings)

    async def read(self):
        count = await asyncio.StreamReader(self._input).readinto(self._buffer)
        if not count:
            await asyncio.sleep(1)
        return bytes(self._buffer[: count or 0])

    def close(self):
        self._set(self._settings)


class Port:
    name = "unix"

    def __init__(self):
        self._console = None
        self.reset_text = rom.reset_cause if rom else "start"
        self.ticks_ms = rom.ticks_ms if rom else time.ticks_ms

    def flash_region(self):
        return rom.flash.journal if rom else FileRegion(_JOURNAL, common.JOURNAL_BLOCKS)

    def reset_cause(self):
        return self.reset_text

    def unique_id(self):
        try:
            with open("/etc/machine-id") as file:
                return file.read().strip().encode()
        except OSError:
            return b""

    def entropy(self):
        return int.from_bytes(os.urandom(3), "big")

    async def connect_network(self, config):
        """The host's network is there already."""

    def watchdog(self, timeout_ms):
        return lambda: None  # the process has a supervisor

    def console(self):
        if self._console is None:
            try:
                import termios

                self._console = Terminal(termios.tcgetattr(0))
            except (ImportError, OSError):  # a pipe
                self._console = common.Console(1024, 8192)
        return self._console

    def firmware_files(self):
        return common.firmware_files()

    def power_off(self):
        if rom:
            rom.power_off()
        sys.exit(1)

    def release(self):
        if self._console is not None:
            self._console.close()
            self._console = None
