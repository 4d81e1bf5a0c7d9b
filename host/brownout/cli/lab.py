"""brownout lab: a virtual lab that stays until it is taken down."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .common import json_option, out, print_document

directory_option = click.option(
    "--directory", type=click.Path(path_type=Path), help="Its folder [default: where the rig `lab` looks for it]."
)


def _directory(given: Path | None) -> Path:
    from ..rig import default_lab_directory

    return (given or default_lab_directory()).expanduser().absolute()


@click.group()
def lab() -> None:
    """Virtual labs that are kept, to try things by hand: --rig lab."""


@lab.command()
@click.option(
    "--boards", default="5", show_default=True, help="How many (named b1, b2, ..), or names parted by commas."
)
@click.option("--serial-only", default="", help="Boards without a network, parted by commas.")
@click.option("--heap", default="224k", show_default=True, help="Of each board; 64-bit objects are twice as large.")
@click.option("--real-timings", is_flag=True, help="Flash as slow as on a real board.")
@click.option("--erase", is_flag=True, help="Start with empty flash, whatever an earlier lab left.")
@click.option("--local-gateway", is_flag=True, help="No sshd: switch power and links by local commands.")
@click.option("--bench", is_flag=True, help="A bench of network namespaces: sshd, TLS broker, nftables. Needs root.")
@click.option("--gateways", type=click.IntRange(1, 4), default=2, show_default=True, help="Of a bench.")
@click.option("--liar", help="The board of a bench whose hub says that it is off and feeds it all the same.")
@directory_option
@json_option
def up(
    boards: str,
    serial_only: str,
    heap: str,
    real_timings: bool,
    erase: bool,
    local_gateway: bool,
    bench: bool,
    gateways: int,
    liar: str | None,
    directory: Path | None,
    as_json: bool,
) -> None:
    """Start a lab and leave it running."""
    from .. import incarnation

    if bench:
        _bench_up(_names(boards), gateways, liar, real_timings, _directory(directory), as_json)
        return
    from ..drivers import virtual_lab
    from ..rig import load_rig

    options = virtual_lab.LabOptions(
        boards=_names(boards),
        serial_only=tuple(name for name in serial_only.split(",") if name),
        bed=load_rig("virtual").bed,
        heap=heap,
        real_timings=real_timings,
        erase=erase,
        local_gateway=local_gateway,
    )
    if erase:
        incarnation.forget(_directory(directory))
    document = virtual_lab.up(_directory(directory), options, lambda line: print(line, file=sys.stderr))
    if as_json:
        print_document(document)
    else:
        out().print(f"the lab runs in {document['directory']}; next: brownout flash")


def _bench_up(
    boards: tuple[str, ...], gateways: int, liar: str | None, real_timings: bool, directory: Path, as_json: bool
) -> None:
    from ..drivers import bench_process
    from ..rig import load_rig

    options = bench_process.BenchOptions(
        gateways={name: names for name, names in bench_process.spread(boards, gateways).items() if names},
        bed=load_rig("virtual").bed,
        real_timings=real_timings,
        liar=liar,
    )
    document = bench_process.up(directory, options, lambda line: print(line, file=sys.stderr))
    if as_json:
        print_document(document)
    else:
        out().print(f"the bench runs in {document['directory']}; next: brownout run demo --rig {document['rig']}")


def _names(text: str) -> tuple[str, ...]:
    from ..contracts import UsageError
    from ..rig import MOST_BOARDS

    if not (text.isascii() and text.isdigit()):
        return tuple(text.split(","))
    if not (len(text) <= 4 and 1 <= int(text) <= MOST_BOARDS):
        raise UsageError(f"--boards: {text}; allowed: 1 to {MOST_BOARDS}, or names parted by commas")
    return tuple(f"b{number}" for number in range(1, int(text) + 1))


@lab.command()
@directory_option
def down(directory: Path | None) -> None:
    """End the lab."""
    from ..drivers import bench_process, virtual_lab

    if bench_process.is_bench(_directory(directory)):
        click.echo(bench_process.down(_directory(directory)))
        return
    click.echo(virtual_lab.down(_directory(directory)))


@lab.command()
@directory_option
@json_option
def status(directory: Path | None, as_json: bool) -> None:
    """Show a lab's boards, broker, gateway and links."""
    from ..drivers import virtual_lab

    document = virtual_lab.status(_directory(directory))
    if as_json:
        print_document(document)
        return
    console = out()
    if not document["running"]:
        console.print(f"no lab is running in {document['directory']}; start one: brownout lab up")
        return
    if document.get("kind") == "bench":
        console.print(f"bench {document['directory']}, process {document['pid']}, rig file {document['rig']}")
        for name, board in document["boards"].items():
            console.print(f"{name:12} gateway {board['gateway']:8} {board['address']:15} {board['serial']}")
        return
    state = document["state"]
    console.print(f"{document['directory']}, process {document['pid']}, gateway {document['gateway']['transport']}")
    mqtt = document["mqtt"]
    console.print(f"broker {mqtt['broker']} {mqtt['version']} at {mqtt['host']}:{mqtt['port']}")
    for name, board in state["boards"].items():
        power = "on" if board["on"] else "off"
        cable = "plugged" if board["plugged"] else "unplugged"
        network = "connected" if board["connected"] else "-"
        console.print(f"{name:12} {power:4} {cable:10} {network:10} {document['boards'][name]['serial']}")
    rules = sorted({count["rule"] for count in state["links"]})
    if rules:
        console.print(f"link rules: {', '.join(rules)}")
