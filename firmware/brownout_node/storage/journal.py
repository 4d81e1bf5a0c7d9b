"""A board's promises: the latest value of each key, in a ring of checksummed records on a flash region of its own.

The log runs through erased blocks, oldest to newest, and wraps. One append is one transaction: all of its records or
none are there after a cut at any byte. A transaction is cut into frames, a frame never leaves its page (256 bytes), and
one page program writes it; a short one costs exactly that. Where the log nears its own tail, what is still alive in the
oldest block is copied along in frames that are written anyway, so that whole blocks come free without programs of
their own. Must not interpret values, and must not trust what it did not see being written: an erase counts only if this
boot saw it end, and anything unexpected inside the log makes all of it invalid.

    block   magic, sequence, tail (the oldest block that still counts), CRC-32 | frames
    frame   flags, length, CRC-32 seeded with the block's sequence | entries; six zero bytes: torn, go to the next page
    entry   key, length + 1 (0: forgotten), value; both numbers in base 128, low digits first; key 0 is padding
A frame that is not its transaction's last fills its page. The next page's frame goes on, and its first two bytes say
how much of a cut value follows: so a walk may start there.
"""

import struct
from binascii import crc32

from ..core import codec, schema
from ..core.errors import JournalError

try:
    from micropython import const
except ImportError:
    const = int

_PAGE = const(256)
_HEADER = const(16)  # of a block
_FRAME = const(6)  # header of a frame
_REST = const(2)  # in a frame that goes on: bytes of the value that was cut
_LEAST = const(8)  # no frame is shorter
_MAGIC = const(0x314C4A42)  # "BJL1"
_FLAGS = const(0x58)
_FIRST = const(1)  # of its transaction
_LAST = const(2)
_LARGEST = const(1000)  # bytes of a value

_CLEAN_AHEAD = const(2)  # blocks kept erased ahead of the head
_SPARE = const(80)  # room in a page that the next append may not be able to use: copy into it
_BLANK = b"\xff" * 256

# What _walk() yields in place of a key.
_PAGE_END = const(0)
_BEGIN = const(-1)
_COMMIT = const(-2)
_BAD = const(-3)


def format_genesis(device, cluster, board):
    """Erase the region and write the record without which a board does not vote. For the flasher, never for a board."""
    journal = Journal(device)
    for block in range(device.ioctl(4, 0)):
        device.ioctl(6, block)
    journal.open()
    journal.append([(schema.JOURNAL_GENESIS, codec.pack("uu", (cluster, board)))])


def _entry(key, size):
    # The head of an entry; size -1: forgotten.
    head = bytearray()
    for number in (key, size + 1):
        while number > 127:
            head.append(number & 127 | 128)
            number >>= 7
        head.append(number)
    return head


class Journal:
    """The store over a MicroPython block device (readblocks and writeblocks with offsets, ioctl 4, 5 and 6).

    `condition` is what open() found; `programs`, `erases` and `appends` count since then.
    """

    def __init__(self, device):
        self._device = device
        self._read = device.readblocks
        self._blocks = device.ioctl(4, 0)
        self._size = device.ioctl(5, 0)
        if self._blocks < 8 or self._size % _PAGE or self._size < 2 * _PAGE:
            raise JournalError("the region needs 8 blocks of whole pages")
        # The log leaves some blocks free: two to write to, the others because every cut while it is being collected
        # costs a page and gains none; only as many such cuts in a row as they have pages could fill it.
        full = self._blocks - max(4, self._blocks // 5)
        self._pages = self._size // _PAGE
        self._most_lag = full * self._pages  # pages from the tail to the head
        self._capacity = full * self._size // 2  # bytes alive, and in a transaction
        self._page = bytearray(_PAGE)  # the frame being made
        self._scan = bytearray(_PAGE)  # the page being read by _walk()
        self.condition = schema.JOURNAL_MISSING
        self.programs = self.erases = self.appends = 0

    # Reading.

    def get(self, key):
        """The value of a key, or None. JournalError where the flash does not hold any more what was written."""
        location = self._index.get(key)
        if location is None:
            return None
        size = location & 1023
        position = location >> 10
        out = bytearray(size)
        at = 0
        while at < size:
            count = min(size - at, _PAGE - position % _PAGE)
            self._verify(position)
            self._read(position // self._size, memoryview(out)[at : at + count], position % self._size)
            at += count
            position += count + _FRAME + _REST
            if position % self._size == _FRAME + _REST:
                position = position % (self._blocks * self._size) + _HEADER
        return bytes(out)

    def _verify(self, position):
        # Does the frame around this place still match its checksum? The walker may be in the middle of a page.
        block = position // self._size % self._blocks
        sequence = self._sequence - (self._block(self._sequence) - block) % self._blocks
        offset = position % self._size // _PAGE * _PAGE
        scan = self._scan
        self._scan = bytearray(_PAGE)
        try:
            self._read(block, self._scan, offset)
            at = _HEADER if offset == 0 else 0
            size = self._frame_size(at, sequence)
            while size and at + size <= position % _PAGE:
                at += size
                size = self._frame_size(at, sequence)
        finally:
            self._scan = scan
        if not size:
            self._failed = True
            raise JournalError("damaged: block %d" % block)

    def keys(self, low, high):
        """The keys from `low` up to, not including, `high`, in order."""
        return sorted([key for key in self._index if low <= key < high])

    def recent(self, pages):
        """The keys of the values in the last so many pages that were written."""
        end = self._block(self._sequence) * self._pages + (self._offset - 1) // _PAGE
        total = self._blocks * self._pages
        found = []
        for key in self._index:
            if (end - (self._index[key] >> 10) // _PAGE) % total < pages:
                found.append(key)
        return found

    def _block(self, sequence):
        return (sequence + self._shift) % self._blocks

    def _block_header(self, block):
        # (sequence, tail), or (0, 0) where there is no header.
        header = memoryview(self._scan)[:_HEADER]
        self._read(block, header, 0)
        magic, sequence, tail, check = struct.unpack("<IIII", header)
        if magic == _MAGIC and check == crc32(header[:12]) and 0 < tail <= sequence < 0x3FFFFFFF:
            return sequence, tail
        return 0, 0

    def _frame_size(self, at, sequence):
        # Of the frame at `at` of the scanned page; 0 where there is none.
        scan = self._scan
        if at + _LEAST > _PAGE or scan[at] & 0xFC != _FLAGS or at + _FRAME + scan[at + 1] > _PAGE:
            return 0
        end = at + _FRAME + scan[at + 1]
        view = memoryview(scan)
        check = crc32(view[at + _FRAME : end], crc32(view[at : at + 2], sequence))
        return end - at if struct.unpack_from("<I", scan, at + 2)[0] == check else 0

    def _number(self, at):
        # Decode a number of the scanned page; self._at is where it ends.
        value = shift = 0
        while True:
            byte = self._scan[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                self._at = at
                return value
            shift += 7

    def _walk(self, sequence):
        # Yield (key, place in the scanned page, size or -1, location) of each record from the block `sequence` on, and
        # the marks above; for _PAGE_END and _BAD the place is where the data end. It is for the caller to stop.
        while True:
            block = self._block(sequence)
            blank = False
            for offset in range(0, self._size, _PAGE):
                self._read(block, self._scan, offset)
                at = start = _HEADER if offset == 0 else 0
                while at + _LEAST <= _PAGE:
                    if self._scan[at:] == _BLANK[at:]:
                        blank = blank or at == start
                        break
                    size = 0 if blank else self._frame_size(at, sequence)
                    if size == 0:
                        if self._scan[at : at + _FRAME] != bytes(_FRAME) or blank:
                            yield _BAD, at, 0, offset
                        at = _PAGE
                        break
                    end = at + size
                    flags = self._scan[at]
                    at += _FRAME
                    if flags & _FIRST:
                        yield _BEGIN, at, 0, 0
                    else:
                        at += _REST + (self._scan[at] | self._scan[at + 1] << 8)
                    while at < end:
                        key = self._number(at)
                        at = self._at
                        if key:
                            size = self._number(at) - 1
                            at = self._at
                            yield key, at, size, ((block * self._size + offset + at) << 10) + size
                            at += max(size, 0)
                    if flags & _LAST:
                        yield _COMMIT, at, 0, 0
                    at = end
                yield _PAGE_END, (_PAGE if at + _LEAST > _PAGE else at), 0, offset
            sequence += 1

    # Opening.

    def open(self):
        """Read the whole log and say in `condition` what it was. If it is not valid, the journal starts anew, empty."""
        self._index = {}  # key -> location: place of the value << 10 | size
        self._live = 0
        self._clean = 0  # blocks ahead of the head that this boot has erased
        self._failed = False
        self._shift = 0
        head = tail = 0
        for block in range(self._blocks):
            found, oldest = self._block_header(block)
            if found > head:
                head = found
                tail = oldest
                self._shift = block - found
        self._restart(head, tail)
        if head and self._load(head, tail):
            self.condition = schema.JOURNAL_VALID
        else:
            self.condition = schema.JOURNAL_INVALID if head or not self._is_blank() else schema.JOURNAL_MISSING
            self._index = {}
            self._live = 0
            # Number far above what damaged blocks may still carry, and leave the block after the head alone: to erase
            # it, and be cut before the new log has begun, could make the old one look whole.
            head += 32 * self._blocks + 1
            self._restart(head, head + 1)
        self.programs = self.erases = self.appends = 0

    def _restart(self, head, tail):
        self._sequence = head  # of the block that is written to
        self._offset = self._size  # in it, where the next frame goes
        self._recorded = tail  # as the head's header has it: what is older may be erased
        self._tail = tail  # what is older holds nothing alive
        self._collected = 0  # pages of the tail block of which that is true
        self._walker = None
        self._found = None
        self._fill = 0  # bytes of the frame being made, a block's header included

    def _load(self, head, tail):
        if head - tail > self._blocks - 2:
            return False
        for sequence in range(tail, head):
            if self._block_header(self._block(sequence))[0] != sequence:
                return False
        pending = []
        pages = (head - tail + 1) * self._pages
        for key, at, size, location in self._walk(tail):
            if key > 0:
                pending.append((key, location if size >= 0 else None))
            elif key == _COMMIT:
                self._commit(pending)
                pending = []
            elif key == _BEGIN:
                pending = []  # of a transaction that a cut left without its end
            elif key == _PAGE_END:
                if pages <= self._pages and (at > 0 or location == 0):
                    self._offset = location + at
                pages -= 1
                if pages == 0:
                    break
            elif pages > self._pages or self._is_followed(head, location, at):
                return False
            else:
                # Torn at the head by a cut: say so, then go on in the next page.
                self._page[:_FRAME] = bytes(_FRAME)
                try:
                    self._program(head, location + at, _FRAME)
                except JournalError:
                    self._failed = True  # what is there can be read; the first append will say so
        return not self._is_followed(head + 1, 0, 0)

    def _is_followed(self, sequence, offset, at):
        # Is there a good frame behind this place of the block? Then what is bad here is no cut, but damage.
        for page in range(offset, self._size, _PAGE):
            self._read(self._block(sequence), self._scan, page)
            for place in range(at, _PAGE):
                if self._scan[place] & 0xFC == _FLAGS and self._frame_size(place, sequence):
                    return True
            at = 0
        return False

    def _is_blank(self):
        for block in range(self._blocks):
            for offset in range(0, self._size, _PAGE):
                self._read(block, self._scan, offset)
                if self._scan != _BLANK:
                    return False
        return True

    # Writing.

    def append(self, records):
        """Make records, a list of (key, bytes or None), durable: all of them or, on JournalError, none.

        Of several records of one key the last counts. None forgets the key.
        """
        if self._failed:
            raise JournalError("a write failed: open the journal again")
        self._fill = 0
        latest = {}
        for key, value in records:
            if not 0 < key < 0x10000000 or (value is not None and len(value) > _LARGEST):
                raise JournalError("key %d: at most %d bytes" % (key, _LARGEST))
            latest[key] = value
        need = 0
        for key in sorted(latest):
            if latest[key] is not None:
                need += len(latest[key]) + _LEAST
            elif key not in self._index:
                del latest[key]
        if need and self._live + need > self._capacity:  # what is replaced must stay until the new is whole
            raise JournalError("full: %d bytes alive, at most %d" % (self._live + need, self._capacity))
        if latest:
            self._make_room(need)
            self._write(latest)
            self.appends += 1

    def maintain(self):
        """For idle moments: erase one block ahead of need, so that append() does not have to. False: nothing to do."""
        free = self._blocks - (self._sequence - self._recorded + 1)
        if self._failed or self._clean >= min(_CLEAN_AHEAD, free):
            return False
        self._erase(self._sequence + 1 + self._clean)
        self._clean += 1
        return True

    def _commit(self, moved):
        for key, location in moved:
            old = self._index.pop(key, None)
            if old is not None:
                self._live -= (old & 1023) + _LEAST
            if location is not None:
                self._live += (location & 1023) + _LEAST
                self._index[key] = location

    def _lag(self):
        # Pages from the tail to the head.
        return (self._sequence - self._tail) * self._pages + self._offset // _PAGE - self._collected

    def _make_room(self, need):
        # Collecting goes along with appends; here it catches up where that was not enough.
        limit = self._most_lag + self._pages // 4 - need // 200
        tries = 2 * self._blocks * self._pages
        while self._lag() > limit:
            tries -= 1
            if limit < 2 * self._pages or tries == 0:
                raise JournalError("full: no room for %d bytes" % need)
            self._collect((), None, limit)  # what is dead costs nothing; after a boot that may be much
            if self._room() < _SPARE:
                self._advance()
            moved = []
            self._begin()
            self._collect((), moved, limit)
            if moved:
                self._end(_FIRST | _LAST)
                self._commit(moved)
            elif self._found is not None:
                key = self._found[0]  # larger than a page
                self._write({key: self.get(key)})

    def _collect(self, skip, moved, limit):
        # Copy what is alive at the tail into the frame being made, until it is full or the lag is down to `limit`;
        # without a frame (moved is None) go as far as nothing is alive.
        while self._lag() > limit:
            if self._walker is None:
                self._walker = self._walk(self._tail)
            if self._found is None:
                self._found = next(self._walker)
            key, at, size, location = self._found
            if key == _PAGE_END:
                self._collected += 1
                if self._collected == self._pages:
                    self._collected = 0
                    self._tail += 1
            elif key == _BAD:
                self._failed = True
                raise JournalError("damaged: block %d" % self._block(self._tail))
            elif size >= 0 and self._index.get(key) == location and key not in skip:
                head = _entry(key, size)
                if moved is None or at + size > _PAGE or len(head) + size > self._room():
                    return
                self._put(head)
                moved.append((key, self._location(size)))
                self._put(memoryview(self._scan)[at : at + size])
            self._found = None

    def _write(self, records):
        # One transaction.
        need = _FRAME
        for key in records:
            value = records[key]
            need += len(_entry(key, -1) if value is None else _entry(key, len(value)) + value)
        if self._room() < (need if need <= _PAGE - _HEADER else _SPARE):
            self._advance()
        flags = _FIRST
        moved = []
        self._begin()
        for key in sorted(records):
            value = records[key]
            size = -1 if value is None else len(value)
            head = _entry(key, size)
            if self._room() < len(head) + (1 if size > 0 else 0):
                self._put(bytes(self._room()))
                self._next(flags, 0)
                flags = 0
            self._put(head)
            moved.append((key, None if size < 0 else self._location(size)))
            at = 0
            while at < size:
                if self._room() == 0:
                    self._next(flags, size - at)
                    flags = 0
                count = min(size - at, self._room())
                self._put(memoryview(value)[at : at + count])
                at += count
        self._collect(records, moved, self._most_lag - (self._pages if self._room() < _SPARE else 0))
        self._end(flags | _LAST)
        self._commit(moved)

    def _next(self, flags, rest):
        # The frame has filled its page: go on in the next one.
        self._end(flags)
        self._advance()
        self._begin()
        self._put(struct.pack("<H", rest))

    def _room(self):
        return 0 if self._offset == self._size else _PAGE - self._offset % _PAGE - self._fill

    def _location(self, size):
        return (self._block(self._sequence) * self._size + self._offset + self._fill) << 10 | size

    def _put(self, data):
        end = self._fill + len(data)
        self._page[self._fill : end] = data
        self._fill = end

    def _begin(self):
        # A new block's header is programmed with its first frame.
        self._fill = _FRAME
        if self._offset == 0:
            struct.pack_into("<III", self._page, 0, _MAGIC, self._sequence, self._tail)
            struct.pack_into("<I", self._page, 12, crc32(memoryview(self._page)[:12]))
            self._header_tail = self._tail
            self._fill += _HEADER

    def _end(self, flags):
        start = _HEADER if self._offset == 0 else 0
        page = self._page
        view = memoryview(page)
        page[start] = _FLAGS | flags
        page[start + 1] = self._fill - start - _FRAME
        check = crc32(view[start + _FRAME : self._fill], crc32(view[start : start + 2], self._sequence))
        struct.pack_into("<I", page, start + 2, check)
        self._program(self._sequence, self._offset, self._fill)
        if start:
            self._recorded = self._header_tail
        self._offset += self._fill
        self._fill = 0

    def _program(self, sequence, offset, size):
        self._failed = True
        block = self._block(sequence)
        view = memoryview(self._page)[:size]
        found = bytearray(size)
        self._do(self._device.writeblocks, block, view, offset)
        self.programs += 1
        self._read(block, found, offset)
        if found != view:
            raise JournalError("worn: block %d holds other bytes than were programmed" % block)
        self._failed = False

    def _do(self, operation, *arguments):
        try:
            operation(*arguments)
        except OSError as error:
            raise JournalError("flash: %s" % error)

    def _advance(self):
        # To the start of the next page; after the last page of a block, into an erased one.
        self._fill = 0
        self._offset += -self._offset % _PAGE
        if self._offset == self._size:
            following = self._sequence + 1
            if following - self._tail > self._blocks - 2 or following - self._recorded >= self._blocks:
                raise JournalError("full: no block is free")
            if self._clean:
                self._clean -= 1
            else:
                self._erase(following)
            self._sequence = following
            self._offset = 0

    def _erase(self, sequence):
        self._do(self._device.ioctl, 6, self._block(sequence))
        self.erases += 1
