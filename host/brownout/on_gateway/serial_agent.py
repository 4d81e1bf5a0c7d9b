#!/usr/bin/env -S python3 -IS
"""Runs on a gateway: carries the bytes of its boards' serial ports over one SSH session, and watches ports come and go.

    brownout-serial carry PORT...        frames on standard input and output until that ends
    brownout-serial reset PORT           pull EN by RTS, with IO0 high by DTR, as esptool does

A frame is `port number, kind, length` (one byte, one byte, two bytes, big end first) and its data. To the host: 0 data,
1 the port is open, 2 it has gone. From the host: 0 data, 1 DTR and RTS (two bytes), 2 a break. A port is held for this
program alone, opened again when it comes back under its path, and let go of when the session ends. Needs Python 3.9 and
nothing else. Must not look into the bytes.
"""

import errno
import fcntl
import os
import select
import struct
import sys
import termios
import time
import tty

HEAD = struct.Struct(">BBH")
DATA, OPEN, GONE = 0, 1, 2
LINES, BREAK = 1, 2
LOOK_EVERY_S = 0.04
PIECE = 32768
MOST_WAITING = 2 * 1024 * 1024  # towards a board that does not read; what comes beyond is lost
SPEED = termios.B115200
RESET_S = 0.1


class Port:
    """One serial port; `file` is None while it is not there."""

    def __init__(self, path):
        self.path = path
        self.file = None
        self.waiting = bytearray()

    def look(self):
        """Open it, or let it go; OPEN or GONE where that changed, None where it did not."""
        if self.file is not None:
            if os.path.exists(self.path):
                return None
            return self.lose()
        try:
            file = os.open(self.path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            tty.setraw(file)
            settings = termios.tcgetattr(file)
            settings[4] = settings[5] = SPEED
            settings[2] |= termios.CLOCAL
            settings[2] &= ~termios.HUPCL  # a board must not be reset because somebody closes its port
            termios.tcsetattr(file, termios.TCSANOW, settings)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (OSError, termios.error):
            os.close(file)
            return None
        self.file = file
        return OPEN

    def lose(self):
        if self.file is not None:
            os.close(self.file)
        self.file = None
        self.waiting.clear()
        return GONE

    def read(self):
        """What has come; None where the port has gone."""
        try:
            return os.read(self.file, PIECE) or None
        except BlockingIOError:
            return b""
        except OSError:
            return None

    def write(self, data):
        if self.file is None:
            return
        self.waiting += data
        if len(self.waiting) > MOST_WAITING:
            del self.waiting[: len(self.waiting) - MOST_WAITING]
        self.flush()

    def flush(self):
        try:
            while self.waiting:
                del self.waiting[: os.write(self.file, self.waiting[:PIECE])]
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in (errno.EIO, errno.ENXIO, errno.ENODEV):
                raise
            self.waiting.clear()  # it has gone; the next look says so

    def set_lines(self, dtr, rts):
        for wanted, bit in ((dtr, termios.TIOCM_DTR), (rts, termios.TIOCM_RTS)):
            request = termios.TIOCMBIS if wanted else termios.TIOCMBIC
            fcntl.ioctl(self.file, request, struct.pack("I", bit))


class Carrier:
    """All ports of one session."""

    def __init__(self, paths):
        self.ports = [Port(path) for path in paths]
        self.incoming = b""
        self.over = False

    def say(self, number, kind, data=b""):
        frame = HEAD.pack(number, kind, len(data)) + data
        while frame:
            frame = frame[os.write(1, frame) :]

    def look(self):
        for number, port in enumerate(self.ports):
            if port.file is not None and not os.path.exists(port.path):
                while data := port.read():
                    self.say(number, DATA, data)
            change = port.look()
            if change is not None:
                self.say(number, change)

    def hear(self):
        data = os.read(0, 65536)
        if not data:
            self.over = True
            return
        self.incoming += data
        while len(self.incoming) >= HEAD.size:
            number, kind, length = HEAD.unpack_from(self.incoming)
            if len(self.incoming) < HEAD.size + length:
                return
            data = self.incoming[HEAD.size : HEAD.size + length]
            self.incoming = self.incoming[HEAD.size + length :]
            self.obey(number, kind, data)

    def obey(self, number, kind, data):
        if number >= len(self.ports):
            raise SystemExit("brownout-serial: a frame for a port that was not named")
        port = self.ports[number]
        if kind == DATA:
            port.write(data)
        elif port.file is not None and kind == LINES:
            port.set_lines(bool(data[0]), bool(data[1]))
        elif port.file is not None and kind == BREAK:
            termios.tcsendbreak(port.file, 0)

    def run(self):
        next_look = 0.0
        while not self.over:
            now = time.monotonic()
            if now >= next_look:
                self.look()
                next_look = now + LOOK_EVERY_S
            files = {port.file: number for number, port in enumerate(self.ports) if port.file is not None}
            writing = [port.file for port in self.ports if port.file is not None and port.waiting]
            readable, writable, _ = select.select([0, *files], writing, [], max(0.0, next_look - now))
            for file in writable:
                self.ports[files[file]].flush()
            for file in readable:
                if file == 0:
                    self.hear()
                    continue
                number = files[file]
                data = self.ports[number].read()
                if data is None:
                    self.ports[number].lose()
                    self.say(number, GONE)
                elif data:
                    self.say(number, DATA, data)


def reset(path):
    port = Port(path)
    if port.look() != OPEN:
        raise SystemExit("brownout-serial: %s cannot be opened" % path)
    port.set_lines(False, True)
    time.sleep(RESET_S)
    port.set_lines(False, False)
    port.lose()


def main():
    words = sys.argv[1:]
    if len(words) >= 2 and words[0] == "carry":
        try:
            Carrier(words[1:]).run()
        except BrokenPipeError:  # the session has ended
            return 0
        return 0
    if len(words) == 2 and words[0] == "reset":
        reset(words[1])
        return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
