"""What boards of a later release send: fields and kinds unknown here are left out and counted, never a crash."""

from __future__ import annotations

from pathlib import Path

import cbor2
import pytest
from brownout import next_release
from brownout.campaign_file import load_campaign
from brownout.contracts import RigError
from brownout.faults import plan
from brownout.firmware_build import build
from brownout.rig import load_model, load_rig
from brownout.sim.runs import simulate
from brownout_node.core import codec, schema
from brownout_node.core.errors import MessageError
from cluster import CLUSTER, Cluster
from hypothesis import given, settings
from hypothesis import strategies as st

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)
PING = (7, [(2, 0, 1)])


def message(*more: object, kind: int = schema.PING, sequence: int = 1) -> bytes:
    return cbor2.dumps([schema.VERSION, CLUSTER, 2, 1, sequence, kind, 7, [[2, 0, 1]], *more])


@settings(max_examples=60, deadline=None)
@given(st.lists(PLAIN, max_size=4))
def test_more_fields_are_left_out(more: list[object]) -> None:
    data = message(*more)
    _, _, _, _, kind, fields = codec.decode_message(data)
    assert (kind, fields) == (schema.PING, PING)
    assert codec.more_fields(data, fields) == len(more)


@settings(max_examples=120, deadline=None)
@given(st.binary(max_size=40), st.integers(0, 4))
def test_rubbish_behind_a_message_is_refused_and_nothing_else_happens(rubbish: bytes, count: int) -> None:
    data = message()
    data = bytes([data[0] + count]) + data[1:] + rubbish
    try:
        fields = codec.decode_message(data)[5]
    except MessageError:
        return
    assert fields == PING
    assert len(cbor2.loads(data)) == 8 + count  # it was CBOR to its end


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(b"\x9f\xff", id="indefinite"),
        pytest.param(b"\xa0", id="map"),
        pytest.param(b"\xc0\x00", id="tag"),
        pytest.param(b"\xf9\x00\x00", id="float"),
        pytest.param(b"\x81" * 300, id="deep"),
        pytest.param(b"\x9b" + b"\xff" * 8, id="endless"),
        pytest.param(b"\x43\x00", id="cut short"),
        pytest.param(b"", id="missing"),
        pytest.param(b"\x00\x00", id="one too many"),
    ],
)
def test_what_no_release_has_is_refused(more: bytes) -> None:
    data = message()
    with pytest.raises(MessageError):
        codec.decode_message(bytes([data[0] + 1]) + data[1:] + more)


def test_five_fields_more_and_one_fewer_are_refused() -> None:
    for data in (message(1, 2, 3, 4, 5), cbor2.dumps([schema.VERSION, CLUSTER, 2, 1, 1, schema.PING, 7])):
        with pytest.raises(MessageError):
            codec.decode_message(data)


def test_a_board_takes_them_counts_them_and_goes_on() -> None:
    cluster = Cluster()
    node = cluster.node(1)
    acks = len([sent for sent in cluster.sent if sent.source == 1 and sent.kind == schema.ACK])
    for sequence in range(1, 6):
        cluster.receive(2, 1, message(sequence, "next", sequence=sequence))
    cluster.receive(2, 1, message(kind=next_release.NEWS))
    assert (node.newer, node.rejected) == (5, 1)
    told = [event.fields for event in cluster.events if event.name == "newer"]
    assert [row["count"] for row in told] == [1, 2, 4]
    assert told[0] == {"source": 2, "kind": schema.PING, "count": 1}
    assert len([sent for sent in cluster.sent if sent.source == 1 and sent.kind == schema.ACK]) == acks + 5
    assert any("unknown kind 199" in event.fields["reason"] for event in cluster.events if event.name == "rejected")


def test_what_the_simulator_sends_for_the_next_release_is_what_it_sends(tmp_path: Path) -> None:
    """The changed codec, run as a module of its own, makes the bytes that as_next makes."""
    folder = next_release.make(tmp_path / "next")
    text = (folder / "brownout_node" / "core" / "codec.py").read_text()
    module: dict[str, object] = {"__name__": "brownout_node.core.next_codec", "__package__": "brownout_node.core"}
    exec(compile(text, "next_codec.py", "exec"), module)
    encode = module["encode_message"]
    arguments = (CLUSTER, 2, 1, 9, schema.PING, PING)
    assert encode(*arguments) == next_release.as_next(codec.encode_message(*arguments))  # type: ignore[operator]


def test_the_next_release_is_another_build(tmp_path: Path) -> None:
    model = load_model("virtual")
    folder = next_release.make(tmp_path / "next")
    ours, theirs = build(model), build(model, folder)
    differ = {path for path in ours.hashes if ours.hashes[path] != theirs.hashes[path]}
    assert differ == {f"brownout_node/core/{name}.mpy" for name in ("codec", "node", "schema")}
    assert ours.hash != theirs.hash
    (folder / "brownout_node" / "core" / "codec.py").write_text("")
    with pytest.raises(RigError, match="cannot be made"):
        next_release.make(tmp_path / "again", folder)


def test_old_and_new_boards_get_on_in_mid_campaign() -> None:
    rig = load_rig("sim")
    run = simulate(plan(load_campaign("rolling-upgrade"), rig, 1), rig)
    assert run.verdict == "valid"
    firmware: dict[str, set[str]] = {}
    for event in run.history.events:
        if event.kind == "boot":
            firmware.setdefault(event.board, set()).add(event.fields["firmware"])
    upgraded = {board for board, hashes in firmware.items() if len(hashes) == 2}
    assert upgraded == {"b1", "b2", "b3"}
    counted = {event.board for event in run.history.events if event.kind == "newer" and event.fields["count"] >= 64}
    assert counted == {"b1", "b2", "b3", "b4", "b5"}
