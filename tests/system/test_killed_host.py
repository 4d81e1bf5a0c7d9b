"""The host dies in mid-run, by SIGKILL or Ctrl-C: nothing outlives it, the folder still reads, and healing heals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from brownout.history import FaultStage
from brownout.store import load
from mqtt_bed import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

BROWNOUT = [sys.executable, "-c", "import sys; from brownout.cli import main; sys.exit(main())"]
GONE_WITHIN_S = 15.0


def brownout(*words: str, code: int) -> str:
    done = subprocess.run([*BROWNOUT, *words], capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout


def started(pid: int) -> str | None:
    """When a process began, so that a number that was given out again is not taken for the same; None: it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else fields[19]


def family(pid: int) -> dict[int, str]:
    """Everything below a process, itself included -> when it began."""
    found: dict[int, str] = {}
    left = [pid]
    while left:
        at = left.pop()
        began = started(at)
        if began is None:
            continue
        found[at] = began
        for task in Path(f"/proc/{at}/task").glob("*/children"):
            try:
                left += [int(word) for word in task.read_text().split()]
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def start(out: Path) -> subprocess.Popen[str]:
    words = ["run", "demo", "--rig", "virtual", "--seed", "1", "--no-live", "--out", str(out)]
    return subprocess.Popen([*BROWNOUT, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def follow(process: subprocess.Popen[str], phase: str, lines: int) -> None:
    """Read what it says of its progress, to the `lines`-th line after `phase` has begun."""
    assert process.stderr is not None
    seen: list[str] = []
    for line in process.stderr:
        seen.append(line)
        if any(entry.startswith(phase) for entry in seen):
            if lines == 0:
                return
            lines -= 1
    raise AssertionError(f"it ended before {phase!r}: {seen}")


def all_gone(relatives: dict[int, str]) -> None:
    def left() -> list[int]:
        return [pid for pid, began in relatives.items() if started(pid) == began]

    wait_until(lambda: not left(), "all processes of the run are gone", GONE_WITHIN_S)


@pytest.mark.parametrize(("phase", "most_lines"), [("flashing", 2), ("campaign", 3)])
def test_nothing_outlives_a_killed_host_and_healing_finishes_its_folder(
    tmp_path: Path, phase: str, most_lines: int
) -> None:
    process = start(tmp_path)
    follow(process, phase, Random(phase).randrange(most_lines))
    relatives = family(process.pid)
    assert len(relatives) > 5, "a lab with five boards runs below it"
    process.kill()
    process.wait(10)
    all_gone(relatives)
    (folder,) = tmp_path.iterdir()

    assert "interrupted before its end" in brownout("check", str(folder), code=3)  # readable as it was left
    assert folder.name in brownout("heal", str(tmp_path), code=0)
    assert brownout("heal", str(tmp_path), code=0).strip() == "there was nothing to heal"
    assert not (folder / "lab").exists()
    document = json.loads(brownout("check", str(folder), "--json", code=3))
    assert document["verdict"] == "unknown"
    telemetry = next(check for check in document["checks"] if check["name"] == "telemetry")
    assert "the host ended in mid-run; healed afterwards" in telemetry["detail"]
    assert brownout("report", str(folder), code=0).strip() == str(folder / "report.html")


def test_an_interrupted_run_heals_keeps_its_folder_and_says_unknown(tmp_path: Path) -> None:
    process = start(tmp_path)
    follow(process, "campaign", 1)
    relatives = family(process.pid)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    said = process.stderr.read()
    assert process.wait(60) == 130, said
    assert "Traceback" not in said
    all_gone(relatives)
    (folder,) = tmp_path.iterdir()
    verdict = json.loads((folder / "verdict.json").read_text())
    assert verdict["verdict"] == "unknown"
    assert (folder / "report.html").exists()
    faults = load(folder).faults
    applied = {fault.id for fault in faults if fault.stage is FaultStage.APPLIED}
    assert applied <= {fault.id for fault in faults if fault.stage is FaultStage.HEALED}
    assert brownout("heal", str(tmp_path), code=0).strip() == "there was nothing to heal"


def test_a_folder_whose_host_died_before_it_wrote_anything_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "20260101T000000Z-demo-1").mkdir()
    words = [*BROWNOUT, "heal", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env=os.environ.copy())
    assert done.returncode == 2
    assert "no run to heal" in done.stderr
