"""The lab as a whole: it starts, says where everything is, lets nobody in but its owner, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mqtt_bed import Client, wait_until
from virtual_bed import MODULE, WITHIN_S, Lab, LabFailure, is_gone, see_gone

pytestmark = pytest.mark.system


def run_lab(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MODULE, *words], capture_output=True, text=True, timeout=60.0, check=False)


def processes(status: dict[str, Any]) -> list[int]:
    state = status["state"]
    return [status["pid"], state["broker"]["pid"], *(board["pid"] for board in state["boards"].values())]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab") / "lab", "b1,b2,b3", "--serial-only", "b3", "--bed", "bed")
    yield lab
    lab.close()


# Life and death.


def test_a_lab_in_the_background_lives_until_it_is_taken_down(tmp_path: Path) -> None:
    folder = str(tmp_path / "lab")
    up = run_lab("up", "--directory", folder, "--boards", "b1,b2", "--local-gateway")
    assert (up.returncode, up.stderr) == (0, "")
    assert up.stdout.splitlines()[-1] == f"ready {folder}"
    try:
        status = json.loads(run_lab("status", "--directory", folder).stdout)
        assert status["running"]
        assert status["state"]["boards"]["b2"]["on"]
        again = run_lab("up", "--directory", folder, "--boards", "b1", "--local-gateway")
        assert again.returncode == 4
        assert f"a lab is running in {folder}" in again.stderr
        assert not is_gone(status["pid"])
    finally:
        down = run_lab("down", "--directory", folder)
    assert (down.returncode, down.stdout) == (0, f"the lab in {folder} has ended\n")
    see_gone(processes(status))
    left = sorted(path.name for path in Path(folder).iterdir())
    assert left == ["bin", "broker", "flash", "gateway", "lock", "log", "rom", "serial"]
    assert list(Path(folder, "serial").iterdir()) == []
    assert json.loads(run_lab("status", "--directory", folder).stdout) == {"running": False, "directory": folder}
    assert run_lab("down", "--directory", folder).stdout == f"no lab is running in {folder}\n"


def test_nothing_outlives_a_killed_daemon(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab", "b1,b2,b3")
    try:
        status = lab.labctl("status")
        lab.process.send_signal(signal.SIGKILL)
        see_gone(processes(status))
        stale = json.loads((lab.folder / "lab.json").read_text())
        assert stale["pid"] == status["pid"]
        assert not json.loads(run_lab("status", "--directory", str(lab.folder)).stdout)["running"]
        assert lab.command("power", "state", "b1").returncode == 4
    finally:
        lab.close()


def test_a_lab_ends_with_its_owner(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab", "b1,b2", "--local-gateway")
    status = lab.labctl("status")
    assert status["ephemeral"]
    lab.close()
    assert lab.process.returncode == 0
    see_gone(processes(status))
    assert not (lab.folder / "lab.json").exists()


def test_a_lab_ends_with_its_owner_even_when_that_was_killed(tmp_path: Path) -> None:
    """The owner is a process of its own here, killed with -9, as `brownout run` may be."""
    folder = tmp_path / "lab"
    script = (
        "import os, subprocess, sys\n"
        "theirs, ours = os.pipe()\n"
        "subprocess.Popen([*sys.argv[1:], '--owner-fd', str(theirs)], pass_fds=(theirs,))\n"
        "os.close(theirs)\n"
        "sys.stdin.read()\n"
    )
    words = [*MODULE, "up", "--directory", str(folder), "--boards", "b1", "--local-gateway"]
    with subprocess.Popen(
        [sys.executable, "-c", script, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert any(line.startswith("ready ") for line in owner.stdout)
        status = json.loads(run_lab("status", "--directory", str(folder)).stdout)
        owner.kill()
    see_gone(processes(status))


def test_a_dead_lab_with_a_recycled_process_number_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "lab.json").write_text(json.dumps({"pid": os.getpid(), "started": "1", "directory": str(tmp_path)}))
    assert not json.loads(run_lab("status", "--directory", str(tmp_path)).stdout)["running"]
    down = run_lab("down", "--directory", str(tmp_path))
    assert (down.returncode, down.stdout) == (0, f"no lab is running in {tmp_path}\n")
    assert not (tmp_path / "lab.json").exists()


def test_a_damaged_lab_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "lab.json").write_text("{")
    status = run_lab("status", "--directory", str(tmp_path))
    assert status.returncode == 4
    assert f"{tmp_path}/lab.json is damaged" in status.stderr


def test_boards_keep_their_flash_from_one_lab_to_the_next(tmp_path: Path) -> None:
    first = Lab(tmp_path / "lab", "b1", "--local-gateway")
    first.mpremote("b1", "exec", "f = open('kept', 'w'); f.write('by b1'); f.close()")
    programs = first.state("b1")["flash"]["programs"]
    first.close()
    (tmp_path / "lab" / "flash").rename(tmp_path / "flash")
    for options, answer in (((), "['kept']"), (("--erase",), "[]")):
        folder = tmp_path / f"lab{len(options)}"
        second = Lab(folder, "b1", "--local-gateway", *options, flash=tmp_path / "flash")
        try:
            assert second.state("b1")["flash"]["programs"] == (0 if options else programs)
            assert second.mpremote("b1", "exec", "import os; print(os.listdir())").strip() == answer
        finally:
            second.close()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--boards", "b1,B2"), "'B2' is not a board's name"),
        (("--boards", "b1,b1"), "board names must be different"),
        (("--boards", "host"), "'host' is not a board's name"),
        (("--boards", "b1", "--serial-only", "b7"), "not among --boards: b7"),
        (("--boards", "b1", "--heap", "lots"), "'lots' is not a size such as 224k or 1m"),
        (("--boards", "b1", "--flash-size", "5000"), "not a multiple of 4096 bytes"),
        (("--boards", "b1", "--owner-fd", "77"), "'77' is not an open file descriptor"),
        (("--boards", "b1", "--bed", "a/b"), "without /, +, #"),
        ((), "--boards"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(
    tmp_path: Path, options: tuple[str, ...], complaint: str
) -> None:
    refused = run_lab("up", "--directory", str(tmp_path / "lab"), *options)
    assert refused.returncode == 2
    assert complaint in refused.stderr
    assert not (tmp_path / "lab").exists()


def test_a_lab_that_cannot_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot make the lab's folder" in run_lab("up", "--directory", f"{tmp_path}/file", "--boards", "b1").stderr
    (tmp_path / "lab" / "flash").mkdir(parents=True)
    (tmp_path / "lab" / "flash" / "b1.bin").write_text("short")
    refused = run_lab("up", "--directory", str(tmp_path / "lab"), "--boards", "b1", "--local-gateway")
    assert refused.returncode == 4
    assert "b1.bin has 5 bytes" in refused.stderr
    with pytest.raises(LabFailure, match="a lab is running|b1.bin has 5 bytes"):
        Lab(tmp_path / "lab", "b1", "--local-gateway")


# The gateway.


def ssh_command(lab: Lab, **changed: str) -> list[str]:
    gateway = lab.document["gateway"] | changed
    options = ["BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes", "GlobalKnownHostsFile=/dev/null"]
    options.append(f"UserKnownHostsFile={gateway['known_hosts']}")
    command = ["ssh", "-F", "/dev/null", "-p", str(gateway["port"]), "-i", gateway["key"]]
    for option in options:
        command += ["-o", option]
    return [*command, f"{gateway['user']}@{gateway['host']}"]


def run_ssh(lab: Lab, *words: str, **changed: str) -> subprocess.CompletedProcess[str]:
    command = [*ssh_command(lab, **changed), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, check=False)


@pytest.mark.needs("sshd", "ssh")
def test_the_gateway_runs_labctl_for_its_owner(lab: Lab) -> None:
    gateway = lab.document["gateway"]
    assert gateway["transport"] == "ssh", gateway
    off = run_ssh(lab, gateway["labctl"], "power", "off", "b2")
    assert off.returncode == 0, off.stderr
    assert json.loads(off.stdout)["b2"]["exit"] == "signal 9"
    assert run_ssh(lab, gateway["labctl"], "power", "off", "b9").returncode == 2
    assert json.loads(run_ssh(lab, gateway["labctl"], "power", "on", "b2").stdout)["b2"]["on"]


@pytest.mark.needs("sshd", "ssh", "ssh-keygen")
def test_the_gateway_knows_one_key_and_is_known_by_one(lab: Lab, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(stranger)], check=True)
    refused = run_ssh(lab, "true", key=str(stranger))
    assert refused.returncode == 255
    assert "Permission denied (publickey)" in refused.stderr

    pinned = Path(lab.document["gateway"]["known_hosts"]).read_text().split()
    other = stranger.with_suffix(".pub").read_text().split()
    for content in ("", f"{pinned[0]} {pinned[1]} {other[1]}\n"):
        known_hosts = tmp_path / "known_hosts"
        known_hosts.write_text(content)
        refused = run_ssh(lab, "true", known_hosts=str(known_hosts))
        assert refused.returncode == 255
        assert "Host key verification failed" in refused.stderr


@pytest.mark.needs("sshd", "ssh")
def test_a_connection_to_the_gateway_does_not_outlive_the_lab(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab", "b1")
    with subprocess.Popen(
        [*ssh_command(lab), "echo $PPID; exec sleep 1000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as connection:
        assert connection.stdout is not None
        session = int(connection.stdout.readline())
        lab.process.send_signal(signal.SIGKILL)
        lab.close()
        assert connection.wait(WITHIN_S) == 255
    see_gone([session])


def test_flash_can_be_as_slow_as_real_flash(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab", "b1", "--local-gateway", "--real-timings")
    try:
        code = (
            "import brownout_rom, time; journal = brownout_rom.flash.journal; at = [time.ticks_us()]\n"
            "journal.writeblocks(0, bytes(2560), 0); at.append(time.ticks_us())\n"
            "journal.ioctl(6, 0); at.append(time.ticks_us()); print(at[1] - at[0], at[2] - at[1])"
        )
        programs_us, erase_us = (int(word) for word in lab.mpremote("b1", "exec", code).split())
        assert programs_us >= 10 * 400
        assert erase_us >= 44_000
    finally:
        lab.close()


def test_without_ssh_the_gateway_is_local_and_says_why(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab", "b1", "--local-gateway")
    try:
        gateway = lab.document["gateway"]
        assert (gateway["transport"], gateway["reason"]) == ("local", "a local gateway was asked for")
        assert "port" not in gateway
    finally:
        lab.close()


def test_only_the_owner_may_switch_it(lab: Lab) -> None:
    for name in ("control.sock", "gateway", "gateway/user_key", "serial", "flash/b1.control", "lab.json"):
        assert (lab.folder / name).stat().st_mode & 0o077 == 0, name


def test_labctl_works_from_any_folder_and_by_any_way_to_it(lab: Lab, tmp_path: Path) -> None:
    inside = {"capture_output": True, "text": True, "timeout": WITHIN_S, "check": True}
    for command, folder in ((["./labctl", "help"], lab.folder / "bin"), (["bin/labctl", "help"], lab.folder)):
        assert "status" in subprocess.run(command, cwd=folder, **inside).stdout


def test_many_commands_at_once_are_all_answered(lab: Lab) -> None:
    labctl = str(lab.folder / "bin" / "labctl")
    running = [subprocess.Popen([labctl, "power", "state", "all"], stdout=subprocess.PIPE) for _ in range(12)]
    for process in running:
        said, _ = process.communicate(timeout=WITHIN_S)
        assert sorted(json.loads(said)) == ["b1", "b2", "b3"]


def test_a_connection_that_says_nothing_does_not_block_the_others(lab: Lab) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        folder = os.open(lab.folder, os.O_RDONLY)
        silent.connect(f"/proc/self/fd/{folder}/control.sock")
        os.close(folder)
        assert lab.labctl("power", "state", "b1")["b1"]["on"]


# Broker and links.


def test_the_broker_is_killed_stalled_and_started_on_its_port(lab: Lab) -> None:
    port = lab.document["mqtt"]["port"]
    Client("before", port).close()
    pid = lab.labctl("broker", "state")["pid"]
    killed = lab.labctl("broker", "kill")
    assert (killed["pid"], killed["running"], killed["listening"], killed["exit"]) == (None, False, False, "signal 9")
    assert is_gone(pid)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), 1.0)
    assert lab.command("broker", "stall").returncode == 1
    started = lab.labctl("broker", "start")
    assert (started["running"], started["listening"], started["port"]) == (True, True, port)
    assert started["pid"] != pid

    stalled = lab.labctl("broker", "stall")
    assert (stalled["process"], stalled["stalled"], stalled["running"]) == ("T", True, False)
    assert not is_gone(started["pid"])
    woken = lab.labctl("broker", "start")
    assert (woken["pid"], woken["stalled"], woken["running"]) == (started["pid"], False, True)
    Client("after", port).close()


@pytest.mark.parametrize("broker", ["mosquitto", "iotcore"])
def test_either_broker_serves_and_dies(tmp_path: Path, broker: str) -> None:
    lab = Lab(tmp_path / "lab", "b1", "--local-gateway", "--broker", broker)
    try:
        assert lab.document["mqtt"]["broker"] == broker
        state = lab.labctl("broker", "state")
        listener = Client("listener", lab.document["mqtt"]["port"], "brownout/#", qos=1)
        board = Client("b1", lab.document["boards"]["b1"]["mqtt_port"])
        board.publish("brownout/up/b1", b"1", qos=1)
        assert listener.next() == ("brownout/up/b1", b"1")
        for client in (listener, board):
            client.close()
        lab.labctl("broker", "kill")
        assert lab.labctl("broker", "start")["listening"]
        Client("again", lab.document["mqtt"]["port"]).close()
    finally:
        lab.close()
    see_gone([state["pid"]])


def test_links_go_through_the_proxy_and_are_cut_by_pair(lab: Lab) -> None:
    ports = {name: board["mqtt_port"] for name, board in lab.document["boards"].items()}
    assert len(set(ports.values())) == 3
    boards = {name: Client(name, ports[name], f"bed/g/+/{name}") for name in ("b1", "b2", "b3")}
    wait_until(
        lambda: all(board["connected"] for board in lab.labctl("status")["state"]["boards"].values()), "all connect"
    )
    rule = {"id": "f01", "action": "drop", "sources": ["b1"], "targets": ["b2"], "kinds": []}
    lab.labctl("link", "apply", json.dumps([rule]))
    boards["b1"].publish("bed/g/b1/b2", b"cut")
    boards["b1"].publish("bed/g/b1/b3", b"whole")
    boards["b3"].publish("bed/g/b3/b2", b"other")
    assert boards["b3"].next() == ("bed/g/b1/b3", b"whole")
    assert boards["b2"].next() == ("bed/g/b3/b2", b"other")
    counts = lab.labctl("link", "counts")
    assert [count["matched"] for count in counts if (count["source"], count["target"]) == ("b1", "b2")] == [1]
    assert lab.labctl("link", "clear", "f01") == []
    boards["b1"].publish("bed/g/b1/b2", b"healed")
    assert boards["b2"].next() == ("bed/g/b1/b2", b"healed")
    for client in boards.values():
        client.close()


@pytest.mark.parametrize(
    "rules",
    [
        "{",
        "1",
        '[{"id": "f01"}]',
        '[{"id": "f01", "action": "explode", "sources": ["b1"], "targets": ["b2"]}]',
        '[{"id": "f01", "action": "drop", "sources": ["b77"], "targets": ["b2"]}]',
    ],
)
def test_rules_that_make_no_sense_are_refused_whole(lab: Lab, rules: str) -> None:
    refused = lab.command("link", "apply", rules)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("labctl: link apply: ")
    assert lab.labctl("link", "counts") == []


def test_lab_json_names_everything(lab: Lab) -> None:
    document = lab.document
    assert document["bed"] == "bed"
    assert {name: board["serial_only"] for name, board in document["boards"].items()} == {
        "b1": False,
        "b2": False,
        "b3": True,
    }
    for board in document["boards"].values():
        assert Path(board["serial"]).is_symlink()
        assert Path(board["flash"]).stat().st_size == 288 * 4096
    assert document["flash"] == {"filesystem_blocks": 256, "journal_blocks": 32, "block_bytes": 4096, "page_bytes": 256}
    assert document["heap_bytes"] == 224 * 1024
    assert document["mqtt"]["broker"] in ("mosquitto", "iotcore")
