"""Child processes of the lab: they die with the daemon, and their state is read back from the system, not remembered.

On Linux the kernel kills a child when the daemon dies (PR_SET_PDEATHSIG). Elsewhere boards still end when their
terminal hangs up, and the others when a clean stop ends them. Must not know what the children are.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

LINUX = sys.platform == "linux"
PR_SET_PDEATHSIG = 1
REAP_WITHIN_S = 5.0
LOG_BYTES = 256 * 1024
# Servers live in sbin, which is not on everybody's path.
SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])

_libc = ctypes.CDLL(None) if LINUX else None


class LabError(Exception):
    """The lab cannot do what was asked (exit code 4, or 1 where a command was refused). Says what to try next."""


class CommandError(LabError):
    """A command that makes no sense to this lab (exit code 2). Says what is allowed."""


def find_program(name: str, advice: str) -> str:
    """The path of a program: beside this interpreter, as in a virtual environment, or on the path."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=beside + os.pathsep + SYSTEM_PATH)
    if found is None:
        raise LabError(f"no `{name}` on this machine: {advice}")
    return found


def _in_child(parent: int, terminal: bool) -> Callable[[], None]:
    """What runs between fork and exec."""

    def prepare() -> None:
        if _libc is not None:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # the daemon died before the kernel knew
                os._exit(1)
        if terminal:  # so that Ctrl-C becomes SIGINT
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    return prepare


def spawn(
    argv: Sequence[str],
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.DEVNULL,
    env: Mapping[str, str] | None = None,
    folder: Path | None = None,
    pass_fds: Sequence[int] = (),
    terminal: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own; `terminal` makes its standard input the session's terminal."""
    return subprocess.Popen(
        list(argv),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=None if env is None else dict(env),
        cwd=folder,
        pass_fds=tuple(pass_fds),
        start_new_session=True,
        preexec_fn=_in_child(os.getpid(), terminal),
    )


def describe_exit(code: int) -> str:
    """How a process ended, for evidence."""
    return f"signal {-code}" if code < 0 else f"exit {code}"


def _stat_fields(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name, which may itself hold spaces and brackets."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def _ps(pid: int, column: str) -> str | None:
    output = subprocess.run(["ps", "-o", f"{column}=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return output.stdout.strip() or None


def process_state(pid: int | None) -> str | None:
    """The kernel's letter for a process (R, S, T stopped, Z not reaped yet ...); None where there is none."""
    if pid is None:
        return None
    if LINUX:
        fields = _stat_fields(pid)
        return fields[0] if fields else None
    state = _ps(pid, "stat")
    return state[0] if state else None


def start_time(pid: int) -> str | None:
    """When a process started, in whatever unit; tells a process from a later one that got the same number."""
    if LINUX:
        fields = _stat_fields(pid)
        return fields[19] if fields else None
    return _ps(pid, "lstart")


class BoundedLog:
    """What a child says on standard error, kept in a file that starts over when it is full."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = 0
        path.write_bytes(b"")

    def writer(self) -> int:
        """The end of a new pipe to give to a child; the caller closes it after the child has started."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        asyncio.get_running_loop().add_reader(reading, self._read, reading)
        return writing

    def _read(self, reading: int) -> None:
        data = os.read(reading, 65536)
        if not data:
            asyncio.get_running_loop().remove_reader(reading)
            os.close(reading)
            return
        if self._size + len(data) > LOG_BYTES:
            self.path.write_bytes(b"(what came before was dropped)\n")
            self._size = 0
        with self.path.open("ab") as file:
            file.write(data)
        self._size += len(data)

    def tail(self) -> str:
        """The last line, for an error message."""
        lines = self.path.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"
