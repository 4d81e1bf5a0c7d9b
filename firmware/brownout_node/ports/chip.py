"""What microcontroller boards share: Wi-Fi, the watchdog, reset causes, and a journal region for boards without one.

Must not be imported on the unix port, which has none of it.
"""

import asyncio
import os
import time

import machine

from . import common


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


async def join_wifi(config):
    """Join the configured access point; returns once there is an address."""
    import network

    wlan = network.WLAN(network.WLAN.IF_STA)
    if wlan.isconnected():
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
        self._timer = timer
        self._period_ms = timeout_ms // 3
        self.feed = machine.WDT(timeout=timeout_ms).feed

    def release(self):
        machine.Timer(self._timer).init(period=self._period_ms, callback=lambda _timer: self.feed())


class Port:
    """What esp32.py and rp2.py add to: flash_region(), power_off(), console()."""

    ticks_ms = staticmethod(time.ticks_ms)
    watchdog_timer = 0  # the machine.Timer that feeds the watchdog at the prompt

    def __init__(self):
        self._watchdog = None

    def reset_cause(self):
        """machine.reset_cause() as text; boards differ in what they can tell apart."""
        for name in ("PWRON_RESET", "HARD_RESET", "WDT_RESET", "DEEPSLEEP_RESET", "SOFT_RESET"):
            if machine.reset_cause() == getattr(machine, name, None):
                return name[:-6].lower()
        return "unknown"

    def unique_id(self):
        return machine.unique_id()

    def entropy(self):
        return int.from_bytes(os.urandom(3), "big")

    async def connect_network(self, config):
        if config.wifi is not None:  # a Pico without W has no module `network`
            await join_wifi(config)

    def watchdog(self, timeout_ms):
        if not timeout_ms:
            return lambda: None
        self._watchdog = Watchdog(self.watchdog_timer, timeout_ms)
        return self._watchdog.feed

    def firmware_files(self):
        return common.firmware_files()

    def release(self):
        if self._watchdog is not None:
            self._watchdog.release()
