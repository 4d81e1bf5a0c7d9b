"""The command line of a bench.

    python -m brownout_virtual.bench up --directory DIR --gateways east=b1,b2 --gateways west=b3,b4,b5

`up` stays in front and says "ready DIR" when the bench can be used. `brownout lab down|status` end and show it as they
do any lab. Exit codes: 0 done, 2 usage, 4 the bench cannot start. Must not hold anything that a bench needs to live.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..directory import Paths
from ..flash_image import Geometry
from ..lab import _blocks, _down, _heap, _names
from ..process import LabError
from .daemon import Settings, serve
from .namespaces import Network


def _gateway(text: str) -> tuple[str, tuple[str, ...]]:
    name, _, boards = text.partition("=")
    names = _names(name)
    if len(names) != 1 or not boards:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=BOARD,BOARD")
    return names[0], _names(boards)


def _end(directory: Path) -> int:
    """End the daemon if it lives, and remove its namespaces if it could not."""
    try:
        code = _down(Paths(directory))
        Network(directory, {}).remove()
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    return code


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m brownout_virtual.bench", description="A bench of namespaces.")
    actions = parser.add_subparsers(dest="action", required=True)
    down = actions.add_parser("down", help="end a bench, remove what it made")
    down.add_argument("--directory", type=Path, required=True)
    up = actions.add_parser("up", help="start a bench, stay in front")
    up.add_argument("--directory", type=Path, required=True)
    up.add_argument("--gateways", type=_gateway, action="append", required=True, help="NAME=BOARD,BOARD; repeatable")
    up.add_argument("--serial-only", type=_names, default=())
    up.add_argument("--bed", default="bed")
    up.add_argument("--heap", type=_heap, default=_heap("320k"))
    up.add_argument("--flash-size", type=_blocks, default=_blocks("1m"))
    up.add_argument("--journal-size", type=_blocks, default=_blocks("128k"))
    up.add_argument("--real-timings", action="store_true")
    up.add_argument("--liar", help="the board whose hub says that it is off and feeds it all the same")
    up.add_argument("--movable-clocks", action="store_true", help="`mishap clock SECONDS` moves gateways' clocks")
    up.add_argument("--port-bytes-per-s", type=int, help="how fast serial ports are, each way; as fast as it goes")
    arguments = parser.parse_args()
    if arguments.action == "down":
        return _end(arguments.directory.absolute())
    gateways = dict(arguments.gateways)
    boards = [board for names in gateways.values() for board in names]
    if len(set(boards)) != len(boards) or len(gateways) != len(arguments.gateways):
        parser.error("--gateways: each gateway and each board once")
    unknown = ({arguments.liar} - {None} | set(arguments.serial_only)) - set(boards)
    if unknown:
        parser.error(f"no such board: {', '.join(sorted(unknown))}")
    try:
        serve(
            Settings(
                directory=arguments.directory.absolute(),
                gateways=gateways,
                bed=arguments.bed,
                heap_bytes=arguments.heap,
                geometry=Geometry(arguments.flash_size, arguments.journal_size),
                real_timings=arguments.real_timings,
                liar=arguments.liar,
                movable_clocks=arguments.movable_clocks,
                port_bytes_per_s=arguments.port_bytes_per_s,
                serial_only=frozenset(arguments.serial_only),
            ),
            lambda line: print(line, flush=True),
        )
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
