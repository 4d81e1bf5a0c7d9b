"""The drivers of the virtual lab against an in-memory one, and what they make of answers that are none."""

from __future__ import annotations

import pytest
from brownout.contracts import RigError
from brownout.drivers.virtual_broker import VirtualBroker
from brownout.drivers.virtual_cable import VirtualCable
from brownout.drivers.virtual_conditions import VirtualConditions
from brownout.drivers.virtual_lab import LabOptions, gateway_spec
from brownout.drivers.virtual_link import VirtualLink
from brownout.drivers.virtual_power import VirtualPower
from brownout.drivers.virtual_storage import VirtualStorage
from brownout.fault_kinds import KINDS, MALICE
from brownout.labctl import LabControl
from brownout.rig import GatewaySpec, load_rig
from brownout.switches import Switches, open_switches
from driver_contract import BOARDS, DriverContract, FakeGateway, drop


@pytest.fixture
def gateway() -> FakeGateway:
    return FakeGateway()


@pytest.fixture
def switches(gateway: FakeGateway) -> Switches:
    control = LabControl(gateway, "/lab/bin/labctl")
    support = load_rig("virtual").support
    return Switches(
        gateway,
        VirtualPower(control, support),
        VirtualLink(control, support),
        VirtualBroker(control, support),
        VirtualCable(control, support),
        VirtualStorage(control, support),
        VirtualConditions(control, support),
    )


class TestInMemory(DriverContract):
    pass


def test_drivers_and_firmware_cover_every_kind_of_fault(switches: Switches) -> None:
    drivers = (switches.power, switches.link, switches.broker, switches.cable, switches.storage, switches.conditions)
    assert {kind for driver in drivers if driver for kind in driver.supports} | {"trap", "upgrade", *MALICE} == set(
        KINDS
    )


def test_answers_that_are_none_are_rig_errors(switches: Switches, gateway: FakeGateway) -> None:
    for answer, call, words in (
        ("", lambda: switches.power.state(BOARDS), "no JSON"),
        ("{}", lambda: switches.power.state(BOARDS), "said nothing about b1"),
        ("[]", lambda: switches.power.off(BOARDS), "said nothing about b1"),
        ('{"b1": {"on": true}}', lambda: switches.power.off(["b1"]), "b1 still says it is on"),
        ("[]", lambda: switches.link.apply([drop("f1", "b1", "b2")]), "the rules f1 do not stand"),
        ('[{"rule": "f1"}]', lambda: switches.link.counts(), "something else than counts"),
        ('{"b1": {"plugged": true}}', lambda: switches.cable.unplug(["b1"]), "that of b1 did not move"),
    ):
        gateway.say = answer
        with pytest.raises(RigError, match=words) as caught:
            call()
        assert not caught.value.definite


def test_a_lab_s_options_and_gateway() -> None:
    words = LabOptions(("b1", "b2"), serial_only=("b2",), heap="300k", erase=True).words()
    assert words[:2] == ["--boards", "b1,b2"]
    assert words[-3:] == ["--serial-only", "b2", "--erase"]
    assert gateway_spec({"gateway": {"transport": "local", "reason": "no sshd"}}) == GatewaySpec("lab", "local")
    entry = {"transport": "ssh", "host": "h", "port": 2, "user": "u", "key": "k", "known_hosts": "n", "labctl": "l"}
    assert gateway_spec({"gateway": entry}) == GatewaySpec("lab", "ssh", "h", 2, "u", "k", "n")


def test_boards_made_for_a_run_cannot_be_switched_by_hand() -> None:
    with pytest.raises(RigError, match="start a lab: brownout lab up, and say --rig lab"):
        open_switches(load_rig("virtual"))
