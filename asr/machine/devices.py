"""Where tensors may go on this machine, and in which precision it multiplies them."""

import torch

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
        raise ConfigError(
            f"device {str(wanted)!r} cannot be used here ({str(error).splitlines()[0]}); try cpu, or ask "
            "`asr doctor`"
        ) from error
    return device


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
