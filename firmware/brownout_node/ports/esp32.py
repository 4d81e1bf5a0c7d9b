"""ESP32 boards: a partition for the journal, Wi-Fi, watchdog.

The journal lives on the data partition labelled "journal" (128 KiB, made with the partition table when the board is
first flashed). Where there is none: the partition "romfs" of newer builds; else the board keeps its journal in RAM and
is a learner after every boot. Must not touch "vfs", where the firmware is.
"""

import os

import esp32
import machine

from . import common


class Port:
    name = "esp32"

    def __init__(self):
        self._watchdog = None

    def flash_region(self):
        for label in ("journal", "romfs"):
            for partition in esp32.Partition.find(esp32.Partition.TYPE_DATA, label=label):
                return partition
        return common.MemoryRegion()

    def reset_cause(self):
        return common.reset_cause(machine)

    def unique_id(self):
        return machine.unique_id()

    def entropy(self):
        return int.from_bytes(os.urandom(3), "big")

    async def connect_network(self, config):
        await common.join_wifi(config)

    def watchdog(self, timeout_ms):
        if not timeout_ms:
            return lambda: None
        self._watchdog = common.Watchdog(0, timeout_ms)
        return self._watchdog.feed

    def console(self):
        return common.Console(64, 64)  # a UART's driver waits for its line: 64 bytes take 6 ms at 115,200 baud

    def firmware_files(self):
        return common.firmware_files()

    def power_off(self):
        machine.deepsleep()  # memory is lost; only the reset pin or the supply wakes it

    def release(self):
        if self._watchdog is not None:
            self._watchdog.release()
