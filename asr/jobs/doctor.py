"""`asr doctor`: problems of this installation; `asr doctor EXPERIMENT`: problems of a training run."""

import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Literal

from asr import __version__
from asr.errors import TrainingError, how_to_install
from asr.jobs.console import counted, output

FREE_GB = 6.0
"""Disk space of an installation with a small corpus and its experiment."""
NOT_FOR_USERS = ("dev", "bench", "kenlm")
"""Extras that are not looked for."""

State = Literal["good", "missing", "broken"]


@dataclass(frozen=True)
class Check:
    """One finding: something essential is `broken`, or something optional is `missing`."""

    name: str
    state: State
    detail: str


def examine_installation() -> list[Check]:
    """All findings about this machine and this installation, in a fixed order."""
    checks: tuple[tuple[str, Callable[[], Iterator[Check]]], ...] = (
        ("python", _python),
        ("torch and torchaudio", _torch),
        ("numba", _numba),
        ("audio", _codecs),
        ("packages", _packages),
        ("extras", _extras),
        ("disk", _disk),
    )
    found = []
    for name, check in checks:
        try:
            found += list(check())
        except Exception as error:  # a broken package may raise anything when imported
            first = str(error).partition("\n")[0]
            found.append(Check(name, "broken", f"{type(error).__name__}: {first}; install asr again"))
    return found


def show_installation() -> bool:
    """Print the findings; True if everything essential works."""
    checks = examine_installation()
    colours = {"good": "green", "missing": "yellow", "broken": "red"}
    for check in checks:
        colour = colours[check.state]
        output.print(f"[{colour}]{check.state:8}[/] {check.name:22} ", end="")
        output.print(check.detail, markup=False)
    return not any(check.state == "broken" for check in checks)


def show_experiment(folder: Path) -> None:
    """Print a diagnosis of an experiment from its history.

    Raises:
        TrainingError: there is no history, or it is damaged.
    """
    # Not at the top: they need torch, which may be what is broken.
    from asr.training.doctor import PATIENCE, best_epoch, diagnose
    from asr.training.history import FILE, read

    if not folder.is_dir():
        raise TrainingError(f"{folder}: no such folder; expected that of an experiment, such as exp/digits")
    history = read(folder / FILE)
    try:
        epochs = [line for line in history if line["kind"] == "epoch"]
        if not epochs:
            raise TrainingError(
                f"{folder / FILE}: no epoch has ended there yet; expected the folder of an experiment, such "
                "as exp/digits"
            )
        best, last = epochs[best_epoch(epochs)], epochs[-1]
        summary = (
            f"{folder}: {last['epoch']} of {last['epochs']} epochs, {last['updates']} updates; best epoch "
            f"{best['epoch']} with a development WER of {best['wer']:.2%}; now loss {last['loss']:.3f}, "
            f"development loss {last['dev_loss']:.3f}"
        )
        found = diagnose(history)
    except (KeyError, TypeError, ValueError) as error:
        what = f"a line without {error}" if isinstance(error, KeyError) else error
        raise TrainingError(f"{folder / FILE} is damaged: {what}") from error
    output.print(summary, markup=False)
    for diagnosis in found:
        output.print(f"[yellow]{diagnosis.name}[/]: ", end="")
        output.print(diagnosis.problem, markup=False)
        output.print(f"    try: {diagnosis.advice}", markup=False)
    if not found:
        too_few = last["epoch"] < PATIENCE
        output.print("nothing wrong can be seen" + f", but most signs need {PATIENCE} epochs" * too_few)


def _python() -> Iterator[Check]:
    supported = sys.version_info >= (3, 11)
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}; asr {__version__}"
    yield Check("python", "good" if supported else "broken", detail)


def _torch() -> Iterator[Check]:
    import torch

    try:
        torchaudio = import_module("torchaudio")
        pair = f"torch {torch.__version__} and torchaudio {torchaudio.__version__}"
        same = torch.__version__.split(".")[:2] == torchaudio.__version__.split(".")[:2]
        hint = "" if same else " are no pair: install the same minor version of both"
        yield Check("torch and torchaudio", "good" if same else "broken", pair + hint)
    except (ImportError, OSError, RuntimeError) as error:
        first = str(error).partition("\n")[0]
        detail = f"torch {torch.__version__}, but torchaudio does not load beside it ({first}): "
        yield Check("torch and torchaudio", "broken", detail + "install the pair that pyproject.toml names")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(i)
            yield Check("gpu", "good", f"{facts.name}, {facts.total_memory / 1e9:.0f} GB")
    else:
        threads = f"{counted(torch.get_num_threads(), 'thread')}, {_products()}"
        yield Check("gpu", "missing", f"none that torch can use; training runs on the processor, {threads}")


def _products() -> str:
    """In what precision training on the processor multiplies, and by what."""
    import torch

    from asr.machine import devices, tiles, vectors

    if devices.autocast_dtype("auto", torch.device("cpu")) is None:
        return "in float32, as it has no bfloat16 products"
    unit = "its matrix unit, AMX" if tiles.AVAILABLE else "AVX-512" if vectors.AVAILABLE else "torch alone"
    return f"in bfloat16 by {unit}"


def _numba() -> Iterator[Check]:
    import numba

    compiled = numba.njit(lambda x: x + 1)(1) == 2
    yield Check("numba", "good" if compiled else "broken", numba.__version__)


def _codecs() -> Iterator[Check]:
    import soundfile

    formats, kinds = soundfile.available_formats(), soundfile.available_subtypes()
    known = {"wav": "WAV" in formats, "flac": "FLAC" in formats, "sph": "NIST" in formats}
    known |= {"mp3": "MP3" in formats, "ogg": "OGG" in formats, "opus": "OPUS" in kinds}
    lacking = [name for name, there in known.items() if not there]
    detail = f"libsndfile {soundfile.__libsndfile_version__} reads {', '.join(k for k in known if known[k])}"
    if not lacking:
        yield Check("audio", "good", detail)
    else:
        state: State = "broken" if {"wav", "flac"} & set(lacking) else "missing"
        yield Check("audio", state, f"{detail}, not {', '.join(lacking)}: install a newer soundfile")


def _packages() -> Iterator[Check]:
    for name in _required():
        if not _exists(name):
            yield Check("packages", "broken", f"{name} is not installed: install asr again")
    if not _exists("pyctcdecode"):
        yield Check("pyctcdecode", "missing", "the second beam decoder; the first does without")


def _extras() -> Iterator[Check]:
    for extra in metadata.metadata("asr").get_all("Provides-Extra") or []:
        if extra in NOT_FOR_USERS:
            continue
        lacking = [name for name in _required(extra) if not _exists(name)]
        detail = f"lacks {', '.join(lacking)}: {how_to_install(extra)}" if lacking else "installed"
        yield Check(f"extra {extra}", "missing" if lacking else "good", detail)


def _required(extra: str | None = None) -> list[str]:
    """The packages of an extra; without one those that every installation has."""
    lines = [line.replace('"', "'") for line in metadata.requires("asr") or []]
    wanted = [line for line in lines if (f"extra == '{extra}'" in line if extra else ";" not in line)]
    return [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in wanted]


def _exists(package: str) -> bool:
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


def _disk() -> Iterator[Check]:
    free_gb = shutil.disk_usage(Path.cwd()).free / 1e9
    enough = free_gb >= FREE_GB
    hint = "" if enough else f"; a small corpus and its experiment take up to {FREE_GB:.0f} GB"
    yield Check("disk", "good" if enough else "missing", f"{free_gb:.0f} GB free in {Path.cwd()}{hint}")
