"""What a bench's builder wired to the boards beside their power: commands of the rig file's [jig], by board.

    [jig]
    unplug = ["usbswitch", "off", "{board}"]
    plug = ["usbswitch", "on", "{board}"]
    wipe = ["esptool", "--port", "{port}", "erase-region", "0x310000", "0x20000"]

A cable counts as unplugged while its port is gone. Must not run a shell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..bench_rig import fill
from ..contracts import Gateway, RigError, Support

CABLE_KINDS = ("unplug",)
STORAGE_KINDS = ("wipe",)


class Jig:
    """The commands, for boards at their gateways. ports: board -> its port there."""

    def __init__(
        self, templates: Mapping[str, Sequence[str]], home: Mapping[str, Gateway], ports: Mapping[str, str]
    ) -> None:
        self._templates = templates
        self._home = home
        self._ports = ports

    def run(self, action: str, boards: Sequence[str]) -> None:
        if action not in self._templates:
            raise RigError(f"the rig file's [jig] has no command `{action}`")
        for board in boards:
            self._home[board].run(fill(self._templates[action], {"board": board, "port": self._ports[board]}))


class JigCable:
    """Satisfies contracts.Cable."""

    def __init__(self, jig: Jig, support: Mapping[str, Support]) -> None:
        self._jig = jig
        self._pulled: set[str] = set()
        self.supports: Mapping[str, Support] = {kind: support[kind] for kind in CABLE_KINDS}

    def unplug(self, boards: Sequence[str]) -> None:
        self._pulled |= set(boards)
        self._jig.run("unplug", boards)

    def plug(self, boards: Sequence[str]) -> None:
        self._jig.run("plug", boards)
        self._pulled -= set(boards)

    def state(self, boards: Sequence[str]) -> dict[str, bool]:
        return {board: board not in self._pulled for board in boards}


class JigStorage:
    """Satisfies contracts.Storage."""

    def __init__(self, jig: Jig, powered: Callable[[Sequence[str]], Sequence[str]], support: Mapping[str, Support]):
        self._jig = jig
        self._powered = powered
        self.supports: Mapping[str, Support] = {kind: support[kind] for kind in STORAGE_KINDS}

    def wipe(self, boards: Sequence[str]) -> None:
        lit = list(self._powered(boards))
        if lit:
            raise RigError(f"{', '.join(lit)}: a journal is wiped only without power")
        self._jig.run("wipe", boards)
