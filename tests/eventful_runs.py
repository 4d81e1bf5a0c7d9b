"""Runs with many boards, faults and events for the report and the store: seeded, consistent, told by a World.

Must not import checkers.
"""

from __future__ import annotations

import random
from pathlib import Path

from brownout.history import History, Outcome
from brownout.store import RunFolder
from history_builder import World

FILES = {"core/vote.mpy": "1122334455667788", "core/gossip.mpy": "8877665544332211"}


def eventful(voters: int = 5, learners: int = 0, operations: int = 160, seed: int = 1) -> World:
    """Operations and gossip through a cut in mid-vote, a blackout, a split and a broker that dies."""
    world = World(voters, learners)
    draw = random.Random(seed)
    world.boot()
    for name in world.names():
        for file, digest in FILES.items():
            world.tell(name, "file", name=file, hash=digest)
    every = world.names()
    minority = world.voters()[-2:]
    majority = [name for name in every if name not in minority]
    for number in range(operations):
        world.wait(draw.uniform(0.01, 0.12))
        if number == operations // 5:
            _mid_vote_cut(world, world.voters()[1])
        elif number == operations * 2 // 5:
            world.ask("put", "k1", "unanswered")
            world.cut("f02", *world.voters(), for_s=0.8, kind="blackout")
        elif number == operations * 3 // 5:
            _split(world, majority, minority, draw)
        elif number == operations * 4 // 5:
            _broker(world)
        kind = draw.choice(["put", "put", "get", "get", "cas"])
        key = f"k{draw.randrange(4)}"
        expected = world.registers.get(key) if kind == "cas" and draw.random() < 0.5 else "other"
        world.operate(
            kind,
            key,
            None if kind == "get" else f"v{number}",
            expected if kind == "cas" else None,
            board=draw.choice(majority),
        )
        if number % 5 == 0:
            _spread(world, draw, number)
        if number % 20 == 19:
            _metrics(world, number)
    world.digests()
    world.wait(6.0)
    world.operate("get", "k0")
    world.digests()
    world.manifest.update(_manifest(world))
    return world


def _mid_vote_cut(world: World, board: str) -> None:
    others = [name for name in world.names() if name != board]
    world.prevote(board, "ab" * 8)
    world.fault("f01", "cut", "planned", board)
    world.fault("f01", "cut", "applied", board, last_boots={board: 1})
    world.fault("f01", "cut", "proven", board, **{board: {"on": False, "silent": True}})
    for _ in range(5):
        world.wait(0.15)
        voters = [name for name in world.voters() if name != board]
        world.operate("put", "k0", "without", board=others[0], boards=others, voting=voters, behind=[])
    height = world.height
    world.boot(board)
    world.fault("f01", "cut", "healed", board)
    world.tell(board, "caught_up", first=world.boards[board].next_height, next=height, source=1)
    world.boards[board].next_height = height


def _split(world: World, majority: list[str], minority: list[str], draw: random.Random) -> None:
    pairs = {f"{a} -> {b}": {"matched": 9, "passed": 0} for a in majority[:3] for b in minority}
    pairs |= {f"{b} -> {a}": {"matched": 7, "passed": 0} for a in majority[:3] for b in minority}
    world.fault("f03", "split", "planned", *minority)
    world.fault("f03", "split", "applied", *minority)
    world.fault("f03", "split", "proven", *minority, **pairs)
    voters = [name for name in world.voters() if name in majority]
    start = world.height
    for _ in range(10):
        world.wait(draw.uniform(0.05, 0.15))
        world.operate("put", "k2", "majority", board=majority[0], boards=majority, voting=voters)
    world.fault("f03", "split", "healed", *minority)
    for name in minority:
        world.tell(name, "caught_up", first=start, next=world.height, source=1)
        world.boards[name].next_height = world.height


def _broker(world: World) -> None:
    world.fault("f04", "broker_kill", "planned")
    world.fault("f04", "broker_kill", "applied")
    world.fault("f04", "broker_kill", "proven", state={"running": False})
    for _ in range(4):
        world.wait(0.2)
        item = world.ask("put", "k3", "nobody hears")
        item.outcome, item.status = Outcome.INFO, "timeout"
    world.fault("f04", "broker_kill", "healed")


def _spread(world: World, draw: random.Random, number: int) -> None:
    writer = draw.choice(world.names())
    written = world.write(writer, f"r{number % 12}", f"x{number}", merged_by=[])
    others = [name for name in world.names() if name != writer]
    draw.shuffle(others)
    for reached, name in enumerate(others):
        if reached % 4 == 0:
            world.wait(draw.uniform(0.001, 0.06))
        world.merge(name, written)


def _metrics(world: World, number: int) -> None:
    for name in world.names():
        world.tell(
            name,
            "metrics",
            channel="mqtt",
            heap_used=120_000,
            heap_free=104_000 - number,
            ticks=10 * number,
            late_1ms=0,
            late_5ms=0,
            late_20ms=0,
            late_100ms=0,
            late_more=0,
            late_worst_ms=number % 9,
            received=20 * number,
            sent=9 * number,
            persists=4 * number,
            programs=3 * number,
            erases=number // 20,
        )


def _manifest(world: World) -> dict[str, object]:
    commands = [
        {"argv": ["/lab/bin/labctl", "power", action, "b2"], "ms": 41.5, "exit_code": 0} for action in ("off", "on")
    ]
    return {
        "campaign": "eventful",
        "rig": "virtual",
        "started_utc": "2026-11-23T09:00:00Z",
        "brownout_version": "0.1.0",
        "boards": [
            {"name": board.name, "board": board.number, "weight": board.weight, "mesh": "mqtt", "files": FILES}
            for board in world.boards.values()
        ],
        "firmware_flashed": {"files": FILES},
        "gateway": {"transport": "ssh", "commands": commands},
        "broker": {"kind": "mosquitto", "version": "2.0.11"},
    }


def save(history: History, base: Path, *, finished: bool = True) -> Path:
    """Write a history as the run would have, to its end or until the host was killed; return the folder."""
    folder = RunFolder.create(base, str(history.manifest.get("campaign")), int(history.manifest.get("seed", 0)))
    folder.write_plan(history.plan)
    for operation in history.operations:
        folder.append_operation_invoke(operation)
        if operation.finished_ns is not None:
            folder.append_operation_complete(operation)
    for record in history.faults:
        folder.append_fault(record)
    folder.append_events(history.events)
    if finished:
        folder.finish(history.manifest, history.gaps)
    else:
        folder.write_manifest({**history.manifest, "finished": False})
        folder.close()
    return folder.path
