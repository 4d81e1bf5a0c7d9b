"""What the theory says, computed without the firmware: exact where that can be done, else simulated by its own rules.

- `RoundChain`: one update spreads in synchronous rounds among n boards, each of which contacts one other, uniformly at
  random, in every round. Push: A. Frieze, G. Grimmett, "The shortest-path problem for graphs with random arc-lengths",
  Discrete Applied Mathematics 10 (1985), whose rounds approach log2 n + ln n. Push-pull: R. Karp et al., "Randomized
  Rumor Spreading", FOCS 2000. How many hold the update is a Markov chain; its moments are exact up to rounding.
- `mongering`: A. Demers et al., "Epidemic Algorithms for Replicated Database Maintenance", PODC 1987, table 1: rumour
  mongering with push, feedback and counter.
- `detection_mean`, `detection_mean_of_laps`: A. Das, I. Gupta, A. Motivala, "SWIM", DSN 2002.

Must not import the firmware.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import NamedTuple

NEGLIGIBLE = 1e-9
CONFIDENCE = 3.2905  # standard errors on either side that hold 99.9% of a normal distribution


class Moments(NamedTuple):
    mean: float
    deviation: float


# One update in synchronous rounds.


class RoundChain:
    """`count` boards. With `pull` a contact carries the update both ways, else only from the board that makes it."""

    def __init__(self, count: int, pull: bool) -> None:
        self.count = count
        self.pull = pull

    def round_moments(self, holders: int) -> Moments:
        """Of how many more boards hold the update after one round, when so many did before."""
        others = self.count - 1
        lacking = self.count - holders
        asks_in_vain = 1 - holders / others if self.pull else 1.0
        one = (1 - 1 / others) ** holders * asks_in_vain
        both = max(0.0, 1 - 2 / others) ** holders * asks_in_vain**2
        variance = lacking * one + lacking * (lacking - 1) * both - (lacking * one) ** 2
        return Moments(lacking * (1 - one), math.sqrt(max(0.0, variance)))

    def rounds(self) -> Moments:
        """Of the number of rounds from one holder until all hold it, over the chain's first and second moments."""
        mean = [0.0] * (self.count + 1)
        square = [0.0] * (self.count + 1)
        for holders, lowest, untouched in reversed(list(self._untouched())):
            lacking = {lowest + at: chance for at, chance in enumerate(untouched)}
            if self.pull:
                lacking = self._not_pulled(lacking, 1 - holders / (self.count - 1))
            stay = lacking.pop(self.count - holders, 0.0)
            first = sum(chance * mean[self.count - left] for left, chance in lacking.items())
            second = sum(chance * square[self.count - left] for left, chance in lacking.items())
            mean[holders] = (1 + first) / (1 - stay)
            square[holders] = (1 + 2 * (first + stay * mean[holders]) + second) / (1 - stay)
        return Moments(mean[1], math.sqrt(square[1] - mean[1] ** 2))

    def _untouched(self) -> Iterator[tuple[int, int, list[float]]]:
        """For each number of holders: the distribution of how many of the others none of them contacts in a round.

        The others are bins, the holders' contacts balls, which also fall elsewhere. The next row has one bin less, a
        random one, and one ball more. A row is (holders, least value, chances from there on).
        """
        bins = self.count - 1
        lowest, chances = bins - 1, [1.0]
        yield 1, lowest, chances
        for holders in range(2, self.count):
            chances = self._moved_down(lowest, chances, bins)
            chances = self._moved_down(lowest - 1, chances, self.count - 1)
            bins -= 1
            lowest -= 2
            while chances[0] < NEGLIGIBLE:
                chances.pop(0)
                lowest += 1
            while chances[-1] < NEGLIGIBLE:
                chances.pop()
            yield holders, lowest, chances

    @staticmethod
    def _moved_down(lowest: int, chances: list[float], of: int) -> list[float]:
        """The distribution after the value fell by one with the probability value / of; it begins one lower."""
        moved = [0.0] * (len(chances) + 1)
        for at, chance in enumerate(chances):
            falls = chance * (lowest + at) / of
            moved[at] += falls
            moved[at + 1] += chance - falls
        return moved

    @staticmethod
    def _not_pulled(untouched: dict[int, float], asks_in_vain: float) -> dict[int, float]:
        """The distribution after each of the untouched asked somebody, in vain with that probability."""
        if asks_in_vain <= 0:
            return {0: 1.0}
        left: dict[int, float] = {}
        odds = asks_in_vain / (1 - asks_in_vain)
        for number, chance in untouched.items():
            middle = int(number * asks_in_vain)
            start = chance * math.comb(number, middle) * asks_in_vain**middle * (1 - asks_in_vain) ** (number - middle)
            term, at = start, middle
            while at <= number and term > NEGLIGIBLE * chance:
                left[at] = left.get(at, 0.0) + term
                term *= odds * (number - at) / (at + 1)
                at += 1
            term, at = start, middle
            while at > 0:
                term *= at / (odds * (number - at + 1))
                if term <= NEGLIGIBLE * chance:
                    break
                at -= 1
                left[at] = left.get(at, 0.0) + term
        return left


# Rumour mongering.


class Outcome(NamedTuple):
    residue: float  # share of the boards that never got the update
    traffic: float  # updates sent, per board


def mongering(count: int, counter: int, draws: random.Random) -> Outcome:
    """One epidemic until nobody pushes any more.

    In each cycle every board that is interested pushes to one other. It loses interest after `counter` unnecessary
    contacts in a row: the paper bounds its traffic by saying that whoever sends an unnecessary message sent a necessary
    one within the last k cycles, or learned the update in them. A contact is necessary if the other did not know the
    update when the cycle began. Only these two readings together give the published table.
    """
    knows = {0}
    interested = {0: 0}  # board: unnecessary contacts in a row
    sent = 0
    while interested:
        heard = set()
        for board, unnecessary in list(interested.items()):
            sent += 1
            other = int(draws.random() * (count - 1))
            other += other >= board
            if other not in knows:
                heard.add(other)
                interested[board] = 0
            elif unnecessary + 1 < counter:
                interested[board] = unnecessary + 1
            else:
                del interested[board]
        knows |= heard
        interested.update(dict.fromkeys(heard, 0))
    return Outcome(1 - len(knows) / count, sent / count)


# Detection.


def detection_mean(count: int) -> float:
    """Mean protocol periods until the first of the count - 1 others probes a board that is gone, with random probes.

    Each misses it with the probability 1 - 1/(count - 1), independently in each period: a geometric distribution.
    """
    return 1 / (1 - (1 - 1 / (count - 1)) ** (count - 1))


def detection_deviation(count: int) -> float:
    found = 1 / detection_mean(count)
    return math.sqrt(1 - found) / found


def detection_mean_of_laps(count: int) -> float:
    """The same where each goes through all its others in a random order, beginning when the board goes.

    After j periods one has not probed it yet with the probability 1 - j/(count - 1).
    """
    others = count - 1
    return sum((1 - passed / others) ** others for passed in range(others))


# Comparison.


def half_width(deviations: list[float], samples: int) -> float:
    """Of the 99.9% interval around a mean: of one sample's deviation, or of several that are added in quadrature."""
    return CONFIDENCE * math.sqrt(sum(deviation**2 for deviation in deviations) / samples)
