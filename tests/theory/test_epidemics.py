"""The firmware's gossip spreads updates as the theory of epidemics says, where it is set up as the theory assumes.

Each figure of the firmware's own gossip.py and repair.py, in synchronous rounds over a network that loses nothing, is
compared with a model of reference_models.py by a 99.9% confidence interval. Everything is seeded: a test that passes
passes always. What these settings leave out is membership: all boards count as alive.
"""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from reference_models import CONFIDENCE, Moments, RoundChain, half_width, mongering
from rounds import LONGEST_MS, Rounds

ROUND_MS = 10
IDEAL = {
    "protocols": ["gossip"],
    "gossip_fanout": 1,
    "gossip_early": 0,
    "random_order": 1,
    "digest_period_ms": LONGEST_MS,
}
# Rumours only, and no board stops before all have the update.
PUSH = {**IDEAL, "gossip_period_ms": ROUND_MS, "gossip_rounds": 1000, "sync_period_ms": LONGEST_MS}
# Anti-entropy only: who asks is answered with what is missing, and is asked in turn for what the other lacks.
PUSH_PULL = {**IDEAL, "gossip_period_ms": 60_000, "sync_period_ms": ROUND_MS}


def spread(boards: Rounds, count: int, key: str, writer: int) -> list[int]:
    """How many boards held the update before the first round, and after each round until all did."""
    boards.write(writer, key)
    held = [len(boards.holders())]
    while held[-1] < count:
        boards.next_round()
        held.append(len(boards.holders()))
        assert len(held) < 20 * math.log2(count), "no end in sight"
    return held


def pushed(count: int, spreads: int, **other: int) -> list[list[int]]:
    """A fleet for each, since the last update is pushed for ever."""
    keys = {**PUSH, **other}
    return [spread(Rounds(count, seed, ROUND_MS, **keys), count, "rumour", seed % count + 1) for seed in range(spreads)]


def exchanged(count: int, spreads: int) -> list[list[int]]:
    """Up to ten a fleet, one after the other: vectors grow with the number of boards that ever wrote."""
    histories: list[list[int]] = []
    for seed in range(0, spreads, 10):
        boards = Rounds(count, seed, ROUND_MS, **PUSH_PULL)
        for number in range(min(10, spreads - seed)):
            histories.append(spread(boards, count, f"update-{number}", (seed + number) % count + 1))
    return histories


def mean_rounds(histories: list[list[int]]) -> float:
    return sum(len(held) - 1 for held in histories) / len(histories)


def growth_in_deviations(chain: RoundChain, histories: list[list[int]]) -> float:
    """By how many standard errors all rounds together infected more boards than the chain expects of each."""
    excess = variance = 0.0
    for held in histories:
        for before, after in zip(held, held[1:], strict=False):
            expected = chain.round_moments(before)
            excess += after - before - expected.mean
            variance += expected.deviation**2
    return excess / math.sqrt(variance)


def compare(chain: RoundChain, histories: list[list[int]], published: float, precision: float) -> None:
    """Means of rounds, and every single round, with the exact chain; the chain with the published mean."""
    exact = chain.rounds()
    assert abs(exact.mean - published) < 0.07, "published means are of simulations"
    width = half_width([exact.deviation], len(histories))
    assert width < precision * exact.mean, "too few spreads to say much"
    assert abs(mean_rounds(histories) - exact.mean) < width, (mean_rounds(histories), exact, width)
    assert {held[0] for held in histories} == {1}
    assert abs(growth_in_deviations(chain, histories)) < CONFIDENCE


@pytest.mark.parametrize(
    ("count", "published", "spreads"), [(16, 7.43, 300), (64, 11.12, 100), (100, 12.32, 50), (1000, 17.98, 6)]
)
def test_rumours_take_the_rounds_of_push(count: int, published: float, spreads: int) -> None:
    """Model: `RoundChain` without pull, after Frieze and Grimmett 1985 (complete graph, fan-out 1, nobody stops)."""
    compare(RoundChain(count, pull=False), pushed(count, spreads), published, 0.10)


@pytest.mark.parametrize(
    ("count", "published", "spreads"), [(16, 4.15, 120), (64, 6.00, 60), (100, 6.50, 30), (1000, 9.17, 5)]
)
def test_anti_entropy_takes_the_rounds_of_push_pull(count: int, published: float, spreads: int) -> None:
    """Model: `RoundChain` with pull, the random phone calls of Karp et al. 2000 without a stop rule."""
    compare(RoundChain(count, pull=True), exchanged(count, spreads), published, 0.09)


@pytest.mark.parametrize(
    "setting",
    [{"gossip_fanout": 2}, {"gossip_early": 1}, {"gossip_rounds": 4}],
    ids=lambda setting: next(iter(setting)),
)
def test_the_comparison_tells_other_settings_from_push(setting: dict[str, int]) -> None:
    chain = RoundChain(64, pull=False)
    exact = chain.rounds()
    try:
        histories = pushed(64, 30, **setting)
    except AssertionError as error:
        assert "no end in sight" in str(error)  # four rounds do not reach everybody
        assert "gossip_rounds" in setting
    else:
        assert abs(mean_rounds(histories) - exact.mean) > half_width([exact.deviation], len(histories))
        assert abs(growth_in_deviations(chain, histories)) > CONFIDENCE


def test_the_comparison_tells_push_pull_from_push() -> None:
    chain = RoundChain(64, pull=True)
    exact = chain.rounds()
    histories = pushed(64, 10)
    assert mean_rounds(histories) - exact.mean > half_width([exact.deviation], len(histories))
    assert growth_in_deviations(chain, histories) < -CONFIDENCE


@pytest.mark.parametrize("keys", [PUSH, PUSH_PULL], ids=["rumours", "repairs"])
def test_every_other_board_is_contacted_alike(keys: dict[str, Any]) -> None:
    """Pearson's chi-square over all ordered pairs, with Wilson and Hilferty's normal approximation of its quantiles."""
    count, rounds = 16, 400
    boards = Rounds(count, 1, ROUND_MS, **keys)
    boards.write(1, "rumour")
    while len(boards.holders()) < count:
        boards.next_round()
    boards.contacts.clear()
    for _ in range(rounds):
        boards.next_round()
    expected = rounds / (count - 1)
    pairs = [(source, to) for source in range(1, count + 1) for to in range(1, count + 1) if source != to]
    assert set(boards.contacts) <= set(pairs)
    assert boards.contacts.total() == count * rounds
    squares = sum((boards.contacts[pair] - expected) ** 2 for pair in pairs) / expected
    freedom = count * (count - 2)
    spread_of_cube_root = math.sqrt(2 / (9 * freedom))
    assert abs((squares / freedom) ** (1 / 3) - 1 + 2 / (9 * freedom)) < CONFIDENCE * spread_of_cube_root


# Rumour mongering.

BOARDS = 1000
REFERENCES = 150
MOST_CYCLES = 60
# Counter k: residue and traffic as printed in table 1 of Demers et al. 1987, and the epidemics that the firmware runs.
TABLE_1 = [(1, 0.18, 1.7, 5), (2, 0.037, 3.3, 5), (3, 0.011, 4.5, 5), (4, 0.0036, 5.6, 4), (5, 0.0012, 6.7, 4)]


def moments(values: list[float]) -> Moments:
    mean = sum(values) / len(values)
    return Moments(mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1)))


@pytest.fixture(scope="module")
def references() -> dict[int, tuple[Moments, Moments]]:
    """For each counter the residue and the traffic of the paper's epidemic."""
    simulated = {}
    for counter, *_ in TABLE_1:
        draws = random.Random(f"mongering {counter}")
        outcomes = [mongering(BOARDS, counter, draws) for _ in range(REFERENCES)]
        simulated[counter] = tuple(moments(list(column)) for column in zip(*outcomes, strict=True))
    return simulated


def mongered(counter: int, epidemics: int) -> tuple[float, float]:
    """Mean residue and traffic of the firmware's rumours, with feedback, until the last board loses interest."""
    keys = {**PUSH, "gossip_rounds": counter, "gossip_feedback": 1}
    boards = Rounds(BOARDS, counter, ROUND_MS, **keys)
    residue = traffic = 0.0
    for number in range(epidemics):
        boards.write(number * 7 + 1, f"rumour-{number}")
        before = boards.sent
        for _ in range(MOST_CYCLES):
            sent = boards.sent
            boards.next_round()
            if boards.sent == sent:
                break
        assert boards.sent == sent, "interest does not end"
        residue += 1 - len(boards.holders()) / BOARDS
        traffic += (boards.sent - before) / BOARDS
    return residue / epidemics, traffic / epidemics


@pytest.mark.parametrize(("counter", "residue", "traffic", "epidemics"), TABLE_1)
def test_the_reference_is_the_epidemic_of_the_paper(
    counter: int, residue: float, traffic: float, epidemics: int, references: dict[int, tuple[Moments, Moments]]
) -> None:
    """The printed figures are rounded, and of a number of simulations that the paper does not tell."""
    simulated = references[counter]
    assert simulated[0].mean == pytest.approx(residue, rel=0.1)
    assert simulated[1].mean == pytest.approx(traffic, abs=0.06)


@pytest.mark.parametrize(("counter", "residue", "traffic", "epidemics"), TABLE_1)
def test_rumours_with_feedback_leave_what_the_paper_says(
    counter: int, residue: float, traffic: float, epidemics: int, references: dict[int, tuple[Moments, Moments]]
) -> None:
    """Model: `mongering`, table 1 of Demers et al. 1987 (1000 boards; feedback, counter, push)."""
    for own, reference in zip(mongered(counter, epidemics), references[counter], strict=True):
        # Both means are of samples: the firmware's of `epidemics`, the reference's of many more.
        width = half_width([reference.deviation, reference.deviation * math.sqrt(epidemics / REFERENCES)], epidemics)
        assert abs(own - reference.mean) < width, (own, reference, width)


def test_the_comparison_tells_each_counter_from_the_next(references: dict[int, tuple[Moments, Moments]]) -> None:
    """By traffic, at the number of epidemics that the firmware runs."""
    for counter, _, _, epidemics in TABLE_1[1:]:
        width = half_width([references[counter][1].deviation], epidemics)
        assert references[counter][1].mean - references[counter - 1][1].mean > 5 * width
