"""The commands of the lab's gateway, as `labctl` passes them on: power, reset, link, broker, cable, flash, status.

Each takes words and returns plain data, which labctl prints as JSON. A command names all its boards correctly or
does nothing. Must not hold state of its own: the chips, the proxy and the broker do.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from .broker import Broker
from .chip import Chip
from .flash_image import BLOCK_BYTES, WAYS
from .process import CommandError, LabError
from .proxy import Proxy
from .sites import VirtualSites

MAX_NUMBER = 2**31 - 1
MOST_KIB = 128  # of heap to leave

HELP = """\
power off|on|cycle|state BOARD...            switch boards, or read their switches back
power cut-mid-write BOARD OPERATION BYTE     lose power inside the OPERATION-th flash operation from now (0: disarm),
                                             after BYTE bytes of it
reset BOARD...                               pull the reset pin
link apply JSON | clear [ID...] | counts     rules on the links: a list of {id, action, sources, targets, ...}
broker kill|stall|start|state [SITE]         one site's, where there are sites; without: all, bridges too
bridge cut|join|state SITE SITE              what joins the brokers of two sites
uplink cut|join|state SITE BOARD...          what leads these boards to that site's broker
cable unplug|plug|state BOARD...
flash wipe-journal BOARD                     only while the board is off
flash headers BOARD...                       the first 16 bytes of each block of the journal
flash refuse WAY MASK AFTER BOARD...         let erases and programs of the journal's sectors go wrong; WAY: none, full,
                                             fails, sticks; MASK: sectors as bits, in hex; AFTER: operations from now
flash flip BITS BOARD...                     turn over bits of the journal; BITS: POSITION.BIT,POSITION.BIT,...
clock adjust PPM MS BOARD...                 let clocks run so much faster, and be so much further ahead
clock reset BOARD...                         let clocks run as they should; they stay as far ahead as they are
memory press KIB BOARD...                    take up the boards' heap but for KIB (0 to 128), in their current life
memory release BOARD...                      give it back
status                                       everything at once
shutdown                                     end the lab
`all` stands for every board."""


class Lab(Protocol):
    """What commands work on."""

    chips: dict[str, Chip]
    proxy: Proxy
    broker: Broker
    sites: VirtualSites | None

    async def status(self) -> dict[str, Any]: ...

    def shut_down(self) -> None: ...


Handler = Callable[[Sequence[str]], Awaitable[Any]]


class Commands:
    """Everything is called from the event loop's thread."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._handlers: dict[str, Handler] = {
            "power": self._power,
            "reset": self._reset,
            "link": self._link,
            "broker": self._broker,
            "bridge": self._bridge,
            "uplink": self._uplink,
            "cable": self._cable,
            "flash": self._flash,
            "clock": self._clock,
            "memory": self._memory,
            "status": self._status,
            "shutdown": self._shutdown,
            "help": self._help,
        }

    async def run(self, words: Sequence[str]) -> Any:
        """Run one command. CommandError where it makes no sense, LabError where it cannot be done."""
        if not words or words[0] not in self._handlers:
            raise CommandError(f"no command {' '.join(words[:1])!r}; there are:\n{HELP}")
        return await self._handlers[words[0]](words[1:])

    def _boards(self, names: Sequence[str]) -> list[Chip]:
        chips = self._lab.chips
        if list(names) == ["all"]:
            return list(chips.values())
        unknown = [name for name in names if name not in chips]
        if unknown or not names:
            what = f"unknown board {unknown[0]!r}" if unknown else "name at least one board"
            raise CommandError(f"{what}; the boards are: {', '.join(chips)}, or all")
        return [chips[name] for name in dict.fromkeys(names)]

    async def _power(self, words: Sequence[str]) -> Any:
        action = _choose("power", words, ("off", "on", "cycle", "state", "cut-mid-write"))
        if action == "cut-mid-write":
            return self._cut_mid_write(words[1:])
        boards = self._boards(words[1:])
        if action in ("off", "cycle"):
            for chip in boards:
                chip.pull()
            for chip in boards:
                chip.power_off()
        if action in ("on", "cycle"):
            for chip in boards:
                chip.power_on()
                await asyncio.sleep(0)  # a start takes milliseconds: let the links of others move meanwhile
        return _states(boards)

    def _cut_mid_write(self, words: Sequence[str]) -> Any:
        if len(words) != 3:
            raise CommandError("power cut-mid-write takes BOARD OPERATION BYTE")
        boards = self._boards(words[:1])
        operation, byte = (_number(word) for word in words[1:])
        for chip in boards:
            chip.arm_cut(operation, byte)
        return _states(boards)

    async def _reset(self, words: Sequence[str]) -> Any:
        boards = self._boards(words)
        dark = [chip.name for chip in boards if not chip.on]
        if dark:
            raise LabError(f"{dark[0]} has no power: nothing to reset (`power on {dark[0]}` first)")
        for chip in boards:
            chip.reset()
            await asyncio.sleep(0)
        return _states(boards)

    async def _link(self, words: Sequence[str]) -> Any:
        action = _choose("link", words, ("apply", "clear", "counts"))
        proxy = self._lab.proxy
        if action == "apply":
            if len(words) != 2:
                raise CommandError("link apply takes one argument, a JSON list of rules")
            try:
                proxy.apply(json.loads(words[1]))
            except (ValueError, TypeError) as error:  # JSONDecodeError is a ValueError
                raise CommandError(f"link apply: {error}") from error
        elif action == "clear":
            proxy.clear(list(words[1:]) or None)
        return proxy.counts()

    async def _broker(self, words: Sequence[str]) -> Any:
        action = _choose("broker", words, ("kill", "stall", "start", "state"))
        chosen = self._brokers(words[1:])
        for broker in chosen:
            if action == "kill":
                broker.kill()
            elif action == "stall":
                await broker.stall()
            elif action == "start":
                await broker.start()
        if action == "start" and len(words) == 1 and self._lab.sites is not None:
            for line in self._lab.sites.lines.values():
                line.join()
            self._lab.proxy.rejoin()
        return await chosen[0].state()

    def _brokers(self, words: Sequence[str]) -> list[Broker]:
        """The broker of the site that is named, or all, the first site's first."""
        known = {} if self._lab.sites is None else self._lab.sites.brokers
        if not words:
            first = self._lab.broker
            return [first, *(broker for broker in known.values() if broker is not first)]
        if len(words) > 1 or words[0] not in known:
            raise CommandError(f"no site {' '.join(words)!r}; the sites are: {', '.join(known) or 'none'}")
        return [known[words[0]]]

    async def _bridge(self, words: Sequence[str]) -> Any:
        action = _choose("bridge", words, ("cut", "join", "state"))
        sites = self._lab.sites
        line = sites.line(*words[1:]) if sites is not None and len(words) == 3 else None
        if line is None:
            joined = "there are none" if sites is None else ", ".join(" ".join(pair) for pair in sites.lines)
            raise CommandError(f"bridge {action} takes two sites that are joined: {joined}")
        if action == "cut":
            line.cut()
        elif action == "join":
            line.join()
        return line.state()

    async def _uplink(self, words: Sequence[str]) -> Any:
        action = _choose("uplink", words, ("cut", "join", "state"))
        known = [] if self._lab.sites is None else list(self._lab.sites.brokers)
        if len(words) < 3 or words[1] not in known:
            raise CommandError(f"uplink {action} takes SITE BOARD...; the sites are: {', '.join(known) or 'none'}")
        site, boards = words[1], [chip.name for chip in self._boards(words[2:])]
        if action == "cut":
            self._lab.proxy.part(site, boards)
        elif action == "join":
            self._lab.proxy.rejoin(boards, site)
        return {board: {"whole": self._lab.proxy.whole(board, site)} for board in boards}

    async def _cable(self, words: Sequence[str]) -> Any:
        action = _choose("cable", words, ("unplug", "plug", "state"))
        boards = self._boards(words[1:])
        for chip in boards:
            if action == "unplug":
                chip.cable.unplug()
            elif action == "plug":
                chip.cable.plug()
        return {chip.name: _cable_state(chip) for chip in boards}

    async def _flash(self, words: Sequence[str]) -> Any:
        action = _choose("flash", words, ("wipe-journal", "headers", "flip", "refuse"))
        if action == "refuse":
            return self._refuse(words[1:])
        if action == "headers":
            return {
                chip.name: {"headers": [header.hex() for header in chip.headers()]} for chip in self._boards(words[1:])
            }
        if action == "flip":
            return self._flip(words[1:])
        boards = self._boards(words[1:])
        lit = [chip.name for chip in boards if chip.on]
        if lit:
            raise LabError(f"{lit[0]} has power: its journal is wiped only without (`power off {lit[0]}` first)")
        for chip in boards:
            chip.wipe_journal()
        return _states(boards)

    def _refuse(self, words: Sequence[str]) -> Any:
        if len(words) < 4:
            raise CommandError("flash refuse takes WAY MASK AFTER BOARD...")
        way = _choose("flash refuse", words, WAYS)
        try:
            mask = int(words[1], 16)
        except ValueError:
            mask = -1
        if not 0 <= mask < 1 << 32:
            raise CommandError(f"flash refuse: MASK is a hex number of up to 32 bits, not {words[1]!r}")
        boards = self._boards(words[3:])
        for chip in boards:
            chip.control.refuse(way, mask, _number(words[2]))
        return _states(boards)

    def _flip(self, words: Sequence[str]) -> Any:
        boards = self._boards(words[1:])
        bits = []
        for word in words[0].split(","):
            byte, _, place = word.partition(".")
            bits.append((_number(byte), _number(place)))
        for chip in boards:
            size = chip.model.geometry.journal_blocks * BLOCK_BYTES
            for position, bit in bits:
                if position >= size or bit > 7:
                    raise CommandError(f"no bit {position}.{bit}: bytes are 0 to {size - 1}, bits of each 0 to 7")
        return {chip.name: {"bytes": [chip.flip(position, bit) for position, bit in bits]} for chip in boards}

    async def _clock(self, words: Sequence[str]) -> Any:
        action = _choose("clock", words, ("adjust", "reset"))
        if action == "adjust" and len(words) < 4:
            raise CommandError("clock adjust takes PPM MS BOARD...")
        boards = self._boards(words[3:] if action == "adjust" else words[1:])
        answer = {}
        for chip in boards:
            was = chip.control.clock()
            if action == "adjust":
                chip.control.set_clock(was["ppm"] + _signed(words[1]), was["ms"] + _signed(words[2]))
            else:
                chip.control.set_clock(0, was["ms"])
            answer[chip.name] = {"was": was, "clock": chip.control.clock()}
        return answer

    async def _memory(self, words: Sequence[str]) -> Any:
        action = _choose("memory", words, ("press", "release"))
        if action == "press" and len(words) < 3:
            raise CommandError("memory press takes KIB BOARD...")
        kib = _number(words[1]) if action == "press" else None
        if kib is not None and kib > MOST_KIB:
            raise CommandError(f"memory press: {kib} is not a whole number from 0 to {MOST_KIB}")
        boards = self._boards(words[2:] if action == "press" else words[1:])
        for chip in boards:
            chip.control.press(kib)
        return _states(boards)

    async def _status(self, words: Sequence[str]) -> Any:
        return await self._lab.status()

    async def _shutdown(self, words: Sequence[str]) -> Any:
        self._lab.shut_down()
        return {"ending": True}

    async def _help(self, words: Sequence[str]) -> Any:
        return HELP.splitlines()


def _choose(command: str, words: Sequence[str], actions: tuple[str, ...]) -> str:
    if not words or words[0] not in actions:
        raise CommandError(f"{command} takes one of: {', '.join(actions)}")
    return words[0]


def _number(word: str) -> int:
    if not word.isascii() or not word.isdigit() or int(word) > MAX_NUMBER:
        raise CommandError(f"{word!r} is not a whole number from 0 to {MAX_NUMBER}")
    return int(word)


def _signed(word: str) -> int:
    return -_number(word[1:]) if word.startswith("-") else _number(word)


def _states(boards: Sequence[Chip]) -> dict[str, Any]:
    return {chip.name: chip.state() for chip in boards}


def _cable_state(chip: Chip) -> dict[str, Any]:
    return {"plugged": chip.cable.plugged, "port": chip.cable.link.is_symlink(), "dropped": chip.cable.dropped_bytes}
