"""A bed of simulated boards: the same face as bed.Bed, so that session, injector and workload do not know the rung.

Its switches act on models, after the time that a switch takes. Must not judge, and must not draw anything that is not
drawn from the plan's seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from random import Random
from typing import Any, Self

from brownout_node.core import adversary, schema

from ..bed import READY_WITHIN_S, TRAP_ACTIONS, TRAP_POINTS
from ..contracts import LinkCount, LinkRule, PowerState, RigError, Support
from ..faults import Plan
from ..link_rules import HOST
from ..mqtt_connection import Connect, Connection
from ..pace import Pace
from ..protocols import OPERATION_IDS
from ..rig import Rig, SimSpec
from ..saved_state import StateClient
from ..session import cluster_of
from ..watch import Watch
from .conditions import SimConditions
from .engine import Engine
from .network import Weather
from .tasks import VirtualPace
from .transcript import Parts
from .world import SimWorld, firmware_hash, firmware_hashes

SILENCE_LOOK_S = 0.01
MOST_EFFECTS = 12  # a board whose power is cut may do up to so many more effects within the switch's time


class SimBed:
    """weather: what the network does by itself. parts: what a board with that config.json is made of."""

    def __init__(
        self,
        spec: SimSpec,
        plan: Plan,
        rig: Rig,
        *,
        weather: Weather | None = None,
        parts: Callable[[Mapping[str, Any]], Parts] | None = None,
    ) -> None:
        self.spec = spec
        self.rig = rig
        self.plan = plan
        self.sites = plan.sites
        self.engine = Engine()
        self._tasks = VirtualPace(self.engine)
        self.pace: Pace = self._tasks
        self.names = tuple(board.name for board in plan.boards)
        self.weather = weather or Weather()
        self.world = SimWorld(
            self.engine,
            spec,
            plan.boards,
            rig.bed,
            cluster_of(plan.seed),
            plan.seed,
            plan.configuration,
            weather,
            parts,
            plan.sites,
        )
        self.watch = Watch(self.pace)
        self.telemetry = self.world.telemetry
        self.telemetry.subscribe(self.watch.take)
        self.described = {name: dict(firmware_hashes()) for name in self.names}
        self._changed = self.pace.condition()
        self.world.on_power = self._changed.notify_all
        self._requests = 0
        switch = Switch(self)
        self.power = SimPower(switch, rig.support)
        self.link = SimLink(switch, rig.support)
        self.broker = SimBroker(switch, rig.support)
        self.cable = SimCable(switch, rig.support)
        self.storage = SimStorage(switch, rig.support)
        self.conditions = SimConditions(self.world.boards, rig.support)

    def drive(self, function: Callable[[], None]) -> None:
        """Run `function`, and virtual time with it."""
        try:
            self._tasks.run(function)
        finally:
            self._tasks.close()

    def now_ns(self) -> int:
        return self.engine.now_ns

    def __enter__(self) -> Self:
        for name in self.names:
            self.world.boards[name].power_on()
        for name in self.names:
            if self.watch.wait_for_boot(name, None, READY_WITHIN_S) is None:
                crashes = [crash.error for crash in self.world.boards[name].crashes]
                raise RigError(f"simulated board {name} does not boot: {crashes[-1] if crashes else 'no boot event'}")
        networked = [board.name for board in self.plan.boards if board.mesh == "mqtt"]
        missing = self.watch.wait_for_connections(networked, READY_WITHIN_S)
        if missing:
            raise RigError(f"no connection to the broker within {READY_WITHIN_S:.0f} s from: {', '.join(missing)}")
        return self

    def __exit__(self, *_exception: object) -> None:
        for board in self.world.boards.values():
            board.power_off()

    # What the run asks for.

    def support(self, kind: str) -> Support:
        return self.rig.support[kind]

    @property
    def connect(self) -> Connect:
        def connect(_subscriptions: Sequence[tuple[str, int]], handler: Any) -> Connection:
            return self.world.connect(handler)

        return connect

    def states(self) -> StateClient:
        """A way to save boards' states and to give them back."""
        numbers = {board.name: board.board for board in self.plan.boards}
        return StateClient(self.connect, self.rig.bed, self.world.cluster, self.pace, numbers)

    def facts(self) -> dict[str, Any]:
        return {
            "broker": {"kind": "model", "version": ""},
            "firmware_flashed": {"files": firmware_hashes(), "hash": firmware_hash().hex()},
            "sim": asdict(self.spec),
            "weather": asdict(self.weather),
        }

    def last_facts(self) -> dict[str, Any]:
        crashes = [asdict(crash) for board in self.world.boards.values() for crash in board.crashes]
        return {
            "trace_hash": self.world.trace_hash,
            "crashes": crashes,
            "sim_counts": {
                "calls": self.engine.calls,
                "messages": self.world.network.sent,
                "lost": self.world.network.lost,
            },
        }

    def heal(self) -> list[str]:
        """Undo everything that a fault may have left."""
        healed = []
        if self.link.counts():
            self.link.clear()
            healed.append("links cleared")
        self.broker.start()
        for bridge in self.world.network.bridges:
            self.broker.join(bridge)
        self.world.network.parted.clear()
        for name, board in self.world.boards.items():
            if not board.plugged:
                self.cable.plug([name])
                healed.append(f"cable plugged in: {name}")
            if not board.on:
                self.power.on([name])
                healed.append(f"power switched on: {name}")
        return healed + self.conditions.heal()

    # What faults ask for.

    def silent(self, board: str, for_s: float, within_s: float) -> bool:
        """Whether nothing comes by the board's cable for so long."""
        model = self.world.boards[board]
        until_ns = self.now_ns() + int(within_s * 1e9)
        since_ns = self.now_ns()
        while self.now_ns() < until_ns:
            since_ns = max(since_ns, model.last_output_ns)
            left_s = for_s - (self.now_ns() - since_ns) / 1e9
            if left_s <= 0:
                return True
            self.pace.sleep(max(left_s, SILENCE_LOOK_S))
        return False

    def port_gone(self, board: str, within_s: float) -> bool:
        return not self.world.boards[board].plugged

    def wait_for_power(self, board: str, *, on: bool, within_s: float) -> bool:
        model = self.world.boards[board]
        return self._changed.wait_for(lambda: model.on == on, within_s)

    def wait_for_broker(self, *, answers: bool, within_s: float) -> bool:
        return self.world.network.answers() == answers

    def broker_of_site_answers(self, site: str, *, answers: bool, within_s: float) -> bool:
        """Whether the broker of that site serves, or does not."""
        return self.world.network.answers(site) == answers

    def uplink_answers(self, board: str, site: str) -> bool:
        """Whether that board could connect to that broker."""
        return self.world.broker_answers(site, board)

    def crosses(self, source: str, target: str, within_s: float) -> bool:
        """Whether a message that the host puts to one site's broker comes out at the other's."""
        arrived = self.pace.condition()
        came: list[bytes] = []

        def arrive(data: bytes) -> None:
            with arrived:
                came.append(data)
                arrived.notify_all()

        assert self.plan.sites is not None
        via = self.plan.sites.path(source, target)
        self.world.network.send(HOST, HOST, b"probe", arrive, self.now_ns(), via=via)
        with arrived:
            return arrived.wait_for(lambda: bool(came), within_s)

    def upgrade(self, boards: Sequence[str]) -> Callable[[], None]:
        """What is returned makes these boards name other firmware, and send what the next release sends."""

        def change() -> None:
            for board in boards:
                self.world.boards[board].upgrade()

        return change

    def reconnect(self, boards: Sequence[str]) -> None:
        """Simulated cables stay where they are."""

    def turn(self, board: str, behaviour: int, split: Sequence[str]) -> None:
        bits = sum(1 << other.board for other in self.plan.boards if other.name in split)
        self._requests += 1
        self.world.control(board, self._requests, adversary.TURN, (behaviour, bits))

    def hand_over(self, board: str) -> None:
        self._requests += 1
        fields = (self._requests, OPERATION_IDS["hand_over"], "turns", None, None)
        self.world.control(board, self._requests, schema.COMMAND, fields)

    def arm_trap(self, board: str, parameters: Mapping[str, Any]) -> None:
        point = TRAP_POINTS[parameters.get("point", "after persist")]
        action = TRAP_ACTIONS[parameters.get("action", "power off")]
        self._requests += 1
        self.world.control(board, self._requests, schema.TRAP, (point, int(parameters.get("count", 1)), action))


class Switch:
    """What all switches share: the boards, and the time that switching takes."""

    def __init__(self, bed: SimBed) -> None:
        self.world = bed.world
        self.pace = bed.pace
        self.random = Random(f"{bed.plan.seed} switches")
        self.switch_s = bed.spec.switch_ms / 1e3

    def wait(self) -> None:
        self.pace.sleep(self.switch_s)


class SimPower:
    """Satisfies contracts.Power. A cut meets a board between two effects of a step, or between two steps."""

    def __init__(self, switch: Switch, support: Mapping[str, Support]) -> None:
        self._switch = switch
        self._boards = switch.world.boards
        self.supports = support

    def off(self, boards: Sequence[str]) -> None:
        for board in boards:
            self._boards[board].power_off_within(self._switch.random.randrange(MOST_EFFECTS))
        self._switch.wait()
        for board in boards:
            self._boards[board].power_off()

    def on(self, boards: Sequence[str]) -> None:
        self._switch.wait()
        for board in boards:
            self._boards[board].power_on()

    def state(self, boards: Sequence[str]) -> dict[str, PowerState]:
        states = {}
        for board in boards:
            model = self._boards[board]
            evidence = {
                "starts": model.starts,
                "exit": model.exit or None,
                "flash": {"programs": model.flash.programs, "erases": model.flash.erases},
            }
            states[board] = PowerState(board, model.on, evidence)
        return states

    def reset(self, boards: Sequence[str]) -> None:
        self._switch.wait()
        for board in boards:
            self._boards[board].reset()

    def cut_mid_write(self, board: str, *, operation: int, byte: int) -> None:
        self._switch.wait()
        self._boards[board].flash.cut(operation, byte)


class SimLink:
    """Satisfies contracts.Link."""

    def __init__(self, switch: Switch, support: Mapping[str, Support]) -> None:
        self._switch = switch
        self._network = switch.world.network
        self.supports = support

    def apply(self, rules: Sequence[LinkRule]) -> None:
        self._switch.wait()
        self._network.apply(rules)

    def clear(self, ids: Sequence[str] | None = None) -> None:
        self._switch.wait()
        self._network.clear(ids)

    def counts(self) -> list[LinkCount]:
        return self._network.counts()


class SimBroker:
    """Satisfies contracts.Broker."""

    def __init__(self, switch: Switch, support: Mapping[str, Support]) -> None:
        self._switch = switch
        self._world = switch.world
        self._network = switch.world.network
        self.supports = support

    def kill(self, site: str | None = None) -> None:
        self._switch.wait()
        self._network.kill(site)

    def stall(self) -> None:
        self._switch.wait()
        self._network.stall()

    def start(self, site: str | None = None) -> None:
        self._switch.wait()
        self._network.start(site)

    def cut(self, between: Sequence[str]) -> None:
        self._switch.wait()
        self._network.cut(between)

    def join(self, between: Sequence[str]) -> None:
        self._switch.wait()
        self._network.join(between)

    def part(self, site: str, boards: Sequence[str]) -> None:
        self._switch.wait()
        self._world.part(site, boards)

    def rejoin(self, site: str, boards: Sequence[str]) -> None:
        self._switch.wait()
        self._world.rejoin(site, boards)

    def state(self, site: str | None = None) -> dict[str, Any]:
        if site is not None:
            broker = self._network.brokers[site]
            return {"running": broker.up, "stalled": broker.stalled, "deaths": broker.deaths}
        return {"running": self._network.up, "stalled": self._network.stalled}


class SimCable:
    """Satisfies contracts.Cable."""

    def __init__(self, switch: Switch, support: Mapping[str, Support]) -> None:
        self._switch = switch
        self._boards = switch.world.boards
        self.supports = support

    def _plug(self, boards: Sequence[str], plugged: bool) -> None:
        self._switch.wait()
        for board in boards:
            self._boards[board].plugged = plugged

    def unplug(self, boards: Sequence[str]) -> None:
        self._plug(boards, False)

    def plug(self, boards: Sequence[str]) -> None:
        self._plug(boards, True)

    def state(self, boards: Sequence[str]) -> dict[str, bool]:
        return {board: self._boards[board].plugged for board in boards}


class SimStorage:
    """Satisfies contracts.Storage."""

    def __init__(self, switch: Switch, support: Mapping[str, Support]) -> None:
        self._switch = switch
        self._boards = switch.world.boards
        self.supports = support

    def wipe(self, boards: Sequence[str]) -> None:
        powered = [board for board in boards if self._boards[board].on]
        if powered:
            raise RigError(f"wipe: {', '.join(powered)} still has power")
        for board in boards:
            self._boards[board].flash.wipe()
