"""One simulated board: the firmware's own node, step, journal and telemetry ring, on models of flash, clock and links.

Does in virtual time what shell.py does on a board: what has arrived while it worked is received together, then one
step; ticks; telemetry soon after; the journal looked after when it is quiet. Power can go at any effect of a step. Must
not look into messages beyond the controller's own (traps).
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from brownout_node.core import codec, schema
from brownout_node.core.config import Config
from brownout_node.core.errors import JournalError
from brownout_node.core.node import Node
from brownout_node.core.step import step
from brownout_node.degraded import Degraded
from brownout_node.storage.journal import Journal, format_genesis
from brownout_node.telemetry import Telemetry
from brownout_node.transport.routes import LOOK_MS, REROUTED, Routes
from brownout_node.transport.serial import read_events

from .. import next_release
from ..rig import SimSpec
from .engine import Engine
from .flash import PowerLost
from .transcript import Parts

TELEMETRY_DELAY_NS = 3_000_000  # shell.py: events of one decision leave together
MAINTAIN_TICKS = 8  # shell.py: the journal is looked after at least this often
FIRST_RETRY_MS = 100  # transport/mqtt.py: before a new attempt to connect; doubles up to the last
LAST_RETRY_MS = 2000
MOST_UNACKNOWLEDGED = 8  # transport/mqtt.py: messages at QoS 1 under way
RESEND_NS = 3_000_000_000  # transport/mqtt.py: one without an acknowledgement is sent again
RESTART_NS = 50_000_000  # from a crash to power-on
IMPLEMENTATION = "cpython sim"


class World(Protocol):
    """What a board needs of the world around it; world.py is one. depart_ns: when it has left the board."""

    engine: Engine

    def mesh(self, board: SimBoard, to: int, data: bytes, depart_ns: int) -> None: ...

    def reply(self, board: SimBoard, client: int, data: bytes, depart_ns: int) -> None: ...

    def events_by_cable(self, board: SimBoard, previous: int, events: bytes) -> None: ...

    def events_by_broker(self, board: SimBoard, packet: int, events: bytes) -> None: ...

    def power_changed(self, board: SimBoard) -> None: ...

    def home(self, name: str) -> str: ...

    def broker_answers(self, site: str, name: str) -> bool: ...


@dataclass
class Crash:
    """An error that ended the firmware of one board."""

    board: str
    at_ns: int
    error: str
    trace: str


class _Halted(Exception):
    """A trap halted the board in the middle of a step."""


class SimBoard:
    """document: its config.json."""

    def __init__(
        self,
        world: World,
        name: str,
        document: Mapping[str, Any],
        spec: SimSpec,
        about: tuple[str, bytes],
        seed: int,
        parts: Parts | None = None,
    ) -> None:
        self.world = world
        self.engine = world.engine
        self.name = name
        self.config = Config(dict(document))
        self.number = self.config.board
        self.mesh = self.config.mesh
        self.spec = spec
        self._parts = parts or Parts()
        self.flash = self._parts.flash(int(spec.program_ms * 1e6), int(spec.erase_ms * 1e6))
        self.node: Node | Degraded | None = None
        self.journal: Journal | None = None
        self.on = False
        self.halted = False
        self.connected = False
        self._home = world.home(name)
        self.routes: Routes | None = None
        self.plugged = True
        self.starts = 0
        self.life = 0  # counts power-ons; what was scheduled in an earlier life does nothing
        self.exit = ""
        self.crashes: list[Crash] = []
        self.degraded: list[str] = []  # why, each time
        self.last_output_ns = 0
        self.drift_ppm = 0
        self.ahead_ms = 0
        self.requests_left: int | None = None  # for memory, until one fails; None: there is enough
        self.requests_refused = 0  # since the last press
        self._about = about
        self.release = 1
        self._random = Random(f"{seed} board {name}")
        self._work_ns = int(spec.work_ms * 1e6)
        self._tick_ns = self.config.tick_ms * 1_000_000
        self._effects_left = -1
        format_genesis(self.flash, self.config.cluster, self.number)

    @property
    def by_cable(self) -> bool:
        """Whether what it tells other boards goes by its cable."""
        routes = self.routes
        return self.mesh == "serial" or (routes is not None and routes.by_cable and routes.taken_ms is not None)

    @property
    def route(self) -> str:
        """The site whose broker it is connected to, or tries; or the cable."""
        return self._home if self.routes is None else self.routes.names[self.routes.at]

    def upgrade(self) -> None:
        """What it sends from now on is the next release's; the core that makes it is the same."""
        self.release = next_release.RELEASE
        implementation, firmware = self._about
        self._about = (f"{implementation}, next release", bytes(byte ^ 0xFF for byte in firmware))

    # Power.

    def power_on(self, cause: str = "power") -> None:
        if self.on:
            return
        self.on = True
        self.halted = False
        self.life += 1
        self.starts += 1
        self.exit = ""
        jitter_ns = int(self._random.random() * 20e6)  # so that ticks of different boards fall at different times
        self.engine.at(self.engine.now_ns + int(self.spec.boot_ms * 1e6) + jitter_ns, self._boot, self.life, cause)
        self.world.power_changed(self)

    def power_off(self, why: str = "switched off") -> None:
        if not self.on:
            return
        self.on = False
        self.exit = why
        self._forget()
        self.world.power_changed(self)

    def power_off_within(self, effects: int) -> None:
        """Let power go before the effect of that number (0 is the next) of what the board does from now on."""
        self._effects_left = effects

    def reset(self) -> None:
        """The reset pin: the supply stays."""
        if self.on:
            self.on = False
            self._forget()
            self.power_on("reset")

    def _forget(self) -> None:
        self.life += 1
        self.node = None
        self.connected = False
        self.routes = None
        self._effects_left = -1
        self.requests_left = None

    def _boot(self, life: int, cause: str) -> None:
        if life != self.life:
            return
        self._clock_ns = self._looked_ns = self.engine.now_ns
        self._booted_ns = self.engine.now_ns
        self._told_ms = 0
        self._busy_ns = 0
        self._inbox: list[tuple[int, bytes]] = []
        self._work_due = self._flush_due = False
        self._trap: tuple[int, int, int] | None = None
        self._trap_left = 0
        self._quiet = 0
        self._received = self._received_before = 0
        self._retry_ms = FIRST_RETRY_MS
        self._packets = 0
        self._window: dict[int, bytes] = {}
        self.routes = None
        if self.config.routes is not None:
            self.routes = Routes([row[0] for row in self.config.routes])
        try:
            self.journal = self._parts.journal(self.flash)
            self.journal.open()
            implementation, firmware = self._about
            about = (IMPLEMENTATION, implementation, firmware, cause)
            self.node = self._parts.node(self.config, self.journal, about, self._random.getrandbits(24))
        except PowerLost:
            self.power_off("power failed while it started")
            return
        except Exception as error:
            self._crash(error)
            return
        self.node.handle(schema.TRAP, self._on_trap)
        self.telemetry = Telemetry(self, self._publish if self.mesh == "mqtt" else None, True)
        self._work(False)
        self.engine.at(self.engine.now_ns + self._tick_ns, self._tick, life)
        if self.mesh == "mqtt":
            self.engine.at(self.engine.now_ns + int(self.spec.connect_ms * 1e6), self.try_to_connect, life)

    def _crash(self, error: Exception) -> None:
        """The firmware ends with an error: its supervisor starts it again, as main.py does."""
        where = traceback.extract_tb(error.__traceback__)[-1]
        told = f"{type(error).__name__}: {error} ({where.filename.rpartition('/')[2]}:{where.lineno})"
        self.crashes.append(Crash(self.name, self.engine.now_ns, told, "".join(traceback.format_exception(error))))
        self._forget()
        self.on = False
        self.exit = told
        life = self.life
        self.engine.at(self.engine.now_ns + RESTART_NS, lambda: self.power_on("soft") if self.life == life else None)

    # Time.

    def now_ms(self) -> int:
        """The board's own clock: milliseconds since its boot, as its oscillator has it. Never falls."""
        elapsed_ns = self.engine.now_ns - self._looked_ns
        self._looked_ns = self.engine.now_ns
        self._clock_ns += elapsed_ns + elapsed_ns * self.drift_ppm // 1_000_000
        self._told_ms = max(self._told_ms, (self._clock_ns - self._booted_ns) // 1_000_000 + self.ahead_ms)
        return self._told_ms

    def adjust_clock(self, ppm: int, ms: int) -> None:
        """Run so much faster from now on, and be so much further ahead."""
        if self.node is not None:
            self.now_ms()  # what has passed until now, at the rate of until now
        self.drift_ppm += ppm
        self.ahead_ms += ms

    # Memory.

    def press(self, after: int | None) -> None:
        """Let a request for memory fail after so many, in this life; None: there is enough again."""
        if after is not None:
            self.requests_refused = 0
        self.requests_left = after if self.node is not None or after is None else None

    def _request(self) -> None:
        """Here a board asks for memory: for a message, for a tick's work, for what a step writes and sends."""
        if self.requests_left is None or isinstance(self.node, Degraded):
            return
        if self.requests_left == 0:
            self.requests_refused += 1
            raise MemoryError
        self.requests_left -= 1

    def _tick(self, life: int) -> None:
        if life != self.life or self.halted:
            return
        self.engine.at(self.engine.now_ns + self._tick_ns, self._tick, life)
        self._work(True)
        if life != self.life:
            return
        self._quiet += 1
        if self._received == self._received_before or self._quiet >= MAINTAIN_TICKS:
            self._quiet = 0
            if not self._maintain():
                return
        self._received_before = self._received
        telemetry = self.telemetry
        if telemetry.lost is not None and telemetry.has_room and self.node is not None:
            self.node.emit(schema.LOST_EVENTS, telemetry.lost)
            telemetry.lost = None
            self._work(False)
        telemetry.flush(self.now_ms())

    def _degrade(self, error: JournalError | MemoryError) -> None:
        """shell.py's: the flash or the heap has failed, so the node does nothing any more."""
        if self.node is None or isinstance(self.node, Degraded):
            self._crash(error)
            return
        self.degraded.append(str(error) or "memory")
        self.node = Degraded(self.node, self.journal, error, self.telemetry.sequence, self._has_room)
        self.node.handle(schema.TRAP, self._on_trap)
        self._work(False)

    def _has_room(self) -> bool:
        return self.requests_left is None

    def _maintain(self) -> bool:
        assert self.journal is not None
        if isinstance(self.node, Degraded):
            return True
        try:
            self.journal.maintain()
        except PowerLost:
            self.power_off("power failed inside a flash operation")
            return False
        except JournalError as error:
            self._degrade(error)
        except Exception as error:
            self._crash(error)
            return False
        return True

    # Inputs.

    def receive(self, source: int, data: bytes) -> None:
        """Bytes have arrived from a board, or from the host (schema.HOST)."""
        if self.node is None or self.halted:
            return
        if self.routes is not None:
            self._heard()
        self._inbox.append((source, data))
        if self._work_due:
            return
        if self.engine.now_ns >= self._busy_ns:
            self._work(False)
        else:
            self._work_due = True
            self.engine.at(self._busy_ns, self._catch_up, self.life)

    def _catch_up(self, life: int) -> None:
        if life == self.life:
            self._work_due = False
            self._work(False)

    def _work(self, tick: bool) -> None:
        """Everything that waits, then one step: shell.py's `_work`."""
        node = self.node
        if node is None or self.halted:
            return
        now_ms = self.now_ms()
        inbox = self._inbox
        self._depart_ns = self.engine.now_ns
        try:
            if inbox:
                self._inbox = []
                self._received += len(inbox)
                self._depart_ns += len(inbox) * self._work_ns
                for source, data in inbox:
                    self._request()
                    node.receive(source, data, now_ms)
            if tick:
                self._request()
                node.tick(now_ms)
            eventful = step(node, self, self._send, self.telemetry.add, self._after)
        except PowerLost:
            self.power_off("power failed in the middle of a step")
            return
        except (JournalError, MemoryError) as error:
            self._degrade(error)
            return
        except _Halted:
            return
        except Exception as error:
            self._crash(error)
            return
        if isinstance(node, Degraded) and node.over:
            self._forget()
            self.on = False
            self.power_on("soft")
            return
        if inbox or eventful:
            self._depart_ns += self.flash.busy_ns
            self.flash.busy_ns = 0
            self._busy_ns = self._depart_ns
        if eventful and not self._flush_due and self.node is not None:
            self._flush_due = True
            self.engine.at(self._depart_ns + TELEMETRY_DELAY_NS, self._flush, self.life)

    def _flush(self, life: int) -> None:
        if life == self.life and not self.halted:
            self._flush_due = False
            self.telemetry.flush(self.now_ms())

    # Effects. A board is its own journal to `step`, so that power can go before and after an append.

    def append(self, records: list[tuple[int, bytes | None]]) -> None:
        self._effect()
        self._request()
        assert self.journal is not None
        self.journal.append(records)
        self._depart_ns += self.flash.busy_ns
        self.flash.busy_ns = 0
        self._request()
        self._effect()

    def _effect(self) -> None:
        if self._effects_left >= 0:
            if self._effects_left == 0:
                raise PowerLost
            self._effects_left -= 1

    def _send(self, to: int, data: bytes) -> None:
        self._effect()
        self._request()
        if to >= schema.FIRST_CLIENT:
            self.world.reply(self, to, data, self._depart_ns)
        else:
            self.world.mesh(self, to, data, self._depart_ns)

    # The cable, as telemetry.py sees it.

    busy = False

    def send(self, payload: bytes) -> bool:
        self.last_output_ns = self.engine.now_ns
        if self.plugged:
            self.world.events_by_cable(self, *read_events(payload))
        return True

    def _publish(self, data: bytes) -> bool:
        """Events at QoS 1: kept and sent again until the broker has acknowledged them."""
        if len(self._window) >= MOST_UNACKNOWLEDGED:
            return False
        self._packets += 1
        self._window[self._packets] = data
        self._transmit(self._packets, self.life)
        return True

    def _transmit(self, packet: int, life: int) -> None:
        if life == self.life and packet in self._window and self.connected:
            self.world.events_by_broker(self, packet, self._window[packet])
            self.engine.at(self.engine.now_ns + RESEND_NS, self._transmit, packet, life)

    def published(self, packet: int, life: int) -> None:
        """The broker has acknowledged a packet."""
        if life == self.life:
            self._window.pop(packet, None)

    def acknowledge(self, boot: int, sequence: int) -> None:
        if self.node is not None and self.node.boot == boot:
            self.telemetry.acknowledge(sequence, self.now_ms())
            self.telemetry.flush(self.now_ms())

    # The broker, and where the configuration names more than one, the way that transport/routes.py chooses.

    def try_to_connect(self, life: int) -> None:
        if life != self.life or self.connected or self.node is None or self.halted:
            return
        routes = self.routes
        if routes is not None and routes.by_cable:
            routes.taken(self.now_ms())
            self._look_later()
            return
        if not self.world.broker_answers(self.route, self.name):
            self._try_later()
            return
        self._retry_ms = FIRST_RETRY_MS
        self.connected = True
        if routes is not None:
            routes.taken(self.now_ms())
            if routes.at:
                self._look_later()
        self.node.emit(schema.CONNECTED, ("mqtt",))
        self._work(False)
        for packet in list(self._window):
            self._transmit(packet, life)

    def _try_later(self) -> None:
        if self.routes is not None:
            self.routes.failed(self.now_ms())
            pause_ms = self.routes.pause_ms(self._random.randrange)
        else:
            pause_ms = self._retry_ms // 2 + self._random.randrange(self._retry_ms // 2)
            self._retry_ms = min(2 * self._retry_ms, LAST_RETRY_MS)
        self.engine.at(self.engine.now_ns + pause_ms * 1_000_000, self.try_to_connect, self.life)

    def disconnect(self) -> None:
        """The broker went away."""
        if self.connected:
            self.connected = False
            if self.routes is not None:
                self._try_later()
                return
            pause_ms = FIRST_RETRY_MS // 2 + self._random.randrange(FIRST_RETRY_MS // 2)
            self.engine.at(self.engine.now_ns + pause_ms * 1_000_000, self.try_to_connect, self.life)

    def _heard(self) -> None:
        assert self.routes is not None and self.node is not None
        change = self.routes.heard(self.now_ms())
        if change is not None:
            self.node.emit(REROUTED, change)

    def _look_later(self) -> None:
        assert self.routes is not None
        due_ns = self.engine.now_ns + LOOK_MS * 1_000_000
        self.engine.at(due_ns, self._look, self.life, self.routes.taken_ms)

    def _look(self, life: int, taken_ms: int) -> None:
        """See whether an earlier route serves again, while this one stands."""
        routes = self.routes
        if life != self.life or self.halted or routes is None or routes.taken_ms != taken_ms:
            return
        if routes.looked(self.world.broker_answers(routes.names[routes.target], self.name), self.now_ms()):
            self.connected = False
            pause_ms = routes.pause_ms(self._random.randrange)
            self.engine.at(self.engine.now_ns + pause_ms * 1_000_000, self.try_to_connect, life)
        else:
            self._look_later()

    # Traps.

    def _on_trap(self, source: int, _kind: int, fields: tuple[int, int, int]) -> None:
        if source >= schema.FIRST_CLIENT:
            self._trap = fields if fields[1] else None
            self._trap_left = fields[1]

    def _after(self, point: int) -> None:
        trap = self._trap
        if trap is not None and trap[0] == point:
            self._trap_left -= 1
            if self._trap_left == 0:
                self._spring(trap)

    def _spring(self, trap: tuple[int, int, int]) -> None:
        node = self.node
        assert node is not None
        sequence = self.telemetry.sequence + 1
        now_ms = self.now_ms()
        self.telemetry.add(codec.encode_event(node.boot, sequence, now_ms, node.clock.told(), schema.TRAPPED, trap))
        self.telemetry.flush(now_ms)
        if trap[2] == schema.POWER_OFF:
            raise PowerLost
        self.halted = True
        raise _Halted
