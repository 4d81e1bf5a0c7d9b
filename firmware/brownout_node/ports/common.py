"""What the ports share: the console as a byte stream that never blocks, Wi-Fi, watchdog, the list of firmware files.

Must not import a module that only some boards have, except inside of the function that is for those boards.
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


class MemoryRegion:
    """A journal region that forgets, for boards without one in flash: after each boot such a board is a learner."""

    def __init__(self, blocks=48, size=512):
        self._blocks = blocks
        self._size = size
        self._data = bytearray(b"\xff" * (blocks * size))

    def readblocks(self, block, buf, offset=0):
        at = block * self._size + offset
        buf[:] = self._data[at : at + len(buf)]

    def writeblocks(self, block, buf, offset=0):
        at = block * self._size + offset
        self._data[at : at + len(buf)] = buf

    def ioctl(self, operation, argument):
        if operation == 4:
            return self._blocks
        if operation == 5:
            return self._size
        if operation == 6:
            self.writeblocks(argument, b"\xff" * self._size)
        return 0


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


async def join_wifi(config):
    """Join the configured access point; returns once there is an address."""
    import network

    wlan = network.WLAN(network.WLAN.IF_STA)
    if config.wifi is None or wlan.isconnected():
        return
    network.hostname(config.name)
    wlan.active(True)
    wlan.config(pm=network.WLAN.PM_NONE)  # a radio that dozes adds a tenth of a second to every message
    if "address" in config.wifi:
        address, _slash, bits = config.wifi["address"].partition("/")
        mask = (0xFFFFFFFF << (32 - int(bits))) & 0xFFFFFFFF
        mask = ".".join([str(mask >> shift & 255) for shift in (24, 16, 8, 0)])
        gateway = config.wifi.get("gateway", address)
        wlan.ifconfig((address, mask, gateway, gateway))
    while True:
        wlan.connect(config.wifi["ssid"], config.wifi["password"])
        for _ in range(100):
            if wlan.isconnected():
                return
            await asyncio.sleep(0.1)
        wlan.disconnect()


class Watchdog:
    """The chip's watchdog. It cannot be stopped, so `release` has a timer feed it while somebody is at the prompt."""

    def __init__(self, timer, timeout_ms):
        import machine

        self._timer = timer
        self._period_ms = timeout_ms // 3
        self.feed = machine.WDT(timeout=timeout_ms).feed

    def release(self):
        import machine

        machine.Timer(self._timer).init(period=self._period_ms, callback=lambda _timer: self.feed())


def reset_cause(machine):
    """machine.reset_cause() as text; boards differ in what they can tell apart."""
    for name in ("PWRON_RESET", "HARD_RESET", "WDT_RESET", "DEEPSLEEP_RESET", "SOFT_RESET"):
        if machine.reset_cause() == getattr(machine, name, None):
            return name[:-6].lower()
    return "unknown"
