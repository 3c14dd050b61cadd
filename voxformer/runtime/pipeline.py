"""Several batches at once: while one is searched, the next ones are in the encoder.

Engines and the C++ decoder let go of Python's lock. Where an engine may be called by several
threads (`Engine.lanes`), as many batches are encoded at the same time: on a CPU a core that has a
batch of its own waits for no other, which one batch on all cores does after each operation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Batch = TypeVar("Batch")
Middle = TypeVar("Middle")
Result = TypeVar("Result")


def pipelined(
    batches: Iterable[Batch],
    encode: Callable[[Batch], Middle],
    search: Callable[[Batch, Middle], Result],
    lanes: int = 1,
) -> Iterator[Result]:
    """`search(batch, encode(batch))` of each batch, in order.

    Args:
        batches: taken as there is room, in the caller's thread; `lanes + 2` are held at most.
        encode: called in other threads, by `lanes` at a time.
        search: the same; what it or `encode` raises is raised where the result would have come.
        lanes: at least 1.
    """
    waiting: deque[Future[Future[Result]]] = deque()
    with (
        ThreadPoolExecutor(lanes, thread_name_prefix="search") as searches,
        ThreadPoolExecutor(lanes, thread_name_prefix="encode") as encoders,
    ):

        def encoded(batch: Batch) -> Future[Result]:
            return searches.submit(search, batch, encode(batch))

        try:
            for batch in batches:
                if len(waiting) == lanes + 2:
                    yield waiting.popleft().result().result()
                waiting.append(encoders.submit(encoded, batch))
            while waiting:
                yield waiting.popleft().result().result()
        finally:
            for future in waiting:
                future.cancel()
