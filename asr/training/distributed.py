"""Several processes that train one model, started by `torchrun`; alone, everything here does nothing."""

import os
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from asr.errors import TrainingError


class Ranks:
    """This process's place among all; use as a context manager so that the group is always left.

    Gradients are summed once per update, in one flat buffer. `torchrun` says how many ranks there are through
    the environment; gloo connects processors, nccl GPUs.
    """

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", 0))
        self.size = int(os.environ.get("WORLD_SIZE", 1))
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0))

    @property
    def is_first(self) -> bool:
        """True in the one process that writes files."""
        return self.rank == 0

    def __enter__(self) -> "Ranks":
        if self.size > 1 and not dist.is_initialized():
            if torch.cuda.is_available():
                torch.cuda.set_device(self.local_rank)
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return self

    def __exit__(self, *_: object) -> None:
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all ranks, in place.

        Raises:
            TrainingError: another rank is gone.
        """
        if self.size == 1:
            return
        tensors = list(tensors)
        flat = torch.cat([t.reshape(-1).to(torch.float32) for t in tensors])
        try:
            dist.all_reduce(flat)
        except RuntimeError as error:
            raise TrainingError(
                f"rank {self.rank} of {self.size}: another rank is gone ({str(error).splitlines()[0]}); "
                "start again, training goes on from the last checkpoint"
            ) from error
        at = 0
        for t in tensors:
            t.copy_(flat[at : at + t.numel()].view_as(t))
            at += t.numel()

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in the order of ranks, on every rank."""
        if self.size == 1:
            return [value]
        out: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(out, value)
        except RuntimeError as error:
            raise TrainingError(
                f"rank {self.rank} of {self.size}: another rank is gone; start again"
            ) from error
        return out
