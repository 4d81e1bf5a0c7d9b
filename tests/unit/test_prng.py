"""The seeded random numbers: reproducible, uniform enough, independent by name, small in their arithmetic."""

from __future__ import annotations

import hashlib

import pytest
from brownout_node.core.prng import Prng
from hypothesis import given
from hypothesis import strategies as st


def test_a_stream_is_fixed_for_ever() -> None:
    """A change here would make every recorded seed replay something else."""
    stream = Prng(42, 3, 7, "gossip")
    assert [stream.below(1000) for _ in range(8)] == [405, 785, 625, 648, 745, 715, 933, 646]
    text = ",".join(str(stream.below(2**30)) for _ in range(1000))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "e22370f53d1176a8"


def test_streams_differ_by_seed_board_boot_and_name() -> None:
    streams = [Prng(1, 2, 3, "a"), Prng(2, 2, 3, "a"), Prng(1, 3, 3, "a"), Prng(1, 2, 4, "a"), Prng(1, 2, 3, "b")]
    draws = {tuple(stream.below(2**30) for _ in range(4)) for stream in streams}
    assert len(draws) == len(streams)


@given(st.integers(0, 2**63), st.integers(1, 2**30))
def test_below_stays_below(seed: int, n: int) -> None:
    stream = Prng(seed, 1, 1, "x")
    assert all(0 <= stream.below(n) < n for _ in range(10))


@pytest.mark.parametrize("n", [0, -1, 2**30 + 1])
def test_below_refuses_what_it_cannot_draw(n: int) -> None:
    with pytest.raises(ValueError, match="below"):
        Prng(1, 1, 1, "x").below(n)


@pytest.mark.parametrize("n", [2, 3, 7, 10, 256, 1000])
def test_below_is_uniform(n: int) -> None:
    stream = Prng(5, 1, 1, "chi")
    draws = 200 * n if n > 50 else 20000
    counts = [0] * n
    for _ in range(draws):
        counts[stream.below(n)] += 1
    expected = draws / n
    chi_squared = sum((count - expected) ** 2 / expected for count in counts)
    # Mean n-1, variance 2(n-1): six standard deviations either way.
    assert abs(chi_squared - (n - 1)) < 6 * (2 * (n - 1)) ** 0.5


def test_pairs_of_neighbouring_draws_are_uniform() -> None:
    stream = Prng(6, 1, 1, "pairs")
    counts = [0] * 256
    for _ in range(51200):
        counts[stream.below(16) * 16 + stream.below(16)] += 1
    chi_squared = sum((count - 200) ** 2 / 200 for count in counts)
    assert abs(chi_squared - 255) < 6 * (2 * 255) ** 0.5


def test_chance_has_its_frequency() -> None:
    stream = Prng(7, 1, 1, "chance")
    hits = sum(stream.chance(1, 4) for _ in range(20000))
    assert abs(hits - 5000) < 6 * (20000 * 3 / 16) ** 0.5
    assert not any(stream.chance(0, 3) for _ in range(100))
    assert all(stream.chance(3, 3) for _ in range(100))


@given(st.lists(st.integers()), st.integers(0, 12), st.integers(0, 2**32))
def test_sample_and_shuffle_lose_and_invent_nothing(items: list[int], k: int, seed: int) -> None:
    stream = Prng(seed, 1, 1, "s")
    numbered = list(enumerate(items))
    chosen = stream.sample(numbered, k)
    assert len(chosen) == min(k, len(items)) == len(set(chosen))
    assert set(chosen) <= set(numbered)
    shuffled = list(numbered)
    stream.shuffle(shuffled)
    assert sorted(shuffled) == numbered


def test_every_order_of_a_shuffle_is_as_likely() -> None:
    stream = Prng(8, 1, 1, "order")
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(12000):
        items = [1, 2, 3]
        stream.shuffle(items)
        counts[tuple(items)] = counts.get(tuple(items), 0) + 1
    assert len(counts) == 6
    assert sum((count - 2000) ** 2 / 2000 for count in counts.values()) < 5 + 6 * 10**0.5


def test_arithmetic_stays_within_small_integers_of_32_bit_boards() -> None:
    """The widest intermediate values, by the widths of their operands: 16 bits shifted by 6, and 15 + 15 bits."""
    stream = Prng(9, 1, 1, "width")
    widest = 0
    for _ in range(1000):
        stream._draw()
        widest = max(widest, (stream._c << 6), stream._a + stream._b + stream._counter, stream._c + (stream._c << 3))
        assert max(stream._a, stream._b, stream._c, stream._counter) < 2**16
    assert widest < 2**30
