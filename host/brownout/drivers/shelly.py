"""Shelly sockets and relays, by HTTP from the gateway: https://shelly-api-docs.shelly.cloud

    [power.socket]
    driver = "shelly"
    gateway = "east"
    device = "192.0.2.8"
    generation = 2            # 1: /relay/N, 2 and later: /rpc

Outlets count from 0, as the device does. Proves: the device's own word.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from ..contracts import RigError

OPTIONS = ("generation",)
PROVES = "the device's own word"


class Shelly:
    """Satisfies contracts.Outlets."""

    def __init__(self, device: str, options: Mapping[str, object]) -> None:
        self.device = device
        self.first = options.get("generation", 2) == 1

    def _get(self, path: str) -> list[str]:
        url = f"http://{quote(self.device, safe='.:[]-')}{path}"
        return ["curl", "--globoff", "-fsS", "--netrc-optional", "--max-time", "5", "--", url]

    def switch(self, numbers: Sequence[int], on: bool) -> list[list[str]]:
        if self.first:
            return [self._get(f"/relay/{number}?turn={'on' if on else 'off'}") for number in numbers]
        return [self._get(f"/rpc/Switch.Set?id={number}&on={'true' if on else 'false'}") for number in numbers]

    def query(self, numbers: Sequence[int]) -> list[list[str]]:
        path = "/relay/{}" if self.first else "/rpc/Switch.GetStatus?id={}"
        return [self._get(path.format(number)) for number in numbers]

    def read(self, texts: Sequence[str], numbers: Sequence[int]) -> dict[int, bool]:
        states = {}
        for number, text in zip(numbers, texts, strict=True):
            try:
                states[number] = json.loads(text)["ison" if self.first else "output"]
            except (ValueError, KeyError, TypeError):
                states[number] = None
            if not isinstance(states[number], bool):
                raise RigError(f"shelly {self.device}: answered {text[:80]!r}", definite=False)
        return states
