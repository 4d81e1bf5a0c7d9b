"""A NOR flash in memory: programming only clears bits, erasing a block sets them."""

BLOCK = 4096


class Nor:
    def __init__(self, blocks, granularity=1):
        self.data = bytearray(b"\xff" * (blocks * BLOCK))
        self.granularity = granularity
        self.programs = 0
        self.erases = 0

    def read(self, at, buf):
        assert at >= 0 and at + len(buf) <= len(self.data), "outside of the flash"
        buf[:] = self.data[at : at + len(buf)]

    def program(self, at, buf):
        assert at % self.granularity == 0 and len(buf) % self.granularity == 0, "not whole pages"
        assert at >= 0 and at + len(buf) <= len(self.data), "outside of the flash"
        self.programs += 1
        for place in range(len(buf)):
            self.data[at + place] &= buf[place]

    def erase(self, at, size=BLOCK):
        assert at % BLOCK == 0 and size % BLOCK == 0 and at + size <= len(self.data), "not whole blocks"
        self.erases += 1
        for block in range(at, at + size, 256):
            self.data[block : block + 256] = b"\xff" * 256


class Region:
    """The extended block device protocol over a stretch of the flash."""

    def __init__(self, nor, start, size):
        self._nor = nor
        self._start = start
        self._size = size

    def readblocks(self, block, buf, offset=0):
        self._nor.read(self._start + block * BLOCK + offset, buf)

    def writeblocks(self, block, buf, offset=None):
        at = self._start + block * BLOCK
        if offset is None:
            self._nor.erase(at, len(buf))
            offset = 0
        self._nor.program(at + offset, buf)

    def ioctl(self, operation, argument):
        if operation == 4:
            return self._size // BLOCK
        if operation == 5:
            return BLOCK
        if operation == 6:
            self._nor.erase(self._start + argument * BLOCK)
            return 0
        return 0 if operation in (1, 2, 3) else None
