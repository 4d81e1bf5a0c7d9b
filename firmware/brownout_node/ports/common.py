"""What all ports share: the console as a byte stream that never blocks, and the list of firmware files.

Must not import a module that only some boards have; chip.py is for what has Wi-Fi, a watchdog and a reset pin.
"""

import asyncio
import os
import select
import sys

JOURNAL_BLOCKS = 32  # of 4096 bytes: the region that the flasher sets aside


class Console:
    """The cable that is also the prompt. A write takes up to `most` bytes, in pieces that the driver swallows whole."""

    def __init__(self, piece, most):
        self._input = sys.stdin.buffer
        self._output = sys.stdout.buffer
        self._piece = piece
        self._most = most
        self._readable = select.poll()
        self._readable.register(self._input, select.POLLIN)
        self._writable = select.poll()
        self._writable.register(self._output, select.POLLOUT)
        self._one = bytearray(1)

    async def read(self):
        """Wait for bytes. Boards' drivers block until the buffer is full, hence one byte at a time."""
        count = await asyncio.StreamReader(self._input).readinto(self._one)
        if not count:
            await asyncio.sleep(1)  # the other end is gone; it may come back
            return b""
        data = bytearray(self._one)
        while len(data) < 256 and self._readable.poll(0) and self._input.readinto(self._one):
            data.extend(self._one)
        return bytes(data)

    def write(self, data):
        """Write what goes without waiting; returns how many bytes that was."""
        done = 0
        while done < len(data) and done < self._most and self._writable.poll(0):
            try:
                count = self._output.write(data[done : done + self._piece])
            except OSError:
                break  # nobody there; the sender keeps what it has
            if not count:
                break
            done += count
        return done

    def close(self):
        """Leave the console as it was found."""


def firmware_files():
    """boot.py, main.py and everything of brownout_node, beside them or in /lib, sorted."""
    found = []
    for folder in ("", "lib/"):
        if folder and "lib" not in os.listdir():
            continue
        for name in os.listdir(folder[:-1]) if folder else os.listdir():
            if name == "brownout_node":
                _collect(folder + name, found)
            elif not folder and name in ("boot.py", "main.py", "boot.mpy", "main.mpy"):
                found.append(name)
    return sorted(found)


def _collect(folder, found):
    for entry in os.ilistdir(folder):
        path = folder + "/" + entry[0]
        if entry[1] == 0x4000:
            _collect(path, found)
        elif path.rsplit(".", 1)[-1] in ("py", "mpy"):
            found.append(path)
