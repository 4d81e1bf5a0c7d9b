"""Carries out a plan's faults: journal, apply, prove from a second side, heal, and confirm the healing.

Every fault runs its life in a task of its own (planned, applied, proven or unproven, healed), each stage one line of
faults.jsonl with its evidence. Must not judge: a fault that could not be proven is recorded as such, and a checker says
`unknown`. Boards that several faults keep without power come back with the last of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from . import conditions, site_faults
from .contracts import LinkCount, LinkRule, RigError, Support
from .fault_kinds import CONDITIONS, HAND_OVER, MALICE, SITE_KINDS
from .faults import PlannedFault, link_rules
from .history import BoardEvent, FaultRecord, FaultStage
from .pace import Task

PROOF_WITHIN_S = 5.0  # how long a second side may take to show a fault
BOOT_WITHIN_S = 15.0  # power on until the boot event has arrived
SILENCE_S = 0.25  # no byte for so long counts as a silent cable
TURN_TRIES = 5  # how often a board is told to turn malicious, or honest again, or to hand over
POLL_S = 0.05  # between two looks at counters that cannot notify

POWER_FAULTS = {"cut", "cycle", "power_flap", "blackout", "reset", "cut_mid_write", "wipe"}
LINK_FAULTS = {"isolate", "split", "one_way", "loss", "delay", "bandwidth", "link_flap", "drop", "hold", "duplicate"}
BROKER_FAULTS = {"broker_kill", "broker_stall"}


@dataclass
class PowerHolds:
    """Which faults keep which boards without power; a board is switched on again when the last lets go."""

    holders: dict[str, set[str]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def hold(self, fault: str, boards: Iterable[str]) -> list[str]:
        """Return the boards that had power until now."""
        with self.lock:
            fresh = [board for board in boards if not self.holders.get(board)]
            for board in boards:
                self.holders.setdefault(board, set()).add(fault)
            return fresh

    def release(self, fault: str, boards: Iterable[str]) -> list[str]:
        """Return the boards that nobody holds any more."""
        with self.lock:
            free = []
            for board in boards:
                holders = self.holders.get(board, set())
                if fault in holders:
                    holders.discard(fault)
                    if not holders:
                        free.append(board)
            return free

    def held(self) -> set[str]:
        with self.lock:
            return {board for board, holders in self.holders.items() if holders}


class Injector:
    """Runs the faults of one plan against a bed (see bed.py), recording through `record`."""

    def __init__(
        self, bed: Any, faults: Iterable[PlannedFault], record: Callable[[FaultRecord], None], start_ns: int
    ) -> None:
        self.bed = bed
        self.faults = list(faults)
        self.record = record
        self.start_ns = start_ns  # when the campaign's time zero is, on the run's clock
        self.holds = PowerHolds()
        self.stop = bed.pace.signal()
        self.errors: list[RigError] = []
        self._lives: list[Task] = []

    def start(self) -> None:
        for fault in self.faults:
            self._lives.append(self.bed.pace.start(partial(self._live, fault), f"fault {fault.id}"))

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until every fault has lived its life; False if the time ran out first."""
        deadline = None if timeout_s is None else self.bed.now_ns() + int(timeout_s * 1e9)
        for life in self._lives:
            left = None if deadline is None else max(0.0, (deadline - self.bed.now_ns()) / 1e9)
            life.join(left)
            if life.is_alive():
                return False
        return True

    def abandon(self) -> None:
        """Stop waiting: every fault heals at once."""
        self.stop.set()

    # One fault's life.

    def _live(self, fault: PlannedFault) -> None:
        self.stop.wait(max(0.0, fault.at_s - self._now_s()))
        if self.stop.is_set():
            return
        try:
            FaultLife(self, fault).run()
        except RigError as error:
            self.errors.append(error)
            self.note(fault, FaultStage.UNPROVEN, (), {"error": str(error)})

    def _now_s(self) -> float:
        return (self.bed.now_ns() - self.start_ns) / 1e9

    def note(
        self, fault: PlannedFault, stage: FaultStage, boards: tuple[str, ...], evidence: Mapping[str, Any]
    ) -> None:
        self.record(
            FaultRecord(
                id=fault.id,
                kind=fault.kind,
                stage=stage,
                at_ns=self.bed.now_ns(),
                planned_ns=self.start_ns + int(fault.at_s * 1e9),
                boards=boards,
                support=str(self.bed.support(fault.kind) or Support.ABSENT),
                evidence=dict(evidence),
            )
        )


class FaultLife:
    """One fault from its moment to its healing."""

    def __init__(self, injector: Injector, fault: PlannedFault) -> None:
        self.injector = injector
        self.bed = injector.bed
        self.fault = fault
        self.boards: tuple[str, ...] = ()
        # For what lies in files of its own.
        self.note, self.proof, self.last = self._note, self._proof, self._last
        self.off, self.on, self.boot_evidence = self._off, self._on, self._boot_evidence

    def run(self) -> None:
        moment = self._wait_for_moment()
        self.boards = self._chosen()
        self._note(FaultStage.PLANNED, {"when": self.fault.when, "moment": moment} if self.fault.when else {})
        if self.fault.kind in POWER_FAULTS:
            self._power()
        elif self.fault.kind in LINK_FAULTS:
            self._link()
        elif self.fault.kind in BROKER_FAULTS:
            self._broker()
        elif self.fault.kind == "trap":
            self._trap()
        elif self.fault.kind in MALICE:
            self._malice()
        elif self.fault.kind in CONDITIONS:
            conditions.run(self)
        elif self.fault.kind in SITE_KINDS:
            site_faults.run(self)
        elif self.fault.kind == "upgrade":
            self._upgrade()
        elif self.fault.kind == "restore":
            self._restore()
        elif self.fault.kind == "unplug":
            self._unplug()
        else:
            raise RigError(f"fault {self.fault.id}: nothing on this rig carries out {self.fault.kind!r}")

    def _note(self, stage: FaultStage, evidence: Mapping[str, Any]) -> None:
        self.injector.note(self.fault, stage, self.boards, evidence)

    def _proof(self, proven: bool, evidence: Mapping[str, Any]) -> None:
        self._note(FaultStage.PROVEN if proven else FaultStage.UNPROVEN, evidence)

    def _last(self) -> None:
        """Let the fault stand for its time, or until the run is broken off."""
        self.injector.stop.wait(self.fault.for_s)

    def _chosen(self) -> tuple[str, ...]:
        """The boards that the fault meets, now that the run can tell."""
        if self.fault.select == "proposer":
            return (self.bed.watch.proposer() or self.bed.names[0],)
        return self.fault.boards

    def _wait_for_moment(self) -> Mapping[str, Any]:
        if self.fault.when is None:
            return {}
        event: BoardEvent | None = self.bed.watch.wait_for_moment(self.fault.when, PROOF_WITHIN_S)
        if event is None:
            return {"reached": False}
        return {"reached": True, "board": event.board, "boot": event.boot, "sequence": event.sequence}

    # Power.

    def _power(self) -> None:
        kind = self.fault.kind
        if kind == "cut_mid_write":
            self._cut_mid_write()
        elif kind == "power_flap":
            self._power_flap()
        elif kind == "reset":
            self._reset()
        else:  # cut, cycle, blackout and wipe differ in whom they meet, for how long, and what happens in the dark
            self._dark(wipe=kind == "wipe", stagger_s=float(self.fault.parameters.get("stagger_s", 0.0)))

    def _off(self, boards: Iterable[str]) -> None:
        fresh = self.injector.holds.hold(self.fault.id, tuple(boards))
        if fresh:
            self.bed.power.off(fresh)

    def _on(self, boards: Iterable[str]) -> list[str]:
        free = self.injector.holds.release(self.fault.id, tuple(boards))
        if free:
            self.bed.power.on(free)
        return free

    def _dark(self, *, wipe: bool, stagger_s: float, heal: bool = True) -> None:
        handed = self._hand_over() if self.fault.parameters.get("first") == HAND_OVER else {}
        boots = self.bed.watch.boots(self.boards)
        if stagger_s:
            for index, board in enumerate(self.boards):
                if index:
                    self.injector.stop.wait(stagger_s)
                self._off([board])
        else:
            self._off(self.boards)
        self._note(FaultStage.APPLIED, {"last_boots": boots, **handed})
        self._proof(*self._dark_evidence())
        if wipe:
            self.bed.storage.wipe(self.boards)
        self._last()
        evidence = self._boot_evidence(self._on(self.boards), boots, wiped=wipe)
        if heal:
            self._note(FaultStage.HEALED, evidence)

    def _hand_over(self) -> dict[str, Any]:
        """What the boards said of the turns that they handed over; one that has not in time loses power anyway."""
        from_ns = self.bed.now_ns()
        said: dict[str, Any] = {}
        for board in self.boards:
            event: BoardEvent | None = None
            for _ in range(TURN_TRIES):
                self.bed.hand_over(board)
                event = self.bed.watch.wait_for_hand_over(board, from_ns, PROOF_WITHIN_S / TURN_TRIES)
                if event is not None or self.injector.stop.is_set():
                    break
            said[board] = None if event is None else dict(event.fields)
        return {"asked_ns": from_ns, "handed_over": said}

    def _dark_evidence(self) -> tuple[bool, dict[str, Any]]:
        """The switch's own word, and from the second side silence on every cable."""
        states = self.bed.power.state(self.boards)
        evidence: dict[str, Any] = {
            board: {"on": state.on, **dict(state.evidence), "silent": self.bed.silent(board, SILENCE_S, PROOF_WITHIN_S)}
            for board, state in states.items()
        }
        proven = all(not entry["on"] and entry["silent"] for entry in evidence.values())
        return proven and len(evidence) == len(self.boards), evidence

    def _boot_evidence(self, boards: Iterable[str], boots: Mapping[str, int], *, wiped: bool = False) -> dict[str, Any]:
        """New boots from the boards' own mouths; a board that does not come back is said so."""
        evidence: dict[str, Any] = {}
        for board in boards:
            event = self.bed.watch.wait_for_boot(board, boots.get(board), BOOT_WITHIN_S)
            if event is None:
                evidence[board] = {"booted": False}
                self._note(FaultStage.UNPROVEN, {board: f"no boot event within {BOOT_WITHIN_S:.0f} s of power on"})
                continue
            evidence[board] = {"boot": event.boot, "reset_cause": event.fields["reset_cause"]}
            if wiped:
                evidence[board]["journal"] = event.fields["journal"]
                if event.fields["journal"] == 0:
                    self._note(FaultStage.UNPROVEN, {board: "the journal was wiped, and the board still found one"})
        return evidence

    def _power_flap(self) -> None:
        times = int(self.fault.parameters.get("times", 3))
        period_s = float(self.fault.parameters.get("period_s", 0.3))
        boots = self.bed.watch.boots(self.boards)
        starts = {board: state.evidence.get("starts") for board, state in self.bed.power.state(self.boards).items()}
        for flap in range(times):
            self._off(self.boards)
            if flap == 0:
                self._note(FaultStage.APPLIED, {"times": times, "period_s": period_s})
            self.injector.stop.wait(period_s / 2)
            self._on(self.boards)
            if flap + 1 < times:
                self.injector.stop.wait(period_s / 2)
        after = {board: state.evidence.get("starts") for board, state in self.bed.power.state(self.boards).items()}
        boot = self._boot_evidence(self.boards, boots)
        proven = all("boot" in entry for entry in boot.values())
        self._proof(proven, {"starts_before": starts, "starts_after": after})
        self._note(FaultStage.HEALED, boot)

    def _reset(self) -> None:
        boots = self.bed.watch.boots(self.boards)
        self.bed.power.reset(self.boards)
        self._note(FaultStage.APPLIED, {"last_boots": boots})
        evidence = self._boot_evidence(self.boards, boots)
        self._proof(all("boot" in entry for entry in evidence.values()), evidence)
        self._note(FaultStage.HEALED, evidence)

    def _cut_mid_write(self) -> None:
        parameters = self.fault.parameters
        operation, byte = int(parameters.get("operation", 1)), int(parameters.get("byte", 7))
        boots = self.bed.watch.boots(self.boards)
        for board in self.boards:
            self.bed.power.cut_mid_write(board, operation=operation, byte=byte)
        self._note(FaultStage.APPLIED, {"operation": operation, "byte": byte, "last_boots": boots})
        deadline_s = max(self.fault.for_s, PROOF_WITHIN_S)
        fired = [board for board in self.boards if self.bed.wait_for_power(board, on=False, within_s=deadline_s)]
        self.injector.holds.hold(self.fault.id, fired)
        states = self.bed.power.state(self.boards)
        evidence = {board: {"on": state.on, **dict(state.evidence)} for board, state in states.items()}
        self._proof(len(fired) == len(self.boards), evidence)
        self._last()
        for board in self.boards:  # also of those that are dark: it may have been another fault that cut them
            self.bed.power.cut_mid_write(board, operation=0, byte=0)  # disarm
        free = self._on(fired)
        self._note(FaultStage.HEALED, self._boot_evidence(free, boots))

    def _upgrade(self) -> None:
        """The firmware ends where it stands, another one is flashed, and power goes and comes back."""
        flash = self.bed.upgrade(self.boards)
        boots = self.bed.watch.boots(self.boards)
        before = self._firmware()
        self._note(FaultStage.APPLIED, {"last_boots": boots, "firmware": before})
        flash()
        self._off(self.boards)
        self._proof(*self._dark_evidence())
        self._last()
        free = self._on(self.boards)
        self.bed.reconnect(free)
        evidence = self._boot_evidence(free, boots)
        after = self._firmware()
        same = [board for board in free if after[board] == before[board]]
        if same:
            self._note(FaultStage.UNPROVEN, dict.fromkeys(same, "it names the same firmware as before"))
        self._note(FaultStage.HEALED, {**evidence, "firmware": after})

    def _firmware(self) -> dict[str, str | None]:
        """The hash of its firmware, as each board told it when it last booted."""
        told = {board: self.bed.watch.boot(board) for board in self.boards}
        return {board: event and event.fields["firmware"] for board, event in told.items()}

    def _restore(self) -> None:
        """Saved, wiped a while later, and given back what was saved: what came between the log has to bring."""
        with self.bed.states() as states:
            found = {board: states.fetch(board, PROOF_WITHIN_S) for board in self.boards}
            saved = {board: state for board, state in found.items() if state is not None}
            if len(saved) < len(found):
                self._proof(False, {"saved": sorted(saved), "not_saved": sorted(set(found) - set(saved))})
                return
            self.injector.stop.wait(float(self.fault.parameters.get("age_s", 1.0)))
            self._dark(wipe=True, stagger_s=0.0, heal=False)
            evidence: dict[str, Any] = {}
            for board, state in saved.items():
                given = states.give(board, state, BOOT_WITHIN_S)
                evidence[board] = {
                    "saved_below_height": state.height,
                    "given_back": given.complete,
                    "next_height": given.next_height,
                    "reason": given.reason,
                }
        if not all(entry["given_back"] for entry in evidence.values()):
            self._proof(False, evidence)
        self._note(FaultStage.HEALED, evidence)

    # Links and messages.

    def _link(self) -> None:
        if self.fault.kind == "link_flap":
            self._link_flap()
            return
        rules = link_rules(self.fault, self.boards, self.bed.names)
        self.bed.link.apply(rules)
        self._note(FaultStage.APPLIED, {"rules": len(rules)})
        self._prove_link(rules)
        self.bed.link.clear([rule.id for rule in rules])
        self._note(FaultStage.HEALED, {})

    def _prove_link(self, rules: list[LinkRule]) -> None:
        """Wait for the counters to show it, and note it; the fault stands for its time all the same."""
        ids = {rule.id for rule in rules}
        until_ns = self.bed.now_ns() + int(self.fault.for_s * 1e9)
        proven = False
        counts: list[LinkCount] = []
        while not self.injector.stop.is_set() and self.bed.now_ns() < until_ns:
            if not proven:
                counts = [count for count in self.bed.link.counts() if count.rule in ids]
                proven = link_proven(self.fault.kind, self.boards, counts)
                if proven:
                    self._proof(True, link_evidence(counts))
            self.injector.stop.wait(min(POLL_S * 4, max(0.0, (until_ns - self.bed.now_ns()) / 1e9)))
        counts = [count for count in self.bed.link.counts() if count.rule in ids]
        if not proven:
            self._proof(link_proven(self.fault.kind, self.boards, counts), link_evidence(counts))
        elif cuts_everything(self.fault.kind) and any(count.passed for count in counts):
            self._proof(False, {"leaked": link_evidence(counts)})

    def _link_flap(self) -> None:
        times = int(self.fault.parameters.get("times", 3))
        period_s = self.fault.for_s / max(1, times)
        rules = link_rules(self.fault, self.boards, self.bed.names)
        matched = 0
        for flap in range(times):
            self.bed.link.apply(rules)
            if flap == 0:
                self._note(FaultStage.APPLIED, {"times": times, "rules": len(rules)})
            self.injector.stop.wait(period_s / 2)
            matched += sum(count.matched for count in self.bed.link.counts())
            self.bed.link.clear([rule.id for rule in rules])
            self.injector.stop.wait(period_s / 2)
        self._proof(matched > 0, {"matched": matched})
        self._note(FaultStage.HEALED, {})

    # Broker, cables and traps.

    def _broker(self) -> None:
        broker = self.bed.broker
        if self.fault.kind == "broker_kill":
            broker.kill()
        else:
            broker.stall()
        self._note(FaultStage.APPLIED, {})
        unreachable = self.bed.wait_for_broker(answers=False, within_s=PROOF_WITHIN_S)
        self._proof(unreachable, {"state": broker.state(), "answers_a_connection": not unreachable})
        self._last()
        broker.start()
        back = self.bed.wait_for_broker(answers=True, within_s=PROOF_WITHIN_S)
        self._note(FaultStage.HEALED, {"state": broker.state(), "answers_a_connection": back})

    def _unplug(self) -> None:
        self.bed.cable.unplug(self.boards)
        self._note(FaultStage.APPLIED, {})
        evidence = {board: {"port_gone": self.bed.port_gone(board, PROOF_WITHIN_S)} for board in self.boards}
        self._proof(all(entry["port_gone"] for entry in evidence.values()), evidence)
        self._last()
        self.bed.cable.plug(self.boards)
        self._note(FaultStage.HEALED, {"plugged": self.bed.cable.state(self.boards)})

    def _malice(self) -> None:
        """The boards behave as a coalition: all do the same, and tell the same other boards another story."""
        others = [name for name in self.bed.names if name not in self.boards]
        split = tuple(self.fault.parameters.get("to", ())) or tuple(others[: len(others) // 2])
        self._note(FaultStage.APPLIED, {"to": list(split)})
        behaviour = 1 + MALICE.index(self.fault.kind)
        evidence = {board: {"turned": self._turn(board, behaviour, split)} for board in self.boards}
        self._proof(all(entry["turned"] for entry in evidence.values()), evidence)
        self._last()
        honest = {board: {"honest": self._turn(board, 0, ())} for board in self.boards}
        self._note(FaultStage.HEALED, honest)

    def _turn(self, board: str, behaviour: int, split: Iterable[str]) -> bool:
        """Whether the board has said that it behaves so; it is told again, since what it is told may be lost."""
        for _ in range(TURN_TRIES):
            self.bed.turn(board, behaviour, split)
            if self.bed.watch.wait_for_behaviour(board, behaviour, PROOF_WITHIN_S / TURN_TRIES):
                return True
        return False

    def _trap(self) -> None:
        parameters = self.fault.parameters
        boots = self.bed.watch.boots(self.boards)
        for board in self.boards:
            self.bed.arm_trap(board, parameters)
        self._note(FaultStage.APPLIED, {**parameters, "last_boots": boots})
        power_off = parameters.get("action", "power off") == "power off"
        within_s = max(self.fault.for_s, PROOF_WITHIN_S)
        if power_off:
            sprung = [board for board in self.boards if self.bed.wait_for_power(board, on=False, within_s=within_s)]
            self.injector.holds.hold(self.fault.id, sprung)
        else:
            sprung = [board for board in self.boards if self.bed.silent(board, 1.0, within_s)]
        states = self.bed.power.state(self.boards)
        self._proof(
            len(sprung) == len(self.boards),
            {
                board: {"sprung": board in sprung, "on": state.on, **dict(state.evidence)}
                for board, state in states.items()
            },
        )
        self._last()
        for board in set(self.boards) - set(sprung):
            self.bed.arm_trap(board, {**parameters, "count": 0})  # disarm: it must not spring when all is healed
        if power_off:
            back = self._on(sprung)
        else:
            back = list(sprung)
            self.bed.power.reset(back)
        self._note(FaultStage.HEALED, self._boot_evidence(back, boots))


def cuts_everything(kind: str) -> bool:
    """Whether no message may pass the pairs that this kind of fault names."""
    return kind in {"isolate", "split", "one_way"}


def link_proven(kind: str, boards: Iterable[str], counts: list[LinkCount]) -> bool:
    """Whether the counters show the fault: it met messages, for cuts of every board it names, and let none through."""
    met = {count.source for count in counts if count.matched} | {count.target for count in counts if count.matched}
    if not met:
        return False
    if cuts_everything(kind):
        return set(boards) <= met and not any(count.passed for count in counts)
    return True


def link_evidence(counts: list[LinkCount]) -> dict[str, Any]:
    """Messages met and passed by directed pair, those without any left out."""
    return {
        f"{count.source} -> {count.target}": {"matched": count.matched, "passed": count.passed}
        for count in counts
        if count.matched or count.passed
    }
