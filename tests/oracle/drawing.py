"""The dice that random worlds are thrown with: everything in a world follows from one whole number.

hypothesis draws only that number. Drawing each choice through it costs ten times more, and its mutations of earlier
examples, good for finding crashes, make worlds that differ in nothing that is asked. What is given up is its shrinking;
`compare.reduced` does better at it, since it knows what an object is.
"""

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """A source of choices that are the same for the same seed on every machine and version."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def pick(self, options: Sequence[T]) -> T:
        """Pick one."""
        return options[int(self._random.random() * len(options))]

    def some(self, options: Sequence[T], least: int, most: int) -> list[T]:
        """Pick between `least` and `most` different ones, in any order."""
        left = list(options)
        least, most = min(least, len(left)), min(most, len(left))
        number = least + int(self._random.random() * (most - least + 1))
        return [left.pop(int(self._random.random() * len(left))) for _ in range(number)]

    def count(self, *options: int) -> int:
        """Pick one of these numbers."""
        return self.pick(options)

    def chance(self, percent: int) -> bool:
        """Say yes this often."""
        return self._random.random() * 100 < percent
