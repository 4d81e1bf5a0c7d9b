"""brownout rig: which rigs there are, what they can do, and whether they are in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from .common import json_option, out, print_document, rig_option

if TYPE_CHECKING:
    from ..rig import Rig


@click.group()
def rig() -> None:
    """Rigs: the boards that campaigns run on."""


@rig.command("list")
@json_option
def list_rigs(as_json: bool) -> None:
    """List the shipped rigs."""
    from .. import resources
    from ..document import Table

    rows = []
    directory = resources.rigs_directory()
    for name in resources.shipped(directory):
        head = Table.read(directory / f"{name}.toml").table("rig").values
        rows.append({"name": name, "rung": head["rung"], "description": head["description"]})
    if as_json:
        print_document(rows)
        return
    for row in rows:
        out().print(f"{row['name']:12} {row['rung']:8} {row['description']}")


@rig.command()
@rig_option("virtual")
@json_option
def show(rig_name: str, as_json: bool) -> None:
    """Show the boards of a rig, and which faults it can do, and how."""
    from ..rig import load_rig

    loaded = load_rig(rig_name)
    document = {
        "name": loaded.name,
        "file": loaded.source,
        "rung": loaded.rung,
        "most_boards": loaded.capacity,
        "boards": [{"name": board.name, "port": board.port, "mesh": board.mesh} for board in loaded.boards],
        "faults": {kind: str(support) for kind, support in loaded.support.items()},
    }
    if as_json:
        print_document(document)
        return
    console = out()
    console.print(f"{loaded.name} ({loaded.source}), rung {loaded.rung}, up to {loaded.capacity} boards")
    for board in loaded.boards:
        console.print(f"  board {board.name:12} {board.mesh:8} {board.port}")
    for kind, support in loaded.support.items():
        console.print(f"  fault {kind:16} {support}")


@rig.command()
@rig_option("virtual")
@json_option
def doctor(rig_name: str, as_json: bool) -> None:
    """Look at everything that a rig needs; exit 4 if something is missing, with what to do about it."""
    from ..contracts import RigError
    from ..rig import load_rig

    findings = []
    for what, look in _looks(load_rig(rig_name)):
        try:
            findings.append({"what": what, "ok": True, "detail": look()})
        except RigError as error:
            findings.append({"what": what, "ok": False, "detail": str(error)})
    if as_json:
        print_document(findings)
    else:
        for finding in findings:
            out().print(f"{'ok     ' if finding['ok'] else 'FAILED '} {finding['what']:16} {finding['detail']}")
    failed = [str(finding["what"]) for finding in findings if not finding["ok"]]
    if failed:
        raise RigError(f"rig {rig_name}: not in order: {', '.join(failed)}")


def _looks(loaded: Rig) -> Iterator[tuple[str, Any]]:
    """(what is looked at, a function that says what it found or raises RigError)"""
    from .. import doctor as looks

    yield "mpy-cross", looks.compiler
    if loaded.rung == "virtual":
        yield "micropython", looks.micropython
        yield "broker", looks.broker
        yield "sshd", looks.sshd
    if loaded.lab is not None:
        directory = loaded.lab
        yield "lab", lambda: looks.lab(directory)
    for board in loaded.boards:
        yield f"board {board.name}", lambda board=board: looks.serial_port(board)
    for spec in loaded.gateways.values():
        yield f"gateway {spec.name}", lambda spec=spec: looks.gateway(spec)
    if loaded.broker is not None:
        address = loaded.broker
        yield "broker", lambda: looks.broker_answers(address.host, address.port)
