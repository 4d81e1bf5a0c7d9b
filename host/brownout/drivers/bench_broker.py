"""The broker of a bench as a service of its gateway, by systemctl: killed, stopped by a signal, started.

    systemctl kill -s SIGKILL|SIGSTOP|SIGCONT -- mosquitto    ... start -- mosquitto    ... show -p MainPID -- mosquitto

systemctl takes patterns of units and, after -H, other hosts: a unit's name is checked, not only quoted.
The unit must not restart by itself (Restart=no), or a kill is over before it was noticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..bench_rig import is_unit_name
from ..contracts import Gateway, Support, UsageError

KINDS = ("broker_kill", "broker_stall")


class BenchBroker:
    """Satisfies contracts.Broker."""

    def __init__(self, gateway: Gateway, unit: str, support: Mapping[str, Support]) -> None:
        self._gateway = gateway
        if not is_unit_name(unit):
            raise UsageError(f"broker: {unit!r} is no name of a systemd unit")
        self._unit = unit
        self.supports: Mapping[str, Support] = {kind: support[kind] for kind in KINDS}

    def _kill(self, signal: str) -> None:
        self._gateway.run(["systemctl", "kill", "-s", signal, "--", self._unit])

    def kill(self) -> None:
        self._kill("SIGKILL")

    def stall(self) -> None:
        self._kill("SIGSTOP")

    def start(self) -> None:
        state = self.state()
        if state["stalled"]:
            self._kill("SIGCONT")
        elif not state["running"]:
            self._gateway.run(["systemctl", "start", "--", self._unit])

    def state(self) -> dict[str, Any]:
        text = self._gateway.run(["systemctl", "show", "-p", "MainPID", "--", self._unit]).stdout
        values = dict(line.partition("=")[::2] for line in text.splitlines())
        pid = values.get("MainPID", "0")
        process = ""
        if pid.isascii() and pid.isdigit() and pid != "0":
            process = self._gateway.run(["ps", "-o", "stat=", "-p", pid], check=False).stdout.strip()
        stalled = process.startswith("T")
        return {"running": bool(process) and not stalled, "stalled": stalled, "pid": pid, "process": process}
