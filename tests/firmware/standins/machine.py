"""Stand-in for MicroPython's `machine`: keeps a log of what was asked of the chip, and refuses what a chip refuses."""

PWRON_RESET = 1
HARD_RESET = 2
WDT_RESET = 3
DEEPSLEEP_RESET = 4
SOFT_RESET = 5

log = []
cause = PWRON_RESET


class Off(BaseException):
    """The chip stopped executing."""


def reset_cause():
    return cause


def unique_id():
    return b"\xe6\x61\x00\x01"


def reset():
    log.append("reset")
    raise Off


def deepsleep():
    log.append("deepsleep")
    raise Off


class WDT:
    def __init__(self, id=0, timeout=5000):
        if id != 0 or not 1 <= timeout <= 8388:
            raise ValueError("timeout exceeds 8388")
        log.append(f"watchdog {timeout}")

    def feed(self):
        log.append("fed")


class Timer:
    def __init__(self, id):
        self.id = id

    def init(self, *, mode=1, period=-1, callback=None):
        log.append(f"timer {self.id} every {period} ms")
        callback(self)
