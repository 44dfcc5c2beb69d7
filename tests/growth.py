"""Whether work grows in proportion to its input, whatever else the machine does."""

from __future__ import annotations

import time
from collections.abc import Callable

_ROUNDS = 5
_TIMES = 3


def grows_linearly(work: Callable[[int], object], small: int) -> bool:
    """Whether four times the input takes less than eight times the work.

    Linear work is 4 times as much, quadratic work 16 times. It is counted as this thread's own
    processor time, so waiting for a busy machine is not in it. What disturbs a thread all the same
    (caches, the collector) passes: the least of several runs counts, in the best of several rounds.
    """

    def least(size: int) -> float:
        taken = []
        for _ in range(_TIMES):
            began = time.thread_time()
            work(size)
            taken.append(time.thread_time() - began)
        return min(taken)

    return any(least(4 * small) < 8 * least(small) for _ in range(_ROUNDS))
