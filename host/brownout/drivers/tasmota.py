"""Sockets with Tasmota, by HTTP or MQTT from the gateway: https://tasmota.github.io/docs/Commands/

    [power.socket]
    driver = "tasmota"
    gateway = "east"
    device = "192.0.2.7"      # the socket's address; its topic where over = "mqtt"
    over = "http"             # or "mqtt"; a password belongs into ~/.netrc or ~/.config/mosquitto_pub on the gateway

Proves: the socket's own word, by HTTP; nothing by MQTT.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from ..contracts import RigError

OPTIONS = ("over",)
PROVES = "the socket's own word (http); nothing (mqtt)"


class Tasmota:
    """Satisfies contracts.Outlets."""

    def __init__(self, device: str, options: Mapping[str, object]) -> None:
        self.device = device
        self.mqtt = options.get("over", "http") == "mqtt"
        self._told: dict[int, bool] = {}

    def _http(self, command: str) -> list[str]:
        url = f"http://{quote(self.device, safe='.:[]-')}/cm?cmnd={quote(command, safe='')}"
        return ["curl", "--globoff", "-fsS", "--netrc-optional", "--max-time", "5", "--", url]

    def switch(self, numbers: Sequence[int], on: bool) -> list[list[str]]:
        self._told |= dict.fromkeys(numbers, on)
        word = "ON" if on else "OFF"
        if self.mqtt:
            return [["mosquitto_pub", "-t", f"cmnd/{self.device}/POWER{number}", "-m", word] for number in numbers]
        return [self._http(f"Power{number} {word}") for number in numbers]

    def query(self, numbers: Sequence[int]) -> list[list[str]]:
        return [] if self.mqtt else [self._http(f"Power{number}") for number in numbers]

    def read(self, texts: Sequence[str], numbers: Sequence[int]) -> dict[int, bool]:
        if self.mqtt:
            return {number: self._told.get(number, True) for number in numbers}
        states = {}
        for number, text in zip(numbers, texts, strict=True):
            try:
                answer = json.loads(text)
                states[number] = {"ON": True, "OFF": False}[answer.get(f"POWER{number}", answer.get("POWER"))]
            except (ValueError, KeyError, AttributeError, TypeError):
                raise RigError(f"tasmota {self.device}: answered {text[:80]!r}", definite=False) from None
        return states
