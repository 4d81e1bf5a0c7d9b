"""What a gateway needs from us: the programs that `brownout rig setup-gateway` lays down, and how it does that.

Idempotent: a file whose bytes are there already is left alone. Must not install packages or change a gateway's system
files; docs/bench.md lists what its owner installs and which sudo rules it takes.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from .contracts import Gateway, RigError

SERIAL_TOOL = "brownout-serial"
PIECE = 60_000  # of a file's text, in one argument: Linux takes 128 KiB
NO_SPACE = "No space left on device"
PROGRAMS = ("python3", "timeout", "sh")


def serial_agent() -> Path:
    """The program that carries serial ports, as it ships."""
    return Path(__file__).parent / "on_gateway" / "serial_agent.py"


def setup_gateway(gateway: Gateway, directory: str) -> list[str]:
    """Lay our programs down in `directory` on a gateway; sentences about what was done, none where all was there."""
    missing = [
        program
        for program in PROGRAMS
        if gateway.run(["sh", "-c", 'command -v "$1"', "sh", program], check=False).exit_code
    ]
    if missing:
        raise RigError(f"gateway {gateway.name}: install {', '.join(missing)} there")
    done = []
    data = serial_agent().read_bytes()
    target = f"{directory}/{SERIAL_TOOL}"
    there = gateway.run(["sha256sum", "--", target], check=False)
    # sha256sum begins the line with a backslash where the path holds one, or a line's end.
    if there.exit_code or there.stdout.lstrip("\\").split(" ")[0] != hashlib.sha256(data).hexdigest():
        try:
            _lay_down(gateway, directory, target, data)
        except RigError as error:
            if NO_SPACE not in str(error):
                raise
            gateway.run(["rm", "-f", "--", f"{target}.new"], check=False)
            raise RigError(f"{error}; free some there, and say it again: what was there before still is") from error
        done.append(f"gateway {gateway.name}: {target} laid down")
    return done


def _lay_down(gateway: Gateway, directory: str, target: str, data: bytes) -> None:
    """Piece by piece beside its place, which it takes when it is whole."""
    gateway.run(["mkdir", "-p", "-m", "700", "--", directory])
    gateway.run(["sh", "-c", ': > "$1"', "sh", f"{target}.new"])
    text = base64.b64encode(data).decode()
    for at in range(0, len(text), PIECE):
        piece = text[at : at + PIECE]
        gateway.run(["sh", "-c", 'printf %s "$1" | base64 -d >> "$2"', "sh", piece, f"{target}.new"])
    gateway.run(["chmod", "700", "--", f"{target}.new"])
    gateway.run(["mv", "--", f"{target}.new", target])
