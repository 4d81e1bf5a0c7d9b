"""Finds boards at a rig's gateways by the stable names of their serial ports, and writes them as a rig file's tables.

Names under /dev/serial/by-id carry the USB serial number; /dev/ttyUSB0 may be another board after the next power cut.
Must not open a port: a board that is opened may be reset by that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from .contracts import Gateway

BY_ID = "/dev/serial/by-id"
# From the vendor's words in the port's name to the model; the first that fits. A CP2102 or CH340 may carry any ESP32.
MODELS = (
    ("Espressif_USB_JTAG", "esp32-c3"),
    ("Espressif", "esp32-s3"),
    ("Raspberry_Pi_Pico", "pico-w"),
    ("MicroPython_Board_in_FS_mode", "pico-w"),
    ("CP210", "esp32"),
    ("1a86", "esp32"),
    ("FTDI", "esp32"),
)


@dataclass(frozen=True)
class Found:
    gateway: str
    port: str
    model: str | None  # None: nothing that we know


def discover(gateways: Mapping[str, Gateway]) -> list[Found]:
    """Every serial port with a stable name, by gateway."""
    found = []
    for name, gateway in gateways.items():
        listed = gateway.run(["find", BY_ID, "-maxdepth", "1", "-type", "l", "-print0"], check=False)
        found += [Found(name, port, model_of(port)) for port in sorted(listed.stdout.split("\0")) if port]
    return found


def model_of(port: str) -> str | None:
    return next((model for words, model in MODELS if words.lower() in port.lower()), None)


def toml_text(text: str) -> str:
    """A TOML string. JSON's own escapes of characters beyond 16 bits are none of TOML's."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def tables(found: list[Found]) -> str:
    """[[board]] tables, each with what is still to be filled in."""
    lines = []
    for number, board in enumerate([board for board in found if board.model], 1):
        lines += ["[[board]]", f'name = "b{number}"', f"model = {toml_text(str(board.model))}"]
        lines += [f"gateway = {toml_text(board.gateway)}", f"port = {toml_text(board.port)}"]
        lines += ['# outlet = "hub/1"', '# address = "192.0.2.101"', f"mqtt_port = {9000 + number}", ""]
    for unknown in [board for board in found if not board.model]:
        lines.append(f"# {unknown.gateway}: {re.sub(r'[^ -~]', '?', unknown.port)} is no board that we know")
    return "\n".join(lines) + ("\n" if lines else "")
