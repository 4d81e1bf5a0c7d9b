"""The one vocabulary of faults: every kind, what it may be told, and what it needs.

Rig files say for each kind here whether a rig can do it; campaign files use the kinds; the planner and the
documentation read the same rows. Data only: nothing here plans or carries out a fault.
"""

from __future__ import annotations

from dataclasses import dataclass

MOMENTS = ("proposal in flight",)  # what `when` may name; watch.py knows how to wait for each
SELECTOR_WORDS = ("one", "minority", "majority", "all", "proposer", "voters", "learners", "serial", "malicious")
AT_SITE = "site:"  # in a selector, before the name of a site: the boards whose home it is
SELECTORS = (
    ", ".join(SELECTOR_WORDS)
    + ', random:K (K boards drawn by the seed), site:NAME, or a list of board names such as ["b1"]'
)
SHAPES = ("halves", "majority-minority", "ring", "bridge")
TRAP_POINTS = ("after persist", "after send")
TRAP_ACTIONS = ("halt", "power off")
ROT_MOMENTS = ("off", "running")
HAND_OVER = "hand over"  # what a board may be asked to do before it loses power
WEAR_WAYS = ("fails", "sticks")
HOST = "host"  # in `from` and `to`: the controller with its clients


@dataclass(frozen=True)
class Parameter:
    """One key that a kind of fault takes beside the common ones.

    type: integer | number | choice | kinds | ends (board names or "host") | site | sites (two that are joined). low and
    high bound numbers.
    """

    name: str
    type: str
    low: float = 0
    high: float = 0
    default: float | str | None = None
    required: bool = False
    choices: tuple[str, ...] = ()
    unit: str = ""


@dataclass(frozen=True)
class FaultKind:
    """select: default selector, None where the kind meets no boards of its own.

    for_s: default duration, None where it must be given. lasts: whether `for_s` means anything.
    """

    name: str
    group: str  # power | link | broker | message | board | firmware | serial | storage | clock
    summary: str
    select: str | None = None
    for_s: float | None = None
    lasts: bool = True
    parameters: tuple[Parameter, ...] = ()


_MATCH = (
    Parameter("kinds", "kinds"),
    Parameter("height", "integer", 0, 2**31),
    Parameter("nth", "integer", 1, 1_000_000),
    Parameter("from", "ends"),
    Parameter("to", "ends"),
)

_SPLIT = (Parameter("to", "ends"),)
_FIRST = (Parameter("first", "choice", choices=(HAND_OVER,)),)  # a planned restart; without: a crash

_ROWS = (
    FaultKind("cut", "power", "power is off for the time", "one", parameters=_FIRST),
    FaultKind("cycle", "power", "power is off and at once on again", "one", for_s=0.3, parameters=_FIRST),
    FaultKind(
        "power_flap",
        "power",
        "several rapid power cycles: a brownout",
        "one",
        lasts=False,
        parameters=(
            Parameter("times", "integer", 1, 50, default=3),
            Parameter("period_s", "number", 0.02, 60, default=0.3, unit="seconds"),
        ),
    ),
    FaultKind(
        "blackout",
        "power",
        "power is off everywhere, one board after the other if staggered",
        "all",
        parameters=(Parameter("stagger_s", "number", 0, 60, default=0, unit="seconds"),),
    ),
    FaultKind("reset", "power", "the reset pin is pulled; the supply stays", "one", lasts=False),
    FaultKind(
        "cut_mid_write",
        "power",
        "power fails inside a flash operation, after so many bytes of it",
        "one",
        for_s=0.5,
        parameters=(
            Parameter("operation", "integer", 1, 100_000, default=1),
            Parameter("byte", "integer", 0, 4096, default=7),
        ),
    ),
    FaultKind("isolate", "link", "no message from or to the boards passes, the host's included", "one"),
    FaultKind("split", "link", "the boards fall into groups that do not hear each other"),
    FaultKind(
        "one_way",
        "link",
        "messages in one direction are lost",
        parameters=(Parameter("from", "ends", required=True), Parameter("to", "ends", required=True)),
    ),
    FaultKind(
        "loss",
        "link",
        "a share of the messages from and to the boards is lost",
        "all",
        parameters=(Parameter("percent", "number", 0.1, 100, required=True, unit="percent"),),
    ),
    FaultKind(
        "delay",
        "link",
        "messages from and to the boards come late",
        "all",
        parameters=(Parameter("ms", "number", 1, 60_000, required=True, unit="milliseconds"),),
    ),
    FaultKind(
        "bandwidth",
        "link",
        "messages from and to the boards share a thin line",
        "all",
        parameters=(Parameter("bytes_per_s", "number", 100, 1e9, required=True, unit="bytes per second"),),
    ),
    FaultKind(
        "link_flap",
        "link",
        "the boards are isolated and joined again several times",
        "one",
        parameters=(Parameter("times", "integer", 1, 50, default=3),),
    ),
    FaultKind("broker_kill", "broker", "the broker dies and starts anew, empty"),
    FaultKind("broker_stall", "broker", "the broker stops answering, and goes on later"),
    FaultKind(
        "broker",
        "broker",
        "the broker of one site dies and starts anew, empty; the other sites' live on",
        parameters=(Parameter("site", "site", required=True),),
    ),
    FaultKind(
        "bridge",
        "broker",
        "the bridge between the brokers of two sites is cut; each site goes on by itself",
        parameters=(Parameter("between", "sites", required=True),),
    ),
    FaultKind(
        "uplink",
        "link",
        "the boards' own links to the broker of one site die; the broker lives, and so do other ways to it",
        "one",
        parameters=(Parameter("site", "site", required=True),),
    ),
    FaultKind("drop", "message", "messages that match are lost", parameters=_MATCH),
    FaultKind("hold", "message", "messages that match are kept back until the fault heals", parameters=_MATCH),
    FaultKind(
        "duplicate",
        "message",
        "messages that match come several times",
        parameters=(*_MATCH, Parameter("copies", "integer", 1, 10, default=1)),
    ),
    FaultKind(
        "trap",
        "board",
        "the firmware halts or lets go of its power at the k-th time after a persist or a send",
        "one",
        for_s=0.5,
        parameters=(
            Parameter("point", "choice", default="after persist", choices=TRAP_POINTS),
            Parameter("count", "integer", 1, 1_000_000, default=1),
            Parameter("action", "choice", default="power off", choices=TRAP_ACTIONS),
        ),
    ),
    *(
        FaultKind(name, "board", f"a malicious board: it {summary}", "malicious", for_s=2.0, parameters=_SPLIT)
        for name, summary in (
            ("silent", "sends nothing"),
            ("equivocate", "tells some boards another value than the others"),
            ("lie", "sends other digests and ids than its own"),
            ("replay_old", "sends old messages again"),
            ("delay_votes", "sends late what names a value"),
            ("corrupt", "sends messages with flipped bytes"),
        )
    ),
    FaultKind(
        "upgrade",
        "firmware",
        "the boards are flashed with the firmware of a next release, and lose power",
        "one",
        for_s=0.3,
    ),
    FaultKind("unplug", "serial", "the serial cable is pulled", "one"),
    FaultKind("wipe", "storage", "the board loses power, and its journal is erased meanwhile", "one", for_s=0.5),
    FaultKind(
        "restore",
        "storage",
        "as wipe, and then the board is given back what the host had saved of its state a while before",
        "one",
        for_s=0.5,
        parameters=(Parameter("age_s", "number", 0, 3600, default=1.0, unit="seconds"),),
    ),
    FaultKind(
        "bitrot",
        "storage",
        "bits of the journal's older blocks turn over, and the board starts anew",
        "one",
        for_s=0.5,
        parameters=(
            Parameter("bits", "integer", 1, 4096, default=16),
            Parameter("board", "choice", default="off", choices=ROT_MOMENTS),
        ),
    ),
    FaultKind("full", "storage", "the flash refuses every erase and program: it says that there is no space", "one"),
    FaultKind(
        "worn",
        "storage",
        "sectors of the journal are worn out: erases and programs fail, or do nothing and do not say so",
        "one",
        parameters=(
            Parameter("sectors", "integer", 1, 32, default=24),
            Parameter("after", "integer", 0, 1_000_000, default=0),
            Parameter("way", "choice", default="fails", choices=WEAR_WAYS),
        ),
    ),
    FaultKind(
        "skew",
        "clock",
        "the board's clock is ahead of the others' while it lasts; afterwards it stands still until it is right again",
        "one",
        parameters=(Parameter("ms", "integer", 20, 3_600_000, required=True, unit="milliseconds"),),
    ),
    FaultKind(
        "drift",
        "clock",
        "the board's clock runs too fast, or too slow where negative",
        "one",
        parameters=(Parameter("ppm", "integer", -900_000, 9_000_000, required=True, unit="parts per million"),),
    ),
    FaultKind(
        "jump",
        "clock",
        "the board's clock steps forward and stays ahead",
        "one",
        lasts=False,
        parameters=(Parameter("ms", "integer", 20, 3_600_000, required=True, unit="milliseconds"),),
    ),
    FaultKind(
        "pressure",
        "memory",
        "the heap of the boards is taken up but for so much, until the fault heals or they start anew",
        "one",
        parameters=(Parameter("kib", "integer", 0, 128, default=8, unit="kibibytes"),),
    ),
)

KINDS: dict[str, FaultKind] = {row.name: row for row in _ROWS}
MALICE = ("silent", "equivocate", "lie", "replay_old", "delay_votes", "corrupt")  # what core/adversary.py does
SITE_KINDS = ("broker", "bridge", "uplink")  # of the brokers of sites and what leads to them; see site_faults.py
CONDITIONS = ("bitrot", "full", "worn", "skew", "drift", "jump", "pressure")  # of flash, clock, heap; see conditions.py
# What a seeded nemesis may draw: kinds that need nothing that only a person can choose.
_CHOSEN = ("one_way", "drop", "hold", "duplicate", "wipe", "restore", "upgrade", *SITE_KINDS, *MALICE, *CONDITIONS)
NEMESIS_KINDS = tuple(row.name for row in _ROWS if row.name not in _CHOSEN)
