"""The state of a training on disk: written whole or not at all, read without running code."""

import pickle
from pathlib import Path
from typing import Any

import torch

from asr.errors import AsrError
from asr.files import whole_file


def write(path: Path, state: dict[str, Any], *, error: type[AsrError]) -> None:
    """Save tensors and plain values to `path`, which is replaced only when all is on the disk.

    Raises:
        AsrError: of the given type: the disk is full, or the folder cannot be written; the old file is whole.
    """
    try:
        with whole_file(path, "wb", error=error) as file:
            torch.save(state, file)
    except RuntimeError as why:  # torch's writer of archives hides the error of the system
        raise error(
            f"{path}: the checkpoint cannot be written ({why}); the last one is kept: free some space "
            "and run again, it goes on where it stopped"
        ) from why


def read(path: Path, *, error: type[AsrError]) -> dict[str, Any] | None:
    """The state that was saved, with tensors on the CPU; None if there is none.

    Raises:
        AsrError: of the given type: a damaged file.
    """
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as why:
        first = str(why).partition("\n")[0]
        raise error(f"{path}: not a readable checkpoint ({first}); remove it to start anew") from why
    return state
