"""Reading ahead in a background thread."""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetch(items: Iterator[T], depth: int) -> Generator[T, None, None]:
    """The same items in the same order; a thread computes up to `depth` of them in advance.

    The thread starts with the first item that is requested. An error of an item is raised where the item is requested.
    Closing the generator stops the thread after the item that it computes.

    Args:
      items: None of them is None.
      depth: Number of items to compute in advance, 1 or more.
    """
    thread = ThreadPoolExecutor(1)
    pending = deque(thread.submit(next, items, None) for _ in range(depth))
    try:
        while (item := pending.popleft().result()) is not None:
            pending.append(thread.submit(next, items, None))
            yield item
    finally:
        thread.shutdown(wait=False, cancel_futures=True)
