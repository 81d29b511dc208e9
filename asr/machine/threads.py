"""Work spread over threads, for compiled loops that release the interpreter lock."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch


def in_threads(work: Any, count: int) -> list[Any]:
    """work(0) … work(count − 1) over as many threads as torch may use; kernels release the interpreter lock.

    The threads live for one call: a pool that outlives it would not survive a fork.
    """
    threads = min(torch.get_num_threads(), count)
    if threads < 2:
        return [work(i) for i in range(count)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, range(count)))
