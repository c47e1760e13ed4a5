"""Work in threads whose results come in order, with a bounded number under way."""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[tuple[Item, Result]]:
    """Maps items in a pool; `pool.map` would take all of them at once.

    Args:
      pool: Runs the function.
      function: Is called once an item.
      items: Taken when there is room for them.
      ahead: How many are under way or waiting to be yielded, at most.

    Yields:
      Each item and its result, in the order of the items.
    """
    remaining = iter(items)
    pending: collections.deque[tuple[Item, Future[Result]]] = collections.deque()
    while True:
        for item in itertools.islice(remaining, ahead - len(pending)):
            pending.append((item, pool.submit(function, item)))
        if not pending:
            return
        item, future = pending.popleft()
        yield item, future.result()
