"""brownout link: cut and bend the links between boards by hand. Rules stand until `clear`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from .common import json_option, open_hand, out, print_document, rig_option


@click.group()
def link() -> None:
    """The links between boards. What is set stands until `link clear`."""


def _apply(rig_name: str, as_json: bool, kind: str, boards: Sequence[str], parameters: dict[str, Any]) -> None:
    """Set the rules of one kind of fault, as a campaign would; the same kind on the same boards replaces itself."""
    from ..link_by_hand import bend

    with open_hand(rig_name) as hand:
        rules = bend(hand, kind, boards, parameters)
    if as_json:
        print_document(rules)
    else:
        click.echo(f"standing until `brownout link clear`: {', '.join(rules)}")


boards_argument = click.argument("boards", nargs=-1, required=True)


@link.command()
@boards_argument
@rig_option("lab")
@json_option
def isolate(boards: tuple[str, ...], rig_name: str, as_json: bool) -> None:
    """Let no message from or to BOARDS pass, each other's and the host's included."""
    _apply(rig_name, as_json, "isolate", boards, {})


@link.command()
@click.argument("groups", nargs=-1, required=True, metavar="GROUP GROUP...")
@rig_option("lab")
@json_option
def split(groups: tuple[str, ...], rig_name: str, as_json: bool) -> None:
    """Split the boards into GROUPs that do not hear each other; a group is names parted by commas: b1,b2 b3,b4,b5."""
    from ..contracts import UsageError
    from ..partitions import between

    names = [tuple(group.split(",")) for group in groups]
    flat = [name for group in names for name in group]
    if len(names) < 2 or len(set(flat)) != len(flat):
        raise UsageError(
            f"link split: {' '.join(groups)}; allowed: two or more groups, no board twice, as in b1,b2 b3,b4"
        )
    cuts = [[list(sources), list(targets)] for sources, targets in between(names)]
    _apply(rig_name, as_json, "split", flat, {"cuts": cuts})


@link.command("one-way")
@click.option("--from", "sources", required=True, help="Boards that are no longer heard, parted by commas; or host.")
@click.option("--to", "targets", required=True, help="Boards that no longer hear them.")
@rig_option("lab")
@json_option
def one_way(sources: str, targets: str, rig_name: str, as_json: bool) -> None:
    """Lose messages in one direction."""
    _apply(rig_name, as_json, "one_way", (), {"from": sources.split(","), "to": targets.split(",")})


@link.command()
@boards_argument
@click.option("--percent", type=click.FloatRange(0.1, 100), required=True)
@rig_option("lab")
@json_option
def loss(boards: tuple[str, ...], percent: float, rig_name: str, as_json: bool) -> None:
    """Lose a share of the messages between BOARDS and all others."""
    _apply(rig_name, as_json, "loss", boards, {"percent": percent})


@link.command()
@boards_argument
@click.option("--ms", type=click.FloatRange(1, 60_000), required=True, help="Milliseconds.")
@rig_option("lab")
@json_option
def delay(boards: tuple[str, ...], ms: float, rig_name: str, as_json: bool) -> None:
    """Let messages between BOARDS and all others come late."""
    _apply(rig_name, as_json, "delay", boards, {"ms": ms})


@link.command()
@click.argument("ids", nargs=-1)
@rig_option("lab")
def clear(ids: tuple[str, ...], rig_name: str) -> None:
    """Lift the rules with these IDS, or all."""
    with open_hand(rig_name) as hand:
        hand.link.clear(list(ids) or None)
    click.echo("cleared")


@link.command()
@rig_option("lab")
@json_option
def counts(rig_name: str, as_json: bool) -> None:
    """Show which messages each rule has met, by directed pair."""
    from dataclasses import asdict

    with open_hand(rig_name) as hand:
        found = hand.link.counts()
    if as_json:
        print_document([asdict(count) for count in found])
        return
    for count in found:
        out().print(
            f"{count.rule:24} {count.source:>8} -> {count.target:8} matched {count.matched:6}  passed {count.passed:6}"
        )
