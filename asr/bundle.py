"""A model on disk: one safetensors file that holds a complete recogniser, and runs no code when read.

Its tensors are the weights of features, encoder and language model; its header is JSON with every setting,
the alphabet, and the fingerprint of the training corpus. Identical training gives identical bytes.
"""

import dataclasses
import json
import zlib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from asr import __version__, ensemble
from asr.decoding.config import DecoderConfig
from asr.encoder import Encoder, EncoderConfig
from asr.ensemble import Ensemble
from asr.errors import BundleError
from asr.features import Features, FeaturesConfig
from asr.files import home, whole_file
from asr.lm import NGramModel, RecurrentModel
from asr.text import Alphabet, Style

FILE = "model.safetensors"
"""Name of the file in the folder of a model."""
FORMAT = 3
"""Format of bundles with 8-bit weights; of others 2 for ensembles, else 1, which older versions can read."""
MODELS = {"english": "recipes/mini_librispeech/english.safetensors"}
"""Models that come with the toolkit and have a name."""
_SCALE = ".scale"
"""Ends the name of the scales, one for each row, by which the 8-bit weights beside it are multiplied."""


class Model(Protocol):
    """The parts of a recogniser that a bundle describes."""

    features: Features
    encoder: Encoder
    alphabet: Alphabet
    decoder: DecoderConfig
    style: Style
    trained_on: dict[str, Any]


def describe(model: Model) -> dict[str, Any]:
    """Everything about a recogniser except its tensors, ready for JSON."""
    return {
        "format": 2 if isinstance(model.encoder, Ensemble) else 1,
        "version": __version__,
        "features": dataclasses.asdict(model.features.config),
        "encoder": ensemble.describe(model.encoder),
        "decoder": dataclasses.asdict(model.decoder),
        "style": model.style,
        "alphabet": json.loads(model.alphabet.to_json()),
        "trained_on": model.trained_on,
    }


def parts(header: dict[str, Any]) -> dict[str, Any]:
    """The parts of the recogniser that `describe` described, as arguments of `Recognizer.build`.

    Features and encoder are given as their settings.

    Raises:
        BundleError: a setting that this version does not know.
        KeyError, TypeError, AlphabetError: a damaged description.
    """
    return {
        "alphabet": Alphabet.from_json(json.dumps(header["alphabet"])),
        "features": settings(FeaturesConfig, header["features"]),
        "encoder": [settings(EncoderConfig, one) for one in several]
        if isinstance(several := header["encoder"], list)
        else settings(EncoderConfig, several),
        "decoder": settings(DecoderConfig, header["decoder"]),
        "style": header["style"],
        "trained_on": header["trained_on"],
    }


def pack_lm(lm: NGramModel | None, rescorer: RecurrentModel | None) -> dict[str, Tensor]:
    """The tensors of the language models; empty if there is none."""
    models = {"lm": lm, "rescorer": rescorer}
    arrays = {
        f"{name}.{k}": a for name, model in models.items() if model for k, a in model.to_arrays().items()
    }
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def unpack_lm(tensors: Mapping[str, Tensor]) -> tuple[NGramModel | None, RecurrentModel | None]:
    """The language models among the tensors: n-grams, and a recurrent one that rescores."""
    ngrams, recurrent = (
        {k: v.numpy() for k, v in part(tensors, name).items()} for name in ("lm", "rescorer")
    )
    if not ngrams and not recurrent:
        return None, None
    return (
        NGramModel.from_arrays(ngrams) if ngrams else None,
        RecurrentModel.from_arrays(recurrent) if recurrent else None,
    )


def file_of(path: Path, *, is_written: bool = False) -> Path:
    """The file that a bundle's path, its folder or the file itself, stands for when it is read or written."""
    is_file = path.suffix == ".safetensors" if is_written else not path.is_dir()
    return path if is_file else path / FILE


def write(file: Path, tensors: dict[str, Tensor], header: dict[str, Any], *, small: bool = False) -> None:
    """Write the bundle to disk, whole or not at all; `small`: networks' matrices in 8 bits, n-grams in 16.

    Raises:
        BundleError: the tensors have no data because the model was loaded from ONNX; or the disk is full, or
            the folder cannot be written to.
    """
    if any(t.is_meta for t in tensors.values()):
        raise BundleError(f"{file}: an exported model cannot become a bundle again; keep the bundle")
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    if small:
        tensors, header = _rounded(tensors), header | {"format": FORMAT}
    header = header | {"crc32": _checksum(tensors)}  # not beside it: safetensors shuffles keys
    data = save(tensors, metadata={"asr": json.dumps(header, ensure_ascii=False, sort_keys=True)})
    with whole_file(file, "wb", error=BundleError) as out:
        out.write(data)


def path_of(path: object) -> Path:
    """The path of a model.

    Raises:
        BundleError: that is no path.
    """
    if not isinstance(path, str | PathLike):
        raise BundleError(f"a {type(path).__name__}: expected the folder or the file of a model")
    return Path(path)


def located(path: Path) -> Path:
    """The path; if no model is there, that of one that comes with the toolkit, by its name or place.

    Raises:
        ConfigError: the installation is damaged.
    """
    ours = Path(MODELS.get(str(path), path))
    is_absent = ours.parts[:1] == ("recipes",) and not file_of(path).exists()
    return home() / ours if is_absent else path


def read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a bundle.

    Raises:
        BundleError: no such file, one that is truncated or foreign, or one of a newer format.
    """
    if not file.is_file():
        inner = file.parent / "model"
        usual = f"`asr train` writes one to exp/<recipe>/model, and {' and '.join(MODELS)} comes along"
        hint = f"did you mean {inner}?" if inner.is_dir() else usual
        raise BundleError(f"{file}: no model there; {hint}")
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            if "asr" not in metadata:
                raise BundleError(f"{file}: a safetensors file, but not a model of this toolkit")
            header = read_header(metadata["asr"], file)
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            if header.get("crc32", checksum := _checksum(tensors)) != checksum:
                raise BundleError(f"{file}: its numbers are not those that were written; copy it again")
            return header, _restored(tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{file}: truncated, or not a model of this toolkit ({error})") from error


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of the bytes of all tensors in the order of their names."""
    crc = 0
    for name in sorted(name for name, tensor in tensors.items() if tensor.numel()):
        crc = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes(), crc)
    return f"{crc:08x}"


def _rounded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, but each matrix of encoder and rescorer in 8 bits, with one scale for each row.

    Logarithms of the n-grams are rounded to half precision.
    """
    small = dict(tensors)
    for name, t in tensors.items():
        if name.startswith(("encoder.", "rescorer.")) and t.is_floating_point() and t.dim() > 1 and t.numel():
            scale = t.flatten(1).abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
            small[name] = (t / _by_row(scale, t)).round().to(torch.int8)
            small[name + _SCALE] = scale.float()
        elif name.startswith("lm.") and t.is_floating_point():
            small[name] = t.half()
    return small


def _restored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `_rounded` was given, up to rounding; tensors that it has not rounded as they are."""
    scales = {name: tensors[name + _SCALE] for name, t in tensors.items() if t.dtype == torch.int8}
    if any(s.shape != tensors[name].shape[:1] or s.dtype != torch.float32 for name, s in scales.items()):
        raise ValueError("the scales of 8-bit weights do not fit them")
    used = {name + _SCALE for name in scales}
    return {
        name: t * _by_row(scales[name], t) if name in scales else t
        for name, t in tensors.items()
        if name not in used
    }


def _by_row(scale_N: Tensor, like: Tensor) -> Tensor:
    return scale_N.view(-1, *[1] * (like.dim() - 1))


def read_header(text: str, file: Path) -> dict[str, Any]:
    """The model's description, parsed from the JSON text in the file's metadata.

    Raises:
        BundleError: a newer format.
        ValueError, KeyError, TypeError: damaged text.
    """
    header: dict[str, Any] = json.loads(text)
    if header["format"] > FORMAT:
        raise BundleError(
            f"{file}: written by asr {header['version']} in format {header['format']}; "
            f"this version reads up to {FORMAT}, please upgrade"
        )
    return header


def part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `name.`, with that prefix removed."""
    return {key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(f"{name}.")}


def settings(cls: type, fields: dict[str, Any]) -> Any:
    """A dataclass of settings, rebuilt from its saved fields.

    Raises:
        BundleError: a setting that this version does not know.
    """
    known = {f.name: str(f.type) for f in dataclasses.fields(cls)}
    if strange := sorted(set(fields) - set(known)):
        raise BundleError(f"{cls.__name__} of the model has settings unknown to this version: {strange}")
    return cls(
        **{k: tuple(v) if isinstance(v, list) and "tuple" in known[k] else v for k, v in fields.items()}
    )
