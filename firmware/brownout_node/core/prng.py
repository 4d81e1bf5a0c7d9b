"""Seeded random numbers, the same on every interpreter: sfc16 (C. Doty-Humphrey's PractRand) seeded by SHA-256.

Each use has a stream of its own, named; a stream depends on nothing but (seed, board, boot, name), so that a run can be
replayed. All arithmetic stays within 30 bits, the small integers of 32-bit boards. Must not be used for secrets.
"""

import hashlib


class Prng:
    """One stream. `seed` may be any integer, `name` any text."""

    def __init__(self, seed, board, boot, name):
        digest = hashlib.sha256(("%d/%d/%d/%s" % (seed, board, boot, name)).encode()).digest()
        self._a = digest[0] << 8 | digest[1]
        self._b = digest[2] << 8 | digest[3]
        self._c = digest[4] << 8 | digest[5]
        self._counter = digest[6] << 8 | digest[7]

    def _draw(self):
        # The next 16 bits.
        b = self._b
        c = self._c
        out = (self._a + b + self._counter) & 0xFFFF
        self._counter = (self._counter + 1) & 0xFFFF
        self._a = b ^ (b >> 5)
        self._b = (c + (c << 3)) & 0xFFFF
        self._c = (((c << 6) | (c >> 10)) + out) & 0xFFFF
        return out

    def below(self, n):
        """A uniform integer from 0 to n-1; n from 1 to 2**30."""
        if not 0 < n <= 0x40000000:
            raise ValueError("below: 1 to 2**30 is allowed")
        if n <= 0x10000:
            limit = 0x10000 - 0x10000 % n
            while True:
                value = self._draw()
                if value < limit:
                    return value % n
        limit = 0x40000000 - 0x40000000 % n
        while True:
            value = (self._draw() >> 1) << 15 | self._draw() >> 1
            if value < limit:
                return value % n

    def chance(self, numerator, denominator):
        """True with the probability numerator/denominator."""
        return self.below(denominator) < numerator

    def shuffle(self, items):
        """Put a list into random order, in place."""
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]

    def sample(self, items, k):
        """k different elements of a list, in random order; all of them where there are fewer."""
        rest = list(items)
        chosen = []
        while rest and len(chosen) < k:
            at = self.below(len(rest))
            chosen.append(rest[at])
            rest[at] = rest[-1]
            rest.pop()
        return chosen
