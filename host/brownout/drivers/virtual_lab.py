"""Starts, finds and ends virtual labs, each a process of its own; `brownout_virtual` is never imported here.

A lab made for a run has this process for its owner: it ends when the pipe between them closes, however this process
ends. A kept lab (`brownout lab up`) lives until `down`. What a lab is made of stands in its lab.json.

    python -m brownout_virtual.lab up --directory DIR --boards b1,b2 [--owner-fd N]    ... status|down --directory DIR
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contracts import RigError
from ..rig import GatewaySpec
from ..sites import Sites

COMMAND = (sys.executable, "-m", "brownout_virtual.lab")
START_WITHIN_S = 90.0
END_WITHIN_S = 15.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class LabOptions:
    """What a lab is asked to be."""

    boards: tuple[str, ...]
    serial_only: tuple[str, ...] = ()
    bed: str = "bed"
    seed: int = 0
    heap: str = "224k"
    real_timings: bool = False
    erase: bool = False
    local_gateway: bool = False
    protocols: tuple[Path, ...] = ()  # files of protocols that do not ship
    sites: Sites | None = None

    def words(self) -> list[str]:
        words = ["--boards", ",".join(self.boards), "--bed", self.bed, "--seed", str(self.seed), "--heap", self.heap]
        if self.serial_only:
            words += ["--serial-only", ",".join(self.serial_only)]
        if self.sites is not None:
            words += ["--sites", json.dumps(self.sites.to_document())]
        for file in self.protocols:
            words += ["--protocol", str(file)]
        for wanted, word in (
            (self.real_timings, "--real-timings"),
            (self.erase, "--erase"),
            (self.local_gateway, "--local-gateway"),
        ):
            if wanted:
                words.append(word)
        return words


def gateway_spec(document: dict[str, Any]) -> GatewaySpec:
    """How the gateway of a lab is reached, by its lab.json."""
    entry = document["gateway"]
    if entry["transport"] == "local":
        return GatewaySpec("lab", "local")
    keys = ("host", "port", "user", "key", "known_hosts")
    return GatewaySpec("lab", entry["transport"], **{key: entry[key] for key in keys})


def _read_document(directory: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads((directory / "lab.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RigError(f"no lab is running in {directory}; start one: brownout lab up") from None
    except (OSError, ValueError) as error:
        raise RigError(f"{directory}/lab.json cannot be read: {error}; try: brownout lab down") from None
    return document


class VirtualLab:
    """A lab that runs. `document` is its lab.json."""

    def __init__(
        self, directory: Path, process: subprocess.Popen[bytes] | None = None, owner: int | None = None
    ) -> None:
        self.directory = directory
        self.document = _read_document(directory)
        self._process = process
        self._owner = owner

    @classmethod
    def start(cls, directory: Path, options: LabOptions, say: Say = lambda _line: None) -> VirtualLab:
        """Start a lab that ends with this process; RigError says what is missing."""
        directory.mkdir(parents=True, exist_ok=True)
        theirs, ours = os.pipe()
        errors = directory / "errors.log"
        with errors.open("wb") as log:
            process = subprocess.Popen(
                [*COMMAND, "up", "--directory", str(directory), "--owner-fd", str(theirs), *options.words()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=(theirs,),
                start_new_session=True,  # Ctrl-C is for us: we end the lab when the rig is healed
            )
        os.close(theirs)
        try:
            _wait_until_ready(process, errors, say)
            return cls(directory, process, ours)
        except BaseException:
            os.close(ours)
            _end(process)
            raise

    @classmethod
    def attach(cls, directory: Path) -> VirtualLab:
        """The kept lab of that directory."""
        if not status(directory).get("running"):
            raise RigError(f"no lab is running in {directory}; start one: brownout lab up")
        return cls(directory)

    def serial_port(self, board: str) -> str:
        return str(self.document["boards"][board]["serial"])

    def broker_address(self, board: str | None = None) -> tuple[str, int]:
        """Where a board, or the host, finds the broker: each board has a port of its own on the proxy."""
        mqtt = self.document["mqtt"]
        return mqtt["host"], self.document["boards"][board]["mqtt_port"] if board else mqtt["port"]

    def sites(self) -> dict[str, tuple[str, int]]:
        """Where each site's broker is, for the host; empty where there is one broker for all."""
        return {site: (self.document["mqtt"]["host"], port) for site, port in self.document.get("sites", {}).items()}

    def routes(self, board: str) -> dict[str, tuple[str, int]]:
        """Where a board finds each site's broker, its own first: ports of its own on the proxy."""
        host = self.document["mqtt"]["host"]
        return {site: (host, port) for site, port in self.document["boards"][board].get("routes", {}).items()}

    @property
    def is_alive(self) -> bool:
        return self._process is None or self._process.poll() is None

    def close(self) -> None:
        """End a lab that this process owns; leave a kept one alone."""
        if self._owner is not None:
            os.close(self._owner)
            self._owner = None
        if self._process is not None:
            _end(self._process)
            self._process = None


def _wait_until_ready(process: subprocess.Popen[bytes], errors: Path, say: Say) -> None:
    """Pass its progress on until it says that it is ready."""
    assert process.stdout is not None
    deadline = time.monotonic() + START_WITHIN_S
    buffer = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            data = os.read(process.stdout.fileno(), 65536)
            if not data:
                process.wait(END_WITHIN_S)
                raise RigError(f"the virtual lab did not start: {_last_words(errors)}")
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                text = line.decode(errors="replace").strip()
                if text.startswith("ready "):
                    return
                say(text)
    raise RigError(f"the virtual lab was not ready after {START_WITHIN_S:.0f} s: {_last_words(errors)}")


def _last_words(errors: Path) -> str:
    lines = errors.read_text(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("error: ") if lines else f"it said nothing; see {errors.parent}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Its owner's pipe is closed, so it ends by itself; killed, its children die with it."""
    try:
        process.wait(END_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(END_WITHIN_S)
    if process.stdout is not None:
        process.stdout.close()


# Kept labs.


def up(directory: Path, options: LabOptions, say: Say = lambda _line: None) -> dict[str, Any]:
    """Start a lab that stays; returns its lab.json."""
    _call(["up", "--directory", str(directory), *options.words()], START_WITHIN_S, say)
    return _read_document(directory)


def down(directory: Path) -> str:
    """End the kept lab of that directory, if there is one; returns what happened."""
    return _call(["down", "--directory", str(directory)], 4 * END_WITHIN_S).strip()


def status(directory: Path) -> dict[str, Any]:
    """Everything about it; {"running": False, ...} where none runs."""
    document: dict[str, Any] = json.loads(_call(["status", "--directory", str(directory)], END_WITHIN_S))
    return document


def _call(words: list[str], within_s: float, say: Say = lambda _line: None) -> str:
    try:
        result = subprocess.run(
            [*COMMAND, *words], capture_output=True, text=True, check=False, timeout=within_s, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise RigError(f"the virtual lab did not finish {words[0]!r} within {within_s:.0f} s", definite=False) from None
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
        raise RigError(f"the virtual lab: {lines[-1].removeprefix('error: ')}")
    for line in result.stdout.splitlines():
        say(line)
    return result.stdout
