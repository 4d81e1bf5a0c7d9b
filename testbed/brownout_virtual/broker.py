"""The broker of a virtual lab: mosquitto where it is installed, iotcore (by pip) where not, as a child process.

One port for its whole life, over kills too. Its state is the kernel's word for the process and whether the port
answers. Must not be told about boards: what passes between whom is the proxy's business.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .process import REAP_WITHIN_S, SYSTEM_PATH, BoundedLog, LabError, describe_exit, process_state, spawn

HOST = "127.0.0.1"
LISTENS_WITHIN_S = 10.0
STOPS_WITHIN_S = 2.0
IOTCORE = "import sys; sys.path[:] = [p for p in sys.path if p]; from iotcore._serve import main; main()"
# Its own options do not reach the segments, whose default lets memory grow without end.
RUMQTTD = """\
id = 0
[router]
id = 0
max_connections = 1000
max_outgoing_packet_count = 200
max_segment_size = 1048576
max_segment_count = 4
[v4.1]
name = "v4-1"
listen = "{address}"
next_connection_delay_ms = 1
[v4.1.connections]
connection_timeout_ms = 60000
max_payload_size = 262144
max_inflight_count = 100
dynamic_filters = true
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Broker:
    """Everything is called from the event loop's thread."""

    def __init__(self, directory: Path, log: BoundedLog, kind: str | None = None, more: Sequence[str] = ()) -> None:
        """more: further lines of mosquitto.conf."""
        self.port = free_port()
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._exit: str | None = None
        self._lifeline: int | None = None  # iotcore ends when its standard input does
        self.starts = 0
        mosquitto = shutil.which("mosquitto", path=SYSTEM_PATH)
        if mosquitto is not None and kind in (None, "mosquitto"):
            self.kind, self.version = "mosquitto", _mosquitto_version(mosquitto)
            self._command = [mosquitto, "-c", str(self._configure_mosquitto(directory, more))]
        elif importlib.util.find_spec("iotcore") is not None and kind in (None, "iotcore"):
            self.kind, self.version = "iotcore", importlib.metadata.version("iotcore")
            path = directory / "rumqttd.toml"
            path.write_text(RUMQTTD.format(address=f"{HOST}:{self.port}"))
            self._command = [sys.executable, "-c", IOTCORE, json.dumps({"config_path": str(path)})]
        else:
            wanted = kind or "MQTT broker"
            raise LabError(f"no {wanted}: install mosquitto, or iotcore with `pip install 'brownout[virtual]'`")

    def _configure_mosquitto(self, directory: Path, more: Sequence[str]) -> Path:
        lines = [
            f"listener {self.port} {HOST}",
            "allow_anonymous true",
            "set_tcp_nodelay true",  # without it every small message may wait 40 ms
            "persistence false",
            "log_dest stderr",
            "log_type error",
            "max_queued_messages 1000",
        ]
        if os.geteuid() == 0:
            lines.append("user root")  # it would leave root for a user who cannot read this file
        lines += more
        path = directory / "mosquitto.conf"
        path.write_text("\n".join(lines) + "\n")
        return path

    async def start(self) -> None:
        """Start it, or wake it from a stall; it listens when this returns."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
        else:
            self._spawn()
        deadline = asyncio.get_running_loop().time() + LISTENS_WITHIN_S
        while not await self.listening():
            self.check()
            if self._process is None or asyncio.get_running_loop().time() > deadline:
                raise LabError(f"the broker ({self.kind}) does not listen on port {self.port}: {self._log.tail()}")
            await asyncio.sleep(0.01)

    def _spawn(self) -> None:
        log = self._log.writer()
        reading, self._lifeline = os.pipe()
        try:
            self._process = spawn(self._command, stdin=reading, stderr=log)
        finally:
            os.close(reading)
            os.close(log)
        self.starts += 1

    def kill(self) -> None:
        """End it without a word to anybody."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            try:
                code = self._process.wait(STOPS_WITHIN_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                code = self._process.wait(REAP_WITHIN_S)
            self._gone(code)

    def _gone(self, code: int) -> None:
        self._exit = describe_exit(code)
        self._process = None
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def stall(self) -> None:
        """Stop it where it stands: connections stay, nothing moves."""
        if self._process is None:
            raise LabError("the broker is not running: nothing to stall (`broker start` first)")
        self._process.send_signal(signal.SIGSTOP)
        deadline = asyncio.get_running_loop().time() + STOPS_WITHIN_S
        while process_state(self._process.pid) != "T":
            if asyncio.get_running_loop().time() > deadline:
                raise LabError("the broker did not stop within 2 s of SIGSTOP")
            await asyncio.sleep(0.001)

    def check(self) -> None:
        """A child has ended; see whether it was the broker."""
        if self._process is not None and self._process.poll() is not None:
            self._gone(self._process.returncode)

    async def listening(self) -> bool:
        try:
            _, writer = await asyncio.open_connection(HOST, self.port)
        except OSError:
            return False
        writer.close()
        return True

    async def state(self) -> dict[str, Any]:
        """What the kernel says of the process. `running`: it can serve; a stalled one still accepts connections."""
        pid = self._process.pid if self._process is not None else None
        process = process_state(pid)
        running = process is not None and process not in "TZX"
        return {
            "kind": self.kind,
            "version": self.version,
            "port": self.port,
            "pid": pid,
            "process": process,
            "running": running,
            "stalled": process == "T",
            "listening": running and await self.listening(),
            "starts": self.starts,
            "exit": self._exit,
        }

    def close(self) -> None:
        """End it for good."""
        if self._process is not None and process_state(self._process.pid) == "T":
            self._process.send_signal(signal.SIGCONT)
        self._end(signal.SIGTERM)


def _mosquitto_version(program: str) -> str:
    output = subprocess.run([program, "-h"], capture_output=True, text=True, check=False, timeout=5.0).stdout
    found = re.search(r"mosquitto version (\S+)", output)
    return found.group(1) if found else "unknown"
