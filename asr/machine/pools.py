"""Work that other threads or processes do ahead of its use."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(
    pool: Executor, work: Callable[[T], R], tasks: Iterable[T], *, ahead: int
) -> Generator[R, None, None]:
    """work(task) of each task, in the order of the tasks, by the pool, which is shut down at the end.

    The pool has up to `ahead` tasks that nobody has asked for, which bounds memory. An exception in a task is
    raised in its turn; closing the generator early drops the tasks that have not begun.
    """
    pending: deque[Future[R]] = deque()
    try:
        for task in tasks:
            pending.append(pool.submit(work, task))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
