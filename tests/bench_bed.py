"""A bench of namespaces for tests: made by the test, removed by it, whatever happens. Root only, and it says so."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import paho.mqtt.client as paho
from brownout.bench_lab import BenchLab
from brownout.drivers import bench_process
from brownout.rig import Rig, read_rig

WITHIN_S = 10.0
BROWNOUT = (sys.executable, "-c", "import sys; from brownout.cli import main; sys.exit(main())")
CAMPAIGN_WITHIN_S = 120.0


def brownout(*words: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own; never a traceback."""
    done = subprocess.run([*BROWNOUT, *words], capture_output=True, text=True, timeout=CAMPAIGN_WITHIN_S, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def namespaces() -> set[str]:
    return set(subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.split())


class TestBench:
    """A bench that runs until `close`. Its boards have power and no firmware."""

    __test__ = False

    def __init__(
        self, folder: Path, gateways: dict[str, list[str]], liar: str | None = None, *, movable_clocks: bool = False
    ) -> None:
        assert os.geteuid() == 0, "a bench makes network namespaces: run the tests as root"
        self.folder = folder
        options = bench_process.BenchOptions(gateways=gateways, liar=liar, movable_clocks=movable_clocks)
        self.document = bench_process.up(folder, options)
        self.rig: Rig = read_rig(folder / "rig.toml")

    def take(self) -> BenchLab:
        return BenchLab(self.rig)

    def close(self) -> None:
        bench_process.down(self.folder)


class Probe:
    """A client that speaks as one board, over TLS and with the board's password, through the board's own link."""

    def __init__(self, bench: BenchLab, board: str, user: str | None = None) -> None:
        self.board = board
        self.heard: Counter[str] = Counter()
        self._changed = threading.Condition()
        host, port = bench.broker_address(board)
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=f"probe-{board}")
        context = ssl.create_default_context(cafile=bench.spec.broker.ca)
        self._client.tls_set_context(context)
        passwords = json.loads(Path(bench.spec.broker.passwords).read_text())
        self._client.username_pw_set(user or board, passwords[board])
        self._client.on_message = self._on_message
        self._subscribed = threading.Event()
        self._client.on_subscribe = lambda *_arguments: self._subscribed.set()
        self.refused = threading.Event()
        self._client.on_connect = self._on_connect
        self._client.connect(host, port, keepalive=10)
        self._client.loop_start()

    def _on_connect(self, client: paho.Client, _data: object, _flags: object, reason: object, _more: object) -> None:
        if getattr(reason, "is_failure", False):
            self.refused.set()
        else:
            client.subscribe(f"bed/g/+/{self.board}")

    def ready(self) -> None:
        assert self._subscribed.wait(WITHIN_S), f"{self.board} could not subscribe"

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        with self._changed:
            self.heard[message.topic.split("/")[2]] += 1
            self._changed.notify_all()

    def say(self, target: str, count: int, source: str | None = None) -> None:
        for number in range(count):
            self._client.publish(f"bed/g/{source or self.board}/{target}", b"probe %d" % number)

    def wait_for(self, source: str, count: int, within_s: float = WITHIN_S) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.heard[source] >= count, within_s)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def probe_all(probes: Iterable[Probe], count: int) -> None:
    """Every pair in both directions, so many messages each."""
    everybody = list(probes)
    for probe in everybody:
        probe.heard.clear()
    for source in everybody:
        for target in everybody:
            if source is not target:
                source.say(target.board, count)


def settled(probes: Iterable[Probe], for_s: float = 0.4) -> None:
    """Wait until nothing has come for a while."""
    everybody = list(probes)
    last, since_s = -1, time.monotonic()
    while time.monotonic() - since_s < for_s:
        total = sum(sum(probe.heard.values()) for probe in everybody)
        if total != last:
            last, since_s = total, time.monotonic()
        time.sleep(0.01)
