"""What every driver of a virtual lab must do, run against an in-memory lab and against a real one alike."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from brownout.contracts import CommandResult, LinkRule, RigError, Support
from brownout.switches import Switches

BOARDS = ["b1", "b2", "b3"]


class FakeGateway:
    """A gateway whose `labctl` is a few lines over a dictionary; `say` makes it answer something else once."""

    name = "fake"
    transport = "local"

    def __init__(self) -> None:
        self.commands: list[CommandResult] = []
        self.on = dict.fromkeys(BOARDS, True)
        self.starts = dict.fromkeys(BOARDS, 1)
        self.plugged = dict.fromkeys(BOARDS, True)
        self.rules: dict[str, dict[str, Any]] = {}
        self.broker = "running"
        self.armed: dict[str, tuple[int, int]] = {}
        self.wiped: list[str] = []
        self.say: str | None = None

    def run(self, argv: Sequence[str], *, timeout_s: float = 10.0, check: bool = True) -> CommandResult:
        assert argv[0] == "/lab/bin/labctl"
        assert all(isinstance(word, str) for word in argv)
        if self.say is not None:
            text, self.say = self.say, None
        else:
            text = json.dumps(getattr(self, "_" + argv[1])(list(argv[2:])))
        result = CommandResult(tuple(argv), 0, text, "", 1.0)
        self.commands.append(result)
        return result

    def close(self) -> None: ...

    def _power(self, words: list[str]) -> Any:
        if words[0] == "cut-mid-write":
            self.armed[words[1]] = (int(words[2]), int(words[3]))
            return self._states([words[1]])
        for board in words[1:]:
            self._known(board)
            if words[0] == "on" and not self.on[board]:
                self.starts[board] += 1
            if words[0] != "state":
                self.on[board] = words[0] == "on"
        return self._states(words[1:])

    def _states(self, boards: list[str]) -> Any:
        return {board: {"on": self.on[board], "starts": self.starts[board], "armed": None} for board in boards}

    def _known(self, board: str) -> None:
        if board not in BOARDS:
            raise RigError(f"labctl: unknown board {board!r}")

    def _reset(self, words: list[str]) -> Any:
        for board in words:
            if not self.on[board]:
                raise RigError(f"labctl: {board} has no power")
            self.starts[board] += 1
        return self._states(words)

    def _link(self, words: list[str]) -> Any:
        if words[0] == "apply":
            self.rules |= {rule["id"]: rule for rule in json.loads(words[1])}
        elif words[0] == "clear":
            self.rules = {name: rule for name, rule in self.rules.items() if words[1:] and name not in words[1:]}
        return [
            {"rule": name, "source": source, "target": target, "matched": 0, "passed": 0}
            for name, rule in self.rules.items()
            for source in rule["sources"]
            for target in rule["targets"]
        ]

    def _broker(self, words: list[str]) -> Any:
        self.broker = {"kill": "dead", "stall": "stalled", "start": "running"}.get(words[0], self.broker)
        return {"process": self.broker, "listening": self.broker == "running"}

    def _cable(self, words: list[str]) -> Any:
        for board in words[1:]:
            if words[0] != "state":
                self.plugged[board] = words[0] == "plug"
        return {board: {"plugged": self.plugged[board]} for board in words[1:]}

    def _flash(self, words: list[str]) -> Any:
        assert words[0] == "wipe-journal"
        if any(self.on[board] for board in words[1:]):
            raise RigError("labctl: it has power")
        self.wiped += words[1:]
        return self._states(words[1:])


def drop(rule: str, source: str, target: str) -> LinkRule:
    return LinkRule(rule, "drop", (source,), (target,))


class DriverContract:
    """Inherit, and give a fixture `switches` for a lab of BOARDS, all with power."""

    def test_power_goes_off_and_comes_back(self, switches: Switches) -> None:
        power = switches.power
        before = power.state(BOARDS)
        assert all(state.on for state in before.values())
        power.off(["b1", "b2"])
        states = power.state(BOARDS)
        assert {board: state.on for board, state in states.items()} == {"b1": False, "b2": False, "b3": True}
        power.off(["b1"])
        power.on(["b1", "b2"])
        after = power.state(BOARDS)
        assert all(state.on for state in after.values())
        assert after["b1"].evidence["starts"] == before["b1"].evidence["starts"] + 1
        assert after["b3"].evidence["starts"] == before["b3"].evidence["starts"]

    def test_a_reset_is_a_start_without_a_cut_and_needs_power(self, switches: Switches) -> None:
        starts = switches.power.state(["b1"])["b1"].evidence["starts"]
        switches.power.reset(["b1"])
        state = switches.power.state(["b1"])["b1"]
        assert state.on
        assert state.evidence["starts"] == starts + 1
        switches.power.off(["b2"])
        with pytest.raises(RigError, match="no power"):
            switches.power.reset(["b2"])
        switches.power.on(["b2"])

    def test_a_cut_can_be_armed_and_disarmed(self, switches: Switches) -> None:
        switches.power.cut_mid_write("b1", operation=900, byte=7)
        switches.power.cut_mid_write("b1", operation=0, byte=0)
        assert switches.power.state(["b1"])["b1"].on

    def test_rules_stand_until_they_are_cleared(self, switches: Switches) -> None:
        link = switches.link
        link.apply([drop("f1.1", "b1", "b2"), drop("f1.2", "b2", "b1"), drop("f2.1", "b1", "b3")])
        assert {(count.rule, count.source, count.target) for count in link.counts()} == {
            ("f1.1", "b1", "b2"),
            ("f1.2", "b2", "b1"),
            ("f2.1", "b1", "b3"),
        }
        link.clear(["f1.1", "f1.2"])
        assert {count.rule for count in link.counts()} == {"f2.1"}
        link.clear([])
        assert {count.rule for count in link.counts()} == {"f2.1"}
        link.clear()
        assert link.counts() == []
        link.apply([])

    def test_the_broker_dies_stalls_and_starts(self, switches: Switches) -> None:
        broker = switches.broker
        for action in (broker.kill, broker.stall):
            action()
            assert not broker.state()["listening"]
            broker.start()
            assert broker.state()["listening"]

    def test_cables_are_pulled_and_put_back(self, switches: Switches) -> None:
        switches.cable.unplug(["b1", "b3"])
        assert switches.cable.state(BOARDS) == {"b1": False, "b2": True, "b3": False}
        switches.cable.plug(["b1", "b3"])
        assert switches.cable.state(BOARDS) == {"b1": True, "b2": True, "b3": True}

    def test_only_flash_without_power_is_wiped(self, switches: Switches) -> None:
        with pytest.raises(RigError, match="power"):
            switches.storage.wipe(["b1"])
        switches.power.off(["b1"])
        switches.storage.wipe(["b1"])
        switches.power.on(["b1"])

    def test_unknown_boards_are_a_rig_error(self, switches: Switches) -> None:
        with pytest.raises(RigError, match="b9"):
            switches.power.off(["b9"])

    def test_every_fault_of_the_rig_has_a_driver(self, switches: Switches) -> None:
        supports: dict[str, Support] = {}
        for driver in (switches.power, switches.link, switches.broker, switches.cable, switches.storage):
            assert not set(driver.supports) & set(supports)
            supports |= driver.supports
        assert "trap" not in supports  # the firmware's
        assert Support.ABSENT not in supports.values()
