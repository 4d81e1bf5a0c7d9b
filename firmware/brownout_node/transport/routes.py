"""A second way to the others: which route a board takes when its broker or link dies, and the client that takes it.

Loaded only where the configuration names further routes. `Routes` decides and does nothing else, so that the simulator
runs it as it is; `RoutedClient` is the MQTT client that obeys, with the cable as a last route where one is named. What
was sent by a route that has just died may be lost or come twice: protocols stand both. This file must not know what a
message means.

Hysteresis: a connection that ended is tried once more before it is given up, since most ends are short. A board goes
back to an earlier route, its own broker first, because that one is nearer and was meant to bear the load; but only
when it has answered three times in a row, a second apart: every change of route costs a gap, and a broker that comes
and goes would cost one each time.
"""

import asyncio
import struct

from ..core import codec
from .mqtt import MqttClient, _packet, _text
from .serial import MESH, mesh_payload

try:
    from micropython import const
except ImportError:
    const = int

CABLE = "serial"  # the name of the route by the host's bridge
TRIES = const(2)  # failures in a row after which the next route is tried
LOOK_MS = const(1000)  # between two looks at an earlier route
STEADY = const(3)  # looks in a row that it has to answer
_FIRST_PAUSE_MS = const(100)  # before an attempt; doubles with every round of all routes, and half of it is drawn
_LAST_PAUSE_MS = const(2000)
_LASTED_MS = const(1000)  # a connection that lasted so long was a good one
_ANSWER_MS = const(1000)  # what a look waits

REROUTED = 184
# The first message that came by another route than the last one did, and the time since that one was lost.
EVENTS = ((REROUTED, "rerouted", "from:k to:k gap_ms:u"),)


class Routes:
    """names: of the routes in order of preference, the board's own broker first; at least two. Times are `now_ms`."""

    def __init__(self, names):
        self.names = names
        self.at = 0  # the route that is taken, or tried next
        self.target = 0  # the earlier route that is looked at
        self.taken_ms = None  # since when messages may go by it
        self._tries = 0
        self._rounds = 0
        self._steady = 0
        self._last = 0  # the route by which messages last came
        self._lost_ms = None  # since when none do

    @property
    def by_cable(self):
        return self.names[self.at] == CABLE

    def taken(self, now_ms):
        """The route stands."""
        self.taken_ms = now_ms
        self._tries = 0
        self._steady = 0
        self.target = 0

    def failed(self, now_ms):
        """The connection has ended, or an attempt came to nothing."""
        self._leave(now_ms)
        self._tries += 1
        if self._tries >= TRIES:
            self._tries = 0
            self.at += 1
            if self.at == len(self.names):
                self.at = 0
                self._rounds += 1

    def heard(self, now_ms):
        """A message came. (from, to, milliseconds without) where it is the first by another route, else None."""
        if self._lost_ms is None or self.taken_ms is None:
            return None
        gap_ms = now_ms - self._lost_ms
        self._lost_ms = None
        last = self._last
        self._last = self.at
        return None if last == self.at else (self.names[last], self.names[self.at], gap_ms)

    def looked(self, answers, now_ms):
        """The earlier route `target` has answered, or not. True: leave this one, and try that one next."""
        if not answers:
            self._steady = 0
            self.target = (self.target + 1) % self.at
            return False
        self._steady += 1
        if self._steady < STEADY:
            return False
        self._leave(now_ms)
        self.at = self.target
        self._tries = 0
        return True

    def pause_ms(self, below):
        """How long to wait before the next attempt."""
        pause_ms = min(_FIRST_PAUSE_MS << min(self._rounds, 8), _LAST_PAUSE_MS)
        return pause_ms // 2 + below(pause_ms // 2)

    def _leave(self, now_ms):
        if self.taken_ms is not None and now_ms - self.taken_ms > _LASTED_MS:
            self._rounds = 0
        self.taken_ms = None
        if self._lost_ms is None:
            self._lost_ms = now_ms


def client(shell, arguments):
    """What shell.py has in place of a MqttClient; arguments: those of one."""
    codec.learn(RoutedClient)
    return RoutedClient(
        shell.config.routes, shell.link, shell.now, lambda kind, fields: shell.node.emit(kind, fields), *arguments
    )


class RoutedClient(MqttClient):
    """rows: config.routes. link: the board's end of the cable. clock(): `now_ms`. emit(kind, fields): tell an event."""

    EVENTS = EVENTS

    def __init__(self, rows, link, clock, emit, *arguments):
        MqttClient.__init__(self, *arguments)
        self.routes = Routes([row[0] for row in rows])
        self._rows = rows
        self._home = self._options
        self._link = link
        self._clock = clock
        self._emit = emit
        self._tell_connected = self._on_connected
        self._on_connected = self._stands
        self._take_message = self._on_message
        self._on_message = self._take_one
        self._take_frame = link.on_payload
        link.on_payload = self._on_frame
        self._left = False  # this connection was given up for a better one

    def publish(self, topic, payload, qos=0, retain=False):
        """As MqttClient's; while the cable is the route, messages to boards go by the cable."""
        if not qos and self.routes.taken_ms is not None and self.routes.by_cable:
            return self._link.send(mesh_payload(topic[topic.rfind("/") + 1 :], payload))
        return MqttClient.publish(self, topic, payload, qos, retain)

    def _on_frame(self, payload):
        if payload[0] == MESH and self.routes.by_cable:
            self._heard()
        self._take_frame(payload)

    def _take_one(self, topic, payload):
        if topic.split("/")[-2] != self._name:  # what it told all comes back, and says nothing of the others
            self._heard()
        self._take_message(topic, payload)

    def _heard(self):
        change = self.routes.heard(self._clock())
        if change is not None:
            self._emit(REROUTED, change)

    def _stands(self):
        self.routes.taken(self._clock())
        self._tell_connected()

    async def run(self):
        """Have a route, for ever."""
        routes = self.routes
        while True:
            self.attempts += 1
            self._left = False
            look = None
            try:
                if routes.at:
                    look = asyncio.create_task(self._look())
                if routes.by_cable:
                    self._reset()
                    routes.taken(self._clock())
                    await self._over.wait()
                else:
                    self._options = self._options_of(routes.at)
                    await self._connect()
                    await self._converse()
            except OSError as error:
                self.error = error
            finally:
                if look is not None:
                    look.cancel()
                self.close()
            if not self._left:
                routes.failed(self._clock())
            await asyncio.sleep_ms(routes.pause_ms(self._below))

    def _options_of(self, at):
        options = self._home.copy()
        if at:
            options["host"], options["port"] = self._rows[at][1:]
        return options

    async def _look(self):
        # A better route that serves again, steadily, ends this one.
        routes = self.routes
        while not self._left:
            await asyncio.sleep_ms(LOOK_MS)
            if routes.taken_ms is not None:
                answers = await self._answers(self._options_of(routes.target))
                if routes.taken_ms is not None and routes.looked(answers, self._clock()):
                    self._left = True
                    self._end(OSError("a better route serves again"))

    async def _answers(self, options):
        # Whether a broker accepts a connection beside ours: a stalled one's kernel takes it, and then nothing comes.
        # Behind TLS only that much is asked, for a second TLS session would cost 20 KB and more.
        writer = None
        try:
            opening = asyncio.open_connection(options["host"], options["port"])
            reader, writer = await asyncio.wait_for_ms(opening, _ANSWER_MS)
            if options["tls"] is not None:
                return True
            parts = [_text(self._name + "-look"), _text(options["user"])]
            flags = 0x82  # clean session, user
            if options["password"] is not None:
                flags |= 0x40
                parts.append(_text(options["password"]))
            writer.write(_packet(0x10, b"\0\4MQTT\4", struct.pack(">BH", flags, 5), *parts))
            await asyncio.wait_for_ms(writer.drain(), _ANSWER_MS)
            answer = await asyncio.wait_for_ms(reader.readexactly(4), _ANSWER_MS)
            return answer == b"\x20\x02\0\0"
        except (OSError, EOFError, asyncio.TimeoutError):
            return False
        finally:
            if writer is not None:
                writer.close()
                await writer.wait_closed()
