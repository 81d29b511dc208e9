"""Work spread over threads: compiled loops, and operations of torch that do better apart."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def in_threads(work: Any, count: int) -> list[Any]:
    """work(0) … work(count − 1) over as many threads as torch may use; kernels release the interpreter lock.

    The threads live for one call: a pool that outlives it would not survive a fork.
    """
    threads = min(torch.get_num_threads(), count)
    if threads < 2:
        return [work(i) for i in range(count)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, range(count)))


def each_alone(work: Callable[[int], T], count: int) -> list[T]:
    """work(0) … work(count − 1), each in a thread in which torch uses no others.

    The threads of one operation wait for each other wherever it cannot be divided, in an LSTM after every
    step. While another program takes a core from one of them, all wait: here they meet only at the end.
    """
    threads, are_ready = torch.get_num_threads(), Barrier(count + 1)

    def alone(i: int) -> T:
        torch.get_num_threads()  # else the first operation would set the program's number once more
        torch.set_num_threads(1)
        are_ready.wait()
        return work(i)

    with ThreadPoolExecutor(count) as pool:
        try:
            found = [pool.submit(alone, i) for i in range(count)]
            are_ready.wait()
        except BaseException:
            are_ready.abort()
            raise
        torch.set_num_threads(threads)  # again the program's number, which later threads start with
        return [one.result() for one in found]
