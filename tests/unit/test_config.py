"""A board's configuration: what is taken, what it comes to, and that every fault names its key and what is allowed."""

from __future__ import annotations

import copy
import json

import pytest
from brownout_node.core.config import Config
from brownout_node.core.errors import ConfigError

DOCUMENT = {
    "cluster": 7,
    "board": 2,
    "bed": "lab/bed-1",
    "seed": 11,
    "roster": [[3, "b3", 2], [1, "b1", 1], [2, "b2", 0]],
    "mqtt": {"host": "127.0.0.1", "port": 2883},
}


def changed(**changes: object) -> dict:
    document = copy.deepcopy(DOCUMENT)
    document.update(changes)
    return document


def test_the_roster_is_sorted_and_counted() -> None:
    config = Config(DOCUMENT)
    assert config.roster == ((1, "b1", 1), (2, "b2", 0), (3, "b3", 2))
    assert config.voters == ((1, 1), (3, 2))
    assert config.total_weight == 3
    assert not config.is_voter
    assert config.names == {1: "b1", 2: "b2", 3: "b3"}
    assert config.boards == {"b1": 1, "b2": 2, "b3": 3}
    assert config.name == "b2"
    assert Config(changed(board=3)).is_voter


def test_defaults() -> None:
    config = Config(DOCUMENT)
    expected = {
        "protocols": ("membership", "gossip", "vote"),
        "tick_ms": 50,
        "gossip_period_ms": 200,
        "gossip_fanout": 2,
        "gossip_rounds": 0,
        "gossip_feedback": 0,
        "gossip_early": 1,
        "random_order": 0,
        "sync_period_ms": 1000,
        "probe_period_ms": 500,
        "probe_timeout_ms": 200,
        "suspicion_ms": 2000,
        "propose_timeout_ms": 400,
        "vote_timeout_ms": 300,
        "timeout_step_ms": 200,
        "resend_ms": 150,
        "fetch_period_ms": 400,
        "digest_period_ms": 1000,
        "metrics_period_ms": 2000,
        "watchdog_ms": 8000,
        "mesh": "mqtt",
        "telemetry": "serial",
        "wifi": None,
        "mqtt": {
            "host": "127.0.0.1",
            "port": 2883,
            "user": "b2",
            "password": None,
            "keep_alive_s": 10,
            "tls": None,
        },
    }
    assert {key: getattr(config, key) for key in expected} == expected


def test_a_board_without_mqtt_is_on_its_cable() -> None:
    document = changed()
    del document["mqtt"]
    config = Config(document)
    assert (config.mesh, config.telemetry, config.mqtt) == ("serial", "serial", None)


def test_everything_can_be_given_and_json_keeps_it() -> None:
    document = changed(
        name="b2",
        protocols=["vote"],
        resend_ms=99,
        mesh="serial",
        telemetry="mqtt",
        wifi={"ssid": "bed", "password": "secret", "address": "10.0.0.11/24", "gateway": "10.0.0.1"},
        mqtt={
            "host": "broker",
            "user": "u",
            "password": "p",
            "keep_alive_s": 5,
            "tls": {"ca": "/ca.der", "server_name": "broker"},
        },
    )
    config = Config(json.loads(json.dumps(document)))
    assert config.protocols == ("vote",)
    assert config.resend_ms == 99
    assert (config.mesh, config.telemetry) == ("serial", "mqtt")
    assert config.mqtt["port"] == 8883
    assert config.mqtt["tls"] == {"ca": "/ca.der", "server_name": "broker"}
    assert config.wifi["address"] == "10.0.0.11/24"


# A change, the key that the error must name, and a part of what it must say is allowed.
FAULTS = [
    ({"cluster": -1}, "cluster", "0 to"),
    ({"cluster": "7"}, "cluster", "integer"),
    ({"board": True}, "board", "integer"),
    ({"board": 9}, "board", "a board of the roster"),
    ({"board": 1000}, "board", "1 to 999"),
    ({"seed": 2**63}, "seed", "integer"),
    ({"seed": 1.5}, "seed", "integer"),
    ({"bed": ""}, "bed", "text"),
    ({"bed": "a+b"}, "bed", "any of"),
    ({"bed": "a#"}, "bed", "any of"),
    ({"bed": "x" * 33}, "bed", "32"),
    ({"bed": 5}, "bed", "text"),
    ({"name": "b3"}, "name", "b2"),
    ({"tick": 50}, "'tick'", "tick_ms"),
    ({"tick_ms": 0}, "tick_ms", "1 to 1000"),
    ({"tick_ms": None}, "tick_ms", "integer"),
    ({"gossip_fanout": 9}, "gossip_fanout", "1 to 8"),
    ({"gossip_early": 2}, "gossip_early", "0 to 1"),
    ({"probe_timeout_ms": 500}, "probe_timeout_ms", "less than probe_period_ms"),
    ({"watchdog_ms": 9000}, "watchdog_ms", "8300"),
    ({"roster": []}, "roster", "list"),
    ({"roster": {}}, "roster", "list"),
    ({"roster": [[2, "b2"]]}, "roster", "[board, name, weight]"),
    ({"roster": ["b2"]}, "roster", "list"),
    ({"roster": [[2, "b2", 0]]}, "roster", "1 to"),
    ({"roster": [[2, "b2", 1], [2, "b3", 1]]}, "roster", "once"),
    ({"roster": [[2, "b2", 1], [3, "b2", 1]]}, "roster", "once"),
    ({"roster": [[2, "all", 1]]}, "roster", "voters"),
    ({"roster": [[2, "B2", 1]]}, "roster name", "any of"),
    ({"roster": [[2, "b/2", 1]]}, "roster name", "any of"),
    ({"roster": [[2, "b2", -1]]}, "roster weight", "0 to 1000"),
    ({"roster": [[1000, "b2", 1]]}, "roster board", "999"),
    ({"protocols": []}, "protocols", "list"),
    ({"protocols": "vote"}, "protocols", "list"),
    ({"protocols": ["vote", "vote"]}, "protocols", "once"),
    ({"protocols": ["../x"]}, "protocols", "any of"),
    ({"mesh": "radio"}, "mesh", "serial | mqtt"),
    ({"mesh": ["mqtt"]}, "mesh", "serial | mqtt"),
    ({"telemetry": 1}, "telemetry", "serial | mqtt"),
    ({"mqtt": None, "mesh": "mqtt"}, "mesh", "serial"),
    ({"mqtt": "127.0.0.1"}, "mqtt", "table"),
    ({"mqtt": {}}, "mqtt", "host"),
    ({"mqtt": {"host": "h", "port": 0}}, "mqtt.port", "1 to 65535"),
    ({"mqtt": {"host": "h", "prot": 0}}, "mqtt: 'prot'", "port"),
    ({"mqtt": {"host": ""}}, "mqtt.host", "text"),
    ({"mqtt": {"host": "h", "keep_alive_s": 0}}, "mqtt.keep_alive_s", "1 to"),
    ({"mqtt": {"host": "h", "password": 5}}, "mqtt.password", "text"),
    ({"mqtt": {"host": "h", "tls": True}}, "mqtt.tls", "table"),
    ({"mqtt": {"host": "h", "tls": {"key": 1}}}, "mqtt.tls.key", "text"),
    ({"wifi": {"ssid": "x"}}, "wifi", "password"),
    ({"wifi": {"ssid": "x", "password": ""}}, "wifi.password", "text"),
]


@pytest.mark.parametrize(("change", "key", "allowed"), FAULTS, ids=[str(fault[0])[:60] for fault in FAULTS])
def test_a_fault_is_named_with_its_key_and_what_is_allowed(change: dict, key: str, allowed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(changed(**change))
    assert key in str(caught.value)
    assert allowed in str(caught.value)


@pytest.mark.parametrize("key", ["cluster", "board", "bed", "seed", "roster"])
def test_a_missing_key_is_named(key: str) -> None:
    document = changed()
    del document[key]
    with pytest.raises(ConfigError, match=f"{key} is missing"):
        Config(document)


@pytest.mark.parametrize("document", [None, [], 5, "x"])
def test_what_is_no_table_is_refused(document: object) -> None:
    with pytest.raises(ConfigError, match="table"):
        Config(document)
