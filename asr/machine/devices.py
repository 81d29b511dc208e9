"""Where tensors may go on this machine, what is random there, and in which precision it multiplies."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from asr.errors import ConfigError


def choose_device(wanted: str | torch.device) -> torch.device:
    """The device of this name; `auto` takes a GPU where there is one.

    Raises:
        ConfigError: a device that does not exist here.
    """
    if str(wanted) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        if "device string" in why:  # followed by all that torch has ever run on
            raise ConfigError(f"device {str(wanted)!r}: expected cpu, cuda or cuda:N") from error
        raise ConfigError(
            f"device {str(wanted)!r} cannot be used here ({why}); try cpu, or ask `asr doctor`"
        ) from error
    return device


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; from the CPU to a GPU without waiting for what the GPU is doing."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def seed(value: int, device: torch.device) -> None:
    """As torch.manual_seed, but for the CPU and this device only.

    It takes less time, too: torch.manual_seed records a stack trace for every kind of device.
    """
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(value)


@contextmanager
def seeded(value: int) -> Iterator[None]:
    """Random numbers on the CPU begin at the seed, and afterwards go on where they were; GPUs keep theirs.

    >>> with seeded(1):
    ...     first = torch.rand(1)
    >>> with seeded(1):
    ...     bool(torch.rand(1) == first)
    True
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(value)
        yield


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """bfloat16 if matrix products are to run in it, None for float32 throughout."""
    if precision == "float32":
        return None
    if precision == "bf16":
        return torch.bfloat16
    if device.type == "cuda":
        faster = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        faster = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if faster else None
