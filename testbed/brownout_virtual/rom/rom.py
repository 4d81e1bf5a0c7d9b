"""The boot ROM of a virtual board, run by MicroPython itself: NOR flash in a file, LittleFS on it, boot.py and main.py.

Firmware sees it as the module `brownout_rom`: flash.filesystem and flash.journal (extended block devices with
counters), reset_cause, heap_limit, power_off(), reset(cause), ticks_ms(). After `run` the board's root is the LittleFS:
nothing of the host is in reach. Must not need heap that the firmware would miss (what serves only to boot forgets
itself), and must not repair what a power cut left behind.

The supervisor (chip.py) hands over three open files: the flash, the control page, and a pipe to the power switch.
The control page, little-endian u32: cut at operation (0: never), after byte | programs and erases of the file
system's part, programs and erases of the journal's part | signed: parts per million that the clock is too fast,
milliseconds that it is ahead | how the journal's erases and programs go wrong (0 not, 1 no space, 2 input or output
error, 3 silently), sectors as bits, from the journal's so many-th operation on, how many did | a wish about the heap:
its number << 8 | KiB to leave + 1 (0: all), how many KiB are taken for it. flash_image.py knows the same layout.
"""

import gc
import os
import struct
import sys
import time
from builtins import execfile

import vfs
from micropython import const

_PAGE = const(256)
_BLOCK = const(4096)
_BLANK = memoryview(b"\xff" * _PAGE)
_IDLE = bytes(8)


class Region:
    """A part of the flash. A program clears bits and never crosses a page; only erasing a block sets them."""

    def __init__(self, flash, name, first, blocks):
        self._flash = flash
        self.name = name
        self._first = first
        self._blocks = blocks
        self.programs = 0  # both count since the flash was made
        self.erases = 0

    def readblocks(self, block, buf, offset):
        file = self._flash.file
        file.seek((self._first + block) * _BLOCK + offset)
        file.readinto(buf)

    def writeblocks(self, block, buf, offset):
        view = memoryview(buf)
        at = (self._first + block) * _BLOCK + offset
        done = 0
        if self.name == "journal" and self._flash.refuses(self, block):
            self.programs += 1
            return
        while done < len(view):
            size = min(_PAGE - (at + done) % _PAGE, len(view) - done)
            self.programs += 1
            self._flash.program(self, at + done, view[done : done + size])
            done += size

    def ioctl(self, operation, argument):
        if operation == 4:
            return self._blocks
        if operation == 5:
            return _BLOCK
        if operation == 6:
            if self.name == "journal" and self._flash.refuses(self, argument):
                self.erases += 1
                return 0
            self.erases += 1
            self._flash.erase(self, (self._first + argument) * _BLOCK)
        return 0


class Flash:
    """The whole chip: a file, and the page through which the supervisor arms cuts and reads the counters."""

    def __init__(self, file, control, blocks, journal_blocks, real_timings):
        self.file = file
        self.control = control
        self._timings = real_timings
        self._armed = bytearray(8)
        self._counts = bytearray(16)
        self._page = memoryview(bytearray(_PAGE))
        self.filesystem = Region(self, "filesystem", 0, blocks)
        self.journal = Region(self, "journal", blocks, journal_blocks)
        control.seek(8)
        control.readinto(self._counts)
        for at, region in ((0, self.filesystem), (8, self.journal)):
            region.programs, region.erases = struct.unpack_from("<II", self._counts, at)

    def _begin(self, size):
        # Count an operation; return how many of its bytes come to be, and whether power fails then.
        filesystem, journal = self.filesystem, self.journal
        struct.pack_into(
            "<IIII", self._counts, 0, filesystem.programs, filesystem.erases, journal.programs, journal.erases
        )
        self.control.seek(0)
        self.control.readinto(self._armed)
        self.control.write(self._counts)
        if self._armed != _IDLE:
            operation, byte = struct.unpack("<II", self._armed)
            if operation <= filesystem.programs + filesystem.erases + journal.programs + journal.erases:
                return min(byte, size), True
        return size, False

    def refuses(self, region, block):
        # Does this operation do nothing? OSError where the chip says so.
        words = bytearray(16)
        self.control.seek(32)
        self.control.readinto(words)
        way, sectors, first, count = struct.unpack("<IIII", words)
        if not way or not sectors >> (block & 31) & 1 or region.programs + region.erases < first:
            return False
        self.control.seek(44)
        self.control.write(struct.pack("<I", count + 1))
        if way < 3:
            raise OSError(28 if way == 1 else 5)
        return True

    def program(self, region, at, data):
        size = len(data)
        done, cut = self._begin(size)
        old = self._page[:size]
        self.file.seek(at)
        self.file.readinto(old)
        if old != (_BLANK if size == _PAGE else _BLANK[:size]):
            for i in range(size):
                old[i] &= data[i]
            data = old
        if cut:
            data = data[:done]
        self._put(at, data, 400)
        if cut:
            self._fail("program", region, at, done, size)

    def erase(self, region, at):
        done, cut = self._begin(_BLOCK)
        for offset in range(0, done, _PAGE):
            self._put(at + offset, _BLANK[: min(_PAGE, done - offset)], 2800)
        if cut:
            self._fail("erase", region, at, done, _BLOCK)

    def _put(self, at, data, duration_us):
        self.file.seek(at)
        if self._timings:  # power that fails while this sleeps leaves a torn page
            half = len(data) // 2
            self.file.write(data[:half])
            time.sleep_us(duration_us)
            data = data[half:]
        self.file.write(data)

    def _fail(self, operation, region, at, done, size):
        tell("cut %s %s %d %d %d" % (operation, region.name, at, done, size))


def tell(what):
    """Say one thing to the power switch and do nothing any more: it ends this process."""
    power.write((what + "\n").encode())
    while True:
        try:
            time.sleep(3600)
        except KeyboardInterrupt:
            continue  # a dead board does not answer the keyboard


def power_off():
    """Let go of the supply; it stays off until somebody switches it on."""
    tell("off")


def reset(cause="reset"):
    """Start anew, with `cause` as the next boot's reset_cause."""
    tell("reset " + cause)


def ticks_ms():
    """As time.ticks_ms, by this board's own oscillator; what was put back stands still, and never falls."""
    file = flash.control
    file.seek(24)
    file.readinto(_words)
    ppm, ahead = struct.unpack("<ii", _words)
    if _words[25] != _memory[0] or _memory[1]:
        press(file)
    now = time.ticks_us()
    elapsed = time.ticks_diff(now, _clock[0])
    _clock[0] = now
    _clock[1] += elapsed + elapsed * ppm // 1000000
    _clock[2] = max(_clock[2], _clock[1] // 1000 + ahead)
    return _clock[2]


def press(file):
    """Take up the heap as the last wish has it, or give it back; a wish that was there at the start is of another life.

    What becomes garbage later is taken too, piece by piece, until no more than so much can be free.
    """
    if _words[25] != _memory[0]:
        _memory[0] = _words[25]
        _memory[1] = _words[24]
        _memory[2] = None
        _memory[3] = 0
        gc.collect()
    try:
        while _memory[1] and gc.mem_free() > _memory[1] * 1024:
            _memory[2] = (bytearray(1024), _memory[2])
            _memory[3] += 1
    except MemoryError:
        return  # what is left is in smaller pieces
    finally:
        if _memory[1]:
            struct.pack_into("<I", _words, 28, _memory[3])
            file.seek(52)
            file.write(memoryview(_words)[28:32])


_words = bytearray(32)
_memory = [0, 0, None, 0]  # the last wish's number, KiB to leave + 1, pieces taken and their number
_clock = [time.ticks_us(), 0, 0]  # when looked at, microseconds by the board's oscillator, what was told


def mount(region):
    """Make the LittleFS on `region` the whole of what there is: root, working folder and path of imports."""
    try:
        filesystem = vfs.VfsLfs2(region, progsize=_PAGE, readsize=_PAGE)
        vfs.umount("/")
        vfs.mount(filesystem, "/")
    except OSError as error:
        print("boot ROM: no file system on the flash: %r" % error)
        tell("fault no file system on the flash")
    os.chdir("/")
    sys.path[:] = ["", ".frozen", "/lib"]


def start(argv):
    """Take the supervisor's words, mount, become the module `brownout_rom`, and forget what is not needed any more."""
    global flash, power, heap_limit, reset_cause
    file, control, pipe, blocks, journal_blocks, timings, heap_limit = [int(word) for word in argv[1:8]]
    reset_cause = argv[8]
    power = open(pipe, "wb")
    flash = Flash(open(file, "r+b"), open(control, "r+b"), blocks, journal_blocks, timings)
    flash.control.seek(24)
    flash.control.readinto(_words)
    _memory[0] = _words[25]
    mount(flash.filesystem)
    del argv[1:]
    sys.modules["brownout_rom"] = sys.modules.pop("rom")
    for name in ("mount", "start", "Flash", "Region"):
        del globals()[name]
    power.write(b"ready\n")


def run(names):
    """Run boot.py and main.py in the REPL's own name space `names`, as a board does; SystemExit is a soft reset."""
    try:
        files = os.listdir()
        for name in ("boot.py", "main.py"):
            if name in files:
                execfile(name, names)
    except SystemExit:
        reset()
