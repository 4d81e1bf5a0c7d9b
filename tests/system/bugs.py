"""Five bugs that a replica may have, each as a patch of the firmware's source; the testbed has to find every one.

A patch replaces exact text, which has to occur exactly once: firmware that moves on breaks the patch, never the proof.
Must not be importable by a board: none of this is a switch in the firmware.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Bug:
    """campaign: the shipped campaign that has to find it. checks: those that may be the ones to say `invalid`."""

    name: str
    campaign: str
    checks: frozenset[str]
    file: str
    replacements: tuple[tuple[str, str], ...]


BUGS = (
    Bug(
        "replies before it persists",
        "torn-write",
        frozenset({"promises", "durability", "voting", "agreement", "linearizability"}),
        "core/step.py",
        (
            # What leaves no longer waits for the journal, which is written once for several steps: less wear.
            (
                "    if records:\n        journal.append(records)\n",
                "    node.batch = getattr(node, 'batch', []) + records\n"
                "    if len(node.batch) > 12:\n        journal.append(node.batch)\n        node.batch = []\n",
            ),
        ),
    ),
    Bug(
        "counts a quorum one short",
        "split-brain",
        frozenset({"agreement", "voting"}),
        "core/vote.py",
        (
            (
                "return 2 * weight > self.total_weight",
                "return 2 * weight >= self.total_weight - 1",
            ),
        ),
    ),
    Bug(
        "forgets its lock after a reboot",
        "proposer-kill",
        frozenset({"promises", "voting", "agreement"}),
        "core/vote.py",
        (
            (
                "                _, self.locked_round, self.locked, self.valid_round, self.valid = row\n",
                "                pass\n",
            ),
        ),
    ),
    Bug(
        "resurrects deleted keys",
        "broker-loss",
        frozenset({"gossip"}),
        "core/gossip.py",
        (
            (
                "newer = wire[2:] > held[_WIRE][2:]",
                "newer = wire[2:] > held[_WIRE][2:] or (held[_WIRE][1] is None and wire[1] is not None)",
            ),
        ),
    ),
    Bug(
        "lets a wiped board vote",
        "wiped-voter",
        frozenset({"voting"}),
        "core/vote.py",
        (
            (
                "self.voting = has_standing(node.config, stored, self.register.next_height)",
                "self.voting = node.config.is_voter",
            ),
        ),
    ),
)


def patched_firmware(bug: Bug, firmware: Path, target: Path) -> Path:
    """A copy of the firmware with that bug in it."""
    shutil.copytree(firmware, target, ignore=shutil.ignore_patterns("__pycache__"))
    file = target / "brownout_node" / bug.file
    text = file.read_text(encoding="utf-8")
    for old, new in bug.replacements:
        found = text.count(old)
        assert found == 1, f"{bug.name}: the patch is for other firmware; found {found} times in {bug.file}: {old!r}"
        text = text.replace(old, new)
    file.write_text(text, encoding="utf-8")
    return target
