"""The broker of the virtual lab: killed, stopped by a signal, or started again on the same port.

labctl broker kill|stall|start|state
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..contracts import Support
from ..labctl import LabControl

KINDS = ("broker_kill", "broker_stall")


class VirtualBroker:
    """Satisfies contracts.Broker."""

    def __init__(self, control: LabControl, support: Mapping[str, Support]) -> None:
        self._control = control
        self.supports: Mapping[str, Support] = {kind: support[kind] for kind in KINDS}

    def kill(self) -> None:
        self._control.ask("broker", "kill")

    def stall(self) -> None:
        self._control.ask("broker", "stall")

    def start(self) -> None:
        self._control.ask("broker", "start")

    def state(self) -> dict[str, Any]:
        return dict(self._control.ask("broker", "state"))
