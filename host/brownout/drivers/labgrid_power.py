"""Every PDU that labgrid knows, through its own power back ends: https://labgrid.readthedocs.io (extra `labgrid`)

    [power.pdu]
    driver = "labgrid"
    gateway = "east"          # labgrid is installed there: pip install labgrid
    device = "192.0.2.9"
    backend = "netio"         # a module of labgrid.driver.power
    python = "python3"        # of that gateway, with labgrid

Proves: what the back end's power_get answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..contracts import RigError

OPTIONS = ("backend", "python")
PROVES = "what the PDU itself answers"
PROGRAM = """\
import importlib, sys
name, host, index, value = sys.argv[1:]
if not name.isidentifier():
    sys.exit("no back end: " + name)
backend = importlib.import_module("labgrid.driver.power." + name)
port = getattr(backend, "PORT", None)
if value == "?":
    print(int(bool(backend.power_get(host, port, index))))
else:
    backend.power_set(host, port, index, value == "1")
"""


class LabgridPower:
    """Satisfies contracts.Outlets."""

    def __init__(self, device: str, options: Mapping[str, object]) -> None:
        self.device = device
        self.backend = str(options.get("backend", ""))
        self.python = str(options.get("python", "python3"))

    def _call(self, number: int, value: str) -> list[str]:
        return [self.python, "-I", "-c", PROGRAM, self.backend, self.device, str(number), value]

    def switch(self, numbers: Sequence[int], on: bool) -> list[list[str]]:
        return [self._call(number, str(int(on))) for number in numbers]

    def query(self, numbers: Sequence[int]) -> list[list[str]]:
        return [self._call(number, "?") for number in numbers]

    def read(self, texts: Sequence[str], numbers: Sequence[int]) -> dict[int, bool]:
        if any(text.strip() not in ("0", "1") for text in texts):
            raise RigError(f"labgrid {self.backend} {self.device}: answered {' '.join(texts)[:80]!r}", definite=False)
        return {number: text.strip() == "1" for number, text in zip(numbers, texts, strict=True)}
