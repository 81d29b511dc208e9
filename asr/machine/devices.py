"""Where tensors may go on this machine."""

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
