"""Starts and ends benches of network namespaces, each a daemon of its own that stays, never imported.

python -m brownout_virtual.bench up --directory DIR --gateways east=b1,b2    ... down --directory DIR
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contracts import RigError

COMMAND = (sys.executable, "-m", "brownout_virtual.bench")
START_WITHIN_S = 90.0
END_WITHIN_S = 40.0
GATEWAYS = ("east", "west", "north", "south")
Say = Callable[[str], None]


@dataclass(frozen=True)
class BenchOptions:
    """What a bench is asked to be. liar: the board whose hub lies. movable_clocks: gateways' clocks can be moved."""

    gateways: Mapping[str, Sequence[str]]
    bed: str = "bed"
    heap: str = "320k"
    real_timings: bool = False
    liar: str | None = None
    movable_clocks: bool = False
    port_bytes_per_s: int | None = None

    def words(self) -> list[str]:
        words = ["--bed", self.bed, "--heap", self.heap]
        for name, boards in self.gateways.items():
            words += ["--gateways", f"{name}={','.join(boards)}"]
        if self.port_bytes_per_s:
            words += ["--port-bytes-per-s", str(self.port_bytes_per_s)]
        if self.movable_clocks:
            words.append("--movable-clocks")
        if self.real_timings:
            words.append("--real-timings")
        return [*words, "--liar", self.liar] if self.liar else words


def spread(boards: Sequence[str], count: int) -> dict[str, list[str]]:
    """The boards over so many gateways, as evenly as it goes."""
    return {GATEWAYS[index]: list(boards[index::count]) for index in range(count)}


def up(directory: Path, options: BenchOptions, say: Say = lambda _line: None) -> dict[str, Any]:
    """Start a bench that stays; returns its lab.json. RigError says what is missing."""
    directory.mkdir(parents=True, exist_ok=True)
    errors = directory / "errors.log"
    with errors.open("wb") as log:
        process = subprocess.Popen(
            [*COMMAND, "up", "--directory", str(directory), *options.words()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    assert process.stdout is not None
    deadline = time.monotonic() + START_WITHIN_S
    buffer = b""
    with selectors.DefaultSelector() as selector, process.stdout:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            data = os.read(process.stdout.fileno(), 65536)
            if not data:
                process.wait(END_WITHIN_S)
                said = errors.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
                raise RigError(f"the bench did not start: {said[-1].removeprefix('error: ')}")
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                text = line.decode(errors="replace")
                if text.startswith("ready "):
                    document: dict[str, Any] = json.loads((directory / "lab.json").read_text(encoding="utf-8"))
                    return document
                say(text)
    process.terminate()
    process.wait(END_WITHIN_S)
    raise RigError(f"the bench was not ready after {START_WITHIN_S:.0f} s; see {errors}")


def is_bench(directory: Path) -> bool:
    """Whether what runs there, or ran there last, is a bench."""
    return (directory / "gateways").is_dir()


def down(directory: Path) -> str:
    """End the bench of that directory and remove all that it made, also where its daemon was killed."""
    command = [*COMMAND, "down", "--directory", str(directory)]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=END_WITHIN_S, stdin=subprocess.DEVNULL
    )
    if result.returncode:
        raise RigError(f"the bench: {(result.stderr.strip().splitlines() or ['no answer'])[-1]}")
    return result.stdout.strip()
