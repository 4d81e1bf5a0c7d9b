"""Rules as data: which pairs they mean, what they match, how verdicts combine."""

from __future__ import annotations

import cbor2
import pytest
from brownout.contracts import LinkRule
from brownout.link_rules import RuleBook, expand, parse_rule, read_header, touched_boards
from brownout_node.core import schema
from hypothesis import given
from hypothesis import strategies as st

BOARDS = ("b1", "b2", "b3")


def rule(action="drop", sources=("b1",), targets=("b2",), **more):
    return {"id": "r", "action": action, "sources": sources, "targets": targets, **more}


def message(kind, *fields):
    return cbor2.dumps([schema.VERSION, 1, 1, 1, 1, kind, *fields])


def test_star_is_everything_that_the_other_side_does_not_name():
    assert set(expand(LinkRule("r", "drop", ("b1",), ("*",)), BOARDS)) == {("b1", "b2"), ("b1", "b3"), ("b1", "host")}
    assert set(expand(LinkRule("r", "drop", ("*",), ("b1", "host")), BOARDS)) == {
        ("b2", "b1"),
        ("b3", "b1"),
        ("b2", "host"),
        ("b3", "host"),
    }
    assert len(expand(LinkRule("r", "drop", ("*",), ("*",)), BOARDS)) == 12


def test_a_stall_touches_only_boards_that_are_named():
    assert touched_boards(LinkRule("r", "stall", ("b1",), ("*",)), BOARDS) == ({"b1"}, set())
    assert touched_boards(LinkRule("r", "stall", ("*",), ("b1",)), BOARDS) == (set(), {"b1"})
    assert touched_boards(LinkRule("r", "stall", ("*",), ("host",)), BOARDS) == (set(BOARDS), set())


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (rule(action="break"), "unknown action 'break'; allowed: drop"),
        (rule(sources=("b9",)), "unknown board 'b9'; allowed: "),
        (rule(kinds=("vote",)), "unknown kind 'vote'; allowed: "),
        (rule(action="loss"), "loss needs an amount"),
        (rule(action="bandwidth", amount=0), "bandwidth needs an amount above 0"),
        (rule(colour="red"), "unknown key 'colour'; allowed: action"),
        ({"id": "r", "action": "drop", "sources": ["b1"]}, "'targets' is missing"),
    ],
)
def test_a_wrong_rule_is_refused_by_name(document, text):
    with pytest.raises(ValueError, match=text):
        parse_rule(document, BOARDS)


def test_nth_counts_matches_of_each_pair_by_kind_and_height():
    book = RuleBook(BOARDS)
    book.apply(book.parse([rule("duplicate", targets=("b2", "b3"), kinds=("precommit",), height=7, nth=2)]))
    wanted, other = message(schema.PRECOMMIT, 7, 0, None), message(schema.PRECOMMIT, 8, 0, None)
    first = [book.judge("b1", "b2", payload, 50, 0.0) for payload in (wanted, other, message(schema.PING, 7, []))]
    assert first == [None, None, None]
    assert book.judge("b1", "b3", wanted, 50, 0.0) is None
    assert book.judge("b1", "b2", wanted, 50, 0.0).copies == 1
    assert book.judge("b1", "b2", wanted, 50, 0.0) is None
    assert book.judge("b2", "b1", wanted, 50, 0.0) is None
    counts = {(entry["source"], entry["target"]): (entry["matched"], entry["passed"]) for entry in book.counts()}
    assert counts == {("b1", "b2"): (1, 4), ("b1", "b3"): (0, 1)}


def test_every_rule_counts_though_a_drop_decides():
    book = RuleBook(BOARDS)
    book.apply(book.parse([rule("delay", amount=5) | {"id": "slow"}, rule("drop") | {"id": "cut"}]))
    verdict = book.judge("b1", "b2", b"", 10, 0.0)
    assert verdict.drop
    assert [entry["matched"] for entry in book.counts()] == [1, 1]


def test_bandwidth_spaces_messages():
    book = RuleBook(BOARDS)
    book.apply(book.parse([rule("bandwidth", amount=100)]))
    delays = [book.judge("b1", "b2", b"", 50, now).delay_s for now in (0.0, 0.0, 10.0)]
    assert delays == pytest.approx([0.5, 1.0, 0.5])


def test_loss_is_seeded_and_near_its_percentage():
    def losses(seed):
        book = RuleBook(BOARDS, seed)
        book.apply(book.parse([rule("loss", amount=30)]))
        return [book.judge("b1", "b2", b"", 10, 0.0) is not None for _ in range(1000)]

    assert losses(1) == losses(1) != losses(2)
    assert 250 < sum(losses(1)) < 350


@given(st.binary(max_size=80))
def test_any_payload_has_a_header_or_kind_0(payload):
    kind, height = read_header(payload)
    assert isinstance(kind, int)
    assert height is None or isinstance(height, int)
