"""A model on disk: one safetensors file that holds all there is to a recogniser, and runs no code when read.

Its tensors are the weights of features, encoder and language model; its header is JSON with every setting,
the alphabet, and the fingerprint of the corpus it was trained on. The same training gives the same bytes.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from asr import __version__
from asr.errors import BundleError

FORMAT = 1


def write(file: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """The bundle on the disk, whole or not at all."""
    facts = {"format": FORMAT, "version": __version__, **header}
    data = save(
        {name: t.detach().cpu().contiguous() for name, t in tensors.items()},
        metadata={"asr": json.dumps(facts, ensure_ascii=False, sort_keys=True)},
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    with partial.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(file)


def read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a bundle.

    Raises:
        BundleError: nothing there, a truncated or foreign file, or one of a newer format.
    """
    if not file.is_file():
        raise BundleError(f"{file}: no model there; `asr train` writes one to exp/<recipe>/model")
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            if "asr" not in metadata:
                raise BundleError(f"{file}: a safetensors file, but not a model of this toolkit")
            header = json.loads(metadata["asr"])
            if header["format"] > FORMAT:
                raise BundleError(
                    f"{file}: written by asr {header['version']} in format {header['format']}; "
                    f"this version reads up to {FORMAT}, please upgrade"
                )
            return header, {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{file}: truncated, or not a model of this toolkit ({error})") from error


def part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors of one room, by their names in it."""
    return {key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(f"{name}.")}


def settings(cls: type, fields: dict[str, Any]) -> Any:
    """A dataclass of settings as it was saved.

    Raises:
        BundleError: a setting that this version does not know.
    """
    known = {f.name: str(f.type) for f in dataclasses.fields(cls)}
    if strange := sorted(set(fields) - set(known)):
        raise BundleError(f"{cls.__name__} of the model has settings unknown to this version: {strange}")
    return cls(
        **{k: tuple(v) if isinstance(v, list) and "tuple" in known[k] else v for k, v in fields.items()}
    )
