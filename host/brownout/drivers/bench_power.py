"""Power of a bench's boards: each by its outlet's driver, all gateways at once, failures collected.

A board's state is what its switch says, and whether its serial port is there: a port that goes with the power is the
second side. Must not believe a switch whose board is still on the bus.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from ..bench_rig import SafetySpec, fill
from ..contracts import Gateway, Outlets, PowerState, RigError, Support

KINDS = ("cut", "cycle", "power_flap", "blackout", "reset", "cut_mid_write")
LEAVES_WITHIN_S = 2.0  # a port, after its power
LOOK_S = 0.01
HOUR_S = 3600.0
Result = TypeVar("Result")


@dataclass(frozen=True)
class Feed:
    """Where one board gets its power."""

    board: str
    switch: str  # name of the [power.NAME] table
    outlet: int


@dataclass(frozen=True)
class Switch:
    gateway: Gateway
    outlets: Outlets


class BenchPower:
    """Satisfies contracts.Power. enumerated(board): whether its port is there; home: the gateway of each board."""

    def __init__(
        self,
        feeds: Mapping[str, Feed],
        switches: Mapping[str, Switch],
        home: Mapping[str, Gateway],
        ports: Mapping[str, str],
        jig: Mapping[str, Sequence[str]],
        enumerated: Callable[[str], bool],
        support: Mapping[str, Support],
        safety: SafetySpec,
    ) -> None:
        self.supports: Mapping[str, Support] = {kind: support[kind] for kind in KINDS}
        self._feeds = feeds
        self._switches = switches
        self._home = home
        self._ports = ports
        self._jig = jig
        self._enumerated = enumerated
        self._safety = safety
        self._cuts: dict[str, list[float]] = {}
        self._lock = threading.Lock()
        self.starts: dict[str, int] = {}
        self.cut_ns: dict[str, int] = {}  # board -> when its switch had answered; the spread of a cut

    # Switching.

    def off(self, boards: Sequence[str]) -> None:
        self._spend(boards)
        self._switch(boards, False)
        until_s = time.monotonic() + LEAVES_WITHIN_S
        while any(self._enumerated(board) for board in boards) and time.monotonic() < until_s:
            time.sleep(LOOK_S)

    def on(self, boards: Sequence[str]) -> None:
        """A board that let go of its power by itself hangs at a switch that is on: that one is switched off first."""
        already = [board for board, on in self._read(boards).items() if on and not self._enumerated(board)]
        if already:
            self._switch(already, False)
        if not self._safety.stagger_s:
            self._switch(boards, True)
        else:
            for number, board in enumerate(boards):
                if number:
                    time.sleep(self._safety.stagger_s)
                self._switch([board], True)
        for board in boards:
            self.starts[board] = self.starts.get(board, 0) + 1

    def switch_only(self, board: str, on: bool) -> bool:
        """Switch one board without waiting for its side; whether its switch then says so."""
        if not on:
            self._spend([board])
        self._switch([board], on)
        return self._read([board])[board] is on

    def _spend(self, boards: Sequence[str]) -> None:
        """Count power cycles against the budget of each board."""
        now_s = time.monotonic()
        with self._lock:
            for board in boards:
                recent = [at for at in self._cuts.get(board, []) if now_s - at < HOUR_S]
                if len(recent) >= self._safety.cycles_per_hour:
                    raise RigError(
                        f"board {board}: {len(recent)} power cycles within the last hour, its budget; wait, or raise "
                        "cycles_per_hour in [safety] of the rig file"
                    )
                self._cuts[board] = [*recent, now_s]

    def _switch(self, boards: Sequence[str], on: bool) -> None:
        """Switch and read back; RigError names every switch that failed or does not say so.

        All are switched before the first is asked: answers would hold up the switches of slower gateways.
        """

        def switch(name: str, mine: list[Feed]) -> None:
            for argv in self._switches[name].outlets.switch([feed.outlet for feed in mine], on):
                self._switches[name].gateway.run(argv)
            now_ns = time.monotonic_ns()
            for feed in mine:
                self.cut_ns[feed.board] = now_ns

        self._each(boards, switch)
        wrong = [board for board, state in self._read(boards).items() if state is not on]
        if wrong:
            word = "on" if on else "off"
            raise RigError(f"power {word}: the switch of {', '.join(wrong)} does not say {word}", definite=False)

    @staticmethod
    def _ask(switch: Switch, numbers: Sequence[int]) -> dict[int, bool]:
        texts = [switch.gateway.run(argv).stdout for argv in switch.outlets.query(numbers)]
        return switch.outlets.read(texts, numbers)

    def _each(self, boards: Sequence[str], work: Callable[[str, list[Feed]], Result]) -> list[Result]:
        """Do it at every switch of these boards at once; RigError with all that failed."""
        by_switch: dict[str, list[Feed]] = {}
        for board in boards:
            feed = self._feeds.get(board)
            if feed is None:
                raise RigError(f"board {board}: the rig file names no outlet for it")
            by_switch.setdefault(feed.switch, []).append(feed)
        if len(by_switch) == 1:
            return [work(name, mine) for name, mine in by_switch.items()]
        failures, results = [], []
        with ThreadPoolExecutor(max(1, len(by_switch))) as pool:
            for job in [pool.submit(work, name, mine) for name, mine in by_switch.items()]:
                try:
                    results.append(job.result())
                except RigError as error:
                    failures.append(error)
        if failures:
            said = dict.fromkeys(str(error) for error in failures)  # one gateway may have several switches
            raise RigError("; ".join(said), definite=False) from failures[0]
        return results

    def _read(self, boards: Sequence[str]) -> dict[str, bool]:
        def work(name: str, mine: list[Feed]) -> dict[str, bool]:
            states = self._ask(self._switches[name], [feed.outlet for feed in mine])
            return {feed.board: states[feed.outlet] for feed in mine}

        return {board: on for states in self._each(boards, work) for board, on in states.items()}

    def state(self, boards: Sequence[str]) -> dict[str, PowerState]:
        switched = self._read(boards)
        states = {}
        for board in boards:
            enumerated = self._enumerated(board)
            evidence = {"switch": "on" if switched[board] else "off", "enumerated": enumerated}
            states[board] = PowerState(board, enumerated, {**evidence, "starts": self.starts.get(board, 0)})
        return states

    # Pins.

    def reset(self, boards: Sequence[str]) -> None:
        for board in boards:
            self._at_jig("reset", board, {})

    def cut_mid_write(self, board: str, *, operation: int, byte: int) -> None:
        self._at_jig("arm", board, {"operation": str(operation), "byte": str(byte)})

    def _at_jig(self, action: str, board: str, values: Mapping[str, str]) -> None:
        if action not in self._jig:
            raise RigError(f"board {board}: the rig file's [jig] has no command `{action}`")
        words = fill(self._jig[action], {"board": board, "port": self._ports[board], **values})
        self._home[board].run(words)
