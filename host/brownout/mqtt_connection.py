"""The host's own connection to the broker: paho, subscribed again and at once whenever the broker is back.

A broker that was killed forgets its subscribers. Events that boards publish before the host has subscribed again are
acknowledged and lost, so the host tries every few milliseconds, far more often than a board does. Must not know topics.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import paho.mqtt.client as paho

from . import broker_keys
from .contracts import RigError

RETRY_S = 0.004
KEEP_ALIVE_S = 10

Handler = Callable[[str, bytes], None]


class Connection(Protocol):
    """What somebody who talks to boards through the broker holds."""

    def publish(self, topic: str, payload: bytes, qos: int = 1) -> bool: ...

    def close(self) -> None: ...


Connect = Callable[[Sequence[tuple[str, int]], Handler], Connection]  # (topic, qos) to subscribe to, who takes them


def by_broker(client: str, host: str, port: int, within_s: float = 5.0) -> Connect:
    """Connections to one broker; making one is a RigError where it does not answer in time."""

    def connect(subscriptions: Sequence[tuple[str, int]], handler: Handler) -> MqttConnection:
        connection = MqttConnection(client, host, port, subscriptions, handler)
        connection.start(within_s)
        return connection

    return connect


def by_brokers(client: str, addresses: Sequence[tuple[str, int]], within_s: float = 5.0) -> Connect:
    """Connections to all of these brokers at once: what is published goes to each, what any of them says is heard."""
    return lambda subscriptions, handler: connected(client, addresses, subscriptions, handler, within_s)


def connected(
    client: str,
    addresses: Sequence[tuple[str, int]],
    subscriptions: Sequence[tuple[str, int]],
    handler: Handler,
    within_s: float = 5.0,
) -> MqttConnection | ManyConnections:
    """A connection to the only broker, or one to each. RigError where none answers."""
    connection: MqttConnection | ManyConnections
    if len(addresses) == 1:
        connection = MqttConnection(client, *addresses[0], subscriptions, handler)
    else:
        connection = ManyConnections(client, addresses, subscriptions, handler)
    connection.start(within_s)
    return connection


class ManyConnections:
    """One MqttConnection to each of several brokers, as if they were one. The handler is called by one at a time."""

    def __init__(
        self,
        client: str,
        addresses: Sequence[tuple[str, int]],
        subscriptions: Sequence[tuple[str, int]],
        handler: Handler,
    ) -> None:
        lock = threading.Lock()

        def handle(topic: str, payload: bytes) -> None:
            with lock:
                handler(topic, payload)

        self._each = [MqttConnection(client, host, port, subscriptions, handle) for host, port in addresses]

    def start(self, within_s: float = 5.0) -> None:
        """Connect to all, as far as they are up. RigError where none answers in time."""
        failed: list[RigError] = []
        for connection in self._each:
            try:
                connection.start(within_s, keep=True)
            except RigError as error:
                failed.append(error)
        if len(failed) == len(self._each):
            self.close()
            raise failed[0]

    @property
    def ready(self) -> bool:
        return any(connection.ready for connection in self._each)

    def publish(self, topic: str, payload: bytes, qos: int = 1) -> bool:
        """Hand the message to every broker that is there; False where none is."""
        taken = [connection.publish(topic, payload, qos) for connection in self._each]
        return any(taken)

    def close(self) -> None:
        for connection in self._each:
            connection.close()


class MqttConnection:
    """Calls `handler(topic, payload)` in the thread of the connection for everything subscribed to.

    client: what this connection is for; the process's number makes a client id of it that no other run shares.
    """

    def __init__(
        self, client: str, host: str, port: int, subscriptions: Sequence[tuple[str, int]], handler: Handler
    ) -> None:
        self.host = host
        self.port = port
        self._subscriptions = list(subscriptions)
        self._handler = handler
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id=f"{client}-{os.getpid()}", reconnect_on_failure=False
        )
        key = broker_keys.find(host, port)
        if key is not None:
            self._client.tls_set_context(key.context)
            self._client.username_pw_set(key.user, key.password)
        self._client.max_inflight_messages_set(1000)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_arguments: self._ready.set()
        self._client.on_disconnect = lambda *_arguments: self._ready.clear()
        self._client.on_socket_open = self._on_socket_open
        self._client.on_message = lambda _client, _data, message: self._handler(message.topic, bytes(message.payload))
        self._thread = threading.Thread(target=self._run, name=f"mqtt {client}", daemon=True)

    def start(self, within_s: float = 5.0, *, keep: bool = False) -> None:
        """Connect and subscribe; RigError where the broker does not answer in time. keep: go on trying all the same."""
        self._thread.start()
        if not self._ready.wait(within_s):
            if not keep:
                self.close()
            raise RigError(f"no MQTT broker answers at {self.host}:{self.port}; is it running, and is the port right?")

    @property
    def ready(self) -> bool:
        """Connected and subscribed."""
        return self._ready.is_set()

    def wait_ready(self, within_s: float) -> bool:
        return self._ready.wait(within_s)

    def publish(self, topic: str, payload: bytes, qos: int = 1) -> bool:
        """Hand a message over for sending; False, and nothing will be sent, where there is no connection."""
        if not self._ready.is_set():
            return False
        return self._client.publish(topic, payload, qos=qos).rc == paho.MQTT_ERR_SUCCESS

    def close(self) -> None:
        self._stop.set()
        self._client.disconnect()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(5.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError):  # refused: the broker is down, which is nothing new on this bed
                self._client.connect(self.host, self.port, keepalive=KEEP_ALIVE_S)
                if self._stop.is_set():
                    self._client.disconnect()
                self._client.loop_forever()
            self._ready.clear()
            self._stop.wait(RETRY_S)

    def _on_connect(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            return
        if self._subscriptions:
            client.subscribe(self._subscriptions)
        else:
            self._ready.set()

    @staticmethod
    def _on_socket_open(_client: paho.Client, _data: Any, connection: Any) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
