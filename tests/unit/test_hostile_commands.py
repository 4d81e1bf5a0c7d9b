"""Every command that goes to a gateway, built from hostile values and run by a real shell: only what was meant runs.

The gateway here is /bin/sh with a PATH of recorders: each program that is started writes down its words. So what is
compared is what was executed, not what was quoted.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from brownout import chip_image, discover
from brownout.bench_ca import access_list
from brownout.bench_rig import SafetySpec
from brownout.campaign_file import read_campaign
from brownout.contracts import LinkRule, RigError, Support, UsageError
from brownout.drivers.bench_broker import KINDS as BROKER_KINDS
from brownout.drivers.bench_broker import BenchBroker
from brownout.drivers.bench_jig import Jig
from brownout.drivers.bench_link import KINDS as LINK_KINDS
from brownout.drivers.bench_link import BenchLink, Isolation
from brownout.drivers.bench_power import KINDS as POWER_KINDS
from brownout.drivers.bench_power import BenchPower
from brownout.faults import plan
from brownout.gateway import LocalGateway, lasting
from brownout.gateway_setup import SERIAL_TOOL, serial_agent, setup_gateway
from brownout.labctl import LabControl
from brownout.rig import load_rig, read_rig
from brownout.serial_tunnel import SerialTunnel
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_bench_commands import HOSTILE, RIG

EXAMPLES = settings(max_examples=20, deadline=None)
OPTIONS = st.sampled_from(["-H evil", "-Hevil", "--host=evil", "-a", "--", "*", "m*", "mosquitto evil", "a=b", "²"])
ANYTHING = st.one_of(HOSTILE, OPTIONS)
RECORDER = """\
#!/bin/sh
{ printf '%s\\0' "${0##*/}" "$@"; printf '\\0'; } >> "$RECORD"
case "${0##*/}" in
    linkctl | labctl) printf '[]' ;;
    systemctl) printf 'MainPID=%s\\n' "$PID" ;;
esac
"""
PROGRAMS = ("systemctl", "ps", "nft", "jig", "linkctl", "labctl", "touch", "find", "evil")


class Shell(LocalGateway):
    """A gateway that is a real shell among recorders. `ran` is what was started, word by word."""

    def __init__(self, folder: Path, pid: str = "1234") -> None:
        super().__init__("shell")
        self.folder = folder
        self.programs = folder / "bin"
        self.programs.mkdir()
        for name in PROGRAMS:
            (self.programs / name).write_text(RECORDER)
            (self.programs / name).chmod(0o700)
        (self.programs / "timeout").symlink_to(str(shutil.which("timeout")))
        self._record = folder / "record"
        self._environment = {"PATH": str(self.programs), "RECORD": str(self._record), "PID": pid}
        self.work = folder / "work"
        self.work.mkdir()

    def _execute(self, line: str, backstop_s: float) -> SimpleNamespace:
        done = subprocess.run(
            ["/bin/sh", "-c", line], env=self._environment, cwd=self.work, capture_output=True, timeout=backstop_s,
            check=False,
        )  # fmt: skip
        return SimpleNamespace(exited=done.returncode, stdout=done.stdout.decode(), stderr=done.stderr.decode())

    @property
    def ran(self) -> list[list[str]]:
        if not self._record.exists():
            return []
        return [words.split("\0") for words in self._record.read_bytes().decode().split("\0\0") if words]

    def nothing_else(self) -> None:
        """No word of a command was lost, and no file appeared."""
        assert list(self.work.iterdir()) == []


@contextmanager
def a_shell(pid: str = "1234") -> Iterator[Shell]:
    with tempfile.TemporaryDirectory(prefix="brownout-shell-") as folder:
        yield Shell(Path(folder), pid)


def support(kinds: tuple[str, ...]) -> dict[str, Support]:
    return dict.fromkeys(kinds, Support.PHYSICAL)


@EXAMPLES
@given(unit=ANYTHING, pid=st.one_of(st.just("1234"), ANYTHING))
@example(unit="*", pid="1234")
@example(unit="-Hevil", pid="1234")
@example(unit="mosquitto@b.service", pid="$(touch CANARY)")
def test_systemctl_is_told_one_unit_or_nothing(unit: str, pid: str) -> None:
    """It takes patterns of units, and other hosts by an option: quoting for the shell is not enough."""
    with a_shell(pid) as shell:
        try:
            broker = BenchBroker(shell, unit, support(BROKER_KINDS))
        except UsageError:
            assert shell.ran == []
            return
        broker.kill()
        broker.stall()
        broker.start()
        ran = [words for words in shell.ran if words[0] != "ps"]
        assert ran[0] == ["systemctl", "kill", "-s", "SIGKILL", "--", unit]
        assert all(words[0] == "systemctl" and words[-2:] == ["--", unit] for words in ran)
        asked = [words for words in shell.ran if words[0] == "ps"]
        assert all(words == ["ps", "-o", "stat=", "-p", words[-1]] and words[-1].isdecimal() for words in asked)
        shell.nothing_else()


@EXAMPLES
@given(name=ANYTHING)
@example(name="-x")
@example(name="a\\b\nc")
@example(name="PATH=x")
def test_programs_are_laid_down_where_they_were_meant_to_be(name: str) -> None:
    if "/" in name or name in ("", ".", ".."):
        return  # another folder was meant, then
    with tempfile.TemporaryDirectory(prefix="brownout-setup-") as text:
        folder = Path(text)
        gateway = LocalGateway("here")
        directory = f"{folder}/{name}"
        try:
            assert setup_gateway(gateway, directory) == [
                f"gateway here: {directory}/{SERIAL_TOOL} laid down",
            ]
        except RigError:
            assert len(name.encode()) > 255  # no such name for a folder
            assert list(folder.iterdir()) == []
            return
        assert [path.name for path in folder.iterdir()] == [name]
        assert [path.name for path in (folder / name).iterdir()] == [SERIAL_TOOL]
        assert (folder / name / SERIAL_TOOL).read_bytes() == serial_agent().read_bytes()
        assert setup_gateway(gateway, directory) == []  # a second call finds it, whatever it is called


@EXAMPLES
@given(directory=ANYTHING, port=ANYTHING)
@example(directory="PATH=/tmp", port="evil")
@example(directory="if", port="$(touch CANARY)")
def test_a_lasting_command_is_its_first_word(directory: str, port: str) -> None:
    """`PATH=/tmp/brownout-serial carry` would be an assignment, and `carry` the program."""

    class Session:
        name = "shell"
        line = ""

        def stream(self, argv: list[str]) -> None:
            self.line = lasting(argv)
            raise RigError("that was all")

    with a_shell() as shell:
        session = Session()
        tool = f"{directory}/{SERIAL_TOOL}"
        tunnel = SerialTunnel(session, tool, {"b1": port}, shell.folder / "serial")  # type: ignore[arg-type]
        with pytest.raises(RigError, match="that was all"):
            tunnel.start()
        tunnel.close()
        # What the shell makes of the line, by a function in the place of each first word that it could see.
        script = f"set -- {session.line}\nprintf '%s\\0' \"$@\""
        told = shell._execute(script, 5.0).stdout.split("\0")[:-1]
        assert told == [tool, "carry", port]
        outcome = shell._execute(session.line, 5.0)
        assert outcome.exited in (126, 127)  # no such program, and nothing instead of it
        assert shell.ran == []
        shell.nothing_else()


@EXAMPLES
@given(name=ANYTHING.filter(bool))
def test_links_are_set_and_cleared_by_the_ids_they_have(name: str) -> None:
    with a_shell() as shell:
        link = BenchLink(shell, str(shell.programs / "linkctl"), 10.0, None, support(LINK_KINDS))
        rule = LinkRule(name, "drop", (name,), ("b2",))
        with pytest.raises(RigError, match="do not stand"):
            link.apply([rule])
        link.clear([name])
        applied, cleared = shell.ran
        assert applied[:3] == ["linkctl", "link", "apply"]
        assert json.loads(applied[3])[0]["id"] == name
        assert applied[4:] == ["10"]
        assert cleared == ["linkctl", "link", "clear", name]
        shell.nothing_else()


@EXAMPLES
@given(name=ANYTHING)
def test_nft_isolates_no_board_whose_address_is_none(name: str) -> None:
    with a_shell() as shell:
        isolation = Isolation({"b1": name}, {"b1": shell}, 10.0)
        with pytest.raises(ValueError):
            isolation.apply(LinkRule("f1", "drop", ("b1",), ("*",)))
        assert all(words[0] == "nft" and name not in words[1:] for words in shell.ran)
        shell.nothing_else()


@EXAMPLES
@given(board=ANYTHING, port=ANYTHING.filter(bool))
def test_a_jig_is_told_the_board_and_its_port(board: str, port: str) -> None:
    templates = {"unplug": ["jig", "{port}", "{board}", "end"], "reset": ["jig", "{board}", "end"]}
    with a_shell() as shell:
        Jig(templates, {board: shell}, {board: port}).run("unplug", [board])
        power = BenchPower({}, {}, {board: shell}, {board: port}, templates, lambda _board: True,
                           support(POWER_KINDS), SafetySpec())  # fmt: skip
        power.reset([board])
        ran = shell.folder.joinpath("record").read_bytes().decode()
        assert ran == f"jig\0{port}\0{board}\0end\0\0jig\0{board}\0end\0\0"
        shell.nothing_else()


@EXAMPLES
@given(words=st.lists(ANYTHING.filter(bool), min_size=1, max_size=4))
def test_a_lab_is_told_what_it_is_told(words: list[str]) -> None:
    with a_shell() as shell:
        assert LabControl(shell, str(shell.programs / "labctl")).ask(*words) == []
        assert shell.ran == [["labctl", *words]]
        shell.nothing_else()


@EXAMPLES
@given(port=ANYTHING, image=ANYTHING)
def test_esptool_is_told_one_port_and_one_file(port: str, image: str) -> None:
    """No shell reads it; what must not happen is that a word is split or becomes another option's."""
    argv = chip_image.command(chip_image.ImageTarget("b1", port, "esp32", Path("/x") / image), "write-flash")
    assert argv[argv.index("--port") + 1] == port
    assert argv[-1] == str(Path("/x") / image)
    assert not argv[-1].startswith("-")
    assert len(argv) == len(chip_image.command(chip_image.ImageTarget("b1", "p", "esp32", Path("f")), "write-flash"))


KEYS = [
    ('name = "b1"', "name"), ('gateway = "east"\nport', "gateway"), ('port = "/dev/x"', "port"),
    ('control = "/opt/linkctl"', "control"), ('name = "r"', "name"), ('device = "1-1"', "device"),
    ('address = "192.0.2.5"', "address"), ('outlet = "hub/1"', "outlet"), ('host = "192.0.2.1"', "host"),
]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(value=ANYTHING, where=st.sampled_from(KEYS))
@example(value="-x", where=KEYS[0])
@example(value="-x", where=KEYS[2])
def test_a_rig_file_of_hostile_values_is_refused_or_harmless(value: str, where: tuple[str, str]) -> None:
    """What names boards, gateways, topics and users is a word; what does not is one argument, and no option."""
    was, key = where
    with tempfile.TemporaryDirectory(prefix="brownout-rig-") as folder:
        path = Path(folder) / "rig.toml"
        text = was.split("\n")[0].partition("=")[0] + f"= {discover.toml_text(value)}"
        path.write_text(RIG.replace(was, "\n".join([text, *was.split("\n")[1:]]), 1), encoding="utf-8")
        try:
            rig = read_rig(path)
        except UsageError:
            return
    board = rig.boards[0]
    assert board.name.replace("-", "").replace("_", "").isalnum()
    assert not board.name.startswith("-")
    assert not board.port.startswith("-")
    lines = access_list(rig.bed, [board.name]).splitlines()
    assert all(line.startswith(("user ", "topic ")) or not line for line in lines)
    with a_shell() as shell:
        assert rig.bench is not None
        shell.run(["linkctl", rig.bench.links.control, "end"])
        assert shell.ran[0][-1] == "end"
        shell.nothing_else()


CAMPAIGN = """\
[campaign]
name = {name}
duration_s = 6.0
voters = 3
[workload]
clients = 1
operations_per_s = 1.0
[[fault]]
kind = "isolate"
id = {id}
select = [{select}]
at_s = 1.0
for_s = 1.0
"""


@EXAMPLES
@given(value=ANYTHING, where=st.sampled_from(["name", "id", "select"]))
def test_a_campaign_of_hostile_values_is_refused_or_its_names_are_words(value: str, where: str) -> None:
    """Campaign values reach gateways as ids of rules and names of boards, and name the folder of the run."""
    values = {"name": "c", "id": "f1", "select": "b1"} | {where: value}
    with tempfile.TemporaryDirectory(prefix="brownout-campaign-") as folder:
        path = Path(folder) / "c.toml"
        path.write_text(CAMPAIGN.format(**{key: discover.toml_text(text) for key, text in values.items()}))
        rig = load_rig("virtual")
        try:
            campaign = read_campaign(path)
            faults = plan(campaign, rig, 1).faults
        except UsageError:
            return
    words = [campaign.name, *(fault.id for fault in faults), *(name for fault in faults for name in fault.boards)]
    for word in words:
        assert word.replace("-", "").replace("_", "").isalnum(), word
        assert word.isascii()
        assert not word.startswith("-")


@EXAMPLES
@given(port=ANYTHING)
def test_what_a_gateway_lists_is_written_as_text_and_no_more(port: str) -> None:
    """A USB device chooses its own serial number, which is part of the port's name."""
    text = discover.tables([discover.Found("east", port, "esp32"), discover.Found("east", port, None)])
    assert tomllib.loads(text) == {
        "board": [{"name": "b1", "model": "esp32", "gateway": "east", "port": port, "mqtt_port": 9001}]
    }
