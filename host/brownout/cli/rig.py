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


@rig.command()
@rig_option("bench")
@json_option
def qualify(rig_name: str, as_json: bool) -> None:
    """Cut each board's power once, and see that its switch means what it says; exit 4 where one does not."""
    from dataclasses import asdict

    from .. import qualify as qualification
    from ..bench_lab import BenchLab
    from ..bench_lock import held
    from ..contracts import RigError
    from ..drivers.bench_power import BenchPower
    from .common import LiveProgress

    loaded = _bench(rig_name)
    with held(loaded.source, "rig qualify"), LiveProgress() as progress:
        bench = BenchLab(loaded)
        try:
            switches = bench.switches()
            names = [board.name for board in loaded.boards]
            switches.power.on(names)
            bench.missing_ports(names)
            outlets = {board.name: board.outlet for board in loaded.boards}
            assert isinstance(switches.power, BenchPower)
            findings = qualification.qualify(outlets, switches.power, bench.enumerated, progress)
        finally:
            bench.close()
    path = qualification.write_result(loaded.source, findings)
    if as_json:
        print_document([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            times = f"off {finding.off_ms} ms, on {finding.on_ms} ms" if finding.off_ms else ""
            out().print(f"{finding.board:12} {finding.outlet:20} {finding.verdict:8} {times} {finding.detail}")
        out().print(f"written to {path}")
    wrong = [finding.board for finding in findings if finding.verdict != "proven"]
    if wrong:
        raise RigError(f"rig {rig_name}: no campaign may cut the power of {', '.join(wrong)} by these outlets")


def _bench(rig_name: str) -> Rig:
    from ..contracts import UsageError
    from ..rig import load_rig

    loaded = load_rig(rig_name)
    if loaded.bench is None:
        raise UsageError(f"--rig: {rig_name} is no bench: its file has no [links]; see docs/bench.md")
    return loaded


@rig.command()
@rig_option("bench")
def discover(rig_name: str) -> None:
    """Find boards at every gateway by their USB serial numbers; print them as tables for the rig file."""
    from ..discover import discover as look
    from ..discover import tables
    from ..gateway import open_gateway
    from ..rig import load_rig

    gateways = {name: open_gateway(spec) for name, spec in load_rig(rig_name).gateways.items()}
    try:
        found = look(gateways)
    finally:
        for gateway in gateways.values():
            gateway.close()
    click.echo(tables(found) or "no serial port with a stable name at any gateway", nl=not found)


@rig.command("setup-gateway")
@rig_option("bench")
@click.argument("names", nargs=-1)
def setup_gateway(rig_name: str, names: tuple[str, ...]) -> None:
    """Lay Brownout's programs down on gateways NAMES (all); what is there already is left alone."""
    from ..contracts import UsageError
    from ..gateway import open_gateway
    from ..gateway_setup import setup_gateway as lay_down
    from ..rig import load_rig

    loaded = load_rig(rig_name)
    unknown = set(names) - set(loaded.gateways)
    if unknown or not loaded.gateways:
        raise UsageError(f"no gateway {', '.join(sorted(unknown))}; {rig_name} has: {', '.join(loaded.gateways)}")
    done = []
    for name in names or tuple(loaded.gateways):
        gateway = open_gateway(loaded.gateways[name])
        try:
            done += lay_down(gateway, loaded.gateways[name].tools)
        finally:
            gateway.close()
    click.echo("\n".join(done) if done else "everything was there")


@rig.command()
@rig_option("bench")
def setup(rig_name: str) -> None:
    """Make the bench's certificate authority, the broker's certificate, and a password for each board."""
    from pathlib import Path

    from .. import bench_ca

    loaded = _bench(rig_name)
    assert loaded.bench is not None
    assert loaded.broker is not None
    folder = Path(loaded.bench.broker.ca).parent
    done = []
    if bench_ca.make_authority(folder):
        done.append(f"certificate authority: {folder / 'ca.pem'}")
    if bench_ca.make_server(folder, [loaded.broker.host]):
        done.append(f"certificate of the broker: {folder / 'server.pem'}")
    boards = [board.name for board in loaded.boards]
    fresh = bench_ca.make_passwords(folder, ["host", *boards])
    if fresh:
        done.append(f"passwords for {', '.join(fresh)}: {folder / 'passwords.json'}")
    acl = folder / "acl"
    text = bench_ca.access_list(loaded.bed, boards)
    if not acl.exists() or acl.read_text() != text:
        bench_ca.private(acl, text.encode())
        done.append(f"access list for mosquitto: {acl}")
    click.echo("\n".join(done) if done else "everything was there")


@rig.command()
@rig_option("bench")
@click.option("--purpose", default="", help="What it is wanted for; others are told.")
@click.option("--hours", type=click.FloatRange(0.01, 168), default=4.0, show_default=True)
def lock(rig_name: str, purpose: str, hours: float) -> None:
    """Keep the bench for yourself until you unlock it, or the time is out."""
    from .. import bench_lock

    click.echo(bench_lock.describe(bench_lock.take(_bench(rig_name).source, purpose, hours * 3600)))


@rig.command()
@rig_option("bench")
def unlock(rig_name: str) -> None:
    """Free the bench, whoever holds it."""
    from .. import bench_lock

    click.echo("free now" if bench_lock.release(_bench(rig_name).source) else "nobody had it")


@rig.command()
@rig_option("bench")
def who(rig_name: str) -> None:
    """Say who uses the bench."""
    from .. import bench_lock

    current = bench_lock.holder(_bench(rig_name).source)
    click.echo(bench_lock.describe(current) if current else "nobody")


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
        if loaded.bench is None:
            yield f"board {board.name}", lambda board=board: looks.serial_port(board)
        else:
            yield f"board {board.name}", lambda board=board: looks.port_at_gateway(loaded, board)
    if loaded.bench is not None:
        yield "qualified", lambda: looks.qualified(loaded)
    for spec in loaded.gateways.values():
        yield f"gateway {spec.name}", lambda spec=spec: looks.gateway(spec)
    if loaded.broker is not None:
        address = loaded.broker
        yield "broker", lambda: looks.broker_answers(address.host, address.port)
