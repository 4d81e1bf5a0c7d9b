"""ESP32 boards: a partition for the journal, and deep sleep as the nearest thing to no power.

The journal lives on the data partition labelled "journal" (128 KiB, made with the partition table when the board is
first flashed). Where there is none: the partition "romfs" of newer builds; else the board keeps its journal in RAM and
is a learner after every boot. Must not touch "vfs", where the firmware is.
"""

import esp32
import machine

from . import chip, common


class Port(chip.Port):
    name = "esp32"

    def flash_region(self):
        for label in ("journal", "romfs"):
            for partition in esp32.Partition.find(esp32.Partition.TYPE_DATA, label=label):
                return partition
        return chip.MemoryRegion()

    def console(self):
        return common.Console(64, 64)  # a UART's driver waits for its line: 64 bytes take 6 ms at 115,200 baud

    def power_off(self):
        machine.deepsleep()  # memory is lost; only the reset pin or the supply wakes it
