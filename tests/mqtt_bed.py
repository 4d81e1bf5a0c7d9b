"""A real broker on a free port of the loopback, plain clients, and the proxy in a thread of its own, for tests."""

from __future__ import annotations

import asyncio
import queue
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho

WITHIN_S = 5.0
SYSTEM_PATH = "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"


def wait_until(condition: Callable[[], Any], what: str, within_s: float = WITHIN_S) -> Any:
    """Look until `condition` is true; for what offers no event to wait on."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.005)
    raise AssertionError(f"not within {within_s} s: {what}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Broker:
    """mosquitto, killed with the test."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._config = directory / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nlog_type error\nuser root\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = shutil.which("mosquitto", path=SYSTEM_PATH)
        assert program is not None
        self._process = subprocess.Popen([program, "-c", str(self._config)], stderr=subprocess.DEVNULL)
        wait_until(self._answers, "the broker listens")

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1.0).close()
        except OSError:
            return False
        return True

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Client:
    """One paho client whose messages come out of a queue."""

    def __init__(self, name: str, port: int, *topics: str, qos: int = 0, will: str | None = None) -> None:
        self.messages: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.ends: queue.Queue[str] = queue.Queue()
        self._acknowledged: queue.Queue[int] = queue.Queue()
        self._subscribed = threading.Event()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=name, reconnect_on_failure=False)
        self._client.on_message = lambda _c, _u, message: self.messages.put((message.topic, message.payload))
        self._client.on_publish = lambda _c, _u, packet, _reason, _p: self._acknowledged.put(packet)
        self._client.on_subscribe = lambda *_arguments: self._subscribed.set()
        if will is not None:
            self._client.will_set(will, b"0", qos=1, retain=True)
        settled = threading.Event()
        self._client.on_connect = lambda *_arguments: settled.set()
        self._client.on_disconnect = lambda *_arguments: settled.set()
        self._client.connect("127.0.0.1", port, keepalive=30)
        self._client.loop_start()
        if not settled.wait(WITHIN_S) or not self._client.is_connected():
            self._client.loop_stop()
            raise ConnectionError(f"{name} could not connect")
        self._client.on_disconnect = lambda _c, _u, _flags, reason, _p: self.ends.put(str(reason))
        if topics:
            self._client.subscribe([(topic, qos) for topic in topics])
            assert self._subscribed.wait(WITHIN_S)

    def publish(self, topic: str, payload: bytes, qos: int = 0, retain: bool = False) -> paho.MQTTMessageInfo:
        return self._client.publish(topic, payload, qos=qos, retain=retain)

    def next(self, within_s: float = WITHIN_S) -> tuple[str, bytes]:
        try:
            return self.messages.get(timeout=within_s)
        except queue.Empty:
            raise AssertionError("no message came") from None

    def payloads(self, count: int) -> list[bytes]:
        return [self.next()[1] for _ in range(count)]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def drop_dead(self) -> None:
        """End the connection without a word, as a board that loses power."""
        connection = self._client.socket()
        if connection is not None:
            connection.shutdown(socket.SHUT_RDWR)
        self._client.loop_stop()


class LoopThread:
    """An event loop in a thread; `call` runs a function or coroutine there and returns its result."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        async def run() -> Any:
            result = function(*arguments)
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(WITHIN_S)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(WITHIN_S)
        self.loop.close()
