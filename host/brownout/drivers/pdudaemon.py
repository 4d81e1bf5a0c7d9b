"""Whatever PDUDaemon switches, by its HTTP listener: https://github.com/pdudaemon/pdudaemon

    [power.rack]
    driver = "pdudaemon"
    gateway = "east"
    device = "pdu01"          # as its configuration names it
    url = "http://localhost:16421"

Proves: nothing; the daemon queues requests and answers before they are carried out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

OPTIONS = ("url",)
PROVES = "nothing"


class Pdudaemon:
    """Satisfies contracts.Outlets."""

    def __init__(self, device: str, options: Mapping[str, object]) -> None:
        self.device = device
        self.url = str(options.get("url", "http://localhost:16421"))
        self._told: dict[int, bool] = {}

    def switch(self, numbers: Sequence[int], on: bool) -> list[list[str]]:
        self._told |= dict.fromkeys(numbers, on)
        base = quote(self.url, safe=":/.[]-") + f"/power/control/{'on' if on else 'off'}"
        return [
            ["curl", "--globoff", "-fsS", "--max-time", "10", "--",
             f"{base}?hostname={quote(self.device, safe='')}&port={number}"]
            for number in numbers
        ]  # fmt: skip

    def query(self, numbers: Sequence[int]) -> list[list[str]]:
        return []

    def read(self, texts: Sequence[str], numbers: Sequence[int]) -> dict[int, bool]:
        return {number: self._told.get(number, True) for number in numbers}
