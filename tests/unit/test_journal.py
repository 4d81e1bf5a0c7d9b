"""The journal: old or new state after a cut at any byte, damage never taken for a state, and what an append costs."""

from __future__ import annotations

import random

import pytest
from brownout_node.core import codec, schema
from brownout_node.core.errors import JournalError
from brownout_node.storage.journal import Journal, format_genesis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from nor import Nor, PowerCut

GENESIS = codec.pack("uu", (7, 3))
State = dict[int, bytes]
Records = list[tuple[int, bytes | None]]


def state_of(journal: Journal) -> State:
    return {key: journal.get(key) for key in journal.keys(0, 2**28)}


def opened(device: Nor) -> Journal:
    journal = Journal(device)
    journal.open()
    return journal


def fresh(blocks: int = 8, size: int = 512) -> Nor:
    device = Nor(blocks, size)
    format_genesis(device, 7, 3)
    return device


def after(state: State, records: Records) -> State:
    changed = dict(state)
    for key, value in records:
        if value is None:
            changed.pop(key, None)
        else:
            changed[key] = value
    return changed


def script(steps: int, *, largest: int, keys: int, seed: int) -> list[Records]:
    """Appends of one to three records, one in twelve of which forgets."""
    source = random.Random(seed)
    return [
        [
            (key, None if source.random() < 0.08 else source.randbytes(source.randrange(largest)))
            for key in source.sample(range(2, 2 + keys), source.choice([1, 1, 2, 3]))
        ]
        for _ in range(steps)
    ]


def copy(device: Nor, *, cut_at: int | None = None, seed: int = 0) -> Nor:
    twin = Nor(device.blocks, device.size, bytes(device.cells), seed=seed)
    twin.cut_at = cut_at
    return twin


# A cut at any byte.


@pytest.mark.parametrize(
    ("blocks", "size", "steps", "largest", "keys"),
    [(8, 512, 70, 40, 12), (8, 1024, 40, 380, 4)],
    ids=["short records, many blocks", "records over pages and blocks"],
)
def test_a_cut_at_every_byte_of_everything_leaves_the_old_or_the_new_state(
    blocks: int, size: int, steps: int, largest: int, keys: int
) -> None:
    device = fresh(blocks, size)
    state: State = {1: GENESIS}
    seen_old = seen_new = 0
    for step, records in enumerate(script(steps, largest=largest, keys=keys, seed=1)):
        whole = copy(device)
        opened(whole).append(records)
        expected = after(state, records)
        for tick in range(1, whole.ticks + 1):
            cut = copy(device, cut_at=tick, seed=tick)
            with pytest.raises(PowerCut):
                opened(cut).append(records)
            cut.cut_at = None
            journal = opened(cut)
            assert journal.condition == schema.JOURNAL_VALID, (step, tick)
            found = state_of(journal)
            assert found in (state, expected), (step, tick)
            seen_old += found == state
            seen_new += found == expected
            if tick % 7 == 0:
                # It goes on from there, and the next boot finds all of it.
                journal.append([(99, b"afterwards"), (3, None)])
                again = opened(cut)
                assert again.condition == schema.JOURNAL_VALID
                assert state_of(again) == after(found, [(99, b"afterwards"), (3, None)])
        opened(device).append(records)
        state = expected
    assert state_of(opened(device)) == state
    assert seen_old > 1000
    assert seen_new > 0


def test_a_transaction_over_several_blocks_is_there_as_a_whole_or_not_at_all() -> None:
    device = fresh(16, 512)
    opened(device).append([(key, b"old %d" % key) for key in range(0x200, 0x210)])
    state = state_of(opened(device))
    records: Records = [(key, bytes([key & 255]) * 60) for key in range(0x200, 0x218)]
    records[3:5] = [(0x203, None), (0x204, b"x" * 390)]
    whole = copy(device)
    opened(whole).append(records)
    assert whole.erases >= 3
    expected = after(state, records)
    assert state_of(opened(whole)) == expected
    for tick in range(1, whole.ticks + 1, 3):
        cut = copy(device, cut_at=tick, seed=tick)
        with pytest.raises(PowerCut):
            opened(cut).append(records)
        cut.cut_at = None
        journal = opened(cut)
        assert journal.condition == schema.JOURNAL_VALID
        assert state_of(journal) in (state, expected)
        journal.append(records)
        assert state_of(opened(cut)) == expected


class CutsAndLaps(RuleBasedStateMachine):
    """Against a plain dict: appends, idle moments, reboots, and cuts, also while the last cut is being repaired."""

    def __init__(self) -> None:
        super().__init__()
        self.device = fresh(10, 512)
        self.journal = opened(self.device)
        self.state: State = {1: GENESIS}
        self.on = True
        self.pending: Records = []

    @precondition(lambda self: self.on)
    @rule(
        keys=st.lists(st.integers(2, 12), min_size=1, max_size=4),
        size=st.integers(0, 60),
        large=st.integers(0, 9),
        cut=st.none() | st.integers(1, 300),
        seed=st.integers(0, 2**16),
    )
    def append(self, keys: list[int], size: int, large: int, cut: int | None, seed: int) -> None:
        source = random.Random(seed)
        records: Records = [(key, None if source.random() < 0.1 else source.randbytes(size)) for key in keys]
        if large == 0:
            records[0] = (records[0][0], source.randbytes(250 + size))
        self._cut_in(cut, seed)
        try:
            self.journal.append(records)
        except PowerCut:
            self.on = False
            self.pending = records
            return
        self.state = after(self.state, records)
        self.device.cut_at = None

    @precondition(lambda self: self.on)
    @rule(cut=st.none() | st.integers(1, 40))
    def maintain(self, cut: int | None) -> None:
        self._cut_in(cut, 1)
        try:
            while self.journal.maintain():
                pass
        except PowerCut:
            self.on = False
        self.device.cut_at = None

    @rule(cut=st.none() | st.integers(1, 6))
    def boot(self, cut: int | None) -> None:
        self.journal = Journal(self.device)
        self._cut_in(cut, 2)
        try:
            self.journal.open()
        except PowerCut:
            self.on = False
            return
        finally:
            self.device.cut_at = None
        self.on = True
        assert self.journal.condition == schema.JOURNAL_VALID
        found = state_of(self.journal)
        assert found in (self.state, after(self.state, self.pending))
        self.state = found
        self.pending = []

    def _cut_in(self, ticks: int | None, seed: int) -> None:
        self.device.random.seed(seed)
        self.device.cut_at = None if ticks is None else self.device.ticks + ticks

    @invariant()
    def holds_what_was_written(self) -> None:
        if self.on:
            assert state_of(self.journal) == self.state


TestCutsAndLaps = CutsAndLaps.TestCase
TestCutsAndLaps.settings = settings(max_examples=120, stateful_step_count=60, deadline=None, derandomize=True)


def reboot(device: Nor, source: random.Random) -> Journal:
    """Open until it succeeds: the power may go while a torn page is being marked, too."""
    while True:
        device.cut_at = device.ticks + source.randrange(1, 8) if source.random() < 0.4 else None
        try:
            return opened(device)
        except PowerCut:
            pass
        finally:
            device.cut_at = None


@pytest.mark.parametrize("seed", range(12))
def test_regions_and_records_of_every_shape_survive_a_thousand_appends_with_cuts(seed: int) -> None:
    source = random.Random(seed)
    blocks, size = source.choice([(8, 512), (12, 512), (8, 1024), (16, 1024), (32, 1024), (16, 4096)])
    largest = source.choice([20, 60, 200] if size < 1024 else [60, 200, 600])
    cut_chance, maintain_chance = source.choice([0.05, 0.3]), source.choice([0, 0.3, 1])
    device = fresh(blocks, size)
    journal = opened(device)
    keys = max(2, min(60, journal._capacity // (largest + 16)))
    state: State = {1: GENESIS}
    for records in script(1000, largest=largest, keys=max(3, keys), seed=seed):
        expected = after(state, records)
        device.cut_at = device.ticks + source.randrange(1, 600) if source.random() < cut_chance else None
        try:
            journal.append(records)
            state = expected
            if source.random() < maintain_chance:
                journal.maintain()
        except JournalError as error:
            assert "alive" in str(error)
        except PowerCut:
            journal = reboot(device, source)
            assert journal.condition == schema.JOURNAL_VALID
            assert state_of(journal) in (state, expected)
            state = state_of(journal)
        device.cut_at = None
    assert state_of(opened(device)) == state_of(journal) == state


def test_a_board_that_flaps_fifty_times_in_its_first_append_still_comes_up() -> None:
    """From a log as long as it gets, with much alive at its tail, where each such cut costs a page and gains none."""
    device = fresh(32, 4096)
    journal = opened(device)
    state: State = {1: GENESIS}
    for number in range(8000):
        key = 2 + (number if number < 200 else number % 20)
        state[key] = b"%d" % number * 8
        journal.append([(key, state[key])])
    for flap in range(50):
        journal = opened(device)
        device.cut_at = device.ticks + 20
        with pytest.raises(PowerCut):
            journal.append([(300, b"boot %d" % flap * 10)])
        device.cut_at = None
    journal = opened(device)
    assert journal.condition == schema.JOURNAL_VALID
    assert state_of(journal) == state
    for number in range(3000):
        journal.append([(2 + number % 20, b"on")])
    assert len(state_of(opened(device))) == len(state)


# Laps, and what they cost.


def lap(records: list[Records], maintain: bool = True) -> tuple[Nor, Journal, State]:
    device = fresh(32, 4096)
    journal = opened(device)
    state: State = {1: GENESIS}
    for number, batch in enumerate(records):
        before = device.erases
        journal.append(batch)
        state = after(state, batch)
        if maintain:
            if number:
                assert device.erases == before, "an append erased, although maintain() had been called"
            while journal.maintain():
                pass
    return device, journal, state


def test_many_laps_with_12_kb_alive() -> None:
    source = random.Random(3)
    keys = [*range(2, 10), *range(0x200, 0x240), *range(0x300, 0x340), *range(0x10000, 0x10040)]
    sizes = {key: source.randrange(20, 100) for key in keys}
    batches: list[Records] = [[(key, source.randbytes(sizes[key]))] for key in keys]
    for _ in range(14000):
        # Half of the keys are never written again: cold data must be carried along, lap after lap.
        chosen = source.sample(keys[: len(keys) // 2], source.choice([1, 1, 2]))
        batches.append([(key, source.randbytes(sizes[key])) for key in chosen])
    device, journal, state = lap(batches)
    assert sum(map(len, state.values())) > 11500
    assert device.erases > 5 * 32
    assert state_of(journal) == state
    again = opened(device)
    assert again.condition == schema.JOURNAL_VALID
    assert state_of(again) == state
    assert journal.programs / journal.appends <= 1.02


def test_an_append_of_one_record_costs_one_program_and_a_fiftieth_of_an_erase() -> None:
    source = random.Random(4)
    keys = [*range(2, 10), *range(0x200, 0x240), *range(0x300, 0x340), *range(0x10000, 0x10040)]
    batches: list[Records] = [[(source.choice(keys), source.randbytes(45))] for _ in range(12000)]
    device, journal, state = lap(batches)
    assert state_of(opened(device)) == state
    assert (journal.appends, journal.programs) == (12000, 12000)
    assert journal.erases / journal.appends <= 0.02


def test_the_records_of_votes_cost_no_more() -> None:
    """Sizes as five voters write them for short values: prevote with its value, lock with precommit, decision."""
    source = random.Random(6)
    batches: list[Records] = []
    for height in range(4000):
        value = source.randbytes(source.randrange(2, 10))
        batches.append([(0x10, source.randbytes(20)), (0x40 + height % 3, source.randbytes(18) + value)])
        batches.append([(0x10, source.randbytes(20)), (0x11, source.randbytes(23))])
        decision: Records = [(0x10000 + height % 64, source.randbytes(20) + value), (0x12, source.randbytes(6))]
        decision.append((0x100 + source.randrange(8), source.randbytes(18)))
        if height % 2:
            decision.append((0x200 + source.randrange(16), source.randbytes(8) + value))
        batches.append(decision)
    _device, journal, _state = lap(batches)
    assert journal.programs / journal.appends <= 1
    assert journal.erases / journal.appends <= 0.02


def test_without_maintain_an_append_erases_for_itself() -> None:
    batches: list[Records] = [[(2 + number % 5, b"x" * 45)] for number in range(2000)]
    device, journal, state = lap(batches, maintain=False)
    assert state_of(opened(device)) == state
    assert journal.erases > 20


def test_maintain_keeps_two_blocks_erased_and_then_has_nothing_to_do() -> None:
    journal = opened(fresh(8, 512))
    assert [journal.maintain(), journal.maintain(), journal.maintain()] == [True, True, False]
    assert journal.erases == 2


# What a region is found to be.


def test_a_blank_region_is_missing() -> None:
    journal = opened(Nor())
    assert journal.condition == schema.JOURNAL_MISSING
    assert state_of(journal) == {}


def test_genesis_makes_it_valid() -> None:
    journal = opened(fresh())
    assert journal.condition == schema.JOURNAL_VALID
    assert codec.unpack("uu", journal.get(schema.JOURNAL_GENESIS)) == (7, 3)


@pytest.mark.parametrize("seed", range(20))
def test_garbage_is_invalid_then_empty_and_writable_without_a_genesis(seed: int) -> None:
    device = Nor(8, 512, random.Random(seed).randbytes(8 * 512))
    journal = opened(device)
    assert journal.condition == schema.JOURNAL_INVALID
    assert state_of(journal) == {}
    journal.append([(5, b"anew")])
    again = opened(device)
    assert again.condition == schema.JOURNAL_VALID
    assert state_of(again) == {5: b"anew"}
    assert again.get(schema.JOURNAL_GENESIS) is None


def worked(steps: int = 60) -> tuple[Nor, State, State]:
    """A journal after some laps of a small ring; its state, and the state before its last append."""
    device = fresh(8, 512)
    journal = opened(device)
    state: State = {1: GENESIS}
    previous = state
    for records in script(steps, largest=40, keys=10, seed=5):
        journal.append(records)
        previous, state = state, after(state, records)
    return device, previous, state


@pytest.mark.parametrize("steps", [60, 61, 62, 63, 64, 65, 66, 67])
def test_a_rotten_bit_anywhere_is_never_taken_for_another_state(steps: int) -> None:
    device, previous, state = worked(steps)
    outcomes = {schema.JOURNAL_VALID: 0, schema.JOURNAL_INVALID: 0}
    for at in range(len(device.cells)):
        rotten = copy(device)
        rotten.cells[at] ^= 1 << at % 8
        journal = opened(rotten)
        outcomes[journal.condition] += 1
        if journal.condition == schema.JOURNAL_VALID:
            assert state_of(journal) in (state, previous), at
        else:
            assert state_of(journal) == {}
    assert outcomes[schema.JOURNAL_INVALID] > 800


def test_a_block_that_is_missing_from_the_ring_is_invalid() -> None:
    device, _previous, _state = worked()
    journal = opened(device)
    assert journal._sequence - journal._tail >= 2
    for sequence in range(journal._tail, journal._sequence):
        wiped = copy(device)
        wiped.ioctl(6, journal._block(sequence))
        assert opened(wiped).condition == schema.JOURNAL_INVALID


@pytest.mark.parametrize("where", ["oldest", "middle", "newest", "newest header"])
def test_a_cut_while_starting_anew_never_brings_a_damaged_journal_back(where: str) -> None:
    steps = next(steps for steps in range(60, 90) if opened(worked(steps)[0])._offset > 300)
    device, _previous, _state = worked(steps)
    journal = opened(device)
    sequence = {"oldest": journal._tail, "middle": journal._tail + 1}.get(where, journal._sequence)
    device.cells[journal._block(sequence) * 512 + (4 if where == "newest header" else 40)] ^= 0x10
    assert opened(device).condition == schema.JOURNAL_INVALID

    def start(twin: Nor) -> None:
        anew = opened(twin)
        while anew.maintain():
            pass
        anew.append([(50, b"new life")])
        anew.append([(51, b"goes on")])

    whole = copy(device)
    start(whole)
    for tick in range(1, whole.ticks + 1):
        cut = copy(device, cut_at=tick, seed=tick)
        with pytest.raises(PowerCut):
            start(cut)
        cut.cut_at = None
        found = opened(cut)
        if found.condition == schema.JOURNAL_VALID:
            assert state_of(found) in ({}, {50: b"new life"}, {50: b"new life", 51: b"goes on"}), tick


# Bounds and failures.


def test_what_cannot_fit_is_refused_and_nothing_of_it_is_written() -> None:
    device = fresh(8, 512)
    journal = opened(device)
    state: State = {1: GENESIS}
    number = 2
    with pytest.raises(JournalError, match="full"):
        while True:
            journal.append([(number, b"x" * 40)])
            state[number] = b"x" * 40
            number += 1
    assert len(state) > 15
    assert state_of(journal) == state
    journal.append([(2, None), (3, None), (4, None)])
    for _ in range(500):
        journal.append([(5, b"y" * 40)])
    assert state_of(opened(device)) == after(state, [(2, None), (3, None), (4, None), (5, b"y" * 40)])


@pytest.mark.parametrize("size", [40, 130, 200, 240, 300, 900])
def test_up_to_the_bound_there_is_always_room(size: int) -> None:
    """Whatever the size of the records, a journal that is filled to its bound goes on for many laps."""
    device = fresh(16, 2048)
    journal = opened(device)
    state: State = {1: GENESIS}
    keys = range(2, 2 + 12288 // (size + 8) - 1)
    source = random.Random(size)
    for key in keys:
        state[key] = bytes([key % 256]) * size
        journal.append([(key, state[key])])
    for number in range(1500):
        key = source.choice(keys) if number % 50 else 2
        state[key] = source.randbytes(size)
        journal.append([(key, None)])
        journal.append([(key, state[key])])
    assert state_of(journal) == state
    assert state_of(opened(device)) == state


@pytest.mark.parametrize(
    "records",
    [[(5, b"x" * 1001)], [(0, b"x")], [(2**28, b"x")], [(5, b"fine"), (6, b"x" * 1001)]],
    ids=["large", "key 0", "key too large", "second large"],
)
def test_a_record_that_cannot_be_kept_is_refused_with_the_whole_append(records: Records) -> None:
    journal = opened(fresh())
    with pytest.raises(JournalError, match="key"):
        journal.append(records)
    assert state_of(journal) == {1: GENESIS}


def test_of_two_records_of_a_key_the_last_counts() -> None:
    device = fresh()
    journal = opened(device)
    journal.append([(5, b"first"), (6, b"other"), (5, b"second"), (6, None)])
    assert state_of(journal) == state_of(opened(device)) == {1: GENESIS, 5: b"second"}


def test_forgetting_what_is_not_there_writes_nothing() -> None:
    device = fresh()
    journal = opened(device)
    programs = device.programs
    journal.append([(5, None)])
    journal.append([])
    assert device.programs == programs


def test_keys_are_given_in_order_up_to_but_not_including_the_end() -> None:
    journal = opened(fresh())
    journal.append([(key, b"") for key in (0x203, 0x200, 0x2FF, 0x300, 9)])
    assert journal.keys(0x200, 0x300) == [0x200, 0x203, 0x2FF]
    assert journal.get(0x200) == b""
    assert journal.get(0x201) is None


class Worn(Nor):
    """One cell no longer takes a program."""

    def writeblocks(self, block: int, buffer: bytes, offset: int) -> None:
        super().writeblocks(block, buffer, offset)
        self.cells[block * self.size + offset + len(buffer) - 1] = 0xFF


class Broken(Nor):
    """The driver gives an error."""

    def writeblocks(self, block: int, buffer: bytes, offset: int) -> None:
        raise OSError(5)


@pytest.mark.parametrize("kind", [Worn, Broken])
def test_flash_that_fails_is_told_and_nothing_is_written_behind_it(kind: type[Nor]) -> None:
    good = fresh()
    device = kind(8, 512, bytes(good.cells))
    journal = opened(device)
    with pytest.raises(JournalError, match="worn|flash"):
        journal.append([(5, b"value")])
    with pytest.raises(JournalError, match="open the journal again"):
        journal.append([(6, b"value")])
    assert not journal.maintain()
    good.cells = device.cells
    again = opened(good)
    assert again.condition == schema.JOURNAL_VALID
    again.append([(7, b"value")])
    assert state_of(opened(good)) == {1: GENESIS, 7: b"value"}


def test_rot_that_came_after_opening_is_not_copied_under_a_new_checksum() -> None:
    device = fresh(8, 512)
    journal = opened(device)
    journal.append([(2, b"cold")])
    device.cells[journal._index[2] >> 10] ^= 1
    with pytest.raises(JournalError, match="damaged"):
        for _ in range(500):
            journal.append([(3, b"x" * 40)])
    assert opened(device).condition == schema.JOURNAL_INVALID


@pytest.mark.parametrize(("blocks", "size"), [(7, 4096), (8, 300), (8, 256)])
def test_a_region_of_another_shape_is_refused(blocks: int, size: int) -> None:
    with pytest.raises(JournalError, match="8 blocks"):
        Journal(Nor(blocks, size))
