"""All serial cables of a bed in one thread: console text to logs, events to telemetry, bridges for serial-only boards.

A port that vanishes (power, a pulled cable) is opened again when it comes back under its path. At the start a port that
is missing or in use is an error; later it is a fault of the bed that the log shows. Must not interpret events.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import TypeVar

from .contracts import RigError
from .serial_bridge import BoardBridge
from .serial_cable import Cable
from .telemetry import Telemetry

LOOK_EVERY_S = 0.05  # at paths that have gone or come
CALL_WITHIN_S = 10.0
OPEN_WITHIN_S = 2.0  # more for each port: one behind a gateway is opened through its tunnel

Result = TypeVar("Result")
LineCallback = Callable[[str, str], None]


class SerialHub:
    """ports: board -> path of its serial port. bridged: board -> (host, port) of the broker's end of its link; several
    where there are several brokers. standing_in: those of them whose cable is only a last route.

    directory: where `<board>.log` files go. on_line(board, text): each line of console text. clock: as telemetry's.
    on_sent(message): what the host says to a board by its cable. call_within_s: how long a question to the
    thread of the cables may take; one that takes longer is a RigError, and is not carried out later.
    """

    def __init__(
        self,
        bed: str,
        cluster: int,
        ports: Mapping[str, str],
        telemetry: Telemetry,
        *,
        bridged: Mapping[str, Sequence[tuple[str, int]]] | None = None,
        standing_in: Collection[str] = (),
        voters: Collection[str] = (),
        directory: Path | None = None,
        on_line: LineCallback | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        baud_rate: int = 115200,
        on_sent: Callable[[bytes], None] | None = None,
        call_within_s: float = CALL_WITHIN_S,
    ) -> None:
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="serial hub", daemon=True)
        self._look: asyncio.TimerHandle | None = None
        self._closed = False
        self._call_within_s = call_within_s
        self.cables: dict[str, Cable] = {}
        self.bridges: dict[str, BoardBridge] = {}
        for board, path in ports.items():
            log = directory / f"{board}.log" if directory is not None else None
            self.cables[board] = Cable(board, path, cluster, telemetry, log, on_line, clock, baud_rate, self._note)
            self.cables[board].on_sent = on_sent
        for board, addresses in (bridged or {}).items():
            cable = self.cables[board]
            cable.bridge = BoardBridge(bed, board, board in voters, addresses, cable.send, board in standing_in)
            self.bridges[board] = cable.bridge

    def start(self) -> None:
        """Open every port. RigError, with all of them closed again, if one is missing or in use."""
        self._thread.start()
        try:
            self._call(self._open_all, self._call_within_s + OPEN_WITHIN_S * len(self.cables))
        except RigError:
            self.close()
            raise

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._thread.is_alive():
            try:
                self._call(self._close_all)
            finally:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join(self._call_within_s)
            if self._thread.is_alive():
                raise self._late("end")
            self._loop.run_until_complete(self._settle())
        self._loop.close()

    @staticmethod
    async def _settle() -> None:
        """Let cancelled tasks end."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    # What a campaign asks.

    def is_open(self, board: str) -> bool:
        return self.cables[board].is_open

    def last_byte_ns(self, board: str) -> int | None:
        """When the last byte came from the board; None if none ever did."""
        return self.cables[board].last_byte_ns

    def wait_open(self, board: str, opened: bool, within_s: float) -> bool:
        """Wait until the board's port is there, or is gone."""
        with self._changed:
            return self._changed.wait_for(lambda: self.cables[board].is_open is opened, within_s)

    def wait_silent(self, board: str, for_s: float, within_s: float) -> bool:
        """Whether within the time there was a spell of `for_s`, from now on, without a byte from the board."""
        cable = self.cables[board]
        began_s = time.monotonic()
        while True:
            heard_s = max(began_s, cable.last_byte_s)
            left_s = heard_s + for_s - time.monotonic()
            if left_s <= 0:
                return True
            if heard_s + for_s > began_s + within_s:
                return False
            time.sleep(left_s)

    def send(self, board: str, message: bytes) -> bool:
        """Send one message of a client or the controller by cable; False where the port is not open."""
        return self._call(lambda: self.cables[board].send_message(message))

    def release(self, board: str) -> None:
        """Let go of a board's port, so that another program can take it, until `reclaim`."""
        self._call(lambda: self.cables[board].release())

    def reclaim(self, board: str) -> None:
        """Take the port again. RigError where it is missing or still in use."""
        self._call(lambda: self.cables[board].open())

    def counts(self) -> dict[str, dict[str, int]]:
        """board -> bytes, frames, damaged and dropped frames, losses of the port; relayed messages if bridged."""
        return self._call(lambda: {board: cable.counts() for board, cable in self.cables.items()})

    # In the thread.

    def _note(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _open_all(self) -> None:
        for cable in self.cables.values():
            cable.open()
        self._look_at_paths()

    def _close_all(self) -> None:
        if self._look is not None:
            self._look.cancel()
        for cable in self.cables.values():
            cable.release()

    def _look_at_paths(self) -> None:
        for cable in self.cables.values():
            cable.look()
        self._look = self._loop.call_later(LOOK_EVERY_S, self._look_at_paths)

    def _call(self, function: Callable[[], Result], within_s: float | None = None) -> Result:
        """Run a function in the hub's thread and return what it returns; not from a callback in that thread.

        RigError where the thread does not get to it in time; it is not run any more then.
        """
        future: Future[Result] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        try:
            return future.result(self._call_within_s if within_s is None else within_s)
        except FutureTimeoutError:
            if future.done():
                raise  # what the function itself met
            future.cancel()
            raise self._late("answer") from None

    def _late(self, what: str) -> RigError:
        return RigError(
            f"serial cables: the thread of {len(self.cables)} ports did not {what} within {self._call_within_s:g} s;"
            " this host or a gateway is too slow for so many boards: try fewer, or look for what else runs there"
        )
