"""Runs the server of the pages: for itself (`brownout serve`), or beside one run (`brownout run --live`).

Beside a run it is a process of its own, which ends when the run's does: neither a slow browser nor this server's own
work can hold the run up. Must not read a run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import uvicorn

from ..contracts import RigError, UsageError
from . import guard
from .app import Pages
from .control import Control
from .library import Library

LOOPBACK = "127.0.0.1"
PORT = 8600
NICER = 5  # the run goes first where there are few cores
LAST_WORD_S = 3.0  # for those who look on, after the run
FIRST_LOOK_S = 15.0  # from its start, a page stays for a first look at a run that was shorter
CHILD_STARTS_WITHIN_S = 20.0


def listen(bind: str, port: int) -> socket.socket:
    """UsageError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((bind, port))
        sock.listen(64)
    except (OSError, OverflowError) as error:
        sock.close()
        raise UsageError(f"cannot serve at {bind} port {port} ({error}); take another port or --bind") from None
    return sock


def address(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Tells the pages that it ends before it waits for them."""

    def __init__(self, pages: Pages) -> None:
        # No access log: it would be a line for every look, and addresses belong to those who look.
        config = uvicorn.Config(
            pages.app(), log_level="warning", access_log=False, timeout_graceful_shutdown=3, lifespan="on"
        )
        super().__init__(config)
        self.pages = pages

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.pages.close()
        super().handle_exit(sig, frame)


def serve(base: Path, sock: socket.socket, rig_name: str | None, say: Callable[[str], None], *, terminal: bool) -> None:
    """Serve until interrupted. rig_name: also the switches of that rig, to whoever has the token.

    terminal: whether what is said is read by a person; if not, it may be kept in a log, where no token belongs.
    """
    control = Control(rig_name) if rig_name is not None else None
    where = address(sock)
    say(f"runs      {where}/")
    say(f"live      {where}/live")
    kept: Path | None = None
    if control is not None:
        url = f"{where}/control#token={control.token}"
        if not terminal:
            kept = guard.write_down(url, f"switches-{sock.getsockname()[1]}.url")
        say(f"switches  {url if kept is None else f'address in {kept}, which only you can read'}")

    async def main() -> None:
        await Server(Pages(Library(base), control)).serve(sockets=[sock])

    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        say("ended")
    finally:
        if kept is not None:
            kept.unlink(missing_ok=True)


# Beside a run.


class Beside:
    """The live page of the runs of this process; use as a context manager around them."""

    def __init__(self, base: Path, bind: str, port: int) -> None:
        self.base, self.bind, self.port = base, bind, port
        self.url = ""

    def __enter__(self) -> Beside:
        command = [sys.executable, "-m", "brownout.live.serve", str(self.base), self.bind, str(self.port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        told = self._first_line()
        if "url" not in told:
            self._end()
            if "usage" in told:
                raise UsageError(told["usage"])
            raise RigError(f"the live page did not start within {CHILD_STARTS_WITHIN_S:.0f} s")
        self.url = told["url"]
        return self

    def _first_line(self) -> dict[str, Any]:
        """What the server says once it is there; nothing where it never does."""
        lines: list[str] = []
        assert self._process.stdout is not None
        reader = threading.Thread(target=lambda out=self._process.stdout: lines.append(out.readline()), daemon=True)
        reader.start()
        reader.join(CHILD_STARTS_WITHIN_S)
        return json.loads(lines[0]) if lines and lines[0].strip() else {}

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(LAST_WORD_S + FIRST_LOOK_S + 6)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def main(arguments: list[str]) -> int:
    """The process beside a run: follows the runs of the process that started it, until that lets go of our input."""
    base, bind, port = Path(arguments[0]), arguments[1], int(arguments[2])
    os.nice(NICER)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run's own process handles it, and we show what comes of it
    try:
        sock = listen(bind, port)
    except UsageError as error:
        print(json.dumps({"usage": str(error)}), flush=True)
        return 2
    library = Library(base, only=os.getppid())
    print(json.dumps({"url": f"{address(sock)}/live"}), flush=True)
    asyncio.run(_beside(library, sock))
    return 0


async def _beside(library: Library, sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    server = Server(Pages(library, single=True))
    let_go = asyncio.Event()

    def wait_for_end() -> None:
        sys.stdin.buffer.read()
        loop.call_soon_threadsafe(let_go.set)

    threading.Thread(target=wait_for_end, name="end", daemon=True).start()
    serving = asyncio.create_task(_serve_deaf(server, sock))
    await let_go.wait()
    until = loop.time() + LAST_WORD_S
    while (live := library.live()) is not None and not live.ended and loop.time() < until:
        await asyncio.sleep(0.05)
    if live is not None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(server.pages.looked_at.wait(), max(0.0, began + FIRST_LOOK_S - loop.time()))
    server.pages.close()
    server.should_exit = True
    await serving


async def _serve_deaf(server: Server, sock: socket.socket) -> None:
    """Serve without taking signals: this process ends with the run's."""
    await server._serve(sockets=[sock])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
