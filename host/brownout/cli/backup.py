"""brownout backup, brownout restore: the states of a kept lab's boards, saved and given back."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from .common import LiveProgress, json_option, out, print_document, rig_option

RESTORED, NOT_RESTORED = 0, 4
boards_option = click.option("--boards", default="", help="These boards alone, parted by commas.")


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


@click.command()
@rig_option("lab")
@boards_option
@click.option("--out", "folder", type=click.Path(path_type=Path), required=True, help="A new folder.")
@click.option("--cluster", type=click.IntRange(0), help="Their cluster, where a campaign flashed them (its seed + 1).")
@json_option
def backup(rig_name: str, boards: str, folder: Path, cluster: int | None, as_json: bool) -> None:
    """Save what the boards of a rig have applied: each one's voted state, at its height.

    Boards go on meanwhile. A board that does not answer is left out, and the manifest says so.
    """
    from ..restore import save

    with tempfile.TemporaryDirectory() as scratch:
        saved = save(rig_name, _names(boards), folder, Path(scratch), cluster)
    if as_json:
        print_document(saved.manifest)
        return
    console = out()
    for name, entry in saved.manifest["boards"].items():
        console.print(
            f"{name:12} the log below height {entry['height']}, {entry['registers']} registers,"
            f" digest {entry['digest']}"
        )
    for name, reason in saved.manifest["missing"].items():
        console.print(f"{name:12} {reason}")
    console.print(
        f"{folder}: every saved board has the log below height {saved.agreed_height}, {saved.newest[0]} below"
        f" {saved.newest[1].height}; whatever is acknowledged from there on is not in it"
    )


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@rig_option("lab")
@boards_option
@click.option("--from", "source", help="Whose state to take [default: the one that reaches furthest].")
@click.option("--discard-later", is_flag=True, help="Although boards have more than the backup: it is lost.")
@json_option
def restore(folder: Path, rig_name: str, boards: str, source: str | None, discard_later: bool, as_json: bool) -> int:
    """Bring boards back from the backup in FOLDER.

    Without --boards the whole cluster begins anew, as another cluster, with one state; every journal is made anew. With
    --boards these lose their journals and get the state without a vote, until the others admit them through the log.
    """
    from ..restore import restore_all, restore_some

    chosen = _names(boards)
    with tempfile.TemporaryDirectory() as scratch, LiveProgress() as progress:
        if chosen:
            report = restore_some(folder, rig_name, chosen, Path(scratch), source=source, progress=progress)
        else:
            report = restore_all(
                folder, rig_name, Path(scratch), source=source, discard_later=discard_later, progress=progress
            )
    good = all(row.get("verified") for row in report.boards.values())
    if as_json:
        print_document({**asdict(report), "verified": good})
        return RESTORED if good else NOT_RESTORED
    for name, row in report.boards.items():
        out().print(f"{name:12} {_told(row)}")
    out().print(
        f"cluster {report.cluster}, from the state of {report.source}: every restored board agrees on the log below"
        f" height {report.height} ({report.registers} registers); {report.lost}"
    )
    if not chosen:
        decided = report.decided_at
        out().print(f"the cluster decides again, at height {decided}" if decided else "the cluster does not decide yet")
    return RESTORED if good else NOT_RESTORED


def _told(row: dict[str, Any]) -> str:
    if not row["restored"]:
        return f"not restored: {row['reason']}"
    text = "restored and verified" if row.get("verified") else "restored, but its state does not verify"
    if "votes_from_height" in row:
        height = row["votes_from_height"]
        text += f"; votes again from height {height}" if height else "; does not vote yet: it waits to be admitted"
    return text
