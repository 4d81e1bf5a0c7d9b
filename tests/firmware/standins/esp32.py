"""Stand-in for MicroPython's `esp32`: a partition table."""

from nor import BLOCK, Nor, Region

chip = Nor(64)
table = [(1, 2, 0, 6, "nvs"), (0, 0, 6, 10, "factory"), (1, 129, 16, 16, "vfs"), (1, 64, 32, 32, "journal")]


class Partition(Region):
    TYPE_APP = 0
    TYPE_DATA = 1

    def __init__(self, row):
        super().__init__(chip, row[2] * BLOCK, row[3] * BLOCK)
        self._row = row

    @staticmethod
    def find(type=0, subtype=0xFF, label=None):
        return [Partition(row) for row in table if row[0] == type and label in (None, row[4])]

    def info(self):
        return self._row[:2] + (self._row[2] * BLOCK, self._row[3] * BLOCK, self._row[4], False)
