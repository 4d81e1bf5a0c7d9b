"""The drivers against a real lab through its real gateway, and what becomes of a lab when its owner dies."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from brownout.contracts import RigError
from brownout.drivers import virtual_lab
from brownout.drivers.virtual_lab import LabOptions, VirtualLab
from brownout.rig import load_rig
from brownout.switches import Switches, lab_switches
from driver_contract import BOARDS, DriverContract
from mqtt_bed import wait_until

pytestmark = [pytest.mark.system, pytest.mark.needs("sshd")]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualLab]:
    said: list[str] = []
    started = VirtualLab.start(tmp_path_factory.mktemp("lab"), LabOptions(tuple(BOARDS)), said.append)
    assert any(line.startswith("gateway: ssh") for line in said)
    yield started
    started.close()
    assert not started.is_alive or not (started.directory / "lab.json").exists()


@pytest.fixture(scope="module")
def switches(lab: VirtualLab) -> Iterator[Switches]:
    opened = lab_switches(load_rig("virtual"), lab.document)
    assert opened.gateway.transport == "ssh"
    yield opened
    opened.close()


class TestRealLab(DriverContract):
    pass


def running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def test_a_lab_dies_with_its_owner(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from brownout.drivers.virtual_lab import LabOptions, VirtualLab;"
        "lab = VirtualLab.start(pathlib.Path(sys.argv[1]), LabOptions(('b1',), local_gateway=True));"
        "print(lab.document['pid'], flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert running(pid)
        owner.kill()
    wait_until(lambda: not running(pid), "the lab has ended", 10)


def test_a_kept_lab_stays_until_it_is_taken_down(tmp_path: Path) -> None:
    with pytest.raises(RigError, match="no lab is running"):
        VirtualLab.attach(tmp_path)
    document = virtual_lab.up(tmp_path, LabOptions(("b1",), local_gateway=True))
    try:
        attached = VirtualLab.attach(tmp_path)
        assert attached.document == document
        assert attached.broker_address("b1") != attached.broker_address()
        attached.close()
        assert virtual_lab.status(tmp_path)["running"]
        with pytest.raises(RigError, match="lab"):
            virtual_lab.up(tmp_path, LabOptions(("b1",), local_gateway=True))
    finally:
        said = virtual_lab.down(tmp_path)
    assert "has ended" in said
    assert not virtual_lab.status(tmp_path)["running"]
    assert not running(document["pid"])


def test_what_keeps_a_lab_from_starting_is_said(tmp_path: Path) -> None:
    with pytest.raises(RigError, match="did not start"):
        VirtualLab.start(tmp_path / "lab", LabOptions(("not a name",)))
