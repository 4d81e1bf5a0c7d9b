"""What `brownout bench` makes of measured numbers: ratios, targets, bounds, the ideal it compares to; and its usage."""

from __future__ import annotations

import io
import json
import random
from statistics import mean

import pytest
from brownout.bench import PARTS, main
from brownout.bench.decision import DELAYS, delays_figure
from brownout.bench.figures import Figure, Sample, document, print_table, side_by_side
from brownout.bench.fleet import _bound, ideal_rounds
from brownout.bench.protocols import BYZANTINE, VOTE, _traffic
from brownout.contracts import UsageError
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

TIMES = st.lists(st.floats(0.001, 1000, allow_nan=False), min_size=1, max_size=60)


@given(TIMES)
def test_a_sample_has_a_median_and_a_percentile_of_what_was_measured(values):
    sample = Sample.of(values)
    assert sample.count == len(values)
    assert sample.median in values and sample.p99 in values
    assert min(values) <= sample.median <= sample.p99 <= max(values)


@given(TIMES, TIMES)
def test_a_comparison_is_the_ratio_of_two_medians(ours, theirs):
    figure = side_by_side("x", ours, theirs, unit="ms", compared_to="y", target=1.5, note="")
    assert figure.ratio == pytest.approx(Sample.of(ours).median / Sample.of(theirs).median)
    assert figure.reached == (figure.ratio <= 1.5)


@pytest.mark.parametrize(
    ("options", "value", "reached", "target"),
    [
        ({}, 20.0, True, "≤ 20 ms"),
        ({}, 20.1, False, "≤ 20 ms"),
        ({"strict": True}, 20.0, False, "< 20 ms"),
        ({"strict": True}, 19.9, True, "< 20 ms"),
        ({"exact": True}, 20.0, True, "= 20 ms"),
        ({"exact": True}, 19.0, False, "= 20 ms"),
        ({"at_least": True}, 20.0, True, "≥ 20 ms"),
        ({"at_least": True}, 19.9, False, "≥ 20 ms"),
        ({"at_least": True}, None, False, "≥ 20 ms"),
        ({}, None, False, "≤ 20 ms"),
    ],
)
def test_a_target_is_held_to_its_kind(options, value, reached, target):
    figure = Figure("lateness", value, "ms", 20.0, 5, measure="value", **options)
    assert figure.reached == reached
    assert figure.target_text == target


def test_a_ratio_without_anything_to_compare_to_is_missed():
    assert not Figure("x", 1.0, "ms", 1.5, 3).reached
    assert not Figure("x", 1.0, "ms", 1.5, 3, compared_value=0.0).reached


def test_a_missed_figure_stays_in_the_table_and_in_the_document():
    missed = Figure("flashing again", 0.24, "s", 0.2, 3, compared_to="the first", compared_value=1.0, note="why")
    unmeasured = Figure("gossip", None, "rounds", 1.25, 0, note="none spread")
    told = io.StringIO()
    print_table([missed, unmeasured], "2 cores", Console(file=told, width=170))
    assert told.getvalue().count("missed") == 2
    assert "flashing again: why" in told.getvalue() and "gossip: none spread" in told.getvalue()
    entries = json.loads(json.dumps(document([missed, unmeasured], "2 cores")))["figures"]
    assert [entry["reached"] for entry in entries] == [False, False]
    assert entries[0]["ratio"] == 0.24 and entries[1]["value"] is None


@pytest.mark.parametrize(
    ("delays", "reached"), [([3, 3, 3], True), ([3, 3, 4], False), ([3, 2, 3], False), ([2, 2], False), ([9, 3], False)]
)
def test_message_delays_are_exact_for_every_decision(delays, reached):
    assert DELAYS == 3
    assert delays_figure(delays).reached == reached


@pytest.mark.parametrize(
    ("counts", "bound"),
    [
        ([100, 0, 0, 0, 0], 1.0),
        ([98, 2, 0, 0, 0], 5.0),
        ([99, 0, 0, 0, 1], 1.0),
        ([0, 0, 0, 99, 1], 100.0),
        ([98, 0, 0, 0, 2], 340.0),
    ],
)
def test_a_percentile_of_a_histogram_is_the_upper_bound_of_its_bin(counts, bound):
    assert _bound(counts, 0.99, worst=340) == bound


@given(st.integers(2, 30), st.integers(0, 2**32))
def test_the_ideal_spreads_no_faster_than_everybody_calling_everybody(boards, seed):
    assert ideal_rounds(boards, boards - 1, random.Random(seed)) == 1
    rounds = ideal_rounds(boards, 1, random.Random(seed))
    assert 1 <= rounds <= 20 * boards


def test_the_ideal_is_the_push_pull_of_the_literature():
    """Fan-out 1, n = 16: a mean of 4.15 rounds (an exact chain's value)."""
    draw = random.Random(11)
    assert mean(ideal_rounds(16, 1, draw) for _ in range(2000)) == pytest.approx(4.15, abs=0.08)


def test_an_unknown_measurement_is_named_with_what_is_allowed():
    with pytest.raises(UsageError, match="unknown measurement 'speed'; allowed: journal, publish") as refused:
        main(["journal", "speed"], as_json=False)
    assert all(name in str(refused.value) for name in PARTS)


def test_an_undisturbed_decision_takes_the_messages_that_the_pages_state():
    for shape, bytes_at_most in ((VOTE, 24 * 30 + 400), (BYZANTINE, 24 * 54 + 48 * 48 + 300)):
        traffic = _traffic(shape, 4)
        for kind, count in shape.messages(4).items():
            assert count <= traffic.messages[kind] / traffic.decisions <= 1.1 * count
        assert traffic.sizes.total() / traffic.decisions <= bytes_at_most
        assert traffic.content.total() < traffic.sizes.total()
