"""The broker of the virtual lab, or those of its sites: killed, stopped by a signal, or started again on the same port.

labctl broker kill|stall|start|state [SITE]
labctl bridge cut|join SITE SITE
labctl uplink cut|join SITE BOARD...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..contracts import RigError, Support
from ..labctl import LabControl

KINDS = ("broker_kill", "broker_stall", "broker", "bridge", "uplink")


class VirtualBroker:
    """Satisfies contracts.Broker."""

    def __init__(self, control: LabControl, support: Mapping[str, Support]) -> None:
        self._control = control
        self.supports: Mapping[str, Support] = {kind: support[kind] for kind in KINDS}

    def kill(self, site: str | None = None) -> None:
        self._control.ask("broker", "kill", *_words(site))

    def stall(self) -> None:
        self._control.ask("broker", "stall")

    def start(self, site: str | None = None) -> None:
        self._control.ask("broker", "start", *_words(site))

    def cut(self, between: Sequence[str]) -> None:
        self._bridge("cut", between, False)

    def join(self, between: Sequence[str]) -> None:
        self._bridge("join", between, True)

    def _bridge(self, action: str, between: Sequence[str], whole: bool) -> None:
        state = self._control.ask("bridge", action, *between)
        if state["whole"] is not whole:
            raise RigError(f"bridge {action} {' '.join(between)}: it says {state}", definite=False)

    def part(self, site: str, boards: Sequence[str]) -> None:
        self._uplink("cut", site, boards, False)

    def rejoin(self, site: str, boards: Sequence[str]) -> None:
        self._uplink("join", site, boards, True)

    def _uplink(self, action: str, site: str, boards: Sequence[str], whole: bool) -> None:
        states = self._control.ask("uplink", action, site, *boards)
        if any(state["whole"] is not whole for state in states.values()):
            raise RigError(f"uplink {action} {site}: it says {states}", definite=False)

    def state(self, site: str | None = None) -> dict[str, Any]:
        return dict(self._control.ask("broker", "state", *_words(site)))


def _words(site: str | None) -> tuple[str, ...]:
    return () if site is None else (site,)
