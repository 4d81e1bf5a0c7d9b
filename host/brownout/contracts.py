"""Every extension point of the host: what a power switch, a link, a flasher, a console and a gateway must do.

A driver is one short file in `drivers/` that implements one of these; the campaign and the command line know only these
names. A fake used in a test passes the same contract suite as the real driver. This file holds types, no behaviour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol


class Support(StrEnum):
    """How a rig can do a kind of fault."""

    PHYSICAL = "physical"
    INJECTED = "injected"  # by the firmware or a proxy
    ABSENT = "absent"


class RigError(Exception):
    """The rig failed (exit code 4): a port that is missing or busy, a gateway that refuses. Says what to try next.

    `definite` is True where the action certainly did not happen, False where it may have.
    """

    def __init__(self, message: str, *, definite: bool = True) -> None:
        super().__init__(message)
        self.definite = definite


class UsageError(Exception):
    """What the user gave cannot be used (exit code 2). Names the file, the key and what is allowed."""


@dataclass(frozen=True)
class CommandResult:
    """What one command on a gateway did."""

    argv: tuple[str, ...]
    exit_code: int
    stdout: str
    stderr: str
    duration_ms: float
    gateway: str = ""


class Gateway(Protocol):
    """A host that can reach power switches and links: this one, or one behind SSH."""

    name: str
    transport: str  # "local" (invoke) or "ssh" (fabric)
    commands: list[CommandResult]  # everything that ran, for the manifest

    def run(self, argv: Sequence[str], *, timeout_s: float = 10.0, check: bool = True) -> CommandResult:
        """Run one command, every argument quoted. RigError when it cannot be reached, times out, or (check) fails."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class PowerState:
    """What the switch itself says, read back. pid-like identities go to `evidence`."""

    board: str
    on: bool
    evidence: Mapping[str, Any] = field(default_factory=dict)


class Power(Protocol):
    """Switches the supply of boards."""

    supports: Mapping[str, Support]  # fault kind -> support: cut, cut_mid_write, reset, ...

    def off(self, boards: Sequence[str]) -> None: ...

    def on(self, boards: Sequence[str]) -> None: ...

    def state(self, boards: Sequence[str]) -> dict[str, PowerState]: ...

    def reset(self, boards: Sequence[str]) -> None:
        """Pull the reset pin: the board starts anew without losing its supply."""
        ...

    def cut_mid_write(self, board: str, *, operation: int, byte: int) -> None:
        """Arm a cut inside the `operation`-th flash operation from now (1 is the next), after `byte` bytes of it.

        operation 0 disarms.
        """
        ...


class Outlets(Protocol):
    """One switch with numbered outlets, as commands for its gateway. Pure: it builds arguments and reads answers."""

    device: str

    def switch(self, numbers: Sequence[int], on: bool) -> list[list[str]]:
        """The commands that switch these outlets."""
        ...

    def query(self, numbers: Sequence[int]) -> list[list[str]]:
        """The commands that read them back; none where the switch cannot."""
        ...

    def read(self, texts: Sequence[str], numbers: Sequence[int]) -> dict[int, bool]:
        """What the answers to `query` say; RigError where they make no sense."""
        ...


@dataclass(frozen=True)
class LinkRule:
    """One thing done to the messages between boards. Plain data, the same on every rung.

    action: drop | hold | duplicate | delay | loss | bandwidth | stall | reset
    sources, targets: board names; "host" is the controller with its clients; "*" is everything else.
    kinds: names of schema messages, empty for all; height: only messages of that height; nth: only the n-th match, from
    1; amount: loss in percent, delay in ms, bandwidth in bytes per second, duplicates, by action.
    """

    id: str
    action: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    kinds: tuple[str, ...] = ()
    height: int | None = None
    nth: int | None = None
    amount: float | None = None


@dataclass(frozen=True)
class LinkCount:
    """How many messages of one directed pair met one rule, and what passed untouched since it was set."""

    rule: str
    source: str
    target: str
    matched: int
    passed: int


class Link(Protocol):
    """Cuts and bends the links between boards."""

    supports: Mapping[str, Support]

    def apply(self, rules: Sequence[LinkRule]) -> None: ...

    def clear(self, ids: Sequence[str] | None = None) -> None:
        """Lift these rules, or all; held messages are then delivered in order."""
        ...

    def counts(self) -> list[LinkCount]: ...


class Broker(Protocol):
    """The message broker of the bed, as far as faults touch it."""

    supports: Mapping[str, Support]

    def kill(self) -> None: ...

    def stall(self) -> None: ...

    def start(self) -> None:
        """Start it, or wake it from a stall."""
        ...

    def state(self) -> dict[str, Any]: ...


class Cable(Protocol):
    """Faults of serial cables."""

    supports: Mapping[str, Support]

    def unplug(self, boards: Sequence[str]) -> None: ...

    def plug(self, boards: Sequence[str]) -> None: ...

    def state(self, boards: Sequence[str]) -> dict[str, bool]:
        """board -> plugged in"""
        ...


class Storage(Protocol):
    """Faults of flash."""

    supports: Mapping[str, Support]

    def wipe(self, boards: Sequence[str]) -> None:
        """Erase the journal regions of boards that are without power; RigError where one has power."""
        ...


class Conditions(Protocol):
    """What a board's clock, flash and heap are like, beyond having power."""

    supports: Mapping[str, Support]

    def clock(self, boards: Sequence[str], *, ppm: int, ms: int) -> None:
        """Let these clocks run so much faster than they do, and put them ahead by so much; both may be negative.

        They never run backwards: one that is put back stands still until it is right.
        """
        ...

    def refuse(self, boards: Sequence[str], way: str, sectors: Sequence[int], after: int) -> None:
        """From the `after`-th operation on the journal from now, let erases and programs of these sectors go wrong.

        way: "full" and "fails" raise ENOSPC and EIO; "sticks": nothing happens and nobody says so; "": all is well.
        """
        ...

    def refused(self, boards: Sequence[str]) -> dict[str, int]:
        """How many operations went wrong since `refuse`."""
        ...

    def press(self, boards: Sequence[str], kib: int | None, draw: int) -> None:
        """Take up the heap of these boards but for so much, in their current life; None gives it back.

        draw: what is left open is drawn by it, such as what fails first where no heap can be measured.
        """
        ...

    def pressed(self, boards: Sequence[str]) -> dict[str, int]:
        """Whether the heap was taken since `press`: by how many pieces, or how many requests it refused."""
        ...

    def heal(self) -> list[str]:
        """Undo what a fault may have left; sentences about what was undone."""
        ...

    def headers(self, board: str) -> list[bytes]:
        """The first 16 bytes of each block of the journal region."""
        ...

    def flip(self, board: str, bits: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Turn over bits, (byte of the journal region, bit of it); the bytes before and, read back, after."""
        ...


class Progress(Protocol):
    """Where long work reports how far it is."""

    def __call__(self, what: str, done: int, total: int) -> None: ...
