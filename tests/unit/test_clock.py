"""The hybrid logical clock: unique and growing stamps, over reboots and clocks that are far apart."""

from __future__ import annotations

from brownout_node.core import codec, schema
from brownout_node.core.clock import Clock
from hypothesis import given
from hypothesis import strategies as st


class Board:
    """A node as the clock sees it, with a journal that keeps only what was persisted before a reboot."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.stored: dict[int, bytes] = {}
        self.persists = 0

    def persist(self, key: int, value: bytes) -> None:
        assert key == schema.JOURNAL_CLOCK
        self.stored[key] = value
        self.persists += 1

    def get(self, key: int) -> bytes | None:
        return self.stored.get(key)

    def boot(self) -> Clock:
        self.now_ms = 0
        return Clock(self, self)

    @property
    def ceiling(self) -> int:
        return codec.unpack("u", self.stored[schema.JOURNAL_CLOCK])[0]


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("now"), st.just(0)),
        st.tuples(st.just("told"), st.just(0)),
        st.tuples(st.just("pass"), st.integers(0, 200_000)),
        st.tuples(st.just("observe"), st.integers(0, 2**55)),
        st.tuples(st.just("reboot"), st.just(0)),
    ),
    max_size=60,
)


@given(ACTIONS)
def test_stamps_grow_over_reboots_and_above_everything_heard(actions: list[tuple[str, int]]) -> None:
    board = Board()
    clock = board.boot()
    highest = 0
    for action, amount in actions:
        if action == "now":
            stamp = clock.now()
            assert stamp > highest
            assert stamp <= board.ceiling
            highest = stamp
        elif action == "told":
            persists, stamp = board.persists, clock.told()
            assert highest <= stamp <= (board.ceiling if board.stored else 0)
            assert board.persists == persists
            highest = stamp
        elif action == "pass":
            board.now_ms += amount
        elif action == "observe":
            if clock.observe(amount):
                highest = max(highest, amount)
        else:
            clock = board.boot()
    assert clock.now() > highest


def test_stamps_follow_time() -> None:
    board = Board()
    clock = board.boot()
    first = clock.now()
    board.now_ms = 5000
    assert (clock.now() >> 16) - (first >> 16) == 5000
    assert clock.now() == clock._last  # the counter tells two stamps of one millisecond apart


def test_the_ceiling_is_written_about_once_a_minute() -> None:
    board = Board()
    clock = board.boot()
    for board.now_ms in range(0, 600_000, 100):
        for _ in range(5):
            clock.now()
    assert board.persists <= 11


def test_the_clock_follows_a_board_that_is_ahead_and_goes_on_from_there() -> None:
    board = Board()
    clock = board.boot()
    month_ms = 30 * 24 * 3600 * 1000
    assert clock.observe(month_ms << 16 | 7)
    assert clock.now() == (month_ms << 16 | 8)
    board.now_ms += 250
    assert clock.now() == (month_ms + 250) << 16


def test_hearing_a_board_that_runs_ahead_writes_no_more_than_running_oneself() -> None:
    board = Board()
    clock = board.boot()
    for board.now_ms in range(0, 600_000, 100):
        clock.observe((board.now_ms + 10_000) << 16)
    assert board.persists <= 11


def test_an_absurd_stamp_is_refused_and_changes_nothing() -> None:
    board = Board()
    clock = board.boot()
    before = clock.now()
    assert not clock.observe(2**63 - 1)
    assert clock.refused == 1
    assert clock.now() == before + 1


def test_an_old_stamp_changes_nothing() -> None:
    board = Board()
    board.now_ms = 1000
    clock = Clock(board, board)
    board.now_ms = 2000
    before = clock.now()
    assert clock.observe(5)
    assert clock.now() == before + 1


def test_a_board_without_a_journal_has_a_clock_all_the_same() -> None:
    board = Board()
    clock = board.boot()
    assert clock.now() == 1
    assert clock.now() == 2
