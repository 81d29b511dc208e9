"""`asr export`: a bundle → one file that other programs can run, or a smaller bundle."""

import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from asr.bundle import file_of
from asr.ensemble import Ensemble
from asr.errors import BundleError, ConfigError
from asr.jobs.console import say, warn
from asr.onnx_model import lm_file, write
from asr.recognizer import Recognizer, load

SUFFIXES = {"onnx": ".onnx", "int8": ".safetensors"}
"""Formats, and how the names of their files end."""
MOST_DIFFERENCE = 1e-3
"""Largest accepted difference of log-probabilities between file and bundle. Mostly it is 1e-5; a trained
network may amplify rounding errors of the spectrum, as two ways to compute it in float32 show even without
any export."""


def export(
    model: Recognizer, output: Path, *, form: str | None = None, source: str | Path | None = None
) -> float:
    """Write the file once it is checked; returns the largest difference of its log-probabilities.

    Args:
        model: a loaded bundle, on the CPU.
        output: a `.onnx` or `.safetensors` file; its folder is made if it is missing.
        form: onnx, or int8 for a bundle in which the networks' matrices have 8 bits, and n-grams 16;
            None: which of them the suffix says.
        source: where the bundle is, so that it is not overwritten.

    Raises:
        ConfigError: another form or suffix, a missing package, or a file that cannot be written.
        BundleError: the file does not compute what the bundle computes.
    """
    if form not in (None, *SUFFIXES):
        raise ConfigError(f"format {form!r}: expected {' or '.join(SUFFIXES)}")
    expected = [SUFFIXES[form]] if form else SUFFIXES.values()
    if output.suffix not in expected:
        raise ConfigError(f"{output}: expected a name that ends in {' or '.join(expected)}")
    if model.runtime is not None:
        raise ConfigError("this model was exported already: give the bundle")
    is_small = output.suffix == SUFFIXES["int8"]
    if model.decoder.warps and not is_small:
        warn("the exported model hears a recording once: decoder.warps has no effect in it")
        model = replace(model, decoder=replace(model.decoder, warps=()))
    try:
        for made in [output] if is_small else [output, lm_file(output)]:
            if source is not None and made.exists() and made.samefile(file_of(Path(source))):
                raise ConfigError(f"{made} is the model itself: give the file another name")
        output.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f"{output.stem}.", dir=output.parent) as folder:
            trial = Path(folder) / output.name
            if is_small:
                model.save(trial, small=True)
            else:
                write(model, trial)
            difference = _difference(model, load(trial))
            if not difference < (math.inf if is_small else MOST_DIFFERENCE):
                raise BundleError(f"{output}: log-probabilities differ from the bundle's by {difference:.2g}")
            for made in filter(Path.is_file, (lm_file(trial), trial)):
                made.replace(output.with_name(made.name).resolve())  # a link stays one
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error.strerror}") from error
    size_mb = output.stat().st_size / 1e6
    say(f"{output}: {size_mb:.1f} MB, log-probabilities within {difference:.2g} of the bundle's, on noise")
    if is_small:
        return difference
    if model.decoder.by_member and isinstance(model.encoder, Ensemble) and not model.streams:
        warn("the exported model knows the members' mean only: decoder.by_member has no effect in it")
    if model.lm is not None or model.rescorer is not None:
        say(f"{lm_file(output)}: its language model, to be kept beside it")
    return difference


def _difference(model: Recognizer, other: Recognizer) -> float:
    """The largest difference, over a batch of noise recordings of several lengths and levels."""
    rng = np.random.default_rng(0)
    lengths = (rng.uniform(0.05, 3.0, 4) * model.rate_hz).astype(int)
    noises = [
        (level * rng.standard_normal(n)).astype(np.float32)
        for n, level in zip(lengths, (0.3, 0.1, 0.01, 0.001), strict=True)
    ]
    ours_BTV, lengths_B = model.log_probs(noises)
    theirs_BTV, _ = other.log_probs(noises)
    rows = zip(ours_BTV, theirs_BTV, lengths_B.tolist(), strict=True)
    most = [(ours_TV[:n] - theirs_TV[:n]).abs().max() for ours_TV, theirs_TV, n in rows]
    return float(torch.stack(most).max())  # NaN if one is
