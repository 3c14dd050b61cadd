"""Two things at once: while a batch is searched, the next one is in the encoder.

Both let go of Python's lock. At most `AHEAD` encoded batches wait for the search, so that memory
does not grow with the number of batches, whichever of the two is slower.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

AHEAD = 2

Batch = TypeVar("Batch")
Middle = TypeVar("Middle")
Result = TypeVar("Result")


def pipelined(
    batches: Iterable[Batch],
    encode: Callable[[Batch], Middle],
    search: Callable[[Batch, Middle], Result],
) -> Iterator[Result]:
    """`search(batch, encode(batch))` of each batch, in order.

    Args:
        batches: taken when the encoder is free.
        encode: called in the caller's thread.
        search: called in another thread, one batch at a time; what it raises is raised where its
            result would have come.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="search") as worker:
        waiting: deque[Future[Result]] = deque()
        for batch in batches:
            encoded = encode(batch)
            if len(waiting) == AHEAD:
                yield waiting.popleft().result()
            waiting.append(worker.submit(search, batch, encoded))
        while waiting:
            yield waiting.popleft().result()
