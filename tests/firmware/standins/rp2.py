"""Stand-in for MicroPython's `rp2`: Flash over 64 blocks of NOR that take whole pages of 256 bytes only."""

from nor import BLOCK, Nor, Region

chip = Nor(64, 256)
STORAGE = len(chip.data)


def Flash(*, start=-1, len=-1):
    begin = 0 if start == -1 else start
    if not 0 <= begin < STORAGE or begin % BLOCK:
        raise ValueError
    size = STORAGE - begin if len == -1 else len
    if size <= 0 or begin + size > STORAGE or size % BLOCK:
        raise ValueError
    return Region(chip, begin, size)
