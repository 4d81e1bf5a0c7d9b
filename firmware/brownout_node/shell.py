"""The only event loop on a board: feeds the node with messages and time, and carries out what it makes ready.

What had arrived together is received together, then one step. A step runs where the bytes came in, without a switch of
tasks, and never waits: transports take what they can and count what they drop. Any error in a protocol ends the run, as
a crash would: a replica that goes on in an unknown state is worse than none. Where the flash or the heap has failed,
degraded.py takes the node's place, refuses clients, and the board starts anew once it can. Must not look into
messages beyond the controller's own (trap, describe, telemetry acknowledgement).
"""

import asyncio
import gc
import sys
import time
from hashlib import sha256

from .core import codec, schema
from .core.errors import JournalError
from .core.options import Options
from .core.step import step
from .storage.journal import Journal
from .telemetry import Telemetry
from .transport.serial import CLIENT, MESH, SerialLink, mesh_payload, read_mesh, reply_payload

HEALTHY_MS = 5000  # a start that gets this far has not failed
_TELEMETRY_DELAY_MS = 3  # events of one decision leave together
_BOUNDS_MS = (1, 5, 20, 100)  # of the histogram of late ticks
# Garbage between two collections (0.1-0.3 ms each): what lives long then lies close together, and a few KB in one piece
# can still be had; left alone, a heap of 224 KiB with 58 KB free once had no 2 KB.
_COLLECT_BYTES = 12 * 1024
_ROOM_KIB = 20  # a board at work has some 45 free; degraded.py and the pieces that others left take of that
_KEPT = ("config", "cluster", "board", "boot", "clock", "now_ms")  # of a node that degraded.py takes the place of
_MAINTAIN_TICKS = 8  # the journal is looked after at least this often, even if there is never a quiet tick


def _file_hash(name, buffer):
    digest = sha256()
    with open(name, "rb") as file:
        while True:
            count = file.readinto(buffer)
            if not count:
                return digest.digest()[:8]
            digest.update(memoryview(buffer)[:count])


class Shell:
    """One board at work: `await run()` until something fails. on_healthy() is called once, after HEALTHY_MS."""

    def __init__(self, config, port, on_healthy=None):
        self.config = config
        self._port = port
        self._on_healthy = on_healthy
        self._ticks_ms = port.ticks_ms
        self._began = port.ticks_ms()
        self._now_ms = 0
        self._inbox = []
        self._failure = None
        self._is_degraded = False
        self._over = asyncio.Event()
        self._eventful = asyncio.Event()
        self._trap = None
        self._trap_left = 0
        self._ticks = [0] * 6  # ticks, then how many were late by at most each bound, and by more
        self._worst_ms = 0
        self.received = 0
        self.sent = 0
        self.link = SerialLink(port.console(), self._on_frame)
        self._mqtt = None
        if config.mqtt is not None:
            self._mqtt = self._client()
        publish = self._publish_events if self._mqtt is not None else None
        self._telemetry = Telemetry(self.link, publish, config.telemetry == "serial")
        self.journal = Journal(port.flash_region())
        self.journal.open()
        if config.flight:
            from .core.recorder import RecordedNode as Node
        else:
            from .core.node import Node
        self.node = Node(config, self.journal, self._about(), port.entropy())
        self._take_own()
        self._random = self.node.random("transport")

    def _take_own(self):
        self.node.handle(schema.TRAP, self._on_trap)
        self.node.handle(schema.DESCRIBE, self._on_describe)
        self.node.handle(schema.TELEMETRY_ACK, self._on_acknowledged)

    def _client(self):
        from .transport.mqtt import MqttClient

        config = self.config
        prefix = config.bed + "/"
        topics = [(prefix + "g/+/" + config.name, 0), (prefix + "g/+/all", 0), (prefix + "cmd/" + config.name, 1)]
        if config.is_voter:
            topics.append((prefix + "g/+/voters", 0))
        arguments = (
            config.mqtt,
            config.name,
            (prefix + "up/" + config.name, b"0"),
            topics,
            self._on_message,
            self._work,
            self._on_connected,
            lambda bound: self._random.below(bound),
        )
        if config.routes is None:
            return MqttClient(*arguments)
        from .transport.routes import client

        return client(self, arguments)

    def _about(self):
        # The firmware's hash: of all its files' names and hashes, in order of the names.
        digest = sha256()
        buffer = bytearray(512)
        for name in self._port.firmware_files():
            digest.update(name.encode() + b"\0" + _file_hash(name, buffer))
        implementation = "%s %s" % (sys.implementation[0], sys.platform)
        return implementation, sys.version.split("; ")[-1][:64], digest.digest()[:8], self._port.reset_cause()[:64]

    def now(self):
        """Milliseconds since the start; ticks_ms wraps, this does not."""
        ticks = self._ticks_ms()
        self._now_ms += time.ticks_diff(ticks, self._began)
        self._began = ticks
        return self._now_ms

    # Inputs.

    def _on_message(self, topic, payload):
        levels = topic[len(self.config.bed) + 1 :].split("/")
        if levels[0] == "cmd":
            self._inbox.append((schema.HOST, payload))
        elif len(levels) == 3 and levels[1] != self.config.name:
            self._inbox.append((self.config.boards.get(levels[1], 0), payload))

    def _on_frame(self, payload):
        channel = payload[0]
        if channel == CLIENT:
            self._inbox.append((schema.HOST, payload[1:]))
        elif channel == MESH and len(payload) > 2:
            name, message = read_mesh(payload)
            if name != self.config.name:
                self._inbox.append((schema.HOST if name == "host" else self.config.boards.get(name, 0), message))
        self._work()

    def _on_connected(self):
        name = self.config.name
        self._mqtt.publish("%s/up/%s" % (self.config.bed, name), b"1", 1, True)
        self.node.emit(schema.CONNECTED, ("mqtt",))
        self._work()

    def _work(self, tick=False):
        # Everything that waits, then one step.
        if self._failure is not None:
            return
        try:
            node = self.node
            inbox = self._inbox
            if inbox:
                self._inbox = []
                now = self.now()
                self.received += len(inbox)
                for source, data in inbox:
                    node.receive(source, data, now)
            if tick:
                node.tick(self.now())
            if step(node, self.journal, self._send, self._telemetry.add, self._after):
                self._eventful.set()
            if getattr(node, "over", False):
                self._fail(SystemExit())  # the board starts anew, and has not failed to
        except (JournalError, MemoryError) as error:
            self._degrade(error)
        except Exception as error:  # whatever it is, nothing may go on
            self._fail(error)

    def _degrade(self, error):
        # Events of the interrupted step never leave; what is told from now on takes their numbers, so no gap.
        if self._is_degraded:
            self._fail(error)
            return
        self._is_degraded = True
        sys.print_exception(error)
        try:
            if isinstance(error, MemoryError):
                _strip(self.node)
            from .degraded import Degraded

            self.node = Degraded(self.node, self.journal, error, self._telemetry.sequence, _has_room)
            self._take_own()
            gc.collect()
        except Exception as second:
            self._fail(second)
            return
        self._work()

    def _fail(self, error):
        if self._failure is None:
            self._failure = error
            self._over.set()

    # Effects.

    def _send(self, to, data):
        self.sent += 1
        mqtt = self._mqtt
        if to >= schema.FIRST_CLIENT:
            if mqtt is not None and mqtt.connected:
                mqtt.publish("%s/re/%d" % (self.config.bed, to), data)
            else:
                self.link.send(reply_payload(to, data))
            return
        if to == schema.VOTERS:
            name = "voters"
        elif to == schema.ALL:
            name = "all"
        else:
            name = self.config.names[to]
        if self.config.mesh == "mqtt":
            mqtt.publish("%s/g/%s/%s" % (self.config.bed, self.config.name, name), data)
        else:
            self.link.send(mesh_payload(name, data))

    def _publish_events(self, data):
        return self._mqtt.publish("%s/ev/%s" % (self.config.bed, self.config.name), data, 1)

    async def _report(self):
        while True:
            await self._eventful.wait()
            self._eventful.clear()
            await asyncio.sleep_ms(_TELEMETRY_DELAY_MS)
            self._tell()

    def _tell(self):
        try:
            self._telemetry.flush(self.now())
        except MemoryError as error:
            self._degrade(error)

    # The controller's own messages.

    def _on_acknowledged(self, source, kind, fields):
        if source >= schema.FIRST_CLIENT and fields[0] == self.node.boot:
            self._telemetry.acknowledge(fields[1], self.now())
            self._eventful.set()

    def _on_trap(self, source, kind, fields):
        if source >= schema.FIRST_CLIENT:
            self._trap = fields if fields[1] else None  # (point, count, action)
            self._trap_left = fields[1]

    def _after(self, point):
        trap = self._trap
        if trap is not None and trap[0] == point:
            self._trap_left -= 1
            if self._trap_left == 0:
                self._spring(trap)

    def _spring(self, trap):
        # The events of the interrupted step never leave; this one takes the number of the first of them, so no gap.
        telemetry = self._telemetry
        now = self.now()
        stamp = self.node.clock.told()
        telemetry.add(codec.encode_event(self.node.boot, telemetry.sequence + 1, now, stamp, schema.TRAPPED, trap))
        telemetry.flush(now)
        if trap[2] == schema.POWER_OFF:
            self._port.power_off()
        while True:  # a halted board does nothing, does not even feed its watchdog; Ctrl-C still brings the prompt
            time.sleep(1)

    def _on_describe(self, source, kind, fields):
        asyncio.create_task(self._describe(fields[0]))

    async def _describe(self, request):
        buffer = bytearray(512)
        names = self._port.firmware_files()
        for name in names:
            self.node.emit(schema.FILE, (name[-64:], _file_hash(name, buffer)))
            self._work()
            await asyncio.sleep_ms(10)
        self.node.emit(schema.DESCRIBED, (request, len(names)))
        self._work()

    # Time.

    async def _tick(self):
        period = self.config.tick_ms
        due = self.now() + period
        quiet = 0  # ticks since the journal was looked after
        received = 0
        metrics_ms = 0
        feed = self._port.watchdog(self.config.watchdog_ms)
        while True:
            await asyncio.sleep_ms(max(0, due - self.now()))
            now = self.now()
            self._note_lateness(now - due)
            due = max(due, now - period) + period  # what was missed for long is not made up for
            self._work(True)
            quiet += 1
            if received == self.received or quiet >= _MAINTAIN_TICKS:
                quiet = 0
                self._maintain()
            received = self.received
            if now - metrics_ms >= self.config.metrics_period_ms:
                metrics_ms = now
                self._measure()
            if self._telemetry.lost and self._telemetry.has_room:
                self.node.emit(schema.LOST_EVENTS, self._telemetry.lost)
                self._telemetry.lost = None
                self._work()
            self._tell()
            feed()
            if now >= HEALTHY_MS and self._on_healthy is not None:
                self._on_healthy()
                self._on_healthy = None

    def _maintain(self):
        if not self._is_degraded:
            try:
                self.journal.maintain()
            except JournalError as error:
                self._degrade(error)

    def _note_lateness(self, late_ms):
        self._worst_ms = max(self._worst_ms, late_ms)
        self._ticks[0] += 1
        for index in range(4):
            if late_ms <= _BOUNDS_MS[index]:
                self._ticks[index + 1] += 1
                return
        self._ticks[5] += 1

    def _measure(self):
        # Counts since the boot; the worst lateness since the last report.
        gc.collect()
        journal = self.journal
        counts = (self.received, self.sent, journal.appends, journal.programs, journal.erases)
        ticks = tuple(self._ticks)
        self.node.emit(schema.METRICS, (gc.mem_alloc(), gc.mem_free()) + ticks + (self._worst_ms,) + counts)
        self._worst_ms = 0
        self._work()

    # The run.

    async def _network(self):
        while True:
            await self._port.connect_network(self.config)
            await asyncio.sleep(5)

    async def run(self):
        """Work until something fails, and raise that."""
        asyncio.get_event_loop().set_exception_handler(lambda _loop, context: self._fail(context["exception"]))
        self._work()
        jobs = [self._tick(), self._report(), self.link.run()]
        if self._mqtt is not None:
            jobs += [self._network(), self._mqtt.run()]
        tasks = [asyncio.create_task(job) for job in jobs]
        try:
            await self._over.wait()
        finally:
            for task in tasks:
                task.cancel()
        raise self._failure

    def close(self):
        """Let go of everything, so that the prompt can take over."""
        if self._mqtt is not None:
            self._mqtt.close()
        self._port.release()


def _strip(node):
    # The code of degraded.py needs heap too, and there is none but what this node has; the first three without asking
    # for any.
    node.protocols = node._handlers = node._servers = None
    gc.collect()
    for name in node.__dict__:
        if name not in _KEPT:
            setattr(node, name, None)
    gc.collect()


def _has_room():
    # Is the heap no longer taken up? A new start has all of it to itself, so what there was beside the node will do.
    try:
        return len([bytearray(1024) for _ in range(_ROOM_KIB)]) > 0
    except MemoryError:
        return False


def _checked(document):
    # The attributes of a Config without its code: checking is done once, and its 7 KB of heap serve something else.
    from .core.config import Config

    checked = Config(document)
    plain = Options()
    for name in checked.__dict__:
        setattr(plain, name, getattr(checked, name))
    del sys.modules["brownout_node.core.config"]
    del sys.modules["brownout_node.core"].config
    document.clear()
    return plain


def run(document, port, on_healthy=None):
    """Run the board that `document` (config.json) describes, until Ctrl-C or a failure; both are raised."""
    gc.collect()
    gc.threshold(_COLLECT_BYTES)
    shell = Shell(_checked(document), port, on_healthy)
    try:
        asyncio.run(shell.run())
    finally:
        shell.close()
        asyncio.new_event_loop()
