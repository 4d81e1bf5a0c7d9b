"""The command line of the virtual lab.

    python -m brownout_virtual.lab up --directory DIR --boards b1,b2,b3
    python -m brownout_virtual.lab status|down --directory DIR

`up` returns when the lab is ready, unless --foreground or --owner-fd N keeps it in front; with an owner the lab ends
when that descriptor's other end closes. A line "ready DIR" on standard output says that it can be used.
Exit codes: 0 done, 2 usage, 4 the lab cannot start or does not answer. Must not hold anything that a lab needs to live.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn, TextIO

from brownout import protocols
from brownout.sites import Sites

from . import directory
from .daemon import Settings, serve
from .flash_image import BLOCK_BYTES, Geometry
from .process import LabError

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
UNITS = {"": 1, "k": 1024, "m": 1024 * 1024}
DOWN_WITHIN_S = 10.0
ASK_WITHIN_S = 10.0
MAX_BOARDS = 200


def _size(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,9})([km]?)", text.lower())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 224k or 1m")
    return int(found.group(1)) * UNITS[found.group(2)]


def _blocks(text: str) -> int:
    size = _size(text)
    if size % BLOCK_BYTES or not 16 <= size // BLOCK_BYTES <= 16384:
        raise argparse.ArgumentTypeError(f"{text!r} is not a multiple of {BLOCK_BYTES} bytes from 64k to 64m")
    return size // BLOCK_BYTES


def _heap(text: str) -> int:
    size = _size(text)
    if not 64 * 1024 <= size <= 256 * 1024 * 1024:
        raise argparse.ArgumentTypeError(f"{text!r}: a board's heap is from 64k to 256m")
    return size


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(",")) if text else ()
    for name in names:
        if not NAME.fullmatch(name) or name in ("all", "voters", "host"):
            raise argparse.ArgumentTypeError(
                f"{name!r} is not a board's name: a-z, 0-9, - and _, at most 32, not all, voters or host"
            )
    if len(set(names)) != len(names) or len(names) > MAX_BOARDS:
        raise argparse.ArgumentTypeError(f"board names must be different, and at most {MAX_BOARDS}")
    return names


def _sites(text: str) -> Sites:
    try:
        return Sites.from_document(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise argparse.ArgumentTypeError(f"no sites: {error}") from None


def _descriptor(text: str) -> int:
    try:
        os.fstat(int(text))
    except (ValueError, OSError):
        raise argparse.ArgumentTypeError(f"{text!r} is not an open file descriptor") from None
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m brownout_virtual.lab", description="The virtual lab.")
    actions = parser.add_subparsers(dest="action", required=True)
    up = actions.add_parser("up", help="start a lab and return when it is ready")
    up.add_argument("--boards", type=_names, required=True, help="names, parted by commas")
    up.add_argument("--serial-only", type=_names, default=(), help="those of them without a network of their own")
    up.add_argument("--bed", default="brownout", help="first level of the bed's topics")
    up.add_argument("--seed", type=int, default=0, help="of lossy links")
    up.add_argument("--heap", type=_heap, default=_heap("224k"), help="of each board")
    up.add_argument("--flash-size", type=_blocks, default=_blocks("1m"), help="of each board's file system")
    up.add_argument("--journal-size", type=_blocks, default=_blocks("128k"), help="of each board's journal region")
    up.add_argument("--real-timings", action="store_true", help="flash as slow as real one")
    up.add_argument("--erase", action="store_true", help="start with empty flash, whatever an earlier lab left")
    up.add_argument("--broker", choices=("mosquitto", "iotcore"), help="instead of whichever is installed")
    up.add_argument("--sites", type=_sites, help="a broker for each site, as JSON: [sites] of a campaign's plan")
    up.add_argument("--local-gateway", action="store_true", help="do not run an sshd")
    up.add_argument("--protocol", type=Path, action="append", default=[], help="a file of a protocol of one's own")
    up.add_argument("--foreground", action="store_true", help="do not return before the lab ends")
    up.add_argument("--owner-fd", type=_descriptor, help="in front, until this descriptor's other end closes")
    actions.add_parser("down", help="end a lab")
    actions.add_parser("status", help="print a lab's state as JSON")
    for action in actions.choices.values():
        action.add_argument("--directory", type=Path, required=True)
    return parser


def _settings(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Settings:
    unknown = set(arguments.serial_only) - set(arguments.boards)
    if unknown or not arguments.boards:
        parser.error(f"--serial-only: not among --boards: {', '.join(sorted(unknown))}" if unknown else "no boards")
    if not re.fullmatch(r"[^/+#\s]{1,32}", arguments.bed):
        parser.error("--bed: at most 32 characters without /, +, # and spaces")
    for file in arguments.protocol:
        protocols.add(file.name, file.read_text(encoding="utf-8"))
    return Settings(
        directory=arguments.directory.absolute(),
        boards=arguments.boards,
        serial_only=frozenset(arguments.serial_only),
        bed=arguments.bed,
        seed=arguments.seed,
        heap_bytes=arguments.heap,
        geometry=Geometry(arguments.flash_size, arguments.journal_size),
        real_timings=arguments.real_timings,
        erase=arguments.erase,
        broker=arguments.broker,
        ssh=not arguments.local_gateway,
        owner=arguments.owner_fd,
        sites=arguments.sites,
    )


def _say(line: str) -> None:
    print(line, flush=True)


def _up_in_background(settings: Settings) -> int:
    """Fork the daemon, pass its progress on, return when it is ready or has failed."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(reading)
        _become_daemon(settings, os.fdopen(writing, "w", buffering=1))
    os.close(writing)
    with os.fdopen(reading) as lines:
        for line in lines:
            if line.startswith("error: "):
                print(line.rstrip(), file=sys.stderr)
                return 4
            _say(line.rstrip())
            if line.startswith("ready "):
                return 0
    print(f"error: the lab ended while it started; see {settings.directory}/log/lab.log", file=sys.stderr)
    return 4


def _become_daemon(settings: Settings, report: TextIO) -> NoReturn:
    code = 0

    def progress(line: str) -> None:
        if not report.closed:
            report.write(line + "\n")
            if line.startswith("ready "):
                report.close()

    try:
        os.setsid()
        directory.make(directory.Paths(settings.directory))
        log = os.open(settings.directory / "log" / "lab.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        nothing = os.open(os.devnull, os.O_RDWR)
        for target, source in ((0, nothing), (1, nothing), (2, log)):
            os.dup2(source, target)
        serve(settings, progress)
    except LabError as error:
        progress(f"error: {error}")
        code = 4
    finally:
        os._exit(code)


def _ask(document: dict[str, Any], *words: str) -> Any:
    """Ask a living lab through its own labctl."""
    try:
        result = subprocess.run(
            [document["labctl"], *words], capture_output=True, text=True, check=False, timeout=ASK_WITHIN_S
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        raise LabError(f"the lab in {document['directory']} does not answer: {error}") from error
    if result.returncode != 0:
        raise LabError(result.stderr.strip())
    return json.loads(result.stdout)


def _status(paths: directory.Paths) -> int:
    document = directory.read_living(paths)
    if document is None:
        _say(json.dumps({"running": False, "directory": str(paths.root)}))
    elif document.get("kind") == "bench":
        _say(json.dumps({"running": True, **document}, indent=2))
    else:
        _say(json.dumps(_ask(document, "status"), indent=2))
    return 0


def _down(paths: directory.Paths) -> int:
    """End the lab; by force where it does not end when it is asked."""
    document = directory.read_living(paths)
    if document is None:
        if paths.document.exists():
            directory.forget(paths)
        _say(f"no lab is running in {paths.root}")
        return 0
    for number in (signal.SIGTERM, signal.SIGKILL):
        os.kill(document["pid"], number)
        deadline = time.monotonic() + DOWN_WITHIN_S
        while directory.is_living(document):
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        else:
            directory.forget(paths)
            _say(f"the lab in {paths.root} has ended")
            return 0
    raise LabError(f"the lab in {paths.root} (process {document['pid']}) does not end")


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args()
    try:
        if arguments.action == "status":
            return _status(directory.Paths(arguments.directory.absolute()))
        if arguments.action == "down":
            return _down(directory.Paths(arguments.directory.absolute()))
        settings = _settings(parser, arguments)
        if arguments.foreground or settings.owner is not None:
            serve(settings, _say)
            return 0
        return _up_in_background(settings)
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 4


if __name__ == "__main__":
    sys.exit(main())
