"""Who uses a bench: a lock beside its rig file with owner, purpose and expiry, and boards that are set aside.

A lock that a process holds is free again when that process has died or its time is out; one taken by hand only when its
time is out or it is unlocked. Must not touch the bench.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from .contracts import RigError

DEFAULT_S = 4 * 3600.0


@dataclass(frozen=True)
class Lock:
    """pid 0: taken by hand."""

    owner: str
    host: str
    purpose: str
    until: float  # seconds since 1970
    pid: int = 0
    started: str = ""


def lock_path(rig_file: str) -> Path:
    return Path(rig_file).with_suffix(".lock.json")


def _started(pid: int) -> str:
    """When a process started; tells it from a later one with the same number. Empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return ""


def holder(rig_file: str) -> Lock | None:
    """Who holds the bench now."""
    try:
        lock = Lock(**json.loads(lock_path(rig_file).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise RigError(f"{lock_path(rig_file)} cannot be read ({error}); remove it if nobody uses the bench") from None
    if lock.until < time.time():
        return None
    if lock.pid and lock.host == socket.gethostname() and _started(lock.pid) != lock.started:
        return None
    return lock


def describe(lock: Lock) -> str:
    left_s = max(0, int(lock.until - time.time()))
    by = f", process {lock.pid}" if lock.pid else ""
    return f"{lock.owner} on {lock.host}{by}: {lock.purpose or 'no purpose given'}, for {left_s // 60} more minutes"


def _put(path: Path, text: str) -> None:
    """A new file as a whole: nobody ever reads half a lock. FileExistsError where there is one."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".lock-", encoding="utf-8") as draft:
        draft.write(text)
        draft.flush()
        os.fchmod(draft.fileno(), 0o644)
        os.link(draft.name, path)


def take(rig_file: str, purpose: str, for_s: float = DEFAULT_S, *, process: bool = False) -> Lock:
    """Lock the bench; RigError where somebody else holds it. Who holds it by hand may run campaigns on it."""
    pid = os.getpid() if process else 0
    lock = Lock(
        getpass.getuser(), socket.gethostname(), purpose, time.time() + for_s, pid, _started(pid) if pid else ""
    )
    path = lock_path(rig_file)
    for _attempt in range(2):
        try:
            _put(path, json.dumps(asdict(lock)))
            return lock
        except FileExistsError:
            current = holder(rig_file)
            if current is not None:
                raise RigError(
                    f"{rig_file} is in use: {describe(current)}; brownout rig unlock --rig {rig_file} frees it"
                ) from None
            path.unlink(missing_ok=True)
    raise RigError(f"{path}: somebody else took the bench at the same moment; try again")


def release(rig_file: str) -> bool:
    """Whether there was a lock."""
    try:
        lock_path(rig_file).unlink()
    except FileNotFoundError:
        return False
    return True


@contextmanager
def held(rig_file: str, purpose: str) -> Iterator[None]:
    """Hold the bench while a run lasts, unless this user holds it by hand already."""
    current = holder(rig_file)
    if current is not None and not current.pid and current.owner == getpass.getuser():
        yield
        return
    take(rig_file, purpose, process=True)
    try:
        yield
    finally:
        release(rig_file)
