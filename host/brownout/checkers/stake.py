"""Stakes: the same on every board at every height, none made and none lost, in force when said, turns in proportion.

A stake moves by `bonded` events, counts from the epoch that they name on, and each decision needs more than half of
what is in force at its height. Turns come within `TURNS` of a board's share of the stake, in every stretch of epochs
that no stake moved in. Heights whose turn no board told are left out, so that what power took along accuses nobody.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from ..history import BoardEvent, Check
from .evidence import Findings, step
from .run import Boot, Run

TURNS = 2  # docs/protocols/stake.md says where that comes from


@dataclass(frozen=True)
class Accounts:
    """What one life says of all stakes. coming: by board, from the next epoch on."""

    event: BoardEvent  # the purse
    free: int
    leaving: int
    stakes: dict[int, int] = field(default_factory=dict)
    coming: dict[int, int] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        """The first height that these stakes are in force at."""
        return int(self.event.fields["height"])

    @property
    def total(self) -> int:
        return sum(self.coming.values()) + self.free + self.leaving


def check(run: Run) -> Check:
    findings = Findings("stake")
    _agreed(run, findings)
    accounts = sum(_life(run, boot, findings) for boots in run.boots.values() for boot in boots)
    judged = _quorums(run, findings)
    turns = _turns(run, findings)
    worst = _shares(run, turns, findings)
    findings.metrics["stakes_moved"] = len({_moved(event) for event in run.of("bonded")})
    findings.metrics["accounts_balanced"] = accounts
    findings.metrics["decisions_by_stake"] = judged
    findings.metrics["turns"] = len(turns)
    findings.metrics["turns_off_share"] = round(worst, 3)
    return findings.check(
        f"{findings.metrics['stakes_moved']} stakes moved, none made or lost; {judged} decisions by a majority of the"
        f" stake in force; {len(turns)} turns, at most {worst:.1f} off the share"
    )


def _moved(event: BoardEvent) -> tuple[int, ...]:
    names = ("height", "board", "amount", "stake", "free", "leaving")
    return tuple(event.fields[name] for name in names)


def _agreed(run: Run, findings: Findings) -> None:
    """Whatever board tells a stake, or a turn, of a height tells the same."""
    first: dict[tuple[int, int], BoardEvent] = {}
    for event in run.of("staked"):
        place = (event.fields["height"], event.fields["board"])
        known = first.setdefault(place, event)
        for name in ("stake", "priority"):
            if known.fields[name] != event.fields[name]:
                findings.wrong(
                    f"{known.board} and {event.board} have another {name} of board {place[1]} from height {place[0]}"
                    f" on: {known.fields[name]} and {event.fields[name]}",
                    step(known),
                    step(event),
                )


# Accounts, life by life.


def _life(run: Run, boot: Boot, findings: Findings) -> int:
    """Follow one life's stakes as far as none of its events is missing; how many statements were held to the sum."""
    accounts: Accounts | None = None
    decided = checked = 0
    expected = 1
    for event in boot.events:
        if event.sequence != expected:
            accounts = None
        expected = event.sequence + 1
        if event.kind == "decided":
            decided = event.fields["height"]
        elif event.kind == "bonded":
            accounts = _bonded(run, accounts, event, findings)
        elif event.kind == "purse":
            stated = _stated(run, boot, event)
            if stated is None:
                continue
            checked += 1
            _sum(run, stated, findings)
            if accounts is not None and decided == stated.epoch - 1 == accounts.epoch - 1 + run.epoch:
                _rolled(accounts, stated, findings)
            accounts = stated
    return checked


def _stated(run: Run, boot: Boot, purse: BoardEvent) -> Accounts | None:
    """The purse and the stakes that are told with it; None where some are missing."""
    last = purse.sequence + len(run.voters)
    rows = [event for event in boot.events if purse.sequence < event.sequence <= last and event.kind == "staked"]
    if len(rows) != len(run.voters):
        return None
    return Accounts(
        purse,
        purse.fields["free"],
        purse.fields["leaving"],
        {event.fields["board"]: event.fields["stake"] for event in rows},
        {event.fields["board"]: event.fields["coming"] for event in rows},
    )


def _sum(run: Run, accounts: Accounts, findings: Findings) -> None:
    began = run.total_weight * run.option("stake", "unit") + run.option("stake", "purse")
    board = accounts.event.board
    if accounts.total != began:
        findings.wrong(
            f"{board} has {accounts.total} of stakes and purse in the epoch of height {accounts.epoch}, and there were"
            f" {began} at the begin",
            step(accounts.event),
        )
    values = [accounts.free, accounts.leaving, *accounts.stakes.values(), *accounts.coming.values()]
    if min(values) < 0:
        findings.wrong(f"{board} has {min(values)} of something, at height {accounts.epoch}", step(accounts.event))


def _bonded(run: Run, accounts: Accounts | None, event: BoardEvent, findings: Findings) -> Accounts | None:
    fields = event.fields
    since = fields["height"] + run.epoch - (fields["height"] - 1) % run.epoch
    if fields["since"] != since:
        findings.wrong(
            f"{event.board} lets a stake of height {fields['height']} count from {fields['since']} on; the next epoch"
            f" begins at {since}",
            step(event),
        )
    if min(fields["stake"], fields["free"], fields["leaving"]) < 0:
        findings.wrong(f"{event.board} moved more stake than there was, at height {fields['height']}", step(event))
    if accounts is None:
        return None
    amount, board = fields["amount"], fields["board"]
    after = replace(
        accounts,
        free=accounts.free - max(amount, 0),
        leaving=accounts.leaving + max(-amount, 0),
        coming={**accounts.coming, board: accounts.coming.get(board, 0) + amount},
    )
    if (after.coming[board], after.free, after.leaving) != (fields["stake"], fields["free"], fields["leaving"]):
        findings.wrong(
            f"{event.board} moved {amount} of board {board} at height {fields['height']} and has"
            f" {fields['stake']} there, {fields['free']} free and {fields['leaving']} leaving; it should have"
            f" {after.coming[board]}, {after.free} and {after.leaving}",
            step(accounts.event),
            step(event),
        )
    return after


def _rolled(before: Accounts, after: Accounts, findings: Findings) -> None:
    """An epoch begins with what the last one had coming."""
    if after.stakes != before.coming or after.coming != before.coming:
        late = sorted(board for board in before.coming if after.stakes.get(board) != before.coming[board])
        findings.wrong(
            f"{after.event.board} begins the epoch of height {after.epoch} without what was moved before, of boards"
            f" {late}",
            step(before.event),
            step(after.event),
        )
    if (after.free, after.leaving) != (before.free + before.leaving, 0):
        findings.wrong(
            f"{after.event.board} has {after.free} free and {after.leaving} leaving from height {after.epoch} on; it"
            f" should have {before.free + before.leaving} and 0",
            step(before.event),
            step(after.event),
        )


# Quorums and turns.


def _quorums(run: Run, findings: Findings) -> int:
    """Each decision names the stake that carried it: more than half of what is in force, and not more than all."""
    judged = 0
    for event in run.of("decided"):
        fields = event.fields
        stakes = None if fields["caught_up"] else run.weights_at(fields["height"])
        if stakes is None:
            continue
        judged += 1
        total = sum(stakes.values())
        if not total < 2 * fields["weight"] <= 2 * total:
            findings.wrong(
                f"{event.board} decided height {fields['height']} by a stake of {fields['weight']}; in force there are"
                f" {total}",
                step(event),
                *[step(told) for told in run.of("staked") if told.fields["height"] == run.epoch_of(fields["height"])][
                    : len(run.voters)
                ],
            )
    return judged


def _turns(run: Run, findings: Findings) -> dict[int, str]:
    """Whose turn each height was. Boards agree on it, it has a stake, and only that board proposes in round 0."""
    told: dict[int, BoardEvent] = {}
    for event in run.of("turn"):
        height = event.fields["height"]
        known = told.setdefault(height, event)
        if known.fields["board"] != event.fields["board"]:
            findings.wrong(
                f"{known.board} and {event.board} differ on whose turn height {height} is", step(known), step(event)
            )
    turns = {height: run.names.get(event.fields["board"], "nobody") for height, event in told.items()}
    for height, event in told.items():
        stakes = run.weights_at(height)
        if stakes is not None and not stakes.get(turns[height]):
            findings.wrong(f"height {height} is the turn of {turns[height]}, which has no stake", step(event))
    for event in run.of("proposed"):
        height = event.fields["height"]
        if not event.fields["round"] and height in turns and turns[height] != event.board:
            findings.wrong(
                f"{event.board} began height {height}, which is the turn of {turns[height]}",
                step(told[height]),
                step(event),
            )
    return turns


def _shares(run: Run, turns: dict[int, str], findings: Findings) -> float:
    """The most turns that a board is off its share, at the end of an epoch in a stretch of the same stakes."""
    worst = 0.0
    counted: Counter[str] = Counter()
    last: dict[str, int] | None = None
    heights = 0
    for first in range(1, max(turns, default=0) - run.epoch + 2, run.epoch):
        epoch = [turns[height] for height in range(first, first + run.epoch) if height in turns]
        stakes = run.weights_at(first)
        if stakes is None or len(epoch) < run.epoch:
            last = None
            continue
        if stakes != last:
            counted, heights, last = Counter(), 0, dict(stakes)
        counted.update(epoch)
        heights += run.epoch
        for board, stake in stakes.items():
            off = counted[board] - heights * stake / sum(stakes.values())
            worst = max(worst, abs(off))
            if abs(off) > TURNS:
                findings.wrong(
                    f"{board} had {counted[board]} of {heights} turns up to height {first + run.epoch - 1}, with a"
                    f" stake of {stake} of {sum(stakes.values())}",
                    *[step(event) for event in run.of("staked") if event.fields["height"] == first][: len(stakes)],
                )
    return worst
