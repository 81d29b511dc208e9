"""Data-parallel training by several processes, started by `torchrun`; does nothing for a single process."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from asr.errors import TrainingError

TIMEOUT = timedelta(minutes=10)
"""A rank that does not respond for this long is taken to be lost."""


class Ranks:
    """This process's rank among all; a context manager that joins and leaves the process group.

    Gradients are summed once per update, in one flat buffer. `torchrun` sets the number of ranks in the
    environment; the backend is gloo on CPUs and nccl on GPUs.
    """

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", 0))
        self.size = int(os.environ.get("WORLD_SIZE", 1))
        if self.size > 1 and torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())

    @property
    def is_first(self) -> bool:
        """True in the one process that writes files."""
        return self.rank == 0

    def __enter__(self) -> "Ranks":
        if self.size > 1 and not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            with self._explained("the ranks do not find each other"):
                dist.init_process_group(backend, timeout=TIMEOUT)
        return self

    def __exit__(self, *_: object) -> None:
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all ranks, in place; with several ranks, computed in float32.

        Raises:
            TrainingError: another rank is gone.
        """
        tensors = list(tensors)
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([t.reshape(-1).to(torch.float32) for t in tensors])
        with self._explained("another rank is gone"):
            dist.all_reduce(flat)
        for t, summed in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            t.copy_(summed.view_as(t))

    def spread_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by that of the first rank, in place.

        Raises:
            TrainingError: another rank is gone.
        """
        for t in tensors if self.size > 1 else ():
            with self._explained("another rank is gone"):
                dist.broadcast(t, 0)

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in rank order, on every rank.

        Raises:
            TrainingError: another rank is gone.
        """
        if self.size == 1:
            return [value]
        out: list[Any] = [None] * self.size
        with self._explained("another rank is gone"):
            dist.all_gather_object(out, value)
        return out

    def check_same(self, value: Any, *, what: str) -> None:
        """Check that the value is the same on all ranks.

        Raises:
            TrainingError: on every rank, if it is not.
        """
        values = self.gather(value)
        if any(v != values[0] for v in values):
            raise TrainingError(
                f"the {self.size} ranks do not begin at the same place: "
                f"all must be given the same recipe and read the same {what}"
            )

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turn a communication error into one that says what to do."""
        try:
            yield
        except RuntimeError as error:  # DistError and its relatives are of this class
            first = (str(error).splitlines() or [repr(error)])[0]
            raise TrainingError(
                f"rank {self.rank} of {self.size}: {what} ({first}); start all again, training goes on from "
                "the last checkpoint"
            ) from error
